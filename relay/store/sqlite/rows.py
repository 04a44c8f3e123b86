"""How values stand in rows: the codes of states, the lawful moves between them, and many rows in few statements.

The columns of a statement stand in the order of the fields of the value that is made of them.
"""

import json
import sqlite3
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from relay.core.model import (
    TRANSITIONS,
    DeadReason,
    DeliveryKey,
    DeliveryState,
    DueDelivery,
    HeaderPair,
    NoDelivery,
    Trace,
    Trigger,
)
from relay.core.views import AttemptView, DeliveryView, EventView
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

BY_HAND, FORCED, REPLAYED = 1, 2, 4
"""What stands in `manual`: retried by hand, or by force, or by a replay (with or without force)."""

DUE_COLUMNS = "event, endpoint, due, series, attempts, series_attempts, budget_from, manual"
"""What `due_delivery` reads."""

EVENT_COLUMNS = """e.ordinal, e.id, e.type, a.id, e.created_at, e.timestamp, e.deliver_at, e.expires_at,
    e.ordering_key, e.metadata, e.reason, e.reason_detail, length(e.body)"""
"""What `event_view` reads; the body may follow."""

DELIVERY_COLUMNS = """d.event, d.endpoint, e.id, e.type, a.id, n.id, d.state, d.reason, d.due, d.attempts, d.series,
    e.created_at, d.finished_at, d.expires_at, d.cancelled_by, d.replayed > 0"""
"""What `delivery_view` reads."""

DELIVERY_JOINS = "CROSS JOIN application a ON a.ref = e.application CROSS JOIN endpoint n ON n.ref = d.endpoint"

CHUNK_MAX = 64

_KEPT, _NEW = struct.Struct("<BII"), struct.Struct("<BIIIII")
"""A trace: flags, then microseconds: the whole attempt, the first byte; names, connecting, TLS."""

_NONE_US = (1 << 32) - 1
_MOST_US = _NONE_US - 1
_MOST_MS = _MOST_US / 1000
_TLS_VERSIONS = ("", "TLSv1.2", "TLSv1.3")
_TLS_CODES = {version: code for code, version in enumerate(_TLS_VERSIONS)}


def may_become(state: DeliveryState) -> str:
    """Write the SQL condition that a delivery may move to `state`: every UPDATE of a state goes through it."""
    codes = sorted(CODES[before] for before, after in TRANSITIONS.items() if state in after)
    return f"state IN ({', '.join(map(str, codes))})"


def due_delivery(row: Sequence[int]) -> DueDelivery:
    """Read DUE_COLUMNS."""
    event, endpoint, due_ms, series, attempts, series_attempts, budget_from_ms, manual = row[:8]
    due = DueDelivery(event, endpoint, due_ms, series, attempts, series_attempts, budget_from_ms)
    if not manual:
        return due
    return due._replace(manual=manual < REPLAYED, forced=manual & FORCED > 0, replayed=manual >= REPLAYED)


def event_view(row: Row, deliveries: Mapping[str, int], aimed: Sequence[str]) -> EventView:
    """Make an event as people see it of EVENT_COLUMNS (and the body, if it follows)."""
    reason, detail, size, *body = row[10:]
    fields: Row = (
        *row[1:10],
        reason and NoDelivery(reason),
        detail,
        body[0] if body else None,
        size,
        deliveries,
        aimed,
        (),
        row[0],
    )
    return EventView(*fields)


def delivery_view(row: Row, timeline: tuple[AttemptView, ...] | None = None) -> DeliveryView:
    """Make a delivery as people see it of DELIVERY_COLUMNS."""
    key, state, reason = DeliveryKey(*row[:2]), STATES[row[6]], row[7]
    ended: Row = (key.endpoint, state, reason and DeadReason(reason), *row[8:-1], bool(row[-1]), timeline)
    return DeliveryView(delivery_id(key), *row[2:6], *ended)


def attempt_view(key: DeliveryKey, row: Row) -> AttemptView:
    """Make an attempt as people see it of a row of its delivery's timeline."""
    number, series, manual, started_at_ms, whole_ms, *made, raw, headers, body = row
    trigger = Trigger.MANUAL if manual else Trigger.SCHEDULED
    duration_ms, trace = (whole_ms, None) if raw is None else unpacked(raw)
    response: Row = (tuple(HeaderPair(*pair) for pair in json.loads(headers or "[]")), body)
    named: Row = (trigger, started_at_ms, duration_ms, *made, trace)
    return AttemptView(attempt_id(key, number), number, series, *named, *response)


def packed(duration_ms: float, trace: Trace | None) -> bytes | None:
    """Write an attempt's trace, and how long it took to the microsecond, in 9 bytes over a kept connection, else in 21."""
    if trace is None:
        return None
    dns_ms, connect_ms, tls_ms, first_byte_ms, reused, tls_version, repeated = trace
    flags = reused | repeated << 1 | _TLS_CODES.get(tls_version, 0) << 2
    if reused and first_byte_ms is not None and duration_ms < _MOST_MS:  # nearly all of a busy relay's
        return _KEPT.pack(flags, int(duration_ms * 1000 + 0.5), int(first_byte_ms * 1000 + 0.5))
    return _NEW.pack(flags, *map(_microseconds, (duration_ms, first_byte_ms, dns_ms, connect_ms, tls_ms)))


def unpacked(raw: bytes) -> tuple[float, Trace]:
    """Read what `packed` wrote."""
    flags, *all_us = (_KEPT if len(raw) == _KEPT.size else _NEW).unpack(raw)
    duration_ms, first_byte_ms, *others_ms = (None if us == _NONE_US else us / 1000 for us in all_us)
    dns_ms, connect_ms, tls_ms = others_ms or (None, None, None)
    reused, repeated, tls_version = bool(flags & 1), bool(flags & 2), _TLS_VERSIONS[flags >> 2]
    return duration_ms or 0.0, Trace(dns_ms, connect_ms, tls_ms, first_byte_ms, reused, tls_version, repeated)


def _microseconds(duration_ms: float | None) -> int:
    return _NONE_US if duration_ms is None else min(int(duration_ms * 1000 + 0.5), _MOST_US)


def execute_values(connection: sqlite3.Connection, before: str, rows: Sequence[Row], after: str = "") -> list[Row]:
    """Run `before VALUES (…), (…) after` for rows of one width, an INSERT mostly; return what RETURNING returns.

    A statement releases and takes back the interpreter lock at every step, so one statement for 64 rows serves a busy
    event loop better than 64 statements. Chunks are powers of two: seven statements to prepare and no more.
    """
    returned: list[Row] = []
    start = 0
    while start < len(rows):
        size = min(CHUNK_MAX, 1 << ((len(rows) - start).bit_length() - 1))
        chunk = rows[start : start + size]
        statement = _statement(before, after, len(chunk[0]), size)
        returned += connection.execute(statement, list(chain.from_iterable(chunk))).fetchall()
        start += size
    return returned


@cache  # bounded: a handful of callers, seven sizes each
def _statement(before: str, after: str, width: int, size: int) -> str:
    row = f"({', '.join('?' * width)})"
    return f"{before} VALUES {', '.join([row] * size)} {after}"
