"""Two libvirt daemons that do not know of each other, with real QEMU, for tests of migrations on one machine.

Each is the daemon of an unprivileged user's session, with its own idea of which host it is, in namespaces of its own:
hooks are looked for in ``/etc/libvirt``, which there is an empty place; and all its guests end with it.
"""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
from twisted.trial import unittest

from tests.blackbox import machine
from tests.net_samples import free_port

try:
    import libvirt
except ModuleNotFoundError:
    libvirt = None

#: How long anything of a daemon may take before it is given up.
PATIENCE_S = 60.0
LOOK_S = 0.02
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
VBCAST = str(Path(sys.executable).with_name("vbcast"))
#: Namespaces of its own, in which this user is not root but has root's rights, until they are dropped.
APART = (
    "unshare", "--user", "--map-user=1000", "--map-group=1000", "--keep-caps",
    "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
)  # fmt: skip
POWERLESS = ("setpriv", "--inh-caps=-all", "--ambient-caps=-all")
EMPTY_HOOKS = "mount -t tmpfs tmpfs /etc/libvirt; mkdir -p /etc/libvirt/hooks/qemu.d"

GUEST = "guest1"
GUEST_UUID = "33333333-3333-4333-8333-333333333333"
_GUEST = """\
<domain type='qemu'>
  <name>{name}</name> <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory> <maxMemory slots='4' unit='MiB'>{maximum_mib}</maxMemory>
  <vcpu current='1'>2</vcpu>
  <cpu><numa><cell id='0' cpus='0-1' memory='{memory_mib}' unit='MiB'/></numa></cpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os> <features><acpi/></features>
  <devices><memballoon model='virtio'/></devices>
</domain>
"""
DIMM = "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>"


def guest_xml(memory_mib: int = 64, name: str = GUEST) -> str:
    """A guest without an operating system."""
    return _GUEST.format(name=name, uuid=GUEST_UUID, memory_mib=memory_mib, maximum_mib=memory_mib + 1024)


@functools.cache
def missing() -> str:
    """Why these daemons cannot be had here; empty if they can."""
    if libvirt is None:
        return "the Python module libvirt is not installed"
    for program in ("libvirtd", "qemu-system-x86_64", "setpriv", "unshare"):
        if shutil.which(program, path=PATH) is None:
            return f"{program} is not installed"
    if not Path("/etc/libvirt").is_dir():
        return "there is no directory /etc/libvirt, over which an empty one could be laid"
    return machine.failure((*APART, "sh", "-ec", f"{EMPTY_HOOKS}; exec {shlex.join(POWERLESS)} true"))


def require(reason: str) -> None:
    """Skip a test for a reason, if there is one; where nothing may be missing that is a failure.

    :raises unittest.SkipTest: there is a reason, on another machine.
    :raises AssertionError: there is one.
    """
    if reason and machine.is_reference():
        raise AssertionError(reason)
    if reason:
        raise unittest.SkipTest(reason)


@attrs.define(eq=False)
class Daemon:
    """One daemon: its files and, while it runs, its process.

    :ivar hook: what it runs as its hook for QEMU, if that file is there when it is started.
    """

    directory: Path
    host: uuid.UUID = attrs.field(factory=uuid.uuid4)
    process: subprocess.Popen[bytes] | None = None

    @property
    def hook(self) -> Path:
        return self.directory / "hook"

    @property
    def socket(self) -> Path:
        return self.directory / "sock" / "libvirt-sock"

    @property
    def uri(self) -> str:
        return f"qemu+unix:///session?socket={self.socket}"

    def start(self) -> None:
        """Start it, and wait until it can be connected to."""
        for name in ("run", "conf/libvirt", "cache", "data", "sock"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "conf/libvirt/libvirtd.conf").write_text(
            f'unix_sock_dir = "{self.socket.parent}"\nauth_unix_rw = "none"\nauth_unix_ro = "none"\n'
            f'host_uuid = "{self.host}"\nlog_outputs = "3:file:{self.directory}/libvirtd.log"\n'
        )
        (self.directory / "conf/libvirt/qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
        self.socket.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [*APART, "sh", "-ec", self._script()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.wait("it can be connected to", self._answers)

    def _script(self) -> str:
        places = {"HOME": "", "XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "conf", "XDG_CACHE_HOME": "cache"}
        variables = [f"{name}={self.directory / place}" for name, place in places.items()]
        variables += [f"PATH={PATH}", f"XDG_DATA_HOME={self.directory / 'data'}"]
        configuration = str(self.directory / "conf/libvirt/libvirtd.conf")
        daemon = shlex.join(["env", "-i", *variables, *POWERLESS, "libvirtd", "-f", configuration])
        hook = shlex.quote(str(self.hook))
        give = f"if [ -e {hook} ]; then cp {hook} /etc/libvirt/hooks/qemu.d/vbcast; fi"
        return f"{EMPTY_HOOKS}; {give}; {daemon}; exit $?"  # it stays, to be the first process

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        with suppress(libvirt.libvirtError), self.connection():
            return True
        return False

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds.

        :raises TimeoutError: it does not in time.
        """
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > until_s or self.process is None or self.process.poll() is not None:
                raise TimeoutError(f"not in time: {what}; see {self.directory}")
            time.sleep(LOOK_S)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A connection; its calls block."""
        connection = libvirt.open(self.uri)
        try:
            yield connection
        finally:
            connection.close()

    @property
    def pid(self) -> int:
        """Of the daemon itself."""
        return _first_child(self._init)

    @property
    def _init(self) -> int:
        """The first process of its namespaces, with which all others end."""
        assert self.process is not None
        return _first_child(self.process.pid)

    def freeze(self) -> None:
        """Stop the daemon, not its guests."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it at once, with its guests."""
        if self.process is not None:
            if self.process.poll() is None:
                os.kill(self._init, signal.SIGKILL)
            self.process.wait(PATIENCE_S)
            self.process = None


def _first_child(pid: int) -> int:
    """The oldest one: guests become children of the first process too."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


@contextmanager
def directory() -> Iterator[Path]:
    """A directory with a name that is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lv") as path:
        yield Path(path)


def migrate(source: Daemon, destination: Daemon, mib_per_s: int = 0) -> None:
    """Have the guest moved, live and from daemon to daemon.

    :param mib_per_s: a limit, 0 for none.
    :raises libvirt.libvirtError: it does not succeed.
    """
    parameters: dict[str, Any] = {"migrate_uri": f"tcp://127.0.0.1:{free_port()}"}
    if mib_per_s:
        parameters["bandwidth"] = mib_per_s
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
    with source.connection() as connection:
        connection.lookupByName(GUEST).migrateToURI3(destination.uri, parameters, flags)
