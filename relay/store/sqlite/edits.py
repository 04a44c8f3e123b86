"""Edits of deliveries: retried or cancelled by hand, ended while held, cancelled with their endpoint.

Mass edits move at most `limit` rows in a transaction; what is left is found by the next step, after a restart too.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from relay.core.errors import Conflict, NotFound
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, DueDelivery
from relay.store.rows import DueKey, PulledForward, delivery_key
from relay.store.sqlite.order import due_delivery, promote
from relay.store.sqlite.settle import STATES

DELETED_BY = "endpoint deleted"

_RETRY = """
    UPDATE delivery SET state = 0, due = ?1, budget_from = ?1, manual = ?4, reason = NULL, finished_at = NULL,
      cancelled_by = NULL, series = series + (state != 0), series_attempts = iif(state = 0, series_attempts, 0)
    WHERE event = ?2 AND endpoint = ?3
    RETURNING event, endpoint, due, series, attempts, series_attempts, budget_from, manual"""

_CANCEL = """
    UPDATE delivery SET state = 3, due = NULL, manual = 0, blocking = 0, finished_at = ?, cancelled_by = ?
    WHERE event = ? AND endpoint = ? AND state = 0 RETURNING ordering_key"""

_CANCEL_SOME = """
    UPDATE delivery SET state = 3, due = NULL, manual = 0, blocking = 0, finished_at = ?, cancelled_by = ?
    WHERE (event, endpoint) IN (SELECT event, endpoint FROM delivery INDEXED BY delivery_due
                                WHERE endpoint = ? AND state = 0 LIMIT ?)
    RETURNING event, endpoint"""

_END_SOME = """
    UPDATE delivery SET state = 2, due = NULL, manual = 0, blocking = 0, finished_at = ?, reason = ?
    WHERE (event, endpoint) IN ({chosen})
    RETURNING event, endpoint, ordering_key"""

# A due time is never earlier than the start of the budget, so this finds by index what can be over it. What waits for a
# retry that lies further ahead is found when that time has come.
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

_PULL = """
    UPDATE delivery SET due = ? WHERE event = ? AND endpoint = ?
    RETURNING event, endpoint, due, series, attempts, series_attempts, budget_from, manual"""


class Retried(NamedTuple):
    """A delivery that is due again, and what it was."""

    due: DueDelivery
    before: DeliveryState


class Ended(NamedTuple):
    """Due deliveries that an edit ended, and those whose turn has come by it."""

    keys: list[DeliveryKey]
    promoted: list[DueDelivery]
    expired: int = 0  # so many of the keys, the first ones, were past their expiry


def retry_delivery(connection: sqlite3.Connection, delivery_id: str, now_ms: int, *, force: bool) -> Retried:
    """Make a delivery due now (Q13); NotFound, or Conflict when nothing could come of it.

    With `force` an expired one too: its next attempt is made all the same, and is its last.
    """
    key, state, expires_at_ms, deleted = _find(connection, delivery_id)
    if deleted:
        raise Conflict("endpoint_deleted", "the endpoint of this delivery was deleted", remedy="Send the event anew.")
    if expires_at_ms is not None and expires_at_ms <= now_ms and not force:
        raise Conflict(
            "expired",
            "the event of this delivery has expired, and what it links to may be gone",
            remedy='Send a new event, or send this one all the same with {"force": true} (`--force`).',
        )
    row = connection.execute(_RETRY, (now_ms, *key, 2 if force else 1)).fetchone()
    return Retried(due_delivery(row), state)


def cancel_delivery(connection: sqlite3.Connection, delivery_id: str, by: str, now_ms: int) -> Ended:
    """Cancel a due delivery; NotFound, or Conflict when it has ended."""
    key, state, _, _ = _find(connection, delivery_id)
    if state is not DeliveryState.DUE:
        raise Conflict("not_due", f"the delivery is {state.value} already", remedy="Only a due one can be cancelled.")
    (ordering_key,) = connection.execute(_CANCEL, (now_ms, by, *key)).fetchone()
    return Ended([key], _promote(connection, [(*key, ordering_key)]))


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
) -> list[tuple[Any, ...]]:
    return connection.execute(_END_SOME.format(chosen=chosen), (now_ms, reason, *parameters)).fetchall()


def _promote(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> list[DueDelivery]:
    return promote(connection, [(row[1], row[2]) for row in rows if row[2] is not None])


def _find(connection: sqlite3.Connection, delivery_id: str) -> tuple[DeliveryKey, DeliveryState, int | None, bool]:
    key = delivery_key(delivery_id)
    row = None
    if key is not None:
        row = connection.execute(
            """
            SELECT d.state, d.expires_at, n.deleted_at IS NOT NULL
            FROM delivery d JOIN endpoint n ON n.ref = d.endpoint WHERE d.event = ? AND d.endpoint = ?""",
            key,
        ).fetchone()
    if key is None or row is None:
        raise NotFound(f"no delivery {delivery_id!r}", remedy="List them with `relay deliveries list`.")
    return key, STATES[row[0]], row[1], bool(row[2])
