"""Hears from the kernel that the VM generation id has changed.

Linux (``drivers/virt/vmgenid.c``) shows the id itself to nobody.  Linux 6.8, and kernels that carry the patch
(Amazon's for Firecracker), send a uevent about the device whose environment holds ``NEW_VMGENID=1``; the patch
was taken back in 6.9, so that on most machines nothing ever comes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.virt.polling import Unreachable

NETLINK_KOBJECT_UEVENT: Final = 15
#: The group to which the kernel itself sends; another one is udev's.
KERNEL_GROUP: Final = 1
NEW_GENERATION: Final = b"NEW_VMGENID=1"

#: The kernel sends none that is longer.
_UEVENT_BYTES_MAX: Final = 8192
#: What the kernel is asked to keep for us while this process stands still; it has a limit of its own.
_KEPT_BYTES: Final = 1 << 20
#: So many are read before the reactor has its turn.
_UEVENTS_PER_TURN: Final = 100


@implementer(IReadDescriptor)
class Uevents:
    """Listens until it is closed.

    :param changed: called when the generation has changed.
    :raises Unreachable: the kernel does not let this process listen.
    """

    def __init__(self, reactor: Any, changed: Callable[[], None], kept_bytes: int = _KEPT_BYTES) -> None:
        self._reactor = reactor
        self._changed = changed
        self._missed = False
        self._socket = _listening(kept_bytes)
        reactor.addReader(self)

    def close(self) -> None:
        """Listen no more."""
        self._reactor.removeReader(self)
        self._socket.close()

    def check(self) -> None:
        """Say once that uevents were lost.

        :raises Unreachable: the kernel had more of them than it could keep.
        """
        missed, self._missed = self._missed, False
        if missed:
            raise Unreachable(
                "the kernel had more uevents than it keeps; one of a new VM generation may have been lost"
            )

    def fileno(self) -> int:
        """For the reactor."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """For the reactor's log."""
        return "uevents"

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops, or cannot watch the socket."""
        self.close()

    def doRead(self) -> None:
        """Read what has come."""
        for _ in range(_UEVENTS_PER_TURN):
            try:
                uevent, (sender, _) = self._socket.recvfrom(_UEVENT_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:  # ENOBUFS: some are gone, and later ones follow
                self._missed = True
                continue
            # What the kernel sends has the address 0; a process with the right to send has its own.
            if sender == 0 and NEW_GENERATION in uevent.split(b"\0"):
                self._changed()
                return


def _listening(kept_bytes: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        listening = socket.socket(socket.AF_NETLINK, kind, NETLINK_KOBJECT_UEVENT)
    except OSError as error:
        raise Unreachable(
            f"the system lets this process hear no uevents ({error.strerror}); 'uevents: false' does without"
        ) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, kept_bytes)
    listening.bind((0, KERNEL_GROUP))  # open to everybody
    return listening
