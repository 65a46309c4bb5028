"""``vbcast init``: writes the configuration of a new cluster."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import click

from txvbcast.addresses import check_host, is_wildcard
from txvbcast.config import Address
from txvbcast.errors import ConfigError
from txvbcast.validation import check_name

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_NAME: Final = "vbcast"
DEFAULT_PORT: Final = 8400

#: The numbers of one node's ports are this far from those of the next.
PORTS_PER_NODE: Final = 10

#: The most nodes: as many as have ports above the lowest base port.
NODES_MAX: Final = 1000


@attrs.frozen
class Node:
    """What differs between the files of one cluster.

    :ivar number: 1 for the first; also its node id.
    """

    number: int
    host: str
    base_port: int

    @property
    def name(self) -> str:
        """Of the node, its file and its data directory."""
        return f"node{self.number}"

    def address(self, place: int) -> str:
        """HOST:PORT in quotes; the places are 0 peer, 1 client, 2 http."""
        return json.dumps(str(Address(self.host, self.base_port + PORTS_PER_NODE * self.number + place)))


def write_cluster(
    directory: Path, nodes: int, hosts: Sequence[str], base_port: int, name: str, insecure: bool
) -> list[Path]:
    """Write ``node1.yaml`` ... and a data directory for each node into ``directory``, which is made if need be.

    Node k listens on ports ``base_port + 10 k`` (peers, TCP and UDP), ``+ 1`` (clients) and ``+ 2`` (HTTP).

    :param hosts: one for all nodes or one for each: names, or IPv4 or IPv6 addresses.
    :param insecure: without TLS and authentication; this version knows no other clusters.
    :return: the files, in the order of the nodes.
    :raises ConfigError: something given cannot be used, a file is there already, or cannot be written; nothing that
        was there is changed.
    """
    if not insecure:
        raise ConfigError("certificates come in a later version; this one needs --insecure, on a trusted network")
    try:
        check_name(name)
    except ValueError as error:
        raise ConfigError(f"the cluster's name cannot be used: {error}") from error
    cluster = _nodes(nodes, [_bare(host) for host in hosts], base_port)
    cluster_id = secrets.token_hex(16)
    files = {directory / f"{node.name}.yaml": _yaml(node, cluster, name, cluster_id) for node in cluster}
    folders = [directory / node.name for node in cluster]
    try:
        _refuse_what_is_there([*files, *folders])
        directory.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            folder.mkdir(mode=0o700)
        for path, text in files.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: cannot be written: {error.strerror}") from error
    return list(files)


def _nodes(nodes: int, hosts: Sequence[str], base_port: int) -> list[Node]:
    if not 1 <= nodes <= NODES_MAX:
        raise ConfigError(f"the number of nodes must be from 1 to {NODES_MAX}, got {nodes}")
    if len(hosts) not in (1, nodes):
        raise ConfigError(f"give one host for all nodes or one for each of the {nodes}, got {len(hosts)}")
    last_port = base_port + PORTS_PER_NODE * nodes + 2
    if base_port + PORTS_PER_NODE < 1 or last_port > 65535:
        raise ConfigError(
            f"from base port {base_port} on, {nodes} nodes need the ports {base_port + PORTS_PER_NODE} to {last_port}: "
            "choose it so that they are from 1 to 65535"
        )
    each = list(hosts) * (nodes if len(hosts) == 1 else 1)
    return [Node(number, host, base_port) for number, host in enumerate(each, 1)]


def _bare(host: str) -> str:
    """``host`` without the brackets that an IPv6 address may have, if peers could connect to it."""
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host
    try:
        check_host(bare)
    except ValueError as error:
        raise ConfigError(f"the host {host!r} cannot be used: {error}") from error
    if is_wildcard(bare):
        raise ConfigError(f"the host {host!r} cannot be used: peers cannot connect to it; name the node's own address")
    return bare


def _refuse_what_is_there(paths: Sequence[Path]) -> None:
    there = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if there:
        raise ConfigError(f"{', '.join(there)}: there already; name another directory, or remove what is not needed")


def _yaml(node: Node, cluster: Sequence[Node], cluster_name: str, cluster_id: str) -> str:
    members = "\n".join(
        f"  - id: {member.number}\n    name: {member.name}\n    peer: {member.address(0)}" for member in cluster
    )
    return _TEMPLATE.format(
        node=node,
        peer=node.address(0),
        client=node.address(1),
        http=node.address(2),
        members=members,
        cluster_name=json.dumps(cluster_name),
        cluster_id=json.dumps(cluster_id),
    )


_TEMPLATE: Final = """\
# Node {node.number} of a txvbcast cluster. Start it with: twistd -n vbcast --config {node.name}.yaml
# Lines that begin with '#key: value' show the defaults.

# The same on every node; nodes with another id are refused.
cluster:
  name: {cluster_name}
  id: {cluster_id}

node:
  id: {node.number}
  name: {node.name}
  #vms: []    # the virtual machines on this host, by name

# Where this node listens; 0.0.0.0 or "[::]" means all addresses of the machine.
listen:
  peer: {peer}      # the other nodes, TCP and UDP
  client: {client}    # programs
  http: {http}      # status, transactions, key-value store

# Every node of the cluster, this one too, and where the others reach it. The same on every node.
# The lowest id is the preferred master.
members:
{members}

# Relative to this file.
data_dir: {node.name}

# Neither TLS nor any authentication: only for a network where every machine is trusted.
insecure: true

# How fast a silent member is noticed. Presets: lan (100ms, 800ms), wan (500ms, 5s), test (50ms, 400ms).
#heartbeat:
#  preset: lan
#  interval: 100ms
#  timeout: 800ms

# How long a member's vote is waited for: one that is normal, one that has announced an absence.
#response_timeout:
#  normal: 1s
#  inactive: 0s

# An announced absence is believed for its expected time x margin, and never longer than max.
#inactivity:
#  margin: 1.5
#  max: 1h

# Announced absences never leave fewer voters than planned_floor. last_man_standing lets unannounced ones shrink
# the voters too.
#quorum:
#  planned_floor: 1
#  last_man_standing: false

# Whether the lowest id becomes master again when it is back, and how long after.
#master:
#  handback: true
#  handback_delay: 1s

# What is kept for absent members.
#queue:
#  max_bytes: 1GiB
#  max_age: 24h

# The applications that perform transactions.
#resource_managers:
#  - name: kv
#    plugin: kv

# How long a change of a kind takes, where nothing better is known.
#estimates:
#  migrate_out: 5s
#  snapshot: 2s

# Transactions that wait here, bytes of those, how long; bytes of one, bytes of a batch, batches under way; clients.
#limits:
#  pending: 10000
#  pending_bytes: 64MiB
#  wait: 12ms
#  payload: 1MiB
#  flight_bytes: 1MiB
#  flights: 8
#  clients: 512
"""


@click.command(short_help="Write the configuration of a new cluster.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--nodes", metavar="N", type=int, required=True, help="How many nodes the cluster has.")
@click.option(
    "--host",
    "hosts",
    metavar="H",
    multiple=True,
    default=(DEFAULT_HOST,),
    help=f"Name or address of the machine: one for all nodes, or one for each in order. Default {DEFAULT_HOST}.",
)
@click.option(
    "--base-port",
    metavar="P",
    type=int,
    default=DEFAULT_PORT,
    help=f"Node k has the ports P + 10 k, and one and two more. Default {DEFAULT_PORT}.",
)
@click.option("--name", metavar="CLUSTER", default=DEFAULT_NAME, help=f"Name of the cluster. Default {DEFAULT_NAME}.")
@click.option("--insecure", is_flag=True, help="Without TLS and authentication: for a trusted network.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on stdout.")
@click.pass_context
def init(
    context: click.Context,
    directory: Path,
    nodes: int,
    hosts: tuple[str, ...],
    base_port: int,
    name: str,
    insecure: bool,
    as_json: bool,
) -> None:
    """Write the configuration of a new cluster.

    DIR gets node1.yaml, node2.yaml ... and a data directory for each node. Nothing is overwritten. To spread the
    nodes over several machines, copy to each its own file and data directory.
    """
    if not insecure:
        raise click.UsageError(
            "Certificates come in a later version; this one makes only clusters without TLS and authentication, for a "
            f"trusted network. For such a one type:\n  {_insecurely(directory, nodes, hosts, base_port, name)}"
        )
    try:
        files = write_cluster(directory, nodes, hosts, base_port, name, insecure)
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    _, root_json = context.find_object(tuple) or (None, False)
    if as_json or root_json:
        click.echo(json.dumps({"files": [str(path) for path in files]}))
        return
    click.echo("Written. Start each node with its line:")
    for path in files:
        click.echo(f"  twistd -n vbcast --config {shlex.quote(str(path))}")


def _insecurely(directory: Path, nodes: int, hosts: Sequence[str], base_port: int, name: str) -> str:
    """The command line as it was given, with ``--insecure``."""
    words = ["vbcast", "init", str(directory), "--nodes", str(nodes)]
    if tuple(hosts) != (DEFAULT_HOST,):
        words += [word for host in hosts for word in ("--host", host)]
    if base_port != DEFAULT_PORT:
        words += ["--base-port", str(base_port)]
    if name != DEFAULT_NAME:
        words += ["--name", name]
    return shlex.join([*words, "--insecure"])
