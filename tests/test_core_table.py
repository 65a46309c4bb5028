"""The replicated table: standings, voters, quorum arithmetic, and who must lose the voter flag for an absence."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.core_samples import examples, standing
from txvbcast.core.table import (
    LeaveStep,
    Member,
    Table,
    claim_rank,
    initial,
    is_quorum,
    leave_step,
    majority_watermark,
    needed,
    with_standing,
)
from txvbcast.wire.messages import Standing

NORMAL, INACTIVE = Standing.NORMAL, Standing.INACTIVE
CATCHING_UP, FAILED = Standing.CATCHING_UP, Standing.FAILED


def table(*members: tuple[Standing, bool] | Standing) -> Table:
    """Members 1, 2, 3 ... by standing and voter flag; who comes earlier has had its standing for longer."""
    pairs = [member if isinstance(member, tuple) else (member, True) for member in members]
    return Table(tuple(Member(k, to, voter, since=0 if to is NORMAL else k) for k, (to, voter) in enumerate(pairs, 1)))


class TableTests(unittest.TestCase):
    """Members and what an entry makes of them."""

    def test_initial(self) -> None:
        """Everyone is a normal voter of whom the log has not spoken, by rising id."""
        members = initial([3, 1, 2]).members
        self.assertEqual([member.node_id for member in members], [1, 2, 3])
        self.assertEqual({(m.standing, m.voter, m.absence, m.since) for m in members}, {(NORMAL, True, (0, 0), 0)})

    def test_entry_changes_one_member(self) -> None:
        """Standing, flag, absence, what is known of it, and where in the log it stands."""
        before = initial([1, 2, 3])
        said = standing(2, INACTIVE, False, 4, 7, kind="reboot", expected_ms=900, source="self", reason="for people")
        after = with_standing(before, 12, said)
        self.assertEqual(after[2], Member(2, INACTIVE, False, 4, 7, "reboot", 900, "self", since=12))
        self.assertEqual(after[2].absence, (4, 7))
        self.assertEqual([after[1], after[3]], [before[1], before[3]])
        self.assertEqual(after.voters, (1, 3))
        self.assertEqual(after.ids_of(NORMAL), (1, 3))
        self.assertEqual(after.ids_of(INACTIVE, NORMAL), (1, 2, 3))

    def test_stranger(self) -> None:
        """An entry about nobody changes nothing; asking for nobody says who was asked for."""
        before = initial([1, 2])
        self.assertEqual(with_standing(before, 5, standing(9, FAILED)), before)
        self.assertIsNone(before.get(9))
        with self.assertRaises(KeyError) as caught:
            before[9]
        self.assertEqual(caught.exception.args, (9,))

    def test_digest(self) -> None:
        """Equal for equal tables, another one for each thing that counts."""
        first = initial([1, 2, 3])
        self.assertEqual(first.digest, initial([3, 2, 1]).digest)
        changed = [
            with_standing(first, 4, standing(2, FAILED)),
            with_standing(first, 5, standing(2, FAILED)),
            with_standing(first, 4, standing(2, INACTIVE)),
            with_standing(first, 4, standing(2, FAILED, voter=False)),
            with_standing(first, 4, standing(2, FAILED, change_id=1)),
            with_standing(first, 4, standing(3, FAILED)),
        ]
        self.assertEqual(len({each.digest for each in [first, *changed]}), 7)


class Quorums(unittest.TestCase):
    """Majorities."""

    def test_needed(self) -> None:
        """More than half."""
        self.assertEqual([needed(range(count)) for count in range(6)], [1, 1, 2, 2, 3, 3])

    def test_is_quorum(self) -> None:
        """Only voters count, each of them once."""
        self.assertTrue(is_quorum((1, 2, 3), [1, 3]))
        self.assertFalse(is_quorum((1, 2, 3), [1, 4, 5]))
        self.assertFalse(is_quorum((1, 2, 3), [1, 1, 1]))
        self.assertFalse(is_quorum((1, 2), [1]))
        self.assertTrue(is_quorum((2,), iter([2])))
        self.assertFalse(is_quorum((), [1, 2]))

    def test_majority_watermark(self) -> None:
        """What more than half of the voters have reached; who was never heard has reached nothing."""
        self.assertEqual(majority_watermark((1, 2, 3), {1: 9, 2: 5, 3: 2}), 5)
        self.assertEqual(majority_watermark((1, 2, 3), {1: 9, 2: 9}), 9)
        self.assertEqual(majority_watermark((1, 2, 3), {1: 9}), 0)
        self.assertEqual(majority_watermark((1, 2, 3, 4), {1: 9, 2: 8, 3: 7, 4: 6}), 7)
        self.assertEqual(majority_watermark((2,), {1: 9, 2: 3}), 3)
        self.assertEqual(majority_watermark((), {1: 9}), 0)

    @examples()
    @given(st.sets(st.integers(1, 9), min_size=1), st.dictionaries(st.integers(1, 9), st.integers(0, 20)))
    def test_majority_watermark_in_general(self, voters: set[int], reached: dict[int, int]) -> None:
        """The greatest number that a quorum has reached."""
        candidates = [
            mark for mark in range(21) if is_quorum(voters, [k for k in range(1, 10) if reached.get(k, 0) >= mark])
        ]
        self.assertEqual(majority_watermark(voters, reached), max(candidates))


class ClaimRank(unittest.TestCase):
    """Whose turn it is to claim."""

    def test_normal_voters_by_id(self) -> None:
        """The lowest id comes first."""
        members = table(NORMAL, NORMAL, NORMAL)
        self.assertEqual([claim_rank(members, k) for k in (1, 2, 3)], [0, 1, 2])

    def test_absent_ones_come_last(self) -> None:
        """A voter of another standing waits for every normal one, whatever its id."""
        members = table(FAILED, NORMAL, CATCHING_UP, NORMAL)
        self.assertEqual([claim_rank(members, k) for k in (1, 2, 3, 4)], [2, 0, 3, 1])

    def test_only_voters_are_waited_for(self) -> None:
        """Who may not claim holds nobody up."""
        members = table((NORMAL, False), NORMAL, NORMAL)
        self.assertEqual([claim_rank(members, k) for k in (2, 3)], [0, 1])

    def test_the_leaving_one_is_not_waited_for(self) -> None:
        """A departed master does not delay its successor."""
        members = table(NORMAL, NORMAL, NORMAL)
        self.assertEqual([claim_rank(members, k, without=1) for k in (2, 3)], [0, 1])


class LeaveSteps(unittest.TestCase):
    """The next entry that lets a member be absent."""

    def assert_steps(self, members: Table, node_id: int, *expected: LeaveStep, floor: int = 1) -> Table:
        """These entries are ordered, in this order; the last one is about ``node_id`` itself."""
        for seq, want in enumerate(expected, 100):
            step = leave_step(members, node_id, floor)
            self.assertEqual(step, want)
            to = INACTIVE if step.node_id == node_id else members[step.node_id].standing
            members = with_standing(members, seq, standing(step.node_id, to, step.voter))
        self.assertEqual(expected[-1].node_id, node_id)
        return members

    def test_two_nodes(self) -> None:
        """The leaving one is no voter any more, so the other goes on alone."""
        after = self.assert_steps(table(NORMAL, NORMAL), 1, LeaveStep(1, False))
        self.assertEqual(after.voters, (2,))

    def test_two_nodes_floor(self) -> None:
        """Unless that is forbidden."""
        reason = "1 of 2 voters would be left, quorum.planned_floor is 2"
        self.assert_steps(table(NORMAL, NORMAL), 1, LeaveStep(1, True, reason), floor=2)

    def test_two_nodes_other_away(self) -> None:
        """The last normal voter cannot be spared, whatever the other's absence."""
        for other in (INACTIVE, FAILED, CATCHING_UP):
            reason = f"without node 1 only 0 of 2 voters would be normal: node 2 is {other.value}"
            self.assert_steps(table(NORMAL, other), 1, LeaveStep(1, True, reason))

    def test_alone(self) -> None:
        """A single voter cannot leave; the other member has no vote."""
        reason = "without node 1 only 0 of 1 voters would be normal: there is no other voter"
        self.assert_steps(table(NORMAL, (NORMAL, False)), 1, LeaveStep(1, True, reason))

    def test_three_nodes_one_leaves(self) -> None:
        """Nothing has to change: two of three are a quorum."""
        after = self.assert_steps(table(NORMAL, NORMAL, NORMAL), 3, LeaveStep(3, True), floor=3)
        self.assertEqual(after.voters, (1, 2, 3))

    def test_three_nodes_two_leave(self) -> None:
        """The one that has been away for longer loses its flag, then, if it must, the one that leaves."""
        after = self.assert_steps(table(INACTIVE, NORMAL, NORMAL), 2, LeaveStep(1, False), LeaveStep(2, False))
        self.assertEqual(after.voters, (3,))

    def test_three_nodes_two_leave_floor(self) -> None:
        """The floor is looked at before the first flag is taken."""
        reason = "1 of 3 voters would be left, quorum.planned_floor is 2"
        self.assert_steps(table(INACTIVE, NORMAL, NORMAL), 2, LeaveStep(2, True, reason), floor=2)

    def test_three_nodes_one_failed(self) -> None:
        """A failed member keeps its flag, so nobody else may leave for whom one vote would be too few."""
        after = self.assert_steps(table(NORMAL, NORMAL, FAILED), 1, LeaveStep(1, True, SHORT_OF_THREE))
        self.assertEqual(after.voters, (1, 2, 3))

    def test_non_voter_leaves(self) -> None:
        """Its absence costs nothing, and it gets no flag by leaving."""
        self.assert_steps(table(NORMAL, NORMAL, (NORMAL, False)), 3, LeaveStep(3, False), floor=2)

    def test_non_voter_leaves_while_quorum_is_short(self) -> None:
        """It cannot help, and it is told that the rest has no quorum with or without it."""
        reason = "without node 3 only 1 of 2 voters would be normal: node 2 is failed"
        self.assert_steps(table(NORMAL, FAILED, (NORMAL, False)), 3, LeaveStep(3, False, reason))

    def test_four_nodes(self) -> None:
        """Two of four are no quorum: one flag has to go, that of the absent one, and it is enough."""
        after = self.assert_steps(table(NORMAL, NORMAL, NORMAL, INACTIVE), 1, LeaveStep(4, False), LeaveStep(1, True))
        self.assertEqual(after.voters, (1, 2, 3))

    def test_five_nodes_longest_absent_first(self) -> None:
        """By the seq of the entry that made it absent, not by id."""
        members = table(NORMAL, INACTIVE, INACTIVE, NORMAL, NORMAL)
        newer = attrs.evolve(members[2], since=50)
        members = Table((members[1], newer, *members.members[2:]))
        after = self.assert_steps(members, 1, LeaveStep(3, False), LeaveStep(2, False), LeaveStep(1, True))
        self.assertEqual(after.voters, (1, 4, 5))

    def test_five_nodes_several_absent(self) -> None:
        """Down to a single normal one, each step as small as it can be."""
        members = table(INACTIVE, INACTIVE, INACTIVE, NORMAL, NORMAL)
        steps = [LeaveStep(k, False) for k in (1, 2, 3, 4)]
        self.assertEqual(self.assert_steps(members, 4, *steps).voters, (5,))
        reason = "1 of 5 voters would be left, quorum.planned_floor is 2"
        self.assert_steps(members, 4, LeaveStep(4, True, reason), floor=2)

    def test_five_nodes_failed_ones_keep_their_votes(self) -> None:
        """With two failed, taking every flag that may be taken is still not enough."""
        members = table(FAILED, FAILED, INACTIVE, NORMAL, NORMAL)
        reason = (
            "without node 4 only 1 of 5 voters would be normal: node 1 is failed, node 2 is failed, node 3 is inactive"
        )
        self.assert_steps(members, 4, LeaveStep(4, True, reason))

    def test_catching_up_ones_keep_their_votes(self) -> None:
        """They are on their way back, so they are not shrunk away, nor do they count as staying."""
        reason = "without node 1 only 1 of 3 voters would be normal: node 3 is catching_up"
        self.assert_steps(table(NORMAL, NORMAL, CATCHING_UP), 1, LeaveStep(1, True, reason))

    def test_again_for_one_that_is_away(self) -> None:
        """A new estimate for a member that is inactive already leaves its flag as it is."""
        self.assert_steps(table(NORMAL, NORMAL, INACTIVE), 3, LeaveStep(3, True))
        self.assert_steps(table(NORMAL, (INACTIVE, False)), 2, LeaveStep(2, False))

    def test_floor_only_where_a_vote_is_taken(self) -> None:
        """Fewer voters than the floor are no reason against an absence that takes none."""
        members = table(NORMAL, NORMAL, NORMAL, (FAILED, False), (FAILED, False))
        self.assert_steps(members, 1, LeaveStep(1, True), floor=4)

    def test_unknown_member(self) -> None:
        """There is no absence of nobody."""
        with self.assertRaises(KeyError):
            leave_step(table(NORMAL), 2, 1)


SHORT_OF_THREE = "without node 1 only 1 of 3 voters would be normal: node 3 is failed"

members_of_any_kind = st.lists(st.tuples(st.sampled_from(list(Standing)), st.booleans()), min_size=2, max_size=5)


class LeaveChains(unittest.TestCase):
    """Whatever is asked for, in whatever order, the rules of section 5 hold."""

    @examples(300)
    @given(members_of_any_kind, st.integers(1, 4), st.lists(st.integers(1, 5), min_size=1, max_size=8))
    def test_chain(self, members: list[tuple[Standing, bool]], floor: int, leaving: list[int]) -> None:
        """Majorities of successive voter sets share a node, no flag is taken below the floor, and safe is safe."""
        now = table(*members)
        seq = 100
        for node_id in leaving:
            if node_id > len(members):
                continue
            for _ in range(len(members) + 1):
                step = leave_step(now, node_id, floor)
                before = set(now.voters)
                to = INACTIVE if step.node_id == node_id else now[step.node_id].standing
                now = with_standing(now, seq, standing(step.node_id, to, step.voter))
                seq += 1
                self.assert_small_step(before, set(now.voters), floor)
                if step.node_id == node_id:
                    break
                self.assertEqual((now[step.node_id].standing, step.unsafe), (INACTIVE, ""))
            else:
                self.fail(f"the steps for node {node_id} never came to it")
            staying = [m.node_id for m in now.members if m.voter and m.standing is NORMAL]
            self.assertEqual(step.unsafe == "", is_quorum(now.voters, staying))

    def assert_small_step(self, before: set[int], after: set[int], floor: int) -> None:
        """Nobody gains a vote by leaving; majorities overlap; the floor holds."""
        self.assertLessEqual(after, before)
        if after != before:
            self.assertGreater(needed(before) + needed(after), len(before | after))
            self.assertGreaterEqual(len(after), floor)
