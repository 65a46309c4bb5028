"""``vbcast submit``, and what it shares with the commands that write keys."""

from __future__ import annotations

import base64
import uuid
from typing import Any

import click

from txvbcast.cli.failures import Exit, Failed
from txvbcast.cli.session import DURATION, Session, node_command, printable, read_input, text_argument, to_ms

MODES = ("broadcast", "2pc", "3pc")

mode_option = click.option(
    "--mode",
    type=click.Choice(MODES),
    default="broadcast",
    show_default=True,
    help="broadcast asks nobody; 2pc asks every node first; 3pc also waits until every node has it.",
)
timeout_option = click.option("--timeout", type=DURATION, default="5s", show_default=True, help="How long to wait.")
request_id_option = click.option(
    "--request-id", metavar="ID", help="Names the transaction: repeated with the same ID it takes effect once."
)


@click.command()
@click.argument("rm")
@click.argument("payload", required=False)
@click.option("--file", metavar="PATH", help="Read the payload from a file; - for stdin.")
@mode_option
@timeout_option
@request_id_option
@node_command
def submit(
    session: Session,
    rm: str,
    payload: str | None,
    file: str | None,
    mode: str,
    timeout: float,
    request_id: str | None,
) -> None:
    """Hand a transaction to the resource manager RM and print its result.

    PAYLOAD is the operation in that resource manager's own language; - reads it from stdin. A payload that
    starts with a dash goes after two dashes: vbcast submit counter -- -5
    """
    content = read_input(payload, file, "payload")
    named = request_id or new_request_id()
    body: dict[str, Any] = {"rm": text_argument(rm, "name of the resource manager"), "mode": mode, "request_id": named}
    body |= {"timeout_ms": to_ms(timeout), **as_json("payload", content)}
    try:
        answer = session.api.send("POST", "/v1/tx", body=body, wait_s=timeout)
    except Failed as failed:
        raise with_request_id(failed, named) from failed
    seq, index = answer.field("seq", int), answer.field("index", int)
    document = answer.document()
    result = printable(str(document.get("result", document.get("result_b64", ""))))
    label = "result" if "result" in document else "result (base64)"
    text = f"committed as entry {seq}, place {index}"
    session.emit({**document, "request_id": named}, f"{text}\n{label}: {result}" if result else text)


def new_request_id() -> str:
    """A name for a transaction that its client did not name."""
    return uuid.uuid4().hex


def with_request_id(failed: Failed, request_id: str) -> Failed:
    """``failed``; an unknown outcome with the way to learn it."""
    if failed.code is not Exit.UNKNOWN:
        return failed
    detail = (
        f"{failed.message}; repeat it with --request-id {request_id} to learn what became of it, it takes effect once"
    )
    facts = {name: value for name, value in failed.document.items() if name not in ("type", "detail")}
    return Failed(failed.kind, detail, {**facts, "request_id": request_id}, failed.code)


def as_json(name: str, content: bytes) -> dict[str, str]:
    """``content`` as a member of a JSON object: text when it is UTF-8, else base64."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(content).decode()}
