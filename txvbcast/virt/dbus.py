"""A connection to a D-Bus message bus, from Twisted's reactor, with file descriptors.

Jeepney writes and reads the messages; Twisted's UNIX sockets carry them and hand over the descriptors.
The bus has checked every message that it forwards; what a bus could not say ends the connection.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.bus import get_connectable_addresses
from jeepney.fds import FileDescriptor
from jeepney.low_level import Message, Parser
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from txvbcast.virt.polling import Unreachable

#: The largest message that is read; those that an adapter wants are a few kilobytes.
MESSAGE_BYTES_MAX: Final = 1024 * 1024

#: The longest path that a UNIX socket can have on Linux.
PATH_BYTES_MAX: Final = 107

#: The bus itself, as an object on the bus.
BUS: Final = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")

# What the parser raises for bytes that are no D-Bus messages.
_MALFORMED: Final = (ValueError, LookupError, TypeError, AssertionError, RecursionError, struct.error)


class BusError(Unreachable):
    """A call was answered by an error; ``name`` is D-Bus's name for it."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


def socket_path(address: str) -> str:
    """Where the bus at a D-Bus ``address`` such as ``unix:path=/run/dbus/system_bus_socket`` listens.

    :raises ValueError: it is no address of a UNIX socket.
    """
    try:
        path: str = next(get_connectable_addresses(address))
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"expected a D-Bus address such as unix:path=/run/dbus/system_bus_socket: {error}") from error
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise ValueError(f"expected a path of at most {PATH_BYTES_MAX} bytes, got {path!r}")
    return path


@implementer(IFileDescriptorReceiver)
class Bus(Protocol):
    """One connection, from the greeting on.

    :param on_signal: told of every signal.
    :param on_lost: told once, why the connection has ended.
    :ivar ready: fires when the bus has said Hello, or fails with :class:`Unreachable`.
    """

    transport: Any

    def __init__(self, on_signal: Callable[[Message], None], on_lost: Callable[[str], None]) -> None:
        self._on_signal = on_signal
        self._on_lost = on_lost
        self._problem = ""
        self._authenticator = Authenticator(enable_fds=True)
        self._parser = Parser()
        self._descriptors: list[FileDescriptor] = []
        self._serials = count(1)
        self._calls: dict[int, Deferred[Message]] = {}
        self.ready: Deferred[None] = Deferred()

    # --- calls ---------------------------------------------------------------------------

    def call(self, address: DBusAddress, method: str, signature: str | None = None, *body: object) -> Deferred[Message]:
        """Call a method; fires with the reply, or fails with :class:`BusError` or another :class:`Unreachable`.

        A reply to a call that was cancelled is dropped.
        """
        serial = next(self._serials)
        answer: Deferred[Message] = Deferred(lambda _: self._forget(serial))
        self._calls[serial] = answer
        self.transport.write(new_method_call(address, method, signature, body).serialise(serial=serial))
        return answer

    def _forget(self, serial: int) -> None:
        del self._calls[serial]

    def close(self, problem: str) -> None:
        """End it."""
        self._problem = self._problem or problem
        self.transport.abortConnection()

    # --- what comes in -------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Say who we are; the kernel says the same to the bus."""
        self.transport.write(self._authenticator.data_to_send())

    def fileDescriptorReceived(self, descriptor: int) -> None:
        """It belongs to a message of which the first bytes come next."""
        os.set_inheritable(descriptor, False)
        self._descriptors.append(FileDescriptor(descriptor))

    def dataReceived(self, data: bytes) -> None:
        """Part of the greeting, or of messages."""
        if self._authenticator.authenticated:
            self._read(data)
        else:
            self._greet(data)

    def _greet(self, data: bytes) -> None:
        try:
            self._authenticator.feed(data)
        except AuthenticationError as error:
            self.close(f"it does not let this node in: {error}")
            return
        if not self._authenticator.authenticated:
            self.transport.write(self._authenticator.data_to_send())
        else:
            self.transport.write(BEGIN)
            self.call(BUS, "Hello").addCallback(lambda _: None).chainDeferred(self.ready)

    def _read(self, data: bytes) -> None:
        descriptors, self._descriptors = self._descriptors, []
        self._parser.add_data(data, descriptors)
        while not self._problem and (message := self._next_message()) is not None:
            self._on_message(message)

    def _next_message(self) -> Message | None:
        try:
            message: Message | None = self._parser.get_next_message()
        except _MALFORMED as error:
            self.close(f"it does not speak D-Bus: {error!r}")
            return None
        if (self._parser.next_msg_size or 0) > MESSAGE_BYTES_MAX:
            self.close(f"it sends a message of {self._parser.next_msg_size} bytes; {MESSAGE_BYTES_MAX} are accepted")
        return message

    def _on_message(self, message: Message) -> None:
        kind, fields = message.header.message_type, message.header.fields
        if kind is MessageType.signal:
            self._on_signal(message)
            return
        answer = self._calls.pop(fields.get(HeaderFields.reply_serial, 0), None)
        if answer is None:
            return  # a call to this node, which has nothing to call, or a reply that is no longer waited for
        if kind is MessageType.error:
            text = message.body[0] if message.body else ""
            answer.errback(BusError(str(fields.get(HeaderFields.error_name)), str(text)))
        else:
            answer.callback(message)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """It has ended: so has everything that was asked."""
        problem = self._problem or f"the connection has ended: {reason.getErrorMessage()}"
        calls, self._calls = self._calls, {}
        for answer in calls.values():
            answer.errback(Unreachable(problem))
        if not self.ready.called:
            self.ready.errback(Unreachable(problem))
        self._on_lost(problem)


def sender(message: Message) -> str:
    """The unique name of whoever sent it; the bus vouches for it."""
    return str(message.header.fields.get(HeaderFields.sender, ""))


def member(message: Message) -> tuple[str, str]:
    """The interface and the name of a signal."""
    fields: dict[Any, Any] = message.header.fields
    return str(fields.get(HeaderFields.interface, "")), str(fields.get(HeaderFields.member, ""))
