"""``docs/wire.md`` says what the code does.

``TXVBCAST_REWRITE_DOCS=1`` writes the generated part anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from twisted.trial import unittest

from tests.test_wire_hello import DIGEST_OF_TWO
from tests.wire_samples import CLIENT_TYPICAL, TYPICAL
from txvbcast.control import client_desk, client_port, client_queries
from txvbcast.wire import codec, datagram
from txvbcast.wire.client_messages import CLIENT_OPCODES
from txvbcast.wire.describe import client_tables, message_tables
from txvbcast.wire.limits import DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX, VERSION
from txvbcast.wire.messages import OPCODES

PAGE = Path(__file__).parent.parent / "docs" / "wire.md"
END = "<!-- generated: end -->\n"

#: The mark before each generated part, and what makes the part.
PARTS = {
    "<!-- generated from txvbcast/wire/messages.py: begin -->\n": message_tables,
    "<!-- generated from txvbcast/wire/client_messages.py: begin -->\n": client_tables,
}


def rewrite() -> None:
    """Put the tables of today between the marks."""
    for begin, tables in PARTS.items():
        before, _, rest = PAGE.read_text().partition(begin)
        _, _, after = rest.partition(END)
        PAGE.write_text(f"{before}{begin}\n{tables()}\n{END}{after}")


if os.environ.get("TXVBCAST_REWRITE_DOCS") == "1":
    rewrite()


class PageTests(unittest.TestCase):
    """Tables, example and numbers."""

    def setUp(self) -> None:
        """Read the page."""
        self.page = PAGE.read_text()

    def test_tables(self) -> None:
        """The generated parts are what the classes give today."""
        for mark, tables in PARTS.items():
            _, begin, rest = self.page.partition(mark)
            generated, end, _ = rest.partition(END)
            self.assertEqual((begin, end), (mark, END))
            self.assertEqual(generated.strip(), tables().strip())

    def test_everything_is_there(self) -> None:
        """Every message has its row and its own table, and every link leads somewhere."""
        tables = message_tables()
        for number, cls in OPCODES.items():
            self.assertIn(f"| {number} | [{cls.__name__}](#{cls.__name__.lower()}) |", tables)
        of_clients = client_tables()
        for number, cls in CLIENT_OPCODES.items():
            self.assertIn(f"| {number} | [{cls.__name__}](#client-{cls.__name__.lower()}) |", of_clients)
        lines = [line.lstrip("# ").lower().replace(" ", "-") for line in self.page.splitlines() if line.startswith("#")]
        headings = set(lines)
        self.assertEqual(sorted(lines), sorted(headings))
        targets = set(re.findall(r"\]\(#([^)]*)\)", self.page))
        self.assertLessEqual({cls.__name__.lower() for cls in OPCODES.values()}, targets)
        self.assertLessEqual(targets, headings)

    def test_rules_are_told(self) -> None:
        """Of each kind of field one row, as it should read."""
        tables = message_tables()
        for row in (
            "| `node_id` | int 1 to 65535 | refused |",
            "| `accepted` | array of int 0 to 2^63-1 or nil | nil |",
            "| `items` | array of bin | refused | one encoded transaction each",
            "| `flight` | map [FlightId](#flightid) or nil | nil |",
            "| `refused` | array of map [Refusal](#refusal) | [] |",
            "| `mode` | str [Mode](#mode) | refused |",
            "| `sticky` | bool | false |",
            '| `source` | str | "self" |',
            '`"broadcast"`, `"2pc"`, `"3pc"`',
        ):
            self.assertIn(row, tables)

    def test_example(self) -> None:
        """The annotated bytes are those of the messages that the text speaks of."""
        blocks = re.findall(r"```\n(00 .*?)```", self.page, re.DOTALL)
        found = [bytes.fromhex("".join(re.split(r"  +", line)[0] for line in block.splitlines())) for block in blocks]
        self.assertEqual(found, [codec.encode_frame(TYPICAL["Stored"]), codec.encode_frame(CLIENT_TYPICAL["Leaving"])])

    def test_numbers(self) -> None:
        """Limits, sizes and the known digest."""
        for words in (
            f"1 to {FRAME_BYTES_MAX} ",
            f"at most {DATAGRAM_BYTES_MAX} bytes",
            f"This is wire version {VERSION}.",
            f"| {codec.HEADER_BYTES} | length | body |",
            f"| {datagram.HEADER_BYTES} | the rest | body |",
            f"`{DIGEST_OF_TWO}`",
            f"within {client_port.HELLO_TIMEOUT_S:g} seconds",
            f"at most {client_port.HELLO_BYTES_MAX} bytes",
            f"for {client_port.UNREAD_S:g} seconds",
            f"{client_desk.SESSION_CHARS_MAX} characters",
            f"{client_queries.QUERIES_MAX} queries",
            f"{client_queries.KEYS_MAX} keys",
            f"{client_queries.FOLLOWERS_MAX} followers",
        ):
            self.assertIn(words, self.page)
