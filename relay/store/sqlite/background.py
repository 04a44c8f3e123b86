"""Writes that nobody waits for: health as it changes, and the end of what a deleted endpoint still owed.

A write that fails is tried again by `resume`, which the store calls when writing works again; after a crash the health
is as old as its last commit, and the deletions are found in the file.
"""

import sqlite3
from collections.abc import Collection, Iterable
from functools import partial

from relay.core.clock import Clock
from relay.core.model import Health
from relay.store.sqlite import edits, registry
from relay.store.sqlite.counts import Change, Counts
from relay.store.sqlite.opening import BUSY_TIMEOUT_MS
from relay.store.sqlite.writer import Job, Stage, Writer

CANCEL_STEP = 500
"""Due deliveries of a deleted endpoint that one transaction cancels."""

SHRINK_EVERY_MS = 10_000
"""A WAL that is too large is tried to be shrunk this often."""

HEARTBEAT_MS = 60_000
"""The time is noted at most this often."""


class Heartbeat:
    """Notes the time with the commits, so that a start can see whether the wall clock jumped (Q15).

    Lives in the writer's thread, but for `trusted`. A note whose commit failed is made again a minute later.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._noted_ms: int | None = None
        self.found_ms: int | None = None
        self.trusted = True  # set by the event loop

    def resume(self, connection: sqlite3.Connection) -> None:
        """Read what was noted last; O(1)."""
        row = connection.execute("SELECT value FROM meta WHERE name = 'heartbeat'").fetchone()
        self.found_ms = self._noted_ms = None if row is None else row[0]

    def beat(self, connection: sqlite3.Connection) -> None:
        """Note the time in a transaction that changed something, at most once a minute; O(1)."""
        now_ms = self._clock.wall_ms()
        recent = self._noted_ms is not None and abs(now_ms - self._noted_ms) < HEARTBEAT_MS
        if recent or not self.trusted:
            return
        self._noted_ms = now_ms
        connection.execute(
            """
            INSERT INTO meta (name, value) VALUES ('heartbeat', ?)
            ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
            (now_ms,),
        )


class WalKeeper:
    """Gives the disk space of a grown WAL back, which SQLite cannot while somebody reads an old state of the file."""

    def __init__(self, writer: Writer, clock: Clock, max_bytes: int) -> None:
        self._writer = writer
        self._clock = clock
        self._max_bytes = max_bytes
        self._trying = False
        self._failures = 0  # in a row
        self._next_mono_ms = 0.0

    def look(self, wal_bytes: int) -> str:
        """Shrink a WAL of so many bytes, if it is too large; return what hinders it, "" for nothing. O(1)"""
        if wal_bytes <= self._max_bytes:
            self._failures = 0
            return ""
        if not self._trying and self._clock.mono_ms() >= self._next_mono_ms:
            self._trying = True
            self._next_mono_ms = self._clock.mono_ms() + SHRINK_EVERY_MS
            self._writer.submit(Job(Stage.OUTSIDE, _shrink, done=self._tried, failed=lambda: self._tried(busy=True)))
        if self._failures < 2:  # once may have been a read of our own
            return ""
        return "another program reads the database, so its WAL cannot shrink"

    def _tried(self, busy: bool) -> None:
        self._trying = False
        self._failures = self._failures + 1 if busy else 0


def _shrink(connection: sqlite3.Connection) -> bool:
    """Fold the WAL into the file and cut it off; whether a reader stands in the way, which is not waited for."""
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS:d}")


class HealthSaver:
    """Owner of the healths that are not committed yet; only the latest of an endpoint is written."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._pending: dict[int, Health] = {}
        self._saving = False

    def save(self, ref: int, health: Health) -> None:
        """Write an endpoint's health with one of the next commits."""
        self._pending[ref] = health
        self.resume()

    def forget(self, ref: int) -> None:
        """Drop what is pending: a newer health of this endpoint is written by somebody else."""
        self._pending.pop(ref, None)

    def resume(self) -> None:
        """Submit what is pending, unless a write is under way: its end submits the rest."""
        if not self._saving and self._pending:
            self._saving = True
            self._writer.submit(Job(Stage.EDIT, self._write, done=self._saved, failed=self._failed))

    def finish(self) -> None:
        """Submit what is pending for the last time."""
        if self._pending:
            self._writer.submit(Job(Stage.EDIT, self._write))

    def _write(self, connection: sqlite3.Connection) -> dict[int, Health]:
        written = dict(self._pending)  # one step of the interpreter: the event loop may add to it meanwhile
        registry.save_healths(connection, written)
        return written

    def _saved(self, written: dict[int, Health]) -> None:
        self._saving = False
        for ref, health in written.items():
            if self._pending.get(ref) is health:
                del self._pending[ref]
        self.resume()

    def _failed(self) -> None:
        self._saving = False


class Deletions:
    """Owner of the list of deleted endpoints; cancels what is due of them, each step submitted by the one before."""

    def __init__(self, writer: Writer, counts: Counts, clock: Clock) -> None:
        self._writer = writer
        self._counts = counts
        self._clock = clock
        self._deleted: set[int] = set()
        self._cancelling: set[int] = set()

    def add(self, refs: Collection[int]) -> None:
        """Begin with endpoints whose deletion is committed."""
        self._deleted.update(refs)
        for ref in refs:
            self._go_on(ref)

    def resume(self) -> None:
        """Go on with whatever is left; O(endpoints that were ever deleted)."""
        self.add(self._deleted.copy())

    def accepted(self, targets: Iterable[int]) -> None:
        """Cancel what was matched before a deletion and stored after it."""
        for ref in self._deleted.intersection(targets):
            self._go_on(ref)

    def _go_on(self, ref: int) -> None:
        if ref in self._cancelling or self._counts.due(ref) <= 0:
            return
        self._cancelling.add(ref)
        step = partial(edits.cancel_deleted, ref=ref, now_ms=self._clock.wall_ms(), limit=CANCEL_STEP)
        done, failed = partial(self._cancelled, ref), partial(self._cancelling.discard, ref)
        self._writer.submit(Job(Stage.EDIT, step, done=done, failed=failed))

    def _cancelled(self, ref: int, change: Change[int]) -> None:
        self._cancelling.discard(ref)
        self._counts.apply(change.moves)
        if change.answer:
            self._go_on(ref)
