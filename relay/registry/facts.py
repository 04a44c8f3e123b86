"""What filters see of an event: its type, data and metadata, read only where some filter looks, and there once.

A path goes through objects by the names of their members. A list stands for its elements, and for those of lists among
them; a name that is a whole number takes the one element at that place instead. At the end of a path a list counts
itself, too. Numbers stay as exact as they are written.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from relay.contracts.payload import Slice, split_array, split_object, text_of
from relay.core.conditions import CONSTANTS, Path, Undecided, Values

LOOKS_MAX = 20_000
"""Elements of lists, and KiB of long texts, that all filters together look at in one event."""

_SCALAR = msgspec.json.Decoder(float_hook=Decimal)


class EventFacts(dict[Path, Values]):
    """The values of one event by path. What leads through no list is looked up once; what does counts each time."""

    __slots__ = ("_left", "_lists", "_objects")

    def __init__(self, event_type: str, data: bytes, metadata: bytes | None) -> None:
        self[("type",)] = (event_type,)
        roots: Mapping[str, Slice] = {"data": data} if metadata is None else {"data": data, "metadata": metadata}
        self._objects: dict[Path, Mapping[str, Slice] | None] = {(): roots}  # None: a list stands there or before
        self._lists: dict[Path, Values] = {}
        self._left = LOOKS_MAX

    @property
    def is_exhausted(self) -> bool:
        """Whether some filter was left undecided."""
        return self._left < 0

    def spend(self, looks: int, /) -> None:
        """Count what is looked at; Undecided beyond LOOKS_MAX."""
        self._left -= looks
        if self._left < 0:
            raise Undecided

    def __missing__(self, path: Path) -> Values:
        *above, name = path
        members = self._members(tuple(above))
        if members is None:
            return self._through_lists(path)
        if name not in members:
            return self.setdefault(path, ())
        value = self.value(members[name])
        if value.__class__ is Compound and value.is_list:
            return self._through_lists(path)
        return self.setdefault(path, (value,))

    def _members(self, path: Path) -> Mapping[str, Slice] | None:
        if path in self._objects:
            return self._objects[path]
        above = self._members(path[:-1])
        raw = b"" if above is None else bytes(above.get(path[-1], b""))
        members: Mapping[str, Slice] | None = {}
        if above is None or raw[:1] == b"[":
            members = None
        elif raw[:1] == b"{":
            members = split_object(raw)
        self._objects[path] = members
        return members

    def _through_lists(self, path: Path) -> Values:
        found = self._lists.get(path)
        if found is None:
            found = self._lists[path] = tuple(self._reached(path))
        self.spend(len(found))
        return found

    def _reached(self, path: Path) -> Iterator[Any]:
        """Yield what a path leads to, in the order of the text."""
        waiting: list[tuple[Slice, int]] = [((self._objects[()] or {})[path[0]], 1)]
        while waiting:
            part, at = waiting.pop()
            raw = bytes(part)
            step = path[at] if at < len(path) else None
            if raw[:1] == b"[":
                items = split_array(raw)
                if step is not None and _is_place(step):
                    self.spend(1 + len(raw) // 1024)
                    place = int(step)
                    waiting += [(item, at + 1) for item in items[place : place + 1]]
                    continue
                self.spend(len(items) + len(raw) // 1024)
                waiting += [(item, at) for item in reversed(items)]
            if step is None:
                yield self.value(raw)
            elif raw[:1] == b"{":
                self.spend(1 + len(raw) // 1024)
                members = split_object(raw)
                if step in members:
                    waiting.append((members[step], at + 1))

    def value(self, part: Slice) -> Any:
        """Return what conditions compare."""
        raw = bytes(part)
        if raw[0] in b"{[":
            return Compound(raw, self)
        try:
            value = _SCALAR.decode(raw)
        except (msgspec.DecodeError, InvalidOperation):
            return text_of(raw) if raw[:1] == b'"' else _number(raw.decode())
        return CONSTANTS[value] if value is None or value.__class__ is bool else value


def _is_place(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10 and (name == "0" or name[0] != "0")


def _number(text: str) -> Decimal:
    """Read a number of very many digits, or with an exponent beyond 10^18: nothing is as large, or as small."""
    try:
        return Decimal(text)
    except InvalidOperation:
        mantissa, _, exponent = text.lower().partition("e")
        number = Decimal(mantissa)
        return number * Decimal("Infinity") if number and not exponent.startswith("-") else Decimal(0)


class Compound:
    """An array or object at the end of a path: a slice of the event, taken apart where it is compared."""

    __slots__ = ("_facts", "_raw")

    def __init__(self, raw: bytes, facts: EventFacts) -> None:
        self._raw = raw
        self._facts = facts

    @property
    def is_list(self) -> bool:
        """Whether it is an array."""
        return self._raw.startswith(b"[")

    def __eq__(self, other: object) -> bool:
        """Compare with a list or dict of values."""
        if not isinstance(other, list | dict) or isinstance(other, list) is not self.is_list:
            return self is other
        self._facts.spend(1 + len(other) + len(self._raw) // 1024)
        value = self._facts.value
        if isinstance(other, list):
            items = split_array(self._raw)
            return len(items) == len(other) and all(map(lambda item, one: value(item) == one, items, other))
        members = split_object(self._raw)
        return members.keys() == other.keys() and all(value(members[name]) == one for name, one in other.items())

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self._raw.decode()
