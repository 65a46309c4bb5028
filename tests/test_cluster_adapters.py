"""Nodes that are told of changes, by programs and by each other: real processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import ClusterCase
from txvbcast.cli.local import LocalNode

PATIENCE_S = 30.0


class AdaptersCase(ClusterCase):
    """A cluster whose node 3 has an adapter."""

    def configure(self, node: LocalNode, **adapter: Any) -> None:
        """Give a node an adapter."""
        document = yaml.safe_load(node.config.read_text())
        document["adapters"] = [adapter]
        node.config.write_text(yaml.safe_dump(document))

    def adapter(self, node_id: int) -> dict[str, Any]:
        """The state of a node's one adapter."""
        status = self.cluster[node_id].status()
        assert status is not None
        (document,) = status["adapters"]
        return dict(document)

    def standing(self, of: int) -> str:
        """Of a member, as the master sees it."""
        status = self.cluster[1].status()
        assert status is not None
        return str(status["members"][of - 1]["standing"])


class Told(AdaptersCase):
    """A program tells node 3."""

    def begin(self) -> None:
        """Start the cluster; the program prints what is written to a file."""
        self.make()
        self.words = self.cluster.directory / "words"
        self.words.touch()
        argv = ["tail", "-n", "+1", "-f", str(self.words)]
        self.configure(self.cluster[3], plugin="command", options={"argv": argv})
        self.run_cluster()

    def say(self, **event: Any) -> None:
        """Let the program print an event."""
        with self.words.open("a") as words:
            words.write(json.dumps(event) + "\n")

    def test_change(self) -> None:
        """The node leaves, and comes back when it is over; nobody waits, nobody is missed."""
        self.begin()
        with self.load(1, 2) as load:
            load.wait_committed(50)
            self.say(event="begin", id="a", kind="snapshot", facts={"expected_s": 60})
            self.wait_until("node 3 is inactive", lambda: self.standing(3) == "inactive")
            load.wait_committed(100)
            self.assertEqual(self.adapter(3)["under_way"], ["a"])
            self.say(event="end", id="a", outcome="done")
            self.wait_home()
            load.wait_committed(50)
        self.assert_all_committed(load)
        self.assertEqual(self.events(1, "node_failed"), [])
        (gone,) = self.events(1, "node_inactive")
        self.assertEqual((gone["node_id"], gone["change_kind"], gone["expected_ms"]), (3, "snapshot", 60_000))
        (past,) = self.cluster[3].api.get("/v1/inactive/history").field("absences", list)
        self.assertEqual((past["source"], past["outcome"], past["basis"]), ("command", "done", "platform"))

    def test_program_that_ends(self) -> None:
        """It is started again; meanwhile the node is as it was, and says what is missing."""
        self.make()
        self.configure(self.cluster[3], plugin="command", options={"argv": ["false"]})
        self.run_cluster()
        self.wait_until("the adapter is lost", lambda: self.adapter(3)["state"] == "lost")
        self.assertIn("false", self.adapter(3)["problem"])
        self.assertEqual(self.standing(3), "normal")


class ThirdParty(AdaptersCase):
    """An operator of node 2 speaks of node 3."""

    def test_member_that_is_stopped(self) -> None:
        """It is not failed, although it could not say a word itself."""
        self.start()
        with self.load(1, 2) as load:
            load.wait_committed(50)
            self.cluster[3].freeze()
            body = {"kind": "freeze", "expected_ms": 60_000, "member": 3}
            answer = self.cluster[2].api.send("POST", "/v1/inactive", body=body)
            self.assertTrue(answer.field("confirmed", bool), answer.document())
            began_s = time.monotonic()
            while time.monotonic() - began_s < 2.0:  # longer than the silence that makes a member failed
                load.wait_committed(20)
            self.cluster[3].thaw()
            self.wait_home()
            load.wait_committed(50)
        self.assert_all_committed(load)
        self.assertEqual(self.events(1, "node_failed"), [])
        (gone,) = self.events(1, "node_inactive")
        self.assertEqual((gone["node_id"], gone["source"]), (3, "node 2: operator"))


class Turns(AdaptersCase):
    """Two operators at once."""

    def run_command(self, node_id: int, command: str) -> subprocess.Popen[bytes]:
        """``vbcast inactive run`` on a node."""
        words = [sys.executable, "-m", "txvbcast.cli.main", "--node", self.cluster[node_id].api.url]
        words += ["inactive", "run", "--kind", "snapshot", "--expect", "5s", "--wait", "30s", "--", "sh", "-c", command]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def test_one_after_the_other(self) -> None:
        """Both commands are run, and not at the same time."""
        cluster = self.start()
        notes = cluster.directory / "notes"
        command = f"echo begin >> '{notes}'; sleep 1; echo end >> '{notes}'"
        running = [self.run_command(node_id, command) for node_id in (2, 3)]
        said = [process.communicate(timeout=PATIENCE_S)[0] for process in running]
        self.assertEqual([process.returncode for process in running], [0, 0], said)
        self.assertEqual(Path(notes).read_text().split(), ["begin", "end", "begin", "end"])
        self.wait_home()
        self.assertEqual(self.events(1, "node_failed"), [])


class Generation(AdaptersCase):
    """A machine that is not the one that it was."""

    def test_reverted_machine(self) -> None:
        """The node stops at once and says why; it does not start again on its old disk."""
        self.make()
        generation = self.cluster.directory / "generation"
        generation.write_text("one\n")
        self.configure(self.cluster[3], plugin="pause", options={"generation_files": [str(generation)]})
        self.run_cluster()
        generation.write_text("two\n")
        node, said = self.cluster[3], "was reverted to an earlier state, or cloned"
        self.end_by_itself(node)
        before = node.log.read_text()
        self.assertIn(said, before)
        node.start()
        self.end_by_itself(node)
        after = node.log.read_text()[len(before) :]
        self.assertIn(said, after)
        self.assertNotIn("the link to", after)
        (node.data_dir / "pause.json").unlink()  # as it is told for the one machine that is still itself
        node.log.unlink()  # what was said in it was looked at: a node's log ends a test well without such words
        self.restart(3)
        self.wait_home()

    def end_by_itself(self, node: LocalNode) -> None:
        """Wait for the end of a process that nobody has ended."""
        assert node.process is not None
        self.assertEqual(node.process.wait(PATIENCE_S), 1)
        node.process = None
