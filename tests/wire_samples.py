"""Messages to try the wire with: typical ones, and the least and greatest that a class allows."""

from __future__ import annotations

import enum
import hashlib
import struct
import types
import typing
import zlib
from typing import Any

import attrs

from txvbcast.wire import client_messages as c
from txvbcast.wire import messages as m
from txvbcast.wire.hello import members_digest

CLUSTER_ID = "6f1d2c1e-demo"

FLIGHT_ID = m.FlightId(origin=2, incarnation=3, number=17)
FLIGHT = m.Flight(
    id=FLIGHT_ID,
    mode=m.Mode.TWO_PHASE,
    born=4,
    oldest=15,
    items=(b"\x93\xa2kv\xc4\x03abc\xc0", b""),
    indices=(0, 2),
    seen=39,
)
OWN_FLIGHT = m.Flight(
    id=m.FlightId(origin=2, incarnation=7, number=18),
    mode=m.Mode.BROADCAST,
    born=4,
    oldest=18,
    items=(b"\x93\xa2kv\xc4\x03abc\xc0",),
    seen=42,
)
STANDING = m.StandingEntry(
    node_id=3,
    standing=m.Standing.INACTIVE,
    voter=True,
    incarnation=5,
    change_id=1,
    kind="migrate_out",
    expected_ms=4000,
    source="self",
    reason="announced",
)
EPOCH = (3 << 16) | 1
OLD_EPOCH = (2 << 16) | 2
MEMBERS = (
    m.MemberLine(id=1, name="a", peer="127.0.0.1:8410"),
    m.MemberLine(id=2, name="bé", peer="[::1]:8420"),
    m.MemberLine(id=3, name="c", peer="c.example:8430"),
)
HELLO = m.Hello(
    cluster_id=CLUSTER_ID,
    cluster_name="demo",
    node_id=2,
    incarnation=3,
    disk_id="d2",
    version_min=1,
    version_max=1,
    members_digest=members_digest(MEMBERS),
    members=MEMBERS,
    vms=("web", "db é"),
    client="0.0.0.0:8421",
)
GRANT = m.Grant(
    epoch=EPOCH,
    log_epoch=OLD_EPOCH,
    stored=42,
    committed=40,
    voters=(1, 2, 3),
    runs=(m.Run(first=41, epoch=OLD_EPOCH),),
    disk_id="d2",
)
FLIGHT_ENTRY = m.Entry(seq=41, epoch=OLD_EPOCH, flight=FLIGHT)
STANDING_ENTRY = m.Entry(seq=42, epoch=EPOCH, standing=STANDING)

#: Vector name -> message; the part before a dot is the class.
TYPICAL: dict[str, m.Message] = {
    "Hello": HELLO,
    "HelloRefused": m.HelloRefused(reason="the cluster name differs: 'a' at node 1, 'b' at node 2"),
    "Propose": m.Propose(flight=FLIGHT),
    "Vote": m.Vote(flight=FLIGHT_ID, refused=(m.Refusal(index=1, reason="no stock"),)),
    "Vote.yes": m.Vote(flight=FLIGHT_ID),
    "Decide": m.Decide(flight=FLIGHT_ID, accepted=(0, 2)),
    "Decide.all": m.Decide(flight=FLIGHT_ID),
    "Order": m.Order(epoch=EPOCH, seq=43, committed=42, everywhere=41, flight=FLIGHT_ID, accepted=(0, 2)),
    "Order.proposal": m.Order(epoch=EPOCH, seq=44, committed=42, everywhere=41, proposal=OWN_FLIGHT),
    "Order.standing": m.Order(epoch=EPOCH, seq=43, committed=42, everywhere=41, standing=STANDING),
    "Stored": m.Stored(epoch=EPOCH, seq=42, disk_id="d2"),
    "Committed": m.Committed(epoch=EPOCH, committed=43, everywhere=42),
    "Withdraw": m.Withdraw(flight=FLIGHT_ID, seq=9),
    "AskFlight": m.AskFlight(flight=FLIGHT_ID),
    "Suspect": m.Suspect(member=3, flight=FLIGHT_ID),
    "Probe": m.Probe(epoch=OLD_EPOCH, nonce=9),
    "ProbeReply": m.ProbeReply(epoch=OLD_EPOCH, nonce=9, lost=True),
    "Claim": m.Claim(epoch=EPOCH, why=m.ClaimWhy.SILENCE, of_epoch=OLD_EPOCH),
    "Grant": GRANT,
    "Refuse": m.Refuse(epoch=EPOCH, promised=EPOCH + 1, reason="promised a higher epoch"),
    "Start": m.Start(
        epoch=EPOCH, base=40, runs=(m.Run(first=41, epoch=OLD_EPOCH), m.Run(first=43, epoch=EPOCH)), last=43
    ),
    "WantStart": m.WantStart(epoch=EPOCH),
    "Fetch": m.Fetch(epoch=EPOCH, log_epoch=OLD_EPOCH, first=41, last=42),
    "Entries": m.Entries(epoch=EPOCH, log_epoch=OLD_EPOCH, entries=(FLIGHT_ENTRY, STANDING_ENTRY)),
    "FetchRefused": m.FetchRefused(epoch=EPOCH, log_epoch=OLD_EPOCH, reason="promised a higher epoch"),
    "Handoff": m.Handoff(epoch=EPOCH, grant=GRANT, sticky=True),
    "MoveMaster": m.MoveMaster(to=2),
    "MoveRefused": m.MoveRefused(to=2, reason="node 2 is catching up"),
    "Inactive": m.Inactive(
        member=3,
        incarnation=5,
        change_id=1,
        revision=2,
        kind="migrate_out",
        expected_ms=4000,
        epoch=EPOCH,
        stored=42,
        source="operator",
    ),
    "Confirmed": m.Confirmed(incarnation=5, change_id=1),
    "Unsafe": m.Unsafe(incarnation=5, change_id=1, reason="node 2 is away too"),
    "AbsenceOver": m.AbsenceOver(member=3, incarnation=5, change_id=2),
    "Resumed": m.Resumed(member=3, incarnation=5, change_id=1, log_epoch=OLD_EPOCH, stored=42, committed=40),
    "Normal": m.Normal(member=3, incarnation=5, change_id=1),
    "Heartbeat": m.Heartbeat(
        epoch=EPOCH,
        beat=1000,
        committed=43,
        everywhere=42,
        ordered=44,
        standing=m.Standing.CATCHING_UP,
        incarnation=5,
        change_id=1,
        table_digest="0a1b2c3d",
        urgent=True,
    ),
    "HeartbeatReply": m.HeartbeatReply(
        epoch=EPOCH,
        beat=1000,
        log_epoch=EPOCH,
        stored=44,
        applied=43,
        standing=m.Standing.NORMAL,
        incarnation=5,
        disk_id="d3",
    ),
    "QuorumCheck": m.QuorumCheck(epoch=EPOCH, nonce=9),
    "QuorumCheckReply": m.QuorumCheckReply(epoch=EPOCH, nonce=9),
    "Read": m.Read(nonce=9),
    "ReadAt": m.ReadAt(nonce=9, seq=43),
}

#: The same for what clients and nodes say to each other.
CLIENT_TYPICAL: dict[str, c.ClientMessage] = {
    "ClientHello": c.ClientHello(
        version_min=1, version_max=1, session="f3a1b2c4d5e60718", program="loader é", cluster_id=CLUSTER_ID
    ),
    "Welcome": c.Welcome(
        version=1,
        cluster_id=CLUSTER_ID,
        cluster_name="demo",
        node_id=2,
        serving=True,
        payload_bytes_max=1 << 20,
        outstanding_max=8192,
        nodes=(c.NodeLine(1, "a", "10.0.0.1:8411"), c.NodeLine(2, "bé", "[fd00::2]:8421"), c.NodeLine(3, "c", "")),
    ),
    "Refused": c.Refused("this node stops: connect to another one"),
    "Leaving": c.Leaving("a configuration change begins", 4000),
    "Ping": c.Ping(7),
    "Pong": c.Pong(7),
    "Submit": c.Submit(
        batch=5, rm="kv", mode=m.Mode.BROADCAST, timeout_ms=5000, first=17, done=15, payloads=(b"\x93\xa3put", b"")
    ),
    "Submit.named": c.Submit(
        batch=6, rm="kv", mode=m.Mode.TWO_PHASE, timeout_ms=900, first=1, done=0, payloads=(b"x",), request_ids=("o-7",)
    ),
    "Committed": c.Committed(batch=5, place=0, seq=43, index=2, results=(b"\x94\xc3+\x00\xa0", b"")),
    "Failed": c.Failed(batch=6, places=(0, 3), kind=c.FailureKind.ABORTED, reason="no stock", who=(3,)),
    "GetKeys": c.GetKeys(query=1, rm="kv", keys=("a", "bé"), linearizable=True, timeout_ms=5000),
    "Values": c.Values(query=1, applied=43, values=(c.Value(b"v", 41), c.Value(b"", 0))),
    "ListKeys": c.ListKeys(query=2, rm="kv", prefix="a/", after="a/7", limit=100, linearizable=False, timeout_ms=5000),
    "Items": c.Items(query=2, applied=43, items=(c.Item("a/8", b"v", 41),), more=True),
    "AskOutcome": c.AskOutcome(query=3, request_id="f3a1b2c4d5e60718#17"),
    "Outcome": c.Outcome(query=3, seq=43, index=2, result=b"\x94\xc3+\x00\xa0"),
    "AskStatus": c.AskStatus(query=4),
    "Status": c.Status(query=4, document=b'{"node_id":2}'),
    "Follow": c.Follow(query=5, after=12),
    "Follow.new": c.Follow(query=5),
    "Unfollow": c.Unfollow(query=5),
    "Event": c.Event(query=5, document=b'{"id":15,"kind":"master_changed"}', missed=2),
    "QueryFailed": c.QueryFailed(query=1, kind=c.FailureKind.NO_QUORUM, reason="no master is known"),
}

#: A class that holds exactly one of some fields: the greatest sample the first of these, the least one the second.
ONE_OF = {m.Entry: ("flight", "standing"), m.Order: ("flight", "standing", "proposal")}

#: Fields whose least value depends on another field's.
LEAST_TOGETHER: dict[tuple[type, str], object] = {(c.Submit, "first"): 1}

_LEAST: dict[Any, object] = {bool: False, str: "", bytes: b"", int: 0}
_GREATEST: dict[Any, object] = {
    bool: True, str: "\0é\U0010ffff" * 12, bytes: bytes(range(256)), int: m.U64_MAX
}  # fmt: skip


def extreme(cls: type, greatest: bool) -> Any:
    """The value of ``cls`` whose every field is the least, or the greatest, that is of interest."""
    hints = typing.get_type_hints(cls)
    left_out = set(ONE_OF.get(cls, ())) - set(ONE_OF.get(cls, ())[not greatest : 2 - greatest])
    return cls(
        **{
            field.name: None if field.name in left_out else _least_or_greatest(field, hints[field.name], greatest, cls)
            for field in attrs.fields(cls)
        }
    )


def _least_or_greatest(field: Any, hint: Any, greatest: bool, cls: type) -> object:
    if not greatest and (cls, field.name) in LEAST_TOGETHER:
        return LEAST_TOGETHER[cls, field.name]
    return _field(hint, field.validator, greatest, cls)


def _field(hint: Any, rule: Any, greatest: bool, cls: type) -> object:
    if isinstance(hint, types.UnionType):
        if not greatest and cls not in ONE_OF:
            return None
        return _field(typing.get_args(hint)[0], rule, greatest, cls)
    if typing.get_origin(hint) is tuple:
        return (_field(typing.get_args(hint)[0], rule, greatest, cls),) * 2 if greatest else ()
    if isinstance(rule, m.EachInRange):
        rule = rule.element
    if isinstance(rule, m.InRange):
        return rule.high if greatest else rule.low
    if attrs.has(hint):
        return extreme(hint, greatest)
    if issubclass(hint, enum.Enum):
        return list(hint)[-1 if greatest else 0]
    return (_GREATEST if greatest else _LEAST)[hint]


def framed(body: bytes, number: int = 14, version: int = 1, flags: int = 0, length: int | None = None) -> bytes:
    """A frame made by hand, so that tests can say what the codec never would; its checksum is right."""
    checked = struct.pack("!IBBH", len(body) if length is None else length, version, number, flags)
    return checked + struct.pack("!I", zlib.crc32(checked + body)) + body


def enveloped(
    body: bytes, number: int = 61, sender: int = 2, magic: bytes = b"VB", version: int = 1, cluster_id: str = CLUSTER_ID
) -> bytes:
    """A datagram made by hand; its checksum is right."""
    lead = struct.pack("!2sBBH", magic, version, number, sender)
    rest = hashlib.sha256(cluster_id.encode()).digest()[:8] + body
    return lead + struct.pack("!I", zlib.crc32(lead + rest)) + rest
