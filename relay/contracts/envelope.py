"""The body of an event: the contract's members in their order, with the producer's bytes in their place."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from relay.contracts import as_form, as_json, as_xml
from relay.contracts.body import Body, Member, facts_of
from relay.contracts.facts import DATA, Fact, Missing, Piece, Reader, Unrenderable
from relay.contracts.fields import Rendering
from relay.contracts.frozen import MARK
from relay.contracts.js import LossyNumber, NotJson, canonical
from relay.contracts.payload import Payload
from relay.core.issues import Issue, pointer

ROOT = "event"
"""The name of the outermost element of a body in XML, if the contract gives no other."""

_SHOWN_CHARACTERS = 40


class _Chunk(NamedTuple):
    """A member, or what else stands between two joints."""

    pieces: tuple[Piece, ...]
    optional: bool = False  # left out of bodies of events that lack what it needs
    is_fixed: bool = True  # it never vanishes, so its joint can be written beforehand

    def render(self, event: Rendering) -> bytes:
        try:
            return _joined(self.pieces, event)
        except Missing:
            if self.optional:
                return b""
            raise


class _Layout(NamedTuple):
    """A body: what opens it, its chunks with a joint between those that are there, and what closes it."""

    opening: bytes
    chunks: tuple[_Chunk, ...]
    joint: bytes
    closing: bytes


class Envelope:
    """Renders bodies. Immutable."""

    def __init__(self, body: Body) -> None:
        self._layout = _LAYOUTS[body.kind](body)
        self._pieces = _merged(_flattened(self._layout))
        self._js = body.mode == "js"
        self._numbers = body.numbers or "refuse"
        self._facts = _facts(body)
        self._ends = self._known_ends()

    def render(self, event: Rendering) -> bytes:
        """Return the body; Unrenderable if the event does not fit in it."""
        body = _joined(self._pieces, event)
        return self._canonical(body, event) if self._js else body

    def normalised(self, data: Payload) -> bytes:
        """Return data that `render` took: what differs in blanks alone is the same to a mode that drops them."""
        return canonical(data.raw, numbers="round") if self._js else data.raw

    def may_have_rendered(self, body: bytes) -> bool:
        """Whether a body begins and ends as every body does."""
        first, last = self._ends
        return body.startswith(first) and body.endswith(last)

    def _known_ends(self) -> tuple[bytes, bytes]:
        first, last = (piece if isinstance(piece, bytes) else b"" for piece in (self._pieces[0], self._pieces[-1]))
        return first.partition(MARK)[0], last.rpartition(MARK)[2]

    def _canonical(self, body: bytes, event: Rendering) -> bytes:
        try:
            return canonical(body, numbers=self._numbers)
        except LossyNumber as lossy:
            shown = lossy.literal[:_SHOWN_CHARACTERS] + ("…" if len(lossy.literal) > _SHOWN_CHARACTERS else "")
            sentence = f"the number {shown} would be another one in JavaScript, so it cannot be signed; send it as text"
            place, room = self._place_of(lossy, event)
            raise Unrenderable(Issue(place, sentence), lossy=True, room=room) from None
        except NotJson as error:
            raise Unrenderable(Issue("", str(error))) from None

    def _place_of(self, lossy: LossyNumber, event: Rendering) -> tuple[str, str]:
        """Find what of the event brought a number into the body: its pointer and its room."""
        for fact in self._facts:
            try:
                canonical(fact.raw(event))
            except LossyNumber as inner:
                if inner.literal == lossy.literal:
                    return pointer(*fact.steps) + inner.pointer, fact.room
            except Missing:
                continue
        return "", "data"


def _joined(pieces: Iterable[Piece], event: Rendering) -> bytes:
    return b"".join([piece if isinstance(piece, bytes) else piece(event) for piece in pieces])


def _facts(body: Body) -> tuple[Fact, ...]:
    found = dict.fromkeys(fact for member in body.members for fact in facts_of(member.node))
    return tuple(found) or (DATA,)


def _flattened(layout: _Layout) -> Iterator[Piece]:
    """Yield the pieces of a whole body; joints are decided for each event only where a chunk may be missing."""
    yield layout.opening
    if all(chunk.is_fixed and not chunk.optional for chunk in layout.chunks):
        for place, chunk in enumerate(layout.chunks):
            yield layout.joint * (place > 0)
            yield from chunk.pieces
    else:
        yield _joining(layout.chunks, layout.joint)
    yield layout.closing


def _joining(chunks: Sequence[_Chunk], joint: bytes) -> Reader:
    whole = [chunk._replace(pieces=_merged(chunk.pieces)) for chunk in chunks]
    return lambda event: joint.join(filter(None, [chunk.render(event) for chunk in whole]))


def _merged(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Join neighbouring bytes, so that rendering touches as few pieces as possible."""
    merged: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, bytes) and merged and isinstance(merged[-1], bytes):
            merged[-1] += piece
        elif piece != b"":
            merged.append(piece)
    return tuple(merged)


# -- the kinds of bodies -----------------------------------------------------------------------------------------------


def _object(body: Body) -> _Layout:
    own = body.own_names
    return _Layout(b"{", tuple(_member(member, own) for member in body.members), b",", b"}")


def _member(member: Member, own: frozenset[str]) -> _Chunk:
    if member.is_spread:
        return _Chunk((as_json.members_of(member.spread_fact, own),), member.optional, is_fixed=False)
    return _Chunk(tuple(as_json.member(member.name, member.node)), member.optional)


def _array(body: Body) -> _Layout:
    chunks = (
        _Chunk((as_json.items_of(member.spread_fact),), member.optional, is_fixed=False)
        if member.is_spread
        else _Chunk(tuple(as_json.value(member.node)), member.optional)
        for member in body.members
    )
    return _Layout(b"[", tuple(chunks), b",", b"]")


def _form(body: Body) -> _Layout:
    own, nested = body.own_names, body.nested or "json"
    chunks = (
        _Chunk((as_form.fields_of(member.spread_fact, own, nested),), member.optional, is_fixed=False)
        if member.is_spread
        else _Chunk(tuple(as_form.field(member.name, member.node, nested)), member.optional, is_fixed=nested == "json")
        for member in body.members
    )
    return _Layout(b"", tuple(chunks), b"&", b"")


def _xml(body: Body) -> _Layout:
    own, root = body.own_names, (body.root or ROOT).encode()
    opening = as_xml.DECLARATION if body.declaration in (None, True) else b""
    attributes = [member for member in body.members if as_xml.is_attribute(member.name)]
    chunks = [
        *(_Chunk(tuple(as_xml.attribute(member.name, member.node)), member.optional) for member in attributes),
        _Chunk((b">",)),
        *(_element(member, own) for member in body.members if member not in attributes),
    ]
    return _Layout(opening + b"<" + root, tuple(chunks), b"", b"</" + root + b">")


def _element(member: Member, own: frozenset[str]) -> _Chunk:
    if member.is_spread:
        return _Chunk((as_xml.elements_of(member.spread_fact, own),), member.optional)
    return _Chunk(tuple(as_xml.element(member.name, member.node)), member.optional)


def _data(_: Body) -> _Layout:
    return _Layout(b"", (_Chunk((DATA.reader,)),), b"", b"")


_LAYOUTS: dict[str, Callable[[Body], _Layout]] = {
    "object": _object,
    "array": _array,
    "form": _form,
    "xml": _xml,
    "data": _data,
}
