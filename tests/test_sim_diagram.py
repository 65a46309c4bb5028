"""The trace of a run, and its picture."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import combinations, pairwise

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial import unittest

from tests.wire_samples import EPOCH, TYPICAL
from txvbcast.core.charts import CHARTS
from txvbcast.sim import campaign, diagram
from txvbcast.sim import trace as trace_module
from txvbcast.sim.faults import FAULTS
from txvbcast.sim.network import Conditions
from txvbcast.sim.options import Options
from txvbcast.sim.svg import Drawing, plain, shortened, width_of
from txvbcast.sim.swarm import Swarm
from txvbcast.sim.trace import Trace, cut_text
from txvbcast.sim.wording import message_text, short_text
from txvbcast.sim.world import World
from txvbcast.wire import messages as m
from txvbcast.wire.items import Transaction, pack

SVG = "{http://www.w3.org/2000/svg}"


def story(trace: Trace) -> World:
    """Three nodes: one is stopped and goes on, one is killed and comes back, one is cut off for a while."""
    world = World(1, 3, watchers=[trace])
    world.run_until(world.settled, 10.0, "settled")
    world.run(1.0 - world.clock.seconds())
    world.submit(2, b"a<b>&\x00=1", m.Mode.TWO_PHASE)
    world.run(0.1)
    world.freeze(2)
    world.run(0.2)
    world.thaw(2)
    world.run(0.7)
    world.crash(3)
    world.run(1.5)
    world.restart(3)
    world.run(1.5)
    world.note("isolated at node 1")
    world.network.cut_off([(2, 1)])
    world.submit(2, b"b=1")
    world.run(0.1)
    world.network.isolate(1)
    world.run(2.0)
    world.network.heal()
    world.run(1.0)
    world.run_until(world.quiet, 20.0, "quiet")
    return world


def elements(root: ET.Element, name: str) -> list[ET.Element]:
    """All elements with that class among theirs."""
    return [each for each in root.iter() if name in each.get("class", "").split()]


def title(element: ET.Element) -> str:
    """A tooltip."""
    return element.findtext(f"{SVG}title", "")


def content(element: ET.Element) -> str:
    """A text without its tooltip."""
    return (element.text or "") + "".join(child.tail or "" for child in element)


class TraceTests(unittest.SynchronousTestCase):
    """What is kept of a run."""

    def test_the_run_is_the_same(self) -> None:
        """To be watched changes nothing."""
        trace = Trace()
        self.assertEqual(campaign.run_seed(5, watchers=(trace,)).trace_hash, campaign.run_seed(5).trace_hash)
        self.assertGreater(len(trace.passages), 100)

    def test_window(self) -> None:
        """Nothing is kept from before or after, but how the nodes were when it began."""
        trace = Trace(1.05, 2.2)
        story(trace)
        times = [each.at_s for each in trace.happenings]
        times += [each.sent_s for each in trace.passages if each.received_s is None]
        times += [each.received_s for each in trace.passages if each.received_s is not None]
        self.assertTrue(times)
        self.assertTrue(all(at_s >= 1.05 for at_s in times))
        self.assertTrue(all(each.sent_s <= 2.2 for each in trace.passages))
        for phases in trace.phases.values():
            self.assertLess(phases[0].at_s, 1.05)
            self.assertTrue(all(1.05 <= each.at_s <= 2.2 for each in list(phases)[1:]))

    def test_phases(self) -> None:
        """Every node's life, with its stops."""
        trace = Trace()
        story(trace)
        stops = [(round(b.at_s - a.at_s, 6)) for a, b in pairwise(trace.phases[2]) if a.frozen and not b.frozen]
        self.assertEqual(stops, [0.2])
        lives = [phase.life for phase in trace.phases[3]]
        self.assertEqual(list(dict.fromkeys(lives)), [1, 0, 2])
        self.assertIn("returning", [phase.own for phase in trace.phases[3]])
        self.assertIn("master", [phase.role for phase in trace.phases[1]])

    def test_happenings(self) -> None:
        """What was done, and what followed, in words."""
        trace = Trace()
        story(trace)
        texts = [f"{each.node_id} {each.text}" for each in trace.happenings]
        for text in (
            "2 is stopped", "2 goes on", "3 is killed", "3 begins its life 2", "0 isolated at node 1",
            "0 parted: 1 | 2, 3", "0 every node can reach every other", "1 sees node 3 failed: it is silent",
            "2 a client hands in a<b>&\x00=1 (2pc)", "2 the client of a<b>&\x00=1 hears committed",
        ):  # fmt: skip
            self.assertIn(text, texts)
        self.assertTrue(any(text.startswith("2 applies ") and "a<b>&\x00=1" in text for text in texts))

    def test_heartbeats(self) -> None:
        """Only if they are asked for; the last events are without them anyway."""
        without, with_them = Trace(), Trace(heartbeats=True)
        story(without)
        story(with_them)
        beats = [each for each in with_them.passages if isinstance(each.message, (m.Heartbeat, m.HeartbeatReply))]
        self.assertEqual(len(with_them.passages), len(without.passages) + len(beats))
        self.assertGreater(len(beats), 10)
        self.assertFalse(any("Heartbeat" in line for line in with_them.lines(10_000)))

    def test_lines(self) -> None:
        """In the order in which it happened, the last ones."""
        trace = Trace()
        story(trace)
        lines = trace.lines(10_000)
        times = [float(line.split()[0]) for line in lines]
        self.assertEqual(times, sorted(times))
        self.assertEqual(trace.lines(5), lines[-5:])
        self.assertTrue(any("1  <- 2 Stored epoch 1.1, seq 1" in line for line in lines))
        self.assertEqual(trace.lines(0), [])
        self.assertTrue(any("2  -> 1 (lost) Propose" in line for line in lines))

    def test_lost_and_on_its_way(self) -> None:
        """What a partition ate is lost; what is sent as the run ends may still come, also to a stopped process."""
        trace = Trace()
        world = story(trace)
        missing = [each for each in trace.passages if each.received_s is None]
        self.assertTrue(missing)
        self.assertTrue(all(map(trace.lost, missing)))
        world.freeze(3)
        world.submit(1, b"x=1")
        world.run(0.01)
        (waiting,) = (each for each in trace.passages if each.to == 3 and isinstance(each.message, m.Propose)
                      and each.received_s is None and each.sent_s > world.clock.seconds() - 0.1)  # fmt: skip
        self.assertFalse(trace.lost(waiting))
        self.assertTrue(any("1  -> 3 (has not arrived) Propose" in line for line in trace.lines(50)))

    def test_copies(self) -> None:
        """A datagram that comes twice is kept twice."""
        trace = Trace(heartbeats=True)
        World(1, 2, Conditions(datagram_copy=1.0), watchers=[trace]).run(1.0)
        datagrams = [each for each in trace.passages if not each.by_link and each.sent_s < 0.9]
        copies = Counter((each.sender, each.sent_s, each.message) for each in datagrams)
        self.assertGreater(len(copies), 5)
        self.assertEqual(set(copies.values()), {2})
        self.assertTrue(all(each.received_s is not None for each in datagrams))

    def test_bound(self) -> None:
        """The latest are kept."""
        whole = Trace()
        story(whole)
        self.assertGreater(sum(map(whole.lost, whole.passages)), 20)
        self.patch(trace_module, "KEPT_MAX", 20)
        trace = Trace()
        story(trace)
        sent = [(each.sent_s, each.sender, each.to, each.message) for each in (*whole.passages, *trace.passages)]
        self.assertEqual(sent[-20:], sent[-40:-20])
        self.assertLessEqual(len(trace._under_way), 20)
        self.assertEqual(len(trace.happenings), 20)

    def test_cuts(self) -> None:
        """A partition by its sides; anything else by who does not reach whom."""
        self.assertEqual(cut_text(set(), [1, 2]), "every node can reach every other")
        whole = {(a, b) for a in (1, 2) for b in (3, 4)}
        self.assertEqual(cut_text(whole | {(b, a) for a, b in whole}, [1, 2, 3, 4]), "parted: 1, 2 | 3, 4")
        self.assertEqual(cut_text(whole, [1, 2, 3, 4]), "cut: 1 to 3, 4; 2 to 3, 4")
        self.assertEqual(cut_text({(2, 1)}, [1, 2]), "cut: 2 to 1")
        self.assertEqual(cut_text({(1, 3), (3, 1)}, [1, 2, 3]), "cut: 1 to 3; 3 to 1")


class WordingTests(unittest.SynchronousTestCase):
    """Messages in words."""

    def test_every_message(self) -> None:
        """Each begins with its kind, on one line."""
        self.assertEqual({type(message) for message in TYPICAL.values()}, set(m.OPCODES.values()))
        for message in TYPICAL.values():
            for text in (message_text(message), short_text(message)):
                self.assertTrue(text.startswith(type(message).__name__), text)
                self.assertNotIn("\n", text)
            self.assertLess(len(short_text(message)), 40)

    def test_fields(self) -> None:
        """Epochs as people write them, and nothing that says nothing."""
        order = m.Order(EPOCH, 17, 16, 15, m.FlightId(1, 2, 3))
        self.assertEqual(message_text(order), "Order epoch 3.1, seq 17, committed 16, everywhere 15, flight 1.2.3")
        self.assertEqual(short_text(order), "Order 17")
        self.assertEqual(message_text(m.Vote(m.FlightId(1, 2, 3))), "Vote flight 1.2.3")
        refusal = m.Vote(m.FlightId(1, 2, 3), (m.Refusal(0, "no"),))
        self.assertEqual(message_text(refusal), "Vote flight 1.2.3, refused [item 0: no]")
        self.assertEqual(short_text(m.Committed(EPOCH, 5, 4)), "Committed 5")
        self.assertEqual(short_text(m.Claim(EPOCH, m.ClaimWhy.SILENCE, 0)), "Claim 3.1")

    def test_flight(self) -> None:
        """Its payloads, the first few."""
        items = tuple(pack(Transaction("kv", b"k%d" % number)) for number in range(6))
        flight = m.Flight(m.FlightId(1, 1, 1), m.Mode.TWO_PHASE, 0, 1, items)
        self.assertEqual(message_text(m.Propose(flight)), "Propose flight 1.1.1 2pc [k0, k1, k2, k3, 2 more]")
        self.assertIn("0 bytes that are no transaction", message_text(TYPICAL["Propose"]))


class DiagramTests(unittest.SynchronousTestCase):
    """The picture."""

    def draw(self, trace: Trace, violation: str = "") -> ET.Element:
        """What it is once it is parsed."""
        return ET.fromstring(diagram.draw(trace, "A <story> & its end", ["a note"], violation))

    def test_lanes_and_arrows(self) -> None:
        """A lane for each node, and an arrow for each message that has arrived, from where to where it was."""
        for heartbeats in (False, True):
            trace = Trace(heartbeats=heartbeats)
            story(trace)
            self.assertLess(len(trace.passages), diagram.ARROWS_MAX)
            root = self.draw(trace)
            self.assertEqual([title(each) for each in elements(root, "node")], ["node 1", "node 2", "node 3"])
            arrived = [each for each in trace.passages if each.received_s is not None]
            arrows = elements(root, "arrived")
            self.assertEqual(len(arrows), len(arrived))
            for passage, arrow in zip(arrived, arrows, strict=True):
                self.assertIn(f"{passage.sender} to {passage.to}: {type(passage.message).__name__}", title(arrow))
                (line,) = elements(arrow, "way")
                self.assertIn("datagram" if not passage.by_link else "link", line.get("class", ""))
                x1, y1, x2, y2 = (float(line.get(name, "")) for name in ("x1", "y1", "x2", "y2"))
                self.assertEqual(x1 < x2, passage.sender < passage.to)
                self.assertLess(y1, y2)
            others = elements(root, "lost") + elements(root, "on-its-way")
            self.assertEqual(len(others), len(trace.passages) - len(arrived))
            self.assertTrue(all(elements(each, "cross") for each in elements(root, "lost")))

    def test_nodes(self) -> None:
        """Two nodes and nine."""
        for nodes in (2, 9):
            trace = Trace()
            World(1, nodes, watchers=[trace]).run(1.0)
            self.assertEqual(len(elements(self.draw(trace), "node")), nodes)

    def test_what_happens_to_nodes(self) -> None:
        """Stops, deaths, lives, partitions, standings and epochs are to be seen."""
        trace = Trace()
        story(trace)
        root = self.draw(trace)
        lanes = elements(root, "node")
        for name, counts in (("stopped", [0, 1, 0]), ("dead", [0, 0, 1]), ("crash", [0, 0, 2]), ("birth", [0, 0, 1])):
            self.assertEqual([bool(elements(lane, name)) for lane in lanes], [count > 0 for count in counts], name)
        self.assertIn("nothing passes from 1 to 2, 1 to 3, 2 to 1, 3 to 1", [title(e) for e in elements(root, "cut")])
        told = {part for each in elements(root, "lane") for part in title(each).split(", ")}
        self.assertLessEqual({"normal", "returning", "master", "follower", "stopped", "life 2", "epoch 1.1"}, told)
        self.assertIn("master", {role for each in elements(root, "office") for role in title(each).split(", ")[1:2]})
        applied = sum(each.kind == "applied" for each in trace.happenings)
        self.assertEqual(len(elements(root, "applied")), applied + 1)  # and the legend's
        rows = [content(each) for each in elements(root, "row")]
        self.assertIn("isolated at node 1", rows)

    def test_every_state_has_its_colour(self) -> None:
        """Whatever the charts know, and whatever can be sent."""
        states = {chart.name: set(chart.states) for chart in CHARTS}
        self.assertEqual(set(diagram.OWN), states["OwnMachine"])
        self.assertEqual(set(diagram.OFFICES) | {"follower"}, states["MastershipMachine"])
        self.assertEqual(set(diagram._FAMILY_OF), set(m.OPCODES.values()) - {m.Hello, m.HelloRefused})

    def test_texts_do_not_overlap(self) -> None:
        """Neither the names of messages nor the numbers beside the lanes, nor the lines in words."""
        options = attrs.evolve(
            Options.draw(1),
            nodes=5,
            seconds=8.0,
            preset="lan",
            faults=tuple(sorted(FAULTS)),
            fault_every_s=0.2,
            rate=10.0,
        )
        trace = Trace(2.0, 6.0)
        Swarm(1, options, [trace]).run()
        root = self.draw(trace)
        boxes = []
        for name, size, anchor in (("label", 9.0, 0.5), ("seq", 8.5, 1.0), ("epoch", 9.0, 0.0)):
            for text in elements(root, name):
                x, y, width = float(text.get("x", "")), float(text.get("y", "")), width_of(content(text), size)
                boxes.append((x - anchor * width, y - 6.0, x + (1 - anchor) * width, y))
        self.assertGreater(len(boxes), 100)
        for (x1, y1, x2, y2), (x3, y3, x4, y4) in combinations(boxes, 2):
            self.assertFalse(x1 < x4 - 0.2 and x3 < x2 - 0.2 and y1 < y4 - 0.2 and y3 < y2 - 0.2)
        rows = sorted(float(each.get("y", "")) for each in elements(root, "row"))
        self.assertGreater(len(rows), 10)
        self.assertTrue(all(below - above > 12.0 for above, below in pairwise(rows)))

    def test_bound(self) -> None:
        """The latest messages are drawn, and it is said that the others are not."""
        self.patch(diagram, "ARROWS_MAX", 40)
        trace = Trace()
        story(trace)
        root = self.draw(trace)
        self.assertLessEqual(len(elements(root, "message")), 40)
        self.assertGreater(len(elements(root, "message")), 20)
        self.assertTrue(any("earlier events are left out" in (each.text or "") for each in elements(root, "note")))

    def test_violation(self) -> None:
        """Where the run has ended, if that is in the picture."""
        for to_s, drawn in ((math.inf, 1), (2.0, 0)):
            trace = Trace(0.0, to_s)
            story(trace)
            root = self.draw(trace, "what <must> hold does not\n" + "and more " * 600)
            self.assertEqual(len(elements(root, "violation")), drawn)
            said = [each.text for each in elements(root, "what")]
            self.assertEqual(said[:1], ["what <must> hold does not"][:drawn])
            self.assertEqual(len(said), 17 * drawn)
            height = float(root.get("height", ""))
            for each in elements(root, "what"):
                self.assertLess(float(each.get("y", "")), height)

    def test_any_payload(self) -> None:
        """What cannot stand in XML is replaced, so that the picture can be read."""
        trace = Trace()
        story(trace)
        tooltips = [title(each) for each in elements(self.draw(trace), "message")]
        self.assertTrue(any("a<b>&\N{REPLACEMENT CHARACTER}=1" in text for text in tooltips))

    @given(st.text())
    def test_plain(self, text: str) -> None:
        """Any text can be parsed again."""
        drawing = Drawing()
        drawing.text("row", 1.0, 2.0, text, title=f"t {text}")
        root = ET.fromstring(drawing.document(10, 10, text, "", ""))
        (row,) = elements(root, "row")
        self.assertEqual(ET.fromstring(f"<a>{plain(text)}</a>").text or "", row[0].tail or "")

    def test_shortened(self) -> None:
        """Dots stand for what is left out."""
        self.assertEqual(shortened("abc", 100.0, 10.0), "abc")
        text = shortened("a" * 50, 100.0, 10.0)
        self.assertTrue(text.endswith("a\N{HORIZONTAL ELLIPSIS}"))
        self.assertLessEqual(width_of(text, 10.0), 100.0)

    @given(st.dictionaries(st.floats(0.0, 100.0), st.integers(0, 3), min_size=1))
    def test_scale(self, rows: dict[float, int]) -> None:
        """Later is lower, by enough for what is written, and never by much for nothing."""
        scale = diagram._Scale(Counter(rows), 50.0)
        moments = list(scale.moments())
        self.assertEqual([at_s for at_s, _ in moments], sorted(rows))
        self.assertTrue(all(scale.y(at_s) == y for at_s, y in moments))
        for (before_s, above), (after_s, below) in pairwise(moments):
            self.assertGreaterEqual(below - above, 4.0 - 0.01)
            self.assertLessEqual(above, scale.y((before_s + after_s) / 2))
            if rows[after_s]:
                self.assertGreaterEqual(below - above, 14.0 * rows[before_s] - 0.01)
        self.assertEqual(scale.y(-1.0), moments[0][1])
        self.assertEqual(scale.y(101.0), scale.bottom)
        self.assertGreater(scale.bottom, moments[-1][1])
