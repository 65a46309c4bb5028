"""A small Linux for virtual machines of tests: Debian's kernel for clouds, and busybox.

Fetched once from Debian's archive (28 MB) by ``apt-get download``, which installs nothing, and kept in
``$XDG_CACHE_HOME/txvbcast-tests``.
"""

from __future__ import annotations

import functools
import gzip
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

#: Modules that the guest loads, in this order.
_MODULES: Final = (
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_balloon",
    "virtio_blk", "failover", "net_failover", "virtio_net", "button",
)  # fmt: skip

_FOLDERS: Final = ("bin", "dev", "modules", "proc", "sys", "tmp")

#: What runs in the guest: it fills as many MiB as it is told with what does not compress, then takes commands.
_INIT: Final = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs -o size=90% tmp /tmp
for module in {" ".join(_MODULES)}; do insmod /modules/$module.ko; done
dd if=/dev/urandom of=/tmp/filled bs=1M count=${{fill:-0}} 2>/dev/null
stty -echo; export PS1=
echo guest-is-ready
exec sh
"""

#: Downloads take seconds where the archive is near.
_COMMAND_S_MAX: Final = 300.0


class GuestMissing(Exception):
    """The guest cannot be had here; the text says why."""


@attrs.frozen
class Guest:
    """A Linux that starts in about three seconds and takes shell commands over its serial line."""

    kernel: Path
    initramfs: Path

    def arguments(self, fill_mib: int) -> tuple[str, ...]:
        """For QEMU."""
        words = f"console=ttyS0 quiet panic=-1 memhp_default_state=online fill={fill_mib}"
        return ("-kernel", str(self.kernel), "-initrd", str(self.initramfs), "-append", words)


@functools.cache
def guest() -> Guest:
    """The guest, fetched and built if the cache does not have it.

    :raises GuestMissing: this is no Debian on x86-64, its package lists are missing, or its archive is out of reach.
    """
    package = _kernel_package()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "txvbcast-tests"
    cache.mkdir(parents=True, exist_ok=True)
    built_of = zlib.crc32(f"{_INIT}{_MODULES}{_FOLDERS}".encode())
    folder = cache / f"{package}-{built_of:08x}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache) as workshop:
            built = _build(Path(workshop), package)
            shutil.move(built, folder)
    return Guest(folder / "vmlinuz", folder / "initramfs")


def _kernel_package() -> str:
    said = _run(Path.cwd(), "apt-cache", "depends", "linux-image-cloud-amd64")
    found = re.search(r"Depends: (linux-image-\S+-cloud-amd64)", said)
    if found is None:
        raise GuestMissing("apt-cache knows no linux-image-cloud-amd64: run apt-get update")
    return found[1]


def _run(folder: Path, *command: str) -> str:
    if shutil.which(command[0]) is None:
        raise GuestMissing(f"{command[0]} is not installed, and the guest is made of Debian's packages")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_COMMAND_S_MAX)
    except subprocess.TimeoutExpired as error:
        raise GuestMissing(f"{command[0]} did not end within {_COMMAND_S_MAX:.0f} s") from error
    if done.returncode != 0:
        raise GuestMissing(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _build(workshop: Path, package: str) -> Path:
    _run(workshop, "apt-get", "download", package, "busybox-static")
    for archive in workshop.glob("*.deb"):
        _run(workshop, "dpkg-deb", "-x", str(archive), "unpacked")
    unpacked, built = workshop / "unpacked", workshop / "built"
    built.mkdir()
    shutil.move(_only(unpacked, "boot/vmlinuz-*"), built / "vmlinuz")
    files = {"init": _INIT.encode(), "bin/busybox": _only(unpacked, "**/bin/busybox").read_bytes()}
    for name in _MODULES:
        path = _only(unpacked, f"**/{name}.ko*")
        content = path.read_bytes()
        files[f"modules/{name}.ko"] = lzma.decompress(content) if path.suffix == ".xz" else content
    (built / "initramfs").write_bytes(gzip.compress(_archive(_FOLDERS, files), compresslevel=1))
    return built


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise GuestMissing(f"Debian's packages are not as expected: {len(found)} files are named {pattern}")
    return found[0]


def _archive(folders: Iterable[str], files: Mapping[str, bytes]) -> bytes:
    """In the format that the kernel unpacks: cpio's "newc"; everything may be executed."""
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    entries.append(("TRAILER!!!", 0, b""))
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries, 1))


def _entry(number: int, name: str, mode: int, content: bytes) -> bytes:
    label = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(label), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + label) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 4)
