"""The house itself: plugin, packages, pins and scripts."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins
from twisted.trial import unittest

ROOT = Path(__file__).parent.parent


def imported(path: Path) -> set[str]:
    """The modules, and names in modules, that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


class PluginTests(unittest.TestCase):
    """twistd finds ``vbcast``, whatever state txvbcast is in."""

    def test_found(self) -> None:
        makers = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "vbcast"]
        self.assertEqual([maker.module for maker in makers], ["txvbcast.tap"])

    def test_imports_nothing_of_ours(self) -> None:
        path = ROOT / "twisted" / "plugins" / "txvbcast_plugin.py"
        self.assertEqual(imported(path), {"twisted.application.service.ServiceMaker"})

    def test_the_folders_are_no_packages(self) -> None:
        """An ``__init__.py`` there would hide or overwrite Twisted's own."""
        self.assertEqual(list((ROOT / "twisted").rglob("__init__.py")), [])


class WheelTests(unittest.TestCase):
    """What an installation gets."""

    def test_contents(self) -> None:
        source, target = Path(self.mktemp()), Path(self.mktemp()).absolute()
        ignored = shutil.ignore_patterns("__pycache__", "dropin.cache")
        for folder in ("txvbcast", "twisted"):
            shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
        for file in ("setup.py", "pyproject.toml"):
            shutil.copy(ROOT / file, source)
        build = f"from setuptools.build_meta import build_wheel; build_wheel({str(target)!r})"
        made = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, timeout=300)
        self.assertEqual(made.returncode, 0, made.stdout + made.stderr)
        (wheel,) = target.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
            (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
            self.assertIn("vbcast = txvbcast.cli.main:main", archive.read(entry_points).decode())
        expected = {str(path.relative_to(source)) for path in (source / "txvbcast").rglob("*") if path.is_file()}
        self.assertEqual(names, expected | {"twisted/plugins/txvbcast_plugin.py"})


class PinsTests(unittest.TestCase):
    """requirements.txt and pyproject.toml go together."""

    def setUp(self) -> None:
        self.project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        lines = (ROOT / "requirements.txt").read_text().splitlines()
        pins = [Requirement(line) for line in lines if not line.startswith("#")]
        self.pins = {pin.name: str(pin.specifier) for pin in pins}

    def test_every_range_holds_its_pin(self) -> None:
        pins = {canonicalize_name(name): version.removeprefix("==") for name, version in self.pins.items()}
        for text in [*self.project["dependencies"], *self.project["optional-dependencies"]["dev"]]:
            wanted = Requirement(text)
            self.assertIn(canonicalize_name(wanted.name), pins)
            self.assertTrue(wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text)

    def test_only_pins(self) -> None:
        for name, version in self.pins.items():
            self.assertRegex(f"{name}{version}", r"^[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*$")
        self.assertNotIn("txvbcast", self.pins)


class LayersTests(unittest.TestCase):
    """The one rule about layers that import contracts cannot say: they see Twisted as a whole."""

    def test_no_reactor_in_the_simulator(self) -> None:
        for path in sorted((ROOT / "txvbcast" / "sim").rglob("*.py")):
            self.assertNotIn("twisted.internet.reactor", imported(path), str(path))

    def test_the_rule_is_looked_for(self) -> None:
        path = Path(self.mktemp())
        path.write_text("def f():\n    from twisted.internet import reactor\n")
        self.assertIn("twisted.internet.reactor", imported(path))


STUB = """\
#!/usr/bin/env bash
# Stands for the environment's python and for lint-imports: fails for the check that $FAILING names.
case "$*" in
    *twisted.trial*) printf '%s\\n' "$SAID"; shift 2; printf 'for: <%s>\\n' "$@"; exit "$TRIAL_STATUS" ;;
esac
case "$0 $*" in
    *"$FAILING"*) exit 1 ;;
esac
"""


class ScriptTests(unittest.TestCase):
    """scripts/test, with stubs for what it runs."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute() / "a checkout"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        shutil.copytree(ROOT / ".ci", self.root / ".ci")
        for file in ("requirements.txt", "setup.py", "pyproject.toml"):
            shutil.copy(ROOT / file, self.root)
        (self.root / ".venv" / "bin").mkdir(parents=True)
        for name in ("python", "lint-imports"):
            stub = self.root / ".venv" / "bin" / name
            stub.write_text(STUB)
            stub.chmod(0o755)

    def run_script(
        self,
        said: str,
        trial_status: int = 0,
        failing: str = "nothing",
        script: str = "scripts/test",
        words: tuple[str, ...] = (),
    ) -> tuple[str, int]:
        """The whole output and the exit status."""
        environment = {**os.environ, "SAID": said, "TRIAL_STATUS": str(trial_status), "FAILING": failing}
        ran = subprocess.run(
            [str(self.root / script), *words], env=environment, cwd="/", capture_output=True, text=True, timeout=60
        )
        return ran.stdout, ran.returncode

    def check(self, last: str, status: int, said: str, trial_status: int = 0, failing: str = "nothing") -> None:
        stdout, code = self.run_script(said, trial_status, failing)
        self.assertEqual((stdout.splitlines()[-1], code), (last, status), stdout)

    def test_passed(self) -> None:
        self.check("12 passed, 0 failed", 0, "PASSED (successes=12)")

    def test_skipped(self) -> None:
        self.check("12 passed, 0 failed, 3 skipped", 0, "PASSED (skips=3, successes=12)")

    def test_failed(self) -> None:
        self.check("40 passed, 3 failed", 1, "FAILED (failures=1, errors=2, successes=40)", 1)

    def test_expected_and_not(self) -> None:
        said = "FAILED (expectedFailures=1, unexpectedSuccesses=2, successes=40)"
        self.check("41 passed, 2 failed", 1, said, 1)

    def test_a_failing_check_counts(self) -> None:
        for failing in ("ruff check", "ruff format", "mypy", "lint-imports"):
            self.check("12 passed, 1 failed", 1, "PASSED (successes=12)", failing=failing)

    def test_no_test(self) -> None:
        self.check("0 passed, 1 failed", 1, "PASSED")

    def test_no_closing_line(self) -> None:
        self.check("0 passed, 1 failed", 1, "Segmentation fault", 139)

    def test_status_without_a_failure(self) -> None:
        self.check("12 passed, 1 failed", 1, "PASSED (successes=12)", 1)

    def test_an_earlier_line_that_looks_alike(self) -> None:
        self.check("12 passed, 0 failed", 0, "FAILED (failures=1)\nPASSED (successes=12)")

    def test_arguments(self) -> None:
        self.assertIn("for: <tests>\n", self.run_script("PASSED (successes=1)")[0])
        stdout, _ = self.run_script("PASSED (successes=1)", words=("tests.test_config", "a b"))
        self.assertIn("for: <tests.test_config>\nfor: <a b>\n", stdout)

    def test_ci(self) -> None:
        stdout, status = self.run_script("FAILED (errors=1)", 1, script=".ci/run")
        self.assertEqual((stdout.splitlines()[-1], status), ("0 passed, 1 failed", 1))

    def test_installs_only_when_something_changed(self) -> None:
        def installs() -> int:
            calls.write_text("")
            self.run_script("PASSED (successes=1)")
            return len(re.findall("pip .*install", calls.read_text()))

        calls = self.root / "calls"
        stub = self.root / ".venv" / "bin" / "python"
        stub.write_text(STUB.replace("\ncase", f"\necho \"$*\" >>'{calls}'\ncase", 1))
        self.with_libvirt("exit 1")
        self.assertEqual([installs(), installs()], [2, 0])
        (self.root / "requirements.txt").write_text("attrs==1\n")
        self.assertEqual([installs(), installs()], [2, 0])
        self.with_libvirt("echo 9.8.7")
        self.assertEqual([installs(), installs()], [3, 0])

    def test_the_chosen_python(self) -> None:
        """PYTHON names the interpreter of a new environment; one that will not do is refused, and no other taken."""
        shutil.rmtree(self.root / ".venv")
        chosen = self.root / "a python"
        environment = {**os.environ, "PYTHON": str(chosen)}
        command = [str(self.root / "scripts/test")]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        self.assertEqual(ran.returncode, 1)
        self.assertIn(f"none of these is it: {chosen}. Install it", ran.stderr)
        self.assertFalse((self.root / ".venv").exists())
        made = self.root / "made"
        chosen.write_text(f'#!/bin/sh\ncase "$*" in "-m venv"*) echo "$*" >"{made}"; exit 1 ;; esac\n')
        chosen.chmod(0o755)
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        self.assertEqual((ran.returncode, made.read_text()), (1, f"-m venv --clear {self.root}/.venv\n"), ran.stderr)

    def with_libvirt(self, says: str) -> None:
        """Have a ``pkg-config`` that knows of one libvirt or none."""
        folder = self.root / "bin"
        folder.mkdir(exist_ok=True)
        (folder / "pkg-config").write_text(f"#!/bin/sh\n{says}\n")
        (folder / "pkg-config").chmod(0o755)
        self.patch(os, "environ", {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})

    def test_libvirt_that_cannot_be_built(self) -> None:
        """Its tests are skipped, and nothing else."""
        stub = self.root / ".venv" / "bin" / "python"
        stub.write_text(STUB.replace("\ncase", '\ncase "$*" in *libvirt-python==9.8.7*) exit 1 ;; esac\ncase', 1))
        self.with_libvirt("echo 9.8.7")
        self.check("1 passed, 0 failed", 0, "PASSED (successes=1)")

    def test_can_be_run(self) -> None:
        for name in ("scripts/test", "scripts/demo", ".ci/run"):
            self.assertTrue(os.access(ROOT / name, os.X_OK), name)
