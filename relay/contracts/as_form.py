"""Bodies of the media type application/x-www-form-urlencoded: nodes become fields, in the order of the contract."""

from collections.abc import Iterator
from typing import Literal
from urllib.parse import quote_plus

from relay.contracts import as_json
from relay.contracts.facts import Fact, Piece, Reader, plain
from relay.contracts.fields import Rendering
from relay.contracts.frozen import MARK
from relay.contracts.payload import Payload, as_text
from relay.contracts.tree import NULL, Constant, Items, Members, Node, Text

Nested = Literal["json", "brackets"]
"""How an object or array is a field: as one whose text is JSON, or as one for each value, `a[b]=1&a[c][0]=2`."""


def field(name: str, node: Node, nested: Nested) -> Iterator[Piece]:
    """Yield a field, or several fields with `&` between them."""
    match node:
        case Constant(spelled):
            yield b"%s=%s" % (encoded(name), b"" if node == NULL else encoded(spelled))
        case Text():
            yield from _text(name, node, nested)
        case Members(of) if nested == "brackets":
            yield from _several([(f"{name}[{inner}]", value) for inner, value in of], nested)
        case Items(of) if nested == "brackets":
            yield from _several([(f"{name}[{place}]", value) for place, value in enumerate(of)], nested)
        case _:
            yield encoded(name) + b"="
            yield from map(_encoding, as_json.value(node))


def fields_of(fact: Fact, own: frozenset[str], nested: Nested) -> Reader:
    """Return what writes the members of an object as fields; none of them may have a name of the contract's own."""

    def read(event: Rendering) -> bytes:
        members = as_json.members_at(fact, event, own)
        return b"&".join(filter(None, (_value(name, bytes(raw), nested) for name, raw in members.items())))

    return read


def encoded(text: str) -> bytes:
    """Encode a text as the URL standard says for forms: a blank is +, in place of a lone surrogate stands a mark."""
    return quote_plus(text, safe="*", errors="replace").replace("~", "%7E").encode()


def _several(fields: list[tuple[str, Node]], nested: Nested) -> Iterator[Piece]:
    for place, (name, node) in enumerate(fields):
        yield b"&" * (place > 0)
        yield from field(name, node, nested)


def _text(name: str, node: Text, nested: Nested) -> Iterator[Piece]:
    alone = node.variable
    fact = None if alone is None else Fact.of(alone)
    if fact is not None:
        yield lambda event: _value(name, fact.raw(event), nested)
        return
    yield encoded(name) + b"="
    for part in node.template.parts:
        yield encoded(part.decode()) if isinstance(part, bytes) else _inside(part)


def _inside(variable: str) -> Piece:
    fact = Fact.of(variable)
    if fact is not None:
        return lambda event: encoded(fact.text(event))
    return _encoding(plain(variable, "plain"))


def _encoding(piece: Piece) -> Piece:
    if isinstance(piece, bytes):
        if piece.startswith(MARK):  # a gap: what fills it is encoded then
            return piece.removesuffix(MARK) + b"+form" + MARK
        return encoded(piece.decode())
    return lambda event: encoded(piece(event).decode())


def _value(name: str, raw: bytes, nested: Nested) -> bytes:
    """Write a JSON value under a name; nothing for an empty object or array in brackets."""
    if raw[:1] in (b"{", b"[") and nested == "brackets":
        payload = Payload(raw)
        inside = enumerate(payload.items or ()) if payload.members is None else payload.members.items()
        return b"&".join(filter(None, (_value(f"{name}[{key}]", bytes(value), nested) for key, value in inside)))
    return b"%s=%s" % (encoded(name), b"" if raw == b"null" else encoded(as_text(raw)))
