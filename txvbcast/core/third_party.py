"""What a third party says of a member: an operator or host agent on another node, or another member's cloud.

Section 5: it has the same effect as the member's own announcement and is marked with its source; it ends
by that party's word, by the member's own, or by its time.  The member itself takes it for its own change
as soon as it hears of it, if it can: then everything goes its usual way, and its own word counts from there on.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from txvbcast.core.changes import estimate_of
from txvbcast.core.commons import Commons
from txvbcast.core.effects import ChangeAnswered, ChangeClosed, ChangeOpened
from txvbcast.core.inputs import MemberAbsent
from txvbcast.core.journal import Journal
from txvbcast.core.marks import Mark
from txvbcast.core.standing import Peer
from txvbcast.core.table import unsafe_now
from txvbcast.wire.messages import AbsenceOver, Inactive, Standing, StandingEntry

#: The ``revision`` of an announcement by a third party; a member's own begin at 1, so its own word counts more.
REVISION = 0


@attrs.define(eq=False)
class Word:
    """What this node has said of another member.

    :ivar key: (incarnation, change_id) of the absence that it has announced.
    :ivar overdue_s: when it is past, if nobody ends it before.
    """

    change_id: int
    member: int
    key: tuple[int, int]
    overdue_s: float
    answered: bool = False


@attrs.define(eq=False)
class ThirdParty:
    """The words that this node has given for others.

    :ivar words: those that still hold, by the number that the driver knows them by.
    """

    commons: Commons
    journal: Journal
    peers: Mapping[int, Peer]
    words: dict[int, Word] = attrs.field(factory=dict)

    def begin(self, event: MemberAbsent, change_id: int) -> None:
        """Tell everybody that a member is about to be away, or is."""
        found = estimate_of(self.commons, event.kind, event.source, event.facts, event.expected_s)
        overdue_s = self.commons.now_s + found.expected_s * self.commons.config.inactivity.margin
        source = f"node {self.commons.me}: {event.source}"
        opened = ChangeOpened(
            event.ticket, change_id, event.member, event.kind, event.source, found.expected_s, found.basis
        )
        self.commons.out.append(opened)
        core = self.peers[event.member].core
        if core.deadline_s is not None:
            self.commons.reach(Mark.WORD_ABOUT_MEMBER_THAT_IS_AWAY)
            reason = f"node {event.member} is away already ({core.kind}, by {core.source}), and nothing was added"
            self.commons.out.append(ChangeAnswered(change_id, False, reason))
            self.commons.out.append(ChangeClosed(change_id, "failed"))
            return
        word = Word(change_id, event.member, self._next_key(event.member), overdue_s)
        self.words[change_id] = word
        message = Inactive(
            member=event.member,
            incarnation=word.key[0],
            change_id=word.key[1],
            revision=REVISION,
            kind=event.kind,
            expected_ms=round(found.expected_s * 1000),
            epoch=self.journal.log_epoch,
            stored=0,
            source=source,
        )
        self.commons.send_datagrams(message)
        self.commons.send_all(message)

    def _next_key(self, node_id: int) -> tuple[int, int]:
        """The number that the member itself would give to its next absence, as far as is known here."""
        core, member = self.peers[node_id].core, self.journal.table[node_id]
        incarnation, change_id = max(core.absence, core.over, member.absence)
        link = self.commons.links.get(node_id)
        if link is not None and link.incarnation > incarnation:
            return (link.incarnation, 1)
        return (max(incarnation, 1), change_id + 1)

    def end(self, change_id: int, outcome: str) -> None:
        """It is over, by the word of whoever gave it."""
        word = self.words.get(change_id)
        if word is not None:
            self._close(word, outcome)
            self.commons.send_all(AbsenceOver(word.member, *word.key))

    def on_tick(self) -> None:
        """Forget what is past; the others have the same time limit."""
        for word in tuple(self.words.values()):
            if word.overdue_s <= self.commons.now_s:
                self.commons.reach(Mark.WORD_OVERDUE)
                self._close(word, "overdue")

    def on_applied(self, entry: StandingEntry) -> None:
        """What the cluster has made of it, as the log says."""
        for word in tuple(self.words.values()):
            if word.member != entry.node_id or (entry.incarnation, entry.change_id) < word.key:
                continue
            if entry.standing is Standing.INACTIVE:
                self._answer(word)
            elif entry.standing is not Standing.FAILED:
                self.commons.reach(Mark.WORD_ENDED_BY_MEMBER)
                self._close(word, "done")

    def _answer(self, word: Word) -> None:
        if word.answered:
            return
        word.answered = True
        unsafe = unsafe_now(self.journal.committed_table)
        self.commons.out.append(ChangeAnswered(word.change_id, not unsafe, unsafe))

    def _close(self, word: Word, outcome: str) -> None:
        del self.words[word.change_id]
        if not word.answered:
            self.commons.out.append(ChangeAnswered(word.change_id, confirmed=False))
        self.commons.out.append(ChangeClosed(word.change_id, outcome))
