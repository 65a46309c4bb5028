"""The YAML file of a node, read into a :class:`~txvbcast.config.Config`.

Reading goes in two steps, each of which reports all that it finds: first which keys there are and what each
value says, then, if that is right, how the values go together (:mod:`txvbcast.validation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from txvbcast.addresses import parse_address
from txvbcast.config import (
    CHANGE_KINDS,
    DEFAULT_RESOURCE_MANAGERS,
    HEARTBEAT_PRESETS,
    Config,
    HeartbeatConfig,
    InactivityConfig,
    LimitsConfig,
    ListenConfig,
    MasterConfig,
    MemberConfig,
    PluginConfig,
    ProtocolConfig,
    QueueConfig,
    QuorumConfig,
    ResponseTimeoutConfig,
)
from txvbcast.errors import ConfigError
from txvbcast.units import DURATION_WANTED, SIZE_WANTED, parse_duration, parse_size
from txvbcast.validation import INSECURE_WANTED, problems
from txvbcast.yamlreader import (
    NUMBER,
    OPTIONS,
    TEXT,
    TRUTH,
    WHOLE,
    Key,
    Refused,
    compose,
    list_of,
    mapping_of,
    never,
    one_of,
    parse_text,
    scalar,
    section,
)

#: A longer file is refused unread.
FILE_BYTES_MAX: Final = 1 << 20


def load(path: Path) -> Config:
    """The configuration in the file ``path``; a relative ``data_dir`` is relative to the file's folder.

    :raises ConfigError: it cannot be read or used; a line for each problem.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except IsADirectoryError:
        raise ConfigError(
            f"{path}: is a directory: name the YAML file of one node, such as {path}/node1.yaml"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: is longer than {FILE_BYTES_MAX} bytes: this is hardly a node's configuration")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = f"the byte 0x{content[error.start]:02x}"
        raise ConfigError(
            f"{path}:{line}: is not UTF-8, which has no place for {byte} here: save it as UTF-8"
        ) from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Config:
    """The configuration in ``text``.

    :param where: the file's name, for errors and for a relative ``data_dir``.
    :raises ConfigError: it cannot be used; a line for each problem.
    """
    root = compose(text, where)
    try:
        values: Any = _FILE.read(root)
    except Refused as refused:
        raise ConfigError(f"{where}:{root.line}: {refused}") from refused
    root.report.raise_if_any()
    config = _build(values, Path(where).parent.absolute())
    for problem in problems(config):
        root.report.add(root.report.line_of(problem.path), problem.path, problem.text)
    root.report.raise_if_any()
    return config


# --- the keys --------------------------------------------------------------------------

_DURATION: Final = scalar(parse_duration, DURATION_WANTED, "str", "int", "float")
_SIZE: Final = scalar(parse_size, SIZE_WANTED, "str", "int", "float")
_ADDRESS: Final = scalar(parse_address, "HOST:PORT, such as 192.0.2.1:8410", "str")


def _parse_folder(raw: str) -> Path:
    if not raw or raw.startswith("~"):
        raise ValueError(f"expected the path of a folder, absolute or relative to this file, got {raw!r}")
    return Path(parse_text(raw))


_FILE: Final = section(
    {
        "cluster": Key(
            section({"name": Key(TEXT, required=True), "id": Key(TEXT, required=True)}),
            required=True,
        ),
        "node": Key(
            section({"id": Key(WHOLE, required=True), "name": Key(TEXT), "vms": Key(list_of(TEXT))}),
            required=True,
        ),
        "listen": Key(
            section({name: Key(_ADDRESS, required=True) for name in ("peer", "client", "http")}),
            required=True,
        ),
        "members": Key(
            list_of(
                section(
                    {
                        "id": Key(WHOLE, required=True),
                        "name": Key(TEXT, required=True),
                        "peer": Key(_ADDRESS, required=True),
                    }
                )
            ),
            required=True,
        ),
        "data_dir": Key(scalar(_parse_folder, "the path of a folder", "str"), required=True),
        "security": Key(never(f"TLS comes in a later version: remove this; {INSECURE_WANTED}")),
        "insecure": Key(TRUTH),
        "heartbeat": Key(
            section(
                {
                    "preset": Key(one_of(HEARTBEAT_PRESETS)),
                    "interval": Key(_DURATION, "interval_s"),
                    "timeout": Key(_DURATION, "timeout_s"),
                }
            )
        ),
        "response_timeout": Key(
            section({"normal": Key(_DURATION, "normal_s"), "inactive": Key(_DURATION, "inactive_s")})
        ),
        "inactivity": Key(section({"margin": Key(NUMBER), "max": Key(_DURATION, "max_s"), "at_once": Key(WHOLE)})),
        "quorum": Key(section({"planned_floor": Key(WHOLE), "last_man_standing": Key(TRUTH)})),
        "master": Key(section({"handback": Key(TRUTH), "handback_delay": Key(_DURATION, "handback_delay_s")})),
        "queue": Key(section({"max_bytes": Key(_SIZE), "max_age": Key(_DURATION, "max_age_s")})),
        "resource_managers": Key(
            list_of(
                section({"name": Key(TEXT, required=True), "plugin": Key(TEXT, required=True), "options": Key(OPTIONS)})
            )
        ),
        "adapters": Key(
            list_of(
                section(
                    {
                        "plugin": Key(TEXT, required=True),
                        "kinds": Key(list_of(one_of(CHANGE_KINDS))),
                        "options": Key(OPTIONS),
                    }
                )
            )
        ),
        "estimates": Key(mapping_of(_DURATION, CHANGE_KINDS, "kind of change")),
        "limits": Key(
            section(
                {
                    "pending": Key(WHOLE),
                    "pending_bytes": Key(_SIZE),
                    "wait": Key(_DURATION, "wait_s"),
                    "payload": Key(_SIZE),
                    "flight_bytes": Key(_SIZE),
                    "flights": Key(WHOLE),
                    "clients": Key(WHOLE),
                }
            )
        ),
    }
)


# --- values to the tree ----------------------------------------------------------------


def _build(values: Mapping[str, Any], folder: Path) -> Config:
    cluster, node = values["cluster"], values["node"]
    members = tuple(MemberConfig(**member) for member in values["members"])
    listed = {member.id: member.name for member in members}
    return Config(
        cluster_id=cluster["id"],
        cluster_name=cluster["name"],
        node_name=node.get("name", listed.get(node["id"], f"node{node['id']}")),
        vms=node.get("vms", ()),
        listen=ListenConfig(**values["listen"]),
        data_dir=folder / values["data_dir"],
        protocol=_protocol(values, node["id"], members),
        insecure=values.get("insecure", False),
        queue=QueueConfig(**values.get("queue", {})),
        resource_managers=_resource_managers(values.get("resource_managers")),
        adapters=tuple(PluginConfig(name=adapter["plugin"], **adapter) for adapter in values.get("adapters", ())),
    )


def _protocol(values: Mapping[str, Any], node_id: int, members: tuple[MemberConfig, ...]) -> ProtocolConfig:
    return ProtocolConfig(
        node_id=node_id,
        members=members,
        heartbeat=_heartbeat(**values.get("heartbeat", {})),
        response_timeout=ResponseTimeoutConfig(**values.get("response_timeout", {})),
        inactivity=InactivityConfig(**values.get("inactivity", {})),
        quorum=QuorumConfig(**values.get("quorum", {})),
        master=MasterConfig(**values.get("master", {})),
        limits=LimitsConfig(**values.get("limits", {})),
        estimates_s=values.get("estimates", {}),
    )


def _heartbeat(preset: str = "lan", **explicit: float) -> HeartbeatConfig:
    return attrs.evolve(HEARTBEAT_PRESETS[preset], **explicit)


def _resource_managers(given: tuple[Mapping[str, Any], ...] | None) -> tuple[PluginConfig, ...]:
    if given is None:
        return DEFAULT_RESOURCE_MANAGERS
    return tuple(PluginConfig(**manager) for manager in given)
