"""The data directory of a node: made so that it lasts, and held by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from txvbcast.errors import StoreError

LOCK_NAME = "lock"

#: Longer than any process id in decimal.
_PID_BYTES_MAX = 32


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable.

    :raises OSError: the disk did not take them.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make ``directory`` and what is missing above it, durably and for this user only.

    :raises StoreError: something else has that name, or it cannot be made.
    """
    try:
        missing = [path for path in (directory, *directory.parents) if not path.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            sync_directory(path.parent)
    except OSError as error:
        raise StoreError(
            f"data_dir {directory} cannot be made: {error.strerror}: {error.filename}; "
            "give this user the right to make it, or set another data_dir"
        ) from error
    if not directory.is_dir():
        raise StoreError(f"data_dir {directory} is not a directory; move that file away, or set another data_dir")


class DirectoryLock:
    """The right to be the only process that uses a data directory.

    The kernel lets go of it when the process ends, however it ends, so there are no stale
    locks.  The lock file holds the process id of the last holder and stays.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, directory: Path) -> DirectoryLock:
        """Take the lock of ``directory``.

        :raises StoreError: somebody holds it, or the lock file cannot be written.
        """
        path = directory / LOCK_NAME
        with contextlib.ExitStack() as undo:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                undo.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            except BlockingIOError as error:
                holder = os.pread(descriptor, _PID_BYTES_MAX, 0).decode("ascii", "replace").strip()
                raise StoreError(
                    f"data_dir {directory} is in use by process {holder or 'unknown'}; "
                    "stop that process, or set another data_dir"
                ) from error
            except OSError as error:
                raise StoreError(
                    f"data_dir {directory} cannot be used: {error.strerror}: {path}; "
                    "give this user the right to write there, or set another data_dir"
                ) from error
            undo.pop_all()
        return cls(descriptor)

    def release(self) -> None:
        """Let the next process have it."""
        os.close(self._descriptor)
