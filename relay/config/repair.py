"""Makes a wrong document usable, so that one mistake does not hide the others.

What pydantic refused is taken out, or replaced where it is required; the checks then look at the rest. Nothing that was
repaired is ever used: a document with an error yields no configuration.
"""

import copy
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from relay.config import schema
from relay.config.fields import Reading
from relay.config.layers import Document
from relay.config.locate import KeyPath
from relay.config.model import Config

ROUNDS_MAX = 4
"""A repaired document may show an error that another one hid; more than this has never been needed."""


def validate(document: Document, reading: Reading) -> Config:
    """Make the configuration a document describes; ValidationError lists everything that is wrong with it."""
    return Config.model_validate(document, by_name=False, context=reading)


def repaired(document: Document, errors: Iterable[KeyPath], reading: Reading) -> tuple[Config | None, list[KeyPath]]:
    """Return what the sound parts of a document describe, and the paths that were taken out of it."""
    document = copy.deepcopy(document)
    serial = itertools.count()
    removed: list[KeyPath] = []
    wrong = list(errors)
    for _ in range(ROUNDS_MAX):
        removed += [_take_out(document, path, next(serial)) for path in wrong]
        try:
            return validate(document, reading), removed
        except ValidationError as invalid:
            wrong = [error["loc"] for error in invalid.errors(include_url=False)]
    return None, removed


def _take_out(document: Document, path: KeyPath, serial: int) -> KeyPath:
    """Take the wrong thing out of its table and return its path; lists of values go whole, for places are in paths."""
    table, place = _innermost(document, path)
    key: Any = place[-1]
    if isinstance(table, list):  # something else than a table among tables
        table[key] = {}
        return place
    table.pop(key, None)
    model = schema.table_at(place[:-1])
    field = schema.fields(model).get(key) if model else None
    if field is not None and field.is_required():
        table[key] = _placeholder(key, serial)
    return place


def _innermost(document: Any, path: KeyPath) -> tuple[Any, KeyPath]:
    """Walk down a path as long as it leads through tables; return the last one, and the path of what it holds."""
    table = document
    for depth, key in enumerate(path[:-1], start=1):
        inner = table.get(key) if isinstance(key, str) else table[key]
        if not _holds_tables(inner):
            return table, path[:depth]
        table = inner
    return table, path


def _holds_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(inner, dict) for inner in value))


def _placeholder(key: str, serial: int) -> str:
    """Return what the checks will find nothing wrong with."""
    unique = f"placeholder-{serial:08}"
    return {"url": "https://example.com/", "role": "producer"}.get(key, unique)


def rests_on(path: KeyPath, others: Sequence[KeyPath]) -> bool:
    """Whether a path lies within, or around, one of the others."""
    return any(path[: len(other)] == other or other[: len(path)] == path for other in others)
