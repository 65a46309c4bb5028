"""Reads request bodies and queries strictly: what is not understood is refused, by name."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

import msgspec

from txvbcast.control.problems import Problem, bad_field
from txvbcast.units import DURATION_S_MAX
from txvbcast.wire.messages import Mode

#: Characters of a client's name for a transaction.
REQUEST_ID_CHARS_MAX = 128
#: Characters of a name for whoever tells of an absence.
SOURCE_CHARS_MAX = 64
#: The longest that a request may wait, and the wait of one that does not say.
TIMEOUT_MS_MAX = 600_000
TIMEOUT_MS_DEFAULT = 5_000
#: The longest absence that is not taken for a mistake in units.
EXPECTED_MS_MAX = round(DURATION_S_MAX * 1000)
_QUERY_FIELDS_MAX = 32

Shape = TypeVar("Shape", bound=msgspec.Struct)
TimeoutMs = Annotated[int, msgspec.Meta(ge=1, le=TIMEOUT_MS_MAX)]
ExpectedMs = Annotated[int, msgspec.Meta(ge=0, le=EXPECTED_MS_MAX)]
Source = Annotated[str, msgspec.Meta(min_length=1, max_length=SOURCE_CHARS_MAX)]
RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=REQUEST_ID_CHARS_MAX)]


class SubmitBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/tx."""

    rm: str
    payload: str | None = None
    payload_b64: str | None = None
    mode: str = "broadcast"
    timeout_ms: TimeoutMs = TIMEOUT_MS_DEFAULT
    request_id: RequestId | None = None


class InactiveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/inactive."""

    kind: str
    expected_ms: ExpectedMs | None = None
    facts: dict[str, bool | int | float | str | None] = {}
    source: Source = "operator"
    member: int | None = None
    dry_run: bool = False
    wait_ms: TimeoutMs = TIMEOUT_MS_DEFAULT


class EstimateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /v1/inactive/ID."""

    expected_ms: ExpectedMs


class MasterBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/master."""

    to: int


def read_body(body: bytes, shape: type[Shape]) -> Shape:
    """The JSON object in ``body`` as a ``shape``.

    :raises Problem: it is not JSON, names a key twice, holds a number or text that JSON cannot
        say, has an unknown field, lacks one, or one has another type.
    """
    document = _parse(body)
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        text = str(error)
        named = re.search(r"at `\$\.([^`]+)`|field `([^`]+)`", text)
        facts = {"field": named[1] or named[2]} if named else {}
        known = ", ".join(shape.__struct_fields__)
        hint = f" (known fields: {known})" if "field `" in text or not named else ""
        raise Problem("bad-request", f"the body: {text}{hint}", facts) from None


def _parse(body: bytes) -> object:
    try:
        text = body.decode()
        document = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeError as error:
        raise Problem("bad-request", f"the body is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise Problem("bad-request", f"the body is not JSON: {error}; expected a JSON object") from None
    except RecursionError:
        raise Problem("bad-request", "the body is nested too deeply") from None
    except ValueError as error:
        raise Problem("bad-request", f"the body: {error}") from None
    return document


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise Problem("bad-request", f"the body: {twice!r} is given twice", {"field": twice})
    return found


def _no_number(text: str) -> NoReturn:
    raise Problem("bad-request", f"the body: {text} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Problem("bad-request", f"the body: {text[:40]} is too large a number")
    return number


def read_query(uri: bytes, *allowed: str) -> dict[str, str]:
    """The query of ``uri``: each name at most once, and only ``allowed`` ones.

    :raises Problem: anything else.
    """
    raw = uri.partition(b"?")[2]
    if not raw:
        return {}
    expected = f"expected {', '.join(allowed)}" if allowed else "expected none here"
    try:
        pairs = parse_qsl(
            raw.decode(),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_QUERY_FIELDS_MAX,
        )
    except ValueError as error:
        raise Problem("bad-request", f"the query is not of the form name=value&name=value: {error}") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise bad_field(name, f"this query parameter is not known; {expected}")
        if name in found:
            raise bad_field(name, "this query parameter is given twice")
        found[name] = value
    return found


def number(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """The whole number that ``query`` gives for ``name``, or None.

    :raises Problem: it is no number from ``low`` to ``high``.
    """
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,19}", text) or not low <= int(text) <= high:
        raise bad_field(name, f"expected a whole number from {low} to {high}, got {text[:40]!r}")
    return int(text)


def timeout_s(query: Mapping[str, str]) -> float:
    """How long the request may wait, from its ``timeout_ms``."""
    return (number(query, "timeout_ms", 1, TIMEOUT_MS_MAX) or TIMEOUT_MS_DEFAULT) / 1000


def request_id(query: Mapping[str, str]) -> str | None:
    """The client's name for its transaction, or None.

    :raises Problem: it is empty or too long.
    """
    text = query.get("request_id")
    if text is not None and not 1 <= len(text) <= REQUEST_ID_CHARS_MAX:
        raise bad_field("request_id", f"expected 1 to {REQUEST_ID_CHARS_MAX} characters, got {len(text)}")
    return text


def choice(field: str, text: str, allowed: tuple[str, ...]) -> str:
    """``text``, which must be one of ``allowed``.

    :raises Problem: it is not.
    """
    if text not in allowed:
        raise bad_field(field, f"expected one of {', '.join(allowed)}, got {text[:40]!r}")
    return text


def mode(text: str) -> Mode:
    """The mode of that name.

    :raises Problem: there is none.
    """
    return Mode(choice("mode", text, tuple(each.value for each in Mode)))


def payload(body: SubmitBody) -> bytes:
    """The bytes that a submission carries: text, or base64.

    :raises Problem: it carries both or neither, or what is not base64.
    """
    if (body.payload is None) == (body.payload_b64 is None):
        raise bad_field("payload", "expected exactly one of payload (text) and payload_b64 (base64)")
    if body.payload is not None:
        return body.payload.encode()
    try:
        return base64.b64decode(body.payload_b64 or "", validate=True)
    except ValueError as error:
        raise bad_field("payload_b64", f"this is not base64: {error}") from None


def bytes_field(name: str, value: bytes) -> dict[str, str]:
    """``value`` as a member of a JSON object: ``name`` when it is UTF-8, else ``name_b64``."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(value).decode()}
