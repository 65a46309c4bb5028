"""``vbcast kv``."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import quote

import click

from txvbcast.cli.api import Answer
from txvbcast.cli.failures import Failed
from txvbcast.cli.session import Session, node_command, printable, read_input, text_argument, to_ms
from txvbcast.cli.submit import as_json, mode_option, new_request_id, request_id_option, timeout_option, with_request_id
from txvbcast.cli.tables import console, table

#: Characters of a value that a listing shows.
SHOWN_CHARS = 60

if_version_option = click.option(
    "--if-version",
    type=click.IntRange(0),
    metavar="N",
    help="Only if the key has this version now; 0: only if there is no such key.",
)
consistency_option = click.option(
    "--consistency",
    type=click.Choice(["linearizable", "local"]),
    default="linearizable",
    show_default=True,
    help="linearizable sees every write that was answered before; local is what the node has.",
)


@click.group()
def kv() -> None:
    """The built-in key-value store."""


@kv.command()
@click.argument("key")
@click.argument("value", required=False)
@click.option("--file", metavar="PATH", help="Read the value from a file; - for stdin.")
@if_version_option
@mode_option
@timeout_option
@request_id_option
@node_command
def put(session: Session, key: str, value: str | None, file: str | None, **options: Any) -> None:
    """Set KEY to VALUE; - reads it from stdin.

    A value that starts with a dash goes after two dashes: vbcast kv put temperature -- -5
    """
    content = read_input(value, file, "value")
    answer = _write(session, "PUT", key, content, **options)
    session.emit(answer.document(), f"{printable(key)}: version {answer.field('version', int)}")


@kv.command()
@click.argument("key")
@if_version_option
@mode_option
@timeout_option
@request_id_option
@node_command
def delete(session: Session, key: str, **options: Any) -> None:
    """Remove KEY; exit code 1 if it is not there."""
    answer = _write(session, "DELETE", key, None, **options)
    session.emit(answer.document(), f"{printable(key)}: deleted, it had version {answer.field('found_version', int)}")


@kv.command()
@click.argument("key")
@consistency_option
@timeout_option
@node_command
def get(session: Session, key: str, consistency: str, timeout: float) -> None:
    """Print the value of KEY, byte by byte; exit code 1 if it is not there."""
    query = {"consistency": consistency, "timeout_ms": to_ms(timeout)}
    answer = session.api.get(_path(key), query, timeout)
    version, applied = answer.header_number("Vbcast-Version"), answer.header_number("Vbcast-Applied")
    if session.json:
        value = as_json("value", answer.content)
        session.emit({"key": text_argument(key, "key"), **value, "version": version, "applied": applied}, "")
        return
    click.echo(answer.content, nl=sys.stdout is not None and sys.stdout.isatty())


@kv.command(name="list")
@click.option("--prefix", default="", help="Only keys that start with this.")
@consistency_option
@timeout_option
@node_command
def list_keys(session: Session, prefix: str, consistency: str, timeout: float) -> None:
    """List keys with their versions and the beginnings of their values."""
    query = {"prefix": text_argument(prefix, "prefix"), "consistency": consistency, "timeout_ms": to_ms(timeout)}
    answer = session.api.get("/v1/kv", query, timeout)
    items = answer.field("items", list)
    if session.json:
        session.emit(answer.document(), "")
        return
    console().print(table((">version", "key", "value"), [_row(answer, item) for item in items]))


def _write(
    session: Session,
    method: str,
    key: str,
    content: bytes | None,
    *,
    if_version: int | None,
    mode: str,
    timeout: float,
    request_id: str | None,
) -> Answer:
    named = request_id or new_request_id()
    query = {"mode": mode, "if_version": if_version, "timeout_ms": to_ms(timeout), "request_id": named}
    try:
        return session.api.send(method, _path(key), query, content, timeout)
    except Failed as failed:
        raise with_request_id(failed, named) from failed


def _path(key: str) -> str:
    if not key:
        raise click.UsageError("the key is empty")
    return "/v1/kv/" + quote(text_argument(key, "key"), safe="")


def _row(answer: Answer, item: object) -> tuple[object, ...]:
    if not isinstance(item, dict):
        raise answer.not_understood("an item is not a JSON object")
    value = item.get("value")
    shown = "(bytes)" if value is None else str(value)
    if len(shown) > SHOWN_CHARS:
        shown = f"{shown[: SHOWN_CHARS - 3]}..."
    return item.get("version"), item.get("key"), shown
