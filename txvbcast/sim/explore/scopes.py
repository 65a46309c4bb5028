"""What is searched: small clusters, and how often each thing may happen to them."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from txvbcast.config import (
    Address,
    HeartbeatConfig,
    InactivityConfig,
    MasterConfig,
    MemberConfig,
    ProtocolConfig,
    QuorumConfig,
    ResponseTimeoutConfig,
)
from txvbcast.sim.explore.snapshot import FAR_S, TICK_S, TIMEOUT_S
from txvbcast.wire import messages
from txvbcast.wire.messages import Mode

#: What may happen only so often; everything else follows from it.
BUDGETS = ("submits", "claims", "silences", "beats", "crashes", "freezes", "leaves", "ends", "moves")


#: Who asks whether the master is lost, and the payload of a flight: what they decide may come at any time anyway.
PROMPT: frozenset[type[messages.Message]] = frozenset({messages.Probe, messages.ProbeReply, messages.Propose})
#: The same, and a part of the log comes as soon as it is asked for.
PROMPT_LOG = PROMPT | {messages.Fetch, messages.Entries, messages.FetchRefused, messages.WantStart}
#: The same, and claims reach everyone at once, and so do the answers.
PROMPT_CLAIMS = PROMPT_LOG | {messages.Claim, messages.Grant}
#: Signs of life and hints, which other messages repeat.
LOST: frozenset[type[messages.Message]] = frozenset(
    {messages.Heartbeat, messages.HeartbeatReply, messages.Suspect, messages.Refuse}
)


@attrs.frozen
class Submission:
    """A client's transaction; the client waits so long that it never gives up, unless it is ``hasty``.

    :ivar refused_by: the nodes whose resource manager says No to it.
    """

    node_id: int
    payload: bytes
    mode: Mode = Mode.BROADCAST
    hasty: bool = False
    refused_by: tuple[int, ...] = ()

    @property
    def timeout_s(self) -> float:
        """How long its client waits."""
        return TIMEOUT_S if self.hasty else FAR_S


@attrs.frozen
class Scope:
    """A cluster and the bounds of what happens to it.

    The cluster is settled first: every node normal, node 1 master, all messages delivered.

    :ivar submissions: made in this order, at any time.
    :ivar budgets: how often the things of :data:`BUDGETS` may happen in one run; nothing else is bounded.
    :ivar lazy_disk: writes wait for a "sync", and a crash may lose them; otherwise they are durable at once.
    :ivar claiming: nodes that may claim at any time, as soon as enough others have lost the master too.
    :ivar silent: nodes that may lose patience by themselves.
    :ivar crashing, leaving, frozen: who may crash, announce an absence, be stopped.
    :ivar moves_to: whom an operator may want for master.
    :ivar prompt: messages of these types arrive at once, as part of the step that sends them.
    :ivar lost: messages of these types never arrive.
    :ivar cut: (from, to) between which no message arrives.
    """

    name: str
    about: str
    nodes: int
    submissions: tuple[Submission, ...] = ()
    budgets: Mapping[str, int] = attrs.field(factory=dict)
    lazy_disk: bool = False
    claiming: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    crashing: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()
    frozen: tuple[int, ...] = ()
    moves_to: tuple[int, ...] = ()
    last_man_standing: bool = False
    handback: bool = False
    prompt: frozenset[type[messages.Message]] = PROMPT
    lost: frozenset[type[messages.Message]] = LOST
    cut: frozenset[tuple[int, int]] = frozenset()

    @property
    def node_ids(self) -> tuple[int, ...]:
        """The nodes of the cluster."""
        return tuple(range(1, self.nodes + 1))

    def config(self, node_id: int) -> ProtocolConfig:
        """What a node is told; all its times are multiples of a tick of one second."""
        members = tuple(MemberConfig(k, f"node{k}", Address("127.0.0.1", 8400 + k)) for k in self.node_ids)
        return ProtocolConfig(
            node_id,
            members,
            heartbeat=HeartbeatConfig(interval_s=2 * TICK_S, timeout_s=TIMEOUT_S),
            response_timeout=ResponseTimeoutConfig(normal_s=TIMEOUT_S),
            inactivity=InactivityConfig(margin=1.0, max_s=10 * FAR_S),
            quorum=QuorumConfig(last_man_standing=self.last_man_standing),
            master=MasterConfig(handback=self.handback, handback_delay_s=0.0),
        )


def _named(*scopes: Scope) -> dict[str, Scope]:
    return {scope.name: scope for scope in scopes}


_A = Submission(1, b"a")
_B = Submission(2, b"b")
_VOTED = (
    Submission(2, b"a", Mode.TWO_PHASE, hasty=True),
    Submission(1, b"b", Mode.THREE_PHASE),
    Submission(3, b"c", Mode.TWO_PHASE, refused_by=(2,)),
)
_ABSENCE = LOST - {messages.Heartbeat, messages.HeartbeatReply}

SCOPES: Mapping[str, Scope] = _named(
    Scope(
        "two",
        "two nodes, a flight from each, two changes of master, a crash that may lose what was not synced",
        nodes=2,
        submissions=(_A, _B),
        budgets={"submits": 2, "claims": 2, "crashes": 1},
        lazy_disk=True,
        claiming=(1, 2),
        crashing=(1, 2),
    ),
    Scope(
        "three",
        "three nodes, a flight, two changes of master at any time",
        nodes=3,
        submissions=(_A,),
        budgets={"submits": 1, "claims": 2},
        claiming=(1, 2, 3),
        prompt=PROMPT_LOG,
    ),
    Scope(
        "crash",
        "three nodes, a flight, a change of master, a crash that may lose what was not synced",
        nodes=3,
        submissions=(_A,),
        budgets={"submits": 1, "claims": 1, "crashes": 1},
        lazy_disk=True,
        claiming=(3,),
        crashing=(2,),
    ),
    Scope(
        "handover",
        "three nodes, two flights, an operator moves the office",
        nodes=3,
        submissions=(_A, _B),
        budgets={"submits": 2, "moves": 1},
        moves_to=(2,),
        prompt=PROMPT_LOG,
    ),
    Scope(
        "handover-claim",
        "the same, and another node claims the office",
        nodes=3,
        submissions=(_A, _B),
        budgets={"submits": 2, "moves": 1, "claims": 1},
        claiming=(3,),
        moves_to=(2,),
        prompt=PROMPT_LOG,
    ),
    Scope(
        "pair",
        "two nodes, the master announces an absence and comes back, a flight, a change of master",
        nodes=2,
        submissions=(_A, _B),
        budgets={"submits": 2, "leaves": 1, "ends": 1, "claims": 1, "silences": 1},
        claiming=(1, 2),
        leaving=(1,),
        silent=(2,),
        lost=_ABSENCE,
    ),
    Scope(
        "standing",
        "three nodes, a silent member loses its vote, two changes of master",
        nodes=3,
        submissions=(_A,),
        budgets={"submits": 1, "silences": 2, "claims": 2},
        claiming=(2, 3),
        silent=(1, 2),
        last_man_standing=True,
        prompt=PROMPT_LOG,
    ),
    Scope(
        "four",
        "four nodes, silent members lose their votes, two changes of master",
        nodes=4,
        budgets={"silences": 2, "claims": 2},
        claiming=(2, 4),
        silent=(1, 2),
        last_man_standing=True,
        prompt=PROMPT_LOG,
        lost=LOST | {messages.Committed},
    ),
    Scope(
        "parted",
        "four nodes, 4 hears all but 1 hears neither 2 nor 3, silent members lose their votes, two changes of master",
        nodes=4,
        submissions=(Submission(2, b"a"),),
        budgets={"submits": 1, "silences": 2, "claims": 2},
        claiming=(1, 2),
        silent=(1, 2),
        last_man_standing=True,
        prompt=PROMPT_CLAIMS,
        cut=frozenset({(1, 2), (2, 1), (1, 3), (3, 1)}),
    ),
    Scope(
        "voted",
        "three nodes, a 2pc transaction of an impatient client, a 3pc one, a refused one",
        nodes=3,
        submissions=_VOTED,
        budgets={"submits": 3, "silences": 1},
        silent=(2,),
        prompt=PROMPT_LOG,
    ),
    Scope(
        "voted-claim",
        "the same, and a change of master",
        nodes=3,
        submissions=_VOTED,
        budgets={"submits": 3, "silences": 1, "claims": 1},
        claiming=(3,),
        silent=(2,),
        prompt=PROMPT_LOG,
    ),
    Scope(
        "frozen",
        "three nodes, a flight, the master is stopped for long and wakes, a change of master meanwhile",
        nodes=3,
        submissions=(_A,),
        budgets={"submits": 1, "freezes": 1, "claims": 1},
        claiming=(2,),
        frozen=(1,),
        prompt=PROMPT_LOG,
    ),
)
