"""``vbcast doctor`` and ``vbcast inactive history``: what they say of a node, its surroundings and its past."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.trial import unittest

from tests.store_samples import absence
from tests.test_cli import CliCase
from txvbcast.cli import doctor
from txvbcast.cli.doctor import OK, PROBLEM, WARNING, Finding
from txvbcast.cli.local import LocalCluster
from txvbcast.core.estimator import PAST_MIN
from txvbcast.virt.pause import Clocks

#: The first line of /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice.
STAT = "cpu  100 0 100 700 0 0 0 {stolen} 50 0\ncpu0 1 2 3\n"


def past(*lengths_s: float, **other: Any) -> list[Any]:
    """Absences of these lengths, all announced to take 4 s."""
    return [absence(1, **{"announced_s": 4.0, "expected_s": 4.0, "actual_s": each, **other}) for each in lengths_s]


class DoctorCase(CliCase):
    """A node all is well with, on a machine all is well with."""

    def setUp(self) -> None:
        super().setUp()
        self.node.adapters = [adapter()]
        self.use_stat(STAT.format(stolen=0))
        self.patch(doctor, "Clocks", lambda: Clocks(lambda: 5.0, lambda: 5.0))

    def use_stat(self, text: str) -> None:
        """What the kernel says of the processors."""
        path = Path(self.mktemp())
        path.write_text(text)
        self.patch(doctor, "PROC_STAT", path)

    def change_status(self, **other: Any) -> None:
        """The node says otherwise."""
        status = {**self.node.status(), **other}
        self.node.status = lambda: status  # type: ignore[method-assign]

    async def findings(self, code: int = 0, **options: Any) -> dict[str, Finding]:
        """What it finds, by what it is about; its exit code is checked."""
        got, out, err = await self.run_here("--json", "doctor", **options)
        self.assertEqual((got, err), (code, ""), out)
        document = await self.json_of(out)
        found = {each["about"]: Finding(**each) for each in document["findings"]}
        states = [each.state for each in found.values()]
        self.assertEqual((document["problems"], document["warnings"]), (states.count(PROBLEM), states.count(WARNING)))
        for each in found.values():
            self.assertEqual(each.state == OK, not each.advice, each)
        return found

    async def expect(self, state: str, about: str, *words: str, **options: Any) -> None:
        """One finding is so, and says these words; nothing else is wrong."""
        found = await self.findings(1 if state == PROBLEM else 0, **options)
        self.assertEqual(found[about].state, state, found[about])
        for word in words:
            self.assertIn(word, f"{found[about].detail} -> {found[about].advice}")
        others = [each for each in found.values() if each.about != about and each.state != OK]
        self.assertEqual(others, [])

    async def json_of(self, out: bytes) -> dict[str, Any]:
        """One document, and nothing else."""
        self.assertEqual(out.count(b"\n"), 1)
        document: dict[str, Any] = json.loads(out)
        return document


def adapter(**other: Any) -> dict[str, Any]:
    """What the status says of an adapter."""
    return {
        "adapter": "qmp", "state": "connected", "where": "/run/guest.sock", "problem": "", "since_ms": 90_000,
        "kinds": ["migrate_out"], "under_way": [], "counters": {}, **other,
    }  # fmt: skip


class NodeTests(DoctorCase):
    """The node and its cluster."""

    async def test_well(self) -> None:
        out = await self.text("doctor")
        lines = out.splitlines()
        self.assertIn(f"ok       node: {self.url} is node 1 (one)", lines)
        self.assertIn("ok       master: node 1, epoch 1.1", lines)
        self.assertIn("ok       node 2: n2 is inactive: freeze, 2.5s left of 4s", lines)
        self.assertIn("ok       adapter qmp: hears /run/guest.sock since 90s", out)
        self.assertEqual(lines[-2:], ["", "problems: 0, warnings: 0"])
        self.assertEqual({each.state for each in (await self.findings()).values()}, {OK})

    async def test_unreachable(self) -> None:
        """That is a finding like others, and the machine is looked at all the same."""
        found = await self.findings(3, node="http://127.0.0.1:1")
        self.assertEqual(set(found), {"node", "clock", "processors"})
        self.assertEqual(found["node"].state, PROBLEM)
        self.assertIn("cannot reach http://127.0.0.1:1", found["node"].detail)
        code, out, err = await self.run_here("doctor", node="http://127.0.0.1:1")
        self.assertEqual((code, err), (3, ""))
        self.assertIn(b"problem  node: cannot reach", out)
        self.assertIn(b"         -> start the node", out)

    async def test_not_a_node(self) -> None:
        found = await self.findings(3, node=self.answering('{"hello": 1}'))
        self.assertIn("is it a node of this version", found["node"].detail)

    async def test_no_master(self) -> None:
        self.node.master = None
        await self.expect(PROBLEM, "master", "nothing can be decided", "majority of the voters")

    async def test_no_quorum(self) -> None:
        self.node.quorum = False
        await self.expect(PROBLEM, "quorum", "there is none: 2 of 3 voters are needed")

    async def test_no_further_loss(self) -> None:
        self.change_status(quorum={"voters": [1, 3], "needed": 2, "ok": True})
        await self.expect(WARNING, "quorum", "2 of 2 voters are needed: it stands no further loss")

    async def test_away(self) -> None:
        self.change_status(standing="catching_up", state="returning")
        await self.expect(WARNING, "standing", "this node is returning", "vbcast inactive end")

    async def test_failed_member(self) -> None:
        member = {"node_id": 3, "name": "n3", "standing": "failed", "linked": False}
        self.change_status(members=[member])
        await self.expect(WARNING, "node 3", "n3 is failed", "start it")

    async def test_no_link(self) -> None:
        """Of a member that is away by its own word nobody expects one."""
        here = {"node_id": 1, "name": "n1", "standing": "normal", "linked": False}
        away = {"node_id": 2, "name": "n2", "standing": "inactive", "linked": False, "kind": "freeze"}
        self.change_status(members=[here, away, {"node_id": 3, "name": "n3", "standing": "normal", "linked": False}])
        await self.expect(WARNING, "node 3", "n3 is normal, and there is no link to it")


class AdapterTests(DoctorCase):
    """What tells the node of changes."""

    async def test_none(self) -> None:
        self.node.adapters = []
        await self.expect(WARNING, "adapters", "no platform tells this node", "vbcast inactive run")
        self.change_status(adapters=None)
        await self.expect(WARNING, "adapters", "no platform tells this node")

    async def test_lost(self) -> None:
        problem = "/run/guest.sock: no such file; start the guest"
        self.node.adapters = [adapter(), adapter(adapter="qmp-2", state="lost", problem=problem, since_ms=4000)]
        await self.expect(PROBLEM, "adapter qmp-2", f"has heard nothing for 4s: {problem}", "docs/adapters")

    async def test_starting(self) -> None:
        self.node.adapters = [adapter(state="starting", where="", since_ms=61_000)]
        await self.expect(WARNING, "adapter qmp", "starting for 61s", "log of the node")

    async def test_at_work(self) -> None:
        self.node.adapters = [adapter(where="", under_way=["migration"])]
        await self.expect(OK, "adapter qmp", "hears its platform", ", changes under way: 1")


class PredictionTests(DoctorCase):
    """How well absences are foretold."""

    async def test_well(self) -> None:
        self.node.past = past(3.0, 3.6, 4.0, 5.0)
        await self.expect(
            OK, "migrate_out by qmp", "absences: 4; in the median they took 95% of the announced time, 75% were over"
        )
        await self.expect(OK, "history", "absences remembered: 4")

    async def test_too_short(self) -> None:
        """By what the times rest on: the advice is one that helps."""
        for basis, advice in {
            "fixed": "estimates: migrate_out: 10s, or more",
            "configured": "estimates: migrate_out: 10s, or more",
            "told": "whoever announces it gives the time: --expect 10s, or more",
            "platform": "inactivity.margin to 2.4 or more on every node",
            "formula": "these times are worked out (formula)",
            "learned": "these times are worked out (learned)",
        }.items():
            self.node.past = past(3.0, 3.0, 3.0, 9.5, 9.6, basis=basis)
            said = "absences: 5; 40% took longer than is believed (1.5 times what was announced)"
            await self.expect(PROBLEM, "migrate_out by qmp", "too short", said, advice)

    async def test_overdue(self) -> None:
        self.node.past = past(*[6.0] * 5, outcome="overdue", basis="fixed", kind="freeze")
        await self.expect(PROBLEM, "freeze by qmp", "absences: 5; 100%", "estimates: freeze: 6s, or more")

    async def test_largest_margin(self) -> None:
        """No advice that the configuration refuses."""
        self.node.past = past(*[4000.0] * 5)
        await self.expect(PROBLEM, "migrate_out by qmp", "inactivity.margin to 100 or more")

    async def test_too_short_for_a_few(self) -> None:
        """Too few to judge by, or a small share."""
        self.node.past = past(9.0, 9.0)
        await self.expect(WARNING, "migrate_out by qmp", "absences: 2; 100%")
        self.node.past = past(*[3.0] * 19, 9.0)
        await self.expect(WARNING, "migrate_out by qmp", "absences: 20; 5%")

    async def test_only_just(self) -> None:
        self.node.past = past(5.0, 5.0, 3.0, basis="fixed")
        await self.expect(WARNING, "migrate_out by qmp", "short, though within what is believed", "migrate_out: 5s")

    async def test_far_too_long(self) -> None:
        """Worth a word where somebody can do something about it."""
        self.node.past = past(*[0.3] * 5, basis="configured")
        await self.expect(WARNING, "migrate_out by qmp", "far too long", "migrate_out: 1s would do for nine of ten")
        self.node.past = past(*[0.3] * 5, basis="told")
        await self.expect(WARNING, "migrate_out by qmp", "far too long", "--expect 1s would do")
        self.node.past = past(*[0.3] * 5, basis="learned")
        await self.expect(OK, "migrate_out by qmp")
        self.node.past = past(*[0.3] * 4, basis="fixed")
        await self.expect(OK, "migrate_out by qmp")

    async def test_unsafe(self) -> None:
        self.node.past = past(3.0, 3.0) + past(3.0, confirmed=False, unsafe="too few voters")
        self.node.past += past(3.0, unsafe="not that one", outcome="cancelled")
        await self.expect(
            WARNING, "history", "absences remembered: 4; went ahead though unsafe: 1, the latest: too few voters"
        )

    async def test_history_of_another_version(self) -> None:
        """It is said, and the rest is told."""
        for wrong in (
            {},
            {"margin": 1.5, "absences": [7]},
            {**self.node.history(), "predictions": [{"kind": "freeze"}]},
        ):
            self.patch(self.node, "history", lambda wrong=wrong: wrong)
            await self.expect(WARNING, "history", "is not understood", "the node's own version")


class MachineTests(DoctorCase):
    """The machine that the command runs on."""

    async def test_slept(self) -> None:
        self.patch(doctor, "Clocks", lambda: Clocks(lambda: 5.0, lambda: 65.0))
        await self.expect(WARNING, "clock", "slept for 1m", "logind")

    async def test_no_such_clock(self) -> None:
        boottime = time.CLOCK_BOOTTIME
        del time.CLOCK_BOOTTIME
        self.addCleanup(setattr, time, "CLOCK_BOOTTIME", boottime)
        await self.expect(WARNING, "clock", "no CLOCK_BOOTTIME")

    async def test_stolen(self) -> None:
        self.use_stat(STAT.format(stolen=100))
        await self.expect(WARNING, "processors", "the hypervisor took 10.0 %", "heartbeat.timeout")

    async def test_nobody_knows_what_is_stolen(self) -> None:
        for text in ("", "cpu", "cpu 1 2 3", "cpu a b c d e f g h", "cpu 0 0 0 0 0 0 0 0"):
            self.use_stat(text)
            await self.expect(WARNING, "processors", "does not tell")
        self.patch(doctor, "PROC_STAT", Path(self.mktemp()))
        await self.expect(WARNING, "processors", "does not tell")


class RealMachine(CliCase):
    """Nothing stands for anything else."""

    async def test_this_machine(self) -> None:
        """Whatever it is, something is said about it, and nothing is a problem."""
        out = await self.text("doctor")
        for about in ("clock: ", "processors: "):
            self.assertIn(about, out)


class HistoryTests(CliCase):
    """What past absences took."""

    async def test_empty(self) -> None:
        self.assertEqual((await self.text("inactive", "history")).splitlines()[1:], [])
        self.assertEqual(await self.document("inactive", "history"), self.node.history())

    async def test_history(self) -> None:
        self.node.past = past(3.0, 5.0)
        self.node.past += past(9.0, kind="freeze", source="azure", confirmed=False, unsafe="too few", basis="fixed")
        self.node.past += past(1.0, kind="freeze", source="azure", confirmed=False, outcome="cancelled")
        rows = [line.split() for line in (await self.text("inactive", "history")).splitlines()]
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1)).split()
        node = str(self.node.past[0].member)
        self.assertEqual(rows[1], [*began, node, "migrate_out", "qmp", "4s", "3s", "formula", "confirmed", "done"])
        self.assertEqual([row[-2:] for row in rows[3:5]], [["unsafe", "done"], ["none", "cancelled"]])
        self.assertEqual(rows[-2], ["freeze", "azure", "1", "0", "225%", "0%", "0%", "9s"])
        self.assertEqual(rows[-1], ["migrate_out", "qmp", "2", "0", "100%", "50%", "100%", "5s"])
        self.assertEqual(await self.document("inactive", "history"), self.node.history())

    async def test_last(self) -> None:
        """The table is short unless more is asked for; the figures are of all."""
        self.node.past = [attrs.evolve(each, source=f"s{n}") for n, each in enumerate(past(*[1.0] * 25))]
        for words, first, count in (((), "s5", 20), (("--last", "2"), "s23", 2), (("--last", "0"), "s0", 25)):
            head, _, figures = (await self.text("inactive", "history", *words)).partition("\n\n")
            self.assertEqual((head.splitlines()[1].split()[4], len(head.splitlines()) - 1), (first, count))
            self.assertEqual(len(figures.splitlines()) - 1, 25)

    async def test_another_version(self) -> None:
        for document in ("{}", '{"absences": [1], "predictions": []}', '{"absences": [], "predictions": {}}'):
            await self.fails(3, "inactive", "history", says="is not understood", node=self.answering(document))


class RealNode(unittest.SynchronousTestCase):
    """A node of its own process, with a disk."""

    def vbcast(self, *words: str) -> tuple[int, Any]:
        """Exit code and JSON of a command."""
        command = [sys.executable, "-m", "txvbcast.cli.main", "--json", "--node", self.cluster[1].api.url, *words]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
        return done.returncode, json.loads(done.stdout)

    def test_learns(self) -> None:
        """What absences took is known in its next life, and is what the next one is expected to take."""
        self.cluster = LocalCluster(Path(self.mktemp()).absolute(), 3)
        self.addCleanup(self.cluster.stop)
        self.cluster.start()
        for _ in range(PAST_MIN):
            code, document = self.vbcast("inactive", "run", "--kind", "reboot", "--", "true")
            self.assertEqual(code, 0, document)
            self.cluster.wait_settled()
        self.cluster[1].stop()
        self.cluster[1].start()
        self.cluster.wait_settled()
        _, history = self.vbcast("inactive", "history")
        self.assertEqual([each["basis"] for each in history["absences"]], ["fixed"] * PAST_MIN)
        _, begun = self.vbcast("inactive", "begin", "--kind", "reboot")
        _, listed = self.vbcast("inactive", "list")
        self.assertEqual([each["basis"] for each in listed["changes"]], ["learned"])
        self.assertLess(begun["expected_ms"], history["absences"][0]["announced_ms"])
        self.vbcast("inactive", "end", str(begun["change_id"]))
        self.cluster.wait_settled()
        code, found = self.vbcast("doctor")
        self.assertEqual((code, found["problems"]), (0, 0), found)
        (finding,) = [each for each in found["findings"] if each["about"] == "reboot by operator"]
        self.assertIn(f"absences: {PAST_MIN + 1}", finding["detail"])
