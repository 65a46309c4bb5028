"""Datagrams: only what may travel so, only from this cluster, only whole."""

from __future__ import annotations

import attrs
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from tests import wire_samples as samples
from tests.wire_samples import CLUSTER_ID, enveloped
from txvbcast.errors import LocalProtocolError, RemoteProtocolError
from txvbcast.wire import messages as m
from txvbcast.wire.datagram import HEADER_BYTES, decode_datagram, encode_datagram
from txvbcast.wire.limits import DATAGRAM_BYTES_MAX

QUICK = settings(derandomize=True, deadline=None, database=None, max_examples=150)
REPLY = samples.TYPICAL["HeartbeatReply"]
BODY = msgspec.msgpack.encode(REPLY)
INACTIVE = m.Inactive(
    member=3, incarnation=5, change_id=1, revision=0, kind="", expected_ms=1, epoch=0, stored=0, source=""
)
OVERHEAD = len(encode_datagram(1, CLUSTER_ID, INACTIVE)) + 2  # a str of 256 bytes or more has two length bytes more


def padded(size: int) -> m.Inactive:
    """An announcement whose datagram has ``size`` bytes."""
    return attrs.evolve(INACTIVE, source="x" * (size - OVERHEAD))


class DatagramTests(unittest.TestCase):
    """Both ways, and every way to be wrong."""

    def refused(self, data: bytes, *words: str) -> None:
        """The datagram is refused, and the error says why."""
        with self.assertRaises(RemoteProtocolError) as caught:
            decode_datagram(data, CLUSTER_ID)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def unsendable(self, sender: int, message: m.Message, *words: str) -> None:
        """The datagram is not made, and the error says why."""
        with self.assertRaises(LocalProtocolError) as caught:
            encode_datagram(sender, CLUSTER_ID, message)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_round_trip(self) -> None:
        """Sender and message come through."""
        for name in ("Heartbeat", "HeartbeatReply", "Inactive"):
            for sender in (1, 258, 65535):
                data = encode_datagram(sender, CLUSTER_ID, samples.TYPICAL[name])
                self.assertEqual(decode_datagram(data, CLUSTER_ID), (sender, samples.TYPICAL[name]))

    def test_by_hand(self) -> None:
        """A datagram put together from the documentation is read."""
        self.assertEqual(decode_datagram(enveloped(BODY), CLUSTER_ID), (2, REPLY))

    def test_types(self) -> None:
        """Whatever is not listed as a datagram is neither sent nor accepted."""
        for number, cls in m.OPCODES.items():
            if cls in m.DATAGRAM_TYPES:
                continue
            message = samples.TYPICAL[cls.__name__]
            self.unsendable(1, message, cls.__name__, "may not be sent as a datagram")
            data = enveloped(msgspec.msgpack.encode(message), number=number)
            self.refused(data, "node 2", f"type {number}", "may not travel so")
        self.refused(enveloped(BODY, number=255), "type 255")

    def test_sender(self) -> None:
        """Node 0 does not exist."""
        for sender in (0, -1, 65536):
            self.unsendable(sender, REPLY, f"got {sender}")
        self.refused(enveloped(BODY, sender=0), "names node 0 as its sender")

    def test_magic_and_version(self) -> None:
        """Strangers, and versions to come."""
        self.refused(enveloped(BODY, magic=b"VC"), "does not begin with VB")
        for version in (0, 2, 255):
            self.refused(enveloped(BODY, version=version), f"wire version {version}", "version 1")

    def test_cluster(self) -> None:
        """A neighbour with the same port."""
        self.refused(enveloped(BODY, cluster_id="other"), "node 2", "another cluster")
        with self.assertRaises(RemoteProtocolError):
            decode_datagram(encode_datagram(2, CLUSTER_ID, REPLY), "other")

    def test_size(self) -> None:
        """The limit itself passes; one byte more does not; nor does a header alone."""
        data = encode_datagram(1, CLUSTER_ID, padded(DATAGRAM_BYTES_MAX))
        self.assertEqual(len(data), DATAGRAM_BYTES_MAX)
        self.assertEqual(decode_datagram(data, CLUSTER_ID), (1, padded(DATAGRAM_BYTES_MAX)))
        self.unsendable(1, padded(DATAGRAM_BYTES_MAX + 1), "Inactive of 1401 bytes", "at most 1400")
        longer = enveloped(msgspec.msgpack.encode(padded(DATAGRAM_BYTES_MAX + 1)), number=50)
        self.assertEqual(len(longer), DATAGRAM_BYTES_MAX + 1)
        self.refused(longer, "1401 bytes")
        self.refused(b"\0" * 65507, "65507 bytes")
        self.refused(enveloped(b""), f"{HEADER_BYTES} bytes")
        self.refused(b"", "0 bytes")

    def test_trailing_bytes(self) -> None:
        """Whether the checksum covers them or not."""
        self.refused(enveloped(BODY) + b"\0", "CRC-32")
        self.refused(enveloped(BODY + b"\0"), "no HeartbeatReply", "trailing")
        self.refused(enveloped(BODY + BODY), "no HeartbeatReply", "trailing")

    def test_body(self) -> None:
        """Of another type, cut off, nonsense."""
        self.refused(enveloped(BODY, number=60), "no Heartbeat:")
        self.refused(enveloped(BODY[:-1]), "no HeartbeatReply")
        self.refused(enveloped(b"\xc1"), "no HeartbeatReply")
        self.refused(enveloped(b"\x81\xa1z" + b"\x91" * 1300 + b"\xc0"), "no HeartbeatReply")

    @QUICK
    @given(st.binary(max_size=DATAGRAM_BYTES_MAX + 10))
    def test_any_bytes(self, data: bytes) -> None:
        """No bytes make anything else than a message or RemoteProtocolError."""
        with self.assertRaises(RemoteProtocolError):
            decode_datagram(data, CLUSTER_ID)

    @QUICK
    @given(st.integers(0, 255), st.binary(max_size=200))
    def test_any_body(self, number: int, body: bytes) -> None:
        """Nor with everything right but the body."""
        with self.assertRaises(RemoteProtocolError):
            decode_datagram(enveloped(body, number=number), CLUSTER_ID)
