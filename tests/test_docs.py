"""The pages say what is so: paths, links, commands, keys, codes and examples.

``TXVBCAST_REWRITE_DOCS=1`` writes ``docs/cli.md`` anew.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import click
from twisted.internet.testing import MemoryReactorClock
from twisted.trial import unittest

from tests.cluster import ClusterCase
from tests.cluster_load import Submission, put
from tests.recording_sink import surroundings
from txvbcast.cli.failures import Exit
from txvbcast.cli.local import LocalCluster
from txvbcast.cli.main import COMMANDS, root
from txvbcast.config import CHANGE_KINDS, Config
from txvbcast.configfile import load, parse
from txvbcast.control.problems import KINDS
from txvbcast.core.catchup import WINDOW_BYTES, WINDOW_ENTRIES
from txvbcast.core.estimator import FIXED_S
from txvbcast.core.following import AHEAD_MAX
from txvbcast.core.journal import RUNS_MAX
from txvbcast.errors import ConfigError
from txvbcast.virt import BUILT_IN

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CLI_PAGE = DOCS / "cli.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
HELP_COLUMNS = 100
#: What a page calls a path: something under one of these.
_PATH = re.compile(
    r"(txvbcast|tests|docs|examples|scripts|twisted|\.ci)/[\w.*/-]*|(README|CHANGELOG)\.md|\w+\.(toml|txt)"
)


# --- reading pages -----------------------------------------------------------------------


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)


def code(page: str) -> list[str]:
    """What stands between backticks in the prose."""
    return re.findall(r"`([^`]+)`", prose(page).replace("\n", " "))


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    _, _, rest = page.partition(f"{heading}\n")
    (lines,) = re.findall(r"\A(?:[^|\n][^\n]*\n|\n)*((?:\|[^\n]*\n)+)", rest)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()[2:]]


def anchors(page: str) -> set[str]:
    """The names by which links reach the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _pattern(path: str) -> str:
    return path.rstrip("/").replace("NAME", "*")


class PathTests(unittest.TestCase):
    """What pages point to is there."""

    def test_paths(self) -> None:
        """Files and folders that are named; a name may stand for several."""
        named = [(page, text) for page in PAGES for text in code(page.read_text()) if _PATH.fullmatch(text)]
        self.assertGreater(len(named), 100)
        missing = [f"{page.name}: {text}" for page, text in named if not list(ROOT.glob(_pattern(text)))]
        self.assertEqual(missing, [])

    def test_links(self) -> None:
        """Pages, pictures and headings."""
        broken = []
        for page in PAGES:
            for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
                path, _, anchor = target.partition("#")
                other = (page.parent / path) if path else page
                if "://" in target:
                    continue
                if not other.exists() or (anchor and anchor not in anchors(other.read_text())):
                    broken.append(f"{page.name}: {target}")
        self.assertEqual(broken, [])

    def test_every_page_is_named(self) -> None:
        """Whoever begins with README finds each page."""
        readme = (ROOT / "README.md").read_text()
        self.assertEqual([page.name for page in DOCS.glob("*.md") if f"](docs/{page.name})" not in readme], [])


class AdapterTests(unittest.TestCase):
    """``docs/adapters.md`` and the pages of the single adapters."""

    def test_pages(self) -> None:
        """Every adapter has one, and it is named on the first one."""
        first = (DOCS / "adapters.md").read_text()
        self.assertEqual(sorted(page.stem for page in (DOCS / "adapters").glob("*.md")), sorted(BUILT_IN))
        self.assertEqual([name for name in BUILT_IN if f"](adapters/{name}.md)" not in first], [])

    def test_options(self) -> None:
        """Each page has a row for each option, and no other."""
        for name in BUILT_IN:
            page = (DOCS / "adapters" / f"{name}.md").read_text()
            table = page.partition("| option | value | default | meaning |\n| --- | --- | --- | --- |\n")[2]
            told = re.findall(r"^\| (\w+) \|", table.partition("\n\n")[0], re.MULTILINE)
            self.assertEqual(sorted(told), sorted(self.options(name)), name)

    def options(self, name: str) -> list[str]:
        """Those that an adapter knows, as it says when it is given another one."""
        needed: dict[str, object] = {}
        for _ in range(3):
            with self.assertRaises(ValueError) as caught:
                BUILT_IN[name].make({**needed, "no such option": 1}, surroundings(MemoryReactorClock()))
            said = str(caught.exception)
            if "needs a library" in said or "libvirt" in said:
                raise unittest.SkipTest(said)
            if "it must be given" in said:
                needed[said.partition(":")[0]] = ["x"] if "list" in said else "x"
                continue
            return said.partition("expected one of: ")[2].split(", ")
        raise AssertionError(said)


class MissionTests(unittest.TestCase):
    """``docs/mission.md``."""

    def test_rows(self) -> None:
        """Every element has code, and a test that shows it."""
        table = rows((DOCS / "mission.md").read_text(), "# The mission, element by element")
        self.assertEqual([row[0] for row in table], [str(number) for number in range(1, 25)])
        for number, _, _, where, shown in table:
            self.assertTrue(all(path.startswith("txvbcast/") for path in re.findall("`([^`]+)`", where)), number)
            self.assertTrue(all(path.startswith("tests/") for path in re.findall("`([^`]+)`", shown)), number)
            self.assertIn("`", where)
            self.assertIn("`", shown)

    def test_kinds(self) -> None:
        """Every kind of change is named, and its estimate in the protocol."""
        row = rows((DOCS / "mission.md").read_text(), "# The mission, element by element")[4]
        self.assertEqual(tuple(re.findall("`([^`]+)`", row[2])), CHANGE_KINDS)
        protocol = " ".join((DOCS / "protocol.md").read_text().split())
        self.assertIn(", ".join(f"{kind} {FIXED_S[kind]:g}" for kind in CHANGE_KINDS), protocol)


class ProtocolTests(unittest.SynchronousTestCase):
    """The bounds that no key of the configuration changes."""

    def test_bounds(self) -> None:
        """Each is the one that the core keeps."""
        page = (DOCS / "protocol.md").read_text()
        window = f"{WINDOW_ENTRIES} entries"
        table = dict(rows(page, "## 10. Defaults"))
        self.assertEqual(table["one ENTRIES"], f"{window}, about {WINDOW_BYTES >> 10} KiB")
        self.assertIn(f"up to {window} or about {WINDOW_BYTES >> 10} KiB at a time", page)
        self.assertEqual(table["orders held that cannot be appended yet"], f"{AHEAD_MAX:,}".replace(",", " "))
        self.assertEqual(table["runs of epochs in GRANT and START"], str(RUNS_MAX))


# --- commands ------------------------------------------------------------------------------


def commands(page: str) -> Iterator[list[str]]:
    """The command lines of ``vbcast`` on a page, as words; what the command itself runs is left out."""
    lines = [line for block in blocks(page) for line in block.splitlines()]
    for line in [*code(page), *lines]:
        if re.match(r"vbcast( |$)", line):
            words = shlex.split(line.replace(" …", ""))
            yield words[1 : words.index("--")] if "--" in words else words[1:]


def resolve(words: list[str]) -> None:
    """Walk from ``vbcast`` to the command that ``words`` name.

    :raises AssertionError: there is no such command, or it has no such option.
    """
    command: click.Command = root
    place = 0
    options = _options(command)
    while place < len(words):
        word = words[place]
        place += 1
        if word.startswith("--"):
            assert word in options, f"{command.name} has no option {word}: {words}"
            place += 0 if options[word].is_flag else 1
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"{command.name} has no command {word}: {words}"
            command, options = found, _options(found)


def _options(command: click.Command) -> dict[str, click.Option]:
    options = [each for each in command.params if isinstance(each, click.Option)]
    named = {name: option for option in options for name in (*option.opts, *option.secondary_opts)}
    return {**named, "--version": click.Option(["--version"], is_flag=True)}


def cli_page() -> str:
    """``docs/cli.md`` as the commands are now."""
    lines = [
        "# The commands",
        "",
        "<!-- Generated from the commands: TXVBCAST_REWRITE_DOCS=1 python -m twisted.trial tests.test_docs -->",
        "",
        "What each command says with `--help`. `--node` and `--json` may stand before or behind a command's name. Exit",
        "codes are told in [operating.md](operating.md#exit-codes).",
    ]
    context = click.Context(root, info_name="vbcast", terminal_width=HELP_COLUMNS, **root.context_settings)
    for name, command, inner in _walk("vbcast", root, context):
        lines += ["", f"## {name}", "", "```text", command.get_help(inner), "```"]
    return "\n".join(lines) + "\n"


def _walk(
    name: str, command: click.Command, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield name, command, context
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None:
                yield from _walk(f"{name} {inner}", found, click.Context(found, parent=context, info_name=inner))


#: Made here, before a test changes a constant that a help text tells of.
CLI_NOW = cli_page()

if os.environ.get("TXVBCAST_REWRITE_DOCS") == "1":
    CLI_PAGE.write_text(CLI_NOW)


class CommandTests(unittest.TestCase):
    """What pages tell to type can be typed."""

    def test_cli_page(self) -> None:
        """It is what the commands say of themselves."""
        self.assertEqual(CLI_PAGE.read_text(), CLI_NOW, "TXVBCAST_REWRITE_DOCS=1 writes it anew")

    def test_every_command_is_there(self) -> None:
        """None is missing because its module is."""
        text = CLI_PAGE.read_text()
        self.assertEqual([name for name in COMMANDS if f"\n## vbcast {name}\n" not in text], [])

    def test_commands(self) -> None:
        """Commands and options exist."""
        found = [words for page in PAGES if page != CLI_PAGE for words in commands(page.read_text())]
        self.assertGreater(len(found), 20)
        for words in found:
            resolve(words)

    def test_resolve(self) -> None:
        """What does not exist is found."""
        for words in (
            ["keys"],
            ["kv", "fetch"],
            ["kv", "get", "--mode"],
            ["--verbose"],
            ["inactive", "run", "--shell"],
        ):
            self.assertRaises(AssertionError, resolve, words)


# --- numbers and names -------------------------------------------------------------------------

LEAST = """\
cluster: {name: a, id: b}
node: {id: 1}
listen: {peer: "127.0.0.1:1", client: "127.0.0.1:2", http: "127.0.0.1:3"}
members: [{id: 1, name: one, peer: "127.0.0.1:1"}]
data_dir: d
insecure: true
"""


def known_keys() -> set[str]:
    """Every key of a configuration, as errors tell of them."""
    known = set()
    for name in _told("[]", ""):
        told = _told(f"{name}: null", name)
        items = "[]" if "each item" in _error(f"{name}: null", name) else ""
        known |= {f"{name}{items}.{inner}" for inner in told} or {name}
    return known


def _error(text: str, key: str) -> str:
    try:
        parse(text, "f")
    except ConfigError as error:
        lines = [line for line in str(error).splitlines() if line.startswith(f"f:1: {key}: " if key else "f:1: ")]
        return lines[0]
    raise AssertionError(f"nothing is wrong with {text!r}")


def _told(text: str, key: str) -> list[str]:
    found = re.search(r"a mapping with the keys (.*), got", _error(text, key))
    return found[1].split(", ") if found else []


class OperatingTests(unittest.TestCase):
    """``docs/operating.md``."""

    def setUp(self) -> None:
        self.page = (DOCS / "operating.md").read_text()
        self.table = rows(self.page, "## Configuration")

    def test_keys(self) -> None:
        """Every key is told of, and no other."""
        told = {row[0] for row in self.table}
        known = known_keys()
        self.assertIn("members[].peer", known)
        self.assertEqual(told - {"estimates.KIND"}, known - {"estimates"})

    def test_defaults(self) -> None:
        """To write a default changes nothing."""
        sections: dict[str, list[str]] = {}
        for key, _, default, _ in self.table:
            name, _, inner = key.partition(".")
            if default.startswith("`") and "[]" not in name and name not in ("node", "insecure"):
                sections.setdefault(name, []).append(f"{inner}: {default.strip('`')}")
        self.assertEqual(sum(map(len, sections.values())), 21)
        text = LEAST + "".join(f"{name}: {{{', '.join(pairs)}}}\n" for name, pairs in sections.items())
        manager = [f"{row[0].partition('.')[2]}: {row[2].strip('`')}" for row in self.table if "resource" in row[0]][:2]
        text += f"resource_managers: [{{{', '.join(manager)}}}]\n"
        self.assertEqual(self.read(text), self.read(LEAST))

    def read(self, text: str) -> Config:
        """A configuration."""
        return parse(text, "f")

    def test_exit_codes(self) -> None:
        """Each has its row."""
        self.assertEqual([int(row[0]) for row in rows(self.page, "## Exit codes")], [code.value for code in Exit])


class DependencyTests(unittest.TestCase):
    """``docs/dependencies.md``."""

    def test_every_one_has_its_reason(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
        names = {re.split(r"[\[<>=]", text)[0].lower() for text in wanted}
        page = (DOCS / "dependencies.md").read_text()
        told = [row[0] for heading in ("why", "only:") for row in rows(page, heading)]
        self.assertEqual({name for cell in told for name in cell.lower().split(", ")}, names)


# --- examples ------------------------------------------------------------------------------------


@attrs.frozen
class Example:
    """A request and the answer that a page promises."""

    method: str
    target: str
    body: str
    status: str
    headers: Mapping[str, str]
    answer: str


def examples(page: str) -> list[Example]:
    """The requests and answers of a page, in order."""
    texts = blocks(page, "http")
    found = []
    for asked, answered in zip(texts[::2], texts[1::2], strict=True):
        line, _, body = asked.partition("\n")
        method, target = line.split()
        head, _, answer = answered.partition("\n\n")
        status, *headers = head.splitlines()
        found.append(
            Example(
                method, target, body.strip(), status, dict(each.split(": ") for each in headers), answer.rstrip("\n")
            )
        )
    return found


def alike(text: str) -> str:
    """A JSON document as one that differs only in numbers and results has it too."""
    document = json.loads(text)
    if "result_b64" in document:
        document["result_b64"] = ""
    return re.sub(r"[0-9]+(\.[0-9]+)?", "0", json.dumps(document, sort_keys=True))


def streamed(text: str) -> dict[str, set[str]]:
    """Per kind of event the names of its members."""
    documents = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    return {document["kind"]: set(document) for document in documents}


class HttpTests(unittest.SynchronousTestCase):
    """``docs/http.md``."""

    def test_kinds(self) -> None:
        """Every kind of problem, with its status and title."""
        table = rows((DOCS / "http.md").read_text(), "## What goes wrong")
        self.assertEqual({row[0]: (int(row[1]), row[2]) for row in table}, KINDS)

    def test_examples(self) -> None:
        """A cluster answers as the page says, but for numbers."""
        cluster = LocalCluster(Path(self.mktemp()).absolute(), 3)
        self.addCleanup(cluster.stop)
        cluster.start()
        cluster.wait("node 1 knows how far every node is", lambda: self.knows_all(cluster[1].status()))
        page = examples((DOCS / "http.md").read_text())
        self.assertGreater(len(page), 15)
        for example in page:
            self.check(example, urlsplit(cluster[1].api.url))

    def knows_all(self, status: dict[str, Any] | None) -> bool:
        """Whether nothing is open any more."""
        return status is not None and all(member["applied"] is not None for member in status["members"])

    def check(self, example: Example, where: Any) -> None:
        """Ask, and compare."""
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
        connection.request(example.method, example.target, example.body or None)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        said = f"{example.method} {example.target}: {response.status} {body}"
        self.assertEqual(f"{response.status} {response.reason}", example.status, said)
        for name, value in example.headers.items():
            self.assertEqual(alike(json.dumps([response.headers[name]])), alike(json.dumps([value])), said)
        kind = response.headers["Content-Type"]
        if kind == "text/event-stream":
            now = streamed(body)
            self.assertEqual({each: now[each] for each in streamed(example.answer)}, streamed(example.answer), said)
        elif "json" in kind:
            self.assertEqual(alike(body), alike(example.answer), said)
        else:
            self.assertEqual(body, example.answer, said)


class ClientTests(unittest.TestCase):
    """The client program in README."""

    def test_program(self) -> None:
        """It works with the first node that it names."""
        _, program = blocks((ROOT / "README.md").read_text(), "python")
        cluster = LocalCluster(Path(self.mktemp()), 3)
        self.addCleanup(cluster.stop)
        cluster.start()
        for node_id, port in ((1, 8411), (2, 8421)):
            program = program.replace(f":{port}", f":{load(cluster[node_id].config).listen.client.port}")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.stdout, done.stderr), ("b'hello'\n", ""))


class ReadmeTests(ClusterCase):
    """The programs in README."""

    def test_program(self) -> None:
        """It runs as it stands there, on every node."""
        program, _ = blocks((ROOT / "README.md").read_text(), "python")
        cluster = self.make()
        path = cluster.directory / "seats.py"
        path.write_text(program)
        self.run_with(lambda node: (str(path), node.config.name))
        self.run_cluster()
        self.assertEqual(self.take(2, "2pc"), "99 seats left")
        self.assertEqual(self.take(3, "3pc"), "98 seats left")
        self.assertEqual(self.take(1, "broadcast"), "97 seats left")
        self.assertEqual(
            [self.take(node_id, "2pc") for node_id in (1, 2, 3)], [f"{n} seats left" for n in (96, 95, 94)]
        )

    def take(self, node_id: int, mode: str) -> str:
        """Take a seat; what the client hears."""
        submission: Submission = put(node_id, f"row {time.monotonic()}")
        submission.rm, submission.payload, submission.mode = "seats", b"row 7", mode
        return str(self.submit(submission).facts.get("result"))
