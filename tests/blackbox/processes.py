"""Disturbances of processes: killed, stopped, frozen with and without a word, starved."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Sequence
from typing import ClassVar, Final, Self

import attrs

from tests.blackbox.disturbance import Disturbance
from tests.blackbox.lab import Lab, LabNode
from txvbcast.cli.failures import Failed

#: How long a starved process is held, and then let go, by turns.
_HELD_S: Final = 0.08
_LET_GO_S: Final = 0.02


@attrs.define(eq=False)
class Kill(Disturbance):
    """Some nodes end by SIGKILL, all at once, and are started again."""

    nodes: tuple[int, ...]

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Mostly one."""
        count = chance.choice((1, 1, 1, 2, len(node_ids)))
        return cls(tuple(chance.sample(list(node_ids), count)))

    def begin(self, lab: Lab) -> None:
        """Kill, and only then wait for the ends."""
        for k in self.nodes:
            lab[k].signal(signal.SIGKILL)
        for k in self.nodes:
            lab[k].reap()

    def heal(self, lab: Lab) -> None:
        """Start."""
        for k in self.nodes:
            lab[k].start()


@attrs.define(eq=False)
class Stop(Disturbance):
    """A node is ended in good order and started again."""

    nodes: tuple[int, ...]

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node."""
        return cls((chance.choice(node_ids),))

    def begin(self, lab: Lab) -> None:
        """As ``systemctl stop`` does."""
        for k in self.nodes:
            lab[k].stop()

    def heal(self, lab: Lab) -> None:
        """Start."""
        for k in self.nodes:
            lab[k].start()


@attrs.define(eq=False)
class Freeze(Disturbance):
    """Some nodes stand still, and nobody was told."""

    nodes: tuple[int, ...]

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Mostly one; never all, which nobody would notice."""
        return cls(tuple(chance.sample(list(node_ids), chance.randint(1, len(node_ids) // 2 + 1))))

    def begin(self, lab: Lab) -> None:
        """Freeze."""
        for k in self.nodes:
            lab[k].freeze()

    def heal(self, lab: Lab) -> None:
        """Thaw."""
        for k in self.nodes:
            lab[k].thaw()


@attrs.define(eq=False)
class Depose(Disturbance):
    """Whoever is master stands still until another is master, and goes on with the requests that came meanwhile."""

    alone: ClassVar[bool] = True
    nodes: tuple[int, ...]
    _frozen: int = attrs.field(default=0, init=False, repr=False)

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Who it will be is not known yet."""
        return cls(tuple(node_ids))

    def begin(self, lab: Lab) -> None:
        """Freeze, and wait for the change."""
        self._frozen = lab.wait_master()
        lab[self._frozen].freeze()
        lab.wait_other_master(self._frozen)

    def heal(self, lab: Lab) -> None:
        """Thaw."""
        lab[self._frozen].thaw()


@attrs.define(eq=False)
class FreezeAnnounced(Disturbance):
    """Some nodes, one after the other, say that they will be away for ``expected_ms`` and stand still; then they say
    that they are back."""

    nodes: tuple[int, ...]
    expected_ms: int
    _change_ids: dict[int, int] = attrs.field(factory=dict, init=False, repr=False)

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """One node or all but one, or something between; the estimate may be too short."""
        count = chance.choice((1, 1, chance.randint(1, len(node_ids) - 1)))
        return cls(tuple(chance.sample(list(node_ids), count)), chance.choice((100, 3000, 3000)))

    def begin(self, lab: Lab) -> None:
        """Announce; whatever the answer is, the change happens: not everything can be held up."""
        body = {"kind": "freeze", "expected_ms": self.expected_ms}
        for k in self.nodes:
            lab.wait_serving(k)
            answer = lab[k].api.send("POST", "/v1/inactive", body=body, wait_s=5.0)
            self._change_ids[k] = answer.field("change_id", int)
            lab[k].freeze()

    def heal(self, lab: Lab) -> None:
        """Thaw, and say so; a node that has noticed that its time is over has ended the absence by itself."""
        for k in self.nodes:
            lab[k].thaw()
            try:
                lab[k].api.send("DELETE", f"/v1/inactive/{self._change_ids[k]}")
            except Failed as failed:
                if failed.kind != "not-found":
                    raise


@attrs.define(eq=False)
class Starve(Disturbance):
    """A node gets a fifth of the processor, in small pieces."""

    nodes: tuple[int, ...]
    _thread: threading.Thread | None = attrs.field(default=None, init=False, repr=False)
    _over: threading.Event = attrs.field(factory=threading.Event, init=False, repr=False)

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node."""
        return cls((chance.choice(node_ids),))

    def begin(self, lab: Lab) -> None:
        """Hold it and let it go by turns, from a thread."""
        self._thread = threading.Thread(target=self._hold, args=(lab[self.nodes[0]],), daemon=True)
        self._thread.start()

    def _hold(self, node: LabNode) -> None:
        while not self._over.is_set():
            node.signal(signal.SIGSTOP)
            self._over.wait(_HELD_S)
            node.signal(signal.SIGCONT)
            self._over.wait(_LET_GO_S)

    def heal(self, lab: Lab) -> None:
        """Let it go for good."""
        self._over.set()
        assert self._thread is not None
        self._thread.join()


@attrs.define(eq=False)
class MoveMaster(Disturbance):
    """The office is moved, as an operator may do at any time."""

    nodes: tuple[int, ...]

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """To any node."""
        return cls((chance.choice(node_ids),))

    def begin(self, lab: Lab) -> None:
        """Order it; the cluster may have reasons not to."""
        lab.wait_serving(self.nodes[0])
        try:
            lab[self.nodes[0]].api.send("POST", "/v1/master", body={"to": self.nodes[0]}, wait_s=5.0)
        except Failed as failed:
            if failed.kind not in ("aborted", "no-quorum", "outcome-unknown"):
                raise

    def heal(self, lab: Lab) -> None:
        """There is nothing to undo."""
