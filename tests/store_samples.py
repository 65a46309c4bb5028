"""Entries of a known size and content, for the tests of the store."""

from __future__ import annotations

from typing import Any

import attrs

from txvbcast.core.epochs import pair
from txvbcast.core.inputs import PastAbsence
from txvbcast.wire.messages import Entry, Flight, FlightId, Mode

CLUSTER = "c0ffee"
NODE = 2
PAYLOAD_BYTES = 500


def entry(seq: int, number: int = 1, payload_bytes: int = PAYLOAD_BYTES) -> Entry:
    """The entry of this seq in the ``number``-th epoch; its payload begins with ``<seq>``."""
    item = b"<%d>" % seq + b"." * payload_bytes
    flight = Flight(
        id=FlightId(origin=NODE, incarnation=1, number=seq), mode=Mode.BROADCAST, born=0, oldest=1, items=(item,)
    )
    return Entry(seq=seq, epoch=pair(number, 1), flight=flight)


def entries(first: int, last: int, number: int = 1) -> tuple[Entry, ...]:
    """The entries from ``first`` to ``last``."""
    return tuple(entry(seq, number) for seq in range(first, last + 1))


def absence(number: int, source: str = "qmp", **other: Any) -> PastAbsence:
    """A record of an absence that began at second ``number``; ``other`` says what is different."""
    record = PastAbsence(
        member=NODE,
        kind="migrate_out",
        source=source,
        began_unix_s=float(number),
        announced_s=5.0,
        expected_s=4.5,
        actual_s=4.25,
        basis="formula",
        confirmed=True,
        unsafe="",
        outcome="done",
    )
    return attrs.evolve(record, **other)
