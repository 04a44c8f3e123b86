"""How values stand in rows: the codes of states, the lawful moves between them, and many rows in few statements.

The columns of a statement stand in the order of the fields of the value that is made of them.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from relay.core.model import (
    TRANSITIONS,
    AttemptView,
    DeadReason,
    DeliveryKey,
    DeliveryState,
    DeliveryView,
    DueDelivery,
    EventView,
    HeaderPair,
    NoDelivery,
    Trigger,
)
from relay.store.values import attempt_id, delivery_id

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

EVENT_COLUMNS = """e.ordinal, e.id, e.type, a.id, e.created_at, e.timestamp, e.deliver_at, e.expires_at,
    e.ordering_key, e.metadata, e.reason, e.reason_detail, length(e.body)"""
"""What `event_view` reads; the body may follow."""

DELIVERY_COLUMNS = """d.event, d.endpoint, e.id, e.type, a.id, n.id, d.state, d.reason, d.due, d.attempts, d.series,
    e.created_at, d.finished_at, d.expires_at, d.cancelled_by"""
"""What `delivery_view` reads."""

DELIVERY_JOINS = "CROSS JOIN application a ON a.ref = e.application CROSS JOIN endpoint n ON n.ref = d.endpoint"

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


def event_view(row: Row, deliveries: Mapping[str, int]) -> EventView:
    """Make an event as people see it of EVENT_COLUMNS (and the body, if it follows)."""
    reason, detail, size, *body = row[10:]
    fields: Row = (*row[1:10], reason and NoDelivery(reason), detail, body[0] if body else None, size, deliveries)
    return EventView(*fields)


def delivery_view(row: Row, timeline: tuple[AttemptView, ...] | None = None) -> DeliveryView:
    """Make a delivery as people see it of DELIVERY_COLUMNS."""
    key, state, reason = DeliveryKey(*row[:2]), STATES[row[6]], row[7]
    ended: Row = (key.endpoint, state, reason and DeadReason(reason), *row[8:], timeline)
    return DeliveryView(delivery_id(key), *row[2:6], *ended)


def attempt_view(key: DeliveryKey, row: Row) -> AttemptView:
    """Make an attempt as people see it of a row of its delivery's timeline."""
    number, series, manual, *made, headers, body = row
    trigger = Trigger.MANUAL if manual else Trigger.SCHEDULED
    response: Row = (tuple(HeaderPair(*pair) for pair in json.loads(headers or "[]")), body)
    return AttemptView(attempt_id(key, number), number, series, trigger, *made, *response)


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
