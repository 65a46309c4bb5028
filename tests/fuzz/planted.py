"""Wrong versions of what reads bytes, by name: the fuzzer has to find each.  Only a test plants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from unittest import mock

import attrs

from txvbcast import validation, yamlreader
from txvbcast.control import client_desk
from txvbcast.errors import RemoteProtocolError
from txvbcast.net import link
from txvbcast.wire import bodies, codec, datagram
from txvbcast.wire.bodies import Family
from txvbcast.wire.client_messages import ListKeys
from txvbcast.wire.messages import Claim, HeartbeatReply, Message, Probe


@attrs.frozen
class Defect:
    """``target`` has to find what ``plant`` does to this process.

    :ivar hidden: nothing in the shipped corpus shows it: the fuzzer has to make an input that does.
    """

    target: str
    plant: Callable[[], None]
    hidden: bool = False


def _replace(owner: Any, name: str, other: object) -> None:
    mock.patch.object(owner, name, other).start()


def _replace_decode(after: Callable[[Any], Any]) -> None:
    """What comes out of a body goes through ``after`` too."""
    decode = bodies.decode_message
    _replace(bodies, "decode_message", lambda family, number, body: after(decode(family, number, body)))


# --- frames ------------------------------------------------------------------------------


def _length_unchecked() -> None:
    """The decoder waits for whatever length a header claims."""
    init = codec.FrameDecoder.__init__
    _replace(codec.FrameDecoder, "__init__", lambda decoder, **options: init(decoder, 2**32 - 1, **options))


def _frame_leaks() -> None:
    """Behind a good header, one message type lets another exception through."""

    def leaky(message: Message) -> Message:
        if isinstance(message, Claim) and message.of_epoch > message.epoch:
            raise KeyError(message.epoch)
        return message

    _replace_decode(leaky)


def _loses_a_bit() -> None:
    """What is read is not what was said, in one field of one message type."""

    def lossy(message: Message) -> Message:
        if isinstance(message, Probe) and 65535 < message.nonce < 2**62:
            return attrs.evolve(message, nonce=message.nonce ^ 1)
        return message

    _replace_decode(lossy)


def _words_unescaped() -> None:
    """A peer's words reach the log as they are."""
    _replace(link, "_printable", lambda text: text)


# --- frames of clients -------------------------------------------------------------------


def _answer_missing() -> None:
    """What is refused at the door is not answered."""
    _replace(client_desk.Desk, "_fail", lambda desk, wanted, kind, reason: None)


def _client_frame_leaks() -> None:
    """Behind a good header, one message type lets another exception through."""

    def leaky(message: object) -> object:
        if isinstance(message, ListKeys) and 65535 < message.limit < 2**62:
            raise KeyError(message.query)
        return message

    _replace_decode(leaky)


# --- datagrams ---------------------------------------------------------------------------


class _Equal(bytes):
    """Is like any other bytes."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = bytes.__hash__


def _cluster_unchecked() -> None:
    """Datagrams of other clusters are read."""
    mark = datagram._cluster_mark
    _replace(datagram, "_cluster_mark", lambda cluster_id: _Equal(mark(cluster_id)))


def _datagram_leaks() -> None:
    """Behind a good header, one message type lets another exception through."""

    def leaky(message: Message) -> Message:
        if isinstance(message, HeartbeatReply) and message.stored > message.applied + 1000:
            raise KeyError(message.stored)
        return message

    _replace_decode(leaky)


def _trailing_ignored() -> None:
    """What follows the body is not looked at."""
    decode = bodies.decode_message

    def lax(family: Family[Message], number: int, body: bytes | bytearray) -> Message:
        try:
            return decode(family, number, body)
        except RemoteProtocolError:
            return decode(family, number, body[:-1])

    _replace(bodies, "decode_message", lax)


# --- configuration -----------------------------------------------------------------------


def _keys_unquoted() -> None:
    """A key with a line break in it is told as it is."""
    _replace(yamlreader, "_shown", lambda raw: raw)


def _duration_leaks() -> None:
    """A duration of less than a microsecond cannot be told."""
    tell = validation.format_duration

    def leaky(duration_s: float) -> str:
        if 0 < duration_s < 1e-6:
            raise ZeroDivisionError
        return tell(duration_s)

    _replace(validation, "format_duration", leaky)


DEFECTS: Final = {
    "length unchecked": Defect("frames", _length_unchecked),
    "words unescaped": Defect("frames", _words_unescaped),
    "frame leaks": Defect("frames", _frame_leaks, hidden=True),
    "loses a bit": Defect("frames", _loses_a_bit, hidden=True),
    "answer missing": Defect("client_frames", _answer_missing),
    "client frame leaks": Defect("client_frames", _client_frame_leaks, hidden=True),
    "cluster unchecked": Defect("datagrams", _cluster_unchecked),
    "trailing ignored": Defect("datagrams", _trailing_ignored),
    "datagram leaks": Defect("datagrams", _datagram_leaks, hidden=True),
    "keys unquoted": Defect("config", _keys_unquoted),
    "duration leaks": Defect("config", _duration_leaks, hidden=True),
}
