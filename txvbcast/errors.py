"""What a user of txvbcast can meet.

Each class carries plain values beside its text, so that programs need not parse
messages.  The four answers of a submission are :class:`Committed`, or one of the
failures :class:`Aborted`, :class:`OutcomeUnknown`, :class:`Overloaded`,
:class:`NoQuorum` (section 8 of ``docs/protocol.md``).
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Committed:
    """A transaction that every member performs.

    :ivar seq: its place in the log, 1, 2, 3 ...
    :ivar index: its place among the transactions of that log entry, from 0.
    :ivar result: what the resource manager's ``commit`` returned on the node that was asked.
    """

    seq: int
    index: int
    result: bytes


class VbcastError(Exception):
    """The base of every error of this package that a caller may catch."""


class SubmissionError(VbcastError):
    """A submission that was not answered with :class:`Committed`.

    :ivar reason: what was wrong, a sentence without a full stop.
    :ivar who: the node ids that the reason speaks of, may be empty.
    """

    def __init__(self, reason: str, who: tuple[int, ...] = ()) -> None:
        named = f" (node {', '.join(map(str, who))})" if who else ""
        super().__init__(f"{reason}{named}")
        self.reason = reason
        self.who = who


class Aborted(SubmissionError):
    """It did not happen and will not happen."""


class OutcomeUnknown(SubmissionError):
    """It may have happened, or may yet; ask any node by ``request_id``.

    :ivar request_id: the name under which to ask; None where whoever handed it in has to know.
    """

    def __init__(self, reason: str, who: tuple[int, ...] = (), request_id: str | None = None) -> None:
        super().__init__(reason, who)
        self.request_id = request_id


class Overloaded(SubmissionError):
    """Refused at the door because a bound was reached: nothing happened, try again later."""


class NoQuorum(SubmissionError):
    """Refused at the door because no majority of the voters can be reached: nothing happened."""


class Unsafe(VbcastError):
    """A planned absence or handover that the cluster cannot afford now."""


class MustNotGoOn(VbcastError):
    """This node had to stop, because it is not the machine that it was; the text says what to do."""


class ConfigError(VbcastError):
    """A configuration that cannot be used.

    The text names file, line, key and what was expected, as far as they are known.
    """


class StoreError(VbcastError):
    """A data directory that cannot be opened, is in use, or belongs to another node."""


class LocalProtocolError(VbcastError):
    """Our own side asked for something that the protocol does not allow: a defect."""


class RemoteProtocolError(VbcastError):
    """A peer sent something that cannot be accepted.

    :ivar reply: the reason to tell the peer before its link is closed.
    """

    def __init__(self, text: str, reply: str | None = None) -> None:
        super().__init__(text)
        self.reply = text if reply is None else reply
