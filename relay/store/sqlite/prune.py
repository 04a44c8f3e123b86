"""Retention (Q14): what is old goes, in steps small enough that nobody waits for them.

A sweep walks the events from the oldest, then the attempts, the claims on keys and what is remembered, and starts anew
when it has come to the end. An event goes only without due deliveries and when the last of them ended long enough ago. Attempts go earlier
than their events; that walk remembers how far it came, so an attempt made on an old event later goes with its event.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from relay.store.sqlite.counts import Change, Move
from relay.store.sqlite.rows import Row
from relay.store.values import Pruned, Retention

ROWS_PER_LIMIT = 4
"""A step of `limit` events ends early when this many times `limit` rows hang on them."""

STEP_MS = 2.0
"""How long a step should keep the writer: producers wait for it. The steps grow and shrink until they take so long."""

STEP_MIN = 32
"""Events of the smallest step: on a machine that is slow for a while retention must still keep up with intake."""

# What stands beside each event: how many rows hang on it, how many are due, when the last one ended.
_EVENTS = """
    SELECT e.created_at, e.ordinal, 1 + count(d.event) + coalesce(sum(d.attempts), 0),
           coalesce(sum(d.state = 0), 0), coalesce(max(d.finished_at), 0)
    FROM (SELECT created_at, ordinal FROM event INDEXED BY event_created
          WHERE created_at < ? AND (created_at, ordinal) > (?, ?) ORDER BY created_at, ordinal LIMIT ?) e
    LEFT JOIN delivery d ON d.event = e.ordinal
    GROUP BY e.created_at, e.ordinal ORDER BY e.created_at, e.ordinal"""

_EVENTS_BY_ORDINAL = """
    SELECT e.created_at, e.ordinal, 1 + coalesce(sum(d.attempts), 0)
    FROM (SELECT ordinal, created_at FROM event WHERE ordinal > ? ORDER BY ordinal LIMIT ?) e
    LEFT JOIN delivery d ON d.event = e.ordinal
    GROUP BY e.ordinal ORDER BY e.ordinal"""

FORGET_OLD = """
    DELETE FROM remembered WHERE (application, key) IN (
      SELECT r.application, r.key
      FROM remembered_size s CROSS JOIN remembered r INDEXED BY remembered_age ON r.application = s.application
      WHERE r.updated_at < ? LIMIT ?)"""

FORGET_CREATIONS = """
    DELETE FROM creation_record WHERE (scope, key) IN (
      SELECT scope, key FROM creation_record INDEXED BY creation_record_age WHERE created_at < ?
      ORDER BY created_at LIMIT ?)"""

FORGET_REPLAYS = """
    DELETE FROM replay WHERE ref IN (
      SELECT ref FROM replay INDEXED BY replay_finished WHERE finished_at < ?
        AND NOT EXISTS (SELECT 1 FROM replay_item i WHERE i.replay = replay.ref) LIMIT ?)"""

_AMONG = "event IN (SELECT value FROM json_each(?))"

PAGES_AT_ONCE = 50
"""Unused pages that are returned to the disk between two looks at the time."""


class Pruner:
    """Owner of the place that the sweep has come to, and of the size of its steps. Lives in the writer's thread."""

    def __init__(self, mono_ms: Callable[[], float]) -> None:
        self._mono_ms = mono_ms
        self._after = (-1, -1)  # (created_at, ordinal) of the last event looked at
        self._size = STEP_MIN

    def step(self, connection: sqlite3.Connection, now_ms: int, retention: Retention, limit: int) -> Change[Pruned]:
        """Look at some events, attempts' events, claims and memories each; `more` until all ran out.

        At most `limit`, and as many as lately took STEP_MS.
        """
        began_ms = self._mono_ms()
        change = self._step(connection, now_ms, retention, min(limit, self._size))
        took_ms = self._mono_ms() - began_ms
        self._size = next_size(self._size, took_ms, limit)
        return change._replace(answer=change.answer._replace(took_ms=took_ms))

    def _step(self, connection: sqlite3.Connection, now_ms: int, retention: Retention, limit: int) -> Change[Pruned]:
        events, deliveries, moves, more_events = self._events(connection, now_ms - retention.events_ms, limit)
        attempts, more_attempts = _attempts(connection, now_ms - retention.attempts_ms, limit)
        keys, more_keys = _claims(connection, now_ms - retention.idempotency_ms, limit)
        records = connection.execute(FORGET_CREATIONS, (now_ms - retention.idempotency_ms, limit)).rowcount
        forgotten = connection.execute(FORGET_OLD, (now_ms - retention.memory_ms, limit)).rowcount
        connection.execute(FORGET_REPLAYS, (now_ms - retention.replays_ms, limit))
        more = more_events or more_attempts or more_keys or limit in (forgotten, records)
        return Change(Pruned(events, deliveries, attempts, keys + records, more, forgotten), moves)

    def _events(
        self, connection: sqlite3.Connection, before_ms: int, limit: int
    ) -> tuple[int, int, Sequence[Move], bool]:
        rows = connection.execute(_EVENTS, (before_ms, *self._after, limit)).fetchall()
        chosen = _within(rows, limit)
        more = len(rows) == limit or len(chosen) < len(rows)
        self._after = (chosen[-1][0], chosen[-1][1]) if more else (-1, -1)
        old = [row[1] for row in chosen if row[3] == 0 and row[4] < before_ms]
        if not old:
            return 0, 0, (), more
        deliveries, moves = _remove_events(connection, old)
        return len(old), deliveries, moves, more


def next_size(size: int, took_ms: float, limit: int) -> int:
    """Say how many events the next step looks at: half or twice as many, when this one took too long or little."""
    if took_ms > STEP_MS:
        return max(size // 2, STEP_MIN)
    return min(size * 2, limit) if took_ms < STEP_MS / 3 else size


def give_space_back(connection: sqlite3.Connection, mono_ms: Callable[[], float]) -> bool:
    """Return unused pages to the disk while a fifth of the file is unused, for STEP_MS; whether more are left.

    In no transaction.
    """
    began_ms = mono_ms()
    while _is_roomy(connection):
        if mono_ms() - began_ms > STEP_MS:
            return True
        connection.executescript(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE:d})")  # execute() would free a single page
    return False


def _is_roomy(connection: sqlite3.Connection) -> bool:
    unused: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    pages: int = connection.execute("PRAGMA page_count").fetchone()[0]
    return unused * 5 > pages


def _within(rows: Sequence[Row], limit: int) -> Sequence[Row]:
    """Keep as many events as hang on a bearable number of rows; at least one."""
    total = 0
    for index, row in enumerate(rows):
        total += row[2]
        if total > limit * ROWS_PER_LIMIT and index:
            return rows[:index]
    return rows


def _remove_events(connection: sqlite3.Connection, ordinals: Sequence[int]) -> tuple[int, Sequence[Move]]:
    chosen = (json.dumps(ordinals),)
    moves = connection.execute(
        f"SELECT endpoint, 0, 0, -count(*), reason FROM delivery WHERE {_AMONG} AND state = 2 GROUP BY endpoint, reason",
        chosen,
    ).fetchall()
    connection.execute(f"DELETE FROM response WHERE {_AMONG}", chosen)
    connection.execute(f"DELETE FROM aimed WHERE {_AMONG}", chosen)
    connection.execute(f"DELETE FROM variant WHERE {_AMONG}", chosen)
    connection.execute(f"DELETE FROM search_value WHERE {_AMONG}", chosen)
    connection.execute(f"DELETE FROM attempt WHERE {_AMONG}", chosen)
    deliveries = connection.execute(f"DELETE FROM delivery WHERE {_AMONG}", chosen).rowcount
    connection.execute("DELETE FROM event WHERE ordinal IN (SELECT value FROM json_each(?))", chosen)
    connection.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'ordinal_floor'", (max(ordinals),))
    return deliveries, moves


def _attempts(connection: sqlite3.Connection, before_ms: int, limit: int) -> tuple[int, bool]:
    (done,) = connection.execute("SELECT value FROM meta WHERE name = 'attempts_pruned_to'").fetchone()
    rows = connection.execute(_EVENTS_BY_ORDINAL, (done, limit)).fetchall()
    old = _older(rows, before_ms)
    chosen = _within(old, limit)
    if not chosen:
        return 0, False
    ordinals = (json.dumps([row[1] for row in chosen]),)
    removed = connection.execute(f"DELETE FROM attempt WHERE {_AMONG} AND started_at < ?", (*ordinals, before_ms))
    connection.execute(
        f"""
        DELETE FROM response WHERE {_AMONG} AND NOT EXISTS (
          SELECT 1 FROM attempt a
          WHERE a.event = response.event AND a.endpoint = response.endpoint AND a.number = response.number)""",
        ordinals,
    )
    connection.execute("UPDATE meta SET value = ? WHERE name = 'attempts_pruned_to'", (chosen[-1][1],))
    return removed.rowcount, len(old) == limit or len(chosen) < len(old)


def _older(rows: Iterable[Row], before_ms: int) -> list[Row]:
    """Keep the rows up to the first that is not old enough."""
    return list(takewhile(lambda row: row[0] < before_ms, rows))


def _claims(connection: sqlite3.Connection, before_ms: int, limit: int) -> tuple[int, bool]:
    rows = connection.execute(
        "SELECT created_at, event, application, key FROM claim ORDER BY event LIMIT ?", (limit,)
    ).fetchall()
    old = _older(rows, before_ms)
    if not old:
        return 0, False
    connection.executemany("DELETE FROM idempotency WHERE application = ? AND key = ?", [row[2:4] for row in old])
    connection.executemany("DELETE FROM claim WHERE event = ?", [row[1:2] for row in old])
    connection.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'ordinal_floor'", (old[-1][1],))
    return len(old), len(old) == limit
