"""Filters as docs/API.md describes them, decided slowly and plainly: what the compiled ones are compared with.

Nothing here comes from `relay.core`: a document is decoded whole by `json`, and each rule is written as its sentence.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any


def passes(written: dict[str, Any], event_type: str, data: str, metadata: str | None) -> bool:
    """Whether an event passes a filter."""
    event = {"type": event_type, "data": _decoded(data)}
    if metadata is not None:
        event["metadata"] = _decoded(metadata)
    return _entries(_decoded(json.dumps(written)), event, [])


def _decoded(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


def _entries(written: dict[str, Any], event: Any, path: list[str]) -> bool:
    return all(_entry(name, value, event, path) for name, value in written.items())


def _entry(name: str, value: Any, event: Any, path: list[str]) -> bool:
    if name == "$and":
        return all(_holds(each, event, path) for each in value)
    if name == "$or":
        return any(_holds(each, event, path) for each in value)
    if name == "$not":
        return not _holds(value, event, path)
    if name == "$ne":
        return not _asks("$eq", value, event, path)
    if name == "$nin":
        return not _asks("$in", value, event, path)
    if name.startswith("$"):
        return _asks(name, value, event, path)
    return _holds(value, event, [*path, *_names(name)])


def _holds(value: Any, event: Any, path: list[str]) -> bool:
    return _entries(value, event, path) if isinstance(value, dict) else _asks("$eq", value, event, path)


def _names(text: str) -> list[str]:
    names, escaped = [""], False
    for character in text:
        if character == "." and not escaped:
            names.append("")
        elif character != "\\" or escaped:
            names[-1] += character
        escaped = character == "\\" and not escaped
    return names


def _asks(operator: str, wanted: Any, event: Any, path: list[str]) -> bool:
    found = list(_values(event, path))
    if operator == "$exists":
        return bool(found) is wanted
    if operator == "$in":
        return any(_same(value, each) for value in found for each in wanted)
    return any(_one(operator, value, wanted) for value in found)


def _one(operator: str, value: Any, wanted: Any) -> bool:
    if operator == "$eq":
        return _same(value, wanted)
    if operator in ("$prefix", "$suffix", "$contains"):
        if not isinstance(value, str):
            return False
        tests = {"$prefix": value.startswith(wanted), "$suffix": value.endswith(wanted), "$contains": wanted in value}
        return tests[operator]
    if not (_kind(value) == _kind(wanted) and _kind(value) in ("number", "text")):
        return False
    return {"$gt": value > wanted, "$gte": value >= wanted, "$lt": value < wanted, "$lte": value <= wanted}[operator]


def _values(value: Any, path: list[str]) -> Iterator[Any]:
    if isinstance(value, list):
        if path and re.fullmatch("0|[1-9][0-9]{0,8}", path[0]):
            yield from (found for item in value[int(path[0]) :][:1] for found in _values(item, path[1:]))
            return
        if not path:
            yield value
        for item in value:
            yield from _values(item, path)
    elif not path:
        yield value
    elif isinstance(value, dict) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "constant"
    return "number" if isinstance(value, int | Decimal) else "text" if isinstance(value, str) else "whole"


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, list) and isinstance(wanted, list):
        return len(value) == len(wanted) and all(map(_same, value, wanted))
    if isinstance(value, dict) and isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(_same(value[name], wanted[name]) for name in value)
    return _kind(value) == _kind(wanted) and _kind(value) != "whole" and value == wanted
