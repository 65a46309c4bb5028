"""Client programs of a random run: the real session of :mod:`txvbcast.client`, over simulated connections.

They hand in, move to another node when theirs leaves, dies or is silent, and sometimes ask again for what they
were told nobody knows.  Whatever they hear is checked like all that clients hear.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from random import Random
from typing import Any

import attrs

from txvbcast.client.effects import Dial, Effect, HangUp, Send, SetTimer, TellCommitted, TellFailed
from txvbcast.client.session import Session
from txvbcast.errors import Committed
from txvbcast.sim.checks import Violation
from txvbcast.sim.client_links import ClientConditions, ClientLinks
from txvbcast.sim.clock import Call
from txvbcast.sim.watch import Watcher
from txvbcast.sim.world import Outcome
from txvbcast.wire.client_messages import ClientMessage
from txvbcast.wire.messages import Mode

#: How many transactions a program hands in at once, and their mean.
BATCHES = (1, 1, 1, 5, 20)
BATCH_MEAN = sum(BATCHES) / len(BATCHES)
#: How often a program asks again for one whose outcome is unknown.
AGAIN_MAX = 3
#: The chance that a program is stopped for a while after handing something in, and for how long at most, in seconds.
STOPPED, STOPPED_S = 0.02, 2.0


class Program:
    """One client program with its session.

    :ivar outcomes: by ticket, in the order of what was handed in.
    """

    def __init__(self, number: int, links: ClientLinks, addresses: Sequence[str], patience_s: float = 0.8) -> None:
        self.number = number
        self.session = Session(addresses, f"program{number}", patience_s=patience_s, program="simulated")
        self.outcomes: dict[int, list[Outcome]] = {}
        self._links = links
        self._world = links.world
        self._timer: Call | None = None
        self._stopped_until_s = 0.0

    def start(self) -> None:
        """Connect."""
        self._do(self.session.start(self._world.clock.seconds()))

    def submit(
        self,
        payloads: Sequence[bytes],
        mode: Mode = Mode.BROADCAST,
        timeout_s: float = 5.0,
        request_ids: Sequence[str] | None = None,
    ) -> list[Outcome]:
        """Hand in transactions at once; what is heard of them."""
        world, now_s = self._world, self._world.clock.seconds()
        names: Sequence[str | None] = request_ids or [None] * len(payloads)
        outcomes = [
            Outcome(payload, self.session.node_id, now_s, mode, name)
            for payload, name in zip(payloads, names, strict=True)
        ]
        ticket = len(self.outcomes)
        self.outcomes[ticket] = outcomes
        for outcome in outcomes:
            world.outcomes.append(outcome)
            world.tell("on_submitted", outcome)
        self._do(self.session.submit(now_s, ticket, "recorder", payloads, mode, timeout_s, request_ids))
        return outcomes

    def demand(self) -> list[Outcome]:
        """Something of every mode."""
        asked = [self.submit([b"program%d %b" % (self.number, mode.value.encode())], mode) for mode in Mode]
        return [outcome for outcomes in asked for outcome in outcomes]

    def pause(self, seconds: float) -> None:
        """The program is stopped; what comes in waits."""
        self._stopped_until_s = self._world.clock.seconds() + seconds

    @property
    def able(self) -> bool:
        """Whether it is not stopped."""
        return self._world.clock.seconds() >= self._stopped_until_s

    # --- what its connections and its clock tell --------------------------------------------------

    def opened(self, link: int) -> None:
        """A connection stands."""
        self._happens(self.session.opened, link)

    def closed(self, link: int, reason: str) -> None:
        """A connection is gone."""
        self._happens(self.session.closed, link, reason)

    def received(self, link: int, message: ClientMessage) -> None:
        """A message of a node."""
        self._happens(self.session.received, link, message)

    def _happens(self, method: Any, *args: object) -> None:
        now_s = self._world.clock.seconds()
        if now_s < self._stopped_until_s:
            self._world.clock.post(self._stopped_until_s - now_s, self._happens, method, *args)
        else:
            self._do(method(now_s, *args))

    def _do(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Dial(link, address):
                    self._links.dial(self, link, address)
                case HangUp(link):
                    self._links.hang_up(self, link)
                case Send(link, message):
                    self._links.send(self, link, message)
                case SetTimer(at_s):
                    self._set_timer(at_s)
                case TellCommitted():
                    self._on_committed(effect)
                case TellFailed():
                    self._on_failed(effect)

    def _set_timer(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, at_s - self._world.clock.seconds())
        self._timer = self._world.clock.callLater(delay_s, self._happens, self.session.due)

    # --- what the user hears --------------------------------------------------------------------------

    def _on_committed(self, told: TellCommitted) -> None:
        for offset, result in enumerate(told.results):
            outcome = self.outcomes[told.ticket][told.place + offset]
            self._answer(outcome, Committed(told.seq, told.index + offset, result))

    def _on_failed(self, told: TellFailed) -> None:
        names: Sequence[str | None] = told.request_ids or [None] * len(told.places)
        for place, name in zip(told.places, names, strict=True):
            outcome = self.outcomes[told.ticket][place]
            outcome.request_id = outcome.request_id or name
            self._answer(outcome, told.failure.error(name))

    def _answer(self, outcome: Outcome, answer: Committed | Exception) -> None:
        world = self._world
        if outcome.answer is not None:
            world.violated(Violation(f"a client is told of {outcome.payload!r} twice: {outcome.answer}, {answer}"))
        outcome.answer = answer
        outcome.ended_s = world.clock.seconds()
        world.clock.post(0.0, world.tell, "on_answer", outcome)  # a violation must come out of the clock


@attrs.frozen
class Load:
    """What programs hand in.

    :ivar rate: transactions a second, of all programs together; keys: registers that they write to.
    """

    programs: int
    rate: float
    keys: int
    modes: tuple[Mode, ...]


class RemoteClients(Watcher):
    """Programs with a common load; :meth:`stop` ends it, and the faults of their connections."""

    def __init__(self, load: Load, random: Random, conditions: ClientConditions) -> None:
        self.load = load
        self.random = random
        self.links = ClientLinks(random, conditions)
        self.programs: list[Program] = []
        self._number = 0
        self._again: dict[str, int] = {}
        self._stopped = False

    def begin(self) -> None:
        """Start the programs, after the nodes."""
        for number in range(1, self.load.programs + 1):
            addresses = self.random.sample(self.links.addresses, self.random.randint(1, len(self.links.addresses)))
            program = Program(number, self.links, addresses, self.random.choice([0.3, 0.8]))
            self.programs.append(program)
            program.start()
            self._later(program)

    def stop(self) -> None:
        """Hand in nothing new, and break nothing any more."""
        self._stopped = True
        self.links.conditions = attrs.evolve(self.links.conditions, link_break=0.0, clog=0.0)

    def _later(self, program: Program) -> None:
        mean_s = BATCH_MEAN * self.load.programs / self.load.rate
        self.world.clock.post(self.random.expovariate(1 / mean_s), self._submit, program)

    def _submit(self, program: Program) -> None:
        if self._stopped:
            return
        if program.able:
            payloads = [self._payload() for _ in range(self.random.choice(BATCHES))]
            program.submit(payloads, self.random.choice(self.load.modes), self._timeout_s())
            if self.random.random() < STOPPED:
                program.pause(self.random.random() * STOPPED_S)
        self._later(program)

    def _payload(self) -> bytes:
        self._number += 1
        return b"k%d=p%d" % (self.random.randrange(self.load.keys), self._number)

    def _timeout_s(self) -> float:
        return self.random.choice([0.3, 1.0, 4.0])

    def on_answer(self, outcome: Outcome) -> None:
        """Whoever was told that nobody knows may ask again under the same name, with words of its own."""
        if outcome.kind != "OutcomeUnknown" or outcome.request_id is None or self._stopped:
            return
        name, _, number = outcome.request_id.partition("#")
        asked = self._again.get(outcome.request_id, 0)
        if not number or not name.startswith("program") or asked >= AGAIN_MAX or self.random.random() < 0.5:
            return
        self._again[outcome.request_id] = asked + 1
        program = self.programs[int(name.removeprefix("program")) - 1]
        self.world.clock.post(self.random.random(), self._ask_again, program, outcome)

    def _ask_again(self, program: Program, outcome: Outcome) -> None:
        if program.able and not self._stopped and outcome.request_id is not None:
            program.submit([self._payload()], outcome.mode, self._timeout_s(), [outcome.request_id])

    def on_end(self) -> None:
        """Every program has been told everything, and each result is that of the place that came with it.

        :raises Violation: it has not, or it is not.
        """
        done = {(seq, b"done " + payload) for seq, payload in min(self.world.nodes.items())[1].recorder.performed}
        for program in self.programs:
            if program.session.unanswered:
                raise Violation(f"program {program.number} still waits for {program.session.unanswered} answers")
            for outcome in chain.from_iterable(program.outcomes.values()):
                answer = outcome.answer
                if isinstance(answer, Committed) and (answer.seq, answer.result) not in done:
                    raise Violation(f"invariant 3: {outcome.payload!r} was heard as committed with {answer}")
