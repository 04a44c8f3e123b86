"""How values stand in rows: the codes of states, the lawful moves between them, and many rows in few statements."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from relay.core.model import TRANSITIONS, DeliveryState, DueDelivery

Row = tuple[Any, ...]

CODES = {
    DeliveryState.DUE: 0,
    DeliveryState.DELIVERED: 1,
    DeliveryState.DEAD: 2,
    DeliveryState.CANCELLED: 3,
}
"""States as the schema writes them."""

STATES = {code: state for state, code in CODES.items()}

DUE_COLUMNS = "event, endpoint, due, series, attempts, series_attempts, budget_from, manual"
"""What `due_delivery` reads."""

CHUNK_MAX = 64


def may_become(state: DeliveryState) -> str:
    """Write the SQL condition that a delivery may move to `state`: every UPDATE of a state goes through it."""
    codes = sorted(CODES[before] for before, after in TRANSITIONS.items() if state in after)
    return f"state IN ({', '.join(map(str, codes))})"


def due_delivery(row: Sequence[int]) -> DueDelivery:
    """Read DUE_COLUMNS."""
    event, endpoint, due_ms, series, attempts, series_attempts, budget_from_ms, manual = row[:8]
    return DueDelivery(
        event, endpoint, due_ms, series, attempts, series_attempts, budget_from_ms, manual=manual > 0, forced=manual > 1
    )


def insert_many(connection: sqlite3.Connection, insert: str, rows: Sequence[Row], suffix: str = "") -> list[Row]:
    """Insert rows, all of one width; `suffix` may say ON CONFLICT and RETURNING, whose rows are returned.

    A statement releases and takes back the interpreter lock at every step, so one statement for 64 rows serves a busy
    event loop better than 64 statements. Chunks are powers of two: seven statements to prepare and no more.
    """
    returned: list[Row] = []
    start = 0
    while start < len(rows):
        size = min(CHUNK_MAX, 1 << ((len(rows) - start).bit_length() - 1))
        chunk = rows[start : start + size]
        statement = _statement(insert, suffix, len(chunk[0]), size)
        returned += connection.execute(statement, list(chain.from_iterable(chunk))).fetchall()
        start += size
    return returned


@cache  # bounded: a handful of callers, seven sizes each
def _statement(insert: str, suffix: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{insert} VALUES {', '.join([row] * size)} {suffix}"
