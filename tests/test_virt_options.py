"""An adapter's options: read strictly, refused by name."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial import unittest

from txvbcast.virt.options import Options


class OptionsTests(unittest.TestCase):
    """What is taken, what is refused, and the words for it."""

    def refused(self, take: Callable[[], object], *words: str) -> None:
        """It is refused with these words."""
        text = str(self.assertRaises(ValueError, take))
        for word in words:
            self.assertIn(word, text)

    def test_defaults(self) -> None:
        given = Options({})
        self.assertEqual(given.text("a", "b"), "b")
        self.assertIsNone(given.text_or_none("a"))
        self.assertEqual(given.url("a", "http://1.2.3.4"), "http://1.2.3.4")
        self.assertIs(given.flag("a", True), True)
        self.assertEqual(given.duration_s("a", "250ms"), 0.25)
        self.assertEqual(given.number("a", 3, 1, 5), 3)
        self.assertEqual(given.texts("a", ("b",)), ("b",))
        self.assertEqual(given.choice("a", ("b", "c"), "c"), "c")

    def test_given(self) -> None:
        given = Options({"t": "x", "u": "https://[::1]:80/", "f": False, "d": "2m", "n": 5, "l": ["x", "y"], "c": "b"})
        self.assertEqual(given.text("t", "b"), "x")
        self.assertEqual(given.text_or_none("t"), "x")
        self.assertEqual(given.url("u", "http://a"), "https://[::1]:80/")
        self.assertIs(given.flag("f", True), False)
        self.assertEqual(given.duration_s("d", "1s"), 120.0)
        self.assertEqual(given.number("n", 3, 1, 5), 5)
        self.assertEqual(given.texts("l"), ("x", "y"))
        self.assertEqual(given.choice("c", ("a", "b"), "a"), "b")
        given.finish()

    def test_missing(self) -> None:
        self.refused(lambda: Options({}).text("socket"), "socket", "must be given")
        self.refused(lambda: Options({"socket": None}).text("socket"), "socket", "must be given")

    def test_text(self) -> None:
        for value in ("", 3, ["a"], True):
            self.refused(lambda value=value: Options({"a": value}).text("a", "b"), "a: expected a text")
            self.refused(lambda value=value: Options({"a": value}).text_or_none("a"), "a: expected a text")

    def test_flag(self) -> None:
        for value in ("yes", 1, 0):
            self.refused(lambda value=value: Options({"a": value}).flag("a", True), "a: expected true or false")

    def test_duration(self) -> None:
        self.refused(lambda: Options({"a": 5}).duration_s("a", "1s"), "a: expected a duration with its unit")
        self.refused(lambda: Options({"a": "5"}).duration_s("a", "1s"), "a: ", "no unit")
        self.refused(lambda: Options({"a": "0s"}).duration_s("a", "1s"), "a: expected at least 0.001s, got 0s")
        self.assertEqual(Options({"a": "0s"}).duration_s("a", "1s", least_s=0.0), 0.0)

    def test_number(self) -> None:
        for value in (0, 6, True):
            wanted = "a: expected a whole number from 1 to 5"
            self.refused(lambda value=value: Options({"a": value}).number("a", 3, 1, 5), wanted)
        self.refused(lambda: Options({"a": 2.5}).number("a", 3, 1, 5), "a: expected a whole number")

    def test_texts(self) -> None:
        for value in ([""], [1], [["a"]]):
            self.refused(lambda value=value: Options({"a": value}).texts("a"), "a: expected a list of texts")
        self.refused(lambda: Options({"a": "x"}).texts("a"), "a: expected a list of texts")

    def test_choice(self) -> None:
        for value in ("d", "", 1):
            self.refused(
                lambda value=value: Options({"a": value}).choice("a", ("b", "c"), "b"), "a: expected one of b, c"
            )

    def test_url(self) -> None:
        for value in (
            "169.254.169.254",
            "ftp://host",
            "http://",
            "http://host/path",
            "http://host?x=1",
            "http://host#x",
            "http://me:secret@host",
            "http://host:0",
            "http://host:99999",
            "http://host:x",
            "http://[::1",
            "http://[::g]",
            "http://a host",
            "http://hôst",
            "http://a,b",
        ):
            self.refused(lambda value=value: Options({"a": value}).url("a", "http://b"), "a: expected a URL", value)

    def test_unknown(self) -> None:
        given = Options({"b": 1, "a": "x"})
        given.text("a", "y")
        given.flag("c", True)
        self.refused(given.finish, "b: there is no such option; expected one of: a, c")
        self.refused(Options({"b": 1}).finish, "expected one of: none")
