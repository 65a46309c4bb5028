"""What can be done to a simulated cluster while it works: one function for each kind of fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from random import Random

from twisted.python.failure import Failure

from txvbcast.absences import Change, HeldChange, Notice
from txvbcast.core.journal import RUNS_MAX
from txvbcast.errors import NoQuorum, Unsafe
from txvbcast.interfaces import Go
from txvbcast.sim.network import SimNetwork
from txvbcast.sim.node import SimNode
from txvbcast.sim.world import World

#: How often the office changes hands while a node is away: more often than a START has room for epochs.
MOVES = 2 * RUNS_MAX

Fault = Callable[["Disturber", int], None]

#: Every kind of fault, by name.
FAULTS: dict[str, Fault] = {}


def _fault(function: Fault) -> Fault:
    FAULTS[function.__name__] = function
    return function


def _swallow(failure: Failure, *expected: type[Exception]) -> None:
    failure.trap(*expected)


class Disturber:
    """Does things to a world that end by themselves after a while."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random
        self.stopping: set[SimNode] = set()
        self.held: list[HeldChange] = []
        self.restless = False
        self.peaceful = False

    def disturb(self, kind: str) -> None:
        """Let a fault of this kind begin, at a node drawn by chance."""
        node_id = self.random.choice(list(self.world.nodes))
        self.world.note(f"{kind} at node {node_id}")
        FAULTS[kind](self, node_id)

    def make_peace(self) -> None:
        """Heal, thaw, restart; every change is over."""
        world = self.world
        self.peaceful = True
        world.note("peace")
        world.network.heal()
        world.disk_factor.update(dict.fromkeys(world.disks, 1.0))
        self.restless = False
        for held in self.held:
            held.end("cancelled")
        for node_id, node in list(world.nodes.items()):
            node.sends_left = None
            world.disks[node_id].error = None
            if node.running and node.frozen:
                node.thaw()
            if node.running and node in self.stopping:
                world.crash(node_id)
            if not node.running:
                world.restart(node_id)
            for record in world.nodes[node_id].driver.absences.documents():
                self.end(node_id, int(str(record["change_id"])))

    # --- what the kinds are made of ---------------------------------------------------------

    def later(self, delay_s: float, function: Callable[..., object], *args: object) -> None:
        """Do something when ``delay_s`` seconds of the world's time have passed."""
        self.world.clock.post(delay_s, function, *args)

    def able(self, node_id: int) -> bool:
        """Whether a node runs and is not stopped."""
        return self.world.nodes[node_id].able

    def others(self, node_id: int) -> list[int]:
        """All nodes but this one."""
        return [peer for peer in self.world.nodes if peer != node_id]

    def announce(
        self,
        node_id: int,
        expected_s: float,
        holdable: bool,
        then: Callable[[Change], None],
        member: int | None = None,
    ) -> None:
        """A change begins on a node that is able, or it says so of ``member``; ``then`` hears the cluster's answer."""
        if self.able(node_id) and not self.peaceful:
            begun = self.world.nodes[node_id].driver.absences.begin(
                "migrate_out", expected_s, holdable=holdable, wait_s=1.0, member=member
            )
            begun.addCallback(then)
            begun.addErrback(_swallow, NoQuorum)

    def freeze(
        self, node_id: int, seconds: float, then: Callable[[], None] | None = None, clock_stands: bool = False
    ) -> None:
        """Stop a process that is able; let it go on later, if it is still the same one."""
        node = self.world.nodes[node_id]
        if node.able and not self.peaceful:
            node.freeze()
            self.later(seconds, self._thaw, node, then, clock_stands)

    def _thaw(self, node: SimNode, then: Callable[[], None] | None, clock_stood: bool) -> None:
        if self.world.nodes[node.node_id] is node and node.running and node.frozen:
            node.thaw(clock_stood)
            if then is not None:
                then()

    def end(self, node_id: int, change_id: int, outcome: str = "done") -> None:
        """The change is over, if the node still knows of it."""
        if self.able(node_id):
            driver = self.world.nodes[node_id].driver
            if any(
                record["change_id"] == change_id and not record["outcome"] for record in driver.absences.documents()
            ):
                driver.absences.end(change_id, outcome)

    def kill(self, node_id: int) -> None:
        """Kill a process; a random part of what its disk had under way is kept."""
        if self.world.nodes[node_id].running:
            self.world.crash(node_id, self.random.choice([0.0, 1.0, self.random.random()]))
        self.revive(node_id)

    def revive(self, node_id: int) -> None:
        """Start it again later, if it does not run then."""
        self.later(self.random.choice([0.05, 0.5, 3.0]), self._restart, node_id)

    def _restart(self, node_id: int) -> None:
        if not self.world.nodes[node_id].running:
            self.world.disks[node_id].error = None
            self.world.restart(node_id)

    def cut(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Nothing passes over these directed pairs for a while."""
        cut = set(pairs)
        self.world.network.cut |= cut
        self.later(self.random.choice([0.3, 1.0, 3.0]), self.world.network.cut.difference_update, cut)

    def part(self, ones: Iterable[int], others: Iterable[int]) -> None:
        """Nothing passes between these nodes for a while, and their connections break."""
        pairs = [(one, other) for one in ones for other in others]
        self.cut(pair for one, other in pairs for pair in ((one, other), (other, one)))
        for one, other in pairs:
            self.world.network.break_link(one, other, "cut off")


# --- announced absences -------------------------------------------------------------------------


@_fault
def announced(disturber: Disturber, node_id: int) -> None:
    """Announce, wait for the answer, be away about as long as announced, or much longer."""
    random = disturber.random
    expected_s = random.uniform(0.3, 4.0)
    actual_s = expected_s * random.choice([0.2, 0.9, 1.2, 3.0])
    clock_stands = random.random() < 0.3

    def go(change: Change) -> None:
        disturber.freeze(node_id, actual_s, lambda: disturber.end(node_id, change.change_id), clock_stands)

    disturber.announce(node_id, expected_s, holdable=True, then=go)


@_fault
def punctual(disturber: Disturber, node_id: int) -> None:
    """As it should be: announce when all are there, go only if the cluster can afford it, be back in time."""
    expected_s = disturber.random.uniform(0.3, 3.0)
    actual_s = expected_s * disturber.random.uniform(0.2, 0.9)

    def go(change: Change) -> None:
        if change.confirmed:
            disturber.freeze(node_id, actual_s, lambda: disturber.end(node_id, change.change_id))
        else:
            disturber.end(node_id, change.change_id, "cancelled")

    if all(node.able and node.driver.replica.own.state == "normal" for node in disturber.world.nodes.values()):
        disturber.announce(node_id, expected_s, holdable=True, then=go)


@_fault
def hasty(disturber: Disturber, node_id: int) -> None:
    """Announce and be gone within milliseconds."""
    expected_s = disturber.random.uniform(0.3, 3.0)
    opened: list[Change] = []
    disturber.announce(node_id, expected_s, holdable=False, then=opened.append)

    def end() -> None:
        for change in opened:
            disturber.end(node_id, change.change_id)

    actual_s = expected_s * disturber.random.uniform(0.5, 2.0)
    disturber.later(disturber.random.uniform(0.0, 0.02), disturber.freeze, node_id, actual_s, end)


@_fault
def late(disturber: Disturber, node_id: int) -> None:
    """Be gone first; the announcement is made only when the process goes on again."""
    random = disturber.random

    def announce() -> None:
        disturber.announce(node_id, 2.0, holdable=False, then=end_later)

    def end_later(change: Change) -> None:
        disturber.later(random.uniform(0.1, 2.0), disturber.end, node_id, change.change_id)

    disturber.freeze(node_id, random.uniform(0.2, 2.0), announce)


@_fault
def cancelled(disturber: Disturber, node_id: int) -> None:
    """Announce an absence that never comes."""
    outcome = disturber.random.choice(["cancelled", "failed"])
    holdable = disturber.random.random() < 0.5
    disturber.announce(node_id, 2.0, holdable, lambda change: disturber.end(node_id, change.change_id, outcome))


@_fault
def overlapping(disturber: Disturber, node_id: int) -> None:
    """Two changes at a time, one of them with a new estimate, each ended by itself."""
    random = disturber.random

    def begin(expected_s: float) -> None:
        disturber.announce(node_id, expected_s, holdable=True, then=lambda change: opened(change, expected_s))

    def opened(change: Change, expected_s: float) -> None:
        disturber.later(expected_s * random.uniform(0.3, 1.5), disturber.end, node_id, change.change_id)
        disturber.later(expected_s * random.uniform(0.1, 1.0), estimate, change)

    def estimate(change: Change) -> None:
        driver = disturber.world.nodes[node_id].driver
        known = any(
            record["change_id"] == change.change_id and not record["outcome"] for record in driver.absences.documents()
        )
        if disturber.able(node_id) and known:
            driver.absences.update(change.change_id, random.uniform(0.1, 3.0))

    begin(random.uniform(0.5, 2.0))
    disturber.later(random.uniform(0.0, 1.0), begin, random.uniform(0.5, 2.0))
    disturber.later(random.uniform(0.0, 2.0), disturber.freeze, node_id, random.uniform(0.1, 1.0))


@_fault
def together(disturber: Disturber, node_id: int) -> None:
    """Several nodes announce their absence at nearly the same time."""
    several = disturber.random.sample(
        list(disturber.world.nodes), disturber.random.randint(2, len(disturber.world.nodes))
    )
    for each in several:
        disturber.later(disturber.random.uniform(0.0, 0.05), announced, disturber, each)


@_fault
def forgotten(disturber: Disturber, node_id: int) -> None:
    """Announce, and never say that it is over: its time limit has to end it."""
    disturber.announce(node_id, disturber.random.uniform(0.2, 1.0), holdable=False, then=lambda change: None)


@_fault
def in_turn(disturber: Disturber, node_id: int) -> None:
    """Several nodes are to be away, each waits for its turn, and goes at its bound in any case."""
    random = disturber.random
    for each in random.sample(list(disturber.world.nodes), random.randint(2, len(disturber.world.nodes))):
        disturber.later(random.uniform(0.0, 0.05), _hold, disturber, each, random.uniform(0.2, 2.0))


def _hold(disturber: Disturber, node_id: int, expected_s: float) -> None:
    node = disturber.world.nodes[node_id]
    if not node.able or disturber.peaceful:
        return
    hold_s = disturber.random.choice([0.0, 0.5, 5.0])
    notice = Notice("migrate_out", {}, "told", True, hold_s, expected_s=expected_s)
    held = node.driver.absences.hold(notice)
    disturber.held.append(held)

    def go(_: Go) -> None:
        disturber.freeze(node_id, expected_s * disturber.random.choice([0.2, 0.9, 1.2]), end)

    def end() -> None:
        if disturber.world.nodes[node_id] is node and node.able:
            held.end("done")

    held.go.addCallback(go)


@_fault
def told(disturber: Disturber, node_id: int) -> None:
    """Another node's operator says that this one will be away: it is or is not, and somebody ends it or nobody does."""
    random = disturber.random
    teller, expected_s = random.choice(disturber.others(node_id)), random.uniform(0.2, 3.0)
    away_s = expected_s * random.choice([0.0, 0.2, 0.9, 2.0])
    clock_stands, after_s = random.random() < 0.3, random.choice([0.0, 0.0, 0.05, 0.3])

    def go(change: Change) -> None:
        disturber.later(random.uniform(0.0, 0.1), disturber.freeze, node_id, away_s, None, clock_stands)
        if random.random() < 0.7:
            disturber.later(random.uniform(0.0, 2 * expected_s), disturber.end, teller, change.change_id)

    if after_s:
        disturber.freeze(node_id, away_s or after_s, clock_stands=clock_stands)
    disturber.later(after_s, disturber.announce, teller, expected_s, True, go, node_id)


# --- pauses without a word ---------------------------------------------------------------------------


@_fault
def frozen(disturber: Disturber, node_id: int) -> None:
    """Stop a process."""
    disturber.freeze(node_id, disturber.random.choice([0.1, 0.3, 1.0, 3.0, 8.0]))


@_fault
def clock_stopped(disturber: Disturber, node_id: int) -> None:
    """Stop a whole guest with its clock: it cannot know that it was away."""
    disturber.freeze(node_id, disturber.random.choice([0.1, 0.5, 1.5, 5.0]), clock_stands=True)


@_fault
def noticed(disturber: Disturber, node_id: int) -> None:
    """A guest is stopped with its clock, and learns of it from something outside of its clock."""
    seconds, node = disturber.random.choice([0.1, 0.5, 1.5]), disturber.world.nodes[node_id]
    notice = partial(_notice, node, seconds)
    disturber.freeze(node_id, seconds, notice, clock_stands=True)


def _notice(node: SimNode, seconds: float) -> None:
    if node.able:
        node.driver.was_paused(seconds, "its generation counter has moved")


@_fault
def stuttering(disturber: Disturber, node_id: int) -> None:
    """A node that gets too little of its CPU: many short pauses."""
    at_s = 0.0
    for _ in range(10):
        at_s += disturber.random.uniform(0.05, 0.4)
        disturber.later(at_s, disturber.freeze, node_id, disturber.random.uniform(0.02, 0.3))


@_fault
def all_frozen(disturber: Disturber, node_id: int) -> None:
    """Every process stops, and they go on one after the other."""
    for each in disturber.world.nodes:
        disturber.freeze(each, disturber.random.uniform(0.5, 3.0))


# --- crashes and disks --------------------------------------------------------------------------------


@_fault
def crashed(disturber: Disturber, node_id: int) -> None:
    """Kill, and start again later."""
    disturber.kill(node_id)


@_fault
def crashed_sending(disturber: Disturber, node_id: int) -> None:
    """Kill between two effects of a step: some of its messages are sent, the others are not."""
    disturber.world.nodes[node_id].sends_left = disturber.random.randint(0, 12)
    disturber.later(0.5, disturber.revive, node_id)


@_fault
def all_crashed(disturber: Disturber, node_id: int) -> None:
    """The power fails everywhere."""
    for each in disturber.world.nodes:
        disturber.kill(each)


@_fault
def stopped(disturber: Disturber, node_id: int) -> None:
    """An operator stops a node in order, and starts it again."""
    if disturber.able(node_id):
        node = disturber.world.nodes[node_id]

        def kill(_: None) -> None:
            if node.running:
                disturber.kill(node_id)

        disturber.stopping.add(node)
        disturber.world.stop(node_id).addCallback(kill)


@_fault
def disk_failed(disturber: Disturber, node_id: int) -> None:
    """The next write of a disk fails: its node stops, and is started on the repaired disk."""
    disturber.world.disks[node_id].error = OSError("the disk has failed")
    disturber.later(0.5, disturber.revive, node_id)


@_fault
def disk_slow(disturber: Disturber, node_id: int) -> None:
    """A disk takes much longer for a while."""
    disturber.world.disk_factor[node_id] = disturber.random.choice([10.0, 100.0])
    disturber.later(2.0, disturber.world.disk_factor.update, {node_id: 1.0})


# --- the network ------------------------------------------------------------------------------------------


@_fault
def isolated(disturber: Disturber, node_id: int) -> None:
    """Cut a node off."""
    disturber.part([node_id], disturber.others(node_id))


@_fault
def split(disturber: Disturber, node_id: int) -> None:
    """Two halves that do not hear each other."""
    nodes = disturber.random.sample(list(disturber.world.nodes), len(disturber.world.nodes))
    middle = disturber.random.randint(1, len(nodes) - 1)
    disturber.part(nodes[:middle], nodes[middle:])


@_fault
def bridged(disturber: Disturber, node_id: int) -> None:
    """Two halves that hear only this node, which hears both."""
    nodes = disturber.others(node_id)
    middle = disturber.random.randint(0, len(nodes))
    disturber.part(nodes[:middle], nodes[middle:])


@_fault
def ringed(disturber: Disturber, node_id: int) -> None:
    """Every node hears only its two neighbours."""
    nodes = disturber.random.sample(list(disturber.world.nodes), len(disturber.world.nodes))
    for place, one in enumerate(nodes):
        disturber.part([one], [other for other in nodes[place + 2 :] if (nodes[0], nodes[-1]) != (one, other)])


@_fault
def one_way(disturber: Disturber, node_id: int) -> None:
    """Cut one direction of one pair."""
    disturber.cut([(node_id, disturber.random.choice(disturber.others(node_id)))])


@_fault
def deaf(disturber: Disturber, node_id: int) -> None:
    """A node is heard and hears nobody, or the other way round."""
    away = [(node_id, other) for other in disturber.others(node_id)]
    disturber.cut(away if disturber.random.random() < 0.5 else [(other, one) for one, other in away])


@_fault
def clogged(disturber: Disturber, node_id: int) -> None:
    """What some connections carry comes only later, each at its own time, and all of it at once."""
    now_s = disturber.world.clock.seconds()
    for other in disturber.others(node_id):
        if disturber.random.random() < 0.6:
            disturber.world.network.clog(node_id, other, now_s + disturber.random.uniform(0.1, 2.0))


@_fault
def slow_link(disturber: Disturber, node_id: int) -> None:
    """One pair of nodes has a slow connection for a while."""
    network = disturber.world.network
    pair = (node_id, disturber.random.choice(disturber.others(node_id)))
    network.slow_s.update(dict.fromkeys([pair, pair[::-1]], disturber.random.choice([0.02, 0.1, 0.5])))
    for each in (pair, pair[::-1]):
        disturber.later(3.0, _quicken, network, each)


def _quicken(network: SimNetwork, pair: tuple[int, int]) -> None:
    network.slow_s.pop(pair, None)


@_fault
def flapping(disturber: Disturber, node_id: int) -> None:
    """One connection breaks again and again."""
    other = disturber.random.choice(disturber.others(node_id))
    for place in range(8):
        disturber.later(0.15 * place, disturber.world.network.break_link, node_id, other, "flapping")


@_fault
def contested(disturber: Disturber, node_id: int) -> None:
    """The master is silent, and the others hear of each other's claims at very different times."""
    world, random = disturber.world, disturber.random
    master = world.master() or node_id
    for one in world.nodes:
        for other in disturber.others(one):
            world.network.slow_s[one, other] = random.choice([0.0, 0.05, 0.3, 1.0])
            disturber.later(random.uniform(2.0, 4.0), _quicken, world.network, (one, other))
    disturber.freeze(master, random.uniform(1.0, 4.0))


# --- people ---------------------------------------------------------------------------------------------------


@_fault
def moved(disturber: Disturber, node_id: int) -> None:
    """An operator wants that node to be master."""
    asked = disturber.random.choice(list(disturber.world.nodes))
    if disturber.able(asked):
        moving = disturber.world.nodes[asked].driver.move_master(node_id)
        moving.addErrback(_swallow, Unsafe, NoQuorum)


@_fault
def restless(disturber: Disturber, node_id: int) -> None:
    """While a node is away the office goes round so often that no START names all epochs that it has missed."""
    if disturber.restless or not disturber.world.nodes[node_id].running:
        return
    disturber.restless = True
    disturber.world.crash(node_id)
    _move_on(disturber, node_id, MOVES)


def _move_on(disturber: Disturber, absent: int, moves: int) -> None:
    if moves == 0 or not disturber.restless:
        disturber.restless = False
        disturber.revive(absent)
        return
    world = disturber.world
    to = disturber.random.choice([other for other in disturber.others(absent) if other != world.master()] or [absent])
    if disturber.able(to):
        moved(disturber, to)
        world.submit(to, b"%.6f" % world.clock.seconds())
    disturber.later(disturber.world.config.heartbeat.interval_s, _move_on, disturber, absent, moves - 1)
