"""Accepting events: an event and all its deliveries in one transaction (invariant 1), repeats answered (Q8)."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from relay.core.model import Accepted, DeadReason, DueDelivery, FrozenEvent, NewEvent
from relay.store.rows import AcceptResult
from relay.store.sqlite.bulk import insert_many
from relay.store.sqlite.claims import Entry, turn_away
from relay.store.sqlite.order import blocked
from relay.store.sqlite.remembered import consult

NONE_OVERFLOWED: frozenset[tuple[int, int]] = frozenset()

_INSERT_EVENT = """
    INSERT INTO event (ordinal, id, application, type, created_at, timestamp, deliver_at, expires_at, ordering_key,
                       reason, reason_detail, checksum, metadata, body)"""

_INSERT_DELIVERY = """
    INSERT INTO delivery (event, endpoint, state, due, budget_from, finished_at, reason, expires_at, ordering_key,
                          blocking)"""


@dataclass(frozen=True, slots=True)
class AcceptBatch:
    """Events that are accepted together."""

    events: Sequence[NewEvent]
    overflow: frozenset[tuple[int, int]] = NONE_OVERFLOWED  # (index of the event, endpoint) beyond the backlog (Q10)


class Acceptor:
    """Owner of the ordinals. Lives in the writer's thread."""

    def __init__(self) -> None:
        self._last = 0

    def resume(self, connection: sqlite3.Connection) -> None:
        """Go on after the highest ordinal that was ever given out, pruned or not."""
        (self._last,) = connection.execute("""
            SELECT max((SELECT coalesce(max(ordinal), 0) FROM event), (SELECT coalesce(max(event), 0) FROM claim),
                       (SELECT value FROM meta WHERE name = 'ordinal_floor'))""").fetchone()

    def accept(self, connection: sqlite3.Connection, batches: Sequence[AcceptBatch]) -> list[list[AcceptResult]]:
        """Store what is new in all batches; one list of results for each."""
        entries = [self._entry(batch, index) for batch in batches for index in range(len(batch.events))]
        results: dict[int, AcceptResult] = dict(turn_away(connection, entries))
        kept = consult(connection, [entry for entry in entries if entry.ordinal not in results])
        results.update(_store(connection, kept))
        answers = iter([results[entry.ordinal] for entry in entries])
        return [[next(answers) for _ in batch.events] for batch in batches]

    def _entry(self, batch: AcceptBatch, index: int) -> Entry:
        # A failed group leaves a gap: its commit may have been kept after all, so its numbers are not used again.
        self._last += 1
        event = batch.events[index]
        if not batch.overflow:
            return Entry(self._last, event, ())
        return Entry(self._last, event, tuple(ref for ref in event.targets if (index, ref) in batch.overflow))


def _store(connection: sqlite3.Connection, entries: Sequence[Entry]) -> dict[int, Accepted]:
    waiting = blocked(connection, entries)
    stored: dict[int, Accepted] = {}
    event_rows, delivery_rows = [], []
    for ordinal, event, overflowed in entries:
        checksum = crc32(event.body)
        start_ms = max(event.created_at_ms, event.deliver_at_ms or 0)
        blocking = 0 if event.ordering_key is None else 1 + event.order_strictly
        due = []
        for ref in event.targets:
            if ref in overflowed:
                delivery_rows.append(_overflowed(ordinal, ref, event, start_ms))
                continue
            due_ms = None if (ordinal, ref) in waiting else start_ms
            delivery_rows.append(
                (ordinal, ref, 0, due_ms, start_ms, None, None, event.expires_at_ms, event.ordering_key, blocking)
            )
            if due_ms is not None:
                due.append(DueDelivery(ordinal, ref, due_ms, 1, 0, 0, start_ms))
        event_rows.append(_event_row(ordinal, event, checksum))
        stored[ordinal] = Accepted(
            FrozenEvent(
                ordinal,
                event.id,
                event.type,
                event.application,
                event.created_at_ms,
                event.expires_at_ms,
                event.body,
                checksum,
            ),
            tuple(due),
            len(event.targets) - len(overflowed),
            event.reason,
            event.reason_detail,
            tuple(overflowed),
        )
    insert_many(connection, _INSERT_EVENT, event_rows)
    insert_many(connection, _INSERT_DELIVERY, delivery_rows)
    return stored


def _overflowed(ordinal: int, ref: int, event: NewEvent, start_ms: int) -> tuple[object, ...]:
    died_ms = event.created_at_ms
    reason = DeadReason.OVERFLOW.value
    return (ordinal, ref, 2, None, start_ms, died_ms, reason, event.expires_at_ms, event.ordering_key, 0)


def _event_row(ordinal: int, event: NewEvent, checksum: int) -> tuple[object, ...]:
    return (
        ordinal,
        event.id,
        event.application,
        event.type,
        event.created_at_ms,
        event.timestamp_ms,
        event.deliver_at_ms,
        event.expires_at_ms,
        event.ordering_key,
        event.reason,
        event.reason_detail,
        checksum,
        event.metadata,
        event.body,
    )
