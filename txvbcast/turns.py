"""The end of a turn of the event loop, where what has gathered in it goes on together.

One timer serves all who ask in a turn.  Whoever is called may ask again, and lead others to ask: what a turn
leads to on this node is all done before the loop looks at its sockets again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.abstract import FileDescriptor


class Clock(Protocol):
    """What is needed of a reactor or of a simulated clock."""

    def callLater(self, delay_s: float, call: Callable[..., object], /, *args: object) -> object:
        """Call later, in the thread of the event loop."""


class Turn:
    """Calls back at the end of the present turn of ``clock``'s event loop, in the order asked for.

    What others wait for has precedence: a disk that can begin to write, a client that can be answered.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._urgent: deque[Callable[[], None]] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._is_armed = False

    def at_end(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once."""
        self._calls.append(call)
        self._arm()

    def at_end_first(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once, before all that :meth:`at_end` was asked for and is not called yet."""
        self._urgent.append(call)
        self._arm()

    def _arm(self) -> None:
        if not self._is_armed:
            self._is_armed = True
            self._clock.callLater(0, self._end)

    def _end(self) -> None:
        try:
            while self._urgent or self._calls:
                (self._urgent or self._calls).popleft()()
        finally:  # one that raises keeps nobody else from its turn
            self._is_armed = False
            if self._urgent or self._calls:
                self._arm()


def send(transport: Any, data: bytes) -> None:
    """Hand ``data`` to the socket of a connection now, as far as that takes it, and the rest to the reactor.

    ``transport.write`` alone leaves all of it to the next look at the sockets, which costs every hop of a
    transaction one round of the event loop.

    :param transport: provides ITransport; one that cannot send at once, as that of TLS, or that has not sent
        what was written before, or that is about to end, is written to as always.
    """
    view = memoryview(data)
    if _is_idle(transport):
        while view:
            sent = transport.writeSomeData(view)
            if not isinstance(sent, int) or sent == 0:
                break  # an error shows again, and is told, when the reactor writes
            view = view[sent:]
    if view:
        transport.write(bytes(view))


def _is_idle(transport: Any) -> bool:
    """Whether nothing waits of what was written earlier; ``_tempDataLen`` counts what Twisted has not touched yet."""
    return (
        isinstance(transport, FileDescriptor)
        and bool(transport.connected)
        and not transport.disconnecting
        and not transport.dataBuffer
        and not getattr(transport, "_tempDataLen", 1)
    )
