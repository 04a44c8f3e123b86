r"""JSON that keeps its bytes: a producer's payload, read where something must be known and never written anew.

The fast decoder refuses strings with lone surrogates. A string such as `"\ud83d"` is JSON, and what end users type holds
them (WOC-14); no UTF-8 can, so decoders differ. Documents that hold one are decoded with another character in the place
of those backslashes, and what is cut out is passed on as it was written.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import msgspec
import orjson

T = TypeVar("T")

Slice = bytes | msgspec.Raw
"""A part of a document as it is written."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(rb"\\(?:(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
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
    def members(self) -> Mapping[str, Slice] | None:
        """The members of an object as slices; None for another value."""
        try:
            return split_object(self.raw)
        except msgspec.ValidationError:
            return None

    @cached_property
    def items(self) -> Sequence[bytes | msgspec.Raw] | None:
        """The items of an array as slices; None for another value."""
        try:
            return _ITEMS.decode(self.raw)
        except msgspec.ValidationError:
            return None
        except msgspec.DecodeError:
            return items(self.raw)

    def at(self, steps: Sequence[str]) -> bytes | None:
        """Return what stands at the end of member names and places in arrays, as it is written; None for nothing."""
        found = self
        for step in steps:
            raw = (found.members or {}).get(step)
            if raw is None and step.isdecimal():
                raw = next(iter((found.items or ())[int(step) :][:1]), None)
            if raw is None:
                return None
            found = Payload(bytes(raw))
        return found.raw.strip(b" \t\r\n")

    def text(self, steps: Sequence[str]) -> str | None:
        """Return what stands at the end of member names, a number as it is written; None for nothing that is text."""
        raw = self.at(steps)
        return None if raw is None or raw[:1] in (b"{", b"[", b"n") else as_text(raw)


def as_text(raw: bytes) -> str:
    """Return the text that a JSON string stands for, and any other value as it is written."""
    if not raw.startswith(b'"'):
        return raw.decode()
    return text_of(raw).encode("utf-8", "backslashreplace").decode()  # so that every text can be stored


def split_object(raw: bytes) -> Mapping[str, Slice]:
    """Return the members of a sound object as slices; ValidationError for another value."""
    try:
        return _MEMBERS.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:  # a lone surrogate in some string, which msgspec takes for malformed
        return members(raw) or {}


def split_array(raw: bytes) -> Sequence[Slice]:
    """Return the items of a sound array as slices."""
    try:
        return _ITEMS.decode(raw)
    except msgspec.DecodeError:
        return items(raw) or ()


def text_of(raw: bytes) -> str:
    """Return the text that a JSON string is, with its lone surrogates."""
    try:
        return _TEXT.decode(raw)
    except msgspec.DecodeError:
        text: str = json.loads(raw)
        return text


def _encodable(value: Any) -> Any:
    """Put a character in the place of each lone surrogate: the validator encodes every string and name."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(name): _encodable(item) for name, item in value.items()}
    return value


# -- slices of documents that hold lone surrogates, slowly -----------------------------------------------------------------


def may_hold_surrogates(body: bytes) -> bool:
    """Whether some string may be one that the fast decoder refuses although it is JSON."""
    return _SURROGATE.search(body) is not None


def members(body: bytes) -> dict[str, bytes] | None:
    """Return the members of a JSON object as slices; None for another value. DecodeError for what is no JSON."""
    mark = _unused_mark(body)
    found = _decoded(_MEMBERS, _masked(body, mark))
    return None if found is None else {name.replace(mark, "\\"): _unmasked(raw, mark) for name, raw in found.items()}


def items(body: bytes) -> list[bytes] | None:
    """Return the items of a JSON array as slices; None for another value. DecodeError for what is no JSON."""
    mark = _unused_mark(body)
    found = _decoded(_ITEMS, _masked(body, mark))
    return None if found is None else [_unmasked(raw, mark) for raw in found]


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        _RAW.decode(body)  # what follows the first value has not been looked at
        return None


def _unused_mark(body: bytes) -> str:
    """Return a character that the body does not have, to stand for the backslash before a surrogate."""
    return next(mark for mark in map(chr, range(0xE000, 0x10FFFF)) if mark.encode() not in body)


def _masked(body: bytes, mark: str) -> bytes:
    return _ESCAPE.sub(lambda found: mark.encode() + found[1] if found[1] else found[0], body)


def _unmasked(raw: msgspec.Raw, mark: str) -> bytes:
    return bytes(raw).replace(mark.encode(), b"\\")
