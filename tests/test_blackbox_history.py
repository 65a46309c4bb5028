"""What a session makes of answers, logs and what nodes have performed: small evidence, made by hand."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import attrs
from twisted.trial import unittest

from tests.blackbox.calibration import LIES, calibrate, unnoticed
from tests.blackbox.clients import REFUSED, UNKNOWN, Heard, Unexpected, payload_of, understand
from tests.blackbox.diary import DiaryFactory, read_diaries
from tests.blackbox.history import Evidence, judge, outcomes, request_in, save, writes_in
from txvbcast.interfaces import Run
from txvbcast.sim.linearizability import Verdict
from txvbcast.sim.witness import AFTER_ALL, Asked, Done, Found, Get, Set
from txvbcast.wire.items import Request, Transaction, pack
from txvbcast.wire.messages import Entry, Flight, FlightId, Mode

WRITES = {"w1": Set("k", b"w1"), "w2": Set("k", b"w2"), "w3": Set("l", b"w3"), "w4": Set("k", None)}


def entry(seq: int, *names: str) -> Entry:
    """An entry of the log with some of the writes."""
    items = tuple(pack(Transaction("kv", payload_of(WRITES[name]), Request.parse(name))) for name in names)
    return Entry(seq, 1, Flight(FlightId(1, 1, seq), Mode.BROADCAST, 0, 1, items))


LOG = (entry(1, "w1"), entry(2, "w2", "w3"), entry(3, "w4"), entry(4, "w1"))
ASKED = (
    Asked("w1", WRITES["w1"], 0.0, 1.0, Done(True, 1, 0), (1, 0)),
    Asked("r1", Get("k"), 1.1, 1.2, Found(b"w1", 1), (1, AFTER_ALL)),
    Asked("w2", WRITES["w2"], 2.0, 3.0, Done(True, 2, 1), (2, 0)),
    Asked("w3", WRITES["w3"], 2.0),
    Asked("r2", Get("k"), 3.1, 3.2, Found(b"w2", 2), (2, AFTER_ALL)),
    Asked("r3", Get("k"), 3.3, 3.4, Found(b"w2", 2), (2, AFTER_ALL)),
    Asked("w4", WRITES["w4"], 4.0, 5.0, Done(True, 0, 2), (3, 0)),
    Asked("w5", Set("k", b"w5"), 5.0, refused=True),
)
LINES = ((1, 0, "w1"), (2, 0, "w2"), (2, 1, "w3"), (3, 0, "w4"))
EVIDENCE = Evidence(
    ASKED,
    {1: LOG, 2: LOG},
    {1: {"life1": LINES}, 2: {"life1": LINES[:2], "life2": LINES}},
    {k: {"l": (b"w3", 2)} for k in (1, 2)},
)


class EvidenceTests(unittest.TestCase):
    """Four writes on two nodes; one is repeated, and performed once; one got no answer, one was refused."""

    def assert_complaint(self, words: str, **changes: Any) -> None:
        """There is a complaint with these words about the changed evidence."""
        complaints = judge(attrs.evolve(EVIDENCE, **changes)).complaints
        self.assertTrue(any(words in complaint for complaint in complaints), complaints)

    def test_fine(self) -> None:
        opinion = judge(EVIDENCE)
        self.assertEqual(opinion.complaints, ())
        self.assertTrue(opinion.is_good)
        self.assertEqual([write.place for write in writes_in(LOG)], [(1, 0), (2, 0), (2, 1), (3, 0)])

    def test_logs_differ(self) -> None:
        self.assert_complaint("node 1 has 4 entries, node 2 has 3", logs={1: LOG, 2: LOG[:3]})
        self.assert_complaint("node 1 has Entry", logs={1: LOG, 2: (*LOG[:3], entry(4, "w2"))})
        self.assert_complaint("has gaps", logs={1: LOG[1:], 2: LOG[1:]})

    def test_deliveries(self) -> None:
        good = {"life1": LINES}
        self.assert_complaint("has performed 3 of 4", delivered={1: good, 2: {"life1": LINES, "life2": LINES[:3]}})
        self.assert_complaint("more than the log", delivered={1: good, 2: {"life1": (*LINES, (4, 0, "w1"))}})
        swapped = (LINES[0], LINES[2], LINES[1], LINES[3])
        self.assert_complaint("performed different things", delivered={1: good, 2: {"life1": swapped}})

    def test_last_life_is_the_latest(self) -> None:
        """Not the last by the alphabet."""
        lives = {f"life{number}": LINES[:1] for number in range(1, 10)}
        self.assertEqual(judge(attrs.evolve(EVIDENCE, delivered={1: {**lives, "life10": LINES}})).complaints, ())

    def test_stores(self) -> None:
        self.assert_complaint("the keys of node 2", stores={1: {"l": (b"w3", 2)}, 2: {}})

    def test_clients(self) -> None:
        self.assert_complaint("was refused", asked=[*ASKED[:-2], Asked("w4", WRITES["w4"], 4.0, refused=True)])
        stale = Asked("stale", Get("k"), 9.0, 9.5, Found(b"w1", 1), (1, AFTER_ALL))
        self.assert_complaint("not linearizable", asked=[*ASKED, stale])

    def test_lies_are_noticed(self) -> None:
        stale = Asked("stale", Get("k"), 9.0, 9.5, Found(b"w1", 1), (1, AFTER_ALL))
        opinions = calibrate(EVIDENCE, [stale], seed=1)
        self.assertEqual(set(opinions), {"a stale read", *LIES})
        self.assertEqual(unnoticed(opinions), [])

    def test_unnoticed_lies_are_told(self) -> None:
        """A harmless "lie" stands for a check that is blind."""
        good = judge(EVIDENCE)
        opinions = dict.fromkeys(("a stale read", *LIES), good)
        self.assertEqual(len(unnoticed(opinions)), 6)
        self.assertIs(good.finding.verdict, Verdict.LINEARIZABLE)

    def test_too_short_to_calibrate(self) -> None:
        error = self.assertRaises(AssertionError, calibrate, attrs.evolve(EVIDENCE, asked=ASKED[:2]), [], 1)
        self.assertIn("too short", str(error))

    def test_outcomes(self) -> None:
        expected = {"reads answered": 3, "writes answered": 3, "writes refused": 1, "writes unknown": 1}
        self.assertEqual(outcomes(ASKED), expected)

    def test_saved(self) -> None:
        path = Path(self.mktemp())
        save(ASKED, path)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.assertEqual([line["name"] for line in lines], [asked.name for asked in ASKED])
        self.assertEqual(lines[0]["request"], {"key": "k", "value": "w1", "if_version": None})


class PayloadTests(unittest.TestCase):
    """The harness reads payloads without the store's code."""

    def test_both_ways(self) -> None:
        for request in (*WRITES.values(), Set("k", b"v", 0), Set("k", None, 7)):
            self.assertEqual(request_in(payload_of(request)), request)


class DiaryTests(unittest.TestCase):
    """The key-value store that writes down what it performs."""

    def test_lives(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        for _ in range(2):
            manager = DiaryFactory().make("kv", {"directory": str(directory)})
            payloads = [payload_of(WRITES[name]) for name in ("w1", "w2")]
            requests = [Request.parse(name) for name in ("w1", "w2")]
            manager.commit_many(Run("kv", Mode.BROADCAST, "1.1.1", 7, range(2), payloads, requests))
        self.assertEqual(read_diaries(directory), {f"life{k}": [(7, 0, "w1"), (7, 1, "w2")] for k in (1, 2)})

    def test_cut_short(self) -> None:
        """A line that its writer could not finish is no line."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "life1").write_text('[1, 0, "w1"]\n[2, 0')
        (directory / "life2").write_text("")
        self.assertEqual(read_diaries(directory), {"life1": [(1, 0, "w1")], "life2": []})


class AnswerTests(unittest.TestCase):
    """What clients make of a node's answers."""

    def heard(self, method: str, status: int, document: object, **headers: str) -> Heard:
        """What is understood; bytes are a body as it is."""
        content = document if isinstance(document, bytes) else json.dumps(document).encode()
        return understand(
            Get("k"), method, status, {name.replace("_", "-"): text for name, text in headers.items()}, content
        )

    def test_reads(self) -> None:
        self.assertEqual(
            self.heard("GET", 200, b"v", vbcast_version="3", vbcast_applied="9"),
            Heard(answer=Found(b"v", 3), place=(9, AFTER_ALL)),
        )
        self.assertEqual(
            self.heard("GET", 404, {"type": "urn:txvbcast:error:not-found", "applied": 9}),
            Heard(answer=Found(None, 0), place=(9, AFTER_ALL)),
        )

    def test_writes(self) -> None:
        document = {"version": 3, "found_version": 2, "seq": 3, "index": 1}
        self.assertEqual(self.heard("PUT", 200, document), Heard(answer=Done(True, 3, 2), place=(3, 1)))
        result = base64.b64encode(bytes.fromhex("94c30600a0")).decode()  # done; version 6, found 0, no reason
        document = {"seq": 6, "index": 0, "result_b64": result}
        self.assertEqual(self.heard("POST", 200, document), Heard(answer=Done(True, 6, 0), place=(6, 0)))

    def test_problems(self) -> None:
        for kind, wanted in (
            ("aborted", REFUSED),
            ("overloaded", REFUSED),
            ("no-quorum", REFUSED),
            ("outcome-unknown", UNKNOWN),
        ):
            self.assertEqual(self.heard("PUT", 500, {"type": f"urn:txvbcast:error:{kind}"}), wanted)

    def test_unexpected(self) -> None:
        for kind in ("internal-error", "bad-request", "not-found"):
            with self.assertRaises(Unexpected):
                self.heard("PUT", 500, {"type": f"urn:txvbcast:error:{kind}"})
