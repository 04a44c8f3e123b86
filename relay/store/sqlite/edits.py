"""Edits of deliveries: retried or cancelled by hand, ended while held, cancelled with their endpoint.

Mass edits move at most `limit` rows in a transaction; what is left is found by the next step, after a restart too.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from relay.core.errors import Conflict, NotFound
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, DueDelivery
from relay.store.sqlite.order import leave_head, promote
from relay.store.sqlite.rows import DUE_COLUMNS, STATES, Row, due_delivery, may_become
from relay.store.values import DueKey, PulledForward, delivery_key

DELETED_BY = "endpoint deleted"

# `budget_from` grows with every retry, so a settlement sees that its delivery was retried while the attempt ran.
_RETRY = f"""
    UPDATE delivery SET state = 0, due = ?1, budget_from = max(?1, budget_from + 1), manual = ?4, reason = NULL,
      finished_at = NULL, cancelled_by = NULL, series = series + (state != 0),
      series_attempts = iif(state = 0, series_attempts, 0)
    WHERE event = ?2 AND endpoint = ?3 AND {may_become(DeliveryState.DUE)}
    RETURNING {DUE_COLUMNS}"""

_CANCEL = f"""
    UPDATE delivery SET state = 3, due = NULL, manual = 0, blocking = 0, finished_at = ?, cancelled_by = ?
    WHERE event = ? AND endpoint = ? AND {may_become(DeliveryState.CANCELLED)}"""

_CANCEL_SOME = f"""
    UPDATE delivery SET state = 3, due = NULL, manual = 0, blocking = 0, finished_at = ?, cancelled_by = ?
    WHERE (event, endpoint) IN (SELECT event, endpoint FROM delivery INDEXED BY delivery_due
                                WHERE endpoint = ? AND state = 0 LIMIT ?)
      AND {may_become(DeliveryState.CANCELLED)}
    RETURNING event, endpoint"""

_END_SOME = f"""
    UPDATE delivery SET state = 2, due = NULL, manual = 0, blocking = 0, finished_at = ?, reason = ?
    WHERE (event, endpoint) IN ({{chosen}}) AND {may_become(DeliveryState.DEAD)}
    RETURNING event, endpoint, ordering_key"""

# What is due later than this is looked at when that time has come: its index gives what can be over its budget.
_OVER_BUDGET = """
    SELECT event, endpoint FROM delivery INDEXED BY delivery_due
    WHERE endpoint = ? AND state = 0 AND due < ? AND budget_from < ? ORDER BY due LIMIT ?"""

_EXPIRED = """
    SELECT event, endpoint FROM delivery INDEXED BY delivery_expiry
    WHERE endpoint = ? AND state = 0 AND expires_at IS NOT NULL AND expires_at <= ? AND manual < 2
    ORDER BY expires_at LIMIT ?"""

_WAITING = """
    SELECT d.event, d.due, d.attempts, iif(d.manual, 0, d.series_attempts), d.manual = 0 AND e.deliver_at IS NOT NULL
    FROM delivery d INDEXED BY delivery_due CROSS JOIN event e ON e.ordinal = d.event
    WHERE d.endpoint = ? AND d.state = 0 AND (d.due, d.event) > (?, ?) ORDER BY d.due, d.event LIMIT ?"""

_PULL = f"UPDATE delivery SET due = ? WHERE event = ? AND endpoint = ? RETURNING {DUE_COLUMNS}"

_FIND = """
    SELECT d.state, d.expires_at, n.deleted_at IS NOT NULL, d.ordering_key, d.blocking, d.series, d.attempts
    FROM delivery d JOIN endpoint n ON n.ref = d.endpoint WHERE d.event = ? AND d.endpoint = ?"""


class Retried(NamedTuple):
    """A delivery that is due again, and what it was."""

    due: DueDelivery
    before: DeliveryState


class Ended(NamedTuple):
    """Due deliveries that an edit ended, and those whose turn has come by it."""

    keys: list[DeliveryKey]
    promoted: list[DueDelivery]
    expired: int = 0  # so many of the keys, the first ones, were past their expiry


class Found(NamedTuple):
    """A delivery that somebody named."""

    key: DeliveryKey
    state: DeliveryState
    expires_at_ms: int | None
    deleted: bool  # its endpoint was
    ordering_key: str | None
    blocking: bool  # its successors wait for it
    version: tuple[int, int]  # series and attempts: another one once an attempt is settled


def retry_delivery(connection: sqlite3.Connection, delivery_id: str, now_ms: int, *, force: bool) -> Retried:
    """Make a delivery due now (Q13); NotFound, or Conflict when nothing could come of it. O(log n)

    With `force` an expired one too: its next attempt is made all the same, and is its last.
    """
    found = _find(connection, delivery_id)
    if found.deleted:
        raise Conflict("endpoint_deleted", "the endpoint of this delivery was deleted", remedy="Send the event anew.")
    if found.expires_at_ms is not None and found.expires_at_ms <= now_ms and not force:
        raise Conflict(
            "expired",
            "the event of this delivery has expired, and what it links to may be gone",
            remedy='Send a new event, or send this one all the same with {"force": true} (`--force`).',
        )
    row = connection.execute(_RETRY, (now_ms, *found.key, 2 if force else 1)).fetchone()
    return Retried(due_delivery(row), found.state)


def cancel_delivery(
    connection: sqlite3.Connection, delivery_id: str, by: str, now_ms: int, under_way: DueDelivery | None
) -> Ended:
    """Cancel a due delivery; NotFound, or Conflict when it has ended. O(log n)

    While an attempt of it is `under_way` and not settled, what waits for it by its ordering key goes on waiting.
    """
    found = _find(connection, delivery_id)
    if found.state is not DeliveryState.DUE:
        raise Conflict(
            "not_due", f"the delivery is {found.state.value} already", remedy="Only a due one can be cancelled."
        )
    connection.execute(_CANCEL, (now_ms, by, *found.key))
    if found.ordering_key is None:
        return Ended([found.key], [])
    if under_way is not None and found.blocking and found.version == (under_way.series, under_way.attempts):
        leave_head(connection, found.key, found.ordering_key)
    return Ended([found.key], promote(connection, [(found.key.endpoint, found.ordering_key)]))


def cancel_deleted(connection: sqlite3.Connection, ref: int, now_ms: int, limit: int) -> int:
    """Cancel some due deliveries of a deleted endpoint; the answer is how many, 0 when none are left."""
    return len(connection.execute(_CANCEL_SOME, (now_ms, DELETED_BY, ref, limit)).fetchall())


def end_held(
    connection: sqlite3.Connection,
    ref: int,
    budget_before_ms: int,
    now_ms: int,
    reason: DeadReason,
    limit: int,
) -> Ended:
    """End some held deliveries: those past `expires_at`, and those whose budget began before a time (Q6, Q9)."""
    rows = _end(connection, _EXPIRED, (ref, now_ms, limit), DeadReason.EXPIRED, now_ms)
    expired = len(rows)
    if expired < limit:
        chosen = (ref, budget_before_ms, budget_before_ms, limit - expired)
        rows += _end(connection, _OVER_BUDGET, chosen, reason, now_ms)
    return Ended([DeliveryKey(row[0], row[1]) for row in rows], _promote(connection, rows), expired)


def pull_forward(
    connection: sqlite3.Connection, ref: int, latest_ms: Sequence[int], place: DueKey | None, limit: int
) -> PulledForward:
    """Look at up to `limit` deliveries that are due after `place` and make due earlier those that wait too long."""
    after = place or (min(latest_ms), 1 << 62)
    rows = connection.execute(_WAITING, (ref, *after, limit)).fetchall()
    moved = []
    for event, due_ms, attempts, step, appointed in rows:
        bound_ms = latest_ms[min(step, len(latest_ms) - 1)]
        if due_ms > bound_ms and not (appointed and attempts == 0):
            moved.append(due_delivery(connection.execute(_PULL, (bound_ms, event, ref)).fetchone()))
    return PulledForward(moved, (rows[-1][1], rows[-1][0]) if len(rows) == limit else None)


def _end(
    connection: sqlite3.Connection, chosen: str, parameters: tuple[int, ...], reason: DeadReason, now_ms: int
) -> list[Row]:
    return connection.execute(_END_SOME.format(chosen=chosen), (now_ms, reason, *parameters)).fetchall()


def _promote(connection: sqlite3.Connection, rows: Iterable[Row]) -> list[DueDelivery]:
    return promote(connection, [(row[1], row[2]) for row in rows if row[2] is not None])


def _find(connection: sqlite3.Connection, delivery_id: str) -> Found:
    key = delivery_key(delivery_id)
    row = None if key is None else connection.execute(_FIND, key).fetchone()
    if key is None or row is None:
        raise NotFound(f"no delivery {delivery_id!r}", remedy="List them with `relay deliveries list`.")
    return Found(key, STATES[row[0]], row[1], bool(row[2]), row[3], row[4] > 0, (row[5], row[6]))
