"""The configuration of a node: one frozen tree and the presets of its timing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

CHANGE_KINDS = (
    "migrate_out", "migrate_in", "vcpu", "memory", "device", "network", "storage", "vswitch",
    "freeze", "snapshot", "suspend", "reboot", "redeploy", "custom",
)  # fmt: skip

#: The most flights that one coordinator may have under way, on any node: others keep as many of its payloads.
FLIGHTS_MAX = 256


@attrs.frozen
class Address:
    """A host (name, IPv4 or IPv6, without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@attrs.frozen
class MemberConfig:
    """A line of ``members``: a node of the cluster and where its peers reach it."""

    id: int
    name: str
    peer: Address


@attrs.frozen
class HeartbeatConfig:
    """:ivar interval_s: between two heartbeats of the master; :ivar timeout_s: silence that makes a member failed."""

    interval_s: float = 0.1
    timeout_s: float = 0.8


#: What ``heartbeat.preset`` may name: for one LAN, for sites apart, for tests.
HEARTBEAT_PRESETS: Final[Mapping[str, HeartbeatConfig]] = {
    "lan": HeartbeatConfig(interval_s=0.1, timeout_s=0.8),
    "wan": HeartbeatConfig(interval_s=0.5, timeout_s=5.0),
    "test": HeartbeatConfig(interval_s=0.05, timeout_s=0.4),
}


@attrs.frozen
class ResponseTimeoutConfig:
    """How long a coordinator waits for a vote before it reports (normal) or goes on (inactive)."""

    normal_s: float = 1.0
    inactive_s: float = 0.0


@attrs.frozen
class InactivityConfig:
    """:ivar margin: an announced time is believed up to this factor (plus the heartbeat timeout);
    :ivar max_s: no absence is announced or believed for longer; :ivar at_once: a change that can be held back
    waits while so many other members are away."""

    margin: float = 1.5
    max_s: float = 3600.0
    at_once: int = 1


@attrs.frozen
class QuorumConfig:
    """:ivar planned_floor: voters never fall below this by announced absences."""

    planned_floor: int = 1
    last_man_standing: bool = False


@attrs.frozen
class MasterConfig:
    """:ivar handback: give the office back to the lowest id when everyone is back; :ivar handback_delay_s: so long
    after that."""

    handback: bool = True
    handback_delay_s: float = 1.0


@attrs.frozen
class QueueConfig:
    """Bounds of what is kept for absent members."""

    max_bytes: int = 1 << 30
    max_age_s: float = 86400.0


@attrs.frozen
class LimitsConfig:
    """:ivar pending: transactions of clients that wait on this node; :ivar pending_bytes: of those in no flight yet;
    :ivar wait_s: so long they may wait while others are answered, before more are refused;
    :ivar payload: bytes of one; :ivar flight_bytes: of one flight; :ivar flights: under way of one coordinator;
    :ivar clients: that are connected to the client port."""

    pending: int = 10_000
    pending_bytes: int = 64 << 20
    wait_s: float = 0.012
    payload: int = 1 << 20
    flight_bytes: int = 1 << 20
    flights: int = 8
    clients: int = 512


@attrs.frozen
class ListenConfig:
    """Where this node listens; peer also names the UDP port."""

    peer: Address
    client: Address
    http: Address


@attrs.frozen
class PluginConfig:
    """A resource manager or adapter: its plugin's name and options."""

    name: str
    plugin: str
    options: Mapping[str, object] = attrs.field(factory=dict)
    kinds: tuple[str, ...] = ()


#: What a node has when ``resource_managers`` is not given.
DEFAULT_RESOURCE_MANAGERS: Final = (PluginConfig(name="kv", plugin="kv"),)


@attrs.frozen
class ProtocolConfig:
    """What the core needs to know: everything but addresses, files and plugins."""

    node_id: int
    members: tuple[MemberConfig, ...]
    heartbeat: HeartbeatConfig = HeartbeatConfig()
    response_timeout: ResponseTimeoutConfig = ResponseTimeoutConfig()
    inactivity: InactivityConfig = InactivityConfig()
    quorum: QuorumConfig = QuorumConfig()
    master: MasterConfig = MasterConfig()
    limits: LimitsConfig = LimitsConfig()
    estimates_s: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen
class Config:
    """A node's whole configuration; :func:`txvbcast.configfile.load` makes it from YAML.

    One made in Python is checked by :func:`txvbcast.validation.validate`.
    """

    cluster_id: str
    cluster_name: str
    node_name: str
    vms: tuple[str, ...]
    listen: ListenConfig
    data_dir: Path
    protocol: ProtocolConfig
    insecure: bool = True
    queue: QueueConfig = QueueConfig()
    resource_managers: tuple[PluginConfig, ...] = DEFAULT_RESOURCE_MANAGERS
    adapters: tuple[PluginConfig, ...] = ()

    @property
    def node_id(self) -> int:
        """This node's id."""
        return self.protocol.node_id

    @property
    def members(self) -> tuple[MemberConfig, ...]:
        """All nodes of the cluster, this one too."""
        return self.protocol.members
