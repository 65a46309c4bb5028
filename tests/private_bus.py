"""A D-Bus message bus of a test's own, and services on it that the test plays itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jeepney import DBusAddress, HeaderFields, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.low_level import Message
from twisted.internet.defer import Deferred

CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path={path}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/> <allow own="*"/> <allow send_destination="*"/> <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class PrivateBus:
    """dbus-daemon in a folder of its own; the path of a socket must be short.

    :ivar address: its D-Bus address.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bus"))
        self.path = self.folder / "bus"
        self.address = f"unix:path={self.path}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Run it until it listens."""
        configuration = self.folder / "bus.conf"
        configuration.write_text(CONFIGURATION.format(path=self.path))
        words = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--nopidfile", "--print-address"]
        log = self.folder / "bus.log"
        with log.open("a") as errors:
            self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise AssertionError(f"dbus-daemon has ended before it listened: {log.read_text()}")

    def signal(self, number: int) -> None:
        """Stop it, or let it go on, for example."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """End it, and remove what it had."""
        self.stop()
        shutil.rmtree(self.folder)


class Service:
    """One connection to the bus, and the names and methods of a service on it.

    :param methods: by member, what is called with the message and gives the reply; None for no reply.
    :ivar calls: the members and bodies of the calls that came.
    """

    def __init__(self, reactor: Any, address: str, methods: dict[str, Callable[[Message], Message | None]]) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.connection: DBusConnection = open_dbus_connection(address, enable_fds=True)
        self.methods = methods
        self._reactor = reactor
        reactor.addReader(self)

    def own(self, *names: str) -> None:
        """Take names, from their owners if need be."""
        for name in names:
            self.connection.send_and_get_reply(message_bus.RequestName(name, 3), timeout=10)

    def release(self, name: str) -> None:
        """Give a name up."""
        self.connection.send_and_get_reply(message_bus.ReleaseName(name), timeout=10)

    def emit(self, address: DBusAddress, name: str, signature: str, *body: object, to: str | None = None) -> None:
        """Send a signal, to one connection only if ``to`` is given."""
        message = new_signal(address, name, signature, body)
        if to is not None:
            message.header.fields[HeaderFields.destination] = to
        self.connection.send(message)

    def close(self) -> None:
        """Leave the bus."""
        self._reactor.removeReader(self)
        self.connection.close()

    # What the reactor asks of a reader.

    def fileno(self) -> int:
        return self.connection.sock.fileno()

    def logPrefix(self) -> str:
        return "service"

    def connectionLost(self, reason: object) -> None:
        """The reactor has found it closed."""

    def doRead(self) -> None:
        """Answer one message."""
        try:
            message = self.connection.receive(timeout=10)
        except ConnectionResetError:  # the bus has ended
            self._reactor.removeReader(self)
            return
        if message.header.message_type is not MessageType.method_call:
            return
        member = message.header.fields[HeaderFields.member]
        self.calls.append((member, message.body))
        if member not in self.methods:
            reply: Message | None = new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "s", (member,))
        else:
            reply = self.methods[member](message)
        if reply is not None:
            self.connection.send(reply)


class Pipe:
    """A lock that the test gives away as one end of a pipe.

    :ivar taken: the end that is given away; to be closed here once it is.
    :ivar released: fires when all who had that end have closed it.
    """

    def __init__(self, reactor: Any) -> None:
        self._end, self.taken = os.pipe()
        self.released: Deferred[None] = Deferred()
        self._reactor = reactor
        reactor.addReader(self)

    @property
    def is_held(self) -> bool:
        """As far as the reactor knows."""
        return self._end >= 0 and not self.released.called

    def close(self) -> None:
        """Look no more."""
        if self._end >= 0:
            self._reactor.removeReader(self)
            os.close(self._end)
            self._end = -1

    def fileno(self) -> int:
        return self._end

    def logPrefix(self) -> str:
        return "pipe"

    def connectionLost(self, reason: object) -> None:
        """All who had the other end have closed it."""
        if self.is_held:
            self.close()
            self.released.callback(None)

    def doRead(self) -> None:
        """Nobody writes into it: there is nothing but its end to be read."""
        assert os.read(self._end, 1) == b""
        self.connectionLost(None)


def reply(message: Message, signature: str | None = None, *body: object) -> Message:
    """The answer to a call."""
    return new_method_return(message, signature, body)
