"""Databases that are full already: rows written straight into the file of a relay that is not running.

Filling one through the API takes minutes for a million events, and what is measured afterwards is not how they came.
"""

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

State = Literal["due", "delivered", "dead"]

CODES = {"due": 0, "delivered": 1, "dead": 2}
CHUNK = 50_000
DAY_MS = 86_400_000

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)"

_EVENTS = f"""
    {_NUMBERS} INSERT INTO event (ordinal, id, application, type, created_at, timestamp, checksum, body)
    SELECT i, printf('evt_%026d', i), :application, 'bench.event', :at, :at, :checksum, :body FROM n"""

_DELIVERIES = f"""
    {_NUMBERS} INSERT INTO delivery (event, endpoint, state, due, attempts, series_attempts, budget_from, finished_at, reason,
                                             share)
    SELECT i, e.ref, :state, iif(:state = 0, :at, NULL), :state > 0, :state > 0, :at, iif(:state = 0, NULL, :at),
           iif(:state = 2, 'exhausted', NULL), (length(:body) + :fan_out - 1) / :fan_out
    FROM n CROSS JOIN (SELECT ref FROM endpoint WHERE deleted_at IS NULL ORDER BY ref LIMIT :fan_out) e"""

_ATTEMPTS = f"""
    {_NUMBERS} INSERT INTO attempt (event, endpoint, number, series, manual, started_at, duration, status, detail, address)
    SELECT i, d.endpoint, 1, 1, 0, :at, 3, iif(:state = 1, 204, 500), '', '127.0.0.1'
    FROM n CROSS JOIN delivery d ON d.event = n.i"""


class Seed(NamedTuple):
    """Events of the first application, each with a delivery to each of its first `fan_out` endpoints."""

    events: int
    state: State
    age_ms: int = 60_000
    fan_out: int = 1
    body_bytes: int = 600


def seed(path: Path, rows: Seed) -> None:
    """Write rows into a database that a relay made and has closed. O(rows), about 10 µs each."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -65536")
        (newest,) = connection.execute("SELECT coalesce(max(ordinal), 0) FROM event").fetchone()
        (application,) = connection.execute("SELECT min(ref) FROM application").fetchone()
        body = b'{"type":"bench.event","data":{"padding":"' + b"x" * (rows.body_bytes - 44) + b'"}}'
        at_ms = time.time_ns() // 1_000_000 - rows.age_ms
        values = {"application": application, "at": at_ms, "checksum": crc32(body), "body": body}
        values |= {"state": CODES[rows.state], "fan_out": rows.fan_out}
        for first in range(newest + 1, newest + rows.events + 1, CHUNK):
            within = {"first": first, "last": min(first + CHUNK - 1, newest + rows.events)}
            connection.execute("BEGIN")
            for statement in (_EVENTS, _DELIVERIES, *([] if rows.state == "due" else [_ATTEMPTS])):
                connection.execute(statement, values | within)
            connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.sync()  # a gigabyte that is still to be written would be what is measured
