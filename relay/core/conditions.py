"""Conditions: what a filter asks of the values at one path of an event. Each holds if any of the values does it.

`Facts` have the values of an event: several where a path leads through a list, none where nothing is there. Numbers are
compared with numbers, as exactly as they are written, and text with text; nothing is turned into something else.
"""

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from math import isfinite
from typing import Any, Protocol

Path = tuple[str, ...]
"""Names of members, each within the one before; the first is `data`, `metadata` or `type`."""

Values = tuple[Any, ...]


class Constant(Enum):
    """JSON's true, false and null; unlike Python's they equal no number."""

    TRUE = "true"
    FALSE = "false"
    NULL = "null"


CONSTANTS: Mapping[bool | None, Constant] = {True: Constant.TRUE, False: Constant.FALSE, None: Constant.NULL}


class Undecided(Exception):
    """So much of this event has been looked at that looking ends: the filter is taken to let it through."""


class Facts(Protocol):
    """An event as filters see it: the values at each path, and a count of what was looked at.

    Texts are `str`, numbers `int` or `Decimal`, others `Constant`; an array or object equals the list or dict of such
    values that it holds, and its text is its JSON.
    """

    def __getitem__(self, path: Path, /) -> Values:
        """Return what there is at a path; Undecided when it leads through too much."""

    def spend(self, looks: int, /) -> None:
        """Count what is looked at; Undecided when it is too much."""


Predicate = Callable[[Facts], bool]
Compiler = Callable[[Path, Any], Predicate]

TEXT_PER_LOOK = 1 << 10
"""Characters of a long text that are searched for the price of one list element."""


def exact(text: str) -> int | float | Decimal:
    """Read a number as it is written: a Decimal is one that neither 64 bits nor a double hold."""
    if text.lstrip("+-").isdecimal():
        number = int(text)
        return number if is_held(number) else Decimal(number)
    try:
        written, held = Decimal(text), float(text)
        return held if not written.is_finite() or Decimal(repr(held)) == written else written
    except InvalidOperation:  # an exponent beyond 10^18
        return Decimal("NaN")


def is_held(value: Any) -> bool:
    """Whether a value is kept as it is written: a number that is not does not go into a filter."""
    if isinstance(value, float):
        return isfinite(value)
    return not isinstance(value, Decimal) and (not isinstance(value, int) or -(1 << 63) <= value < 1 << 64)


def literal(written: Any) -> Any:
    """Return a value as `Facts` has them."""
    if isinstance(written, Mapping):
        return {name: literal(value) for name, value in written.items()}
    if isinstance(written, list):
        return [literal(value) for value in written]
    if isinstance(written, float):
        return Decimal(repr(written))
    if written is None or isinstance(written, bool):
        return CONSTANTS[written]
    return written


def _not(compile_one: Compiler) -> Compiler:
    def compiled(path: Path, wanted: Any) -> Predicate:
        holds = compile_one(path, wanted)
        return lambda facts: not holds(facts)

    return compiled


def _eq(path: Path, wanted: Any) -> Predicate:
    value = literal(wanted)
    return lambda facts: value in facts[path]


def _in(path: Path, wanted: Any) -> Predicate:
    values = [literal(each) for each in wanted]
    whole = [value for value in values if isinstance(value, list | dict)]
    plain = frozenset(value for value in values if not isinstance(value, list | dict))
    if not whole:
        return lambda facts: not plain.isdisjoint(facts[path])
    return lambda facts: not plain.isdisjoint(facts[path]) or any(value in facts[path] for value in whole)


def _exists(path: Path, wanted: Any) -> Predicate:
    return (lambda facts: bool(facts[path])) if wanted else (lambda facts: not facts[path])


Order = Callable[[Any, Any], bool]


def _ordered(order: Order) -> Compiler:
    """Compare numbers with numbers and text with text, by code points."""

    def compiled(path: Path, wanted: Any) -> Predicate:
        value = literal(wanted)
        kinds = frozenset([str] if isinstance(value, str) else [int, Decimal])

        def holds(facts: Facts) -> bool:
            for found in facts[path]:  # noqa: SIM110  # `any` over a generator takes twice as long
                if found.__class__ in kinds and order(found, value):
                    return True
            return False

        return holds

    return compiled


def _on_text(test: Order) -> Compiler:
    def compiled(path: Path, wanted: Any) -> Predicate:
        def holds(facts: Facts) -> bool:
            for found in facts[path]:  # noqa: SIM110  # as above: twice as fast
                if found.__class__ is str and test(found, wanted):
                    return True
            return False

        return holds

    return compiled


def _contains(path: Path, wanted: Any) -> Predicate:
    def holds(facts: Facts) -> bool:
        for found in facts[path]:
            if found.__class__ is str:
                if len(found) > TEXT_PER_LOOK:
                    facts.spend(len(found) // TEXT_PER_LOOK)
                if wanted in found:
                    return True
        return False

    return holds


ORDERING: Mapping[str, Order] = {
    "$gt": lambda found, wanted: found > wanted,
    "$gte": lambda found, wanted: found >= wanted,
    "$lt": lambda found, wanted: found < wanted,
    "$lte": lambda found, wanted: found <= wanted,
}
ON_TEXT: Mapping[str, Compiler] = {
    "$prefix": _on_text(str.startswith),
    "$suffix": _on_text(str.endswith),
    "$contains": _contains,
}
OPERATORS: Mapping[str, Compiler] = {
    "$eq": _eq,
    "$ne": _not(_eq),
    "$in": _in,
    "$nin": _not(_in),
    **{name: _ordered(order) for name, order in ORDERING.items()},
    "$exists": _exists,
    **ON_TEXT,
}
"""What compiles each condition."""
