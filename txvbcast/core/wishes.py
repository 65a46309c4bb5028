"""What an operator asks of a node: another master, or a stop."""

from __future__ import annotations

import attrs

from txvbcast.core.commons import Commons
from txvbcast.core.effects import MoveAnswered, StopAllowed
from txvbcast.core.inputs import MasterMoveRequested
from txvbcast.core.marks import Mark
from txvbcast.core.submissions import Submissions
from txvbcast.core.succession import Succession
from txvbcast.wire.messages import HandoverWhy, MoveMaster, MoveRefused

#: A move of the office is given up after this many heartbeat timeouts.
MOVE_AFTER_TIMEOUTS = 3


@attrs.define(eq=False)
class Wishes:
    """Moves of the office under way, and the stop of this node.

    :ivar moves: per ticket the wanted master, and until when it is waited for.
    """

    commons: Commons
    submissions: Submissions
    succession: Succession
    moves: dict[int, tuple[int, float]] = attrs.field(factory=dict)
    stopping: bool = False

    # --- another master -------------------------------------------------------------

    def on_move_requested(self, event: MasterMoveRequested, master: int) -> None:
        """Pass the wish on to the master, unless it is fulfilled already."""
        if master == event.to:
            self.commons.out.append(MoveAnswered(event.ticket))
            return
        if not master:
            self.commons.out.append(MoveAnswered(event.ticket, "this node knows of no master", no_quorum=True))
            return
        until_s = self.commons.now_s + MOVE_AFTER_TIMEOUTS * self.commons.config.heartbeat.timeout_s
        self.moves[event.ticket] = (event.to, until_s)
        self.commons.send(master, MoveMaster(event.to))

    def on_move_master(self, peer: int, message: MoveMaster) -> None:
        """Somebody's operator wants the office elsewhere."""
        refused = self._why_not(message.to)
        if refused:
            self.commons.send(peer, MoveRefused(message.to, refused))
        else:
            self.succession.plan_handover(message.to, HandoverWhy.OPERATOR)

    def _why_not(self, to: int) -> str:
        office = self.succession.mastership.office
        if office is None or not office.opened:
            self.commons.reach(Mark.MOVE_ASKED_OF_NO_MASTER)
            return "the node that was asked is not master"
        if office.paused:
            self.commons.reach(Mark.MOVE_MEETS_BUSY_MASTER)
            return f"the master is busy: {office.paused}"
        if to == self.commons.me:
            return "it is master already"
        if not self.succession.can_take_over(to):
            self.commons.reach(Mark.MOVE_TO_UNFIT_MEMBER)
            peer = self.succession.peers.get(to)
            standing = peer.core.standing.value if peer is not None else "unknown"
            return f"node {to} cannot be master now: it is {standing}, or not linked to the master"
        return ""

    def on_move_refused(self, peer: int, message: MoveRefused) -> None:
        """The master says why not."""
        self._answer(message.to, message.reason)

    def on_master(self, master: int) -> None:
        """Another master is known: somebody may have wished for it."""
        self._answer(master, "")

    def _answer(self, to: int, refused: str) -> None:
        for ticket, (wanted, _) in tuple(self.moves.items()):
            if wanted == to:
                del self.moves[ticket]
                self.commons.out.append(MoveAnswered(ticket, refused))

    # --- a stop -----------------------------------------------------------------------

    def on_stop_requested(self) -> None:
        """Take nothing more, and hand the office over if there is somebody to take it."""
        self.stopping = True
        self.submissions.refuse_all("this node is stopping")
        office, successor = self.succession.mastership.office, self.succession.successor()
        if office is not None and office.opened and not office.paused and successor:
            self.commons.reach(Mark.HANDED_OVER_FOR_STOP)
            self.succession.plan_handover(successor, HandoverWhy.STOPPING)
        self._go_on_stopping()

    def _go_on_stopping(self) -> None:
        """Stop once the office is in other hands, or nobody takes it, and own flights have their answers."""
        handing_over = self.succession.plan is not None or self.succession.mastership.core.role == "handing_over"
        if self.stopping and not handing_over and not self.submissions.under_way:
            self.commons.out.append(StopAllowed())

    def on_tick(self) -> None:
        """Give up on moves that take too long; stop when nothing keeps this node."""
        for ticket, (to, until_s) in tuple(self.moves.items()):
            if until_s <= self.commons.now_s:
                self.commons.reach(Mark.MOVE_NOT_DONE_IN_TIME)
                del self.moves[ticket]
                self.commons.out.append(MoveAnswered(ticket, f"node {to} did not become master in time"))
        self._go_on_stopping()
