"""Values before it is known how they are written: texts with variables, constants, and what holds them in order.

They stand in a contract file as TOML, or as JSON text for what TOML has no word for: null, and numbers in any spelling.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from relay.contracts.template import Template
from relay.core.errors import RelayError


class TreeError(RelayError):
    """A value that no body can carry."""


class Text(NamedTuple):
    """A text; one that is a single variable stands for that variable's own value, such as a number."""

    template: Template

    @property
    def variable(self) -> str | None:
        """The variable that is the whole text; None for any other text."""
        (only, *others) = self.template.parts or (b"",)
        return only if isinstance(only, str) and not others else None


class Constant(NamedTuple):
    """A number, true, false or null, as it is spelled in JSON."""

    spelled: str


class Members(NamedTuple):
    """Named values in order."""

    of: tuple[tuple[str, "Node"], ...]


class Items(NamedTuple):
    """Values in order."""

    of: tuple["Node", ...]


Node = Text | Constant | Members | Items
Compile = Callable[[str], Template]

NULL = Constant("null")

_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


class Spelled(float):
    """A fraction of a TOML file that keeps its spelling: 30.0 is sent as 30.0."""

    literal: str

    def __new__(cls, literal: str) -> "Spelled":
        number = super().__new__(cls, literal)
        number.literal = literal.replace("_", "").removeprefix("+")
        return number


def from_toml(value: object, compile: Compile) -> Node:
    """Make a node of a value of a TOML file; TreeError for what JSON does not have."""
    match value:
        case str():
            return Text(compile(value))
        case bool() | int():
            return Constant(json.dumps(value))
        case float():
            return _fraction(value.literal if isinstance(value, Spelled) else repr(value))
        case list():
            return Items(tuple(from_toml(item, compile) for item in value))
        case dict():
            return Members(tuple((name, from_toml(item, compile)) for name, item in value.items()))
    raise TreeError("dates are no values of a body", remedy="Write it in quotes as text, or take a variable.")


def from_json(text: str, compile: Compile) -> Node:
    """Make a node of JSON text, in which every string is a template; TreeError for what is no JSON."""
    try:
        found = json.loads(
            text, parse_int=Constant, parse_float=Constant, parse_constant=_fraction, object_pairs_hook=_Pairs
        )
    except ValueError as error:
        raise TreeError(f"is not JSON: {error}", remedy="Mend it.") from None
    return _from_json(found, compile)


def texts(node: Node) -> Iterator[Text]:
    """Yield every text of a node, however deep it stands."""
    match node:
        case Text():
            yield node
        case Members(of):
            for _, inner in of:
                yield from texts(inner)
        case Items(of):
            for inner in of:
                yield from texts(inner)


class _Pairs(list[tuple[str, Any]]):
    """The members of a JSON object, in their order."""


def _from_json(value: Any, compile: Compile) -> Node:
    match value:
        case Constant():
            return value
        case str():
            return Text(compile(value))
        case None | bool():
            return Constant(json.dumps(value))
        case _Pairs():
            return Members(tuple((name, _from_json(item, compile)) for name, item in value))
    return Items(tuple(_from_json(item, compile) for item in value))


def _fraction(literal: str) -> Constant:
    if not _NUMBER.fullmatch(literal):
        raise TreeError(f"{literal} is no number of JSON", remedy="Write it in quotes as text.")
    return Constant(literal)
