"""What a contract takes from an event beyond its id, type and times: `{data.order.id}`, `{metadata.source}`."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import NamedTuple

from relay.contracts.fields import GAP_VARIABLES, RENDERING_READERS, Rendering
from relay.contracts.frozen import gap
from relay.contracts.payload import Payload, as_text
from relay.contracts.template import Template
from relay.core.grammars import check_header_name
from relay.core.issues import Invalid, Issue, pointer

Reader = Callable[[Rendering], bytes]
Piece = bytes | Reader
"""A part of a body: bytes that are always the same, or what makes them of an event."""

ROOMS = ("data", "metadata")
"""Where the facts of an event stand."""

INNER = "signature."
"""How variables begin that stand for a signature inside the body."""

HEADER_FACT_BYTES_MAX = 1024
"""How long a text may be that a header shows: percent-encoded it is three times as long at most."""

SEARCHABLE_MAX = 8
"""Places that one contract declares searchable: each costs a row for every event that has a value there."""

_SEARCH_DIGEST_BYTES = 12

SPREAD_MARK = "header "
"""How a kept text begins that is a header of its own, before the header's name."""

FACT = re.compile(r"(data|metadata)((?:\.[A-Za-z0-9_-]+)*)")


class Unrenderable(Invalid):
    """An event cannot be put into the contract's body; its one issue points into its data, or into its metadata."""

    def __init__(self, issue: Issue, *, lossy: bool = False, room: str = "data") -> None:
        super().__init__([issue])
        self.lossy = lossy  # a number would become another one
        self.room = room


class Missing(Unrenderable):
    """The event lacks what the contract takes from it."""


class Fact(NamedTuple):
    """A place in an event's data or metadata."""

    room: str
    steps: tuple[str, ...]

    @classmethod
    def of(cls, variable: str) -> "Fact | None":
        """Read a variable such as `data.order.id`; None for one that is no place in an event."""
        found = FACT.fullmatch(variable)
        return None if found is None else cls(found[1], tuple(found[2].split(".")[1:]))

    @property
    def reader(self) -> Reader:
        """What reads its JSON text from an event, without a detour for the data as a whole."""
        return _all_data if self == DATA else self.raw

    def raw(self, event: Rendering) -> bytes:
        """Return the JSON text that stands there, as the producer wrote it; Missing if there is none. O(length)"""
        payload = event.data if self.room == "data" else event.metadata
        found = None if payload is None else payload.at(self.steps)
        if found is None:
            raise self.missing()
        return found

    def text(self, event: Rendering) -> str:
        """Return a text as it is and anything else as its JSON text; Missing for null, too."""
        raw = self.raw(event)
        if raw == b"null":
            raise self.missing()
        return as_text(raw)

    def missing(self, message: str = "is missing, and the contract's body has a place for it") -> Missing:
        """Make the refusal of an event that has nothing there."""
        return Missing(Issue(pointer(*self.steps), message), room=self.room)

    def refuse(self, message: str, *below: str) -> Unrenderable:
        """Make the refusal of what stands there, or below it."""
        return Unrenderable(Issue(pointer(*self.steps, *below), message), room=self.room)


DATA = Fact("data", ())
"""All that the producer posted."""


class KeptFact(NamedTuple):
    """What headers or signatures take from an event; it is frozen with the body."""

    variable: str
    needed: bool  # a signature covers it
    bytes_max: int | None  # of its text; None for what no header shows

    def read(self, event: Rendering) -> str | None:
        """Return its text; None if the event has none. Unrenderable for what is needed, or too long."""
        fact = Fact.of(self.variable)
        if fact is None:
            return RENDERING_READERS[self.variable](event).decode()
        try:
            text = fact.text(event)
        except Missing:
            if self.needed:
                raise fact.missing("is missing, and the contract signs it") from None
            return None
        size = len(text.encode())
        if self.bytes_max is not None and size > self.bytes_max:
            raise fact.refuse(f"has {size} bytes; a header carries at most {self.bytes_max} of it")
        return text


class SpreadHeaders(NamedTuple):
    """Members of an object of the event, each of which becomes a header; they are frozen with the body."""

    prefix: str  # of the headers' names
    fact: Fact

    def read(self, event: Rendering, taken: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield what is kept of each, under its mark; Unrenderable for what no header carries, and for a name of `taken`."""
        try:
            raw = self.fact.raw(event)
        except Missing:
            return
        members = Payload(raw).members
        if members is None:
            raise self.fact.refuse("must be an object: its members become headers")
        if len(raw) > HEADER_FACT_BYTES_MAX:
            raise self.fact.refuse(f"has {len(raw)} bytes; headers carry at most {HEADER_FACT_BYTES_MAX} of it")
        for name, member in members.items():
            text = bytes(member)
            if text == b"null":
                continue
            header = self.prefix + name
            if header.lower() in taken:
                raise self.fact.refuse("is set by the contract; leave it out", name)
            if fault := check_header_name(header):
                raise self.fact.refuse(fault, name)
            if text[:1] in (b"{", b"["):
                raise self.fact.refuse("must be text, a number, true or false: it becomes a header", name)
            yield SPREAD_MARK + header, as_text(text)


def search_digest(place: str, text: str) -> bytes:
    """Return what is kept of a value by which an event is found: its place, and text or a number as it is written.

    So `render.id` 17 and "17" are the same, and a long value costs what a short one does.
    """
    return blake2b(f"{place}\0{text}".encode(), digest_size=_SEARCH_DIGEST_BYTES).digest()


class Searchable:
    """The places in the data, such as `render.id`, whose values find an event. Immutable."""

    def __init__(self, places: Sequence[str]) -> None:
        self.places = tuple(places)
        self._steps = [(place, tuple(place.split("."))) for place in places]

    def digests(self, data: Payload) -> tuple[bytes, ...]:
        """Return what is kept of an event's values; null, objects, lists and what is not there leave none. O(length)"""
        texts = [(place, data.text(steps)) for place, steps in self._steps]
        return tuple(search_digest(place, text) for place, text in texts if text is not None)


class Defaults:
    """What stands for members of the metadata that an event lacks. Immutable."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = templates

    def fill(self, event: Rendering) -> Rendering:
        """Return the event with all of its metadata; a member that is null counts as left out. O(their length)"""
        members = {} if event.metadata is None else event.metadata.members
        if members is None:  # it is no object, and refused for that
            return event
        lacking = {
            name: template
            for name, template in self._templates.items()
            if bytes(members.get(name, b"null")).strip() == b"null"
        }
        if not lacking:
            return event
        written = {name: bytes(raw) for name, raw in members.items()}
        for name, template in lacking.items():
            values = {variable: RENDERING_READERS[variable](event) for variable in template.variables}
            written[name] = quoted(template.render(values).decode())
        text = b",".join(quoted(name) + b":" + raw for name, raw in written.items())
        return event._replace(metadata=Payload(b"{" + text + b"}"))


def quoted(text: str) -> bytes:
    """Write a JSON string."""
    return json.dumps(text, ensure_ascii=False).encode()


def plain(variable: str, writing: str) -> Piece:
    """Return what stands for a variable that has nothing to be escaped in JSON and XML, or the gap for its value."""
    if variable in GAP_VARIABLES or variable.startswith(INNER):
        return gap(variable, writing)
    return RENDERING_READERS[variable]


def _all_data(event: Rendering) -> bytes:
    return event.data.raw
