"""The driver: effects are carried out in order, everybody hears an answer, and a defect stops the node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import task
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial import unittest

from tests.core_samples import config, entry, flight, standing, stored
from tests.ledger import Ledger, item
from txvbcast import absences
from txvbcast.absences import Change
from txvbcast.applications import Applications
from txvbcast.config import LimitsConfig
from txvbcast.core import effects, inputs
from txvbcast.core.effects import Effect, Share
from txvbcast.core.inputs import Input
from txvbcast.driver import Driver
from txvbcast.errors import Aborted, Committed, NoQuorum, OutcomeUnknown, Overloaded, Unsafe
from txvbcast.wire.items import Request, Transaction, pack
from txvbcast.wire.messages import Entry, FlightId, Message, Mode, Read, Refusal, Standing

STOPPED = "this node has stopped"
Does = list[Effect] | Callable[[Any], list[Effect]] | Exception


class Core:
    """In place of a replica: does as it is told, and remembers what it was asked.

    :ivar does: what an input of a class leads to, nothing where it is not named.
    """

    def __init__(self) -> None:
        self.heard: list[Input] = []
        self.at_s: list[float] = []
        self.does: dict[type, Does] = {}

    def step(self, now_s: float, event: Input) -> list[Effect]:
        """As the replica's."""
        self.heard.append(event)
        self.at_s.append(now_s)
        does = self.does.get(type(event), [])
        if isinstance(does, Exception):
            raise does
        return does(event) if callable(does) else does


class Surroundings:
    """Store and network of a node, in one: what they were asked to do, in order.

    :ivar at_once: the store answers before it returns.
    """

    def __init__(self, clock: task.Clock) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.at_once = False
        self.entries: dict[int, Entry] = {}
        self.remembered: list[inputs.PastAbsence] = []
        self._clock = clock

    def persist(self, write: effects.Persist, done: Callable[[int], None]) -> None:
        """Remember the entries."""
        self.done.append(("persist", write.token))
        self.entries |= {each.seq: each for each in write.entries}
        if self.at_once:
            done(write.token)
        else:
            self._clock.callLater(0, done, write.token)

    def read(self, first: int, last: int, bytes_max: int, done: Callable[[tuple[Entry, ...]], None]) -> None:
        """Give them back."""
        self.done.append(("read", first, last, bytes_max))
        done(tuple(self.entries[seq] for seq in range(first, last + 1)))

    def remember(self, record: inputs.PastAbsence) -> None:
        """Keep the record of an absence."""
        self.remembered.append(record)

    def send(self, to: int, message: Message) -> None:
        """Over a link."""
        self.done.append(("send", to, message))

    def send_datagram(self, to: int, message: Message) -> None:
        """As a datagram."""
        self.done.append(("datagram", to, message))

    def drop_datagrams(self) -> None:
        """Those that wait."""
        self.done.append(("drop",))

    def reset_links(self, reason: str) -> None:
        """All of them."""
        self.done.append(("reset", reason))


class DriverCase(unittest.TestCase):
    """Node 1 in its third life, at second 100 of its clock and 5000 of the wall's."""

    nodes = 3

    def setUp(self) -> None:
        self.clock = task.Clock()
        self.clock.advance(100.0)
        self.around = Surroundings(self.clock)
        self.ledger = Ledger()
        self.halts: list[BaseException] = []
        self.driver = Driver(
            config(nodes=self.nodes, limits=LimitsConfig(payload=8)),
            stored(incarnation=3),
            self.around,
            self.around,
            Applications([self.ledger]),
            self.clock,
            lambda: 5000.0,
            self.halts.append,
            lambda: {"name": "one", "vms": ["web"]},
        )


class ScriptedCase(DriverCase):
    """With a core that does as it is told."""

    def setUp(self) -> None:
        super().setUp()
        self.core = Core()
        self.driver.replica = self.core  # type: ignore[assignment]

    def happens(self, *wanted: Effect) -> None:
        """The core wants this, without any reason."""
        self.core.does[inputs.PeerDown] = list(wanted)
        self.driver.peer_down(2, "for the test")
        self.core.heard.remove(inputs.PeerDown(2, "for the test"))

    def heard(self) -> list[Input]:
        """What the core was asked since the last look."""
        heard, self.core.heard = self.core.heard, []
        return heard

    def assert_waits(self, *deferreds: Deferred[Any]) -> None:
        """Nobody has an answer."""
        for deferred in deferreds:
            self.assertNoResult(deferred)

    def assert_fails(self, deferred: Deferred[Any], kind: type[Exception], reason: str) -> None:
        """With that class exactly, and with that reason."""
        error = self.failureResultOf(deferred).value
        self.assertIs(type(error), kind)
        self.assertEqual(str(error), reason)


class Inputs(ScriptedCase):
    """What happens around the node reaches the core."""

    def test_start(self) -> None:
        """The stored log comes in pieces, and then nothing more."""
        self.driver.start([(entry(1), entry(2)), (entry(3),)])
        self.assertEqual(
            self.heard(),
            [
                inputs.Restored((entry(1), entry(2)), False),
                inputs.Restored((entry(3),), False),
                inputs.Restored((), True),
            ],
        )

    def test_network(self) -> None:
        """Messages and links, at the time of the clock."""
        self.driver.received(2, Read(1))
        self.clock.advance(2)
        self.driver.peer_up(2, 7, "disk", ("web", "db"))
        self.driver.peer_down(2, "gone")
        self.assertEqual(
            self.heard(),
            [inputs.Received(2, Read(1)), inputs.PeerUp(2, 7, "disk", ("web", "db")), inputs.PeerDown(2, "gone")],
        )
        self.assertEqual(self.core.at_s, [100.0, 102.0, 102.0])

    def test_one_input_after_the_other(self) -> None:
        """What an effect leads to waits until the whole step is carried out, however soon it is known."""
        self.around.at_once = True
        self.around.entries[4] = entry(4)
        send = effects.Send(2, Read(1))
        self.core.does[inputs.Persisted] = [effects.DropDatagrams()]
        self.happens(effects.Persist(1), effects.ReadLog(9, 4, 4, 100), effects.Persist(2), send)
        self.assertEqual(
            self.around.done,
            [("persist", 1), ("read", 4, 4, 100), ("persist", 2), ("send", 2, Read(1)), ("drop",), ("drop",)],
        )

    def test_order_of_inputs(self) -> None:
        """They are taken in the order in which they happened."""
        self.around.at_once = True
        self.around.entries[4] = entry(4)
        heard: list[Input] = self.core.heard
        self.core.does[inputs.PeerDown] = [effects.Persist(1), effects.ReadLog(9, 4, 4, 100), effects.Persist(2)]
        self.driver.peer_down(2, "gone")
        self.assertEqual(heard[1:], [inputs.Persisted(1), inputs.LogRead(9, (entry(4),)), inputs.Persisted(2)])


class Carrying(ScriptedCase):
    """Effects that reach the surroundings."""

    def test_network(self) -> None:
        """Sends, and what a pause makes necessary."""
        self.happens(
            effects.Send(2, Read(1)),
            effects.SendDatagram(3, Read(2)),
            effects.DropDatagrams(),
            effects.ResetLinks("a long pause"),
        )
        self.assertEqual(
            self.around.done, [("send", 2, Read(1)), ("datagram", 3, Read(2)), ("drop",), ("reset", "a long pause")]
        )

    def test_persist(self) -> None:
        """Answered with its token once it is durable."""
        self.happens(effects.Persist(1), effects.Persist(2))
        self.assertEqual(self.heard(), [])
        self.clock.advance(0)
        self.assertEqual(self.heard(), [inputs.Persisted(1), inputs.Persisted(2)])

    def test_timers(self) -> None:
        """By key; a new one takes the place of the old one."""
        self.happens(effects.SetTimer("a", 1.0), effects.SetTimer("b", 2.0))
        self.happens(effects.SetTimer("a", 4.0))
        self.clock.advance(2.0)
        self.assertEqual(self.heard(), [inputs.TimerFired("b")])
        self.clock.advance(2.0)
        self.assertEqual(self.heard(), [inputs.TimerFired("a")])
        self.happens(effects.SetTimer("a", 1.0))
        self.clock.advance(1.0)
        self.assertEqual(self.heard(), [inputs.TimerFired("a")])

    def test_votes(self) -> None:
        """The managers are asked, and told to let go."""
        asked = flight(5, items=(item(b"a"), item(b"b")), mode=Mode.TWO_PHASE)
        late = Deferred[bool]()
        self.ledger.answers[b"a"] = lambda: late
        self.happens(effects.Prepare(asked))
        self.assertEqual(self.heard(), [])
        late.callback(False)
        refused = (Refusal(0, "refused by the resource manager"),)
        self.assertEqual(self.heard(), [inputs.Prepared(asked.id, refused)])
        self.happens(effects.Release(asked.id, "withdrawn"))
        self.assertEqual(self.ledger.told[-1], ("abort", b"b"))

    def test_notify(self) -> None:
        """An event with the time of the wall clock and the facts of its kind."""
        self.happens(effects.Notify("node_failed", 3, "it is silent", {"standing": "failed"}))
        (event,) = self.driver.events.since(0)
        self.assertEqual(
            event,
            {
                "id": 1,
                "kind": "node_failed",
                "node_id": 3,
                "reason": "it is silent",
                "time_s": 5000.0,
                "standing": "failed",
            },
        )


class Submitting(ScriptedCase):
    """Clients and their answers."""

    def submit(self, payload: bytes = b"a") -> tuple[int, Deferred[Committed]]:
        """A transaction; its ticket and its answer to come."""
        deferred = self.driver.submit("ledger", payload)
        (submitted,) = self.heard()
        assert isinstance(submitted, inputs.Submitted)
        return submitted.ticket, deferred

    def perform(self, number: int, seq: int, *payloads: bytes, incarnation: int = 3, dead: bool = False) -> FlightId:
        """An own flight is applied."""
        items = tuple(map(item, payloads))
        own = flight(number, origin=1, items=items, incarnation=incarnation)
        self.happens(effects.Apply(entry(seq, own), dead))
        return own.id

    def test_submitted(self) -> None:
        """As one item, with a ticket of its own."""
        self.driver.submit("ledger", b"a")
        self.driver.submit("ledger", b"b", Mode.THREE_PHASE, 2.5, "r1")
        self.assertEqual(
            self.heard(),
            [
                inputs.Submitted(1, Mode.BROADCAST, (item(b"a"),), 5.0),
                inputs.Submitted(2, Mode.THREE_PHASE, (pack(Transaction("ledger", b"b", Request("r1"))),), 2.5),
            ],
        )

    def assert_refused(self, text: str, *args: Any, **more: Any) -> None:
        """With that text, before anything happens."""
        with self.assertRaises(ValueError) as caught:
            self.driver.submit(*args, **more)
        self.assertIn(text, str(caught.exception))
        self.assertEqual((self.heard(), self.driver._submissions), ([], {}), "nobody is left waiting")

    def test_unknown_manager(self) -> None:
        """The error names those that there are."""
        self.assert_refused("no resource manager is named 'stock'; there are: ledger", "stock", b"a")

    def test_payload_too_large(self) -> None:
        """The limit itself may be used."""
        self.submit(b"12345678")[1].addErrback(lambda failure: None).cancel()
        self.assert_refused("a payload of 9 bytes is above limits.payload, 8 bytes", "ledger", b"123456789")

    def test_timeout_that_is_none(self) -> None:
        """It would never be over, or was over before."""
        for timeout_s in (0, -1.0, float("nan")):
            self.assert_refused(f"the timeout must be positive, got {timeout_s}", "ledger", b"a", timeout_s=timeout_s)

    def test_request_id_that_is_no_text(self) -> None:
        """Half a surrogate pair cannot travel."""
        self.assert_refused("surrogates not allowed", "ledger", b"a", request_id="\ud800")

    def test_committed(self) -> None:
        """Each client hears its own result, in the order of the entry's items."""
        (first, one), (second, other) = self.submit(b"a"), self.submit(b"b")
        name = self.perform(1, 12, b"b", b"a")
        self.assert_waits(one, other)
        self.happens(effects.ReplyCommitted((Share(second, 0, 1), Share(first, 0, 1)), (0, 1), name, 12))
        self.assertEqual(self.successResultOf(one), Committed(12, 1, b"did a"))
        self.assertEqual(self.successResultOf(other), Committed(12, 0, b"did b"))

    def test_committed_for_some(self) -> None:
        """Who has an answer already, or went away, leaves the others their places."""
        (gone, cancelled), (last, waiting) = self.submit(b"b"), self.submit(b"c")
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        name = self.perform(1, 12, b"a", b"b", b"c")
        self.happens(effects.ReplyCommitted((Share(gone, 0, 1), Share(last, 0, 1)), (1, 2), name, 12))
        self.assertEqual(self.successResultOf(waiting), Committed(12, 2, b"did c"))

    def test_results_are_kept_for_own_flights_only(self) -> None:
        """Until somebody hears them, or nobody will."""
        mine = self.perform(1, 12, b"a")
        forgotten = self.perform(2, 13, b"a")
        self.perform(3, 14, b"a", dead=True)
        self.perform(4, 15, b"a", incarnation=2)
        self.happens(effects.Apply(entry(16, flight(1, origin=2, items=(item(b"a"),), incarnation=3))))
        self.happens(effects.Apply(entry(17, standing(2, Standing.FAILED))))
        self.assertEqual(list(self.driver._performed), [mine, forgotten])
        self.happens(effects.ForgetResults(forgotten))
        self.happens(effects.ForgetResults(FlightId(1, 3, 99)))
        self.happens(effects.ReplyCommitted((), (), mine, 12))
        self.assertEqual(self.driver._performed, {})

    def test_other_answers(self) -> None:
        """Each kind with its reason and whom it speaks of."""
        answers: list[tuple[Callable[[tuple[Share, ...]], Effect], type[Exception], str]] = [
            (lambda shares: effects.ReplyAborted(shares, "no stock", (2, 3)), Aborted, "no stock (node 2, 3)"),
            (lambda shares: effects.ReplyAborted(shares, "alone", no_quorum=True), NoQuorum, "alone"),
            (lambda shares: effects.ReplyUnknown(shares, "late", (2,)), OutcomeUnknown, "late (node 2)"),
            (lambda shares: effects.ReplyOverloaded(shares, "full"), Overloaded, "full"),
        ]
        for make, kind, reason in answers:
            (first, one), (second, other) = self.submit(), self.submit()
            self.happens(make((Share(first, 0, 1), Share(second, 0, 1))))
            self.assert_fails(one, kind, reason)
            self.assert_fails(other, kind, reason)
            self.happens(make((Share(first, 0, 1), Share(second, 0, 1))))  # nobody is there any more

    def test_outcome(self) -> None:
        """Of a request, as far as the log is applied."""
        self.assertIsNone(self.driver.outcome("r1"))
        own = flight(1, items=(item(b"a", "r1"),), incarnation=3)
        self.happens(effects.Apply(entry(12, own)))
        self.assertEqual(self.driver.outcome("r1"), Committed(12, 0, b"did a"))


class Reading(ScriptedCase):
    """Linearizable reads."""

    def test_ready(self) -> None:
        """At the seq that this node has applied."""
        deferred = self.driver.read_barrier(2.0)
        self.assertEqual(self.heard(), [inputs.ReadRequested(1, 2.0)])
        self.assert_waits(deferred)
        self.happens(effects.ReadReady(1, 12))
        self.assertEqual(self.successResultOf(deferred), 12)

    def test_failed(self) -> None:
        """Nobody can say what is committed."""
        deferred = self.driver.read_barrier()
        self.happens(effects.ReadFailed(1, "no master answered in time"))
        self.assert_fails(deferred, NoQuorum, "no master answered in time")

    def test_cancelled(self) -> None:
        """The answer comes to nobody."""
        for answer in (effects.ReadReady(1, 12), effects.ReadFailed(2, "late")):
            deferred = self.driver.read_barrier()
            deferred.cancel()
            self.failureResultOf(deferred, CancelledError)
            self.happens(answer)

    def test_timeout_that_is_none(self) -> None:
        """As for a transaction."""
        with self.assertRaises(ValueError):
            self.driver.read_barrier(0)
        self.assertEqual(self.heard(), [])


class ChangesCase(ScriptedCase):
    """Announcing absences; the core numbers them from 1 and expects 10 s."""

    def setUp(self) -> None:
        super().setUp()
        self.numbers = 0
        self.core.does[inputs.ChangeBegan] = self.open

    def open(self, began: inputs.ChangeBegan) -> list[Effect]:
        """As the core does."""
        self.numbers += 1
        length_s = began.expected_s or 10.0
        return [effects.ChangeOpened(began.ticket, self.numbers, 1, began.kind, began.source, length_s, "fixed")]

    def begin(self, **more: Any) -> Deferred[Change]:
        """A change of kind freeze."""
        return self.driver.absences.begin("freeze", **more)


class Changing(ChangesCase):
    """begin_change and what follows."""

    def test_asked(self) -> None:
        """The core hears all of it."""
        self.driver.absences.begin("freeze")
        self.driver.absences.begin("vcpu", 3.0, {"vcpus": 2}, holdable=False, source="qmp")
        self.assertEqual(
            self.heard(),
            [
                inputs.ChangeBegan(1, "freeze", None, {}, True, "operator"),
                inputs.ChangeBegan(2, "vcpu", 3.0, {"vcpus": 2}, False, "qmp"),
            ],
        )

    def test_refused(self) -> None:
        """What cannot be meant."""
        for text, arguments in (
            ("'nap' is no kind of change; there are: migrate_out, ", {"kind": "nap"}),
            ("the expected time must be positive, got 0", {"kind": "freeze", "expected_s": 0}),
            ("the expected time must be positive, got nan", {"kind": "freeze", "expected_s": float("nan")}),
            ("the time to wait must be positive, got -1", {"kind": "freeze", "wait_s": -1}),
        ):
            with self.assertRaises(ValueError) as caught:
                self.driver.absences.begin(**arguments)
            self.assertIn(text, str(caught.exception))
        self.assertEqual((self.heard(), self.driver.absences.documents()), ([], []))

    def test_confirmed(self) -> None:
        """As soon as the cluster has said so, and no timer is left."""
        deferred = self.begin()
        self.assert_waits(deferred)
        self.happens(effects.ChangeAnswered(1, True))
        self.assertEqual(self.successResultOf(deferred), Change(1, 10.0, True, ""))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unsafe(self) -> None:
        """Or that it cannot be afforded."""
        deferred = self.begin()
        self.happens(effects.ChangeAnswered(1, False, "too few"))
        self.assertEqual(self.successResultOf(deferred), Change(1, 10.0, False, "too few"))

    def test_no_answer(self) -> None:
        """After the time to wait, and not before; what is said later is shown all the same."""
        deferred = self.begin(wait_s=2.0)
        self.clock.advance(1.99)
        self.assert_waits(deferred)
        self.clock.advance(0.02)
        self.assertEqual(self.successResultOf(deferred), Change(1, 10.0, False, ""))
        self.assertFalse(self.driver.absences.documents()[0]["confirmed"])
        self.happens(effects.ChangeAnswered(1, True))
        self.assertTrue(self.driver.absences.documents()[0]["confirmed"])

    def test_several(self) -> None:
        """Each asker hears about its own change."""
        first, second = self.begin(), self.begin()
        self.happens(effects.ChangeAnswered(2, True))
        self.assert_waits(first)
        self.assertEqual(self.successResultOf(second).change_id, 2)
        self.happens(effects.ChangeAnswered(1, False, "too few"))
        self.assertEqual(self.successResultOf(first).unsafe, "too few")

    def test_document(self) -> None:
        """What people see, while it is under way and afterwards."""
        self.begin(source="qmp", expected_s=2.5)
        self.clock.advance(1.5)
        document = {
            "change_id": 1,
            "member": 1,
            "kind": "freeze",
            "source": "qmp",
            "announced_ms": 2500,
            "expected_ms": 2500,
            "basis": "fixed",
            "began": 5000.0,
            "elapsed_ms": 1500,
            "confirmed": False,
            "unsafe": "",
            "outcome": None,
            "actual_ms": None,
        }
        self.assertEqual(self.driver.absences.documents(), [document])
        self.happens(effects.ChangeClosed(1, "done"))
        self.clock.advance(1.0)
        self.assertEqual(self.driver.absences.documents(), [document | {"outcome": "done", "actual_ms": 1500}])

    def test_update(self) -> None:
        """The new estimate counts from now; the old one's past is added to it."""
        self.begin()
        self.clock.advance(4.0)
        self.heard()
        self.driver.absences.update(1, 3.0)
        self.assertEqual(self.heard(), [inputs.ChangeUpdated(1, 3.0, {})])
        self.happens(effects.ChangeEstimated(1, 3.0, "told"))
        self.assertEqual(self.driver.absences.documents()[0]["expected_ms"], 7000)

    def test_update_refused(self) -> None:
        """There is no such change, or no such time."""
        self.begin()
        self.heard()
        for expected_s in (0, -1.0, float("nan")):
            with self.assertRaises(ValueError):
                self.driver.absences.update(1, expected_s)
        with self.assertRaises(KeyError):
            self.driver.absences.update(2, 3.0)
        self.assertEqual((self.heard(), self.driver.absences.documents()[0]["expected_ms"]), ([], 10_000))

    def test_end(self) -> None:
        """Once; what has ended is under way no more."""
        self.begin()
        self.heard()
        self.driver.absences.end(1, "cancelled")
        self.assertEqual(self.heard(), [inputs.ChangeEnded(1, "cancelled")])
        self.happens(effects.ChangeClosed(1, "cancelled"))
        for refused in (
            lambda: self.driver.absences.end(1),
            lambda: self.driver.absences.update(1, 3.0),
            lambda: self.driver.absences.end(7),
        ):
            with self.assertRaises(KeyError):
                refused()
        self.assertEqual(self.heard(), [])

    def test_ended_before_the_answer(self) -> None:
        """The asker hears that with what the core says about it."""
        deferred = self.begin()
        self.happens(effects.ChangeAnswered(1, False, "it ended"), effects.ChangeClosed(1, "done"))
        self.assertEqual(self.successResultOf(deferred).unsafe, "it ended")

    def test_history(self) -> None:
        """What has ended is kept in the store, compared with what was announced, and counted."""
        self.assertEqual(self.driver.history(), {"absences": [], "predictions": [], "margin": 1.5})
        self.begin(source="qmp", expected_s=2.0)
        self.happens(effects.ChangeAnswered(1, True))
        self.clock.advance(1.5)
        self.happens(effects.ChangeEstimated(1, 1.5, "formula"))
        self.assertEqual(self.driver.history()["absences"], [])
        self.clock.advance(1.0)
        self.happens(effects.ChangeClosed(1, "done"))
        (record,) = self.around.remembered
        self.assertEqual(
            record,
            inputs.PastAbsence(
                member=1,
                kind="freeze",
                source="qmp",
                began_unix_s=5000.0,
                announced_s=2.0,
                expected_s=3.0,
                actual_s=2.5,
                basis="formula",
                confirmed=True,
                unsafe="",
                outcome="done",
            ),
        )
        history = self.driver.history()
        self.assertEqual(history["absences"], [absences.past_document(record)])
        (prediction,) = history["predictions"]
        self.assertEqual((prediction["ratio"], prediction["within_announced"], prediction["count"]), (1.25, 0.0, 1))
        (counter,) = self.driver._counters.documents()
        self.assertEqual((counter["ended"], counter["confirmed"], counter["actual_s_total"]), (1, 1, 2.5))

    def test_records_are_bounded(self) -> None:
        """The latest ones."""
        self.patch(absences, "ABSENCES_KEPT", 2)
        self.setUp()
        for _ in range(3):
            self.begin()
        self.assertEqual([document["change_id"] for document in self.driver.absences.documents()], [2, 3])


class Moving(ScriptedCase):
    """An operator's wishes."""

    def test_move(self) -> None:
        """Done, refused, or nobody there to do it."""
        first, second, third = (self.driver.move_master(to) for to in (2, 3, 2))
        self.assertEqual(self.heard()[0], inputs.MasterMoveRequested(1, 2))
        self.happens(
            effects.MoveAnswered(1),
            effects.MoveAnswered(2, "node 3 is catching up"),
            effects.MoveAnswered(3, "no master", no_quorum=True),
        )
        self.assertIsNone(self.successResultOf(first))
        self.assert_fails(second, Unsafe, "node 3 is catching up")
        self.assert_fails(third, NoQuorum, "no master")

    def test_stranger(self) -> None:
        """The error names the members."""
        with self.assertRaises(ValueError) as caught:
            self.driver.move_master(4)
        self.assertEqual(str(caught.exception), "node 4 is no member; the members are: 1, 2, 3")

    def test_stop(self) -> None:
        """As soon as nothing keeps the node."""
        deferred = self.driver.stop()
        self.assertEqual(self.heard(), [inputs.StopRequested()])
        self.assert_waits(deferred)
        self.happens(effects.StopAllowed())
        self.assertIsNone(self.successResultOf(deferred))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.happens(effects.StopAllowed())  # said twice, heard once

    def test_stop_in_any_case(self) -> None:
        """A successor that does not come is waited for two heartbeat timeouts."""
        deferred = self.driver.stop()
        patience_s = 2 * self.driver.config.heartbeat.timeout_s
        self.clock.advance(patience_s - 0.01)
        self.assert_waits(deferred)
        self.clock.advance(0.02)
        self.assertIsNone(self.successResultOf(deferred))


class Halting(ChangesCase):
    """A defect in the core, or in a manager's commit."""

    def setUp(self) -> None:
        super().setUp()
        self.error = ZeroDivisionError("a defect")

    def break_core(self) -> None:
        """The core cannot go on."""
        self.core.does[inputs.Received] = self.error
        self.driver.received(2, Read(1))

    def assert_loud(self) -> None:
        """It is logged, and whoever started the node hears of it once."""
        self.assertEqual(self.halts, [self.error])
        (failure,) = self.flushLoggedErrors(ZeroDivisionError)
        self.assertIs(failure.value, self.error)

    def test_everybody_hears(self) -> None:
        """Clients, that their outcome is unknown; readers and operators, that nothing can be done."""
        client, reader, mover = (
            self.driver.submit("ledger", b"a"),
            self.driver.read_barrier(),
            self.driver.move_master(2),
        )
        changer, stopper = self.begin(), self.driver.stop()
        self.break_core()
        self.assert_loud()
        self.assert_fails(client, OutcomeUnknown, STOPPED)
        self.assert_fails(reader, NoQuorum, STOPPED)
        self.assert_fails(mover, NoQuorum, STOPPED)
        self.assertEqual(self.successResultOf(changer), Change(1, 10.0, False, ""))
        self.assertIsNone(self.successResultOf(stopper))

    def test_nothing_runs_after(self) -> None:
        """No timer, no input, no effect."""
        self.happens(effects.SetTimer("a", 1.0), effects.Persist(1))
        self.begin()
        self.break_core()
        self.assert_loud()
        self.heard()
        self.around.done.clear()
        self.assertNotIn(101.0, [call.getTime() for call in self.clock.getDelayedCalls()])
        self.clock.advance(100.0)
        self.driver.received(2, Read(1))
        self.driver.peer_up(2, 1, "disk")
        self.driver.peer_down(2, "gone")
        self.driver.absences.end(1)
        self.assertEqual((self.heard(), self.around.done, self.clock.getDelayedCalls()), ([], [], []))
        self.assertEqual(len(self.halts), 1)

    def test_whoever_comes_after(self) -> None:
        """Is told at once."""
        self.break_core()
        self.assert_loud()
        self.heard()
        for deferred in (
            self.driver.submit("ledger", b"a"),
            self.driver.read_barrier(),
            self.begin(),
            self.driver.move_master(2),
        ):
            self.assert_fails(deferred, NoQuorum, STOPPED)
        self.assertIsNone(self.successResultOf(self.driver.stop()))
        self.assertEqual((self.heard(), self.clock.getDelayedCalls()), ([], []))

    def test_inputs_that_wait_are_dropped(self) -> None:
        """What came in while the step was under way is not taken any more."""
        self.around.at_once = True
        self.core.does[inputs.Persisted] = self.error
        self.happens(effects.Persist(1), effects.Persist(2))
        self.assert_loud()
        self.assertEqual(self.heard(), [inputs.Persisted(1)])

    def test_defect_while_a_change_is_opened(self) -> None:
        """Its asker has no number yet, and hears all the same."""
        self.core.does[inputs.ChangeBegan] = self.error
        self.assert_fails(self.begin(), NoQuorum, STOPPED)
        self.assert_loud()

    def test_manager_that_cannot_commit(self) -> None:
        """Its state is not the others' any more, so the rest of the step is not carried out."""

        def commit(tx: object) -> bytes:
            raise self.error

        self.ledger.commit = commit  # type: ignore[method-assign]
        client = self.driver.submit("ledger", b"a")
        self.happens(effects.Apply(entry(1, flight(1, items=(item(b"a"),)))), effects.Send(2, Read(1)))
        self.assert_loud()
        self.assert_fails(client, OutcomeUnknown, STOPPED)
        self.assertEqual(self.around.done, [])

    def test_halt_in_the_middle_of_a_step(self) -> None:
        """A client that stops the node on its answer: nothing of that step follows, nor what it has led to."""
        self.around.at_once = True
        client = self.driver.submit("ledger", b"a")
        client.addErrback(lambda failure: self.driver.halt())
        self.heard()
        self.happens(
            effects.Persist(1),
            effects.ReplyAborted((Share(1, 0, 1),), "no stock"),
            effects.Send(2, Read(1)),
            effects.SetTimer("a", 1.0),
        )
        self.assertEqual((self.heard(), self.around.done), ([], [("persist", 1)]))
        self.assertEqual((self.clock.getDelayedCalls(), self.halts), ([], []))

    def test_client_that_tries_again(self) -> None:
        """When it hears of the halt: it is refused, not left waiting."""
        again: list[Deferred[Committed]] = []

        def retry(failure: Failure) -> None:
            failure.trap(OutcomeUnknown)
            again.append(self.driver.submit("ledger", b"a"))

        self.driver.submit("ledger", b"a").addErrback(retry)
        self.break_core()
        self.assert_loud()
        self.assert_fails(again[0], NoQuorum, STOPPED)

    def test_twice(self) -> None:
        """Halting what is halted changes nothing."""
        self.break_core()
        self.assert_loud()
        self.driver.halt()
        self.assertEqual(len(self.halts), 1)


class OneNode(DriverCase):
    """With the real core: a cluster of one."""

    nodes = 1

    def setUp(self) -> None:
        super().setUp()
        self.driver.start([])
        self.pass_time(5.0)

    def pass_time(self, seconds: float) -> None:
        """In steps as small as those of an event loop."""
        self.clock.pump([0.05] * round(seconds / 0.05))

    def test_committed(self) -> None:
        """In every mode, from the client to the manager and back."""
        deferreds = [self.driver.submit("ledger", b"%d" % k, mode, request_id=f"r{k}") for k, mode in enumerate(Mode)]
        self.pass_time(0.5)
        results = [self.successResultOf(deferred) for deferred in deferreds]
        self.assertEqual([result.result for result in results], [b"did 0", b"did 1", b"did 2"])
        self.assertEqual(
            sorted(result.seq for result in results), list(range(self.driver.applied - 2, self.driver.applied + 1))
        )
        self.assertEqual(self.driver.outcome("r1"), results[1])

    def test_refused(self) -> None:
        """By the manager, with its reason."""
        self.ledger.answers[b"a"] = lambda: False
        deferred = self.driver.submit("ledger", b"a", Mode.TWO_PHASE)
        self.pass_time(0.5)
        self.failureResultOf(deferred, Aborted)

    def test_read(self) -> None:
        """At once: it is its own quorum."""
        deferred = self.driver.read_barrier()
        self.pass_time(0.5)
        self.assertEqual(self.successResultOf(deferred), self.driver.applied)

    def test_status(self) -> None:
        """What the core knows, and what only the node knows of itself."""
        status = self.driver.status()
        self.assertEqual((status["name"], status["master"], status["standing"]), ("one", 1, "normal"))
        self.assertEqual([member["vms"] for member in status["members"]], [["web"]])
        self.assertEqual(status["absences"], [])

    def test_may_be_absent(self) -> None:
        """The only voter cannot be spared, and nobody can say before there is a master."""
        self.assertEqual(
            self.driver.absences.refusal(),
            "without node 1 only 0 of 1 voters would be normal: there is no other voter",
        )
        fresh = Driver(
            config(),
            stored(),
            self.around,
            self.around,
            Applications([]),
            self.clock,
            lambda: 0.0,
            self.halts.append,
        )
        self.assertEqual(fresh.absences.refusal(), "no master is known, so nobody can say")

    def test_unanswered_change(self) -> None:
        """Nobody is left to confirm it; it ends all the same."""
        deferred = self.driver.absences.begin("freeze", 30.0, wait_s=2.0)
        self.pass_time(2.1)
        change = self.successResultOf(deferred)
        self.assertFalse(change.confirmed)
        self.driver.absences.end(change.change_id)
        self.assertEqual(self.driver.absences.documents()[0]["outcome"], "done")
        self.pass_time(2.0)
        self.assertEqual((self.driver.status()["standing"], self.halts), ("normal", []))
