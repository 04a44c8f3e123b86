"""Settling: the end of an attempt as one compare-and-set on (delivery, state due, series), and the attempt's row (Q7)."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from relay.core.model import DeliveryState, DueDelivery, Outcome, Settled, Settlement
from relay.store.sqlite.bulk import insert_many
from relay.store.sqlite.order import first_in_line, promote

CODES = {
    DeliveryState.DUE: 0,
    DeliveryState.DELIVERED: 1,
    DeliveryState.DEAD: 2,
    DeliveryState.CANCELLED: 3,
}
"""States as the schema writes them."""

STATES = {code: state for state, code in CODES.items()}

RESPONSES_BYTES = 64 << 10
"""Response headers and bodies kept for one delivery, newest first (Q14)."""

_RESPONSE_BYTES = 16 << 10  # the most the courier reads of one
_DETAIL_CHARACTERS = 500

# The last condition finds a settlement that is submitted again because its commit was unknown.
_SETTLE = """
    UPDATE delivery SET
      state = s.state, due = s.due, reason = s.reason, finished_at = s.finished_at, manual = 0,
      blocking = iif(s.state = 0 AND delivery.blocking = 2, 2, 0),
      attempts = delivery.attempts + s.attempted, series_attempts = delivery.series_attempts + s.attempted
    FROM (SELECT value ->> 0 AS event, value ->> 1 AS endpoint, value ->> 2 AS series, value ->> 3 AS state,
                 value ->> 4 AS due, value ->> 5 AS reason, value ->> 6 AS finished_at, value ->> 7 AS attempted,
                 value ->> 8 AS attempts, value ->> 9 AS started_at
          FROM json_each(?)) AS s
    WHERE delivery.event = s.event AND delivery.endpoint = s.endpoint
      AND delivery.state = 0 AND delivery.series = s.series
      AND (delivery.attempts <= s.attempts OR NOT EXISTS (
        SELECT 1 FROM attempt a WHERE a.event = s.event AND a.endpoint = s.endpoint AND a.number > s.attempts
          AND a.series = s.series AND a.started_at = s.started_at))
    RETURNING event, endpoint, attempts, series_attempts, budget_from, ordering_key, blocking"""

_INSERT_ATTEMPT = """
    INSERT INTO attempt (event, endpoint, number, series, manual, started_at, duration, status, failure, detail, address)"""

_LATE = """
    UPDATE delivery SET attempts = attempts + 1 WHERE event = ? AND endpoint = ? RETURNING attempts, state, series"""

_DELIVERED_AFTER_CANCEL = """
    UPDATE delivery SET state = 1, finished_at = ?, cancelled_by = NULL WHERE event = ? AND endpoint = ?"""

_RECORDED = """
    SELECT d.state, d.due, d.series, d.attempts, d.series_attempts, d.budget_from
    FROM attempt a JOIN delivery d ON d.event = a.event AND d.endpoint = a.endpoint
    WHERE a.event = ? AND a.endpoint = ? AND a.number > ? AND a.series = ? AND a.started_at = ?"""

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


class SettleResult(NamedTuple):
    """A settlement's answer, and what else the transaction changed."""

    settled: Settled
    left: bool  # the delivery was due and is not any more
    promoted: tuple[DueDelivery, ...] = ()


def settle(connection: sqlite3.Connection, works: Sequence[SettleWork]) -> list[SettleResult]:
    """Apply settlements in order; one result for each."""
    results: list[SettleResult] = []
    start = 0
    while start < len(works):
        end = _distinct(works, start)
        results += _settle_distinct(connection, works[start:end])
        start = end
    return results


def _distinct(works: Sequence[SettleWork], start: int) -> int:
    """Find how far the settlements from `start` on name no delivery twice."""
    seen = set()
    for index in range(start, len(works)):
        delivery = works[index].settlement.delivery
        key = (delivery.event, delivery.endpoint)
        if key in seen:
            return index
        seen.add(key)
    return len(works)


def _settle_distinct(connection: sqlite3.Connection, works: Sequence[SettleWork]) -> list[SettleResult]:
    moved = {
        (row[0], row[1]): row for row in connection.execute(_SETTLE, (json.dumps([_row(work) for work in works]),))
    }
    results: list[SettleResult] = []
    attempts: list[tuple[Any, ...]] = []
    for work in works:
        delivery = work.settlement.delivery
        row = moved.get((delivery.event, delivery.endpoint))
        if row is None:
            results.append(_late(connection, work))
            continue
        if work.settlement.outcome is not None:
            attempts.append(_attempt_row(delivery, row[2], work.settlement.outcome))
        results.append(_moved(connection, work.settlement, row))
    insert_many(connection, _INSERT_ATTEMPT, attempts)
    for work in works:
        row = moved.get((work.settlement.delivery.event, work.settlement.delivery.endpoint))
        if row is not None:
            _keep_response(connection, work.settlement, row[2])
    return results


def _row(work: SettleWork) -> tuple[Any, ...]:
    settlement, now_ms = work
    delivery = settlement.delivery
    return (
        delivery.event,
        delivery.endpoint,
        delivery.series,
        CODES[settlement.state],
        settlement.due_ms,
        settlement.reason,
        None if settlement.state is DeliveryState.DUE else now_ms,
        0 if settlement.outcome is None else 1,
        delivery.attempts,
        None if settlement.outcome is None else settlement.outcome.started_at_ms,
    )


def _moved(connection: sqlite3.Connection, settlement: Settlement, row: tuple[Any, ...]) -> SettleResult:
    event, endpoint, attempts, series_attempts, budget_from_ms, ordering_key, blocking = row
    passes = ordering_key is not None and not blocking
    promoted = tuple(promote(connection, [(endpoint, ordering_key)])) if passes else ()
    if settlement.state is not DeliveryState.DUE:
        return SettleResult(Settled(True, None), left=True, promoted=promoted)
    assert settlement.due_ms is not None, "what is due again has a time"
    series = settlement.delivery.series
    due = DueDelivery(event, endpoint, settlement.due_ms, series, attempts, series_attempts, budget_from_ms)
    return SettleResult(Settled(True, due), left=False, promoted=promoted)


def _late(connection: sqlite3.Connection, work: SettleWork) -> SettleResult:
    """Settle a delivery that moved on meanwhile: cancelled, retried by hand, pruned, or this very settlement again."""
    settlement, now_ms = work
    delivery, outcome = settlement.delivery, settlement.outcome
    if outcome is None:
        return SettleResult(Settled(False, None), left=False, promoted=_unheard(connection, delivery))
    again = _settled_before(connection, delivery, outcome)
    if again is not None:  # its first answer never came, so nobody counted it or heard whom it promoted
        return SettleResult(again, left=again.due is None, promoted=_unheard(connection, delivery))
    row = connection.execute(_LATE, delivery.key).fetchone()
    if row is None:
        return SettleResult(Settled(False, None), left=False)
    attempts, state, series = row
    connection.execute(
        f"{_INSERT_ATTEMPT} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", _attempt_row(delivery, attempts, outcome)
    )
    _keep_response(connection, settlement, attempts)
    applied = STATES[state] is DeliveryState.CANCELLED and series == delivery.series
    applied = applied and settlement.state is DeliveryState.DELIVERED
    if applied:
        connection.execute(_DELIVERED_AFTER_CANCEL, (now_ms, *delivery.key))
    return SettleResult(Settled(applied, None), left=False)


def _unheard(connection: sqlite3.Connection, delivery: DueDelivery) -> tuple[DueDelivery, ...]:
    return tuple(first_in_line(connection, delivery.key))


def _settled_before(connection: sqlite3.Connection, delivery: DueDelivery, outcome: Outcome) -> Settled | None:
    """Answer a settlement that is submitted again because its commit was unknown, and had been kept."""
    key = (*delivery.key, delivery.attempts, delivery.series, outcome.started_at_ms)
    row = connection.execute(_RECORDED, key).fetchone()
    if row is None:
        return None
    state, due_ms, series, attempts, series_attempts, budget_from_ms = row
    if STATES[state] is not DeliveryState.DUE or series != delivery.series or due_ms is None:
        return Settled(True, None)
    due = DueDelivery(delivery.event, delivery.endpoint, due_ms, series, attempts, series_attempts, budget_from_ms)
    return Settled(True, due)


def _attempt_row(delivery: DueDelivery, number: int, outcome: Outcome) -> tuple[Any, ...]:
    return (
        delivery.event,
        delivery.endpoint,
        number,
        delivery.series,
        int(delivery.manual),
        outcome.started_at_ms,
        outcome.duration_ms,
        outcome.status,
        outcome.failure,
        outcome.detail[:_DETAIL_CHARACTERS],
        outcome.address,
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
