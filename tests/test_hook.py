"""``vbcast hook libvirt``: what it tells the node, what it leaves behind, and that it never holds a guest too long."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.test_cli import CliCase, until
from txvbcast.absences import Notice
from txvbcast.cli import hook

XML = b"<domain type='qemu'><name>g1</name><memory unit='KiB'>2048</memory></domain>"
REFUSED = "node 2 is away until 12:00"


class HookCase(CliCase):
    """The hook with a folder for its notes."""

    def setUp(self) -> None:
        super().setUp()
        self.state = Path(self.mktemp()).absolute() / "deeper"

    async def hook(
        self, *words: str, options: tuple[str, ...] = (), stdin: bytes = XML, node: str | None = None
    ) -> tuple[int, str]:
        """Exit code and stderr for a moment, as ``migrate begin``; libvirt takes stdout for the guest's description."""
        line = ("hook", "libvirt", "--state", str(self.state), *options, "--", "g1", *words, "-")
        code, out, err = await self.run_here(*line, stdin=stdin, node=node)
        self.assertEqual(out, b"")
        return code, err

    def notes(self) -> list[str]:
        return sorted(path.name for path in self.state.glob("*"))

    def outcomes(self) -> list[str | None]:
        return [record["outcome"] for record in self.node.absences.records]


class BeginTests(HookCase):
    """A guest is about to come."""

    async def test_announces(self) -> None:
        for moment in ("migrate", "restore"):
            self.assertEqual(await self.hook(moment, "begin"), (0, ""))
            kind, expected_s, facts, _, _, hold_s, member = self.node.asked[-1]
            self.assertEqual((kind, expected_s, hold_s, member), ("migrate_in", None, 4.0, None))
            self.assertEqual(facts, {"guest": "g1", "memory_bytes": 2048 * 1024})
            self.assertEqual(self.notes(), ["g1.json"])

    async def test_options(self) -> None:
        await self.hook("migrate", "begin", options=("--bound", "10s", "--expect", "3s"))
        _, expected_s, _, _, _, hold_s, _ = self.node.asked[-1]
        self.assertEqual((expected_s, hold_s), (3.0, 8.0))
        self.patch(os, "environ", {**os.environ, "VBCAST_HOOK_BOUND": "20s"})
        await self.hook("migrate", "begin")
        self.assertEqual(self.node.asked[-1][5], 16.0)

    async def test_description_that_says_nothing(self) -> None:
        for stdin in (b"", b"<domain/>", b"<domain", b"<d><memory unit='KiB'>x</memory></d>", b"\xff" * 100):
            self.assertEqual(await self.hook("migrate", "begin", stdin=stdin), (0, ""))
            self.assertEqual(self.node.asked[-1][2], {"guest": "g1"})

    async def test_not_confirmed(self) -> None:
        """It goes on all the same; the announcement stands."""
        for answer, says in (("silent", "did not confirm in time"), (REFUSED, f"cannot afford it: {REFUSED}")):
            self.node.answer = answer
            code, err = await self.hook("migrate", "begin")
            self.assertEqual(code, 0)
            self.assertIn(f"g1 moves in all the same: the cluster {says}", err)
        self.assertEqual(self.outcomes(), [None, None])
        self.assertEqual(self.notes(), ["g1.json"])

    async def test_veto(self) -> None:
        """Only the cluster's No refuses a guest; nobody's silence does."""
        self.node.answer = REFUSED
        code, err = await self.hook("migrate", "begin", options=("--veto",))
        self.assertEqual(code, 1)
        self.assertIn(f"g1 is refused: the cluster cannot afford it: {REFUSED}", err)
        self.assertEqual((self.outcomes(), self.notes()), (["cancelled"], []))
        self.node.answer = "silent"
        self.assertEqual((await self.hook("migrate", "begin", options=("--veto",)))[0], 0)
        code, _ = await self.hook("migrate", "begin", options=("--veto",), node="http://127.0.0.1:1")
        self.assertEqual(code, 0)

    async def test_nobody_there(self) -> None:
        code, err = await self.hook("migrate", "begin", node="http://127.0.0.1:1")
        self.assertEqual((code, self.notes()), (0, []))
        self.assertIn("g1 moves in without the cluster's word: cannot reach http://127.0.0.1:1", err)

    async def test_node_that_hangs(self) -> None:
        """Neither longer than the bound, nor a moment of what the command line otherwise grants a node."""
        connections: list[Protocol] = []

        class Silent(Protocol):
            def connectionMade(self) -> None:
                connections.append(self)

        node = f"http://127.0.0.1:{self.listen(Factory.forProtocol(Silent))}"
        code, err = await self.hook("migrate", "begin", options=("--bound", "200ms"), node=node)
        self.assertEqual((code, self.notes()), (0, []))
        self.assertIn("the node did not answer within 200ms", err)
        (connection,) = connections
        connection.transport.loseConnection()

    async def test_answers_that_make_no_sense(self) -> None:
        for node in (self.canned(b"garbage\r\n\r\n"), self.answering("{}"), self.answering("[]"), self.canned(b"")):
            code, err = await self.hook("migrate", "begin", node=node)
            self.assertEqual((code, self.notes()), (0, []))
            self.assertIn("g1 moves in without the cluster's word", err)

    async def test_no_room_for_a_note(self) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        self.state.write_text("in the way")
        code, err = await self.hook("migrate", "begin")
        self.assertEqual(code, 0)
        self.assertIn("g1: what was announced cannot be noted", err)


class EndTests(HookCase):
    """What becomes of a guest that was announced."""

    async def test_does_not_come(self) -> None:
        for moment in ("stopped", "release"):
            await self.hook("migrate", "begin")
            self.assertEqual(await self.hook(moment, "end"), (0, ""))
        self.assertEqual((self.outcomes(), self.notes()), (["failed", "failed"], []))

    async def test_restored(self) -> None:
        """When a restored guest has started it is complete."""
        await self.hook("restore", "begin")
        await self.hook("started", "begin")
        self.assertEqual((self.outcomes(), self.notes()), (["done"], []))

    async def test_not_announced(self) -> None:
        """Other guests start and stop all the time."""
        for moment in (("prepare", "begin"), ("start", "begin"), ("started", "begin"), ("stopped", "end"), ("x", "y")):
            self.assertEqual(await self.hook(*moment, node="http://127.0.0.1:1"), (0, ""))
        self.assertEqual(self.node.asked, [])

    async def test_notes_that_make_no_sense(self) -> None:
        self.state.mkdir(parents=True)
        for text in ("", "[]", '{"change_id": 1}', '{"change_id": 1, "moment": "m", "more": 2}', "\x00"):
            (self.state / "g1.json").write_text(text)
            self.assertEqual(await self.hook("stopped", "end", node="http://127.0.0.1:1"), (0, ""))

    async def test_old_notes(self) -> None:
        """The node may have been started since, and give the number to another change."""
        await self.hook("migrate", "begin")
        os.utime(self.state / "g1.json", (0, 0))
        await self.hook("stopped", "end")
        self.assertEqual(self.outcomes(), [None])

    async def test_over_already(self) -> None:
        """Its time was over: that is no news."""
        await self.hook("migrate", "begin")
        self.node.absences.end(1, "failed")
        self.assertEqual(await self.hook("stopped", "end"), (0, ""))

    async def test_cannot_be_told(self) -> None:
        await self.hook("migrate", "begin")
        code, err = await self.hook("stopped", "end", node="http://127.0.0.1:1")
        self.assertEqual((code, self.notes()), (0, []))
        self.assertIn("g1: the node does not know that change 1 is over: cannot reach", err)


class HandOverTests(HookCase):
    """A migration that goes well: no hook tells its end, but the node's own adapter does."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(hook, "HANDOVER_PAUSE_S", 0.01)

    def hand_over(self) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.run_here("hook", "hand-over", "--state", str(self.state), "--", "g1"))

    async def begin(self) -> None:
        await self.hook("migrate", "begin")

    def announce(self, kind: str, source: str) -> None:
        self.node.absences.hold(Notice(kind, {}, source, False))

    async def test_taken_over(self) -> None:
        """By the adapter's migration that began later, and by nothing else."""
        self.announce("migrate_in", "libvirt")
        await self.begin()
        self.announce("snapshot", "libvirt")
        self.announce("migrate_in", "operator")
        waiting = self.hand_over()
        await deferLater(reactor, 0.1)
        self.assertFalse(waiting.called)
        self.announce("migrate_in", "libvirt-2")
        self.assertEqual(await waiting, (0, b"", ""))
        self.assertEqual((self.outcomes(), self.notes()), ([None, "done", None, None, None], []))

    async def test_nobody_takes_over(self) -> None:
        """Then it is left to its time."""
        self.patch(hook, "HANDOVER_S", 0.05)
        await self.begin()
        await self.hand_over()
        self.assertEqual((self.outcomes(), self.notes()), ([None], []))

    async def test_ends_meanwhile(self) -> None:
        await self.begin()
        waiting = self.hand_over()
        await self.hook("stopped", "end")
        await waiting
        self.assertEqual((self.outcomes(), self.notes()), (["failed"], []))

    async def test_node_is_away_meanwhile(self) -> None:
        self.patch(hook, "HANDOVER_S", 0.05)
        await self.begin()
        line = ("hook", "hand-over", "--state", str(self.state), "--", "g1")
        self.assertEqual((await self.run_here(*line, node="http://127.0.0.1:1"))[0], 0)
        self.assertEqual(self.notes(), [])

    async def test_is_not_waited_for(self) -> None:
        """libvirt goes on when the guest has started; another process waits."""
        await self.begin()
        self.assertEqual(await self.hook("started", "begin"), (0, ""))
        self.assertEqual(self.outcomes(), [None])
        self.announce("migrate_in", "libvirt")
        await until(lambda: self.outcomes() == ["done", None])
        await until(lambda: self.notes() == [])


class InstallTests(HookCase):
    """The script that libvirt runs."""

    def setUp(self) -> None:
        super().setUp()
        self.path = Path(self.mktemp()).absolute() / "qemu.d" / "vbcast"

    async def install(self, *options: str, node: str | None = None) -> tuple[int, bytes, str]:
        line = ("hook", "libvirt", "--install", "--path", str(self.path), "--state", str(self.state), *options)
        return await self.run_here(*line, node=node)

    async def run_script(self, *words: str) -> tuple[int, bytes, str]:
        """As libvirt does: with hardly an environment."""

        def run() -> subprocess.CompletedProcess[bytes]:
            environment = {"PATH": "/usr/bin:/bin", "HOME": "/", "LC_ALL": "C"}
            return subprocess.run([self.path, *words], input=XML, capture_output=True, env=environment, timeout=60)

        ran = await deferToThread(run)
        return ran.returncode, ran.stdout, ran.stderr.decode()

    async def test_does_it(self) -> None:
        code, out, err = await self.install("--bound", "10s", "--expect", "3s")
        self.assertEqual((code, err), (0, ""))
        self.assertIn(f"{self.path} is written; restart libvirt's daemon".encode(), out)
        self.assertEqual(await self.run_script("g1", "migrate", "begin", "-"), (0, b"", ""))
        self.assertEqual((self.node.asked[-1][1], self.node.asked[-1][5]), (3.0, 8.0))
        self.assertEqual(await self.run_script("g1", "stopped", "end", "-"), (0, b"", ""))
        self.assertEqual(self.outcomes(), ["failed"])

    async def test_names_that_look_like_options(self) -> None:
        await self.install()
        self.assertEqual(await self.run_script("--help", "migrate", "begin", "-"), (0, b"", ""))
        self.assertEqual(self.node.asked[-1][2]["guest"], "--help")

    async def test_does_not_ask_for_nothing(self) -> None:
        """No Python is started for guests that nobody has announced."""
        await self.install()
        script = self.path.read_text()
        self.path.write_text(script.replace(str(Path(hook._program())), "/nonexistent"))
        for moment in (("prepare", "begin"), ("started", "begin"), ("stopped", "end"), ("release", "end")):
            self.assertEqual(await self.run_script("g1", *moment, "-"), (0, b"", ""))
        self.assertIn("/nonexistent", (await self.run_script("g1", "migrate", "begin", "-"))[2])

    async def test_exit_codes(self) -> None:
        """Whatever happens to the program, only a veto refuses a guest."""
        self.node.answer = REFUSED
        for options, code in (((), 0), (("--veto",), 1)):
            await self.install(*options)
            self.assertEqual((await self.run_script("g1", "migrate", "begin", "-"))[0], code)
            self.path.write_text(self.path.read_text().replace("--bound", "--bounds"))  # a usage error
            self.assertEqual((await self.run_script("g1", "migrate", "begin", "-"))[0], 0)

    async def test_again(self) -> None:
        """What it has written it replaces, and nothing else."""
        await self.install()
        self.assertEqual((await self.install("--veto"))[0], 0)
        self.assertIn("--veto", self.path.read_text())
        self.path.write_text("#!/bin/sh\n# somebody's own\n")
        code, _, err = await self.install()
        self.assertEqual(code, 2)
        self.assertIn("is there already and was not written by this command", err)

    async def test_cannot_write(self) -> None:
        self.path.parent.parent.mkdir(parents=True, exist_ok=True)
        self.path.parent.write_text("a file")
        code, _, err = await self.install()
        self.assertEqual(code, 2)
        self.assertIn("--path: cannot write", err)

    async def test_words(self) -> None:
        """By hand, one may forget some."""
        code, _, err = await self.run_here("hook", "libvirt", "g1", "migrate")
        self.assertEqual(code, 2)
        self.assertIn("the four words of libvirt's hooks", err)

    async def test_json(self) -> None:
        _, out, _ = await self.install("--json")
        self.assertEqual(json.loads(out), {"path": str(self.path)})
