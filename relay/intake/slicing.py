r"""Cutting JSON into slices that keep their bytes, where the fast decoder refuses: strings with lone surrogates.

A string such as `"\ud83d"` is JSON, and what end users type holds them (WOC-14); no UTF-8 can, so decoders differ. What
is cut out here is passed on as it was written. Slow: only documents that hold an escaped surrogate come here.
"""

import json
import re
from collections.abc import Callable
from typing import Any

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \t\n\r]*")


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
