"""Bodies in XML 1.0: nodes become elements in order. A member `@name` is an attribute, a member `#text` what stands between."""

import re
from collections.abc import Iterator

from relay.contracts import as_json
from relay.contracts.facts import Fact, Piece, Reader, plain
from relay.contracts.fields import Rendering
from relay.contracts.payload import Payload, as_text
from relay.contracts.tree import NULL, Constant, Items, Members, Node, Text

DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>'

TEXT = "#text"

NAME = re.compile(r"[^\W\d][\w.-]*(?::[^\W\d][\w.-]*)?")
"""Names of elements and attributes, with a prefix at most."""

_UNWRITABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_INSIDE = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_QUOTED = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;"}
)


def is_attribute(name: str) -> bool:
    return name.startswith("@")


def unfit_names(name: str, node: Node) -> Iterator[str]:
    """Yield what XML cannot have for a name, here and in what the node holds."""
    if name != TEXT and not NAME.fullmatch(name.removeprefix("@")):
        yield name
    if isinstance(node, Members):
        for inner, value in node.of:
            yield from unfit_names(inner, value)
    elif isinstance(node, Items):
        for value in node.of:
            yield from unfit_names(name, value)


def attribute(name: str, node: Node) -> Iterator[Piece]:
    """Yield an attribute with the blank before it."""
    yield f' {name.removeprefix("@")}="'.encode()
    yield from _text(node, _QUOTED)
    yield b'"'


def element(name: str, node: Node) -> Iterator[Piece]:
    """Yield an element; for items and arrays one for each, all of the same name."""
    fact = Fact.of(node.variable) if isinstance(node, Text) and node.variable is not None else None
    if fact is not None:
        yield lambda event: _element(name, fact.raw(event), fact)
        return
    if isinstance(node, Items):
        for item in node.of:
            yield from element(name, item)
        return
    yield f"<{name}".encode()
    inside: dict[str, Node] = dict(node.of) if isinstance(node, Members) else {TEXT: node}
    for inner, value in inside.items():
        if is_attribute(inner):
            yield from attribute(inner, value)
    yield b">"
    for inner, value in inside.items():
        if inner == TEXT:
            yield from _text(value, _INSIDE)
        elif not is_attribute(inner):
            yield from element(inner, value)
    yield f"</{name}>".encode()


def escaped(text: str, *, in_attribute: bool) -> str:
    """Escape what stands between tags, or between quotation marks."""
    return text.translate(_QUOTED if in_attribute else _INSIDE)


def elements_of(fact: Fact, own: frozenset[str]) -> Reader:
    """Return what writes the members of an object as elements; none of them may have a name of the contract's own."""

    def read(event: Rendering) -> bytes:
        members = as_json.members_at(fact, event, own)
        return b"".join(_element(name, bytes(raw), fact) for name, raw in members.items())

    return read


def _text(node: Node, table: dict[int, str]) -> Iterator[Piece]:
    if isinstance(node, Constant):
        yield b"" if node == NULL else node.spelled.encode()
    elif isinstance(node, Text):
        for part in node.template.parts:
            yield part.decode().translate(table).encode() if isinstance(part, bytes) else _inside(part, table)


def _inside(variable: str, table: dict[int, str]) -> Piece:
    fact = Fact.of(variable)
    if fact is None:
        return plain(variable, "attribute" if table is _QUOTED else "xml")
    return lambda event: _escaped(fact.text(event), table, fact)


def _element(name: str, raw: bytes, fact: Fact) -> bytes:
    """Write a JSON value as an element; an array as one for each item, one of arrays with an element `item` for theirs."""
    if not NAME.fullmatch(name):
        raise fact.refuse(f"has a member {name[:40]!r}, which is no name of an XML element; rename it")
    if raw.startswith(b"["):
        return b"".join(_item(name, bytes(item), fact) for item in Payload(raw).items or ())
    return b"<%s>%s</%s>" % (name.encode(), _content(raw, fact), name.encode())


def _item(name: str, raw: bytes, fact: Fact) -> bytes:
    if not raw.startswith(b"["):
        return _element(name, raw, fact)
    return b"<%s>%s</%s>" % (name.encode(), _element("item", raw, fact), name.encode())


def _content(raw: bytes, fact: Fact) -> bytes:
    if raw.startswith(b"{"):
        members = Payload(raw).members or {}
        return b"".join(_element(name, bytes(value), fact) for name, value in members.items())
    return b"" if raw == b"null" else _escaped(as_text(raw), _INSIDE, fact)


def _escaped(text: str, table: dict[int, str], fact: Fact) -> bytes:
    if _UNWRITABLE.search(text):
        raise fact.refuse("holds a control character, which XML cannot carry; take it out")
    return text.translate(table).encode()
