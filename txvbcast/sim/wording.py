"""Messages in words: their kind and their fields, short enough for a line."""

from __future__ import annotations

import enum
from functools import singledispatch

import attrs

from txvbcast.core import epochs
from txvbcast.errors import RemoteProtocolError
from txvbcast.wire.items import unpack
from txvbcast.wire.messages import Committed, Entry, Flight, FlightId, Message, Order, Refusal, Run, StandingEntry

#: Fields that hold an epoch.
_EPOCHS = ("epoch", "log_epoch", "of_epoch", "promised")
#: Fields that tell a message from others of its kind, the best one first.
_NAMING = ("flight", "seq", "first", "member", "nonce", "epoch")
#: Fields that tell people nothing.
_SILENT = ("disk_id", "table_digest")
#: So many elements of a tuple are told; the rest are counted.
_TOLD_MAX = 4


def message_text(message: Message) -> str:
    """``Order epoch 2.1, seq 17, ...``; what is not set is left out."""
    return f"{type(message).__name__} {fields_text(message)}".rstrip()


def short_text(message: Message) -> str:
    """``Order 17``: its kind, and the one field that tells it from others of that kind."""
    name = next((each for each in _NAMING if getattr(message, each, None) is not None), "")
    if isinstance(message, Committed):
        name = "committed"
    elif isinstance(message, Order):
        name = "seq"
    if not name:
        return type(message).__name__
    value = getattr(message, name)
    if isinstance(value, Flight):
        value = value.id
    return f"{type(message).__name__} {epochs.text(value) if name in _EPOCHS else _text(value)}"


def fields_text(message: attrs.AttrsInstance) -> str:
    """The fields of a message by name."""
    told = []
    for field in attrs.fields(type(message)):
        value = getattr(message, field.name)
        if field.name in _SILENT or value in (None, "", ()) or value is False:
            continue
        told.append(f"{field.name} {epochs.text(value) if field.name in _EPOCHS else _text(value)}")
    return ", ".join(told)


@singledispatch
def _text(value: object) -> str:
    return fields_text(value) if attrs.has(type(value)) else str(value)  # type: ignore[arg-type]


@_text.register
def _(value: enum.Enum) -> str:
    return str(value.value)


@_text.register
def _(value: tuple) -> str:  # type: ignore[type-arg]
    more = [f"{len(value) - _TOLD_MAX} more"] if len(value) > _TOLD_MAX else []
    return f"[{', '.join([*map(_text, value[:_TOLD_MAX]), *more])}]"


@_text.register
def _(value: FlightId) -> str:
    return f"{value.origin}.{value.incarnation}.{value.number}"


@_text.register
def _(value: Flight) -> str:
    payloads = [_payload(item) for item in value.items[:_TOLD_MAX]]
    more = [f"{len(value.items) - _TOLD_MAX} more"] if len(value.items) > _TOLD_MAX else []
    return f"{_text(value.id)} {value.mode.value} [{', '.join([*payloads, *more])}]"


def _payload(item: bytes) -> str:
    try:
        return unpack(item).payload.decode(errors="replace")
    except RemoteProtocolError:
        return f"{len(item)} bytes that are no transaction"


@_text.register
def _(value: StandingEntry) -> str:
    voter = "" if value.voter else ", no voter"
    return f"node {value.node_id} {value.standing.value}{voter}{f' ({value.reason})' if value.reason else ''}"


@_text.register
def _(value: Entry) -> str:
    return f"{value.seq} = {_text(value.flight or value.standing)}"


@_text.register
def _(value: Run) -> str:
    return f"{epochs.text(value.epoch)} from {value.first}"


@_text.register
def _(value: Refusal) -> str:
    return f"item {value.index}: {value.reason}"


def entry_text(entry: Entry) -> str:
    """``17 = 1.1.5 2pc [k0=3.1]``."""
    return _text(entry)
