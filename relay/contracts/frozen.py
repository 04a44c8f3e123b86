"""What is kept of an event for its attempts: its body, with gaps for what only an attempt knows, and facts for its headers.

A NUL character begins and ends what is no part of the body: no JSON, form or XML holds one. Between two of them stands
the variable of a gap and how its value is written there; or, at the end, the facts as a JSON object. So everything that an attempt needs
is one string of bytes, under one checksum, and most contracts keep nothing but the body.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import orjson

MARK = b"\0"

NOTHING: Mapping[str, str] = {}


class Gap(NamedTuple):
    """A place in a body that each attempt fills."""

    variable: str
    writing: str  # "plain", "json", "xml" or "attribute", and "+form" after it inside a form


class Frozen(NamedTuple):
    """A body taken apart, and what headers and signatures want to know of its event."""

    parts: tuple[bytes | Gap, ...]
    facts: Mapping[str, str]

    @classmethod
    def read(cls, text: bytes) -> "Frozen":
        """Take apart what `freeze` put together. O(length)"""
        literals, marked = text.split(MARK)[::2], text.split(MARK)[1::2]
        parts: list[bytes | Gap] = [literals[0]]
        facts = NOTHING
        for inside, literal in zip(marked, literals[1:], strict=True):
            if inside.startswith(b"{"):
                facts = orjson.loads(inside)
            else:
                parts += [Gap(*inside.decode().split(" ")), literal]
        return cls(tuple(parts), facts)

    def shown(self) -> Iterator[bytes]:
        """Yield the body as people read it: in each gap the variable that will stand there."""
        for part in self.parts:
            yield part if isinstance(part, bytes) else f"{{{part.variable}}}".encode()


def gap(variable: str, writing: str) -> bytes:
    """Return what stands in a frozen body where an attempt writes a variable."""
    return b"\0%s %s\0" % (variable.encode(), writing.encode())


def freeze(body: bytes, facts: Mapping[str, str]) -> bytes:
    """Put body and facts together."""
    return body + MARK + orjson.dumps(facts) + MARK if facts else body


def body_of(frozen: bytes) -> bytes:
    """Return the body alone, as people read it."""
    return b"".join(Frozen.read(frozen).shown()) if MARK in frozen else frozen
