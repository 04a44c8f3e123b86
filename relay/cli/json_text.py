"""Changes of JSON text that leave everything else as it is written: numbers keep their spelling, members their order."""

import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from relay.cli.output import Exit, fail

_BLANK = re.compile(r"[ \t\r\n]*")


class NoWay(ValueError):
    """No value can stand at this place; the message says why."""


class _Entry(NamedTuple):
    """One member of an object, or item of an array, and where its value stands in the text."""

    name: str
    start: int
    end: int


def is_json(text: str) -> bool:
    """Whether `text` is JSON as RFC 8259 has it: no NaN, no Infinity."""
    try:
        json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    return True


def read_json(given: str, name: str) -> str:
    """Return JSON that an argument holds, or names as `@FILE` or `-`; ends the command if it is none."""
    try:
        if given == "-":
            text = sys.stdin.buffer.read().decode()
        else:
            text = Path(given[1:]).read_text("utf-8") if given.startswith("@") else given
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{given} cannot be read: {error}", Exit.BAD_INPUT)
    try:
        text.encode()
        json.loads(text)
    except (ValueError, RecursionError) as error:
        fail(f"{name} is not JSON: {error}. Quote it for the shell, or use @FILE.", Exit.BAD_INPUT)
    return text


def put(text: str, steps: Sequence[str], value: str) -> str:
    """Return sound JSON text with `value`, itself JSON, at the end of a path; objects on the way are made. NoWay."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    entries, is_array = list(_entries(text)), text.lstrip().startswith("[")
    found = next((entry for entry in reversed(entries) if entry.name == step), None)
    if found is not None:
        return text[: found.start] + put(text[found.start : found.end], rest, value) + text[found.end :]
    if is_array and step != str(len(entries)):
        raise NoWay(f"the list has {len(entries)} items, counted from 0, so {step!r} is none of them")
    added = put("{}", rest, value) if rest else value
    name = "" if is_array else json.dumps(step, ensure_ascii=False) + ":"
    return _appended(text, entries, name + added)


def value_at(text: str, name: str) -> str | None:
    """Return a member's value as it is written in an object; None if there is none."""
    found = next((entry for entry in _entries(text) if entry.name == name), None)
    return None if found is None else text[found.start : found.end]


def _entries(text: str) -> Iterator[_Entry]:
    at = _skip(text, 0)
    opening = text[at]
    if opening not in "{[":
        raise NoWay("there is a single value, which has nothing inside")
    at, number = _skip(text, at + 1), 0
    while text[at] not in "}]":
        name = str(number)
        if opening == "{":
            name, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # past the colon
        _, end = _DECODER.raw_decode(text, at)
        yield _Entry(name, at, end)
        at, number = _skip(text, end), number + 1
        at = _skip(text, at + 1) if text[at] == "," else at


def _appended(text: str, entries: Sequence[_Entry], written: str) -> str:
    if entries:
        end = entries[-1].end
        return f"{text[:end]},{written}{text[end:]}"
    start = _skip(text, 0) + 1
    return text[:start] + written + text[start:]


def _skip(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    assert blank is not None, "it matches nothing too"
    return blank.end()


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder()
