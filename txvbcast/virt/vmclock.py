"""Reads the page that a hypervisor shares with its guest to tell it of time: ``/dev/vmclock0``.

Layout and the rule of the sequence count: the specification UAPI.13 (VMClock), and
``linux/vmclock-abi.h``, whose numbers hold where the two differ (flag 8, offset 0x68).
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from typing import Final

import attrs

from txvbcast.virt.polling import Unreachable

MAGIC: Final = 0x4B4C4356
VERSION: Final = 1
#: The flag that says that there is a ``vm_generation_counter``.
GENERATION_PRESENT: Final = 1 << 8
#: A smaller one ends before its flags do; one that ends before the generation does not tell of it.
SIZE_BYTES_MIN: Final = 0x20

#: magic, size, version, counter id, time type: constant.
_CONSTANT: Final = struct.Struct("<IIHBB")
_SEQ_COUNT: Final = struct.Struct("<I")
_SEQ_COUNT_AT: Final = 0x0C
#: disruption marker, flags.
_MARKER_AND_FLAGS: Final = struct.Struct("<QQ")
_MARKER_AT: Final = 0x10
_GENERATION: Final = struct.Struct("<Q")
_GENERATION_AT: Final = 0x68
_USED_BYTES: Final = 0x70

#: An update takes the hypervisor well under a microsecond, and each of these some.
_TRIES: Final = 100


@attrs.frozen
class Reading:
    """What a page says.

    :ivar disruption: another number than before when the machine was moved, or loaded from a snapshot.
    :ivar generation: another number than before when it was loaded from a snapshot; None if it is not told.
    """

    disruption: int
    generation: int | None


class Page:
    """A page that was found to be a vmclock.

    :raises Unreachable: it cannot be read, or is none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._memory = _mapped(path)
        magic, size_bytes, version, _, _ = _CONSTANT.unpack_from(self._memory)
        if (magic, version) != (MAGIC, VERSION) or size_bytes < SIZE_BYTES_MIN:
            self.close()
            raise Unreachable(
                f"{path} is no vmclock of version {VERSION}: it begins with magic {magic:#x}, "
                f"version {version}, size {size_bytes}"
            )
        self._has_generation = size_bytes >= _USED_BYTES

    def close(self) -> None:
        """Let go of the page."""
        self._memory.close()

    def read(self) -> Reading:
        """What it says now.

        :raises Unreachable: it was being written to all the while.
        """
        for _ in range(_TRIES):
            before = self._seq_count()
            used = self._memory[:_USED_BYTES]
            if not before & 1 and self._seq_count() == before:
                return self._reading(used)
        raise Unreachable(f"{self._path} is being written to, and is not done")

    def _seq_count(self) -> int:
        count: int = _SEQ_COUNT.unpack_from(self._memory, _SEQ_COUNT_AT)[0]
        return count

    def _reading(self, used: bytes) -> Reading:
        disruption, flags = _MARKER_AND_FLAGS.unpack_from(used, _MARKER_AT)
        (generation,) = _GENERATION.unpack_from(used, _GENERATION_AT)
        return Reading(disruption, generation if self._has_generation and flags & GENERATION_PRESENT else None)


def _mapped(path: str) -> mmap.mmap:
    """The page in memory: the driver's own ``read`` would spin for up to 100 ms beside a hypervisor that hangs."""
    try:
        # A FIFO would keep the open waiting for its writer.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Unreachable(f"{path} cannot be opened: {error.strerror}") from error
    try:
        mode = os.fstat(file).st_mode
        if not (stat.S_ISCHR(mode) or stat.S_ISREG(mode)):
            raise Unreachable(f"{path} is neither a device nor a file")
        return mmap.mmap(file, mmap.PAGESIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except (OSError, ValueError) as error:  # ValueError: a file that is shorter
        raise Unreachable(f"{path} cannot be mapped into memory: {error}") from error
    finally:
        os.close(file)
