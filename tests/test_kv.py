"""The key-value resource manager: against a plain dict, its votes, bad payloads, and how managers are found."""

from __future__ import annotations

import attrs
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial import unittest
from zope.interface.verify import verifyObject

from txvbcast import plugins as finder
from txvbcast.config import PluginConfig
from txvbcast.errors import ConfigError
from txvbcast.interfaces import IBatchResourceManager, IResourceManager, Refused, Run, Tx
from txvbcast.managers import plugins
from txvbcast.managers.kv import KeyValueManager
from txvbcast.wire.kv import KEY_CHARS_MAX, KvResult, decode_result, delete_payload, put_payload
from txvbcast.wire.messages import Mode

pack = msgspec.msgpack.encode

MALFORMED = [
    b"",
    b"\xc1",
    pack("put"),
    pack(["get", "k", None]),
    pack(["put", "k", b"v"]),
    pack(["put", "k", b"v", None, None]),
    pack(["put", "", b"v", None]),
    pack(["put", "k" * (KEY_CHARS_MAX + 1), b"v", None]),
    pack(["put", 1, b"v", None]),
    pack(["put", "k", "text", None]),
    pack(["put", "k", b"v", -1]),
    pack(["put", "k", b"v", True]),
    pack(["put", "k", b"v", 1.5]),
    pack(["delete", "k", b"v", None]),
    b"\x94\xa3put\xa1\xff\xc4\x00\xc0",
    put_payload("k", b"v") + b"\x00",
    put_payload("k", b"v")[:-1],
]


def tx(payload: bytes, seq: int = 0, index: int = 0, flight: str = "1.1.1", mode: Mode = Mode.BROADCAST) -> Tx:
    return Tx(rm="kv", payload=payload, mode=mode, flight=flight, index=index, seq=seq)


class Performing(unittest.TestCase):
    """What commit does, alone."""

    def setUp(self) -> None:
        self.kv = KeyValueManager()

    def do(self, payload: bytes, seq: int, index: int = 0) -> KvResult:
        return decode_result(self.kv.commit(tx(payload, seq, index)))

    def test_interface(self) -> None:
        self.assertTrue(verifyObject(IResourceManager, self.kv))
        self.assertTrue(verifyObject(IBatchResourceManager, self.kv))
        self.assertEqual((self.kv.name, self.kv.applied_seq), ("kv", 0))

    def test_put_get_delete(self) -> None:
        self.assertEqual(self.do(put_payload("a/b", b"1"), 3), KvResult(True, 3, 0))
        self.assertEqual(self.kv.get("a/b"), (b"1", 3))
        self.assertEqual(self.do(put_payload("a/b", b"\xff\x00"), 4), KvResult(True, 4, 3))
        self.assertEqual(self.kv.get("a/b"), (b"\xff\x00", 4))
        self.assertEqual(self.do(delete_payload("a/b"), 5), KvResult(True, 0, 4))
        self.assertIsNone(self.kv.get("a/b"))
        self.assertEqual(self.do(delete_payload("a/b"), 6), KvResult(True, 0, 0))

    def test_one_entry_writes_twice(self) -> None:
        """Both writes of one entry have its seq as version, and the later value stays."""
        self.assertEqual(self.do(put_payload("k", b"1", 0), 7, 0), KvResult(True, 7, 0))
        self.assertEqual(self.do(put_payload("k", b"2", 7), 7, 1), KvResult(True, 7, 7))
        self.assertEqual(self.kv.get("k"), (b"2", 7))

    def test_if_version(self) -> None:
        refused = self.do(put_payload("k", b"1", 5), 6)
        self.assertEqual(refused, KvResult(False, 0, 0, "key 'k' is not there, the transaction expects version 5"))
        self.assertIsNone(self.kv.get("k"))
        self.assertTrue(self.do(put_payload("k", b"1", 0), 7).ok)
        refused = self.do(put_payload("k", b"2", 0), 8)
        reason = "key 'k' has version 7, the transaction expects that it is not there"
        self.assertEqual(refused, KvResult(False, 7, 7, reason))
        self.assertFalse(self.do(delete_payload("k", 8), 9).ok)
        self.assertEqual(self.kv.get("k"), (b"1", 7))
        self.assertTrue(self.do(delete_payload("k", 7), 10).ok)
        self.assertIsNone(self.kv.get("k"))

    def test_items_by_prefix(self) -> None:
        for seq, key in enumerate(["b", "a/2", "a", "a/1", "é"], start=1):
            self.do(put_payload(key, key.encode()), seq)
        self.assertEqual([item[0] for item in self.kv.items()], ["a", "a/1", "a/2", "b", "é"])
        self.assertEqual(self.kv.items("a/"), [("a/1", b"a/1", 4), ("a/2", b"a/2", 2)])
        self.assertEqual(self.kv.items("zz"), [])

    def test_malformed_payload(self) -> None:
        """It is refused when asked, changes nothing when performed, and its result is everywhere the same."""
        for payload in MALFORMED:
            self.assertIsInstance(self.kv.prepare(tx(payload)), Refused, payload)
            result = self.do(payload, 1)
            self.assertFalse(result.ok, payload)
            self.assertIn("not an operation", result.reason)
        self.assertEqual(self.kv.items(), [])

    def test_builders_refuse(self) -> None:
        for key in ["", "k" * (KEY_CHARS_MAX + 1), "\ud800"]:
            self.assertRaises(ValueError, put_payload, key, b"")
            self.assertRaises(ValueError, delete_payload, key)
        self.assertRaises(ValueError, put_payload, "k", b"", -1)
        self.assertRaises(ValueError, delete_payload, "k", -1)
        self.assertRaises(ValueError, decode_result, b"junk")
        longest = "é" * KEY_CHARS_MAX
        self.assertTrue(self.do(put_payload(longest, b""), 1).ok)

    def test_snapshot(self) -> None:
        """A snapshot carries everything, does not depend on the order of writing, and bad ones change nothing."""
        self.do(put_payload("x", b"1"), 1)
        self.do(put_payload("y", b"2"), 2)
        other = KeyValueManager()
        other.commit(tx(put_payload("y", b"2"), 2))
        other.commit(tx(put_payload("x", b"1"), 1))
        self.assertEqual(self.kv.snapshot(), other.snapshot())
        fresh = KeyValueManager()
        fresh.commit(tx(put_payload("old", b""), 1))
        fresh.restore(self.kv.snapshot(), 2)
        self.assertEqual(fresh.items(), self.kv.items())
        self.assertEqual(fresh.applied_seq, 2)
        self.assertRaises(ValueError, fresh.restore, self.kv.snapshot()[:-1], 3)
        self.assertEqual((fresh.items(), fresh.applied_seq), (self.kv.items(), 2))


class Voting(unittest.TestCase):
    """What prepare keeps until commit or abort."""

    def setUp(self) -> None:
        self.kv = KeyValueManager()
        self.kv.commit(tx(put_payload("k", b"1"), 1))
        self.first = tx(put_payload("k", b"2", 1), flight="1.1.2", mode=Mode.TWO_PHASE)
        self.second = tx(put_payload("k", b"3"), flight="2.1.1", mode=Mode.TWO_PHASE)

    def reason(self, transaction: Tx) -> str:
        answer = self.kv.prepare(transaction)
        assert isinstance(answer, Refused), answer
        return answer.reason

    def test_if_version_is_checked(self) -> None:
        self.assertIn("has version 1", self.reason(tx(put_payload("k", b"2", 2))))
        self.assertIs(self.kv.prepare(self.second), True, "what was refused reserves nothing")

    def test_conflict_until_abort(self) -> None:
        self.assertIs(self.kv.prepare(self.first), True)
        self.assertIs(self.kv.prepare(self.first), True, "asked again, the same answer")
        self.assertIn("reserved by transaction 1.1.2", self.reason(self.second))
        self.assertIn("reserved", self.reason(attrs.evolve(self.first, index=1)))
        self.assertIs(self.kv.prepare(tx(put_payload("other", b""), flight="3.1.1")), True)
        self.kv.abort(self.first)
        self.assertIs(self.kv.prepare(self.second), True)
        self.assertEqual(self.kv.get("k"), (b"1", 1))

    def test_conflict_until_commit(self) -> None:
        self.kv.prepare(self.first)
        self.assertTrue(decode_result(self.kv.commit(attrs.evolve(self.first, seq=2))).ok)
        self.assertEqual(self.kv.get("k"), (b"2", 2))
        self.assertIs(self.kv.prepare(self.second), True)

    def test_broadcast_heeds_no_reservation(self) -> None:
        """The check at the time of performing decides."""
        self.kv.prepare(self.first)
        self.assertTrue(decode_result(self.kv.commit(tx(put_payload("k", b"b"), 2))).ok)
        result = decode_result(self.kv.commit(attrs.evolve(self.first, seq=3)))
        self.assertEqual((result.ok, result.found_version), (False, 2))
        self.assertEqual(self.kv.get("k"), (b"b", 2))

    def test_commit_without_prepare(self) -> None:
        self.assertTrue(decode_result(self.kv.commit(attrs.evolve(self.first, seq=2))).ok)
        self.kv.abort(self.second)


KEYS = st.sampled_from(["a", "b", "a/c", "ü"])
VERSIONS = st.none() | st.integers(0, 12)


class AgainstADict(RuleBasedStateMachine):
    """Random histories give what a dict gives, on a manager that was also snapshotted and restored on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.kv = KeyValueManager()
        self.model: dict[str, tuple[bytes, int]] = {}
        self.seq = 0

    def expect(self, payload: bytes, key: str, if_version: int | None) -> bool:
        found = self.model.get(key, (b"", 0))[1]
        result = decode_result(self.kv.commit(tx(payload, self.seq)))
        assert result.ok == (if_version in (None, found)), (result, found)
        assert result.found_version == found
        return result.ok

    @rule(same_entry=st.booleans(), key=KEYS, value=st.binary(max_size=3), if_version=VERSIONS)
    def put(self, same_entry: bool, key: str, value: bytes, if_version: int | None) -> None:
        self.seq += 0 if same_entry and self.seq else 1
        if self.expect(put_payload(key, value, if_version), key, if_version):
            self.model[key] = (value, self.seq)

    @rule(key=KEYS, if_version=VERSIONS)
    def delete(self, key: str, if_version: int | None) -> None:
        self.seq += 1
        if self.expect(delete_payload(key, if_version), key, if_version):
            self.model.pop(key, None)

    @rule()
    def move(self) -> None:
        fresh = KeyValueManager()
        fresh.restore(self.kv.snapshot(), self.seq)
        self.kv = fresh

    @invariant()
    def same(self) -> None:
        assert self.kv.items() == [(key, *self.model[key]) for key in sorted(self.model)]
        assert self.kv.items("a") == [item for item in self.kv.items() if item[0].startswith("a")]


class AtRandom(unittest.TestCase):
    """Histories that nobody thought of, and payloads that nobody meant."""

    def test_like_a_dict(self) -> None:
        some = settings(max_examples=40, stateful_step_count=25, deadline=None)
        run_state_machine_as_test(AgainstADict, settings=some)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("ab"), st.none() | st.integers(0, 2), st.booleans()), max_size=6))
    def test_together_as_one_by_one(self, asked: list[tuple[str, int | None, bool]]) -> None:
        """Votes and results of a run are those of its transactions."""
        payloads = [put_payload(key, b"v", when) if puts else delete_payload(key, when) for key, when, puts in asked]
        one, other = KeyValueManager(), KeyValueManager()
        for seq in (1, 2):
            run = Run("kv", Mode.TWO_PHASE, f"1.1.{seq}", seq, range(len(asked)), payloads, [None] * len(asked))
            self.assertEqual(one.prepare_many(run), [other.prepare(each) for each in run])
            self.assertEqual(one.commit_many(run), [other.commit(each) for each in run])
            self.assertEqual((one.items(), one._reservations), (other.items(), other._reservations))

    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=40))
    def test_never_raises(self, payload: bytes) -> None:
        kv = KeyValueManager()
        kv.prepare(tx(payload))
        decode_result(kv.commit(tx(payload, 1)))


class SpareFactory:
    """A third party's plugin, as far as the loader is concerned."""

    plugin = "spare"

    def make(self, name: str, options: dict[str, object]) -> object:
        if "bad" in options:
            raise ValueError("option bad is not known")
        return KeyValueManager(name) if options.get("whole", True) else object()


class Loading(unittest.TestCase):
    """From a configuration to a manager."""

    def setUp(self) -> None:
        self.patch(finder, "getPlugins", lambda interface: [SpareFactory()])

    def test_built_in(self) -> None:
        manager = plugins.load(PluginConfig(name="store", plugin="kv"))
        self.assertIsInstance(manager, KeyValueManager)
        self.assertEqual(manager.name, "store")

    def test_third_party(self) -> None:
        self.assertEqual(plugins.load(PluginConfig(name="s", plugin="spare")).name, "s")

    def refused(self, plugin: str, **options: object) -> str:
        return str(self.assertRaises(ConfigError, plugins.load, PluginConfig("s", plugin, options)))

    def test_errors_name_what_exists(self) -> None:
        self.assertIn("there is no plugin 'nope'; expected one of: kv, spare", self.refused("nope"))

    def test_bad_options(self) -> None:
        self.assertIn("kv takes no options, got colour", self.refused("kv", colour="red"))
        self.assertIn("option bad is not known", self.refused("spare", bad=1))

    def test_not_a_manager(self) -> None:
        self.assertIn("does not make an IResourceManager", self.refused("spare", whole=False))


class Discovery(unittest.TestCase):
    """The real search through ``twisted.plugins``."""

    def test_unknown_name(self) -> None:
        error = self.assertRaises(ConfigError, plugins.load, PluginConfig("s", "no-such-plugin"))
        self.assertIn("kv", str(error))
