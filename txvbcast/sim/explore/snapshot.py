"""A replica's whole state as one hashable value, and a replica set back to it.

The search keeps millions of global states, so a node's state must be a value: two histories
that lead to the same value are the same from then on.  That is true by construction here,
because the search goes on from the value alone: :meth:`Mould.set` fills one replica of each
node with it, and :meth:`Mould.read` takes it out again.

What makes different histories meet in one value:

* Times are kept relative to the node's now and only as far as a timeout tells them apart
  (:func:`quantised`).
* Tokens of the disk and the count of ticks are renumbered.
* Dictionaries and sets are sorted, where their order decides nothing.
* What only people see (reach marks) is left out.
"""

from __future__ import annotations

import enum
import types
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs

from txvbcast.core.charts import CHARTS
from txvbcast.core.effects import Persist, ReadLog
from txvbcast.core.replica import Replica

#: The unit of the search's time: one tick of a replica, in seconds.
TICK_S = 1.0
#: Silence that makes a member failed; everything shorter than half of it counts as "just now".
TIMEOUT_S = 16.0
#: Further ahead than any timeout: the end of an announced absence, a patient client's deadline.
FAR_S = 10_000.0
#: Longer ago than any timeout looks back.
OLD_S = -1_000.0

#: Fields that hold lengths of time, not points in time.
_DURATIONS = frozenset({"stretch_s", "timeout_s"})
#: Times that show in a message, or that add up over several silences.
_EXACT = frozenset({"_masterless_since_s", "ends_s"})
#: The same for the whole life of a replica.
_CONSTANT = frozenset({"config", "heartbeat", "wait_s"})
#: What only people see, and what decides nothing without a flood.
_UNSEEN = frozenset({"reached", "moved_s", "lenient_until_s"})
#: Dictionaries whose order decides something.
_ORDERED = frozenset({"making", "grants"})
_PLAIN: frozenset[type] = frozenset({int, str, bool, bytes, type(None)})
_CODE = (types.FunctionType, types.MethodType)


def quantised(relative_s: float, exact: bool = False) -> float:
    """A point in time, relative to now, as far as it can decide anything.

    :param exact: do not round what is ahead, nor what is between now and three timeouts ago.
    """
    if exact and relative_s >= -3 * TIMEOUT_S:
        return relative_s
    if relative_s > 2 * TIMEOUT_S:
        return FAR_S
    if relative_s > TICK_S:
        return TIMEOUT_S
    if relative_s > 0:
        return relative_s
    if relative_s < -3 * TIMEOUT_S:
        return OLD_S
    return 0.0 if relative_s > -TIMEOUT_S / 2 else OLD_S


class _Value(int):
    """The number of a frozen value."""


class _Dict(tuple[Any, ...]):
    """(key, value) pairs."""


class _Set(tuple[Any, ...]):
    """Elements, sorted."""


class _List(tuple[Any, ...]):
    """Elements in order."""


class _Deque(tuple[Any, ...]):
    """Elements in order."""


class _Array(tuple[Any, ...]):
    """Elements in order."""


class _Part(tuple[Any, ...]):
    """The place of one of the replica's fixed parts."""


class _Machine(tuple[Any, ...]):
    """(type of an Automat machine, name of its state)."""


class _Made(tuple[Any, ...]):
    """(class, the values of its fields)."""


def _machines() -> dict[type, tuple[Any, dict[str, Any]]]:
    """For each type of machine instances: what makes them, and its states by name."""
    known: dict[type, tuple[Any, dict[str, Any]]] = {}
    for chart in CHARTS:
        states = {state.name: state for state in chart.machine.__automat_automaton__.states()}
        known[chart.machine.__automat_type__] = (chart.machine, states)
    return known


_MACHINES = _machines()


def _is_mutable(cls: type) -> bool:
    """Whether instances are parts of a replica that change, as opposed to frozen values."""
    hashed: object = cls.__hash__
    return cls.__module__.startswith("txvbcast.core.") and hashed in (None, object.__hash__)


def _field_names(thing: object) -> tuple[str, ...]:
    cls = type(thing)
    if attrs.has(cls):
        return tuple(field.name for field in attrs.fields(cls))
    return tuple(sorted(vars(thing)))


class Shelf:
    """What the states of one node are made of, each thing once, by number."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.parts: list[list[tuple[Any, ...]]] = []
        self.part_numbers: list[dict[tuple[Any, ...], int]] = []
        self._numbers: dict[Any, _Value] = {}
        self._known: dict[int, _Value] = {}
        self._kept: list[Any] = []

    def number(self, value: Any) -> _Value:
        """The number of a frozen value; equal values have the same."""
        number = self._known.get(id(value))
        if number is None:
            number = self._numbers.get(value)
            if number is None:
                number = self._numbers[value] = _Value(len(self.values))
                self.values.append(value)
            self._known[id(value)] = number
            self._kept.append(value)  # so that its id stays its own
        return number


class Mould:
    """A replica that can be set to any state that a replica of that node was in.

    A state is a row of numbers, one for each part of the replica; the shelf has what they mean.

    :ivar replica: the one whose parts are filled; never replace any of its parts.
    """

    def __init__(self, replica: Replica, shelf: Shelf) -> None:
        self.replica = replica
        self._shelf = shelf
        self._parts: list[Any] = []
        self._places: dict[int, int] = {}
        self._find_parts(replica)
        self._fields = [(part, self._state_of(part)) for part in self._parts]
        if not shelf.parts:
            shelf.parts = [[] for _ in self._parts]
            shelf.part_numbers = [{} for _ in self._parts]
        self._encoders: dict[type, Callable[[Any, str], Any]] = {
            float: self._encode_time,
            tuple: self._encode_tuple,
            dict: self._encode_dict,
            set: lambda value, name: _Set(sorted(value)),
            list: lambda value, name: _List([self._encode(each, name) for each in value]),
            deque: lambda value, name: _Deque([self._encode(each, name) for each in value]),
            array: lambda value, name: _Array(value),
        }
        self._decoders: dict[type, Callable[[Any], Any]] = {
            _Value: shelf.values.__getitem__,
            tuple: lambda value: tuple([self._decode(each) for each in value]),
            _Dict: lambda value: {self._decode(key): self._decode(each) for key, each in value},
            _Set: set,
            _List: lambda value: [self._decode(each) for each in value],
            _Deque: lambda value: deque([self._decode(each) for each in value]),
            _Array: lambda value: array("Q", value),
            _Part: lambda value: self._parts[value[0]],
            _Made: self._decode_made,
        }
        self._now_s = 0.0
        self._exact = False
        self._holds = [-1] * len(self._parts)

    # --- the fixed parts ---------------------------------------------------------------

    def _find_parts(self, thing: Any) -> None:
        """Everything that a fresh replica is made of, and that it never exchanges."""
        if id(thing) in self._places:
            return
        self._places[id(thing)] = len(self._parts)
        self._parts.append(thing)
        for name in _field_names(thing):
            value = getattr(thing, name)
            for each in value.values() if isinstance(value, dict) else (value,):
                if _is_mutable(type(each)) and type(each) not in _MACHINES:
                    self._find_parts(each)

    def _state_of(self, part: Any) -> tuple[str, ...]:
        """The fields of a part that hold state."""
        return tuple(
            name
            for name in _field_names(part)
            if name not in _CONSTANT | _UNSEEN and not self._is_fixed(getattr(part, name))
        )

    def _is_fixed(self, value: Any) -> bool:
        if isinstance(value, dict) and value:
            return all(map(self._is_fixed, value.values()))
        return id(value) in self._places or isinstance(value, _CODE)

    # --- out -----------------------------------------------------------------------------

    def read(self) -> tuple[int, ...]:
        """The state of the replica, as of its last step."""
        self._now_s = self.replica.commons.now_s
        encode = self._encode
        state: list[int] = []
        for place, (part, names) in enumerate(self._fields):
            self._exact = not self._now_s
            values = tuple(
                [
                    value if type(value := getattr(part, name)) in _PLAIN else encode(value, name)  # a call less each
                    for name in names
                ]
            )
            known = self._shelf.part_numbers[place]
            number = known.get(values)
            if number is None:
                number = known[values] = len(known)
                self._shelf.parts[place].append(values)
            self._holds[place] = number if self._exact else -1
            state.append(number)
        return tuple(state)

    def _encode(self, value: Any, name: str) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        encoder = self._encoders.get(kind)
        if encoder is None:
            encoder = self._encoders[kind] = self._encoder_of(kind)
        return encoder(value, name)

    def _encoder_of(self, kind: type) -> Callable[[Any, str], Any]:
        if kind in _MACHINES:
            return lambda value, name: _Machine((kind, value.__automat_transitioner__._state.name))
        if _is_mutable(kind):
            return self._encode_mutable
        if attrs.has(kind) and any(field.type in (float, "float") for field in attrs.fields(kind)):
            return self._encode_made
        if attrs.has(kind) or issubclass(kind, enum.Enum):
            return lambda value, name: self._shelf.number(value)
        raise TypeError(f"a replica holds a {kind.__name__}, which Mould does not know: teach it")

    def _encode_time(self, value: float, name: str) -> float:
        if name in _DURATIONS:
            return value
        rounded = quantised(value - self._now_s, exact=name in _EXACT)
        if rounded != value:
            self._exact = False
        return rounded

    def _encode_tuple(self, value: tuple[Any, ...], name: str) -> tuple[Any, ...]:
        return tuple([self._encode(each, name) for each in value])

    def _encode_dict(self, value: dict[Any, Any], name: str) -> _Dict:
        items = value.items() if name in _ORDERED else sorted(value.items(), key=lambda item: item[0])
        return _Dict([(self._encode_key(key), self._encode(each, name)) for key, each in items])

    def _encode_key(self, key: Any) -> Any:
        return key if type(key) in _PLAIN else self._shelf.number(key)

    def _encode_mutable(self, value: Any, name: str) -> Any:
        place = self._places.get(id(value))
        return self._encode_made(value, name) if place is None else _Part((place,))

    def _encode_made(self, value: Any, name: str) -> _Made:
        names = _field_names(value)
        return _Made((type(value), tuple([self._encode(getattr(value, each), each) for each in names])))

    # --- in --------------------------------------------------------------------------------

    def set(self, state: tuple[int, ...]) -> None:
        """Put the replica into a state that :meth:`read` gave; its now is 0."""
        decoders = self._decoders
        for place, number in enumerate(state):
            if self._holds[place] == number:
                continue  # as the last step left it
            part, names = self._fields[place]
            for name, value in zip(names, self._shelf.parts[place][number], strict=True):
                decoder = decoders.get(type(value))
                if decoder is not None:
                    setattr(part, name, decoder(value))
                elif type(value) is _Machine:
                    _set_machine(part, value)
                else:
                    setattr(part, name, value)
        self._holds = [-1] * len(self._holds)

    def _decode(self, value: Any) -> Any:
        decoder = self._decoders.get(type(value))
        return value if decoder is None else decoder(value)

    def _decode_made(self, value: _Made) -> Any:
        cls, values = value
        thing = cls.__new__(cls)
        for name, each in zip(_field_names(thing), values, strict=True):
            if type(each) is _Machine:
                _set_machine(thing, each)
            else:
                object.__setattr__(thing, name, self._decode(each))
        return thing


def _set_machine(holder: Any, at: _Machine) -> None:
    """Give ``holder`` its machine anew, above the core that it has, in the state it was in."""
    kind, state = at
    machine, states = _MACHINES[kind]
    holder.machine = machine(holder.core, states[state])


# --- numbers that only have to differ --------------------------------------------------------


def renumber(replica: Replica, pending: tuple[Persist | ReadLog, ...]) -> tuple[Persist | ReadLog, ...]:
    """Count the tokens of the disk from 1 again, and the ticks within one heartbeat.

    :param pending: what the disk has not answered yet.
    :returns: the same under the new tokens.
    """
    replica._ticks %= 2
    journal, server = replica.journal, replica.server
    written = min((write.token for write in journal._writes), default=journal._token + 1) - 1
    asked = [operation.token for operation in pending if isinstance(operation, ReadLog)]
    read = min([*asked, *server._reads], default=server._token + 1) - 1
    if written:
        journal._token -= written
        journal._writes = deque(attrs.evolve(write, token=write.token - written) for write in journal._writes)
        journal._waiting = deque((token - written, out, signals) for token, out, signals in journal._waiting)
    if read:
        server._token -= read
        server._reads = {token - read: asked for token, asked in server._reads.items()}
    if not (written or read):
        return pending
    return tuple(
        attrs.evolve(operation, token=operation.token - (read if isinstance(operation, ReadLog) else written))
        for operation in pending
    )
