"""What makes two nodes refuse each other, and how they say it."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial import unittest

from tests.wire_samples import HELLO, MEMBERS
from txvbcast.wire.hello import check_hello, difference, members_digest
from txvbcast.wire.messages import Hello, MemberLine

OURS = attrs.evolve(HELLO, node_id=1, incarnation=9, disk_id="d1")
ONE, TWO, THREE = MEMBERS
DIGEST_OF_TWO = "c97fe0380188571b32dc17f6ef0b0cce2f564b00f4ba3befeb28d7bf9e089bdc"


def hello(members: tuple[MemberLine, ...] | None = None, **changes: Any) -> Hello:
    """What node 2 says, changed; the digest is made to match."""
    lines = MEMBERS if members is None else members
    return attrs.evolve(HELLO, **({"members": lines, "members_digest": members_digest(lines)} | changes))


class DigestTests(unittest.TestCase):
    """One number for a member list."""

    def test_known(self) -> None:
        """The value that the documentation gives."""
        lines = (MemberLine(1, "a", "127.0.0.1:8410"), MemberLine(2, "b", "127.0.0.1:8420"))
        self.assertEqual(members_digest(lines), DIGEST_OF_TWO)

    def test_order(self) -> None:
        """The order of the lines does not count."""
        self.assertEqual(members_digest(MEMBERS[::-1]), members_digest(MEMBERS))

    def test_differs(self) -> None:
        """Every part of every line does, and so does where one ends and the next begins."""
        lists = [
            MEMBERS,
            (),
            (ONE, TWO),
            (ONE, TWO, THREE, THREE),
            (ONE, TWO, attrs.evolve(THREE, id=4)),
            (ONE, TWO, attrs.evolve(THREE, name="d")),
            (ONE, TWO, attrs.evolve(THREE, peer="c.example:8431")),
            (ONE, TWO, attrs.evolve(THREE, name="cc", peer=".example:8430")),
        ]
        self.assertEqual(len({members_digest(lines) for lines in lists}), len(lists))


class DifferenceTests(unittest.TestCase):
    """The first entry that differs is named."""

    def test_none(self) -> None:
        """Equal lists in any order."""
        self.assertIsNone(difference(MEMBERS, MEMBERS[::-1]))
        self.assertIsNone(difference((), ()))

    def test_changed(self) -> None:
        """Another name; another address; the lower id first."""
        other_name = attrs.evolve(TWO, name="x")
        other_peer = attrs.evolve(THREE, peer="d.example:8430")
        self.assertEqual(
            difference(MEMBERS, (other_peer, other_name, ONE)), "member 2 is named 'bé' here but 'x' there"
        )
        self.assertEqual(
            difference(MEMBERS, (ONE, TWO, other_peer), "at A", "at B"),
            "member 3 has the peer address 'c.example:8430' at A but 'd.example:8430' at B",
        )

    def test_lone(self) -> None:
        """An entry that one side does not have, wherever it stands in the list."""
        for line in MEMBERS:
            rest = tuple(other for other in MEMBERS if other != line)
            text = f"member {line.id} ('{line.name}', '{line.peer}') is listed"
            self.assertEqual(difference(MEMBERS, rest), f"{text} here but not there")
            self.assertEqual(difference(rest, MEMBERS), f"{text} there but not here")
        self.assertIn("member 1 ", difference(MEMBERS, ()) or "")
        self.assertIn("member 1 ", difference((), MEMBERS) or "")

    def test_twice(self) -> None:
        """A repeated line is a difference too."""
        self.assertIn("member 2 ", difference(MEMBERS, (ONE, TWO, TWO, THREE)) or "")
        self.assertIn("member 3 ", difference(MEMBERS, (ONE, TWO, THREE, THREE)) or "")

    def test_quoting(self) -> None:
        """Names of the peer's are cut, and cannot draw on a terminal."""
        text = difference(MEMBERS, (attrs.evolve(ONE, name="\x1b[2J\n" + "x" * 10_000),)) or ""
        self.assertLess(len(text), 300)
        self.assertTrue(text.isprintable())


class CheckTests(unittest.TestCase):
    """Both sides of a link."""

    def refused(self, theirs: Hello, *words: str, ours: Hello = OURS) -> None:
        """The link is refused, and the reason holds ``words``."""
        reason = check_hello(ours, theirs)
        self.assertIsNotNone(reason)
        for word in words:
            self.assertIn(word, reason or "")

    def test_accepted(self) -> None:
        """Nodes of one cluster; the list may be written in another order."""
        self.assertIsNone(check_hello(OURS, HELLO))
        self.assertIsNone(check_hello(HELLO, OURS))
        self.assertIsNone(check_hello(OURS, hello(MEMBERS[::-1])))

    def test_cluster(self) -> None:
        """Id and name."""
        self.refused(hello(cluster_id="other"), "the cluster id differs: '6f1d2c1e-demo' at node 1, 'other' at node 2")
        self.refused(hello(cluster_name="prod"), "the cluster name differs: 'demo' at node 1, 'prod' at node 2")

    def test_node(self) -> None:
        """Ourselves, and a stranger."""
        self.refused(hello(node_id=1), "both sides say that they are node 1")
        self.refused(hello(node_id=4), "node 4 is not in the member list of node 1")

    def test_versions(self) -> None:
        """Ranges that touch are enough; a gap on either side is not; a range the wrong way round is empty."""
        ours = attrs.evolve(OURS, version_min=2, version_max=4)
        for low, high in ((1, 2), (4, 9), (3, 3), (1, 9)):
            self.assertIsNone(check_hello(ours, hello(version_min=low, version_max=high)))
        for low, high in ((1, 1), (5, 9), (9, 1)):
            self.refused(
                hello(version_min=low, version_max=high),
                "no common protocol version: node 1 speaks 2 to 4",
                f"node 2 speaks {low} to {high}",
                ours=ours,
            )

    def test_digest(self) -> None:
        """A digest that is not that of the list beside it."""
        self.refused(hello(members_digest="0" * 64), "node 2 does not have the digest")

    def test_members(self) -> None:
        """Both sides name the same entry, each side by its node."""
        theirs = hello((ONE, TWO, attrs.evolve(THREE, peer="c.example:9")))
        text = "the member lists differ: member 3 has the peer address"
        self.refused(theirs, f"{text} 'c.example:8430' at node 1 but 'c.example:9' at node 2")
        self.refused(OURS, f"{text} 'c.example:9' at node 2 but 'c.example:8430' at node 1", ours=theirs)
        self.refused(hello((TWO, THREE)), "member 1 ('a', '127.0.0.1:8410') is listed at node 1 but not at node 2")
