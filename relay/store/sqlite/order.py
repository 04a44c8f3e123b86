"""Ordering keys (Q12): of the deliveries of one endpoint with one key, only the first that blocks has a due time.

A delivery blocks those accepted after it until its first attempt ended, or until it ended itself, as its event says. Once
it has let them pass it blocks nobody any more, whatever is retried by hand.
"""

import sqlite3
from collections.abc import Iterable, Sequence

from relay.core.model import DeliveryKey, DueDelivery
from relay.store.sqlite.claims import Entry

_PREDECESSOR = """
    SELECT 1 FROM delivery INDEXED BY delivery_order
    WHERE endpoint = ? AND ordering_key = ? AND blocking > 0 LIMIT 1"""

_FIRST_UNFINISHED = """
    SELECT event, due FROM delivery INDEXED BY delivery_order
    WHERE endpoint = ? AND ordering_key = ? AND blocking > 0 ORDER BY event LIMIT 1"""

_FIRST_IN_LINE = """
    SELECT event, endpoint, due, series, attempts, series_attempts, budget_from, manual
    FROM delivery INDEXED BY delivery_order
    WHERE endpoint = ?2 AND blocking > 0
      AND ordering_key = (SELECT ordering_key FROM delivery WHERE event = ?1 AND endpoint = ?2)
    ORDER BY event LIMIT 1"""

# It has been waiting for its turn since `budget_from`, so that is when it was due; a `deliver_at` may still lie ahead.
_PROMOTE = """
    UPDATE delivery SET due = budget_from WHERE event = ? AND endpoint = ?
    RETURNING event, endpoint, due, series, attempts, series_attempts, budget_from, manual"""


def blocked(connection: sqlite3.Connection, entries: Sequence[Entry]) -> set[tuple[int, int]]:
    """Find the (ordinal, endpoint) of new deliveries that must wait for a predecessor."""
    waiting: set[tuple[int, int]] = set()
    busy: set[tuple[int, str]] = set()
    for ordinal, event, overflowed in entries:
        if event.ordering_key is None:
            continue
        for ref in event.targets:
            if ref in overflowed:
                continue
            lane = (ref, event.ordering_key)
            if lane in busy or connection.execute(_PREDECESSOR, lane).fetchone():
                waiting.add((ordinal, ref))
            busy.add(lane)
    return waiting


def first_in_line(connection: sqlite3.Connection, key: DeliveryKey) -> list[DueDelivery]:
    """Return whose turn it is among those with a delivery's ordering key, where a promotion may not have been heard."""
    row = connection.execute(_FIRST_IN_LINE, key).fetchone()
    return [] if row is None or row[2] is None else [due_delivery(row)]


def promote(connection: sqlite3.Connection, ended: Iterable[tuple[int, str]]) -> list[DueDelivery]:
    """Give a due time to those whose predecessor has ended; `ended` names (endpoint, ordering key)."""
    promoted = []
    for lane in dict.fromkeys(ended):
        row = connection.execute(_FIRST_UNFINISHED, lane).fetchone()
        if row is not None and row[1] is None:
            promoted.append(due_delivery(connection.execute(_PROMOTE, (row[0], lane[0])).fetchone()))
    return promoted


def due_delivery(row: Sequence[int]) -> DueDelivery:
    """Read (event, endpoint, due, series, attempts, series_attempts, budget_from, manual)."""
    event, endpoint, due_ms, series, attempts, series_attempts, budget_from_ms, manual = row[:8]
    return DueDelivery(
        event, endpoint, due_ms, series, attempts, series_attempts, budget_from_ms, manual=manual > 0, forced=manual > 1
    )
