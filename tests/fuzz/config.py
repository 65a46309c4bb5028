"""A node's configuration file, through the real loader.

An input is the content of the file.
"""

from __future__ import annotations

import io
import math
import os
import re
from pathlib import PosixPath
from random import Random
from typing import Any, Final

import attrs
import yaml

from tests.fuzz.bodies import Blind
from tests.test_config import FULL, LEAST
from txvbcast.config import Config, LimitsConfig, PluginConfig
from txvbcast.configfile import load
from txvbcast.errors import ConfigError
from txvbcast.yamlreader import PROBLEMS_TOLD_MAX

#: The most characters in a line of an error.
LINE_CHARS_MAX: Final = 2000

_LINE_BREAKS: Final = re.compile("\r\n|[\r\n\x85\u2028\u2029]")


# --- a file that is refused --------------------------------------------------------------


def check_error(error: ConfigError, data: bytes) -> None:
    """It tells file and line, one problem a line, in words that can be shown."""
    lines = str(error).split("\n")
    assert 1 <= len(lines) <= PROBLEMS_TOLD_MAX + 1
    count = len(_LINE_BREAKS.findall(data.decode("utf-8", "replace"))) + 1
    for line in lines:
        place = re.match(r"/etc/vbcast/node\.yaml(?::(?P<line>[0-9]+))?: .", line)
        assert place is not None, repr(line)
        assert place["line"] is None or 1 <= int(place["line"]) <= count, repr(line)
        assert line.isprintable(), repr(line)
        assert len(line) <= LINE_CHARS_MAX, f"{len(line)} characters: {line[:200]}"


# --- a file that is accepted -------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    """Writes numbers in plain digits, as the loader wants them."""


_Dumper.add_representer(
    float, lambda dumper, number: dumper.represent_scalar("tag:yaml.org,2002:float", f"{number:.15f}")
)


def written(config: Config) -> str:
    """A file that says the same as ``config``, with every key."""
    protocol = config.protocol
    listen = config.listen
    tree = {
        "cluster": {"name": config.cluster_name, "id": config.cluster_id},
        "node": {"id": config.node_id, "name": config.node_name, "vms": list(config.vms)},
        "listen": {"peer": str(listen.peer), "client": str(listen.client), "http": str(listen.http)},
        "members": [{"id": m.id, "name": m.name, "peer": str(m.peer)} for m in protocol.members],
        "data_dir": str(config.data_dir),
        "insecure": config.insecure,
        "heartbeat": _durations(protocol.heartbeat),
        "response_timeout": _durations(protocol.response_timeout),
        "inactivity": {
            "margin": protocol.inactivity.margin,
            "max": _duration(protocol.inactivity.max_s),
            "at_once": protocol.inactivity.at_once,
        },
        "quorum": attrs.asdict(protocol.quorum),
        "master": {
            "handback": protocol.master.handback,
            "handback_delay": _duration(protocol.master.handback_delay_s),
        },
        "queue": {"max_bytes": config.queue.max_bytes, "max_age": _duration(config.queue.max_age_s)},
        "resource_managers": [_plugin(plugin) for plugin in config.resource_managers],
        "adapters": [_adapter(plugin) for plugin in config.adapters],
        "estimates": {kind: _duration(estimate_s) for kind, estimate_s in protocol.estimates_s.items()},
        "limits": _limits(protocol.limits),
    }
    text: str = yaml.dump(tree, Dumper=_Dumper)
    return text


def _limits(limits: LimitsConfig) -> dict[str, object]:
    known = attrs.asdict(limits)
    wait = _duration(known.pop("wait_s"))
    return {**known, "wait": wait}


def _durations(part: Any) -> dict[str, str]:
    return {name.removesuffix("_s"): _duration(value) for name, value in attrs.asdict(part).items()}


def _duration(duration_s: float) -> str:
    return f"{duration_s * 1000:.9f}ms"


def _plugin(plugin: PluginConfig) -> dict[str, object]:
    return {"name": plugin.name, "plugin": plugin.plugin, "options": dict(plugin.options)}


def _adapter(plugin: PluginConfig) -> dict[str, object]:
    return {"plugin": plugin.plugin, "kinds": list(plugin.kinds), "options": dict(plugin.options)}


def check_config(config: Config) -> None:
    """What was accepted can be used: its paths name files, its addresses can be told."""
    os.fsencode(config.data_dir)
    assert config.data_dir.is_absolute()
    listen = config.listen
    for address in (listen.peer, listen.client, listen.http, *(member.peer for member in config.members)):
        assert re.fullmatch(r"[!-~]+", str(address)), repr(address)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, numbers nearly: a duration comes back in another unit."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# --- the target --------------------------------------------------------------------------


class _File(PosixPath):
    """A file that is not on the disk, which would be too slow."""

    content = b""

    def open(self, *args: Any, **more: Any) -> Any:
        return io.BytesIO(self.content)


def loaded(content: bytes) -> Config:
    """The configuration in a file of that content.

    :raises ConfigError: it is refused.
    """
    file = _File("/etc/vbcast/node.yaml")
    file.content = content
    return load(file)


def check(data: bytes) -> None:
    """A file is accepted, and then it can be written again; or refused as every file is refused."""
    try:
        config = loaded(data)
    except ConfigError as error:
        check_error(error, data)
        return
    check_config(config)
    again = loaded(written(config).encode())
    assert same(attrs.asdict(again), attrs.asdict(config)), f"{again} is not {config}"


_TOKENS: Final = re.compile(r"\w+|\s+|[^\w\s]")

_QUANTITY: Final = re.compile(r"-?[0-9.]+(|ms|s|m|h|[KMGT]iB)")

#: What YAML gives a meaning to.
_SIGNS: Final = (
    "{", "}", "[", "]", ",", ": ", "- ", "? ", "# ", "|\n", ">-\n", "|9\n", "&a ", "*a", "<<: ",
    "!!int ", "!!bool ", "!!binary ", "!<tag:yaml.org,2002:str> ", "!", "!e!x ", "!a%0Ab ",
    "%YAML 1.1\n---\n", "%YAML 1.2\n---\n", "%TAG !e! x:\n---\n", "---\n", "...\n",
    "\n", "\r\n", "\t", " ", "  ", "\ufeff", "\x85", "\u2028", "\0", "\x1b", '"', "'", '"\\',
)  # fmt: skip

#: Values at the edges of what is accepted, and beyond.
_VALUES: Final = (
    r'"\0"', r'"\x7f"', r'"\n"', r'"\ud800"', r'"\uFFFE"', r'"\U0001F600"', r'"\U00110000"', r'"\UFFFFFFFF"', "a\u0301",
    "\u202e", "null", "~", "yes", "off", "true", "2026-01-01", "1:30", ".inf", ".nan", "1e3", "0x10", "010", "9" * 600,
    "0", "-1", "1", "1.5", "999999999999999999", "9999999999999999999", "0.000000001", "x" * 300,
    "0s", "1ms", "1h", "8760h", "-1s", "1d", "0.000000001ms", "0.3s", "1KiB", "1024TiB", "0.5KiB",
    "a:1", "a.:1", "a:65536", "[::1]:1", '"[::1]:1"', '"[fe80::1%eth0]:1"', '"[fe80::1%a b]:1"', "0.0.0.0:1",
    "224.0.0.1:1", "options", "vms", "resource_managers", "heartbeat", "preset", "estimates", "freeze", "limits",
)  # fmt: skip


def mutate(data: bytes, bytes_max: int, seed: int, blind: Blind) -> bytes:
    """Another file: mostly with another value, or with some words and signs taken out, put in, or put elsewhere."""
    chance = Random(seed)
    if chance.random() < 0.5:
        data = chance.choice((FULL, LEAST)).encode()  # of a file that is refused, only others come that are
    try:
        tokens = _TOKENS.findall(data.decode())
    except UnicodeDecodeError:
        return blind(data, bytes_max)
    if not tokens or chance.random() < 0.2:
        return blind(data, bytes_max)
    for _ in range(1 + chance.randrange(2)):
        chance.choice((_other_value, _other_value, _other_sign, _copy, _leave_out))(tokens, chance)
    return "".join(tokens).encode()[:bytes_max]


def _other_value(tokens: list[str], chance: Random) -> None:
    """Another word or number in the place of one, mostly of the same kind."""
    places = [at for at, token in enumerate(tokens) if token.isalnum()]
    if not places:
        return
    at = chance.choice(places)
    alike = [value for value in _VALUES if _kind(value) == _kind(tokens[at])]
    tokens[at] = chance.choice(alike if alike and chance.random() < 0.8 else _VALUES)


def _kind(value: str) -> str:
    """Number, duration, size or something else."""
    found = _QUANTITY.fullmatch(value)
    return found[1][-1:] if found else "text"


def _other_sign(tokens: list[str], chance: Random) -> None:
    at = chance.randrange(len(tokens) + 1)
    tokens[at : at + chance.randrange(2)] = [chance.choice(_SIGNS)]


def _copy(tokens: list[str], chance: Random) -> None:
    start, at = chance.randrange(len(tokens) + 1), chance.randrange(len(tokens) + 1)
    tokens[at:at] = tokens[start : start + chance.choice((1, 2, 8, 40))]


def _leave_out(tokens: list[str], chance: Random) -> None:
    at = chance.randrange(len(tokens) + 1)
    del tokens[at : at + chance.choice((1, 2, 8, 40))]
