"""Many rows in few statements.

A statement releases and takes back the interpreter lock at every step, so one statement for 64 rows serves a busy event
loop better than 64 statements. Chunks are powers of two, so that there are seven statements to prepare and no more.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any

CHUNK_MAX = 64


def insert_many(
    connection: sqlite3.Connection, insert: str, rows: Sequence[Sequence[Any]], suffix: str = ""
) -> list[tuple[Any, ...]]:
    """Insert rows, all of one width; `suffix` may say ON CONFLICT and RETURNING, whose rows are returned."""
    returned: list[tuple[Any, ...]] = []
    start = 0
    while start < len(rows):
        size = min(CHUNK_MAX, 1 << ((len(rows) - start).bit_length() - 1))
        chunk = rows[start : start + size]
        statement = _statement(insert, suffix, len(chunk[0]), size)
        returned += connection.execute(statement, _flat(chunk)).fetchall()
        start += size
    return returned


def _flat(rows: Iterable[Sequence[Any]]) -> list[Any]:
    return list(chain.from_iterable(rows))


@cache  # bounded: a handful of callers, seven sizes each
def _statement(insert: str, suffix: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{insert} VALUES {', '.join([row] * size)} {suffix}"
