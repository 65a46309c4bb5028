"""``vbcast demo``: one real run, and what it says when promises are broken, which no real run shows."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import yaml
from rich.console import Console
from twisted.internet import reactor
from twisted.trial import unittest

from tests.test_cli import Child, until
from txvbcast.cli import demo, demo_load, demo_show, demo_steps, demo_view
from txvbcast.cli import main as cli
from txvbcast.cli.api import Api
from txvbcast.cli.demo_check import changed_logs, compare
from txvbcast.cli.demo_load import Answer, Client, Commit, Load, Outcome, Write
from txvbcast.cli.demo_steps import How, Plan, broken_promises
from txvbcast.cli.demo_view import Sighting, View, Watch
from txvbcast.cli.failures import Failed
from txvbcast.cli.local import LocalCluster, LocalNode, free_base_port
from txvbcast.cli.tables import console
from txvbcast.errors import StoreError
from txvbcast.store.sqlite import dump
from txvbcast.wire.items import Request, Transaction, pack
from txvbcast.wire.messages import Entry, Flight, FlightId, Mode, Standing, StandingEntry

ROOT = Path(cli.__file__).parent.parent.parent


def serves(config: Path) -> bool:
    """Whether the node of that configuration can be reached."""
    address = yaml.safe_load(config.read_text())["listen"]["http"]
    try:
        Api(f"http://{address}").get("/healthz")
    except Failed:
        return False
    return True


class DemoProcess(Child):
    """What it was started as."""

    process: Any


class RunTests(unittest.TestCase):
    """The command as a process, with real nodes."""

    timeout = 150

    def start(self, *words: str, **environment: str) -> DemoProcess:
        child = DemoProcess()
        command = [sys.executable, "-m", "txvbcast.cli.main", "demo", *words]
        known = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        child.process = reactor.spawnProcess(child, sys.executable, command, known)

        def stop() -> None:
            if not child.done.called:
                child.process.signalProcess("TERM")

        self.addCleanup(stop)
        return child

    async def test_whole(self) -> None:
        directory = Path(self.mktemp()) / "a cluster"
        child = self.start("--json", "--directory", str(directory))
        status = await child.done
        (line,) = child.out.splitlines()
        report = json.loads(line)
        self.assertEqual((status, report["ok"], report["broken"]), (0, True, []), child.err.decode())
        for step, role, how, changes in zip(
            report["steps"],
            ["master", "follower", "follower", "master"],
            ["announced", "announced", "unannounced", "killed"],
            [[2, 1], [], [], [2, 1]],
            strict=True,
        ):
            self.assertEqual((step["role"], step["how"], step["changes"]), (role, how, changes))
            self.assertEqual([step[f"master_{when}"] for when in ("before", "after")], [1, 1])
            self.assertEqual(step["master_during"], changes[0] if changes else 1)
            self.assertGreater(step["commits"], 0)
            self.assertGreater(step["longest_gap_ms"], 0)
            self.assertIsNotNone(step["catch_up_ms"])
        for step in report["steps"][:2]:
            self.assertEqual([step["failed"], step["unknown"], step["repeated"]], [0, 0, 0])
        titles = [text.split()[0] for text in child.err.decode().splitlines() if text.startswith("(")]
        self.assertEqual(titles[:5], ["(a)", "(b)", "(c)", "(d)", "(e)"])
        self.check_left(directory, report["comparison"])

    def check_left(self, directory: Path, comparison: dict[str, Any]) -> None:
        """No node runs any more, and what is on the disks is what was said."""
        logs = [list(dump(directory / f"node{k}")) for k in (1, 2, 3)]
        entries = comparison["entries"]
        self.assertGreater(entries, 100)
        self.assertEqual(logs[0][:entries], logs[1][:entries])
        self.assertEqual(logs[0][:entries], logs[2][:entries])
        transactions = sum(len(entry.flight.items) for entry in logs[0] if entry.flight)
        self.assertGreaterEqual(transactions, comparison["committed"])
        self.assertGreater(comparison["committed"], 100)
        for k in (1, 2, 3):
            self.assertFalse(serves(directory / f"node{k}.yaml"))

    async def test_interrupted(self) -> None:
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        child = self.start("--keep", TMPDIR=str(directory))
        await until(lambda: b"frozen now" in child.out or child.done.called)
        (made,) = directory.iterdir()
        configs = sorted(made.glob("*.yaml"))
        texts = [path.read_text() for path in configs]
        self.assertEqual(len(configs), 3)
        child.process.signalProcess("INT")
        status = await child.done
        self.assertEqual((status, child.err.strip()), (130, b""))
        self.assertIn(b"Interrupted; every node has ended.", child.out)
        self.assertEqual(list(directory.iterdir()), [])
        for text in texts:
            copy = directory / "copy.yaml"
            copy.write_text(text)
            self.assertFalse(serves(copy))


class InProcessTests(unittest.TestCase):
    """The command in this process, with real nodes but fewer or shorter steps."""

    timeout = 60

    def run_here(self, *words: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, the document and the text of ``vbcast demo --json words...``."""
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.multiple(sys, stdout=out, stderr=err):
            code = cli.main(["demo", "--json", *words])
        return code, json.loads(out.getvalue() or "{}"), err.getvalue()

    def test_kept(self) -> None:
        directory = Path(self.mktemp()) / "a cluster"
        with mock.patch.object(demo_show, "plans", lambda nodes: []):
            code, report, text = self.run_here("--keep", "--nodes", "2", "--directory", str(directory))
        nodes = report["cluster"]["nodes"]
        for node in nodes:
            self.addCleanup(os.waitpid, node["pid"], 0)
            self.addCleanup(os.kill, node["pid"], signal.SIGTERM)
        self.assertEqual((code, report["ok"], report["broken"]), (0, True, []), text)
        self.assertGreater(report["comparison"]["committed"], 0)
        self.assertEqual([Api(node["url"]).get("/v1/status").document()["node_id"] for node in nodes], [1, 2])
        self.assertEqual([os.getsid(node["pid"]) for node in nodes], [node["pid"] for node in nodes])
        self.assertIn(f"export VBCAST_NODE={nodes[0]['url']}", text)
        self.assertIn(f"kill {nodes[0]['pid']} {nodes[1]['pid']}", text)
        self.assertIn(f"its files in {directory.absolute()}:", text)

    def test_broken_promises(self) -> None:
        directory = Path(self.mktemp())
        plan = Plan("a", 2, How.ANNOUNCED, is_master=False)

        def log_that_is_damaged(cluster: LocalCluster) -> Any:
            if any(node.process for node in cluster.nodes.values()):
                return logs(cluster)
            raise StoreError("node 2 is damaged")

        logs = LocalCluster.logs
        with (
            mock.patch.object(demo_show, "plans", lambda nodes: [plan]),
            mock.patch.multiple(demo_steps, FREEZE_S=0.2, CONFIRM_S=0.001, PATIENCE_S=0.0),
            mock.patch.object(LocalCluster, "logs", log_that_is_damaged),
        ):
            code, report, text = self.run_here("--nodes", "2", "--directory", str(directory))
        broken = "\n".join(report["broken"])
        self.assertEqual((code, report["ok"]), (1, False))
        self.assertIn("(a) the cluster did not confirm the announcement", broken)
        self.assertIn("(a) not within 0 s: every node is normal again and node 1 is master", broken)
        self.assertIn("a stopped node's log cannot be read: node 2 is damaged", broken)
        self.assertIsNone(report["steps"][0]["catch_up_ms"])
        self.assertIn("BROKEN: (a) the cluster did not confirm", text)
        self.assertIn(f"The nodes' files and logs are in {directory.absolute()}", text)
        self.assertFalse(serves(directory / "node1.yaml"))

    def test_node_that_does_not_start(self) -> None:
        def spoilt(directory: Path, nodes: int) -> LocalCluster:
            cluster = LocalCluster(directory, nodes)
            cluster[2].config.write_text("nonsense")
            return cluster

        directory = Path(self.mktemp())
        with mock.patch.object(demo, "LocalCluster", spoilt):
            code, report, _ = self.run_here("--nodes", "2", "--directory", str(directory))
        (broken,) = report["broken"]
        self.assertEqual((code, report["ok"], report["comparison"]), (1, False, None))
        self.assertIn("it could not be shown to the end: node 2 did not start; the end of ", broken)
        self.assertIn("node2.yaml:1", broken)
        self.assertFalse(serves(directory / "node1.yaml"))

    def test_directory_in_use(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "node1.yaml").touch()
        code, report, text = self.run_here("--directory", str(directory))
        self.assertEqual((code, report), (2, {}))
        self.assertIn("--directory: ", text)
        self.assertIn("node1.yaml: there already", text)

    def test_ended_by_force(self) -> None:
        script = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            process.stdout.readline()
        node = LocalNode(1, Path("c"), Path("d"), Path("l"), Api("http://127.0.0.1:1"), process=process)
        demo.end_nodes([node], 0.05)
        self.assertEqual((process.returncode, node.process), (-signal.SIGKILL, None))
        demo.end_nodes([node], 0.05)

    def test_how_to_call(self) -> None:
        with mock.patch("shutil.which", lambda name: "/usr/bin/vbcast"):
            self.assertEqual(demo.own_command(), "vbcast")
        folder = Path(self.mktemp()) / "an environment"
        folder.mkdir(parents=True)
        with mock.patch("shutil.which", lambda name: None), mock.patch.object(sys, "executable", f"{folder}/python"):
            self.assertEqual(demo.own_command(), f"'{folder}/python' -m txvbcast.cli.main")
            (folder / "vbcast").touch()
            self.assertEqual(demo.own_command(), f"'{folder}/vbcast'")


def write(number: int, outcome: Outcome, seq: int = 0, **facts: Any) -> Write:
    """A write of node 1 that has ended."""
    return Write(number, 1, float(number), outcome, seq, **facts)


def entry(seq: int, *writes: Write) -> Entry:
    """An entry of the log that holds these writes."""
    items = tuple(pack(Transaction("kv", b"", Request.parse(each.request_id))) for each in writes)
    return Entry(seq, 65537, Flight(FlightId(1, 1, seq), Mode.BROADCAST, 0, 1, items))


class CheckTests(unittest.TestCase):
    """What is compared, with one fault at a time."""

    def setUp(self) -> None:
        self.writes = [write(1, Outcome.COMMITTED, 1), write(2, Outcome.COMMITTED, 2), write(3, Outcome.FAILED)]
        self.writes.append(write(4, Outcome.UNKNOWN))
        self.logs = {k: [entry(1, self.writes[0]), entry(2, self.writes[1])] for k in (1, 2)}
        self.states = {k: {each.key: (each.value, each.seq) for each in self.writes[:2]} for k in (1, 2)}

    def broken(self) -> list[str]:
        return list(compare(self.logs, self.states, self.writes).broken)

    def test_nothing_lost(self) -> None:
        found = compare(self.logs, self.states, self.writes)
        self.assertEqual((found.entries, found.committed, found.failed, found.unknown), (2, 2, 1, 1))
        self.assertEqual((found.unknown_there, found.broken), (0, ()))

    def test_unknown_that_happened(self) -> None:
        for state in self.states.values():
            state[self.writes[3].key] = (self.writes[3].value, 3)
        found = compare(self.logs, self.states, self.writes)
        self.assertEqual((found.unknown_there, found.broken), (1, ()))

    def test_other_entry(self) -> None:
        self.logs[2][1] = entry(2, self.writes[0])
        self.assertEqual(self.broken(), ["the logs of nodes 1 and 2 differ at seq 2"])

    def test_shorter_log(self) -> None:
        self.logs[2].append(entry(3))
        self.assertEqual(self.broken(), ["the logs of nodes 1 and 2 differ at seq 3"])

    def test_gap(self) -> None:
        for log in self.logs.values():
            log.append(entry(4))
        self.assertEqual(self.broken(), ["the logs of nodes 1 and 2 differ at seq 3"])

    def test_key_missing_on_one(self) -> None:
        del self.states[2]["demo/1/000002"]
        self.assertEqual(
            self.broken(),
            [
                "nodes 1 and 2 differ in 1 keys, first demo/1/000002",
                "a client heard that demo/1/000002 is 'value 2' of version 2: node 2 has no such key",
            ],
        )

    def test_later_effect(self) -> None:
        for state in self.states.values():
            state["demo/1/000002"] = ("value 2", 7)
        self.assertIn("node 1 has 'value 2' of version 7", self.broken()[0])

    def test_earlier_effect(self) -> None:
        self.writes[1].found_version = 1
        self.assertEqual(self.broken(), ["demo/1/000002 took effect twice: at seq 2 it had the version 1"])

    def test_not_in_the_log(self) -> None:
        self.logs = {k: [log[0], entry(2)] for k, log in self.logs.items()}
        self.assertEqual(self.broken(), ["a client heard that demo/1/000002 is at seq 2 of the log: it is not there"])

    def test_failed_but_there(self) -> None:
        for state in self.states.values():
            state[self.writes[2].key] = (self.writes[2].value, 2)
        told = "a client heard that demo/1/000003 did not happen: node"
        self.assertEqual(self.broken(), [f"{told} 1 has it", f"{told} 2 has it"])

    def test_key_of_nobody(self) -> None:
        for state in self.states.values():
            state["demo/x"] = ("", 2)
        self.assertEqual(self.broken(), [f"node {k} has demo/x, which no client wrote" for k in (1, 2)])

    def test_many_findings(self) -> None:
        self.states = {1: {}, 2: {}}
        self.writes = [write(number, Outcome.COMMITTED, 1) for number in range(1, 6)]
        self.assertEqual(self.broken()[5:], ["and 9 more like these"])

    def test_stopped(self) -> None:
        standing = Entry(3, 65537, standing=StandingEntry(1, Standing.INACTIVE, True, 1, 0))
        after = {k: [*log, standing] for k, log in self.logs.items()}
        self.assertEqual(changed_logs(self.logs, after), [])
        after[2] = [entry(1), *self.logs[2][1:], entry(3)]
        self.assertEqual(
            changed_logs(self.logs, after),
            [
                "the log of node 2 is another one at seq 1 since the node was stopped",
                "node 2 has a flight at seq 3 that nobody had handed in",
            ],
        )
        after = {1: self.logs[1], 2: self.logs[2][:1]}
        self.assertIn("the log of node 2 is another one at seq 2", changed_logs(self.logs, after)[0])


class StrayTests(unittest.TestCase):
    """Writes that fell due between the absences."""

    def test_not_committed(self) -> None:
        cluster = LocalCluster(Path(self.mktemp()), 2)
        show = demo_show.Show(cluster, Console(file=io.StringIO()))
        show.load.writes = [write(1, Outcome.COMMITTED, 1), write(2, Outcome.FAILED, reason="aborted: x")]
        told = "with every node normal a client of node 1 heard of demo/1/000002: aborted: x"
        self.assertEqual(show.strays(), [told])
        show.of_absences.add(show.load.writes[1])
        self.assertEqual(show.strays(), [])


class PromiseTests(unittest.TestCase):
    """What an announced absence is held to."""

    leader = Plan("a", 1, How.ANNOUNCED, is_master=True)
    follower = Plan("b", 2, How.ANNOUNCED, is_master=False)
    done = write(1, Outcome.COMMITTED, 1)

    def masters(self, *ids: int) -> list[dict[str, Any]]:
        return [{"kind": "master_changed", "node_id": k, "master": k, "reason": ""} for k in ids]

    def test_kept(self) -> None:
        events = {1: self.masters(2, 1), 2: self.masters(2, 1)}
        self.assertEqual(broken_promises(self.leader, [self.done], events), [])
        self.assertEqual(broken_promises(self.follower, [self.done], {1: [], 2: []}), [])

    def test_writes(self) -> None:
        bad = [
            write(2, Outcome.FAILED, reason="aborted: x"),
            write(3, Outcome.UNKNOWN, reason="outcome-unknown: y"),
            write(4, Outcome.COMMITTED, 1, repeats=1, reason="outcome-unknown: z"),
        ]
        found = broken_promises(self.follower, [self.done, *bad], {})
        self.assertEqual([text[-1] for text in found], ["x", "y", "z"])
        self.assertEqual(found[0], "a client of node 1 heard of demo/1/000002: aborted: x")

    def test_taken_for_failed(self) -> None:
        event = {"kind": "node_failed", "node_id": 3, "reason": "silent for 800 ms"}
        found = broken_promises(self.follower, [], {1: [], 2: [event]})
        self.assertEqual(found, ["node 2 took node 3 for failed: silent for 800 ms"])

    def test_masters(self) -> None:
        for ids in [(), (2,), (2, 3), (2, 3, 1)]:
            found = broken_promises(self.leader, [], {2: self.masters(*ids)})
            self.assertEqual(len(found), 1, ids)
            self.assertIn("one change of master there and one back: node 2 saw", found[0])
        found = broken_promises(self.follower, [], {1: self.masters(3, 1)})
        self.assertEqual(found, ["there was to be no change of master: node 1 saw [3, 1]"])


class Canned(BaseHTTPRequestHandler):
    """Answers every PUT as :attr:`answer` says; None closes the connection."""

    protocol_version = "HTTP/1.1"
    answer: ClassVar[Callable[[], bytes | None]]

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        content = type(self).answer()
        if content is None:
            self.close_connection = True
            return
        self.send_response(200 if content.startswith(b'{"seq"') else 500)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


COMMITTED = b'{"seq": 7, "found_version": 0}'
DETAIL = b'{"type": "urn:txvbcast:error:%s", "detail": "because"}'


class LoadTests(unittest.TestCase):
    """What clients do with every kind of answer."""

    timeout = 30

    def node(self, answer: bytes | None | Callable[[], bytes | None]) -> tuple[str, int]:
        """The address of a node that gives this answer."""
        call = staticmethod(answer if callable(answer) else lambda: answer)
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Canned,), {"answer": call}))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        self.addCleanup(server.server_close)
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)
        return "127.0.0.1", server.server_address[1]

    def nowhere(self) -> tuple[str, int]:
        """An address where nobody listens."""
        return "127.0.0.1", free_base_port(1) + 10

    def put(self, address: tuple[str, int]) -> Answer:
        return Client({1: address}).put(1, Write(1, 1, 0.0))

    def test_answers(self) -> None:
        self.assertEqual(self.put(self.node(COMMITTED)), Answer("committed", 7, 0))
        self.assertEqual(self.put(self.node(DETAIL % b"aborted")), Answer("aborted", reason="because"))
        self.assertEqual(self.put(self.nowhere()).kind, "unreachable")
        for strange in (None, b"nonsense", b"[]", b"{}"):
            self.assertEqual(self.put(self.node(strange)).kind, "outcome-unknown", strange)

    def test_connection_anew(self) -> None:
        answers: Iterator[bytes | None] = iter([None, COMMITTED, COMMITTED])
        client = Client({1: self.node(lambda: next(answers))})
        kinds = [client.put(1, Write(1, 1, 0.0)).kind for _ in range(3)]
        self.assertEqual(kinds, ["outcome-unknown", "committed", "committed"])

    def carried_out(self, first: tuple[str, int], second: tuple[str, int]) -> tuple[Load, list[Write]]:
        """Writes to two nodes, and those whose home is the first."""
        with mock.patch.object(demo_load, "CLIENTS_PER_NODE", 2):
            load = Load({1: first, 2: second}, patience_s=0.2)
            load.start()
            while len(load.writes) < 6:
                time.sleep(0.005)
            load.stop()
            load.join()
        self.assertEqual([load.waiting(1), load.waiting(2)], [0, 0])
        return load, [each for each in load.writes if each.home == 1]

    def check(self, first: Any, second: Any, outcome: Outcome, reason: str, is_repeated: bool) -> None:
        load, writes = self.carried_out(first, second)
        for each in writes:
            self.assertEqual((each.outcome, each.repeats > 0), (outcome, is_repeated))
            self.assertIn(reason, each.reason)
        commits = [each for each in load.writes if each.outcome is Outcome.COMMITTED]
        self.assertEqual(len(load.commits), len(commits))
        self.assertEqual({each.seq for each in commits}, {7} if commits else set())

    def test_committed(self) -> None:
        self.check(self.node(COMMITTED), self.node(COMMITTED), Outcome.COMMITTED, "", False)

    def test_failed(self) -> None:
        node = self.node(DETAIL % b"no-quorum")
        self.check(node, self.node(COMMITTED), Outcome.FAILED, "no-quorum: because", False)

    def test_unreachable(self) -> None:
        self.check(self.nowhere(), self.node(COMMITTED), Outcome.COMMITTED, "", False)
        self.check(self.nowhere(), self.nowhere(), Outcome.FAILED, "unreachable: ", False)

    def test_unknown_at_first(self) -> None:
        self.check(self.node(None), self.node(COMMITTED), Outcome.COMMITTED, "outcome-unknown", True)

    def test_unknown_to_the_end(self) -> None:
        unknown, refused = self.node(DETAIL % b"outcome-unknown"), self.node(DETAIL % b"aborted")
        self.check(unknown, refused, Outcome.UNKNOWN, "because", True)

    def test_pause_when_too_many_wait(self) -> None:
        load = Load({1: self.nowhere()})
        with mock.patch.multiple(demo_load, WAITING_MAX=0, WRITES_PER_S=1000.0):
            load.start()
            time.sleep(0.02)
            load.stop()
            load.join()
        self.assertEqual(load.writes, [])

    def test_created(self) -> None:
        load = Load({1: self.nowhere()})
        load.writes = [write(number, Outcome.FAILED) for number in range(1, 6)]
        self.assertEqual([each.number for each in load.created(2.0, 4.0)], [2, 3])

    def test_longest_gap(self) -> None:
        load = Load({1: self.nowhere()})
        load.commits = [Commit(time_s, by) for time_s, by in [(1.0, 1), (2.0, 2), (4.0, 1), (4.5, 2), (9.0, 1)]]
        for begin_s, end_s, absent, gap_s in [
            (1.0, 2.0, 0, 1.0),
            (2.5, 3.0, 0, 2.0),  # reaches into it from both sides
            (4.0, 4.4, 0, 0.5),
            (1.0, 4.5, 1, 2.5),
            (5.0, 20.0, 0, 11.0),
            (0.0, 1.0, 0, 1.0),
            (20.0, 21.0, 0, 12.0),
            (0.0, 5.0, 2, 5.0),
        ]:
            self.assertEqual(load.longest_gap_s(begin_s, end_s, absent), gap_s, (begin_s, end_s, absent))
        load.commits = []
        self.assertEqual(load.longest_gap_s(1.0, 3.0), 2.0)


class ViewTests(unittest.TestCase):
    """What is shown while it runs."""

    def view(self, out: Console) -> View:
        watch = Watch({k: Api("http://127.0.0.1:1") for k in (2, 1)})
        members = [
            {"node_id": 1, "standing": "inactive", "kind": "freeze", "expected_ms": 4000, "remaining_ms": 2000},
            {"node_id": 2, "standing": "normal", "kind": None},
        ]
        old = [{**members[1], "node_id": 1}, {**members[1], "standing": "failed"}]
        for k, epoch, lines in [(1, 1, old), (2, 2, members)]:
            document = {"node_id": k, "epoch": epoch, "master": k, "committed": 70 + k, "members": lines}
            watch.sightings[k] = Sighting(time.monotonic(), document)
        load = Load(dict.fromkeys((1, 2), ("127.0.0.1", 1)))
        load.commits = [Commit(time.monotonic(), 2)] * 5
        view = View(out, watch, load, (1, 2))
        view.processes[1] = "frozen"
        self.assertIsNone(watch.master())
        self.assertEqual(set(watch.fresh(time.monotonic())), set())
        return view

    def test_terminal(self) -> None:
        out = io.StringIO()
        view = self.view(Console(file=out, force_terminal=True, color_system=None, width=120))
        with view.shown():
            view.say("it happens")
        text = out.getvalue()
        self.assertIn("it happens", text)
        row = next(line for line in text.splitlines() if "frozen" in line)
        self.assertEqual(" ".join(row.split()), "1 frozen inactive 2.0s left 1 71 0 0")
        row = next(line for line in text.splitlines() if "starting" in line)
        self.assertEqual(" ".join(row.split()), "2 starting normal master 2 72 5 0")

    def test_elsewhere(self) -> None:
        out = io.StringIO()
        view = self.view(Console(file=out, width=200))
        with mock.patch.object(demo_view, "LINE_EVERY_S", 0.01), view.shown():
            while not out.getvalue():
                time.sleep(0.005)
        line = out.getvalue().splitlines()[0]
        self.assertIn("5 commits/s, 5 so far; node 1 frozen, inactive (2.0s left);", line)
        self.assertTrue(line.endswith("node 2 starting, normal (master)"), line)

    def test_closed_pipe(self) -> None:
        """The thread that writes lines ends quietly; whoever writes next meets the closed pipe."""
        reading, writing = os.pipe()
        os.close(reading)
        raised: list[object] = []
        with open(writing, "w", buffering=1) as closed, mock.patch.object(sys, "stdout", closed):
            view = self.view(console())
            with (
                mock.patch.object(threading, "excepthook", raised.append),
                mock.patch.object(demo_view, "LINE_EVERY_S", 0.01),
                view.shown(),
            ):
                while any(thread.name == "demo-lines" for thread in threading.enumerate()):
                    time.sleep(0.005)
            self.assertRaises(BrokenPipeError, view.say, "x")
            forget(closed)
        self.assertEqual(raised, [])


def forget(stream: Any) -> None:
    """What the stream still holds need not be written."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, stream.fileno())
    os.close(nothing)
