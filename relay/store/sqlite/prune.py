"""Retention (Q14): what is old goes, in steps small enough that nobody waits for them.

A sweep walks the events from the oldest, then the attempts, the claims on keys and what is remembered, and starts anew
when it has come to the end. An event goes only without due deliveries and when the last of them ended long enough ago. Attempts go earlier
than their events; that walk remembers how far it came, so an attempt made on an old event later goes with its event.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import takewhile

from relay.store.sqlite.counts import Change, Move
from relay.store.sqlite.rows import Row
from relay.store.values import Pruned, Retention

ROWS_PER_LIMIT = 4
"""A step of `limit` events ends early when this many times `limit` rows hang on them."""

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

_AMONG = "event IN (SELECT value FROM json_each(?))"


class Pruner:
    """Owner of the place that the sweep has come to. Lives in the writer's thread."""

    def __init__(self) -> None:
        self._after = (-1, -1)  # (created_at, ordinal) of the last event looked at

    def step(self, connection: sqlite3.Connection, now_ms: int, retention: Retention, limit: int) -> Change[Pruned]:
        """Look at up to `limit` events, attempts' events, claims and memories each; `more` until all ran out."""
        events, deliveries, moves, more_events = self._events(connection, now_ms - retention.events_ms, limit)
        attempts, more_attempts = _attempts(connection, now_ms - retention.attempts_ms, limit)
        keys, more_keys = _claims(connection, now_ms - retention.idempotency_ms, limit)
        forgotten = connection.execute(FORGET_OLD, (now_ms - retention.memory_ms, limit)).rowcount
        more = more_events or more_attempts or more_keys or forgotten == limit
        return Change(Pruned(events, deliveries, attempts, keys, more, forgotten), moves)

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


def give_space_back(connection: sqlite3.Connection, pages: int) -> None:
    """Return up to `pages` unused pages to the disk, if a fifth of the file is unused. In no transaction."""
    unused = connection.execute("PRAGMA freelist_count").fetchone()[0]
    if unused * 5 > connection.execute("PRAGMA page_count").fetchone()[0]:
        connection.executescript(f"PRAGMA incremental_vacuum({pages:d})")  # execute() would free a single page


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
        f"SELECT endpoint, 0, -count(*), reason FROM delivery WHERE {_AMONG} AND state = 2 GROUP BY endpoint, reason",
        chosen,
    ).fetchall()
    connection.execute(f"DELETE FROM response WHERE {_AMONG}", chosen)
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
