"""Where nodes may be found: the addresses that the user gave, and those that nodes told."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

import attrs

from txvbcast.addresses import parse_address
from txvbcast.wire.client_messages import NodeLine

#: How long an address is left alone after it failed: at first, and at most.
PAUSE_S: Final = 0.05
PAUSE_S_MAX: Final = 1.0
#: The same after a node refused this client: it would have to be configured anew.
REFUSED_PAUSE_S: Final = 5.0
#: Addresses that are known at most.
TARGETS_MAX: Final = 1024


@attrs.define(eq=False)
class Target:
    """One address.

    :ivar given: by the user; otherwise told by a node.
    :ivar node_id: who answers there, 0 while that is not known.
    :ivar rank: the lower ones are tried first.
    :ivar failures: without a Welcome in between.
    :ivar not_before_s: when it may be tried again.
    :ivar problem: what came of the last try, empty if it was none.
    :ivar refused: the last try ended with the node's No.
    """

    address: str
    given: bool
    rank: int
    node_id: int = 0
    failures: int = 0
    not_before_s: float = 0.0
    problem: str = ""
    refused: bool = False

    def failed(self, now_s: float, problem: str) -> None:
        """It did not work: try again after a pause that doubles."""
        pause_s = min(PAUSE_S * 2.0**self.failures, PAUSE_S_MAX)
        self.failures = min(self.failures + 1, 16)
        self._rest(now_s + pause_s, problem)

    def said_no(self, now_s: float, reason: str) -> None:
        """The node refused this client."""
        self.refused = True
        self._rest(now_s + REFUSED_PAUSE_S, f"refused: {reason}")

    def leaves(self, now_s: float, reason: str) -> None:
        """Its node will be away for a while; it is looked for every now and then, should there be no other one."""
        self._rest(now_s + PAUSE_S_MAX, f"its node left: {reason}")

    def answered(self, node_id: int) -> None:
        """A node is there and takes transactions."""
        self.node_id = node_id
        self.failures = 0
        self.problem = ""
        self.refused = False

    def _rest(self, until_s: float, problem: str) -> None:
        self.not_before_s = until_s
        self.problem = problem


class Targets:
    """All addresses that are known.

    :param addresses: the user's, the best one first.
    :param session: spreads the clients of one node over the others when it leaves.
    :raises ValueError: there is no address.
    """

    def __init__(self, addresses: Iterable[str], session: str) -> None:
        self._session = session
        self._all = {address: Target(address, True, rank) for rank, address in enumerate(addresses)}
        if not self._all:
            raise ValueError("connect to which nodes? At least one address is needed, such as tcp:192.0.2.1:8411")

    def learn(self, lines: Iterable[NodeLine]) -> None:
        """Take over what a node says of the cluster's nodes; what an earlier one said and this one does not is gone."""
        known = {target.node_id for target in self._all.values() if target.given}
        told = {endpoint(line.client): line.node_id for line in lines if line.client}
        for address, node_id in told.items():
            target = self._all.get(address)
            if target is not None:
                target.node_id = node_id
            elif node_id not in known and len(self._all) < TARGETS_MAX:
                self._all[address] = Target(address, False, self._spread(address), node_id)
        for address, target in tuple(self._all.items()):
            if not target.given and (address not in told or target.node_id in known):
                del self._all[address]

    def _spread(self, address: str) -> int:
        return TARGETS_MAX + zlib.crc32(f"{self._session} {address}".encode())

    def best(self, now_s: float, taken: set[Target], node_ids: set[int]) -> Target | None:
        """The address to try next, if any: none that is ``taken``, and no other one of the nodes ``node_ids``."""
        free = [
            target
            for target in self._all.values()
            if target not in taken and target.node_id not in node_ids and target.not_before_s <= now_s
        ]
        return min(free, key=lambda target: (target.failures, target.rank), default=None)

    def next_s(self, taken: set[Target], node_ids: set[int]) -> float | None:
        """When the first of the addresses that :meth:`best` could give may be tried."""
        times = [
            target.not_before_s
            for target in self._all.values()
            if target not in taken and target.node_id not in node_ids
        ]
        return min(times, default=None)

    @property
    def all_refused(self) -> bool:
        """Whether every address was tried, and its node said No."""
        return all(target.refused for target in self._all.values())

    def problems(self) -> str:
        """What came of the addresses, for people."""
        lines = [f"{target.address}: {target.problem}" for target in self._all.values() if target.problem]
        return "; ".join(lines) or "no address has answered yet"


def endpoint(client: str) -> str:
    """A node's ``host:port`` as an endpoint string, in which colons of a host are quoted.

    :raises ValueError: it is no such address.
    """
    address = parse_address(client)
    host = address.host.replace("\\", "\\\\").replace(":", "\\:")
    return f"tcp:{host}:{address.port}"
