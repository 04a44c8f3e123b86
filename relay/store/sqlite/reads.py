"""What attempts and lanes read, and what people look at. The pages of lists are written in `lists`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from relay.core.errors import Conflict
from relay.core.frozen import FrozenEvent, Variant
from relay.core.model import DeadReason, DeliveryKey, DueDelivery
from relay.core.views import AttemptView, DeadGroup, DeliveryView, EventView, Page, VariantView
from relay.store.sqlite import lists
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.rows import (
    DELIVERY_COLUMNS,
    DELIVERY_JOINS,
    DUE_COLUMNS,
    EVENT_COLUMNS,
    Row,
    attempt_view,
    delivery_view,
    due_delivery,
)
from relay.store.values import EventFilter, RefillResult, delivery_id, delivery_key

RIDE_ALONG_BYTES = 16 << 10
"""Bodies up to this size come with the refill; a larger one is read at its attempt, and so are several of one event."""

TIMELINE_MAX = 1_000
FAN_OUT_MAX = 10_000

REFILL = f"""
    SELECT d.event, d.endpoint, d.due, d.series, d.attempts, d.series_attempts, d.budget_from, d.manual,
           e.ordinal, e.id, e.type, e.application, e.created_at, e.expires_at,
           iif(length(e.body) <= {RIDE_ALONG_BYTES} AND NOT EXISTS (SELECT 1 FROM variant WHERE event = e.ordinal),
               e.body, NULL), e.checksum
    FROM delivery d INDEXED BY delivery_due CROSS JOIN event e ON e.ordinal = d.event
    WHERE d.endpoint = ? AND d.state = 0 AND (d.due, d.event) >= (?, ?) ORDER BY d.due, d.event LIMIT ?"""

AUDIT = f"""
    SELECT {DUE_COLUMNS} FROM delivery INDEXED BY delivery_due
    WHERE endpoint = ? AND state = 0 AND due IS NOT NULL ORDER BY due, event LIMIT ?"""

# From one endpoint to the next by a seek each, however many rows there are.
WITH_DUE = """
    WITH RECURSIVE found (ref) AS (
      SELECT min(endpoint) FROM delivery INDEXED BY delivery_due WHERE state = 0
      UNION ALL
      SELECT (SELECT min(endpoint) FROM delivery INDEXED BY delivery_due WHERE state = 0 AND endpoint > found.ref)
      FROM found WHERE ref IS NOT NULL)
    SELECT ref FROM found WHERE ref IS NOT NULL"""

READ_EVENT = """
    SELECT e.ordinal, e.id, e.type, e.application, e.created_at, e.expires_at, e.body, e.checksum,
           v.contract, v.endpoints, v.body, v.fault, v.checksum
    FROM event e LEFT JOIN variant v ON v.event = e.ordinal WHERE e.ordinal = ?"""

FAILURE_BEFORE = """
    SELECT coalesce(failure, 'http_' || status) FROM attempt WHERE event = ? AND endpoint = ? AND number = ?"""

_EVENT = f"SELECT {EVENT_COLUMNS}, e.body FROM event e JOIN application a ON a.ref = e.application WHERE e.id = ?"

_VARIANTS = """
    SELECT v.contract, (SELECT json_group_array(n.id) FROM json_each(v.endpoints) t CROSS JOIN endpoint n ON n.ref = t.value),
           v.fault, v.body
    FROM variant v WHERE v.event = ? ORDER BY v.contract"""

_DELIVERIES = f"""
    SELECT {DELIVERY_COLUMNS} FROM event e CROSS JOIN delivery d ON d.event = e.ordinal {DELIVERY_JOINS}
    WHERE e.id = ? AND d.endpoint > ? ORDER BY d.endpoint LIMIT ?"""

_DELIVERY = f"""
    SELECT {DELIVERY_COLUMNS} FROM delivery d CROSS JOIN event e ON e.ordinal = d.event {DELIVERY_JOINS}
    WHERE d.event = ? AND d.endpoint = ?"""

_TIMELINE = f"""
    SELECT a.number, a.series, a.manual, a.started_at, a.duration, a.status, a.failure, a.detail, a.address,
           a.trace, r.headers, r.body
    FROM attempt a LEFT JOIN response r ON r.event = a.event AND r.endpoint = a.endpoint AND r.number = a.number
    WHERE a.event = ? AND a.endpoint = ? ORDER BY a.number DESC LIMIT {TIMELINE_MAX}"""

LAST_ATTEMPTS = """
    SELECT k.value ->> 0, a.number, a.series, a.manual, a.started_at, a.duration, a.status, a.failure, a.detail, a.address,
           a.trace, NULL, NULL
    FROM json_each(?) k CROSS JOIN attempt a
    ON a.event = k.value ->> 1 AND a.endpoint = k.value ->> 2 AND a.number = k.value ->> 3"""

_OF_GROUP = """
    delivery INDEXED BY delivery_dead_group WHERE state = 2 AND endpoint = g.endpoint AND reason = g.reason
    ORDER BY finished_at"""

# Groups that were counted, each with its first and its last dead letter by a seek.
DEAD_GROUPS = f"""
    SELECT n.id, a.id, g.reason, g.deaths,
           (SELECT finished_at FROM {_OF_GROUP} LIMIT 1), (SELECT finished_at FROM {_OF_GROUP} DESC LIMIT 1),
           (SELECT event FROM {_OF_GROUP} DESC, event DESC LIMIT 1), g.endpoint, t.note, t.noted_by, t.noted_at
    FROM (SELECT value ->> 0 AS endpoint, value ->> 1 AS reason, value ->> 2 AS deaths FROM json_each(?1)) g
    CROSS JOIN endpoint n ON n.ref = g.endpoint CROSS JOIN application a ON a.ref = n.application
    LEFT JOIN dead_note t ON t.endpoint = g.endpoint AND t.reason = g.reason
    WHERE ?2 IS NULL OR a.id = ?2"""

LAST_CREATED = """
    SELECT ordinal FROM event INDEXED BY event_created WHERE created_at <= ?
    ORDER BY created_at DESC, ordinal DESC LIMIT 1"""


def shape_of(bounds: int) -> str:
    """Write what counts the due deliveries of some endpoints up to so many events, from their index alone."""
    older = "".join([", sum(event <= ?)"] * bounds)
    return f"""
        SELECT endpoint, count(*){older} FROM delivery INDEXED BY delivery_due
        WHERE state = 0 AND endpoint IN (SELECT value FROM json_each(?)) GROUP BY endpoint"""


GROUPS_AT_ONCE = 500
"""Groups of dead letters that one statement looks up."""


class Reads:
    """Owner of the connections that cannot write: one each for what people name, for what they search, for refills and
    audits, and for attempts. So a search delays nothing but another search."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []

    async def _open_readers(self, path: Path, timeout_ms: int, on_fatal: Callable[[Exception], None]) -> None:
        for _ in range(4):
            self._readers.append(await Reader.open(path, timeout_ms, on_fatal))
        self._people, self._search, self._refills, self._attempts = self._readers

    async def _close_readers(self) -> None:
        for reader in self._readers:
            await reader.close()

    # -- what attempts and lanes read --------------------------------------------------------------------------------

    async def refill(self, ref: int, from_due_ms: float, from_event: float, limit: int) -> RefillResult:
        rows = await self._refills.fetch(REFILL, (ref, _int64(from_due_ms), _int64(from_event), limit))
        events = {row[0]: _frozen(row[8:]) for row in rows if row[14] is not None}
        return RefillResult([due_delivery(row) for row in rows], list(events.values()))

    async def audit_due(self, ref: int, limit: int) -> list[DueDelivery]:
        return [due_delivery(row) for row in await self._refills.fetch(AUDIT, (ref, limit))]

    async def endpoints_with_due(self) -> list[int]:
        return [row[0] for row in await self._refills.fetch(WITH_DUE)]

    async def read_event(self, ordinal: int) -> FrozenEvent | None:
        rows = await self._attempts.fetch(READ_EVENT, (ordinal,))
        if not rows:
            return None
        event = _frozen(rows[0][:8])
        return event if rows[0][8] is None else event._replace(variants=tuple(_variant(row[8:]) for row in rows))

    async def failure_before(self, delivery: DueDelivery) -> str | None:
        rows = await self._attempts.fetch(FAILURE_BEFORE, (*delivery.key, delivery.attempts))
        return rows[0][0] if rows else None

    # -- what people look at -----------------------------------------------------------------------------------------

    async def find_event(self, event_id: str) -> EventView | None:
        rows = await self._people.fetch(_EVENT, (event_id,))
        if not rows:
            return None
        (view,) = await lists.event_views(self._people, rows)
        variants = await self._people.fetch(_VARIANTS, rows[0][:1])
        return replace(view, variants=[VariantView(row[0], json.loads(row[1]), *row[2:]) for row in variants])

    async def list_events(self, wanted: EventFilter, cursor: str | None, limit: int) -> Page[EventView]:
        return await lists.list_events(self._search, wanted, cursor, limit)

    async def deliveries_of(
        self, event_id: str, after: str | None = None, limit: int = FAN_OUT_MAX
    ) -> list[DeliveryView]:
        key = None if after is None else delivery_key(after)
        if after is not None and key is None:
            raise Conflict("invalid_cursor", "this cursor is none of ours", remedy="Start again without it.")
        rows = await self._people.fetch(_DELIVERIES, (event_id, 0 if key is None else key.endpoint, limit))
        return [delivery_view(row) for row in rows]

    async def last_attempts(self, deliveries: Sequence[DeliveryView]) -> Mapping[str, AttemptView]:
        keys = {view.id: key for view in deliveries if view.attempts and (key := delivery_key(view.id)) is not None}
        asked = [(view.id, *keys[view.id], view.attempts) for view in deliveries if view.id in keys]
        rows = await self._people.fetch(LAST_ATTEMPTS, (json.dumps(asked),)) if asked else []
        return {row[0]: attempt_view(keys[row[0]], row[1:]) for row in rows}

    async def find_delivery(self, text: str, /) -> DeliveryView | None:
        key = delivery_key(text)
        rows = [] if key is None else await self._people.fetch(_DELIVERY, key)
        if key is None or not rows:
            return None
        attempts = await self._people.fetch(_TIMELINE, key)
        return delivery_view(rows[0], tuple(attempt_view(key, row) for row in reversed(attempts)))

    async def queue_shape(self, endpoints: Sequence[int], created_ms: Sequence[int]) -> Mapping[int, Sequence[int]]:
        bounds = [await self._search.fetch(LAST_CREATED, (moment_ms,)) for moment_ms in created_ms]
        ordinals = [rows[0][0] if rows else 0 for rows in bounds]
        rows = await self._search.fetch(shape_of(len(ordinals)), [*ordinals, json.dumps(endpoints)])
        return {row[0]: row[1:] for row in rows}

    async def _describe_groups(
        self, counted: Sequence[tuple[int, str, int]], application: str | None
    ) -> list[DeadGroup]:
        """Look up endpoint, first and last of groups of dead letters, the latest death first. O(log n) a group."""
        groups: list[DeadGroup] = []
        for start in range(0, len(counted), GROUPS_AT_ONCE):
            some = json.dumps(counted[start : start + GROUPS_AT_ONCE])
            for endpoint, owner, reason, dead, oldest, newest, event, ref, *noted in await self._search.fetch(
                DEAD_GROUPS, (some, application)
            ):
                if newest is not None:  # else the last one was retried since they were counted
                    example = delivery_id(DeliveryKey(event, ref))
                    groups.append(DeadGroup(endpoint, owner, DeadReason(reason), dead, oldest, newest, example, *noted))
        return sorted(groups, key=lambda group: -group.newest_ms)


def _frozen(row: Row) -> FrozenEvent:
    """Make an event of what READ_EVENT reads, and compare its body with the checksum: once for all its attempts."""
    body, checksum = row[-2:]
    event = FrozenEvent(*row[:-1])
    return event if crc32(body) == checksum else event._replace(corrupt=True)


def _variant(row: Row) -> Variant:
    contract, endpoints, body, fault, checksum = row
    return Variant(contract, tuple(json.loads(endpoints)), body, fault, crc32(body) != checksum)


def _int64(number: float) -> int:
    """Lanes count from minus infinity; SQLite's integers end somewhere."""
    return int(max(-(1 << 63), min(number, (1 << 63) - 1)))
