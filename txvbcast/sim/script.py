"""Stories: a text of commands for a simulated cluster, with what they lead to.

A line is a command; the lines below it that begin with ``  `` are its output.  What a story
prints has no times, so it changes only when the behaviour does.  The idea of executable
stories whose expected output stands in the same file is etcd-io/raft's.
"""

from __future__ import annotations

from collections.abc import Callable

from txvbcast.absences import Change
from txvbcast.errors import NoQuorum, Unsafe
from txvbcast.sim.world import Outcome, World
from txvbcast.units import parse_duration
from txvbcast.wire.messages import Mode

#: Events that a story tells of.
TOLD = ("node_inactive", "node_catching_up", "node_normal", "node_failed", "master_changed", "quorum_lost")
#: Time that ``until`` allows.
PATIENCE_S = 30.0


def play(text: str) -> str:
    """The story with the output that it has now."""
    player = Player()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines.extend(f"  {said}" for said in player.do(line))
    return "\n".join(lines) + "\n"


class Player:
    """Carries out the commands of one story."""

    def __init__(self) -> None:
        self.world = World()
        self._told = 0
        self._named: dict[str, Outcome] = {}
        self._changes: dict[int, Change] = {}
        self._said: list[str] = []
        self._number = 0
        self._loading: tuple[int, ...] = ()

    def do(self, line: str) -> list[str]:
        """Carry out a command; what there is to say about it.

        :raises ValueError: it is no command.
        """
        name, *words = line.split()
        plain = [word for word in words if "=" not in word]
        named = dict(word.split("=", 1) for word in words if "=" in word)
        command: Callable[..., None] | None = getattr(self, f"do_{name}", None)
        if command is None:
            raise ValueError(f"no command is called {name!r}")
        self._said = []
        command(*plain, **named)
        return self._said

    def say(self, text: str) -> None:
        """A line of output."""
        self._said.append(text)

    # --- the cluster ----------------------------------------------------------------------

    def do_cluster(self, nodes: str = "3", seed: str = "1") -> None:
        """``cluster nodes=3``: begin."""
        self.world = World(int(seed), int(nodes))

    def do_run(self, duration: str) -> None:
        """``run 500ms``: let time pass."""
        self.world.run(parse_duration(duration))

    def do_until(self, what: str, *words: str) -> None:
        """``until settled``, ``until master 2``, ``until answered NAME``."""
        conditions: dict[str, Callable[[], bool]] = {
            "settled": self.world.quiet,
            "master": lambda: self.world.master() == int(words[0]),
            "answered": lambda: self._named[words[0]].answer is not None,
            "held": lambda: bool(self.world.nodes[int(words[0])].recorder.held),
        }
        self.world.run_until(conditions[what], PATIENCE_S, f"until {what} {' '.join(words)}")

    def do_events(self) -> None:
        """``events``: what every node has told of since the last time, each thing once."""
        seen: dict[str, set[int]] = {}
        for _, node_id, event in self.world.events[self._told :]:
            if event["kind"] in TOLD:
                seen.setdefault(f"{event['kind']} {event['node_id']}", set()).add(node_id)
        self._told = len(self.world.events)
        for text, nodes in seen.items():
            self.say(f"{text}, on nodes {', '.join(map(str, sorted(nodes)))}")

    def do_status(self) -> None:
        """``status``: every node's master, state and voters."""
        for node in self.world.nodes.values():
            replica = node.driver.replica
            voters = ", ".join(map(str, replica.journal.table.voters))
            alive = "dead" if not node.running else "frozen" if node.frozen else replica.own.state
            self.say(f"node {node.node_id}: {alive}, master {replica.master}, voters {voters}")

    def do_check(self) -> None:
        """``check``: equal logs, and everything as clients heard it."""
        self.world.check()
        kinds: dict[str, int] = {}
        for outcome in self.world.outcomes:
            kinds[outcome.kind] = kinds.get(outcome.kind, 0) + 1
        self.say(", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "nothing submitted")

    # --- clients ----------------------------------------------------------------------------

    def do_submit(self, node: str, name: str, mode: str = "broadcast", timeout: str = "5s") -> None:
        """``submit 2 NAME mode=2pc``: a client of node 2 hands in a transaction."""
        self._named[name] = self.world.submit(int(node), name.encode(), Mode(mode), parse_duration(timeout))

    def do_outcome(self, name: str) -> None:
        """``outcome NAME``: what the client has heard."""
        outcome = self._named[name]
        who = getattr(outcome.answer, "who", ())
        reason = getattr(outcome.answer, "reason", "")
        named = f" (nodes {', '.join(map(str, who))})" if who else ""
        self.say(f"{outcome.kind}{': ' + reason if reason else ''}{named}")

    def do_load(self, *nodes: str, every: str = "10ms", mode: str = "broadcast") -> None:
        """``load 2 3 every=10ms``: clients of these nodes hand in transactions all the time; ``load`` ends it."""
        self._loading = tuple(map(int, nodes))
        self._load(self._loading, parse_duration(every), Mode(mode))

    def _load(self, nodes: tuple[int, ...], every_s: float, mode: Mode) -> None:
        if nodes is not self._loading:
            return
        for node_id in nodes:
            self._number += 1
            self.world.submit(node_id, b"load %d" % self._number, mode)
        self.world.clock.callLater(every_s, self._load, nodes, every_s, mode)

    def do_read(self, node: str) -> None:
        """``read 2``: a linearizable read on node 2."""
        heard: list[str] = []
        read = self.world.nodes[int(node)].driver.read_barrier()
        read.addCallbacks(
            lambda seq: heard.append("served"),
            lambda failure: heard.append(f"{failure.trap(NoQuorum).__name__}: {failure.value.reason}"),
        )
        self.world.run_until(lambda: bool(heard), PATIENCE_S, "the read")
        self.say(heard[0])

    def do_refuse(self, node: str, reason: str = "") -> None:
        """``refuse 2 reason=full``: node 2 refuses from now on; without a reason it accepts."""
        self.world.nodes[int(node)].recorder.refuse = lambda tx: reason

    def do_hold(self, node: str) -> None:
        """``hold 2``: node 2 does not answer votes until ``answer 2``."""
        self.world.nodes[int(node)].recorder.holding = True

    def do_answer(self, node: str) -> None:
        """``answer 2``: node 2 gives the votes it has held back, and votes at once from now on."""
        self.world.nodes[int(node)].recorder.holding = False
        self.world.nodes[int(node)].recorder.answer()

    def do_prepared(self) -> None:
        """``prepared``: what each node has prepared and what it has released."""
        for node in self.world.nodes.values():
            recorder = node.recorder
            names = ", ".join(tx.payload.decode() for tx in recorder.prepared.values()) or "nothing"
            released = ", ".join(payload.decode() for payload in recorder.aborted) or "nothing"
            self.say(f"node {node.node_id}: prepared {names}, released {released}")

    # --- what happens to nodes ------------------------------------------------------------------

    def do_announce(self, node: str, expected: str = "4s", kind: str = "migrate_out", hasty: str = "no") -> None:
        """``announce 1 expected=4s``: node 1 announces and waits for the answer (not if ``hasty=yes``)."""
        heard: list[Change] = []
        begun = self.world.nodes[int(node)].driver.absences.begin(
            kind, parse_duration(expected), holdable=hasty == "no"
        )
        begun.addCallback(heard.append)
        begun.addCallback(lambda _: self._changes.__setitem__(int(node), heard[0]))
        if hasty == "no":
            self.world.run_until(lambda: bool(heard), PATIENCE_S, "an answer to the announcement")
            self.say("confirmed" if heard[0].confirmed else f"not confirmed: {heard[0].unsafe}")

    def do_tell(self, node: str, member: str, expected: str = "4s", kind: str = "migrate_out") -> None:
        """``tell 2 3 expected=4s``: an operator of node 2 says that node 3 will be away."""
        heard: list[Change] = []
        begun = self.world.nodes[int(node)].driver.absences.begin(kind, parse_duration(expected), member=int(member))
        begun.addCallback(heard.append)
        self.world.run_until(lambda: bool(heard), PATIENCE_S, "an answer to the third party's word")
        self.say("confirmed" if heard[0].confirmed else f"not confirmed: {heard[0].unsafe}")

    def do_end(self, node: str, outcome: str = "done") -> None:
        """``end 1``: the change on node 1 is over."""
        driver = self.world.nodes[int(node)].driver
        for record in driver.absences.documents():
            if record["outcome"] is None:
                driver.absences.end(int(str(record["change_id"])), outcome)

    def do_estimate(self, node: str, expected: str) -> None:
        """``estimate 1 9s``: the change on node 1 will take that long from now."""
        driver = self.world.nodes[int(node)].driver
        latest = max(int(str(record["change_id"])) for record in driver.absences.documents())
        driver.absences.update(latest, parse_duration(expected))

    def do_may(self, node: str) -> None:
        """``may 2``: may node 2 be absent now?"""
        self.say(self.world.nodes[int(node)].driver.absences.refusal() or "yes")

    def do_freeze(self, *nodes: str) -> None:
        """``freeze 1``: stop the process."""
        for node in nodes:
            self.world.freeze(int(node))

    def do_thaw(self, *nodes: str) -> None:
        """``thaw 1``: let it go on."""
        for node in nodes:
            self.world.thaw(int(node))

    def do_crash(self, *nodes: str) -> None:
        """``crash 1``: kill the process."""
        for node in nodes:
            self.world.crash(int(node))

    def do_restart(self, *nodes: str) -> None:
        """``restart 1``: start it again."""
        for node in nodes:
            self.world.restart(int(node))

    def do_isolate(self, node: str) -> None:
        """``isolate 3``: cut node 3 off."""
        self.world.network.isolate(int(node))

    def do_heal(self) -> None:
        """``heal``: the network works again."""
        self.world.network.heal()

    def do_move(self, asked: str, to: str) -> None:
        """``move 3 2``: an operator asks node 3 to make node 2 master."""
        heard: list[str] = []
        moving = self.world.nodes[int(asked)].driver.move_master(int(to))
        moving.addCallbacks(
            lambda _: heard.append("moved"),
            lambda failure: heard.append(f"{failure.trap(Unsafe).__name__}: {failure.value}"),
        )
        self.world.run_until(lambda: bool(heard), PATIENCE_S, "the move")
        self.say(heard[0])
