"""What the store's statements cost: by their plans, and by the steps SQLite takes behind tens of thousands of rows.

Invariant 8: the cost of a delivery does not grow with what is finished, delayed, or owed to somebody else.
"""

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest

from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryState,
    Idempotency,
    NewEvent,
    NoDelivery,
    Outcome,
    ReplayMode,
    Settlement,
)
from relay.core.units import Rate
from relay.store import DeliveryFilter, EventFilter
from relay.store.replays import Replay, Wanted
from relay.store.sqlite import (
    StoreSettings,
    accept,
    counts,
    edits,
    lists,
    opening,
    order,
    prune,
    reads,
    registry,
    replays,
    selection,
    settle,
)

T = TypeVar("T")

MANY = 30_000
SETTLEMENT = (5, 1, 1, 1, None, None, 7, 1, 0, 7, 0, 2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An empty database with one application and two endpoints."""
    lock = opening.prepare(tmp_path / "relay.db")
    connection, _ = opening.open_writer(StoreSettings(path=tmp_path / "relay.db"))
    connection.execute(
        "INSERT INTO application (ref, id, origin, created_at, updated_at) VALUES (1, 'acme', 'file', 0, 0)"
    )
    for ref in (1, 2):
        connection.execute(
            """
            INSERT INTO endpoint (ref, id, application, origin, state, state_since, created_at, updated_at)
            VALUES (?, ?, 1, 'file', 'enabled', 0, 0, 0)""",
            (ref, f"ep_{ref}"),
        )
    with closing(connection):
        yield connection
    lock.close()


def fill(
    connection: sqlite3.Connection, first: int, count: int, state: int, due: int | None, endpoint: int = 1
) -> None:
    """Insert events, each with one delivery."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {first + count - 1})"
    connection.execute("BEGIN")
    connection.execute(
        f"""
        {numbers} INSERT INTO event (ordinal, id, application, type, created_at, timestamp, checksum, body)
        SELECT i, printf('evt_%08d', i), 1, 't', i, i, 0, x'7b7d' FROM n"""
    )
    connection.execute(
        f"""
        {numbers} INSERT INTO delivery (event, endpoint, state, due, budget_from, finished_at, reason)
        SELECT i, ?1, ?2, ?3, 0, iif(?2 = 0, NULL, 1), iif(?2 = 2, 'gone', NULL) FROM n""",
        (endpoint, state, due),
    )
    connection.execute("COMMIT")


def steps(connection: sqlite3.Connection, statement: str, parameters: Any) -> int:
    """Count the instructions of SQLite's machine that a statement takes, in tens."""
    return counted(connection, lambda: connection.execute(statement, parameters).fetchall())


def counted(connection: sqlite3.Connection, work: Callable[[], object]) -> int:
    """Count the instructions of SQLite's machine that some work takes, in tens, and undo it."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection.set_progress_handler(count, 10)
    try:
        connection.execute("SAVEPOINT counted")
        work()
        connection.execute("ROLLBACK TO counted")
        connection.execute("RELEASE counted")
    finally:
        connection.set_progress_handler(None, 0)
    return taken


def plan(connection: sqlite3.Connection, statement: str, parameters: Any) -> str:
    return "\n".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))


REFILL = (reads.REFILL, (1, 0, 0, 5))
SETTLE = (f"{settle.SETTLEMENTS} VALUES ({', '.join('?' * 12)}) {settle.SETTLE}", SETTLEMENT)

WANTED = Wanted("ep_1", "t", DeliveryState.DEAD, DeadReason.GONE, 4, 9)
WALK = selection._asked(Replay("rpl_1", "acme", ReplayMode.FAILED, WANTED, Rate(1, 1), False, "x", 7)) | {
    "created": 4,
    "event": 1,
    "endpoint": 1,
    "limit": 5,
}
REPLAYS: dict[str, tuple[str, Any]] = {
    "what a replay selects of dead letters": (selection.WALK_DEAD, WALK),
    "what it selects by time": (selection.WALK_EVENTS, WALK),
    "what may be missing": (selection.WALK_CANDIDATES, WALK),
    "what was never owed": (selection.NEVER_OWED, ("[[5, 1]]",)),
    "a delivery that is named": (selection._NAMED, WALK | {"keys": "[[5, 1]]"}),
    "deliveries of an event that is named": (selection._OF_NAMED_EVENT, WALK | {"id": "evt_1"}),
    "events that are named": (selection._NAMED_CANDIDATES, WALK | {"ids": '["evt_1"]'}),
    "endpoints with items": (replays.ENDPOINTS, (1,)),
    "items": (replays.ITEMS, (1, 1, 5)),
    "sent again": (replays._AGAIN, (7, 5, 1, 4)),
    "owed": (replays._OWE, (7, 5, 1, 4)),
    "what is known of an item": (replays._LOOK, (5, 1)),
    "what is cleared": (replays._CLEAR, (1, 5)),
    "replays that are forgotten": (prune.FORGET_REPLAYS, (9, 5)),
}

HOT: dict[str, tuple[str, Any]] = {
    "the latest event of a time": (reads.LAST_CREATED, (7,)),
    **REPLAYS,
    "refill": REFILL,
    "audit": (reads.AUDIT, (1, 5)),
    "read_event": (reads.READ_EVENT, (5,)),
    "last attempts": (reads.LAST_ATTEMPTS, (json.dumps([["dlv_1", 5, 1, 1]]),)),
    "settle": SETTLE,
    "late": (settle.LATE, (5, 1, 1)),
    "retry": (edits._RETRY, (7, 5, 1, 1)),
    "cancel": (edits._CANCEL, (7, "x", 5, 1)),
    "cancel of a deleted endpoint": (edits._CANCEL_SOME, (7, "x", 1, 5)),
    "held beyond its budget": (edits._END_SOME.format(chosen=edits._OVER_BUDGET), (7, "x", 1, "[]", 9, 9, 5)),
    "held and expired": (edits._END_SOME.format(chosen=edits._EXPIRED), (7, "x", 1, "[]", 9, 5)),
    "predecessor": (order.PREDECESSOR, (1, "k")),
    "first unfinished": (order.FIRST_UNFINISHED, (1, "k")),
    "first in line": (order.FIRST_IN_LINE, (5, 1)),
    "endpoints with due rows": (reads.WITH_DUE, ()),
    "give back": (order._RELEASE, (5, 1)),
    "what waits too long": (edits._WAITING, (1, 9, 9, 5)),
    "recall": (accept.KNOWN, (1, "k")),
    "what a key stands for": (registry.FIND_CREATION, ("a", b"k")),
    "what keys are forgotten first": (registry.FORGET_OLDEST, {"scope": "a", "most": 5}),
    "what is forgotten first": (accept.FORGET_SOME, (1, 5)),
    "prune": (prune._EVENTS, (9, -1, -1, 5)),
    "prune keys of other calls": (prune.FORGET_CREATIONS, (9, 5)),
    "prune attempts": (prune._EVENTS_BY_ORDINAL, (0, 5)),
}


@pytest.mark.parametrize("name", HOT)
def test_no_statement_scans(database: sqlite3.Connection, name: str) -> None:
    """Invariant 8: what runs for every delivery finds its rows by key; nothing scans a table of ours or sorts it."""
    found = plan(database, *HOT[name])
    scanned = [
        line
        for line in found.splitlines()
        if line.startswith("SCAN")
        and not line.startswith(
            ("SCAN json_each", "SCAN CONSTANT ROW", "SCAN e", "SCAN k", "SCAN s", "SCAN found", "SCAN (")
        )
    ]
    assert not scanned, found
    assert "AUTOMATIC" not in found
    if not name.startswith("prune"):
        assert "TEMP B-TREE" not in found


def test_finding_due_work_uses_the_partial_index(database: sqlite3.Connection) -> None:
    """Invariant 8: a refill seeks to its key in the index of due rows and reads on from there."""
    assert "SEARCH d USING COVERING INDEX delivery_due (endpoint=? AND (due,event)>(?,?))" in plan(
        database, *REFILL
    ) or "SEARCH d USING INDEX delivery_due (endpoint=? AND (due,event)>(?,?))" in plan(database, *REFILL)


def test_the_shape_of_the_queue_is_counted_from_its_index(database: sqlite3.Connection) -> None:
    """I8: counting what is due by age reads the index of due deliveries alone, and of it the endpoints that are meant."""
    found = plan(database, reads.shape_of(3), (1, 2, 3, "[5]"))
    assert "SEARCH delivery USING COVERING INDEX delivery_due (endpoint=?" in found
    assert "TEMP B-TREE" not in found


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(1, None, 1)], id="finished"),
        pytest.param([(2, None, 1)], id="dead"),
        pytest.param([(0, 10**15, 1)], id="delayed"),
        pytest.param([(0, None, 1)], id="waiting for a predecessor"),
        pytest.param([(0, 0, 2)], id="owed to another endpoint"),
    ],
)
@pytest.mark.parametrize("name", ["refill", "settle", "read_event"])
def test_due_work_costs_the_same_behind_many_rows(
    database: sqlite3.Connection, name: str, rows: list[tuple[int, int | None, int]]
) -> None:
    """Invariant 8: behind tens of thousands of other rows, the same work takes the same number of steps."""
    fill(database, 1, 5, 0, 3)
    alone = steps(database, *HOT[name])
    for state, due, endpoint in rows:
        fill(database, 10, MANY, state, due, endpoint)
    assert steps(database, *HOT[name]) <= alone + 2


@pytest.mark.parametrize("state", [0, 1, 2])
def test_accepting_and_settling_cost_the_same_behind_many_rows(database: sqlite3.Connection, state: int) -> None:
    """H5, invariant 8: whole batches, with keys, given ids and ordering keys, take the same steps in a large database."""
    event = NewEvent(
        id="given",
        id_given=True,
        application=1,
        type="t",
        body=b"{}",
        created_at_ms=7,
        timestamp_ms=7,
        targets=(1, 2),
        ordering_key="k",
        idempotency=Idempotency(b"k" * 16, b"f" * 16),
    )

    def work() -> None:
        acceptor = accept.Acceptor()
        acceptor.resume(database)
        ((accepted,),) = acceptor.accept(database, [[(event, frozenset())]])
        assert isinstance(accepted, Accepted)
        outcome = Outcome(started_at_ms=9, duration_ms=1, status=500)
        works = [
            settle.SettleWork(Settlement(due, DeliveryState.DEAD, outcome, reason=DeadReason.GONE), 9)
            for due in accepted.due
        ]
        assert all(result.answer.applied for result in settle.settle(database, works))

    fill(database, 1, 5, 0, 3)
    alone = counted(database, work)
    fill(database, 10, MANY, state, 10**15 if state == 0 else None)
    assert counted(database, work) <= alone + 5


def test_steps_do_count(database: sqlite3.Connection) -> None:
    """Negative control: without its index the same question takes steps in proportion to the rows."""
    scan = "SELECT event FROM delivery WHERE endpoint = 1 AND state + 0 = 0 ORDER BY due LIMIT 5"
    fill(database, 1, 5, 0, 3)
    alone = steps(database, scan, ())
    fill(database, 10, MANY, 1, None)
    assert steps(database, scan, ()) > 100 * (alone + 1)


def combinations(kind: type[T], values: dict[str, Any]) -> list[T]:
    """Every filter that asks for any of these, from none of them to all."""
    chosen = itertools.chain.from_iterable(itertools.combinations(values, size) for size in range(len(values) + 1))
    return [kind(**{name: values[name] for name in names}) for names in chosen]


OF_EVENTS = {"application": "acme", "type": "t", "since_ms": 40, "until_ms": 60, "reason": NoDelivery.NO_MATCH}
OF_DELIVERIES = OF_EVENTS | {"endpoint": "ep_1", "state": DeliveryState.DEAD, "reason": DeadReason.GONE}
FOUND_BY: list[dict[str, Any]] = [
    {"event": "evt_1"},
    {"keys": (b"given", b"derived")},
    {"value": b"digest"},
    {"ordering_key": "k"},
    {"event": "evt_1", "keys": (b"given", b"derived"), "value": b"digest", "ordering_key": "k"},
]
FEW = [(), (DeliveryState.DUE, DeliveryState.DEAD)]


class Noted:
    """Stands in for a reader: runs statements on the database, and remembers them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.statements: list[tuple[str, Any]] = []

    async def fetch(self, statement: str, parameters: Any = ()) -> list[Any]:
        self.statements.append((statement, parameters))
        return self._connection.execute(statement, parameters).fetchall()


def listed(connection: sqlite3.Connection, wanted: Any, cursor: str | None = None, few: Any = ()) -> Noted:
    """List one page; the result knows the statements it took. No await in it waits, so it needs no event loop."""
    reader = Noted(connection)
    listing: Any = (
        lists.list_events(reader, wanted, cursor, 50)  # type: ignore[arg-type]
        if isinstance(wanted, EventFilter)
        else lists.list_deliveries(reader, wanted, cursor, 50, few=few)  # type: ignore[arg-type]
    )
    with pytest.raises(StopIteration):
        listing.send(None)
    return reader


def seeks(connection: sqlite3.Connection, reader: Noted) -> None:
    """Fail unless each statement walks an index in order, and looks up the rest by key."""
    for statement, parameters in reader.statements:
        found = plan(connection, statement, parameters)
        assert "TEMP B-TREE FOR ORDER BY" not in found or "INDEX delivery_due" in found, found
        scans = [line for line in found.splitlines() if line.startswith("SCAN") and "json_each" not in line]
        assert all("USING COVERING INDEX" in line or "delivery_due" in line for line in scans), found
        assert len(scans) <= 1, found


@pytest.mark.parametrize("few", FEW, ids=["many", "few"])
def test_every_filter_of_deliveries_walks_an_index(database: sqlite3.Connection, few: Any) -> None:
    """S2: whatever is asked for together, a page of deliveries comes in the order of an index, from where it begins."""
    fill(database, 1, 100, 2, None)
    for state in (DeliveryState.DUE, DeliveryState.DEAD):
        for wanted in combinations(DeliveryFilter, OF_DELIVERIES | {"state": state}):
            seeks(database, listed(database, wanted, few=few))


def test_every_filter_of_events_walks_an_index(database: sqlite3.Connection) -> None:
    """S2: whatever is asked for together, a page of events comes in the order of an index, from where it begins."""
    fill(database, 1, 100, 1, None)
    for wanted in combinations(EventFilter, OF_EVENTS):
        seeks(database, listed(database, wanted))


@pytest.mark.parametrize("found_by", FOUND_BY, ids=lambda one: "+".join(one))
def test_a_search_begins_at_what_it_is_for(database: sqlite3.Connection, found_by: dict[str, Any]) -> None:
    """Issue 10, Search: by id, keys and values of the data it costs what is found, behind tens of thousands of others."""
    fill(database, 1, 5, 2, None)
    filters = [
        EventFilter(**found_by, endpoint="ep_1", since_ms=1),
        DeliveryFilter(**found_by, status="5xx", since_ms=1),
        DeliveryFilter(**found_by, state=DeliveryState.DEAD, until_ms=1 << 40),
    ]

    def look() -> list[int]:
        return [counted(database, lambda wanted=wanted: listed(database, wanted)) for wanted in filters]  # type: ignore[misc]

    alone = look()
    fill(database, 10, MANY, 2, None)
    assert all(now <= before + 5 for now, before in zip(look(), alone, strict=True))
    for wanted in filters:
        for statement, parameters in listed(database, wanted).statements:
            found = plan(database, statement, parameters)
            assert not [line for line in found.splitlines() if line.startswith("SCAN") and "json_each" not in line], (
                found
            )
            if not {"event", "keys"} & found_by.keys():
                assert "TEMP B-TREE FOR ORDER BY" not in found


@pytest.mark.parametrize("state", [None, DeliveryState.DEAD, DeliveryState.DELIVERED], ids=str)
@pytest.mark.parametrize("times", [{"until_ms": 60}, {"since_ms": 40, "until_ms": 60}], ids=["until", "between"])
def test_what_is_old_is_found_behind_many_newer_rows(
    database: sqlite3.Connection, state: DeliveryState | None, times: dict[str, int]
) -> None:
    """S2: a list of what is older than tens of thousands of rows takes the steps that it takes without them."""
    filters: list[Any] = [EventFilter(**times), DeliveryFilter(state=state, **times)]

    def look() -> list[int]:
        return [counted(database, lambda wanted=wanted: listed(database, wanted)) for wanted in filters]  # type: ignore[misc]

    fill(database, 1, 100, 2, None)
    alone = look()
    fill(database, 1000, MANY, 2, None)
    assert all(now <= before + 5 for now, before in zip(look(), alone, strict=True))


def test_a_list_of_what_is_rare_looks_at_a_bounded_number_of_rows(database: sqlite3.Connection) -> None:
    """S2: filters that nothing passes cost the same in a table that is three times as large, and the page ends."""
    wanted: list[Any] = [
        EventFilter(type="rare"),
        DeliveryFilter(type="rare"),
        DeliveryFilter(reason=DeadReason.BLOCKED),
    ]
    fill(database, 1, lists.EXAMINED_MAX + 5, 2, None)
    alone = [counted(database, lambda one=one: listed(database, one)) for one in wanted]
    fill(database, 100_000, MANY, 2, None)
    for one, before in zip(wanted, alone, strict=True):
        assert counted(database, lambda one=one: listed(database, one)) <= before * 1.1


def test_dead_letters_have_an_index_of_their_own(database: sqlite3.Connection) -> None:
    """Dead letters are found without walking what was delivered."""
    fill(database, 1, 5, 2, None)
    alone = counted(database, lambda: listed(database, DeliveryFilter(state=DeliveryState.DEAD)))
    fill(database, 10, MANY, 1, None)
    assert counted(database, lambda: listed(database, DeliveryFilter(state=DeliveryState.DEAD))) <= alone + 5


def test_groups_of_dead_letters_cost_the_same_however_many_died(database: sqlite3.Connection) -> None:
    """S3: the first and the last of each group are found by a seek; how many there are is counted as they die."""
    groups = (reads.DEAD_GROUPS, (json.dumps([[1, "gone", 5], [2, "gone", 1]]), None))
    fill(database, 1, 5, 2, None)
    alone = steps(database, *groups)
    fill(database, 10, MANY, 2, None)
    assert steps(database, *groups) <= alone + 2
    assert "TEMP B-TREE" not in plan(database, *groups)
    (row,) = [row for row in database.execute(*groups) if row[6] is not None]
    assert row[:7] == ("ep_1", "acme", "gone", 5, 1, 1, 10 + MANY - 1)


def test_counting_at_a_start_sorts_nothing(database: sqlite3.Connection) -> None:
    """S1: what a start counts comes in the order of two indexes that hold all it takes."""
    for statement in (counts._DUE, counts._DEAD):
        found = plan(database, statement, ())
        assert "USING COVERING INDEX" in found
        assert "TEMP B-TREE" not in found


def test_an_endpoint_is_found_among_deleted_ones(database: sqlite3.Connection) -> None:
    """A list of one endpoint finds it by its id, and those that bore it before."""
    assert "endpoint_named" in plan(database, "SELECT ref FROM endpoint WHERE id = ?", ("ep_1",))


def test_a_page_costs_what_it_shows(database: sqlite3.Connection) -> None:
    """The first page and the last cost the same, however many rows there are."""
    fill(database, 1, MANY, 1, None)
    first = counted(database, lambda: listed(database, DeliveryFilter()))
    last = counted(database, lambda: listed(database, DeliveryFilter(), lists.Place(60, 60, 1).write()))
    assert last <= first + 5
