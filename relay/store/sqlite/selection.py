"""What a replay selects, read page by page; each page looks at a bounded number of rows.

A selection walks dead letters by their own index where no time is asked for, else events by their time of creation. What it
finds is looked at again when it is made due, so it need not be exact.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from relay.core.model import DeliveryKey, DeliveryState, ReplayMode
from relay.store.replays import Candidate, Candidates, Replay, Selected, Skip
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.rows import CODES, Row
from relay.store.values import delivery_key

EXAMINED_MAX = 500
"""Rows that one page of a selection looks at."""

IDS_A_PAGE = 100
"""Ids that one page of a selection looks up."""

FAN_OUT_MAX = 10_000
"""Deliveries of one event that is named by its id."""

ENDED = {
    ReplayMode.FAILED: (DeliveryState.DEAD,),
    ReplayMode.ALL: (DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELLED),
    ReplayMode.MISSING: (),
}
"""What each mode sends again."""

# Of every row that a walk looks at: whether it is of the application, and whether it is asked for.
_SEEN = "(:application IS NULL OR e.application = (SELECT ref FROM application WHERE id = :application))"
_OF_EVENT = f"""{_SEEN} AND (:type IS NULL OR e.type = :type)
    AND e.created_at >= coalesce(:since, e.created_at) AND (:until IS NULL OR e.created_at < :until)"""
_ASKED = f"""{_OF_EVENT} AND (:code IS NULL OR d.state = :code) AND (:reason IS NULL OR d.reason = :reason)
    AND d.state IN (SELECT value FROM json_each(:states)) AND d.replayed <= :ref
    AND (d.state != {CODES[DeliveryState.DELIVERED]} OR d.finished_at <= :made)
    AND EXISTS (SELECT 1 FROM endpoint n WHERE n.ref = d.endpoint AND n.deleted_at IS NULL
                AND (:named IS NULL OR n.id = :named))"""

WALK_DEAD = f"""
    SELECT 0, d.event, d.endpoint, {_ASKED}
    FROM delivery d INDEXED BY delivery_dead CROSS JOIN event e ON e.ordinal = d.event
    WHERE d.state = 2 AND (d.event, d.endpoint) > (:event, :endpoint) AND d.event <= :up_to
    ORDER BY d.event, d.endpoint LIMIT :limit"""

_BEHIND = (
    "(e.created_at, e.ordinal) >= (:created, :event) AND e.created_at < coalesce(:until, :ever) AND e.ordinal <= :up_to"
)

WALK_EVENTS = f"""
    SELECT e.created_at, e.ordinal, d.endpoint, {_ASKED}
    FROM event e INDEXED BY event_created LEFT JOIN delivery d ON d.event = e.ordinal
    WHERE {_BEHIND} AND ((e.created_at, e.ordinal) > (:created, :event) OR d.endpoint > :endpoint)
    ORDER BY e.created_at, e.ordinal, d.endpoint LIMIT :limit"""

_NAMED = f"""
    SELECT d.event, d.endpoint, {_ASKED}
    FROM json_each(:keys) k CROSS JOIN delivery d ON d.event = k.value ->> 0 AND d.endpoint = k.value ->> 1
    CROSS JOIN event e ON e.ordinal = d.event WHERE {_SEEN}"""

_OF_NAMED_EVENT = f"""
    SELECT e.ordinal, d.endpoint, {_ASKED}
    FROM event e LEFT JOIN delivery d ON d.event = e.ordinal WHERE e.id = :id AND {_SEEN} LIMIT {FAN_OUT_MAX}"""

_CANDIDATE = "e.created_at, e.ordinal, e.id, e.type, (SELECT id FROM application WHERE ref = e.application)"

WALK_CANDIDATES = f"""
    SELECT {_CANDIDATE}, {_OF_EVENT} AND e.reason IS NOT 'filtered'
    FROM event e INDEXED BY event_created WHERE {_BEHIND} AND (e.created_at, e.ordinal) > (:created, :event)
    ORDER BY e.created_at, e.ordinal LIMIT :limit"""

_NAMED_CANDIDATES = f"""
    SELECT {_CANDIDATE}, {_SEEN} AND e.reason IS NOT 'filtered' FROM event e
    WHERE e.id IN (SELECT value FROM json_each(:ids))"""

_AIMED = "SELECT event, endpoint FROM aimed WHERE event IN (SELECT value FROM json_each(?))"

NEVER_OWED = """
    SELECT k.value ->> 0, k.value ->> 1 FROM json_each(?) k WHERE NOT EXISTS (
      SELECT 1 FROM delivery d WHERE d.event = k.value ->> 0 AND d.endpoint = k.value ->> 1)"""


class Place(NamedTuple):
    """How far a walk came: everything up to here was looked at."""

    created: int = 0
    event: int = 0
    endpoint: int = 0

    @classmethod
    def of(cls, replay: Replay) -> "Place":
        """Read a replay's place; before the first page it is where the time that it asks for begins."""
        return cls(*json.loads(replay.place)) if replay.place else cls(created=replay.wanted.since_ms or 0)


class Selections:
    """Reads what replays are about, as a search does."""

    def __init__(self, search: Callable[[], Reader]) -> None:
        self._search = search

    async def select(self, of: Replay, ids: Sequence[str] | None = None) -> Selected:
        named = await self._ids(of) if ids is None else ids
        if named:
            return await self._select_named(of, named)
        walk = WALK_DEAD if of.mode is ReplayMode.FAILED and of.wanted.since_ms is None else WALK_EVENTS
        rows = await self._search().fetch(walk, _asked(of) | Place.of(of)._asdict() | {"limit": EXAMINED_MAX})
        keys = [DeliveryKey(event, endpoint) for _, event, endpoint, wanted in rows if wanted]
        return Selected(keys, _next(rows, EXAMINED_MAX), examined=len(rows))

    async def _select_named(self, of: Replay, ids: Sequence[str]) -> Selected:
        """Look up the next ids: deliveries, or all deliveries of an event."""
        some, following = _page_of_ids(of, ids)
        asked = _asked(of)
        deliveries = [key for one in some if (key := delivery_key(one)) is not None]
        events = [one for one in some if delivery_key(one) is None]
        rows = await self._search().fetch(_NAMED, asked | {"keys": json.dumps(deliveries)})
        unknown = len(deliveries) - len(rows)
        for event_id in events:
            found = await self._search().fetch(_OF_NAMED_EVENT, asked | {"id": event_id})
            unknown += not found
            rows += found
        keys = [DeliveryKey(event, endpoint) for event, endpoint, wanted in rows if wanted]
        return Selected(keys, following, {Skip.UNKNOWN: unknown, Skip.UNWANTED: len(rows) - len(keys)}, len(rows))

    async def candidates(self, of: Replay, ids: Sequence[str] | None = None) -> Candidates:
        named = await self._ids(of) if ids is None else ids
        if named:
            some, following = _page_of_ids(of, named)
            rows = await self._search().fetch(_NAMED_CANDIDATES, _asked(of) | {"ids": json.dumps(some)})
            unknown = len(some) - sum(bool(row[5]) for row in rows)
        else:
            asked = _asked(of) | Place.of(of)._asdict() | {"limit": EXAMINED_MAX}
            rows = await self._search().fetch(WALK_CANDIDATES, asked)
            following, unknown = _next([(*row[:2], 0) for row in rows], EXAMINED_MAX), 0
        wanted = [row for row in rows if row[5]]
        aimed: dict[int, set[int]] = {}
        for event, endpoint in await self._search().fetch(_AIMED, (json.dumps([row[1] for row in wanted]),)):
            aimed.setdefault(event, set()).add(endpoint)
        events = [
            Candidate(
                ordinal,
                name,
                kind,
                owner,
                None if named else json.dumps([created_ms, ordinal, 0]),
                frozenset(aimed[ordinal]) if ordinal in aimed else None,
            )
            for created_ms, ordinal, name, kind, owner, _ in wanted
        ]
        return Candidates(events, following, unknown)

    async def never_owed(self, keys: Sequence[DeliveryKey]) -> Sequence[DeliveryKey]:
        rows = await self._search().fetch(NEVER_OWED, (json.dumps(keys),)) if keys else []
        return [DeliveryKey(*row) for row in rows]

    async def _ids(self, of: Replay) -> Sequence[str]:
        """Read the ids that a stored replay is about; none where filters select."""
        ((ids,),) = await self._search().fetch("SELECT ids FROM replay WHERE ref = ?", (of.ref,))
        return json.loads(ids) if ids else ()


def _asked(of: Replay) -> dict[str, Any]:
    """Return the parameters of what a walk asks; a replay that is not stored yet has nothing behind it."""
    wanted = of.wanted
    return {
        "application": of.application,
        "type": wanted.type,
        "since": wanted.since_ms,
        "until": wanted.until_ms,
        "code": None if wanted.state is None else CODES[wanted.state],
        "reason": wanted.reason,
        "named": wanted.endpoint,
        "states": json.dumps([CODES[state] for state in ENDED[of.mode]]),
        "ref": of.ref or 1 << 62,
        "made": of.created_at_ms,
        "up_to": of.up_to or 1 << 62,
        "ever": 1 << 62,
    }


def _next(rows: Sequence[Row], limit: int) -> str | None:
    """Return the place behind the last row of a page; None for the last page."""
    return json.dumps([*rows[-1][:2], rows[-1][2] or 0]) if len(rows) == limit else None


def _page_of_ids(of: Replay, ids: Sequence[str]) -> tuple[Sequence[str], str | None]:
    start = json.loads(of.place)[0] if of.place else 0
    end = start + IDS_A_PAGE
    return ids[start:end], json.dumps([end]) if end < len(ids) else None
