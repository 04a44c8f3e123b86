"""Filtered lists, newest first, in pages. A page looks at a bounded number of rows: when few of them pass the filter it
comes out short, and `next` says where to go on.

Rows are walked in the order of an index, so a page costs what it looks at and no more: events by their time of creation,
beginning where `until` says, those with an ordering key or a value of their data by an index of these; dead letters and due
deliveries by their own small indexes, unless a time is asked for and they are many; everything else through its event.
"""

import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from relay.core.errors import Conflict
from relay.core.model import DeliveryState
from relay.core.views import DeliveryView, EventView, Page
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.rows import (
    CODES,
    DELIVERY_COLUMNS,
    DELIVERY_JOINS,
    EVENT_COLUMNS,
    STATES,
    Row,
    delivery_view,
    event_view,
)
from relay.store.values import DeliveryFilter, EventFilter

EXAMINED_MAX = 2_000
"""Rows that one page looks at: with all that is looked up beside each they take some 30 ms."""

_STATES_OF_EVENTS = """
    SELECT event, state, count(*) FROM delivery WHERE event IN (SELECT value FROM json_each(?))
    GROUP BY event, state ORDER BY event, state"""

_AIMED = """
    SELECT a.event, n.id FROM aimed a CROSS JOIN endpoint n ON n.ref = a.endpoint
    WHERE a.event IN (SELECT value FROM json_each(?)) ORDER BY a.event, a.endpoint"""

_LAST = (1 << 62, 1 << 62, 1 << 62)  # a place behind every row


class Place(NamedTuple):
    """Where a page ended: everything from here on was shown."""

    created_ms: int
    ordinal: int
    endpoint: int = 0

    def write(self) -> str:
        return ".".join(str(part) for part in self)

    @classmethod
    def read(cls, cursor: str | None) -> "Place":
        """Read a cursor; Conflict `invalid_cursor` for one that we did not write."""
        if cursor is None:
            return cls(*_LAST)
        parts = cursor.split(".")
        if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) < 19 for part in parts):
            raise Conflict("invalid_cursor", "this cursor is none of ours", remedy="Start again without it.")
        return cls(*map(int, parts))

    def not_after(self, until_ms: int | None) -> "Place":
        """Move on to where events created before a time begin, if that is further on: the index is sought there."""
        return self if until_ms is None else min(self, Place(until_ms, -1))


class Walk(NamedTuple):
    """A way through the rows, led by one index."""

    lead: str  # the table and its index
    rest: str  # what is looked up for each row
    key: tuple[str, str]  # the columns that the index is walked by, downwards
    created: str  # when the event was created
    within: str  # what always holds of the lead
    after: str  # where the page starts; the parameters are those of its Place
    by_time: bool = True  # `since` is a bound of the index, and a Place of `until` its beginning
    through_events: bool = False  # deliveries are looked up for each event


_AFTER_DELIVERY = "(d.event, d.endpoint) < (:ordinal, :endpoint)"


def _events(lead: str, within: str = "true", key: tuple[str, str] = ("e.created_at", "e.ordinal")) -> Walk:
    """Walk events by their time of creation."""
    created, ordinal = key
    rest = "" if ordinal == "e.ordinal" else f"CROSS JOIN event e ON e.ordinal = {ordinal}"
    return Walk(lead, rest, key, created, within, f"({created}, {ordinal}) < (:created_ms, :ordinal)")


def _deliveries(events: Walk) -> Walk:
    """Walk the deliveries of events."""
    created, ordinal = events.key
    return events._replace(
        rest=f"{events.rest} CROSS JOIN delivery d ON d.event = {ordinal}",
        within=f"{events.within} AND ({created}, {ordinal}) <= (:created_ms, :ordinal)",
        after=f"({events.after} OR d.endpoint < :endpoint)",
        through_events=True,
    )


_EVENTS = _events("event e INDEXED BY event_created")

_BY_ORDERING_KEY = _events("event e INDEXED BY event_ordering_key", "e.ordering_key = :ordering_key")

_BY_VALUE = _events("search_value s", "s.digest = :value", ("s.created_at", "s.event"))

_WITH_KEY = """(SELECT event FROM idempotency
    WHERE application IN (SELECT ref FROM application) AND key IN (:given, :derived))"""

# One event, or one of each application: they are sorted.
_BY_ID = _events("event e NOT INDEXED", "e.ordinal IN (SELECT ordinal FROM event WHERE id = :id)")
_BY_KEY = _events("event e NOT INDEXED", f"e.ordinal IN {_WITH_KEY}")

_DEAD = Walk(
    lead="delivery d INDEXED BY delivery_dead",
    rest="CROSS JOIN event e ON e.ordinal = d.event",
    key=("d.event", "d.endpoint"),
    created="(SELECT created_at FROM event WHERE ordinal = d.event)",
    within=f"d.state = 2 AND {_AFTER_DELIVERY}",
    after="true",
    by_time=False,
)

_DUE = _DEAD._replace(lead="delivery d INDEXED BY delivery_due", within=f"d.state = 0 AND {_AFTER_DELIVERY}")


class Conditions:
    """A filter on its way to SQL."""

    def __init__(self, place: Place, wanted: EventFilter | DeliveryFilter) -> None:
        given, derived = wanted.keys or (None, None)
        named = {"id": wanted.event, "ordering_key": wanted.ordering_key, "value": wanted.value}
        self.parameters: dict[str, Any] = place._asdict() | named | {"given": given, "derived": derived}
        self.clauses: list[str] = []

    def add(self, clause: str, value: object) -> None:
        """Add a clause, with `{}` where its value stands; None asks for nothing."""
        if value is None:
            return
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        self.clauses.append(clause.format(f":{name}"))

    def add_common(self, wanted: EventFilter | DeliveryFilter) -> None:
        """Add what is asked of events and of deliveries alike, whichever of it leads the walk."""
        self.add("e.application = (SELECT ref FROM application WHERE id = {})", wanted.application)
        self.add("e.type = {}", wanted.type)
        self.add("e.id = {}", wanted.event)
        self.add("+e.ordering_key = {}", wanted.ordering_key)
        if wanted.keys is not None:
            self.clauses.append(f"e.ordinal IN {_WITH_KEY}")
        self.add(
            "EXISTS (SELECT 1 FROM search_value WHERE digest = {} AND created_at = e.created_at AND event = e.ordinal)",
            wanted.value,
        )


async def list_events(
    reader: Reader, wanted: EventFilter, cursor: str | None, limit: int, examined_max: int = EXAMINED_MAX
) -> Page[EventView]:
    """List events, newest first."""
    walk = _lead(wanted)
    conditions = Conditions(Place.read(cursor).not_after(wanted.until_ms), wanted)
    conditions.add(walk.created + " >= {}", wanted.since_ms)
    end = await _end(reader, walk, conditions, examined_max)
    conditions.add_common(wanted)
    conditions.add("e.reason = {}", wanted.reason)
    conditions.add(
        "EXISTS (SELECT 1 FROM delivery WHERE event = e.ordinal AND endpoint IN (SELECT ref FROM endpoint WHERE id = {}))",
        wanted.endpoint,
    )
    joins = "CROSS JOIN application a ON a.ref = e.application"
    rows = await reader.fetch(_select(EVENT_COLUMNS, walk, joins, conditions, "", limit + 1), conditions.parameters)
    shown = rows[:limit]
    cursors = [Place(row[4], row[0]).write() for row in shown]
    return Page(tuple(await event_views(reader, shown)), _following(len(rows) > limit, cursors, end), cursors)


async def event_views(reader: Reader, rows: Sequence[Row]) -> list[EventView]:
    """Make events as people see them of rows of EVENT_COLUMNS: with their deliveries by state, and where they were aimed."""
    counts: dict[int, dict[str, int]] = {row[0]: {} for row in rows}
    for ordinal, state, count in await reader.fetch(_STATES_OF_EVENTS, (json.dumps(list(counts)),)):
        counts[ordinal][STATES[state].value] = count
    aimed: dict[int, list[str]] = {}
    for ordinal, name in await reader.fetch(_AIMED, (json.dumps(list(counts)),)):
        aimed.setdefault(ordinal, []).append(name)
    return [event_view(row, counts[row[0]], aimed.get(row[0], ())) for row in rows]


async def list_deliveries(
    reader: Reader,
    wanted: DeliveryFilter,
    cursor: str | None,
    limit: int,
    *,
    few: Collection[DeliveryState],
    examined_max: int = EXAMINED_MAX,
) -> Page[DeliveryView]:
    """List deliveries, those of the newest event first; `few` names the states whose rows may all be looked at."""
    walk = _walk(wanted, few)
    place = Place.read(cursor)
    conditions = Conditions(place.not_after(wanted.until_ms) if walk.by_time else place, wanted)
    if walk.by_time:
        conditions.add(walk.created + " >= {}", wanted.since_ms)
    end = await _end(reader, walk, conditions, examined_max)
    if not walk.by_time:
        conditions.add("e.created_at >= {}", wanted.since_ms)
        conditions.add("e.created_at < {}", wanted.until_ms)
    conditions.add_common(wanted)
    conditions.add("d.endpoint IN (SELECT ref FROM endpoint WHERE id = {})", wanted.endpoint)
    conditions.add("d.state = {}", None if wanted.state is None else CODES[wanted.state])
    conditions.add("d.reason = {}", wanted.reason)
    conditions.add(_ANSWERED, wanted.status)
    order = ", d.endpoint DESC" if walk.through_events else ""
    rows = await reader.fetch(
        _select(DELIVERY_COLUMNS, walk, DELIVERY_JOINS, conditions, order, limit + 1), conditions.parameters
    )
    shown = rows[:limit]
    cursors = [Place(row[11], row[0], row[1]).write() for row in shown]
    return Page(tuple(map(delivery_view, shown)), _following(len(rows) > limit, cursors, end), cursors)


_ANSWERED = """
    (SELECT {} IN (coalesce(CAST(status AS TEXT), 'none'), (status / 100) || 'xx') FROM attempt
     WHERE event = d.event AND endpoint = d.endpoint AND number = d.attempts)"""


def _lead(wanted: EventFilter | DeliveryFilter) -> Walk:
    """Choose what leads to events: whatever fewest have that is asked for."""
    if wanted.event is not None:
        return _BY_ID
    if wanted.keys is not None:
        return _BY_KEY
    if wanted.value is not None:
        return _BY_VALUE
    return _EVENTS if wanted.ordering_key is None else _BY_ORDERING_KEY


def _walk(wanted: DeliveryFilter, few: Collection[DeliveryState]) -> Walk:
    """Choose the way: many dead letters are walked by their own index only where no time has to be found among them."""
    by_event = _deliveries(_lead(wanted))
    if _lead(wanted) is not _EVENTS:
        return by_event
    if wanted.state is DeliveryState.DUE:
        return _DUE if DeliveryState.DUE in few else by_event
    if wanted.state is not DeliveryState.DEAD and wanted.reason is None:
        return by_event
    by_time = wanted.since_ms is not None or wanted.until_ms is not None
    return by_event if by_time and DeliveryState.DEAD not in few else _DEAD


async def _end(reader: Reader, walk: Walk, conditions: Conditions, examined_max: int) -> Place | None:
    """Find the last row that the page may look at, and stop the walk there; None when there are fewer."""
    lead = walk._replace(rest="", after="true" if walk.through_events else walk.after)
    statement = _select(", ".join((*walk.key, walk.created)), lead, "", conditions, "", 1)
    found = await reader.fetch(f"{statement} OFFSET {examined_max - 1:d}", conditions.parameters)
    if not found:
        return None
    first, second, created_ms = found[0]
    conditions.parameters |= {"end_first": first, "end_second": second}
    conditions.clauses.append(f"({', '.join(walk.key)}) >= (:end_first, :end_second)")
    return Place(first, second) if walk.by_time else Place(created_ms, first, second)


def _select(columns: str, walk: Walk, joins: str, conditions: Conditions, order: str, rows: int) -> str:
    descending = ", ".join(f"{column} DESC" for column in walk.key)
    return (
        f"SELECT {columns} FROM {walk.lead} {walk.rest} {joins} "
        f"WHERE {' AND '.join([walk.within, walk.after, *conditions.clauses])} "
        f"ORDER BY {descending}{order} LIMIT {rows:d}"
    )


def _following(full: bool, cursors: Sequence[str], end: Place | None) -> str | None:
    """Say where the next page starts: behind the last row shown, or behind the last one looked at."""
    if full:
        return cursors[-1]
    return None if end is None else end.write()
