"""Disturbances of the network between nodes: cuts of all shapes, resets, loss, slow links.

Clients reach every node all the while: a node that is cut off is asked, and has to know it.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, Self

import attrs

from tests.blackbox.disturbance import Disturbance
from tests.blackbox.lab import Lab, address, run

_DROP: Final = ("drop",)
_numbers = itertools.count(1)

#: How often a flapping link goes, and how long it is gone and there.
_FLAPS: Final = 4
_FLAP_S: Final = 0.3


@attrs.define(eq=False)
class Filters:
    """Packet filters at the entrances of nodes, each in a table of its own."""

    _tables: list[tuple[int, str]] = attrs.field(factory=list)

    def block(self, lab: Lab, receiver: int, senders: Iterable[int], *verdicts: tuple[str, ...]) -> None:
        """Let ``verdicts`` decide on what ``receiver`` gets from ``senders``."""
        table = f"txp{next(_numbers)}"
        self._tables.append((receiver, table))
        rules = [
            f"add rule inet {table} entrance ip saddr {address(sender)} {' '.join(verdict)}"
            for sender in senders
            for verdict in verdicts
        ]
        chain = f"add chain inet {table} entrance {{ type filter hook input priority 0; }}"
        run(*lab[receiver].inside("nft", "; ".join((f"add table inet {table}", chain, *rules))))

    def remove(self, lab: Lab) -> None:
        """Take them all away."""
        while self._tables:
            receiver, table = self._tables.pop()
            run(*lab[receiver].inside("nft", "delete", "table", "inet", table))


def _others(lab: Lab, *nodes: int) -> list[int]:
    return [k for k in lab.nodes if k not in nodes]


@attrs.define(eq=False)
class _Filtered(Disturbance):
    """A disturbance by packet filters."""

    needs: ClassVar[tuple[str, ...]] = ("packet filter",)
    nodes: tuple[int, ...]
    _filters: Filters = attrs.field(factory=Filters, init=False, repr=False)

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node."""
        return cls((chance.choice(node_ids),))

    def heal(self, lab: Lab) -> None:
        """Take the filters away."""
        self._filters.remove(lab)


class Split(_Filtered):
    """The nodes and the rest do not hear each other."""

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Some, and not all."""
        return cls(tuple(sorted(chance.sample(list(node_ids), chance.randint(1, len(node_ids) - 1)))))

    def begin(self, lab: Lab) -> None:
        """Cut both ways."""
        rest = _others(lab, *self.nodes)
        for k in self.nodes:
            self._filters.block(lab, k, rest, _DROP)
        for k in rest:
            self._filters.block(lab, k, self.nodes, _DROP)


class Shatter(_Filtered):
    """Nobody hears anybody."""

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """All."""
        return cls(tuple(node_ids))

    def begin(self, lab: Lab) -> None:
        """Cut all."""
        for k in self.nodes:
            self._filters.block(lab, k, _others(lab, k), _DROP)


class CutMaster(_Filtered):
    """Whoever is master and the rest do not hear each other, until another is master, and longer."""

    alone: ClassVar[bool] = True

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Who it will be is not known yet."""
        return cls(tuple(node_ids))

    def begin(self, lab: Lab) -> None:
        """Cut both ways, and wait for the change."""
        master = lab.wait_master()
        for k in _others(lab, master):
            self._filters.block(lab, k, [master], _DROP)
        self._filters.block(lab, master, _others(lab, master), _DROP)
        lab.wait_other_master(master)


class Deafen(_Filtered):
    """A node hears nobody, and is heard."""

    def begin(self, lab: Lab) -> None:
        """Cut one way."""
        (k,) = self.nodes
        self._filters.block(lab, k, _others(lab, k), _DROP)


class Mute(_Filtered):
    """Nobody hears a node, which hears all."""

    def begin(self, lab: Lab) -> None:
        """Cut the other way."""
        for k in _others(lab, *self.nodes):
            self._filters.block(lab, k, self.nodes, _DROP)


class Bridge(_Filtered):
    """Two nodes do not hear each other; the rest hear both."""

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any two."""
        return cls(tuple(chance.sample(list(node_ids), 2)))

    def begin(self, lab: Lab) -> None:
        """Cut between the two."""
        one, other = self.nodes
        self._filters.block(lab, one, [other], _DROP)
        self._filters.block(lab, other, [one], _DROP)


class Reset(_Filtered):
    """Every connection of a node with its peers is reset, and new ones are refused; datagrams get lost."""

    def begin(self, lab: Lab) -> None:
        """Refuse what comes in on both sides."""
        (k,) = self.nodes
        reset = ("meta l4proto tcp", "reject with tcp reset")
        for receiver, senders in ((k, _others(lab, k)), *((other, [k]) for other in _others(lab, k))):
            self._filters.block(lab, receiver, senders, reset, _DROP)


@attrs.define(eq=False)
class Lose(_Filtered):
    """Some of all packets between nodes get lost."""

    percent: int = 20

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """At all nodes."""
        return cls(tuple(node_ids), chance.choice((5, 20, 40)))

    def begin(self, lab: Lab) -> None:
        """Draw lots at each entrance."""
        for k in self.nodes:
            self._filters.block(lab, k, _others(lab, k), (f"numgen random mod 100 < {self.percent}", "drop"))


class Flap(_Filtered):
    """A node is cut off and reached again, several times, quickly."""

    def begin(self, lab: Lab) -> None:
        """The last time it stays cut off until it is healed."""
        (k,) = self.nodes
        for number in range(_FLAPS):
            if number:
                self._filters.remove(lab)
                time.sleep(_FLAP_S)
            self._filters.block(lab, k, _others(lab, k), _DROP)
            time.sleep(_FLAP_S)


@attrs.define(eq=False)
class SlowLink(Disturbance):
    """What a node sends, to clients too, goes over a slow line with a short queue."""

    needs: ClassVar[tuple[str, ...]] = ("slow links",)
    nodes: tuple[int, ...]
    kbit_per_s: int

    @classmethod
    def draw(cls, chance: random.Random, node_ids: Sequence[int]) -> Self:
        """Any node."""
        return cls((chance.choice(node_ids),), chance.choice((64, 256)))

    def begin(self, lab: Lab) -> None:
        """Put a token bucket before its line."""
        shape = ("tbf", "rate", f"{self.kbit_per_s}kbit", "burst", "4k", "latency", "300ms")
        run(*lab[self.nodes[0]].inside("tc", "qdisc", "add", "dev", "eth0", "root", *shape))

    def heal(self, lab: Lab) -> None:
        """Take it away."""
        run(*lab[self.nodes[0]].inside("tc", "qdisc", "del", "dev", "eth0", "root"))
