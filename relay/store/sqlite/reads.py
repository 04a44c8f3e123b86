"""What attempts and lanes read, and single things people look at. Lists stand in `lists`.

A reading connection returns all rows at once, within a time limit, and never keeps a cursor across an await (invariant 4).
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from relay.core.errors import StoreDamaged, StoreUnavailable
from relay.core.model import (
    AttemptView,
    DeadGroup,
    DeadReason,
    DeliveryKey,
    DeliveryView,
    DueDelivery,
    EventView,
    FrozenEvent,
    HeaderPair,
    NoDelivery,
    Trigger,
)
from relay.store.sqlite.opening import Trouble, judge, reader_uri
from relay.store.sqlite.rows import DUE_COLUMNS, STATES, Row, due_delivery
from relay.store.values import RefillResult, attempt_id, delivery_id, delivery_key

Parameters = Sequence[Any] | dict[str, Any]

RIDE_ALONG_BYTES = 16 << 10
"""Bodies up to this size come with the refill; a larger one is read at its attempt."""

TIMELINE_MAX = 1_000
FAN_OUT_MAX = 10_000

REFILL = f"""
    SELECT d.event, d.endpoint, d.due, d.series, d.attempts, d.series_attempts, d.budget_from, d.manual,
           e.id, e.type, e.application, e.created_at, e.expires_at,
           iif(length(e.body) <= {RIDE_ALONG_BYTES}, e.body, NULL), e.checksum
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
    SELECT ordinal, id, type, application, created_at, expires_at, body, checksum FROM event WHERE ordinal = ?"""

EVENT_COLUMNS = """e.id, e.type, a.id, e.created_at, e.timestamp, e.deliver_at, e.expires_at, e.ordering_key, e.metadata,
    e.reason, e.reason_detail, length(e.body), e.ordinal"""

DELIVERY_COLUMNS = """d.event, d.endpoint, e.id, e.type, a.id, n.id, d.state, d.reason, d.due, d.attempts, d.series,
    e.created_at, d.finished_at, d.expires_at, d.cancelled_by"""

DELIVERY_JOINS = """CROSS JOIN application a ON a.ref = e.application CROSS JOIN endpoint n ON n.ref = d.endpoint"""

_DEAD_GROUPS = """
    SELECT n.id, a.id, g.reason, g.deaths, g.oldest, g.newest, g.last_event, g.endpoint
    FROM (SELECT endpoint, reason, count(*) AS deaths, min(finished_at) AS oldest, max(finished_at) AS newest,
                 max(event) AS last_event
          FROM delivery INDEXED BY delivery_dead WHERE state = 2 GROUP BY endpoint, reason) g
    JOIN endpoint n ON n.ref = g.endpoint JOIN application a ON a.ref = n.application
    WHERE ?1 IS NULL OR a.id = ?1 ORDER BY g.newest DESC"""


class Reader:
    """Owner of one connection that cannot write. One statement at a time, so that an interrupt hits the right one."""

    def __init__(
        self, connection: aiosqlite.Connection, timeout_ms: int, on_fatal: Callable[[StoreDamaged], None]
    ) -> None:
        self._connection = connection
        self._timeout_s = timeout_ms / 1000
        self._on_fatal = on_fatal
        self._turn = asyncio.Lock()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, timeout_ms: int, on_fatal: Callable[[StoreDamaged], None]) -> "Reader":
        """Open a connection to a database that the writer has open already."""
        connection = await aiosqlite.connect(reader_uri(path), uri=True, isolation_level=None)
        for pragma in ("query_only = ON", "trusted_schema = OFF", "temp_store = MEMORY", "cache_size = -8192"):
            await connection.execute_fetchall(f"PRAGMA {pragma}")
        return cls(connection, timeout_ms, on_fatal)

    async def fetch(self, statement: str, parameters: Parameters = ()) -> list[Row]:
        """Run a statement and return all its rows; the statement bounds how many. StoreUnavailable after the time limit."""
        async with self._turn:
            if self._closed:
                raise StoreUnavailable("The database is closed.", remedy="Try again when relay is up.")
            fetching = asyncio.ensure_future(self._fetch_all(statement, parameters))
            try:
                finished, _ = await asyncio.wait({fetching}, timeout=self._timeout_s)
            except asyncio.CancelledError:
                fetching.add_done_callback(asyncio.Future.exception)  # nobody waits for it any more
                await self._interrupt(fetching)
                raise
            if not finished:
                await self._interrupt(fetching)
            return self._rows(fetching)

    async def _fetch_all(self, statement: str, parameters: Parameters) -> list[Row]:
        return list(await self._connection.execute_fetchall(statement, parameters))  # type: ignore[arg-type]

    async def _interrupt(self, fetching: "asyncio.Future[list[Row]]") -> None:
        # Cancelling an await does not stop SQLite: the connection is free only when the statement has ended.
        while not fetching.done():
            await self._connection.interrupt()
            await asyncio.wait({fetching}, timeout=0.05)

    def _rows(self, fetching: "asyncio.Future[list[Row]]") -> list[Row]:
        try:
            return fetching.result()
        except sqlite3.Error as error:
            if judge(error) is Trouble.DAMAGE:
                self._on_fatal(StoreDamaged(f"The database reports {error}.", remedy="Check the disk."))
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
                raise StoreUnavailable(
                    f"The search took longer than {self._timeout_s:g} s and was stopped.", remedy="Narrow the filters."
                ) from error
            raise StoreUnavailable(f"The database cannot be read now: {error}.", remedy="Try again.") from error

    async def close(self) -> None:
        """Close the connection when the statement under way has ended. Safe twice."""
        async with self._turn:
            if not self._closed:
                self._closed = True
                await self._connection.close()


async def refill(reader: Reader, ref: int, from_due_ms: float, from_event: float, limit: int) -> RefillResult:
    """Read due deliveries of an endpoint from a key on, ascending."""
    rows = await reader.fetch(REFILL, (ref, _int64(from_due_ms), _int64(from_event), limit))
    events = {row[0]: row for row in rows if row[13] is not None}
    return RefillResult(
        [due_delivery(row) for row in rows],
        [FrozenEvent(ordinal, *row[8:15]) for ordinal, row in events.items()],
    )


async def audit_due(reader: Reader, ref: int, limit: int) -> list[DueDelivery]:
    """Read the first due deliveries of an endpoint."""
    return [due_delivery(row) for row in await reader.fetch(AUDIT, (ref, limit))]


async def read_event(reader: Reader, ordinal: int) -> FrozenEvent | None:
    """Read what an attempt sends."""
    rows = await reader.fetch(READ_EVENT, (ordinal,))
    return FrozenEvent(*rows[0]) if rows else None


async def find_event(reader: Reader, event_id: str) -> EventView | None:
    """Read an event with its body and how many of its deliveries are in each state."""
    rows = await reader.fetch(
        f"SELECT {EVENT_COLUMNS}, e.body FROM event e JOIN application a ON a.ref = e.application WHERE e.id = ?",
        (event_id,),
    )
    return (await event_views(reader, rows))[0] if rows else None


async def event_views(reader: Reader, rows: Sequence[Row]) -> list[EventView]:
    """Make events as people see them of rows of EVENT_COLUMNS (and the body, if it follows)."""
    counts: dict[int, dict[str, int]] = {row[12]: {} for row in rows}
    for ordinal, state, count in await reader.fetch(
        """
        SELECT event, state, count(*) FROM delivery WHERE event IN (SELECT value FROM json_each(?))
        GROUP BY event, state ORDER BY event, state""",
        (json.dumps(list(counts)),),
    ):
        counts[ordinal][STATES[state].value] = count
    return [_event_view(row, counts[row[12]]) for row in rows]


async def deliveries_of(reader: Reader, event_id: str) -> list[DeliveryView]:
    """Read the deliveries of an event, in order of their endpoints' age."""
    rows = await reader.fetch(
        f"""
        SELECT {DELIVERY_COLUMNS} FROM event e CROSS JOIN delivery d ON d.event = e.ordinal {DELIVERY_JOINS}
        WHERE e.id = ? ORDER BY d.endpoint LIMIT {FAN_OUT_MAX}""",
        (event_id,),
    )
    return [delivery_view(row) for row in rows]


async def find_delivery(reader: Reader, text: str) -> DeliveryView | None:
    """Read a delivery with its attempts, oldest first."""
    key = delivery_key(text)
    if key is None:
        return None
    rows = await reader.fetch(
        f"""
        SELECT {DELIVERY_COLUMNS} FROM delivery d CROSS JOIN event e ON e.ordinal = d.event {DELIVERY_JOINS}
        WHERE d.event = ? AND d.endpoint = ?""",
        key,
    )
    if not rows:
        return None
    attempts = await reader.fetch(
        f"""
        SELECT a.number, a.series, a.manual, a.started_at, a.duration, a.status, a.failure, a.detail, a.address,
               r.headers, r.body
        FROM attempt a LEFT JOIN response r ON r.event = a.event AND r.endpoint = a.endpoint AND r.number = a.number
        WHERE a.event = ? AND a.endpoint = ? ORDER BY a.number DESC LIMIT {TIMELINE_MAX}""",
        key,
    )
    return delivery_view(rows[0], tuple(_attempt_view(key, row) for row in reversed(attempts)))


async def dead_groups(reader: Reader, application: str | None) -> list[DeadGroup]:
    """Group dead letters by endpoint and reason; the group with the latest death first."""
    return [
        DeadGroup(
            endpoint=row[0],
            application=row[1],
            reason=DeadReason(row[2]),
            count=row[3],
            oldest_ms=row[4],
            newest_ms=row[5],
            newest_delivery=delivery_id(DeliveryKey(row[6], row[7])),
        )
        for row in await reader.fetch(_DEAD_GROUPS, (application,))
    ]


def delivery_view(row: Row, timeline: tuple[AttemptView, ...] | None = None) -> DeliveryView:
    """Make a delivery as people see it of a row of DELIVERY_COLUMNS."""
    event, endpoint, event_id, event_type, application, endpoint_id, state, reason = row[:8]
    due_ms, attempts, series, created_at_ms, finished_at_ms, expires_at_ms, cancelled_by = row[8:15]
    return DeliveryView(
        id=delivery_id(DeliveryKey(event, endpoint)),
        event_id=event_id,
        event_type=event_type,
        application=application,
        endpoint=endpoint_id,
        endpoint_ref=endpoint,
        state=STATES[state],
        reason=None if reason is None else DeadReason(reason),
        due_ms=due_ms,
        attempts=attempts,
        series=series,
        created_at_ms=created_at_ms,
        finished_at_ms=finished_at_ms,
        expires_at_ms=expires_at_ms,
        cancelled_by=cancelled_by,
        timeline=timeline,
    )


def _event_view(row: Row, deliveries: dict[str, int]) -> EventView:
    reason = row[9]
    return EventView(
        id=row[0],
        type=row[1],
        application=row[2],
        created_at_ms=row[3],
        timestamp_ms=row[4],
        deliver_at_ms=row[5],
        expires_at_ms=row[6],
        ordering_key=row[7],
        metadata=row[8],
        reason=None if reason is None else NoDelivery(reason),
        reason_detail=row[10],
        body=row[13] if len(row) > 13 else None,
        body_bytes=row[11],
        deliveries=deliveries,
    )


def _attempt_view(key: DeliveryKey, row: Row) -> AttemptView:
    headers = None if row[9] is None else json.loads(row[9])
    return AttemptView(
        id=attempt_id(key, row[0]),
        number=row[0],
        series=row[1],
        trigger=Trigger.MANUAL if row[2] else Trigger.SCHEDULED,
        started_at_ms=row[3],
        duration_ms=row[4],
        status=row[5],
        failure=row[6],
        detail=row[7],
        address=row[8],
        response_headers=tuple(HeaderPair(name, value) for name, value in headers or ()),
        response_body=row[10],
    )


def _int64(number: float) -> int:
    """Lanes count from minus infinity; SQLite's integers end somewhere."""
    return int(max(-(1 << 63), min(number, (1 << 63) - 1)))
