"""``docs/wire.md`` says what the code does.

``TXVBCAST_REWRITE_DOCS=1`` writes the generated part anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from twisted.trial import unittest

from tests.test_wire_hello import DIGEST_OF_TWO
from tests.wire_samples import TYPICAL
from txvbcast.wire import codec, datagram
from txvbcast.wire.describe import message_tables
from txvbcast.wire.limits import DATAGRAM_BYTES_MAX, FRAME_BYTES_MAX, VERSION
from txvbcast.wire.messages import OPCODES

PAGE = Path(__file__).parent.parent / "docs" / "wire.md"
BEGIN = "<!-- generated from txvbcast/wire/messages.py: begin -->\n"
END = "<!-- generated: end -->\n"


def rewrite() -> None:
    """Put the tables of today between the marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{message_tables()}\n{END}{after}")


if os.environ.get("TXVBCAST_REWRITE_DOCS") == "1":
    rewrite()


class PageTests(unittest.TestCase):
    """Tables, example and numbers."""

    def setUp(self) -> None:
        """Read the page."""
        self.page = PAGE.read_text()

    def test_tables(self) -> None:
        """The generated part is what the classes give today."""
        _, begin, rest = self.page.partition(BEGIN)
        generated, end, _ = rest.partition(END)
        self.assertEqual((begin, end), (BEGIN, END))
        self.assertEqual(generated.strip(), message_tables().strip())

    def test_everything_is_there(self) -> None:
        """Every message has its row and its own table, and every link leads somewhere."""
        tables = message_tables()
        for number, cls in OPCODES.items():
            self.assertIn(f"| {number} | [{cls.__name__}](#{cls.__name__.lower()}) |", tables)
        headings = {line.lstrip("# ").lower() for line in self.page.splitlines() if line.startswith("#")}
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
        """The annotated bytes are those of the message that the text speaks of."""
        (block,) = re.findall(r"```\n(00 .*?)```", self.page, re.DOTALL)
        data = bytes.fromhex("".join(re.split(r"  +", line)[0] for line in block.splitlines()))
        self.assertEqual(data, codec.encode_frame(TYPICAL["Stored"]))

    def test_numbers(self) -> None:
        """Limits, sizes and the known digest."""
        for words in (
            f"1 to {FRAME_BYTES_MAX} ",
            f"at most {DATAGRAM_BYTES_MAX} bytes",
            f"This is wire version {VERSION}.",
            f"| {codec.HEADER_BYTES} | length | body |",
            f"| {datagram.HEADER_BYTES} | the rest | body |",
            f"`{DIGEST_OF_TWO}`",
        ):
            self.assertIn(words, self.page)
