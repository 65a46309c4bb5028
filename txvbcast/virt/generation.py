"""Remembers which generation of a virtual machine a node was, from one run to the next."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import attrs
import msgspec

from txvbcast.virt.polling import Unreachable

#: Of a file that identifies a generation so much is read; the record of what was seen is smaller.
FILE_BYTES_MAX: Final = 1 << 16


class Damaged(Exception):
    """The record is there and cannot be used; the text says why."""


@attrs.frozen
class Seen:
    """What the record holds.

    :ivar generations: by the path of what identifies the generation, a text that differs between two of them.
    :ivar changed: how a change was noticed that nobody has dealt with yet; empty if there was none.
    """

    generations: dict[str, str] = attrs.field(factory=dict)
    changed: str = ""


@attrs.define(eq=False)
class Record:
    """A file that is replaced as a whole, and is on the disk when a method returns.

    :ivar path: where it is.
    :ivar seen: what it holds, or is to hold.
    :ivar saved: whether it does.
    """

    path: Path
    seen: Seen = attrs.field(factory=Seen)
    saved: bool = True

    def load(self) -> None:
        """Read what the last run has written.

        :raises Damaged: it cannot be read, or was not written by :meth:`save`.
        """
        try:
            content = read_file(str(self.path))
        except FileNotFoundError:
            return
        except Unreachable as error:
            raise Damaged(str(error)) from error
        try:
            self.seen = msgspec.json.decode(content, type=Seen)
        except msgspec.MsgspecError as error:
            raise Damaged(f"{self.path} holds something else than what was written: {error}") from error

    def save(self) -> None:
        """Write what was seen.

        :raises Unreachable: it could not be written; ``saved`` says so too.
        """
        self.saved = False
        beside = self.path.with_name(f"{self.path.name}.new")
        try:
            with beside.open("wb") as file:
                file.write(msgspec.json.encode(self.seen))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise Unreachable(f"{self.path} cannot be written: {error.strerror}") from error
        self.saved = True


def read_file(path: str) -> bytes:
    """The beginning of a file, up to :data:`FILE_BYTES_MAX`.

    :raises FileNotFoundError: there is none.
    :raises Unreachable: it cannot be read, or is something else.
    """
    try:
        # A FIFO would keep the open waiting for its writer, and a terminal the read.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreachable(f"{path} cannot be opened: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise Unreachable(f"{path} is not a file")
        return os.read(file, FILE_BYTES_MAX)
    except OSError as error:
        raise Unreachable(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(file)
