"""Hears from the kernel that a container, or the virtual machine in a control group, is frozen.

The file ``cgroup.events`` of a version 2 group has a line ``frozen 0`` or ``frozen 1``.  The kernel tells of
a change by POLLPRI, which Twisted's reactors do not listen to, and with it POLLERR, for which they would
close the file.  But an epoll that waits for POLLPRI is itself a file that becomes readable: that is what is
given to the reactor.  (inotify tells of changes too, but not of the group's removal.)
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.interfaces import IChangeAdapter, IChangeSink, Surroundings
from txvbcast.virt.options import Options
from txvbcast.virt.polling import Poller, Unreachable

#: The file has two lines of some ten bytes.
_EVENTS_BYTES_MAX: Final = 4096
#: A round of looking is one read; the poller wants a bound.
_ROUND_S_MAX: Final = 10.0


def make(options: Mapping[str, object], surroundings: Surroundings) -> Cgroup:
    """The adapter with these options, see ``docs/adapters/cgroup.md``.

    :raises ValueError: an option.
    """
    given = Options(options)
    path = given.text("path")
    member = given.text("member", surroundings.node_name)
    interval_s = given.duration_s("interval", "5s", least_s=0.1)
    given.finish()
    if not os.path.isabs(path):
        raise ValueError(f"path: expected an absolute path, such as /sys/fs/cgroup/machine.slice/guest, got {path}")
    if member not in surroundings.members:
        raise ValueError(f"member: there is no {member!r}; expected one of: {', '.join(surroundings.members)}")
    own = own_cgroup(path)
    if own is not None and own.is_relative_to(os.path.realpath(path)):
        raise ValueError(f"path: this node itself is in {path}, and cannot see anything while that is frozen")
    return Cgroup(path, surroundings.members[member], interval_s, surroundings)


def own_cgroup(path: str) -> Path | None:
    """Where this process is, in the hierarchy that ``path`` is in; None if that cannot be told."""
    mount = Path(os.path.realpath(path))
    while not mount.is_mount():
        mount = mount.parent
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    return next((mount / line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)


class Gone(Unreachable):
    """There is no such group now."""


@implementer(IChangeAdapter)
class Cgroup:
    """Tells of one group."""

    kinds: tuple[str, ...] = ("freeze",)

    def __init__(self, path: str, member: int, interval_s: float, surroundings: Surroundings) -> None:
        self._path = path
        self._member = None if member == surroundings.node_id else member
        self._interval_s = interval_s
        self._reactor: Any = surroundings.reactor
        self._events: _Events | None = None
        self._poller: Poller | None = None
        self._was_frozen = False

    def start(self, sink: IChangeSink) -> None:
        """Look at the group, and then at each of its changes."""
        self._sink = sink
        self._poller = Poller(self._reactor, self._look, self._interval_s, _ROUND_S_MAX, sink.lost)
        self._poller.start()

    def stop(self) -> None:
        """Look no more."""
        if self._poller is not None:
            self._poller.stop()
        self._close()

    async def _look(self) -> None:
        """The kernel says when the file changes, so this is for what was missed."""
        self._read()
        self._sink.connected(f"{self._path}/cgroup.events")

    def _on_change(self) -> None:
        try:
            self._read()
        except Unreachable as error:
            self._sink.lost(str(error))

    def _read(self) -> None:
        """Open the file if need be, and do as it says."""
        try:
            if self._events is None:
                self._events = _Events(self._path, self._reactor, self._on_change)
            self._apply(self._events.frozen())
        except Unreachable as error:
            self._close()
            if isinstance(error, Gone) and self._was_frozen:
                # Who was frozen there is not there any more: the freeze has ended, and not well.
                self._was_frozen = False
                self._sink.end(self._path, "failed")
            raise

    def _apply(self, frozen: bool) -> None:
        was_frozen, self._was_frozen = self._was_frozen, frozen
        if frozen and not was_frozen:
            self._sink.begin("freeze", {}, self._path, holdable=False, member=self._member)
        elif was_frozen and not frozen:
            self._sink.end(self._path, "done")

    def _close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None


@implementer(IReadDescriptor)
class _Events:
    """The file ``cgroup.events`` of a group, until it is closed.

    :raises Unreachable: it cannot be opened, or is none.
    """

    def __init__(self, path: str, reactor: Any, changed: Callable[[], None]) -> None:
        self._path = path
        self._reactor = reactor
        self._changed = changed
        self._file, self._epoll = _watched(path)
        reactor.addReader(self)

    def close(self) -> None:
        """Watch it no more."""
        self._reactor.removeReader(self)
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._file)

    def frozen(self) -> bool:
        """Whether the group is frozen; waits for the next change from now on.

        :raises Unreachable: the group is gone, or the file says something else.
        """
        try:
            content = os.pread(self._file, _EVENTS_BYTES_MAX, 0)
        except OSError as error:
            raise _unreachable(f"{self._path}/cgroup.events cannot be read", error) from error
        words = content.split()
        state = dict(zip(words[::2], words[1::2], strict=False)).get(b"frozen")
        if state not in (b"0", b"1"):
            raise Unreachable(f"{self._path}/cgroup.events says nothing of 'frozen'; it takes Linux 5.2")
        return state == b"1"

    def fileno(self) -> int:
        """For the reactor."""
        return -1 if self._epoll.closed else self._epoll.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "cgroup"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        self.close()

    def doRead(self) -> None:
        """It has changed."""
        self._changed()


def _watched(path: str) -> tuple[int, select.epoll]:
    name = f"{path}/cgroup.events"
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if os.path.exists(f"{path}/freezer.state"):
            raise Unreachable(
                f"{path} is a control group of version 1, which tells nobody that it is frozen"
            ) from error
        raise _unreachable(f"{name} cannot be opened", error) from error
    epoll = select.epoll()
    try:
        epoll.register(file, select.EPOLLPRI)
    except OSError as error:  # a file of a disk has no events
        epoll.close()
        os.close(file)
        raise Unreachable(f"{name} is no file of a control group") from error
    return file, epoll


def _unreachable(what: str, error: OSError) -> Unreachable:
    if error.errno in (errno.ENOENT, errno.ENODEV):
        return Gone(f"{what}: there is no such group now; it comes with its container or virtual machine")
    return Unreachable(f"{what}: {error.strerror}")
