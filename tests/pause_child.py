"""The adapter ``pause`` in a process and a reactor of its own, for the tests that stop it or send it uevents.

``python -m tests.pause_child DATA_DIR OPTIONS`` takes the options as JSON, and prints a line of JSON for each
call of the sink (a list that begins with the method's name) and each line of the log (``["log", TEXT]``).
On its standard input it takes ``kernel TEXT`` (have the kernel send a uevent, in which ``|`` stands for the
separator), ``program TEXT`` (send it from here) and ``flood NUMBER TEXT`` (as ``kernel``, so often).
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from typing import Any

from twisted.internet import reactor, stdio
from twisted.logger import globalLogPublisher
from twisted.protocols.basic import LineReceiver

from tests.recording_sink import RecordingSink, surroundings
from txvbcast.virt import pause
from txvbcast.virt.uevents import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT

#: Of linux/netlink.h: the header, the first type of message that a family defines, and "this is a request".
_HEADER = struct.Struct("=IHHII")
_TYPE, _REQUEST = 0x10, 1


def say(*words: Any) -> None:
    """One line, in one write."""
    os.write(1, json.dumps(words).encode() + b"\n")


class PrintingSink(RecordingSink):
    """Says every call as well."""

    def _add(self, *call: Any) -> None:
        super()._add(*call)
        say(*call)


class Sender(LineReceiver):
    """Sends uevents into this process's network namespace, which must be its own."""

    delimiter = b"\n"

    def connectionMade(self) -> None:
        """Another address than the listener's."""
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self.socket.bind((0, 0))

    def lineReceived(self, line: bytes) -> None:
        """One command."""
        command, _, text = line.partition(b" ")
        if command == b"program":
            self.socket.sendto(text.replace(b"|", b"\0") + b"\0", (0, KERNEL_GROUP))
            return
        number, text = text.split(b" ", 1) if command == b"flood" else (b"1", text)
        uevent = text.replace(b"|", b"\0") + b"\0"
        request = _HEADER.pack(_HEADER.size + len(uevent), _TYPE, _REQUEST, 1, 0) + uevent
        for _ in range(int(number)):
            self.socket.sendto(request, (0, 0))

    def connectionLost(self, reason: Any = None) -> None:
        """The test is over."""
        self.socket.close()
        if reactor.running:
            reactor.stop()


def log(event: Any) -> None:
    """A line of the log of the adapter."""
    if event.get("log_namespace", "").startswith("txvbcast"):
        say("log", event["log_format"].format(**event))


def main(data_dir: str, options: str) -> None:
    """Run until the standard input ends."""
    globalLogPublisher.addObserver(log)
    adapter = pause.make(json.loads(options), surroundings(reactor, data_dir))
    reactor.addSystemEventTrigger("before", "shutdown", adapter.stop)
    stdio.StandardIO(Sender())
    reactor.callWhenRunning(adapter.start, PrintingSink())
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
