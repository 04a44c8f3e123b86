"""What a contract takes from an event beyond its id, type and times: `{data.order.id}`, `{metadata.source}`."""

import re
from collections.abc import Callable
from typing import NamedTuple

from relay.contracts.fields import GAP_VARIABLES, RENDERING_READERS, Rendering
from relay.contracts.frozen import gap
from relay.contracts.payload import as_text
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


def plain(variable: str, writing: str) -> Piece:
    """Return what stands for a variable that has nothing to be escaped in JSON and XML, or the gap for its value."""
    if variable in GAP_VARIABLES or variable.startswith(INNER):
        return gap(variable, writing)
    return RENDERING_READERS[variable]


def _all_data(event: Rendering) -> bytes:
    return event.data.raw
