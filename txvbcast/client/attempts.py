"""Transactions that are not answered yet: batches, and the attempts to get them answered.

A **batch** is what the user handed in at once: transactions of one resource manager and mode, with
numbers side by side.  An **attempt** is a part of a batch as it was sent over one link.  When a
client changes over to another node it sends what is unanswered again, under the same numbers, so
a batch may have several attempts.  What happens here happens to runs of transactions, with slices
of bytes; only failures are looked at one by one.

The rules of truth:

- The first Committed counts.
- A failure is told when no attempt is left that may yet commit the transaction.  An attempt on a
  link that was lost, or that was answered with "unknown", may do so for ever: it leaves a *doubt*.
- A transaction that failed in doubt is sent again after a pause: if it was committed by the
  earlier attempt the answer says so, else it is committed now.  It takes effect once.
- At the deadline: what was never sent has not happened; the rest is unknown.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from txvbcast.client.effects import Effect, Send, TellCommitted, TellFailed
from txvbcast.client.failures import Failure
from txvbcast.errors import RemoteProtocolError
from txvbcast.wire.client_messages import Committed, Failed, FailureKind, Submit
from txvbcast.wire.messages import Mode

if TYPE_CHECKING:
    from txvbcast.client.links import Link

#: Bytes of payloads in one Submit, unless a single payload is longer.
SUBMIT_BYTES_MAX: Final = 1024 * 1024
#: How long after the deadline the node's own word is waited for: it is better than "unknown".
GRACE_S: Final = 0.5
#: How soon a transaction that failed in doubt is sent again; doubled each time, up to the client's patience.
AGAIN_S: Final = 0.05
#: So many may wait beside a node that has all that it takes on: enough to have the next ones at hand, and no queue.
BESIDE_MAX: Final = 512
#: The numbers sent are at most so many above those of which all is told.  Nodes remember some 65 thousand answers;
#: one that they had to forget would make an unanswered transaction below it one that is over.
NUMBERS_OPEN_MAX: Final = 32_768
#: A number whose outcome was told as unknown can be asked for until so many more have been given away.
ASKABLE_NUMBERS: Final = 1000

_LATE: Final = "no answer in time"

# What becomes of a transaction, as bytes of ``Batch.states``.
_WAITS, _SENT, _HELD, _TOLD = range(4)


@attrs.define(eq=False)
class Batch:
    """What was handed in at once.

    :ivar first: the number of its first transaction; 0 if it has ``request_ids`` instead.
    :ivar states: of each transaction: waits to be sent, sent over the link in use, held back (failed in doubt), told.
    :ivar doubts: 1 for each transaction with an attempt that may commit it although nobody will ever say so.
    :ivar failures: the latest failure of those in state "held".
    :ivar attempts: those that are not answered in full.
    """

    ticket: int
    rm: str
    mode: Mode
    deadline_s: float
    payloads: tuple[bytes, ...]
    payload_bytes: int
    first: int
    request_ids: tuple[str, ...] | None
    states: bytearray
    doubts: bytearray
    untold: int
    failures: dict[int, Failure] = attrs.field(factory=dict)
    attempts: list[Attempt] = attrs.field(factory=list)

    def in_state(self, state: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The runs of transactions in this state between ``start`` and ``end``."""
        states = self.states
        while (start := states.find(state, start, end)) >= 0:
            stop = start + 1
            if states.count(state, start, end) == end - start:
                stop = end
            else:
                while stop < end and states[stop] == state:
                    stop += 1
            yield start, stop
            start = stop

    def set_state(self, state: int, start: int, end: int) -> None:
        """Put a run of transactions into a state."""
        self.states[start:end] = bytes((state,)) * (end - start)

    def may_commit(self, place: int) -> bool:
        """Whether an attempt may yet commit it, as far as anybody knows."""
        return bool(self.doubts[place]) or any(attempt.waits(place) for attempt in self.attempts)

    @property
    def first_untold(self) -> int:
        """The lowest place that is not told; there must be one."""
        return min(place for state in (_WAITS, _SENT, _HELD) if (place := self.states.find(state)) >= 0)


@attrs.define(eq=False)
class Attempt:
    """A part of a batch as it was sent over one link.

    :ivar start: the place in its batch of its first transaction.
    :ivar waiting: 1 for each of its transactions that the node has not answered.
    """

    number: int
    batch: Batch
    start: int
    waiting: bytearray

    def waits(self, place: int) -> bool:
        """Whether the transaction at that place of the batch is part of it and not answered."""
        return 0 <= place - self.start < len(self.waiting) and bool(self.waiting[place - self.start])

    @property
    def end(self) -> int:
        """The place in its batch behind its last transaction."""
        return self.start + len(self.waiting)


class Transactions:
    """All transactions of a client that are not answered.

    :param session: names them, with their numbers.
    :param waiting_max: how many may wait while no node is in use; beside a node that has all that it takes on, no
        more than :data:`BESIDE_MAX` of them.
    :param waiting_bytes_max: bytes of payloads, of all that are unanswered.
    :param out: where effects go.
    """

    def __init__(
        self, session: str, patience_s: float, waiting_max: int, waiting_bytes_max: int, out: list[Effect]
    ) -> None:
        self._session = session
        self._patience_s = patience_s
        self._waiting_max = waiting_max
        self._waiting_bytes_max = waiting_bytes_max
        self._out = out
        self._in_use: Link | None = None
        self._batches: OrderedDict[int, Batch] = OrderedDict()
        self._numbered: deque[Batch] = deque()  # in order of their numbers; those that are told go when they are first
        self._askable: deque[int] = deque()  # the numbers that were told as unknown
        self._queue: deque[tuple[Batch, int, int]] = deque()  # runs to be sent; what is in another state is skipped
        self._held: dict[int, Batch] = {}
        self._again_at_s: float | None = None
        self._pause_s = AGAIN_S
        self._look_s: float | None = None  # at deadlines
        self._next_number = 1
        self._attempts = 0
        self.unanswered = 0
        self._unanswered_bytes = 0

    # --- what the user hands in ----------------------------------------------------------------

    def submit(
        self,
        now_s: float,
        ticket: int,
        rm: str,
        mode: Mode,
        timeout_s: float,
        payloads: tuple[bytes, ...],
        request_ids: tuple[str, ...] | None,
    ) -> None:
        """Take on what there is room for, from the front; the rest is told Overloaded."""
        count = self._room(payloads)
        if count:
            taken = payloads[:count]
            batch = Batch(
                ticket, rm, mode, now_s + timeout_s, taken, sum(map(len, taken)),
                0 if request_ids is not None else self._next_number,
                request_ids[:count] if request_ids is not None else None,
                bytearray(count), bytearray(count), count,
            )  # fmt: skip
            self._take(batch)
        if count < len(payloads):
            reason = (
                f"{self.unanswered} transactions of this client are not answered yet: wait for answers before you "
                "submit more"
            )
            failure = Failure(FailureKind.OVERLOADED, reason)
            self._out.append(TellFailed(ticket, tuple(range(count, len(payloads))), failure))

    def _take(self, batch: Batch) -> None:
        count = batch.untold
        self._batches[batch.ticket] = batch
        if batch.request_ids is None:
            self._next_number += count
            self._numbered.append(batch)
        self.unanswered += count
        self._unanswered_bytes += batch.payload_bytes
        self._queue.append((batch, 0, count))
        self._look_at(batch.deadline_s)

    def _room(self, payloads: tuple[bytes, ...]) -> int:
        """How many of these can be taken on."""
        link, waiting_max = self._in_use, self._waiting_max
        unanswered_max = waiting_max if link is None else link.outstanding_max + min(BESIDE_MAX, waiting_max)
        count = max(0, min(len(payloads), unanswered_max - self.unanswered))
        room_bytes = self._waiting_bytes_max - self._unanswered_bytes
        if sum(map(len, payloads)) <= room_bytes:
            return count
        for place in range(count):
            room_bytes -= len(payloads[place])
            if room_bytes < 0:
                return place
        return count

    # --- sending ---------------------------------------------------------------------------------

    def send(self, now_s: float) -> bool:
        """Send what waits, as far as the node in use takes it on; whether there was anything to look at."""
        link = self._in_use
        if not self._queue:
            return False
        done = self.done()
        while self._queue and link is not None and link.outstanding < link.outstanding_max:
            batch, start, end = self._queue.popleft()
            if now_s >= batch.deadline_s:
                continue
            for run_start, run_end in batch.in_state(_WAITS, start, end):
                stop = self._cut(batch, run_start, min(run_end, run_start + link.outstanding_max - link.outstanding))
                if batch.first + stop - done > NUMBERS_OPEN_MAX:
                    self._queue.appendleft((batch, run_start, end))
                    return True
                self._send(now_s, link, batch, run_start, stop, done)
                if stop < end:
                    self._queue.appendleft((batch, stop, end))
                break
        return True

    def _cut(self, batch: Batch, start: int, end: int) -> int:
        """How far one message can go."""
        if batch.payload_bytes <= SUBMIT_BYTES_MAX:
            return end
        size = 0
        for place in range(start, end):
            size += len(batch.payloads[place])
            if size > SUBMIT_BYTES_MAX and place > start:
                return place
        return end

    def _send(self, now_s: float, link: Link, batch: Batch, start: int, end: int, done: int) -> None:
        count = end - start
        self._attempts += 1
        attempt = Attempt(self._attempts, batch, start, bytearray(b"\1") * count)
        if link.idle:
            link.busy_s = now_s
        link.attempts[attempt.number] = attempt
        link.outstanding += count
        batch.attempts.append(attempt)
        batch.set_state(_SENT, start, end)
        named = batch.request_ids
        self._out.append(
            Send(
                link.number,
                Submit(
                    batch=attempt.number,
                    rm=batch.rm,
                    mode=batch.mode,
                    timeout_ms=max(1, round(1000 * (batch.deadline_s - now_s))),
                    first=batch.first + start if named is None else 0,
                    done=done if named is None else 0,
                    payloads=batch.payloads[start:end],
                    request_ids=named[start:end] if named is not None else None,
                ),
            )
        )

    def done(self) -> int:
        """The number up to which the user has been told everything, and will not ask again."""
        numbered = self._numbered
        while numbered and not numbered[0].untold:
            numbered.popleft()
        done = numbered[0].first + numbered[0].first_untold - 1 if numbered else self._next_number - 1
        askable = self._askable
        while askable and askable[0] + ASKABLE_NUMBERS < self._next_number:
            askable.popleft()
        return min(done, min(askable) - 1) if askable else done

    # --- what nodes answer -------------------------------------------------------------------------

    def on_committed(self, link: Link, message: Committed) -> None:
        """Some are committed.

        :raises RemoteProtocolError: the batch has no such places.
        """
        attempt = link.attempts.get(message.batch)
        if attempt is None:
            return  # answered already
        count = len(message.results)
        self._settle(link, attempt, message.place, count)
        batch = attempt.batch
        start = attempt.start + message.place
        if batch.states.count(_TOLD, start, start + count) == 0:
            self._tell_committed(batch, start, message.seq, message.index, message.results)
            return
        for place in range(start, start + count):
            if batch.states[place] != _TOLD:
                offset = place - start
                result = message.results[offset : offset + 1]
                self._tell_committed(batch, place, message.seq, message.index + offset, result)

    def _tell_committed(self, batch: Batch, place: int, seq: int, index: int, results: tuple[bytes, ...]) -> None:
        self._out.append(TellCommitted(batch.ticket, place, seq, index, results))
        self._told(batch, place, len(results))

    def on_failed(self, now_s: float, link: Link, message: Failed) -> None:
        """Some failed, or the node does not know.

        :raises RemoteProtocolError: the batch has no such places.
        """
        attempt = link.attempts.get(message.batch)
        if attempt is None:
            return
        batch = attempt.batch
        failure = Failure(message.kind, message.reason, message.who)
        failed: list[int] = []
        for first, behind in _runs(message.places):
            self._settle(link, attempt, first, behind - first)
            start, end = attempt.start + first, attempt.start + behind
            if failure.kind is FailureKind.OUTCOME_UNKNOWN:
                batch.doubts[start:end] = b"\1" * (end - start)
            if not batch.attempts and batch.doubts.find(1, start, end) < 0 and batch.states.find(_TOLD, start, end) < 0:
                failed.extend(range(start, end))  # a flood's: nothing to be looked at one by one
            else:
                failed.extend(self._failed_for_good(link, batch, start, end, failure))
        self._tell_failed(batch, failed, failure)
        if batch.states.find(_HELD) >= 0:
            self._hold(now_s, batch)

    def _failed_for_good(self, link: Link, batch: Batch, start: int, end: int, failure: Failure) -> Iterator[int]:
        """Those of a run that no attempt may commit any more; the others that this link was to answer are held back."""
        for place in range(start, end):
            if batch.states[place] == _TOLD:
                continue
            if not batch.may_commit(place):
                yield place
            elif batch.states[place] == _SENT and link is self._in_use:
                batch.states[place] = _HELD
                batch.failures[place] = failure

    def _hold(self, now_s: float, batch: Batch) -> None:
        """Send again after a pause what failed in doubt; tell it now if that would be too late."""
        if now_s + self._pause_s >= batch.deadline_s and not batch.attempts:
            self._doubt(batch, _LATE)
            return
        self._held[batch.ticket] = batch
        if self._again_at_s is None:
            self._again_at_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, self._patience_s)

    def _settle(self, link: Link, attempt: Attempt, place: int, count: int) -> None:
        """The node has answered these places of an attempt."""
        end = place + count
        if not 0 <= place < end <= len(attempt.waiting):
            raise RemoteProtocolError(
                f"node {link.node_id} answers places {place} to {end - 1} of a batch of {len(attempt.waiting)}"
            )
        answered = attempt.waiting.count(1, place, end)
        link.outstanding -= answered
        attempt.waiting[place:end] = bytes(count)
        if answered and attempt.waiting.find(1) < 0:
            del link.attempts[attempt.number]
            attempt.batch.attempts.remove(attempt)

    def _tell_failed(self, batch: Batch, places: list[int], failure: Failure) -> None:
        if not places:
            return
        names: tuple[str, ...] = ()
        if failure.kind is FailureKind.OUTCOME_UNKNOWN:
            names = tuple(self._name(batch, place) for place in places)
            if batch.request_ids is None:
                self._askable.extend(batch.first + place for place in places[-ASKABLE_NUMBERS:])
        self._out.append(TellFailed(batch.ticket, tuple(places), failure, names))
        for start, end in _runs(places):
            if batch.failures:
                for place in range(start, end):
                    batch.failures.pop(place, None)
            self._told(batch, start, end - start)

    def _name(self, batch: Batch, place: int) -> str:
        if batch.request_ids is not None:
            return batch.request_ids[place]
        return f"{self._session}#{batch.first + place}"

    def _told(self, batch: Batch, place: int, count: int) -> None:
        batch.set_state(_TOLD, place, place + count)
        batch.untold -= count
        self.unanswered -= count
        if batch.untold == 0:
            self._unanswered_bytes -= batch.payload_bytes
            batch.payloads = ()
            del self._batches[batch.ticket]
            self._held.pop(batch.ticket, None)

    # --- links come and go ---------------------------------------------------------------------------

    def use(self, link: Link | None) -> None:
        """This link is in use from now on: what was sent over another one has to be sent again."""
        self._in_use = link
        runs = [
            (batch, start, end)
            for batch in self._batches.values()
            for start, end in batch.in_state(_SENT, 0, len(batch.states))
        ]
        for batch, start, end in runs:
            batch.set_state(_WAITS, start, end)
        self._queue.extendleft(reversed(runs))

    def on_lost(self, link: Link) -> None:
        """What was sent over this link and not answered may be committed, and nobody will say so."""
        for attempt in link.attempts.values():
            batch = attempt.batch
            batch.attempts.remove(attempt)
            here = slice(attempt.start, attempt.end)
            batch.doubts[here] = bytes(map(int.__or__, batch.doubts[here], attempt.waiting))
        link.attempts.clear()

    # --- time ------------------------------------------------------------------------------------------

    def _look_at(self, at_s: float) -> None:
        self._look_s = at_s if self._look_s is None else min(at_s, self._look_s)

    @property
    def holds_back(self) -> bool:
        """Whether something is to be sent again after a pause."""
        return self._again_at_s is not None

    def next_s(self) -> float | None:
        """When to look again."""
        if self._again_at_s is None or self._look_s is None:
            return self._look_s if self._again_at_s is None else self._again_at_s
        return min(self._look_s, self._again_at_s)

    def on_time(self, now_s: float) -> None:
        """Send again what was held back, and give up what is late."""
        if self._again_at_s is not None and now_s >= self._again_at_s:
            self._send_again()
        if self._look_s is not None and now_s >= self._look_s:
            self._expire(now_s)

    def _send_again(self) -> None:
        self._again_at_s = None
        if not self._held:
            self._pause_s = AGAIN_S
        for batch in self._held.values():
            for start, end in batch.in_state(_HELD, 0, len(batch.states)):
                batch.set_state(_WAITS, start, end)
                self._queue.append((batch, start, end))
        self._held.clear()

    def _expire(self, now_s: float) -> None:
        self._look_s = None
        for batch in tuple(self._batches.values()):
            if now_s >= batch.deadline_s:
                self.give_up(batch, "no node could be reached in time")
            if now_s >= batch.deadline_s + GRACE_S:
                self._doubt(batch, _LATE)
            elif batch.untold:
                self._look_at(batch.deadline_s if now_s < batch.deadline_s else batch.deadline_s + GRACE_S)

    def give_up(self, batch: Batch, reason: str) -> None:
        """Tell what was never sent that it has not happened."""
        places = [place for place in _places(batch, _WAITS) if not batch.may_commit(place)]
        self._tell_failed(batch, places, Failure(FailureKind.NO_QUORUM, f"{reason}: nothing was sent"))

    def _doubt(self, batch: Batch, reason: str) -> None:
        """Tell the rest that its outcome is unknown."""
        heard: dict[Failure | None, list[int]] = {}
        for state in (_WAITS, _SENT, _HELD):
            for place in _places(batch, state):
                heard.setdefault(batch.failures.get(place), []).append(place)
        for failure, places in heard.items():
            text = reason if failure is None else f"{reason}; the last that was heard: {failure.reason}"
            self._tell_failed(batch, places, Failure(FailureKind.OUTCOME_UNKNOWN, text, failure.who if failure else ()))

    def close(self, reason: str) -> None:
        """Tell everybody."""
        for batch in tuple(self._batches.values()):
            self.give_up(batch, reason)
            self._doubt(batch, reason)


def _runs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The runs of places side by side, in order: the first of each, and the one behind its last."""
    rising = sorted(set(places))
    while rising:
        first, count = rising[0], len(rising)
        if rising[-1] - first != count - 1:
            count = next(offset for offset, place in enumerate(rising) if place != first + offset)
        yield first, first + count
        del rising[:count]


def _places(batch: Batch, state: int) -> Iterable[int]:
    return [place for start, end in batch.in_state(state, 0, len(batch.states)) for place in range(start, end)]
