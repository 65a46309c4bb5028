"""What a random run is made of, drawn from its seed.

Each run has only some kinds of fault, some modes, some conditions: runs that have a bit of
everything all reach the same middle.  The idea is swarm testing (Groce and others, 2012).
"""

from __future__ import annotations

from random import Random

import attrs

from txvbcast.config import (
    HEARTBEAT_PRESETS,
    LimitsConfig,
    MasterConfig,
    ProtocolConfig,
    QuorumConfig,
    ResponseTimeoutConfig,
)
from txvbcast.sim.faults import FAULTS
from txvbcast.sim.network import Conditions
from txvbcast.wire.messages import Mode

#: Transactions a second that clusters of so many nodes and more are spared: each costs messages squared.
RATE_MAX = {7: 5.0, 5: 10.0}


@attrs.frozen
class Options:
    """What a run is made of.

    :ivar seconds: how long faults happen, in virtual time.
    :ivar faults: kinds of fault that happen; fault_every_s: how often, on average.
    :ivar rate: transactions a second in all; keys: registers that they write to.
    :ivar refusal: the chance that a node refuses a transaction; vote_s: how long a vote takes at most.
    :ivar retries: the chance that a client gives its transaction a request id, and tries again elsewhere.
    :ivar reads: linearizable reads for each transaction.
    :ivar programs: client programs with sessions of their own, over connections that can break, which hand in as much
        again.
    """

    nodes: int
    seconds: float
    preset: str
    conditions: Conditions
    disk_s: tuple[float, float]
    faults: tuple[str, ...]
    fault_every_s: float
    rate: float
    keys: int
    modes: tuple[Mode, ...]
    refusal: float
    vote_s: float
    retries: float
    reads: float
    flights: int
    flight_bytes: int
    pending: int
    planned_floor: int
    last_man_standing: bool
    handback: bool
    inactive_s: float
    programs: int = 0

    @classmethod
    def draw(cls, seed: int, soak: bool = False) -> Options:
        """The options of a seed; ``soak``: of a run of many minutes with rarer faults and a lower load."""
        random = Random(f"options {seed} {soak}")
        nodes = random.choice([2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 7, 8, 9])
        rates = [1.0, 3.0] if soak else [2.0, 2.0, 5.0, 10.0, 10.0, 30.0, 100.0]
        most = min((rate for least, rate in RATE_MAX.items() if nodes >= least), default=100.0)
        kinds = sorted(FAULTS)
        return cls(
            nodes=nodes,
            seconds=random.uniform(1500.0, 2500.0) if soak else random.choice([8.0, 15.0, 15.0, 40.0]),
            preset=random.choice(["lan", "lan", "lan", "lan", "test", "wan"]),
            conditions=_conditions(random),
            disk_s=random.choice([(0.0002, 0.002), (0.001, 0.03)]),
            faults=tuple(sorted(random.sample(kinds, random.choice([1, 2, 3, 5, len(kinds)])))),
            fault_every_s=random.choice([5.0, 20.0]) if soak else random.choice([0.3, 0.8, 2.0]),
            rate=min(random.choice(rates), most),
            keys=random.choice([1, 5, 50]),
            modes=random.choice([(Mode.BROADCAST,), (Mode.TWO_PHASE,), (Mode.THREE_PHASE,), tuple(Mode)]),
            refusal=random.choice([0.0, 0.0, 0.1]),
            vote_s=random.choice([0.0, 0.0, 0.02, 1.5]),
            retries=random.choice([0.0, 0.3, 1.0]),
            reads=random.choice([0.0, 0.1, 0.5]),
            flights=random.choice([1, 2, 8]),
            flight_bytes=random.choice([40, 1 << 20]),
            pending=random.choice([5, 10_000, 10_000, 10_000, 10_000]),
            planned_floor=random.choice([1, 1, 2]),
            last_man_standing=random.random() < 0.15,
            handback=random.random() < 0.85,
            inactive_s=random.choice([0.0, 0.0, 0.2]),
            # Drawn apart: what the seeds drew before there were such programs is still what they draw.
            programs=Random(f"programs {seed} {soak}").choice([0, 0, 1, 3]),
        )

    def config(self) -> ProtocolConfig:
        """The configuration of every node."""
        return ProtocolConfig(
            node_id=1,
            members=(),
            heartbeat=HEARTBEAT_PRESETS[self.preset],
            response_timeout=ResponseTimeoutConfig(inactive_s=self.inactive_s),
            quorum=QuorumConfig(self.planned_floor, self.last_man_standing),
            master=MasterConfig(handback=self.handback),
            limits=LimitsConfig(flights=self.flights, flight_bytes=self.flight_bytes, pending=self.pending),
        )


def _conditions(random: Random) -> Conditions:
    return Conditions(
        delay_min_s=0.0001,
        delay_max_s=random.choice([0.001, 0.005, 0.05]),
        datagram_loss=random.choice([0.0, 0.02, 0.2]),
        datagram_copy=random.choice([0.0, 0.05]),
        datagram_late=random.choice([0.0, 0.05]),
        link_break=random.choice([0.0, 0.0, 0.002, 0.02]),
        reconnect_s=random.choice([0.02, 0.1]),
    )
