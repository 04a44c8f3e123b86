"""Bodies in JSON: nodes become pieces, in which what a producer wrote keeps its bytes."""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar, assert_never

import msgspec

from relay.contracts.facts import DATA, Fact, Piece, Reader, plain, quoted
from relay.contracts.fields import COUNTED, Rendering
from relay.contracts.payload import Payload
from relay.contracts.tree import Constant, Items, Members, Node, Text

P = TypeVar("P")

_BLANKS = b" \t\r\n"


def member(name: str, node: Node) -> Iterator[Piece]:
    """Yield a member of an object."""
    yield quoted(name) + b":"
    yield from value(node)


def value(node: Node) -> Iterator[Piece]:
    """Yield what stands for a node."""
    return spelled(node, _text)


def spelled(node: Node, write: Callable[[Text], Iterator[P]]) -> Iterator[bytes | P]:
    """Yield the JSON of a node, in which `write` writes the texts."""
    match node:
        case Constant(literal):
            yield literal.encode()
        case Text():
            yield from write(node)
        case Members(of):
            yield b"{"
            for place, (name, inner) in enumerate(of):
                yield b"," * (place > 0) + quoted(name) + b":"
                yield from spelled(inner, write)
            yield b"}"
        case Items(of):
            yield b"["
            for place, inner in enumerate(of):
                yield b"," * (place > 0)
                yield from spelled(inner, write)
            yield b"]"
        case _:
            assert_never(node)


def filled(node: Node, facts: Mapping[str, str]) -> bytes:
    """Return the JSON of a node that stands for no event; `facts` are what its texts ask for. O(its length)"""

    def fill(text: Text) -> Iterator[bytes]:
        parts = text.template.parts
        yield quoted("".join(part.decode() if isinstance(part, bytes) else facts.get(part, "") for part in parts))

    return b"".join(spelled(node, fill))


def members_of(fact: Fact, own: frozenset[str]) -> Reader:
    """Return what writes the members of an object without its braces; none of them may have a name of the contract's own."""

    def read(event: Rendering) -> bytes:
        members_at(fact, event, own)
        return fact.raw(event)[1:-1].strip(_BLANKS)

    return read


def items_of(fact: Fact) -> Reader:
    """Return what writes the items of an array without its brackets."""

    def read(event: Rendering) -> bytes:
        raw = fact.raw(event)
        if not raw.startswith(b"["):
            raise fact.refuse("must be an array: its items become those of the body")
        return raw[1:-1].strip(_BLANKS)

    return read


def members_at(fact: Fact, event: Rendering, own: frozenset[str]) -> Mapping[str, bytes | msgspec.Raw]:
    """Return the members of the object that stands there; Unrenderable for another value, and for a name of `own`."""
    payload = event.data if fact == DATA else Payload(fact.raw(event))  # the data's own are decoded once for everybody
    if payload.members is None:
        raise fact.refuse("must be an object: its members become those of the body")
    for name in payload.members:
        if name in own:
            raise fact.refuse("is set by the contract; leave it out", name)
    return payload.members


def _text(node: Text) -> Iterator[Piece]:
    alone = node.variable
    fact = None if alone is None else Fact.of(alone)
    if fact is not None:
        yield fact.reader
    elif alone is not None and alone in COUNTED:
        yield plain(alone, "plain")
    else:
        yield b'"'
        for part in node.template.parts:
            yield quoted(part.decode())[1:-1] if isinstance(part, bytes) else _inside(part)
        yield b'"'


def _inside(variable: str) -> Piece:
    """Return what writes a variable inside a string."""
    fact = Fact.of(variable)
    if fact is None:
        return plain(variable, "json")

    def read(event: Rendering) -> bytes:
        raw = fact.raw(event)
        if raw.startswith(b'"'):
            return raw[1:-1]
        return quoted(fact.text(event))[1:-1]

    return read
