"""Settling: the end of an attempt as one compare-and-set on (delivery, state due, series), and the attempt's row (Q7).

What the statement does not move has moved on by itself: cancelled, pruned, in another series; retried by hand while its
attempt ran (Q13), which shows in `budget_from`; or settled by this very settlement, whose commit was unknown. Those few
are settled one by one, by what the row says now.
"""

import json
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from relay.core.model import DeadReason, DeliveryState, DueDelivery, Outcome, Settled, Settlement
from relay.store.sqlite.counts import Change
from relay.store.sqlite.order import first_in_line, promote, release_head
from relay.store.sqlite.rows import CODES, DUE_COLUMNS, STATES, Row, due_delivery, execute_values, may_become, packed

RESPONSES_BYTES = 64 << 10
"""Response headers and bodies kept for one delivery, newest first (Q14)."""

_RESPONSE_BYTES = 16 << 10  # the most the courier reads of one
_DETAIL_CHARACTERS = 500

_ENDS_ANYWAY = {DeadReason.GONE, DeadReason.ABORTED}

SETTLEMENTS = """
    WITH s (event, endpoint, series, state, due, reason, finished_at, attempted, attempts, started_at, budget_from, ends)
    AS ("""

# `ends` is compared with the row's `manual`: 0 gives way to any retry by hand, 1 to a forced one, 2 to none. The last
# condition finds a settlement that is submitted again because its commit was unknown.
SETTLE = f""")
    UPDATE delivery SET
      state = s.state, due = s.due, reason = s.reason, finished_at = s.finished_at,
      manual = 0, blocking = iif(s.state = 0 AND blocking = 2, 2, 0),
      attempts = delivery.attempts + s.attempted, series_attempts = series_attempts + s.attempted
    FROM s
    WHERE delivery.event = s.event AND delivery.endpoint = s.endpoint
      AND delivery.state = 0 AND delivery.series = s.series
      AND (delivery.budget_from <= s.budget_from OR delivery.manual <= s.ends)
      AND (delivery.attempts <= s.attempts OR NOT EXISTS (
        SELECT 1 FROM attempt a WHERE a.event = s.event AND a.endpoint = s.endpoint AND a.number > s.attempts
          AND a.series = s.series AND a.started_at = s.started_at))
    RETURNING {DUE_COLUMNS}, ordering_key, blocking, share"""

_INSERT_ATTEMPT = """
    INSERT INTO attempt (event, endpoint, number, series, manual, started_at, duration, status, failure, detail,
                         address, trace)"""

LATE = f"""
    UPDATE delivery SET attempts = attempts + 1, series_attempts = series_attempts + (series = ?3),
      blocking = iif(state = 0 AND blocking = 2, 2, 0)
    WHERE event = ?1 AND endpoint = ?2 RETURNING {DUE_COLUMNS}, ordering_key, blocking, state"""

_DELIVERED_AFTER_CANCEL = f"""
    UPDATE delivery SET state = 1, finished_at = ?, cancelled_by = NULL
    WHERE event = ? AND endpoint = ? AND {may_become(DeliveryState.DELIVERED)}"""

_AS_IT_IS = f"SELECT {DUE_COLUMNS}, state FROM delivery WHERE event = ? AND endpoint = ?"

_RECORDED = """
    SELECT 1 FROM attempt WHERE event = ? AND endpoint = ? AND number > ? AND series = ? AND started_at = ?"""

_TRIM_RESPONSES = """
    DELETE FROM response WHERE event = ?1 AND endpoint = ?2 AND number IN (
      SELECT number FROM (
        SELECT number, sum(length(headers) + length(body)) OVER (ORDER BY number DESC) AS kept
        FROM response WHERE event = ?1 AND endpoint = ?2)
      WHERE kept > ?3)"""


class SettleWork(NamedTuple):
    """A settlement and the time of its transaction."""

    settlement: Settlement
    now_ms: int


def settle(connection: sqlite3.Connection, works: Sequence[SettleWork]) -> list[Change[Settled]]:
    """Apply settlements in order; one result for each, O(log n) whatever else is in the tables."""
    results: list[Change[Settled]] = []
    start = 0
    while start < len(works):
        end = _distinct(works, start)
        results += _settle_distinct(connection, works[start:end])
        start = end
    return results


def give_back(connection: sqlite3.Connection, delivery: DueDelivery) -> Change[DueDelivery | None]:
    """End an attempt that was not made after all: its delivery stays as it is. O(log n)"""
    promoted = release_head(connection, delivery.key)
    return Change(_due_now(connection, delivery), promoted=promoted)


def _distinct(works: Sequence[SettleWork], start: int) -> int:
    """Find how far the settlements from `start` on name no delivery twice."""
    seen = set()
    for index in range(start, len(works)):
        key = works[index].settlement.delivery.key
        if key in seen:
            return index
        seen.add(key)
    return len(works)


def _settle_distinct(connection: sqlite3.Connection, works: Sequence[SettleWork]) -> list[Change[Settled]]:
    rows = execute_values(connection, SETTLEMENTS, [_row(work) for work in works], SETTLE)
    moved = {(row[0], row[1]): row for row in rows}
    results: list[Change[Settled]] = []
    attempts: list[Row] = []
    responses: list[tuple[Settlement, int]] = []
    for work in works:
        settlement = work.settlement
        row = moved.get(settlement.delivery.key)
        if row is None:
            results.append(_late(connection, work))
            continue
        if settlement.outcome is not None:
            attempts.append(_attempt_row(settlement.delivery, row[4], settlement.outcome))
            responses.append((settlement, row[4]))
        results.append(_moved(connection, settlement, row))
    execute_values(connection, _INSERT_ATTEMPT, attempts)
    for settlement, number in responses:
        _keep_response(connection, settlement, number)
    return results


def _row(work: SettleWork) -> Row:
    settlement, now_ms = work
    delivery, outcome = settlement.delivery, settlement.outcome
    return (
        delivery.event,
        delivery.endpoint,
        delivery.series,
        CODES[settlement.state],
        settlement.due_ms,
        settlement.reason,
        None if settlement.state is DeliveryState.DUE else now_ms,
        0 if outcome is None else 1,
        delivery.attempts,
        None if outcome is None else outcome.started_at_ms,
        delivery.budget_from_ms,
        _ends(settlement),
    )


def _ends(settlement: Settlement) -> int:
    """Say how far an attempt ends its delivery although it was retried by hand meanwhile (Q13)."""
    if settlement.state is DeliveryState.DELIVERED or settlement.reason in _ENDS_ANYWAY:
        return 2
    return int(settlement.reason is DeadReason.EXPIRED)


def _moved(connection: sqlite3.Connection, settlement: Settlement, row: Row) -> Change[Settled]:
    promoted = _passed(connection, row)
    if settlement.state is DeliveryState.DUE:
        return Change(Settled(True, due_delivery(row)), promoted=promoted)
    died = settlement.state is DeliveryState.DEAD
    return Change(Settled(True, None), [(row[1], -1, -row[10], died, settlement.reason)], promoted)


def _passed(connection: sqlite3.Connection, row: Row) -> Sequence[DueDelivery]:
    """Promote the successor of a delivery that blocks nobody now."""
    endpoint, ordering_key, blocking = row[1], row[8], row[9]
    return promote(connection, [(endpoint, ordering_key)]) if ordering_key is not None and not blocking else ()


def _late(connection: sqlite3.Connection, work: SettleWork) -> Change[Settled]:
    """Settle a delivery that moved on meanwhile: record the attempt, and say what the row is now."""
    settlement, now_ms = work
    delivery, outcome = settlement.delivery, settlement.outcome
    released = release_head(connection, delivery.key)
    if outcome is None or _recorded(connection, delivery, outcome):
        promoted = released or first_in_line(connection, delivery.key)  # the first answer may have been lost
        return Change(Settled(outcome is not None, _due_now(connection, delivery)), promoted=promoted)
    row = connection.execute(LATE, (*delivery.key, delivery.series)).fetchone()
    if row is None:
        return Change(Settled(False, None))
    connection.execute(
        f"{_INSERT_ATTEMPT} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _attempt_row(delivery, row[4], outcome)
    )
    _keep_response(connection, settlement, row[4])
    promoted = [*released, *_passed(connection, row)]
    state, same_series = STATES[row[10]], row[3] == delivery.series
    if state is DeliveryState.DUE:
        due = None if row[2] is None else due_delivery(row)
        return Change(Settled(False, due), promoted=promoted)
    applied = state is DeliveryState.CANCELLED and same_series and settlement.state is DeliveryState.DELIVERED
    if applied:
        connection.execute(_DELIVERED_AFTER_CANCEL, (now_ms, *delivery.key))
    return Change(Settled(applied, None), promoted=promoted)


def _recorded(connection: sqlite3.Connection, delivery: DueDelivery, outcome: Outcome) -> bool:
    """Find out whether a settlement had been kept, though its commit was unknown and it is submitted again."""
    place = (*delivery.key, delivery.attempts, delivery.series, outcome.started_at_ms)
    return connection.execute(_RECORDED, place).fetchone() is not None


def _due_now(connection: sqlite3.Connection, delivery: DueDelivery) -> DueDelivery | None:
    row = connection.execute(_AS_IT_IS, delivery.key).fetchone()
    if row is None or STATES[row[8]] is not DeliveryState.DUE or row[2] is None:
        return None
    return due_delivery(row)


def _attempt_row(delivery: DueDelivery, number: int, outcome: Outcome) -> Row:
    return (
        delivery.event,
        delivery.endpoint,
        number,
        delivery.series,
        int(delivery.manual or delivery.replayed),
        outcome.started_at_ms,
        round(outcome.duration_ms),
        outcome.status,
        outcome.failure,
        outcome.detail[:_DETAIL_CHARACTERS],
        outcome.address,
        packed(outcome.duration_ms, outcome.trace),
    )


def _keep_response(connection: sqlite3.Connection, settlement: Settlement, number: int) -> None:
    outcome, key = settlement.outcome, settlement.delivery.key
    if outcome is None or not settlement.keep_response or not (outcome.response_headers or outcome.response_body):
        return
    connection.execute(
        "INSERT INTO response (event, endpoint, number, headers, body) VALUES (?, ?, ?, ?, ?)",
        (*key, number, json.dumps(outcome.response_headers), outcome.response_body[:_RESPONSE_BYTES]),
    )
    connection.execute(_TRIM_RESPONSES, (*key, RESPONSES_BYTES))
