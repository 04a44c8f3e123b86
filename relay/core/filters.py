r"""Filters: which events an endpoint wants of those that it subscribes to.

A filter is JSON: conditions on paths, all of which must hold. `read` checks one and compiles it, `Filter.passes` decides
about an event, `Filter.failures` says why an event does not pass. docs/API.md has the language.

A path is names of members, joined by dots. A backslash takes a dot, a backslash or a `$` as it is: `data.a\.b`.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from relay.core.conditions import (
    ON_TEXT,
    OPERATORS,
    ORDERING,
    Constant,
    Facts,
    Path,
    Predicate,
    Undecided,
    is_held,
)
from relay.core.issues import Invalid, Issue, did_you_mean, pointer

NESTING_MAX = 10
"""Objects and lists of a filter that may stand inside one another."""

CONDITIONS_MAX = 32
"""Conditions of one filter."""

STEPS_MAX = 16
"""Names in one path."""

FILTER_BYTES_MAX = 8 << 10
"""A filter as JSON."""

FOUND_MAX = 10
FOUND_CHARACTERS_MAX = 200
"""How many of the values at a path an explanation shows, and how much of each."""

ROOTS = ("data", "metadata", "type")
"""What a path begins with."""

COMBINING = ("$and", "$or", "$not")

Place = tuple[str | int, ...]


class Failure(NamedTuple):
    """One condition that keeps an event back."""

    pointer: str  # the condition, in the filter
    path: str
    operator: str
    wanted: str  # as JSON
    negated: bool  # it holds, and must not
    found: Sequence[str]  # the first values at the path, as JSON; empty: there is none
    total: int  # of all values at the path

    @property
    def message(self) -> str:
        """Say it in one sentence."""
        more = f" and {self.total - len(self.found)} more" if self.total > len(self.found) else ""
        found = f"is {', '.join(self.found)}{more}" if self.found else "is missing"
        return f"{self.path} {found}; wanted: {'not ' * self.negated}{self.operator} {self.wanted}"


@dataclass(frozen=True, slots=True)
class Part:
    """One condition, or several that `$and`, `$or` or `$not` combines."""

    operator: str
    place: Place  # where it stands in the filter
    holds: Predicate
    parts: Sequence["Part"] = ()
    path: Path = ()
    wanted: Any = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Filter:
    """A filter, ready for use. Immutable; equal to one that is written the same."""

    text: str  # as JSON
    written: Mapping[str, Any] = field(compare=False, repr=False)
    root: Part = field(compare=False, repr=False)

    def passes(self, facts: Facts) -> bool:
        """Whether an event passes; one that would take too long to look at does. O(conditions, list elements)"""
        try:
            return self.root.holds(facts)
        except Undecided:
            return True

    def failures(self, facts: Facts) -> list[Failure]:
        """List the conditions that keep an event back; none for one that passes."""
        try:
            return list(_failures(self.root, facts, wanted=True))
        except Undecided:
            return []


def _failures(part: Part, facts: Facts, *, wanted: bool) -> Iterator[Failure]:
    if part.holds(facts) is wanted:
        return
    for inner in part.parts:
        yield from _failures(inner, facts, wanted=wanted is not (part.operator == "$not"))
    if not part.parts:
        values = facts[part.path]
        shown = [_shortened(_as_json(value)) for value in values[:FOUND_MAX]]
        asked = _shortened(json.dumps(part.wanted, ensure_ascii=False))
        where = pointer(*part.place)
        yield Failure(where, path_text(part.path), part.operator, asked, not wanted, shown, len(values))


def _as_json(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()
    return str(value.value if isinstance(value, Constant) else value)


def _shortened(text: str) -> str:
    return text if len(text) <= FOUND_CHARACTERS_MAX else text[:FOUND_CHARACTERS_MAX] + "…"


# -- paths -----------------------------------------------------------------------------------------------------------------

_PATH = re.compile(r"((?:[^.\\]|\\[.\\$])+)(?:\.|\Z)")
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = re.compile(r"[.\\]")


def path_text(path: Path) -> str:
    """Write a path as it is written in a filter."""
    return ".".join(_ESCAPES.sub(lambda found: "\\" + found[0], step) for step in path)


def _steps(text: str) -> Path | None:
    """Read names; None for what is no path."""
    names = _PATH.findall(text)
    if not names or ".".join(names) != text:
        return None
    return tuple(_ESCAPED.sub(r"\1", name) for name in names)


# -- reading ---------------------------------------------------------------------------------------------------------------


def read(written: Any) -> Filter:
    """Check and compile a filter; Invalid with every mistake, whose paths are pointers into it."""
    if not isinstance(written, Mapping):
        raise Invalid([Issue("", "must be an object of conditions", _LIKE)])
    if _is_deeper(written, NESTING_MAX):
        raise Invalid([Issue("", f"is nested too deeply; {NESTING_MAX} levels are allowed", "Write it flatter.")])
    text = json.dumps(written, ensure_ascii=False, separators=(",", ":"), default=str)
    size = len(text.encode())
    if size > FILTER_BYTES_MAX:
        raise Invalid([Issue("", f"has {size} bytes as JSON; {FILTER_BYTES_MAX} are allowed", "Shorten it.")])
    reading = _Reading()
    root = _all_of("$and", (), reading.entries(written, ()))
    if reading.conditions > CONDITIONS_MAX:
        sentence = f"has {reading.conditions} conditions; {CONDITIONS_MAX} are allowed"
        reading.blame((), sentence, "Ask for one of several values with $in.")
    if reading.issues:
        raise Invalid(reading.issues)
    return _KNOWN.setdefault(text, Filter(text, written, root))


_KNOWN: WeakValueDictionary[str, "Filter"] = WeakValueDictionary()
_CONDITIONS: WeakValueDictionary[tuple[str, Path, str], Predicate] = WeakValueDictionary()
"""Filters and conditions that are in use. Many endpoints ask the same, and what is the same stays in the processor's caches."""


def _condition(operator: str, path: Path, wanted: Any) -> Predicate:
    return _CONDITIONS.setdefault((operator, path, json.dumps(wanted)), OPERATORS[operator](path, wanted))


def _is_deeper(written: Any, levels: int) -> bool:
    inner = written.values() if isinstance(written, Mapping) else written if isinstance(written, list) else None
    return inner is not None and (levels == 0 or any(_is_deeper(value, levels - 1) for value in inner))


_LIKE = 'Write it like {"data.amount": {"$gte": 100}}.'
_ESCAPES_TOLD = r"Join names by dots; write \. for a dot within a name and \\ for a backslash, doubled within quotes."


class _Reading:
    """One filter on its way from what is written to its parts, with the mistakes so far."""

    def __init__(self) -> None:
        self.issues: list[Issue] = []
        self.conditions = 0

    def blame(self, place: Place, message: str, remedy: str) -> None:
        self.issues.append(Issue(pointer(*place), message, remedy))

    def entries(self, written: Any, place: Place) -> Iterator[Part]:
        """Read an object of paths, and of operators that combine such objects."""
        if not isinstance(written, Mapping) or not written:
            self.blame(place, "must be an object of conditions, not empty", _LIKE)
            return
        for name, value in written.items():
            yield from self._entry((), name, value, (*place, name))

    def _at(self, path: Path, value: Any, place: Place) -> Iterator[Part]:
        """Read what must hold at a path: a value that is there, operators, or what holds at the members within."""
        if isinstance(value, list):
            self.blame(place, "is a list", 'Write {"$in": […]} for one of these, or {"$eq": […]} for this very list.')
        elif not isinstance(value, Mapping):
            yield self._condition("$eq", path, value, place)
        elif not value:
            self.blame(place, "is empty", 'Say what must hold here, such as {"$exists": true}.')
        else:
            for name, inner in value.items():
                yield from self._entry(path, name, inner, (*place, name))

    def _entry(self, path: Path, name: str, value: Any, place: Place) -> Iterator[Part]:
        """Read one member of an object; `path` is empty outside of all paths."""
        if name in COMBINING:
            yield self._combined(path, name, value, place)
        elif name in OPERATORS and path:
            yield self._condition(name, path, value, place)
        elif name.startswith("$"):
            self.blame(place, *_misplaced(name))
        elif path and f"${name}" in _ALL:
            remedy = f'Write "${name}", or "{path_text((*path, name))}" outside for a member of this name.'
            self.blame(place, f"may be the operator ${name} or a member", remedy)
        else:
            longer = self._path(path, name, place)
            if longer is not None:
                yield from self._at(longer, value, place)

    def _path(self, above: Path, name: str, place: Place) -> Path | None:
        steps = _steps(name)
        if steps is None:
            self.blame(place, "is no path", _ESCAPES_TOLD)
            return None
        path = (*above, *steps)
        fault = _path_fault(path)
        if fault is not None:
            self.blame(place, *fault)
            return None
        return path

    def _combined(self, path: Path, operator: str, value: Any, place: Place) -> Part:
        def one(each: Any, at: Place) -> Part:
            return _all_of("$and", at, self._at(path, each, at) if path else self.entries(each, at))

        if operator == "$not":
            inner = one(value, place)
            return Part("$not", place, lambda facts: not inner.holds(facts), (inner,))
        if not isinstance(value, list) or not value:
            self.blame(place, "must be a list, not empty", f'Write it like {{"{operator}": [{{…}}, {{…}}]}}.')
            return Part(operator, place, _never)
        parts = [one(each, (*place, index)) for index, each in enumerate(value)]
        return _all_of(operator, place, parts) if operator == "$and" else _any_of(operator, place, parts)

    def _condition(self, operator: str, path: Path, wanted: Any, place: Place) -> Part:
        self.conditions += 1
        fault = _fault(operator, wanted)
        if fault is not None:
            self.blame(place, *fault)
            return Part(operator, place, _never)
        return Part(operator, place, _condition(operator, path, wanted), (), path, wanted)


_ALL = (*OPERATORS, *COMBINING)

_Fault = tuple[str, str] | None
"""What is wrong, and what to do about it."""


def _misplaced(name: str) -> tuple[str, str]:
    if name in OPERATORS:
        return f"{name} asks nothing without a path", _LIKE
    known = f"The operators are {', '.join(_ALL)}; a member of this name is written \\{name}."
    return "there is no such operator", did_you_mean(name, _ALL) or known


def _path_fault(path: Path) -> _Fault:
    if path[0] not in ROOTS:
        remedy = f'Begin with data, metadata or type, such as "data.{path_text(path)}".'
        return f"no path begins with {path[0][:64]!r}", did_you_mean(path[0], ROOTS) or remedy
    if path[0] == "type" and len(path) > 1:
        return "the type is text, which has nothing inside", 'Write "type".'
    if len(path) > STEPS_MAX:
        return f"is a path of {len(path)} names; {STEPS_MAX} are allowed", "Ask for something further up."
    return None


def _fault(operator: str, wanted: Any) -> _Fault:
    """Return what is wrong with what an operator is given."""
    if operator in ("$in", "$nin"):
        if not isinstance(wanted, list) or not wanted:
            return "must be a list, not empty", f'Write it like {{"{operator}": ["a", "b"]}}.'
    elif operator == "$exists":
        return None if isinstance(wanted, bool) else ("must be true or false", "Write it without quotes.")
    elif operator in ON_TEXT:
        return None if isinstance(wanted, str) and wanted else ("must be text, not empty", "Put it in quotes.")
    elif operator in ORDERING and (isinstance(wanted, bool) or not isinstance(wanted, str | int | float | Decimal)):
        return "must be a number or text", "Nothing else has an order."
    return _value_fault(wanted)


def _value_fault(value: Any) -> _Fault:
    if isinstance(value, Mapping | list):
        within = value.values() if isinstance(value, Mapping) else value
        return next(filter(None, map(_value_fault, within)), None)
    if not is_held(value):
        remedy = "Whole numbers have 64 bits, others the 15 to 17 digits of a double."
        return "is a number that cannot be kept exactly", remedy
    if value is None or isinstance(value, str | int | float):
        return None
    return f"is a {type(value).__name__}, which JSON does not have", "Write it as text, in quotes."


# -- combining -------------------------------------------------------------------------------------------------------------


def _never(facts: Facts) -> bool:
    """Stand where a mistake leaves nothing to ask."""
    return False


def _all_of(operator: str, place: Place, parts: Iterable[Part]) -> Part:
    """Combine parts that must all hold; one alone stays as it is."""
    found = tuple(parts)
    tests = [part.holds for part in found]
    if len(tests) == 1:
        return found[0]
    if len(tests) == 2:
        first, second = tests
        return Part(operator, place, lambda facts: first(facts) and second(facts), found)
    if len(tests) == 3:
        one, two, three = tests
        return Part(operator, place, lambda facts: one(facts) and two(facts) and three(facts), found)

    def every(facts: Facts) -> bool:
        for holds in tests:  # noqa: SIM110  # `all` over a generator takes twice as long
            if not holds(facts):
                return False
        return True

    return Part(operator, place, every, found)


def _any_of(operator: str, place: Place, parts: Sequence[Part]) -> Part:
    tests = [part.holds for part in parts]

    def some(facts: Facts) -> bool:
        for holds in tests:  # noqa: SIM110  # as above: twice as fast
            if holds(facts):
                return True
        return False

    return Part(operator, place, some, tuple(parts))
