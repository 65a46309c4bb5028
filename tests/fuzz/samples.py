"""The part of the corpus that is written by hand: one good sample of each kind, and bad inputs of every kind.

Files whose names begin with ``found-`` are the fuzzer's own; :func:`write` leaves them alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import attrs
import msgspec

from tests import wire_samples
from tests.fuzz import CORPUS, bodies, frames
from tests.test_config import FULL, LEAST, REFUSED
from tests.wire_samples import CLUSTER_ID, enveloped, framed
from txvbcast.wire import client_messages
from txvbcast.wire.bodies import encode
from txvbcast.wire.codec import encode_frame
from txvbcast.wire.datagram import encode_datagram
from txvbcast.wire.hello import members_digest
from txvbcast.wire.limits import DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX
from txvbcast.wire.messages import DATAGRAM_TYPES, Hello, HelloRefused, MemberLine, Read

#: What begins the names of the files that :func:`write` makes.
SAMPLE: Final = "sample-"
BAD: Final = "bad-"


def files(target: str) -> dict[str, bytes]:
    """The samples and the bad inputs for a target, by file name."""
    good, bad = _MAKERS[target]
    return {**{f"{SAMPLE}{n}": data for n, data in good()}, **{f"{BAD}{n}": data for n, data in bad()}}


def write() -> int:
    """Write all of them anew; how many there are."""
    count = 0
    for target in _MAKERS:
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.name.startswith((SAMPLE, BAD)):
                path.unlink()
        for name, data in files(target).items():
            (folder / name).write_bytes(data)
            count += 1
    return count


# --- frames ------------------------------------------------------------------------------

_FRAME: Final = encode_frame(Read(nonce=9))
_BODY: Final = _FRAME[12:]
_PACK: Final = msgspec.msgpack.encode


def _good_frames() -> Iterator[tuple[str, bytes]]:
    for name, message in bodies.messages().items():
        yield name, encode_frame(message)
    for peer in (1, 3):
        yield f"Hello.of{peer}", encode_frame(frames.hello_of(peer)) + _FRAME


def _bad_frames() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    for count in (1, 3, 4, 8, 11, 12, len(_FRAME) - 1):
        yield f"first-{count}", _FRAME[:count]
    for length in (0, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 2**31, 2**32 - 1):
        yield f"length-{length}", framed(_BODY, number=64, length=length)
    yield "length-2e63", (2**63).to_bytes(8) + _FRAME
    for version in (0, 2, 255):
        yield f"version-{version}", framed(_BODY, number=64, version=version)
    for number in (0, 3, 255):
        yield f"type-{number}", framed(_BODY, number=number)
    for flags in (1, 0x8000):
        yield f"flags-{flags}", framed(_BODY, number=64, flags=flags)
    yield "checksum-wrong", _FRAME[:11] + bytes((_FRAME[11] ^ 1,)) + _FRAME[12:]
    yield "checksum-zero", _FRAME[:8] + bytes(4) + _FRAME[12:]
    yield "many", _FRAME * 80
    yield "good-then-bad", _FRAME + framed(b"\x00", number=64) + _FRAME
    for name, body in _bad_bodies():
        yield f"body-{name}", framed(body, number=64)
    yield from _bad_greetings()


def _bad_bodies() -> Iterator[tuple[str, bytes]]:
    """Bodies that are no Read: ``{"nonce": 9}``."""
    key = b"\x81" + _PACK("nonce")
    for name, head in (("array", b"\xdd"), ("map", b"\xdf"), ("text", b"\xdb"), ("bytes", b"\xc6")):
        for count in (2**32 - 1, 2**31, 100):
            yield f"{name}-of-{count}", key + head + count.to_bytes(4)
            yield f"unknown-{name}-of-{count}", b"\x81" + _PACK("other") + head + count.to_bytes(4)
    yield "sum-of-lengths-wraps", b"\x82" + (b"\xdb\xff\xff\xff\xff" + b"\xdb\x00\x00\x00\x01a") * 2
    yield "trailing", key + b"\x09\x09"
    yield "deep", b"\x81" + _PACK("other") + b"\x91" * 1900
    for name, value in _ODD.items():
        yield f"value-{name}", _PACK({"nonce": value})
        yield f"unknown-{name}", _PACK({"nonce": 9, "other": value})
    yield "no-map", _PACK([9])
    yield "missing", _PACK({})
    yield "twice", b"\x82" + _PACK("nonce") + b"\x09" + _PACK("nonce") + b"\x0a"
    yield "not-utf8", b"\x81\xa5n\xffnce\x09"
    yield "value-not-utf8", b"\x82" + _PACK("nonce") + b"\x09" + _PACK("other") + b"\xa2\xc3\x28"
    yield "key-is-a-number", b"\x81\x01\x09"
    yield "key-is-a-map", b"\x81\x80\x09"
    yield "wide-number", key + b"\xcf" + (9).to_bytes(8)
    yield "extension", key + b"\xd4\x05a"
    yield "unused-byte", b"\xc1"


_ODD: Final[dict[str, Any]] = {
    "negative": -1, "2e63-1": 2**63 - 1, "2e63": 2**63, "2e64-1": 2**64 - 1, "nan": math.nan, "inf": math.inf,
    "null": None, "truth": True, "text": "9", "bytes": b"9", "list": [9],
    "nul": "\0", "bidi": "\u202e", "4-byte": "\U0001f600", "nfc": "\xe9", "nfd": "e\u0301",
}  # fmt: skip


def _bad_greetings() -> Iterator[tuple[str, bytes]]:
    """What may not begin a link."""
    good = frames.hello_of(3)
    crowd = tuple(MemberLine(id=n, name=f"n{n}", peer="a:1") for n in range(1, 1001))
    for name, hello in (
        ("own-id", attrs.evolve(good, node_id=2)),
        ("lower-id", attrs.evolve(good, node_id=1)),
        ("stranger", attrs.evolve(good, node_id=9)),
        ("other-cluster", attrs.evolve(good, cluster_id="x")),
        ("other-name", attrs.evolve(good, cluster_name="a\n\x1b[2Jb" * 60)),
        ("other-version", attrs.evolve(good, version_min=2, version_max=2)),
        ("wrong-digest", attrs.evolve(good, members_digest="0" * 64)),
        ("no-members", _with(good, ())),
        ("self-missing", _with(good, good.members[:2])),
        ("member-twice", _with(good, (*good.members, good.members[0]))),
        ("names-swapped", _with(good, tuple(attrs.evolve(line, name="\u202e\0") for line in good.members))),
        ("1000-members", _with(good, crowd)),
    ):
        yield f"hello-{name}", encode_frame(hello)
    yield "hello-twice", encode_frame(good) * 2
    yield "refused", encode_frame(HelloRefused(reason="\0\n\x1b[2J\u202e" * 200))
    yield "refused-later", encode_frame(good) + _FRAME + encode_frame(HelloRefused(reason="")) + _FRAME


def _with(hello: Hello, members: tuple[MemberLine, ...]) -> Hello:
    return attrs.evolve(hello, members=members, members_digest=members_digest(members))


# --- frames of clients -------------------------------------------------------------------

_PING: Final = encode_frame(client_messages.Ping(9))
_CLIENT_BODY: Final = _PING[12:]


def _good_client_frames() -> Iterator[tuple[str, bytes]]:
    for name, message in bodies.client_messages().items():
        yield name, encode_frame(message)
    typical = wire_samples.CLIENT_TYPICAL
    yield "talk", b"".join(encode_frame(typical[name]) for name in ("ClientHello", "Submit", "GetKeys", "Ping"))


def _bad_client_frames() -> Iterator[tuple[str, bytes]]:
    for count in (1, 4, 11, 12, len(_PING) - 1):
        yield f"first-{count}", _PING[:count]
    for length in (0, 4096, 4097, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1):
        yield f"length-{length}", framed(_CLIENT_BODY, number=132, length=length)
    for number in (0, 1, 64, 127, 255):
        yield f"type-{number}", framed(_CLIENT_BODY, number=number)
    yield "version-2", framed(_CLIENT_BODY, number=132, version=2)
    yield "flags-1", framed(_CLIENT_BODY, number=132, flags=1)
    yield "trailing", framed(_CLIENT_BODY + b"\0", number=132)
    for name in ("GET / HTTP/1.1\r\n\r\n", "POST /v1/tx HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        yield f"http-{name[:4].strip()}", name.encode()
    yield "tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    yield "of-a-node", encode_frame(frames.hello_of(3)) + _FRAME
    submit = _fields_of("Submit")
    for name, wrong in (
        ("first-zero", {"first": 0, "done": 0}),
        ("first-endless", {"first": 2**63 - 1}),
        ("done-ahead", {"done": 17}),
        ("names-missing", {"request_ids": ["a"]}),
        ("name-empty", {"request_ids": ["", "a"]}),
        ("timeout-endless", {"timeout_ms": 2**63 - 1}),
        ("nothing", {"payloads": []}),
        ("strange-rm", {"rm": "\x1b[2J\u202e" * 100}),
    ):
        yield f"submit-{name}", framed(_PACK({**submit, **wrong}), number=140)
    for name, wrong in (("session-empty", {"session": ""}), ("strange-cluster", {"cluster_id": "\x1b[2J" * 300})):
        yield f"hello-{name}", framed(_PACK({**_fields_of("ClientHello"), **wrong}), number=128)


def _fields_of(name: str) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.msgpack.decode(encode(wire_samples.CLIENT_TYPICAL[name]))
    return fields


# --- datagrams ---------------------------------------------------------------------------


def _good_datagrams() -> Iterator[tuple[str, bytes]]:
    for name, message in bodies.messages().items():
        if type(message) in DATAGRAM_TYPES:
            yield name, encode_datagram(1, CLUSTER_ID, message)


def _bad_datagrams() -> Iterator[tuple[str, bytes]]:
    reply = wire_samples.TYPICAL["HeartbeatReply"]
    good = encode_datagram(3, CLUSTER_ID, reply)
    body = good[18:]
    yield "nothing", b""
    for count in (1, 6, 10, 17, 18, len(good) - 1):
        yield f"first-{count}", good[:count]
    yield "trailing", good + b"\0"
    yield "body-cut", enveloped(body[:-1])
    yield "body-trailing", enveloped(body + b"\0")
    yield "other-cluster", enveloped(body, cluster_id="x")
    yield "no-cluster", good[:10] + bytes(8) + good[18:]
    for version in (0, 2, 255):
        yield f"version-{version}", enveloped(body, version=version)
    yield "magic", enveloped(body, magic=b"vb")
    for number in (0, 1, 10, 255):
        yield f"type-{number}", enveloped(body, number=number)
    for sender in (0, 2, 4, 65535):
        yield f"sender-{sender}", enveloped(body, sender=sender)
    yield "checksum-zero", good[:6] + bytes(4) + good[10:]
    yield "longest", enveloped(body.ljust(DATAGRAM_BYTES_MAX - 18, b"\0"))
    yield "too-long", enveloped(body.ljust(DATAGRAM_BYTES_MAX - 17, b"\0"))
    for name, bad in _bad_bodies():
        yield f"body-{name}", enveloped(bad[:1300])


# --- configuration -----------------------------------------------------------------------


def _good_files() -> Iterator[tuple[str, bytes]]:
    yield "least.yaml", LEAST.encode()
    yield "full.yaml", FULL.encode()
    yield "windows.yaml", b"\xef\xbb\xbf" + LEAST.replace("\n", "\r\n").encode()


def _bad_files() -> Iterator[tuple[str, bytes]]:
    for name, (text, _, _) in REFUSED.items():
        yield f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.yaml", text.encode()
    yield "utf16.yaml", LEAST.encode("utf-16")
    yield "latin1.yaml", "# K\xf6ln".encode("latin-1")
    for name, text in (("maps", "{a: " * 900), ("items", "- " * 900), ("keys", "? " * 900), ("quotes", "'" * 999)):
        yield f"deep-{name}.yaml", text.encode()


_MAKERS: Final = {
    "frames": (_good_frames, _bad_frames),
    "client_frames": (_good_client_frames, _bad_client_frames),
    "datagrams": (_good_datagrams, _bad_datagrams),
    "config": (_good_files, _bad_files),
}
