"""Edits of deliveries: retried or cancelled by hand, ended while held, cancelled with their endpoint.

Mass edits move at most `limit` rows in a transaction; what is left is found by the next step, after a restart too.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

from relay.core.errors import Conflict, NotFound
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, DueDelivery
from relay.store.sqlite.counts import Change, Move
from relay.store.sqlite.order import leave_head, promote
from relay.store.sqlite.rows import BY_HAND, DUE_COLUMNS, FORCED, STATES, due_delivery, may_become
from relay.store.values import DueKey, PulledForward, delivery_key

DELETED_BY = "endpoint deleted"

# `replayed` says how many replays there were when it was last sent again, so a replay sees what it must not send once more.
# `budget_from` grows with every retry, so a settlement sees that its delivery was retried while the attempt ran.
_RETRY = f"""
    UPDATE delivery SET state = 0, due = ?1, budget_from = max(?1, budget_from + 1), manual = ?4, reason = NULL,
      finished_at = NULL, cancelled_by = NULL, series = series + (state != 0),
      series_attempts = iif(state = 0, series_attempts, 0),
      replayed = 1 + (SELECT value FROM meta WHERE name = 'replays')
    WHERE event = ?2 AND endpoint = ?3 AND {may_become(DeliveryState.DUE)}
    RETURNING {DUE_COLUMNS}, share"""

_CANCEL = f"""
    UPDATE delivery SET state = 3, due = NULL, manual = 0, blocking = 0, finished_at = ?, cancelled_by = ?, reason = NULL
    WHERE event = ? AND endpoint = ? AND {may_become(DeliveryState.CANCELLED)} RETURNING share"""

_CANCEL_SOME = f"""
    UPDATE delivery SET state = 3, due = NULL, manual = 0, blocking = 0, finished_at = ?, cancelled_by = ?
    WHERE (event, endpoint) IN (SELECT event, endpoint FROM delivery INDEXED BY delivery_due
                                WHERE endpoint = ? AND state = 0 LIMIT ?)
      AND {may_become(DeliveryState.CANCELLED)}
    RETURNING share"""

_END_SOME = f"""
    UPDATE delivery SET state = 2, due = NULL, manual = 0, blocking = 0, finished_at = ?, reason = ?
    WHERE (event, endpoint) IN ({{chosen}}) AND {may_become(DeliveryState.DEAD)}
    RETURNING event, endpoint, share, ordering_key"""

_NOT_AMONG = "event NOT IN (SELECT value FROM json_each(?))"

# What is due later than this is looked at when that time has come: its index gives what can be over its budget.
_OVER_BUDGET = f"""
    SELECT event, endpoint FROM delivery INDEXED BY delivery_due
    WHERE endpoint = ? AND state = 0 AND {_NOT_AMONG} AND due < ? AND budget_from < ? ORDER BY due LIMIT ?"""

_EXPIRED = f"""
    SELECT event, endpoint FROM delivery INDEXED BY delivery_expiry
    WHERE endpoint = ? AND state = 0 AND {_NOT_AMONG} AND expires_at IS NOT NULL AND expires_at <= ? AND NOT manual & {FORCED}
    ORDER BY expires_at LIMIT ?"""

_WAITING = """
    SELECT d.event, d.due, d.attempts, iif(d.manual, 0, d.series_attempts), d.manual = 0 AND e.deliver_at IS NOT NULL
    FROM delivery d INDEXED BY delivery_due CROSS JOIN event e ON e.ordinal = d.event
    WHERE d.endpoint = ? AND d.state = 0 AND (d.due, d.event) > (?, ?) ORDER BY d.due, d.event LIMIT ?"""

_PULL = f"UPDATE delivery SET due = ? WHERE event = ? AND endpoint = ? RETURNING {DUE_COLUMNS}"

_FIND = """
    SELECT d.state, d.expires_at, n.deleted_at IS NOT NULL, d.ordering_key, d.blocking, d.series, d.attempts, d.reason
    FROM delivery d JOIN endpoint n ON n.ref = d.endpoint WHERE d.event = ? AND d.endpoint = ?"""


class Found(NamedTuple):
    """A delivery that somebody named."""

    key: DeliveryKey
    state: DeliveryState
    expires_at_ms: int | None
    deleted: bool  # its endpoint was
    ordering_key: str | None
    blocking: int  # above 0 while its successors wait for it
    series: int
    attempts: int
    reason: str | None  # of its death


def retry_delivery(connection: sqlite3.Connection, delivery_id: str, now_ms: int, force: bool) -> Change[DueDelivery]:
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
    row = connection.execute(_RETRY, (now_ms, *found.key, FORCED if force else BY_HAND)).fetchone()
    more_due, more_dead = found.state is not DeliveryState.DUE, -(found.state is DeliveryState.DEAD)
    return Change(due_delivery(row), [(found.key.endpoint, more_due, row[8] * more_due, more_dead, found.reason)])


def cancel_delivery(
    connection: sqlite3.Connection, delivery_id: str, by: str, now_ms: int, under_way: DueDelivery | None
) -> Change[DeliveryKey]:
    """Cancel a due delivery; NotFound, or Conflict when it has ended. O(log n)

    While an attempt of it is `under_way` and not settled, what waits for it by its ordering key goes on waiting.
    """
    found = _find(connection, delivery_id)
    if found.state is not DeliveryState.DUE:
        raise Conflict(
            "not_due", f"the delivery is {found.state.value} already", remedy="Only a due one can be cancelled."
        )
    (share,) = connection.execute(_CANCEL, (now_ms, by, *found.key)).fetchone()
    moves = [(found.key.endpoint, -1, -share, 0, None)]
    if found.ordering_key is None:
        return Change(found.key, moves)
    runs = under_way is not None and (found.series, found.attempts) == (under_way.series, under_way.attempts)
    if runs and found.blocking:
        leave_head(connection, found.key, found.ordering_key)
    return Change(found.key, moves, promote(connection, [(found.key.endpoint, found.ordering_key)]))


def drop_dead(connection: sqlite3.Connection, delivery_id: str, by: str, now_ms: int) -> Change[None]:
    """Cancel a dead letter; NotFound, or Conflict `not_dead`. O(log n)"""
    found = _find(connection, delivery_id)
    if found.state is not DeliveryState.DEAD:
        raise Conflict("not_dead", f"the delivery is {found.state.value}", remedy="Only a dead letter can be dropped.")
    connection.execute(_CANCEL, (now_ms, by, *found.key))
    return Change(None, [(found.key.endpoint, 0, 0, -1, found.reason)])


def note_dead(
    connection: sqlite3.Connection, ref: int, reason: DeadReason, note: str, by: str, now_ms: int
) -> Change[None]:
    """Keep a note about the dead letters of an endpoint and a reason; an empty one removes it. O(log n)"""
    connection.execute("DELETE FROM dead_note WHERE endpoint = ? AND reason = ?", (ref, reason))
    if note:
        values = (ref, reason, note, by, now_ms)
        connection.execute(
            "INSERT INTO dead_note (endpoint, reason, note, noted_by, noted_at) VALUES (?, ?, ?, ?, ?)", values
        )
    return Change(None)


def cancel_deleted(connection: sqlite3.Connection, ref: int, now_ms: int, limit: int) -> Change[int]:
    """Cancel some due deliveries of a deleted endpoint; the answer is how many, 0 when none are left."""
    rows = connection.execute(_CANCEL_SOME, (now_ms, DELETED_BY, ref, limit)).fetchall()
    return Change(len(rows), [(ref, -len(rows), -sum(share for (share,) in rows), 0, None)])


def end_held(
    connection: sqlite3.Connection,
    ref: int,
    budget_before_ms: int,
    now_ms: int,
    reason: DeadReason,
    limit: int,
    reserved: Collection[int],
) -> Change[dict[DeadReason, list[DeliveryKey]]]:
    """End some held deliveries: those past `expires_at`, and those whose budget began before a time (Q6, Q9)."""
    spared = json.dumps(list(reserved))
    ended: dict[DeadReason, list[DeliveryKey]] = {}
    passed: list[tuple[int, str]] = []
    moves: list[Move] = []
    for why, chosen, bounds in (
        (DeadReason.EXPIRED, _EXPIRED, (now_ms,)),
        (reason, _OVER_BUDGET, (budget_before_ms, budget_before_ms)),
    ):
        room = limit - sum(map(len, ended.values()))
        parameters = (now_ms, why, ref, spared, *bounds, room)
        rows = connection.execute(_END_SOME.format(chosen=chosen), parameters).fetchall()
        if rows:
            ended[why] = [DeliveryKey(*row[:2]) for row in rows]
            passed += [(ref, row[3]) for row in rows if row[3] is not None]
            moves.append((ref, -len(rows), -sum(row[2] for row in rows), len(rows), why.value))
    return Change(ended, moves, promote(connection, passed))


def pull_forward(
    connection: sqlite3.Connection, ref: int, latest_ms: Sequence[int], place: DueKey | None, limit: int
) -> Change[PulledForward]:
    """Look at up to `limit` deliveries that are due after `place` and make due earlier those that wait too long."""
    after = place or (min(latest_ms), 1 << 62)
    rows = connection.execute(_WAITING, (ref, *after, limit)).fetchall()
    moved = []
    for event, due_ms, attempts, step, appointed in rows:
        bound_ms = latest_ms[min(step, len(latest_ms) - 1)]
        if due_ms > bound_ms and not (appointed and attempts == 0):
            moved.append(due_delivery(connection.execute(_PULL, (bound_ms, event, ref)).fetchone()))
    return Change(PulledForward(moved, (rows[-1][1], rows[-1][0]) if len(rows) == limit else None))


def _find(connection: sqlite3.Connection, delivery_id: str) -> Found:
    key = delivery_key(delivery_id)
    row = None if key is None else connection.execute(_FIND, key).fetchone()
    if key is None or row is None:
        raise NotFound(f"no delivery {delivery_id!r}", remedy="List them with `relay deliveries list`.")
    return Found(key, STATES[row[0]], *row[1:])
