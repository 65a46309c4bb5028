"""Disturbances of disks: slow ones, full ones, and some that fail while they are asked to make writes durable.

A node whose disk fails must end, say why in one line, and have told nobody that what it could not write is durable.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

import attrs

from tests.blackbox.disturbance import Disturbance, Violation
from tests.blackbox.lab import SMALL_DISK_MIB, Lab, LabNode

_SYNCS: Final = "fsync,fdatasync"
#: Which calls fail, with which error, and what the node must say of it.
_WAYS_TO_FAIL: Final = (
    (_SYNCS, "EIO", "disk I/O error"),
    ("pwrite64", "EIO", "disk I/O error"),
    ("pwrite64", "ENOSPC", "full"),
)
#: How long a node may take to need its disk.
_END_S: Final = 60.0


@attrs.define(eq=False)
class Tracer:
    """strace on a running node: changes what the kernel answers it."""

    _process: subprocess.Popen[bytes] | None = None

    def attach(self, lab: Lab, node: LabNode, calls: str, injection: str) -> None:
        """Let ``injection`` happen at ``calls`` of every thread; returns when all are traced."""
        command = ["strace", "-f", "-qq", "-o", os.devnull, f"-etrace={calls}", f"-einject={calls}:{injection}"]
        pid = node.pid
        self._process = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL)
        # A node that is killed by what is injected may be gone before it is seen to be traced, at any moment of this.
        lab.wait(f"node {node.node_id} is traced", lambda: not node.runs or _is_traced(pid))

    def detach(self) -> None:
        """Let the node go."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def _is_traced(pid: int) -> bool:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks)
    except (FileNotFoundError, ProcessLookupError):  # a thread, or the node, has just ended
        return False


@attrs.define(eq=False)
class _Traced(Disturbance):
    """A disturbance by strace."""

    needs: ClassVar[tuple[str, ...]] = ("tracing",)
    nodes: tuple[int, ...]
    _tracer: Tracer = attrs.field(factory=Tracer, init=False, repr=False)

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node."""
        return cls((chance.choice(node_ids),))


@attrs.define(eq=False)
class SlowDisk(_Traced):
    """Each time a node makes something durable, that takes long."""

    delay_ms: int = 100

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node; up to longer than it takes to be missed."""
        return cls((chance.choice(node_ids),), chance.choice((20, 100, 300, 1200)))

    def begin(self, lab: Lab) -> None:
        """Delay."""
        self._tracer.attach(lab, lab[self.nodes[0]], _SYNCS, f"delay_enter={self.delay_ms * 1000}")

    def heal(self, lab: Lab) -> None:
        """Delay no more."""
        self._tracer.detach()


@attrs.define(eq=False)
class KillAtSync(_Traced):
    """A node is killed when it makes something durable for the ``number``-th time from now."""

    alone: ClassVar[bool] = True
    number: int = 1

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node."""
        return cls((chance.choice(node_ids),), chance.randint(1, 6))

    def begin(self, lab: Lab) -> None:
        """Wait until it is dead: clients keep it writing."""
        node = lab[self.nodes[0]]
        self._tracer.attach(lab, node, _SYNCS, f"signal=SIGKILL:when={self.number}")
        lab.wait(f"node {node.node_id} has been killed at a sync", lambda: not node.runs)
        node.reap()

    def heal(self, lab: Lab) -> None:
        """Start it."""
        self._tracer.detach()
        lab[self.nodes[0]].start()


def await_end(lab: Lab, node: LabNode, reason: str) -> None:
    """Wait until a node has ended because of its disk, as an operator would want it to.

    :raises Violation: it did not say why in one line, or ended with another status than 1.
    """
    lab.wait(f"node {node.node_id} has ended, because its disk fails", lambda: not node.runs, _END_S)
    assert node.process is not None
    status = node.process.returncode
    node.reap()
    word = f"node {node.node_id} stops: "
    said = [line for line in node.log.read_text(errors="replace").splitlines() if word in line]
    if status != 1 or not said or reason not in said[-1]:
        raise Violation(f"node {node.node_id} ended on a failing disk with status {status}, and said {said[-1:]}")


@attrs.define(eq=False)
class FailDisk(_Traced):
    """One kind of call of a node fails from now on; the node must end."""

    alone: ClassVar[bool] = True
    calls: str = _SYNCS
    error: str = "EIO"
    reason: str = "disk I/O error"

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node."""
        ways = (
            (_SYNCS, "EIO", "disk I/O error"),
            ("pwrite64", "EIO", "disk I/O error"),
            ("pwrite64", "ENOSPC", "full"),
        )
        return cls((chance.choice(node_ids),), *chance.choice(ways))

    def begin(self, lab: Lab) -> None:
        """Wait until it has ended: clients keep it writing."""
        node = lab[self.nodes[0]]
        lab.wait_serving(node.node_id)  # one that has not started yet says it in another way
        self._tracer.attach(lab, node, self.calls, f"error={self.error}")
        await_end(lab, node, self.reason)

    def heal(self, lab: Lab) -> None:
        """A good disk; start the node."""
        self._tracer.detach()
        lab[self.nodes[0]].start()


@attrs.define(eq=False)
class FillDisk(Disturbance):
    """The small disk of the highest node is filled to the last byte; the node must end when it needs room."""

    needs: ClassVar[tuple[str, ...]] = ("small disk",)
    alone: ClassVar[bool] = True
    nodes: tuple[int, ...]

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """There is one such disk."""
        return cls((max(node_ids),))

    def begin(self, lab: Lab) -> None:
        """Fill it, and wait until the node has ended: clients keep it writing."""
        node = lab[self.nodes[0]]
        lab.wait_serving(node.node_id)
        with _filler(node).open("wb", buffering=0) as file:
            left = SMALL_DISK_MIB << 20
            try:
                while left:
                    left -= file.write(bytes(min(left, 1 << 16)))
            except OSError:  # no room left
                pass
        await_end(lab, node, "full")

    def heal(self, lab: Lab) -> None:
        """Make room; start the node."""
        node = lab[self.nodes[0]]
        _filler(node).unlink()
        node.start()


def _filler(node: LabNode) -> Path:
    return node.data_dir / "filler"
