"""Measure what the choice of schema rests on; docs/DECISIONS.md quotes the answers.

    python bench/store_questions.py            # all four questions, about three minutes
    python bench/store_questions.py bodies     # one of: bodies, keys, checkpoints, first_due

Each question builds its own database in a temporary folder, with the settings the relay uses (WAL, FULL).
"""

import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BATCH = 100


@contextmanager
def database(cache_kib: int = 2000, checkpoint_pages: int = 1000) -> Iterator[sqlite3.Connection]:
    """Yield a fresh database as the relay opens one."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as folder:
        connection = sqlite3.connect(Path(folder) / "bench.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{cache_kib}")
        connection.execute(f"PRAGMA wal_autocheckpoint={checkpoint_pages}")
        yield connection
        connection.close()


def transaction(connection: sqlite3.Connection, work: Callable[[], None]) -> float:
    """Run `work` in one transaction; return its seconds, commit included."""
    begin = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    work()
    connection.execute("COMMIT")
    return time.perf_counter() - begin


def bodies() -> None:
    """Body in the event row, or in a table of its own?"""
    print("\nbodies: µs an event, 100 events a transaction; then a list of 250 events without bodies")
    for kib in (1, 4, 16):
        for own_table in (False, True):
            print(f"  {kib:>2} KiB, {'own table' if own_table else 'event row':<9}", *_bodies(kib * 1024, own_table))


def _bodies(body_bytes: int, own_table: bool) -> tuple[str, str]:
    with database() as db:
        column = "" if own_table else ", body BLOB"
        db.execute(f"CREATE TABLE event(ordinal INTEGER PRIMARY KEY, id TEXT, type TEXT, created INTEGER{column})")
        db.execute("CREATE TABLE body(ordinal INTEGER PRIMARY KEY, body BLOB)")
        body = os.urandom(body_bytes)
        seconds = []
        for batch in range(100):
            rows = [(batch * BATCH + i, f"evt_{batch:08}{i:08}", "a.b", batch) for i in range(BATCH)]
            seconds.append(transaction(db, lambda rows=rows: _insert_bodies(db, rows, body, own_table)))  # type: ignore[misc]  # a default binds the loop's value
        begin = time.perf_counter()
        for _ in range(50):
            db.execute("SELECT ordinal, id, type, created FROM event ORDER BY ordinal DESC LIMIT 250").fetchall()
        listing = (time.perf_counter() - begin) / 50
    return f"accept {statistics.median(seconds) / BATCH * 1e6:7.1f} µs", f"list {listing * 1e6:8.0f} µs"


def _insert_bodies(db: sqlite3.Connection, rows: list[tuple[int, str, str, int]], body: bytes, own_table: bool) -> None:
    if own_table:
        db.executemany("INSERT INTO event VALUES (?, ?, ?, ?)", rows)
        db.executemany("INSERT INTO body VALUES (?, ?)", [(row[0], body) for row in rows])
    else:
        db.executemany("INSERT INTO event VALUES (?, ?, ?, ?, ?)", [(*row, body) for row in rows])


def keys() -> None:
    """What does the idempotency index cost at 10^7 keys, and what helps?"""
    print("\nkeys: µs a claim, 100 claims a transaction, 10^7 keys present")
    for name, prefixed, cache_kib in (
        ("random key, 2 MB cache", False, 2000),
        ("random key, 64 MB cache", False, 64_000),
        ("day before the key, 2 MB cache", True, 2000),
    ):
        with database(cache_kib) as db:
            db.execute(
                "CREATE TABLE idempotency(day INTEGER, key BLOB, event TEXT, PRIMARY KEY(day, key)) STRICT, WITHOUT ROWID"
            )
            _fill_keys(db, 10_000_000, days=90 if prefixed else 1)
            day = 89 if prefixed else 0
            seconds = [transaction(db, lambda: _claim(db, day)) for _ in range(100)]  # noqa: B023 - runs at once
            probe = _probe(db, days=90 if prefixed else 1)
        print(f"  {name:<31} claim {statistics.median(seconds) / BATCH * 1e6:6.1f} µs   look-up {probe * 1e6:6.1f} µs")


def _fill_keys(db: sqlite3.Connection, count: int, days: int) -> None:
    db.execute("PRAGMA synchronous=OFF")
    db.execute("BEGIN")
    for day in range(days):
        fresh = sorted(os.urandom(16) for _ in range(count // days))
        db.executemany(
            "INSERT OR IGNORE INTO idempotency VALUES (?, ?, ?)", ((day, key, "evt_" + "0" * 26) for key in fresh)
        )
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.execute("PRAGMA synchronous=FULL")


def _claim(db: sqlite3.Connection, day: int) -> None:
    db.executemany(
        "INSERT INTO idempotency VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(day, os.urandom(16), "evt_" + "0" * 26) for _ in range(BATCH)],
    )


def _probe(db: sqlite3.Connection, days: int) -> float:
    begin = time.perf_counter()
    for _ in range(200):
        key = os.urandom(16)
        for day in range(days):
            db.execute("SELECT event FROM idempotency WHERE day = ? AND key = ?", (day, key)).fetchone()
    return (time.perf_counter() - begin) / 200


def checkpoints() -> None:
    """How large a checkpoint is against how long the slowest commits take."""
    print("\ncheckpoints: ms a transaction of 32 events with 1 KiB bodies and 3 deliveries")
    for pages in (250, 1000, 4000, 16_000):
        with database(checkpoint_pages=pages) as db:
            db.execute("CREATE TABLE event(ordinal INTEGER PRIMARY KEY, id TEXT UNIQUE, body BLOB)")
            db.execute(
                "CREATE TABLE delivery(event INTEGER, endpoint INTEGER, due INTEGER, PRIMARY KEY(event, endpoint)) WITHOUT ROWID"
            )
            seconds = sorted(transaction(db, lambda n=n: _events(db, n)) for n in range(3000))  # type: ignore[misc]  # a default binds the loop's value
        p50, p99, worst = seconds[1500], seconds[2970], seconds[-1]
        print(f"  {pages:>6} pages   p50 {p50 * 1e3:5.2f}   p99 {p99 * 1e3:6.2f}   worst {worst * 1e3:6.1f}")


def _events(db: sqlite3.Connection, batch: int) -> None:
    body = os.urandom(1024)
    ordinals = range(batch * 32, batch * 32 + 32)
    db.executemany("INSERT INTO event VALUES (?, ?, ?)", [(n, f"evt_{n:020}", body) for n in ordinals])
    db.executemany(
        "INSERT INTO delivery VALUES (?, ?, ?)", [(n, endpoint, n) for n in ordinals for endpoint in range(3)]
    )


def first_due() -> None:
    """The first due time of 1,000 endpoints among 10^6 due rows: a seek for each, or one GROUP BY?"""
    print("\nfirst_due: ms for all 1,000 endpoints")
    with database() as db:
        db.execute(
            "CREATE TABLE delivery(event INTEGER, endpoint INTEGER, due INTEGER, state INTEGER, PRIMARY KEY(event, endpoint)) WITHOUT ROWID"
        )
        db.execute("BEGIN")
        rows = ((n, n % 1000, n * 7 % 1_000_003, 0) for n in range(1_000_000))
        db.executemany("INSERT INTO delivery VALUES (?, ?, ?, ?)", rows)
        db.execute("COMMIT")
        db.execute("CREATE INDEX delivery_due ON delivery(endpoint, due, event) WHERE state = 0")
        begin = time.perf_counter()
        for endpoint in range(1000):
            db.execute("SELECT min(due) FROM delivery WHERE endpoint = ? AND state = 0", (endpoint,)).fetchone()
        seek = time.perf_counter() - begin
        begin = time.perf_counter()
        db.execute("SELECT endpoint, min(due), count(*) FROM delivery WHERE state = 0 GROUP BY endpoint").fetchall()
        grouped = time.perf_counter() - begin
    print(f"  a seek for each {seek * 1e3:7.1f} ms   one GROUP BY with count {grouped * 1e3:7.1f} ms")


QUESTIONS = {"bodies": bodies, "keys": keys, "checkpoints": checkpoints, "first_due": first_due}

if __name__ == "__main__":
    print(f"SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}")
    for name in sys.argv[1:] or QUESTIONS:
        QUESTIONS[name]()
