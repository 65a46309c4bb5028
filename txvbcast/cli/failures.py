"""How a command ends when it cannot do what it was asked: one message on stderr and one exit code."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import IO, Any

import click

TYPE_PREFIX = "urn:txvbcast:error:"


class Exit(enum.IntEnum):
    """The exit codes of ``vbcast``."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    UNKNOWN = 4
    #: The output could not be written; what the command did is done.
    OUTPUT_FAILED = 74
    INTERRUPTED = 130
    #: Whoever read the output has closed it, as ``head`` does; the number that shells show for SIGPIPE.
    OUTPUT_CLOSED = 141


#: The kinds of problem document and what they mean for the exit code.
CODES: dict[str, Exit] = {
    "bad-request": Exit.USAGE,
    "forbidden": Exit.REFUSED,
    "not-found": Exit.REFUSED,
    "method-not-allowed": Exit.REFUSED,
    "aborted": Exit.REFUSED,
    "too-large": Exit.USAGE,
    "overloaded": Exit.REFUSED,
    "no-quorum": Exit.UNREACHABLE,
    "unreachable": Exit.UNREACHABLE,
    "not-understood": Exit.UNREACHABLE,
    "outcome-unknown": Exit.UNKNOWN,
}


class Failed(click.ClickException):
    """A command's end that is not the good one.

    :ivar code: the exit code.
    :ivar document: what ``--json`` prints: a problem document.
    """

    def __init__(
        self, kind: str, detail: str, facts: Mapping[str, Any] | None = None, code: Exit | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.code = CODES[kind] if code is None else code
        self.document: dict[str, Any] = {"type": TYPE_PREFIX + kind, "detail": detail, **(facts or {})}

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to stderr."""
        click.echo(f"vbcast: {self.message}", file=file, err=file is None)


class Interrupted(Failed):
    """Ctrl-C came when a request had left and its answer had not come."""

    def __init__(self) -> None:
        super().__init__("outcome-unknown", "interrupted before the answer came; it may have happened")


class OutputClosed(Exception):
    """Whoever read the standard output does not read it any more."""
