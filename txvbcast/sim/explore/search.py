"""Breadth-first search through everything that can happen to a small cluster.

A global state is a row of small numbers: the local state of each node, the packets that were
ever sent, the past, and what may still happen.  A step looks up what the event does to one
node; the replica itself runs once per pair of local state and event.

The network is the strongest that the protocol claims to stand: a packet may arrive at any
time after it was sent, any number of times, in any order, or never.  So the packets that
were ever sent are a set that grows; no packet has to be lost, because it can always still
be late.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import attrs

from txvbcast.core import epochs
from txvbcast.sim.checks import Violation
from txvbcast.sim.explore.judge import Judge, Past
from txvbcast.sim.explore.nodes import Event, Local, Locals, Outcome, Packet
from txvbcast.sim.explore.scopes import BUDGETS, Scope
from txvbcast.wire.messages import Heartbeat, HeartbeatReply

#: What happens in one step: ("deliver", number of a packet) or (event, node id, details).
Action = tuple[str | int, ...]

#: Global states: local states by node, packets, past, budgets.
State = tuple[int, ...]

_BITS = 4
_SHIFTS = {name: place * _BITS for place, name in enumerate(BUDGETS)}
_MASK = (1 << _BITS) - 1
#: States are expanded in rows of this many; between them the bounds are looked at.
_LOOK_EVERY = 256
#: A claim takes at most so many timeouts of the candidate: it leaves its office, gives up a probe, probes.
_PATIENCE_MAX = 3
#: Settling takes a few dozen actions; more means that it does not settle.
_SETTLE_MAX = 2000


@attrs.frozen
class Option:
    """What may happen at a node in a local state, if its budget allows: ``left`` 0 means any that is not used up."""

    action: Action
    event: Event
    shift: int | None = None
    left: int = 0


@attrs.frozen
class Happening:
    """One event at one node; ``packet`` when it is one that arrives there."""

    node_id: int
    event: Event
    packet: Packet | None = None


@attrs.frozen
class Counterexample:
    """The shortest way to a violation, from a cluster that was never started.

    :ivar settling: how the cluster settled; steps: what happened in each step of the search after that.
    """

    scope: Scope
    what: str
    settling: tuple[Happening, ...]
    steps: tuple[tuple[Happening, ...], ...]


@attrs.frozen
class Result:
    """What a search has found.

    :ivar states: distinct global states; steps: transitions; replicas: runs of a replica.
    :ivar exhausted: nothing more is reachable within the scope.
    :ivar stopped: why the search ended before, empty if it did not.
    """

    scope: Scope
    states: int
    transitions: int
    depth: int
    local_states: int
    packets: int
    runs: int
    seconds: float
    stopped: str
    counterexample: Counterexample | None = None

    @property
    def exhausted(self) -> bool:
        """Whether every state of the scope was seen."""
        return not self.stopped and self.counterexample is None


class Soups:
    """Sets of packets, by number; ``inboxes`` of each are by node."""

    def __init__(self, locals_: Locals, node_ids: tuple[int, ...]) -> None:
        self.inboxes: list[tuple[int, ...]] = []
        self.contents: list[tuple[int, ...]] = []
        self.inbox_packets: list[tuple[int, ...]] = []
        self._locals = locals_
        self._node_ids = node_ids
        self._numbers: dict[tuple[int, ...], int] = {}
        self._inbox_numbers: dict[tuple[int, ...], int] = {}
        self._sums: dict[tuple[int, tuple[int, ...]], int] = {}
        self._without: dict[tuple[int, int], int] = {}

    def number(self, packets: tuple[int, ...]) -> int:
        """The number of a set of packets, given sorted."""
        number = self._numbers.get(packets)
        if number is None:
            number = self._numbers[packets] = len(self.contents)
            self.contents.append(packets)
            self.inboxes.append(tuple(self._inbox(packets, node_id) for node_id in self._node_ids))
        return number

    def _inbox(self, packets: tuple[int, ...], node_id: int) -> int:
        mine = tuple(number for number in packets if self._locals.packets[number].to == node_id)
        number = self._inbox_numbers.get(mine)
        if number is None:
            number = self._inbox_numbers[mine] = len(self.inbox_packets)
            self.inbox_packets.append(mine)
        return number

    def plus(self, soup: int, sends: tuple[int, ...]) -> int:
        """With more packets; of heartbeats, and of their answers, each pair has only the latest under way."""
        key = (soup, sends)
        number = self._sums.get(key)
        if number is None:
            packets = set(self.contents[soup])
            for sent in sends:
                packets -= self._overtaken(packets, self._locals.packets[sent])
                packets.add(sent)
            number = self._sums[key] = self.number(tuple(sorted(packets)))
        return number

    def _overtaken(self, packets: set[int], sent: Packet) -> set[int]:
        kind = type(sent.message)
        if kind not in (Heartbeat, HeartbeatReply):
            return set()
        known = self._locals.packets
        return {
            number
            for number in packets
            if (known[number].sender, known[number].to) == (sent.sender, sent.to)
            and type(known[number].message) is kind
        }

    def without(self, soup: int, node_id: int) -> int:
        """Without what was on its way to a node."""
        key = (soup, node_id)
        number = self._without.get(key)
        if number is None:
            kept = tuple(each for each in self.contents[soup] if self._locals.packets[each].to != node_id)
            number = self._without[key] = self.number(kept)
        return number


class Search:
    """One breadth-first search.

    :param progress: called now and then with (states, depth, states still to expand).
    """

    def __init__(self, scope: Scope, progress: Callable[[int, int, int], None] = lambda *_: None) -> None:
        self.scope = scope
        self.locals = Locals(scope)
        self.judge = Judge(scope)
        self.pasts: list[Past] = []
        self._telling: list[Happening] | None = None
        self.soups = Soups(self.locals, scope.node_ids)
        self.actions: list[Action] = []
        self.transitions = 0
        self._past_numbers: dict[Past, int] = {}
        self._pasts_after: dict[tuple[int, int, Outcome], int] = {}
        self._progress = progress
        self._count = scope.nodes
        self._parents, self._causes = array("L", [0]), array("L", [0])
        self._action_numbers: dict[Action, int] = {}
        self._options: dict[int, tuple[Option, ...]] = {}
        self._deliveries: dict[tuple[int, int], tuple[tuple[int, Outcome], ...]] = {}
        self._past(Past())

    # --- the beginning -------------------------------------------------------------------------

    def settle(self) -> State:
        """Start every node and let everything happen in order until the cluster is settled.

        :raises Violation: something is wrong already, or it does not settle.
        """
        self.locals.begin(settled=False)
        budgets = sum(self.scope.budgets.get(name, 0) << shift for name, shift in _SHIFTS.items())
        nodes = [self.locals.down(node_id) for node_id in self.scope.node_ids]
        state: State = (*nodes, self.soups.number(()), 0, budgets)
        for node_id in self.scope.node_ids:
            state = self.perform(state, ("restart", node_id))
        delivered: set[int] = set()
        for _ in range(_SETTLE_MAX):
            action = self._settling_action(state, delivered)
            if action is None:
                self.locals.begin(settled=True)
                return (*state[: self._count], self.soups.number(()), state[-2], state[-1])
            state = self.perform(state, action)
        raise Violation("the cluster does not settle")

    def _settling_action(self, state: State, delivered: set[int]) -> Action | None:
        for number in state[: self._count]:
            local = self.locals.states[number]
            if local.pending:
                return ("sync", local.node_id)
        for packet in self.soups.contents[state[self._count]]:
            if packet not in delivered:
                delivered.add(packet)
                return ("deliver", packet)
        facts = [self.locals.states[number].facts for number in state[: self._count]]
        tails = {(len(each.log), each.applied, each.committed) for each in facts if each is not None}
        if all(each is not None and each.state == "normal" for each in facts) and len(tails) == 1:
            return None
        masters = [place for place, each in enumerate(facts, 1) if each is not None and each.office]
        return ("beat", masters[0]) if masters else ("silence", 1, *self.scope.node_ids[1:])

    # --- what can happen -----------------------------------------------------------------------

    def perform(self, state: State, action: Action) -> State:
        """The state after an action that does not count against a budget.

        :raises Violation: an invariant does not hold after it.
        """
        if action[0] == "deliver":
            packet = int(action[1])
            return self._happen(state, self.locals.packets[packet].to, packet)
        if action[0] == "claim":
            return self._claim(state, int(action[1]))
        return self._act(state, int(action[1]), (action[0], *action[2:]))

    def _claim(self, state: State, node_id: int) -> State:
        """A node and those that it needs for that lose patience with the master, and it claims."""
        before, told = state, len(self._telling or ())
        claimed = self._claimed(state, node_id)
        others = tuple(peer for peer in self.scope.node_ids if peer != node_id)
        for witness in (*others, *[node_id] * _PATIENCE_MAX):
            facts = self.locals.states[state[witness - 1]].facts
            if facts is not None and not (witness != node_id and (facts.office or facts.role == "probing")):
                silent = (peer for peer in self.scope.node_ids if peer != witness)
                state = self._act(state, witness, ("silence", *silent))
            if self._claimed(state, node_id) != claimed:
                return state
        if self._telling is not None:
            del self._telling[told:]
        return before

    def _claimed(self, state: State, node_id: int) -> int:
        """The highest epoch that a node has claimed and still holds to."""
        facts = self.locals.states[state[node_id - 1]].facts
        if facts is None or epochs.master_of(facts.promised) != node_id:
            return 0
        return facts.promised

    def _told(self, node_id: int, event: Event | int) -> Happening:
        if isinstance(event, int):
            return Happening(node_id, ("receives",), self.locals.packets[event])
        return Happening(node_id, event)

    def _act(self, state: State, node_id: int, event: Event) -> State:
        """An event at one node with what it means for the links to the others."""
        state = self._happen(state, node_id, event)
        running = [local.node_id for local in self.nodes(state) if local.state is not None and local.node_id != node_id]
        if event[0] == "crash":
            state = (*state[: self._count], self.soups.without(state[self._count], node_id), *state[-2:])
            for peer in running:
                state = self._happen(state, peer, ("down", node_id))
        elif event[0] == "restart":
            for peer in running:
                state = self._connect(state, node_id, peer)
        return state

    def _connect(self, state: State, one: int, other: int) -> State:
        for node_id, peer in ((one, other), (other, one)):
            incarnation = self.locals.states[state[peer - 1]].durable.incarnation
            state = self._happen(state, node_id, ("up", peer, incarnation))
        return state

    def _happen(self, state: State, node_id: int, event: Event | int) -> State:
        """One event at one node and nowhere else."""
        before = state[node_id - 1]
        if self._telling is not None:
            self._telling.append(self._told(node_id, event))
        outcome = self.locals.outcome(before, event)
        nodes = (*state[: node_id - 1], outcome.to, *state[node_id : self._count])
        past = state[-2]
        if outcome.notable:
            past = self._judge(past, nodes, before, outcome)
        soup = self.soups.plus(state[self._count], outcome.sends) if outcome.sends else state[self._count]
        state = (*nodes, soup, past, state[-1])
        for packet in outcome.prompt:
            to = self.locals.packets[packet].to
            if self.locals.states[state[to - 1]].state is not None:
                state = self._happen(state, to, packet)
        if outcome.resets:
            for local in self.nodes(state):
                if local.node_id != node_id and local.state is not None:
                    state = self._happen(state, node_id, ("down", local.node_id))
                    state = self._happen(state, local.node_id, ("down", node_id))
                    state = self._connect(state, node_id, local.node_id)
        return state

    def _judge(self, past: int, nodes: Sequence[int], before: int, outcome: Outcome) -> int:
        """Whether every invariant holds after an outcome; the number of the past after it."""
        if outcome.error:
            raise Violation(f"a node stops: {outcome.error}")
        states = self.locals.states
        was, now = states[before], states[outcome.to]
        key = (past, before, outcome)
        after = self._pasts_after.get(key)
        if after is None:
            after = self._pasts_after[key] = self._past(self.judge.alone(self.pasts[past], was, now, outcome.notes))
        others = [states[number] for number in nodes]
        self.judge.together(self.pasts[after], was, now, outcome.notes, others)
        return after

    def _past(self, past: Past) -> int:
        number = self._past_numbers.get(past)
        if number is None:
            number = self._past_numbers[past] = len(self.pasts)
            self.pasts.append(past)
        return number

    def nodes(self, state: State) -> list[Local]:
        """Every node, by rising id."""
        return [self.locals.states[number] for number in state[: self._count]]

    def under_way(self, state: State) -> set[Packet]:
        """The packets that may still arrive."""
        return {self.locals.packets[number] for number in self.soups.contents[state[self._count]]}

    def _options_of(self, number: int) -> tuple[Option, ...]:
        options = self._options.get(number)
        if options is None:
            options = self._options[number] = tuple(self._choices(self.locals.states[number]))
        return options

    def _choices(self, local: Local) -> Iterator[Option]:
        me, scope, facts = local.node_id, self.scope, local.facts
        if facts is None:
            yield Option(("restart", me), ("restart",))
            return
        if local.pending:
            yield Option(("sync", me), ("sync",))
        for number, submission in enumerate(scope.submissions, 1):
            if submission.node_id == me:
                left = len(scope.submissions) - number + 1
                yield Option(("submit", me, number), ("submit", number), _SHIFTS["submits"], left)
        if me in scope.claiming and facts.role != "claiming":
            yield Option(("claim", me), ("claim",), _SHIFTS["claims"])
        if me in scope.silent:
            others = tuple(peer for peer in scope.node_ids if peer != me)
            for silent in (others, *((peer,) for peer in others if facts.office and len(others) > 1)):
                yield Option(("silence", me, *silent), ("silence", *silent), _SHIFTS["silences"])
        if facts.office:
            yield Option(("beat", me), ("beat",), _SHIFTS["beats"])
            for to in scope.moves_to:
                if to != me and facts.opened:
                    yield Option(("move", me, to), ("move", to), _SHIFTS["moves"])
        yield from self._absences(local)

    def _absences(self, local: Local) -> Iterator[Option]:
        me, scope, facts = local.node_id, self.scope, local.facts
        assert facts is not None
        if me in scope.crashing:
            for keeps in (0, 1) if local.pending else (0,):
                yield Option(("crash", me, keeps), ("crash", keeps), _SHIFTS["crashes"])
        if me in scope.frozen:
            yield Option(("wake", me), ("wake",), _SHIFTS["freezes"])
        if me in scope.leaving and not facts.changes and facts.state == "normal":
            yield Option(("leave", me, 0), ("leave", 0), _SHIFTS["leaves"])
        for change_id in facts.changes:
            yield Option(("end", me, change_id), ("end", change_id), _SHIFTS["ends"])

    def _deliveries_of(self, number: int, inbox: int) -> tuple[tuple[int, Outcome], ...]:
        """What the packets under way to a node may lead to, where that is anything."""
        key = (number, inbox)
        found = self._deliveries.get(key)
        if found is None and self.locals.states[number].state is None:
            found = self._deliveries[key] = ()
        if found is None:
            outcomes = ((packet, self.locals.outcome(number, packet)) for packet in self.soups.inbox_packets[inbox])
            found = self._deliveries[key] = tuple(
                (self._action_number(("deliver", packet)), outcome)
                for packet, outcome in outcomes
                if outcome.to != number or outcome.sends or outcome.complex
            )
        return found

    def _action_number(self, action: Action) -> int:
        number = self._action_numbers.get(action)
        if number is None:
            number = self._action_numbers[action] = len(self.actions)
            self.actions.append(action)
        return number

    # --- the search ----------------------------------------------------------------------------

    def run(self, states_max: int, seconds_max: float) -> Result:
        """Search until everything was seen, or a bound is reached, or an invariant does not hold."""
        began_s = time.monotonic()
        seen: set[State] = set()
        depth, stopped = 0, ""
        counterexample = None
        try:
            frontier = [(0, self.settle())]
            seen.add(frontier[0][1])
            while frontier and not stopped:
                frontier, stopped = self._expand(frontier, seen, depth, states_max, began_s + seconds_max)
                depth += 1
        except Violation as violation:
            counterexample = self._counterexample((), str(violation))
        except _Found as found:
            actions = (*self._way(found.index), found.action)
            counterexample = self._counterexample(actions, str(found.violation))
        return Result(
            scope=self.scope,
            states=len(seen),
            transitions=self.transitions,
            depth=depth,
            local_states=len(self.locals.states),
            packets=len(self.locals.packets),
            runs=self.locals.steps,
            seconds=time.monotonic() - began_s,
            stopped="an invariant does not hold" if counterexample else stopped,
            counterexample=counterexample,
        )

    def _expand(
        self, frontier: Sequence[tuple[int, State]], seen: set[State], depth: int, states_max: int, until_s: float
    ) -> tuple[list[tuple[int, State]], str]:
        """Every state that is one step away from ``frontier`` and new; and why the search stops here, if it does."""
        following: list[tuple[int, State]] = []
        parents, causes = self._parents, self._causes
        for done, (index, state) in enumerate(frontier):
            if not done % _LOOK_EVERY:
                self._progress(len(seen), depth, len(frontier) - done + len(following))
                stopped = _why_stop(len(seen), states_max, until_s)
                if stopped:
                    return following, stopped
            for cause, new in self._successors(index, state):
                self.transitions += 1
                if new not in seen:
                    seen.add(new)
                    following.append((len(parents), new))
                    parents.append(index)
                    causes.append(cause)
        return following, ""

    def _way(self, index: int) -> tuple[Action, ...]:
        """The actions that led to a state, by its place in the order of discovery."""
        way: list[Action] = []
        while index:
            way.append(self.actions[self._causes[index]])
            index = self._parents[index]
        return tuple(reversed(way))

    def _counterexample(self, actions: Sequence[Action], what: str) -> Counterexample:
        """Go the way once more, and write down what happens at which node."""
        state, settling = self.tell(self.settle)
        steps: list[tuple[Happening, ...]] = []
        for action in actions:
            assert state is not None, "the way back leads elsewhere"
            state, step = self.tell(partial(self.perform, state, action))
            steps.append(step)
        return Counterexample(self.scope, what, settling, tuple(steps))

    def tell(self, go: Callable[[], State]) -> tuple[State | None, tuple[Happening, ...]]:
        """Go on to a state, and write down what happens; there is no state if an invariant stops to hold."""
        told: list[Happening] = []
        self._telling = told
        try:
            return go(), tuple(told)
        except Violation:
            return None, tuple(told)
        finally:
            self._telling = None

    def successors(self, state: State) -> Iterator[tuple[Action, State]]:
        """All that can happen in a state, and what it leads to."""
        for cause, after in self._successors(0, state):
            yield self.actions[cause], after

    def _successors(self, index: int, state: State) -> Iterator[tuple[int, State]]:
        """(number of an action, state after it) for all that can happen; ``index`` is where the state stands."""
        count = self._count
        soup, past, budgets = state[count:]
        inboxes = self.soups.inboxes[soup]
        for place in range(count):
            number = state[place]
            for cause, outcome in self._deliveries_of(number, inboxes[place]):
                if outcome.complex:
                    yield cause, self._tried(cause, index, state)
                    continue
                sent = self.soups.plus(soup, outcome.sends) if outcome.sends else soup
                yield cause, (*state[:place], outcome.to, *state[place + 1 : count], sent, past, budgets)
            for option in self._options_of(number):
                shift = option.shift
                if shift is None:
                    left = 1
                else:
                    left = (budgets >> shift) & _MASK
                    if not left or (option.left and option.left != left):
                        continue
                cause = self._action_number(option.action)
                after = self._tried(cause, index, state)
                if after == state:
                    continue  # a claim that comes to nothing
                if shift is not None:
                    after = (*after[:-1], after[-1] - (1 << shift))
                yield cause, after

    def _tried(self, cause: int, index: int, state: State) -> State:
        action = self.actions[cause]
        try:
            return self.perform(state, action)
        except Violation as violation:
            raise _Found(index, action, violation) from violation


class _Found(Exception):
    """An action led to a violation."""

    def __init__(self, index: int, action: Action, violation: Violation) -> None:
        super().__init__(str(violation))
        self.index = index
        self.action = action
        self.violation = violation


def _why_stop(states: int, states_max: int, until_s: float) -> str:
    if states >= states_max:
        return f"{states_max} states were seen"
    if time.monotonic() >= until_s:
        return "the time was over"
    return ""
