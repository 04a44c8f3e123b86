r"""JSON that keeps its bytes: a producer's payload, read where something must be known and never written anew.

The fast decoder refuses strings with lone surrogates. A string such as `"\ud83d"` is JSON, and what end users type holds
them (WOC-14); no UTF-8 can, so decoders differ. Documents that hold one are cut into slices here, slowly, and what is
cut out is passed on as it was written.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec
import orjson

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \t\n\r]*")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)


class Payload:
    """One JSON value: its exact bytes, decoded at the first need and once."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @cached_property
    def value(self) -> Any:
        """The value as a validator wants it: numbers as doubles, a substitute in the place of each lone surrogate."""
        try:
            return orjson.loads(self.raw)
        except orjson.JSONDecodeError:  # lone surrogates, and numbers beyond a double
            return _encodable(json.loads(self.raw, parse_int=float))

    @cached_property
    def members(self) -> Mapping[str, bytes | msgspec.Raw] | None:
        """The members of an object as slices; None for another value."""
        try:
            return _MEMBERS.decode(self.raw)
        except msgspec.ValidationError:
            return None
        except msgspec.DecodeError:  # a lone surrogate in some string, which msgspec takes for malformed
            return members(self.raw)

    def text(self, steps: Sequence[str]) -> str | None:
        """Return what stands at the end of member names, a number as it is written; None for nothing that is text."""
        found = self
        for step in steps:
            raw = (found.members or {}).get(step)
            if raw is None:
                return None
            found = Payload(bytes(raw))
        return _as_text(found.raw)


def _as_text(raw: bytes) -> str | None:
    if raw[:1] in (b"{", b"[", b"n"):
        return None
    if not raw.startswith(b'"'):
        return raw.decode()
    try:
        return _TEXT.decode(raw)
    except msgspec.DecodeError:  # lone surrogates stay escapes, so that every text can be stored
        text: str = json.loads(raw)
        return text.encode("utf-8", "backslashreplace").decode()


def _encodable(value: Any) -> Any:
    """Put a character in the place of each lone surrogate: the validator encodes every string and name."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(name): _encodable(item) for name, item in value.items()}
    return value


class Malformed(ValueError):
    """The text is no JSON; the message names a position, never content."""


def may_hold_surrogates(body: bytes) -> bool:
    """Whether some string may be one that the fast decoder refuses although it is JSON."""
    return _SURROGATE.search(body) is not None


def members(body: bytes) -> dict[str, bytes] | None:
    """Return the members of a JSON object as slices; None for another value. Malformed for what is no JSON."""
    cursor = _Cursor(body)
    found: dict[str, bytes] = {}

    def member() -> None:
        name, written = cursor.value()
        if not written.startswith(b'"'):
            raise cursor.malformed()
        cursor.expect(":")
        _, found[name] = cursor.value()

    return found if cursor.listing("{", member, "}") else None


def items(body: bytes) -> list[bytes] | None:
    """Return the items of a JSON array as slices; None for another value. Malformed for what is no JSON."""
    cursor = _Cursor(body)
    found: list[bytes] = []
    return found if cursor.listing("[", lambda: found.append(cursor.value()[1]), "]") else None


class _Cursor:
    """A place in a text, behind blanks."""

    def __init__(self, body: bytes) -> None:
        self._text = body.decode()
        self._at = 0
        self._move(0)

    def listing(self, opening: str, read: Callable[[], None], closing: str) -> bool:
        """Read the whole text as a list of what `read` reads; False if it is another value."""
        if not self._take(opening):
            self.value()
            self._end()
            return False
        if not self._take(closing):
            read()
            while not self._take(closing):
                self.expect(",")
                read()
        self._end()
        return True

    def value(self) -> tuple[Any, bytes]:
        """Read one value; return it with its slice. Its numbers are left as text."""
        begin = self._at
        try:
            found, end = _DECODER.raw_decode(self._text, begin)
        except ValueError:
            raise self.malformed() from None
        self._move(end)
        return found, self._text[begin:end].encode()

    def expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self.malformed()

    def malformed(self) -> Malformed:
        return Malformed(f"JSON is malformed (character {self._at})")

    def _take(self, mark: str) -> bool:
        if not self._text.startswith(mark, self._at):
            return False
        self._move(self._at + 1)
        return True

    def _end(self) -> None:
        if self._at != len(self._text):
            raise self.malformed()

    def _move(self, at: int) -> None:
        blanks = _BLANKS.match(self._text, at)
        assert blanks is not None, "no blanks are blanks too"
        self._at = blanks.end()


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_DECODER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)
