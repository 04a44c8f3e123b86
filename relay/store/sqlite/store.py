"""The store on SQLite: every verb of `relay.store.Store`, with its parts.

Writes go to one thread of our own, which groups them (see `writer`); what a write changes in memory happens in the event
loop when its commit has returned. Reads go through connections that cannot write. What must be the same after a crash is
in the file when a write's awaitable has a result, and not before. Read `writer` for what happens when the power fails,
then `accept` and `settle`.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, overload

from relay.core.clock import Clock
from relay.core.errors import Conflict
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, DueDelivery, Health, NewEvent, Settled, Settlement
from relay.core.views import DeadGroup, DeliveryView, Page
from relay.store.sqlite import edits, lists, migrate, opening, order, registry, rekey
from relay.store.sqlite.accept import Acceptor, Batch
from relay.store.sqlite.background import CANCEL_STEP, Deletions, HealthSaver, Heartbeat, WalKeeper
from relay.store.sqlite.counts import Change, Counts, count
from relay.store.sqlite.opening import StoreSettings
from relay.store.sqlite.prune import Pruner, give_space_back
from relay.store.sqlite.reads import Reads
from relay.store.sqlite.replays import ReplayRows
from relay.store.sqlite.settle import SettleWork, give_back, settle
from relay.store.sqlite.writer import Job, Stage, Writer
from relay.store.values import (
    AcceptResult,
    AtRest,
    CreationRecord,
    DeliveryFilter,
    DueKey,
    Fact,
    Pruned,
    PulledForward,
    RegistryChange,
    RegistryRows,
    Rekeyed,
    Resealed,
    Retention,
    Usage,
)

P = ParamSpec("P")
T = TypeVar("T")

FEW = 10_000
"""Up to this many due deliveries, or dead ones, may all be looked at for a list."""

_ROW_BYTES = 500


class SqliteStore(Reads):
    """Owner of the database file, the writer, the readers, and the counts. Belongs to one event loop."""

    def __init__(self, settings: StoreSettings, clock: Clock, writer_type: type[Writer] = Writer) -> None:
        """Use `open` instead; `writer_type` lets a test put a worse writer in."""
        super().__init__()
        self._settings = settings
        self._keys = settings.keys
        self._at_rest = AtRest.NONE
        self._rekeying = asyncio.Lock()
        self._rewriting = False
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor()
        self._pruner = Pruner(clock.mono_ms)
        self._heartbeat = Heartbeat(clock)
        self._writer = writer_type(
            self._connect,
            accept=self._acceptor.accept,
            settle=settle,
            before_commit=self._heartbeat.beat,
            on_recovered=self._recovered,
            on_fatal=self._report_fatal,
            queue_bytes=settings.queue_bytes,
        )
        self._lock: opening.Lock | None = None
        self._fatal: Exception | None = None
        self._on_fatal: Callable[[Exception], None] = lambda error: None
        self._on_promoted: Callable[[Sequence[DueDelivery]], None] = lambda due: None
        self._healths = HealthSaver(self._writer)
        self._wal = WalKeeper(self._writer, clock, settings.wal_max_bytes)
        self._counts = Counts()
        self._deletions = Deletions(self._writer, self._counts, clock)
        self.replays = ReplayRows(self._edit, lambda: self._search, clock, settings.keys)
        self._check: opening.DamageCheck | None = None  # under way, after an unclean start with a large file
        self._checking: asyncio.Future[None] | None = None
        self._identity: tuple[tuple[int, int] | None, ...]  # these two are set by `open`
        self._opened: opening.StoreFacts

    # -- life --------------------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, settings: StoreSettings, clock: Clock, writer_type: type[Writer] = Writer) -> "SqliteStore":
        """Lock, check, migrate and open the database; CannotStart, AlreadyRunning or StoreDamaged say what to do."""
        store = cls(settings, clock, writer_type)
        store._lock = opening.prepare(settings.path)
        try:
            await store._writer.start()
            await store._open_readers(settings.path, settings.read_timeout_ms, store._report_fatal)
            store._identity = opening.identity(settings.path)
            await store._edit(registry.deleted)
            store._begin_check()
        except BaseException:
            await store.abandon()
            raise
        return store

    async def close(self) -> None:
        if self._lock is None:
            return
        self._healths.finish()
        await self._end_check()
        await self._close_readers()
        self._writer.submit(Job(Stage.OUTSIDE, _leave))
        await self._writer.close()
        self._lock.close()
        self._lock = None

    async def abandon(self) -> None:
        """Stop as a crash would: nothing is finished, marked or folded. For failed starts and for tests."""
        await self._end_check()
        await self._writer.abandon()  # before the readers: the last connection to close must not be able to tidy up
        await self._close_readers()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _connect(self) -> sqlite3.Connection:
        """Open the writer's connection, in its thread."""
        connection, self._opened = opening.open_writer(self._settings)
        self._heartbeat.resume(connection)
        order.release_all_heads(connection)
        self._counts.reset(count(connection))
        self._at_rest = rekey.at_rest(connection, self._keys)
        self._acceptor.resume(connection)
        return connection

    def _begin_check(self) -> None:
        """Look for damage that the crash may have left, where that was too much to wait for."""
        if self._opened.unclean_start and not self._opened.checked:
            self._check = opening.DamageCheck(self._settings.path)
            self._checking = asyncio.ensure_future(self._look_for_damage(self._check))

    async def _look_for_damage(self, check: opening.DamageCheck) -> None:
        found = await asyncio.to_thread(check.run)
        self._check = None
        if found is not None:
            self._writer.break_off(found)

    async def _end_check(self) -> None:
        if self._checking is not None and self._check is not None:
            self._check.stop()
            await self._checking

    # -- health ------------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        return self._writer.healthy

    @property
    def lost(self) -> bool:
        return self._fatal is not None

    @property
    def facts(self) -> Mapping[str, Fact]:
        return self._opened._asdict()

    def sizes(self) -> Mapping[str, int]:
        path = str(self._settings.path)
        return {"database_bytes": _size(path), "wal_bytes": _size(f"{path}-wal")}

    def free_disk_bytes(self) -> int:
        disk = os.statvfs(self._settings.path.parent)
        return disk.f_bavail * disk.f_frsize

    @property
    def heartbeat_ms(self) -> int | None:
        return self._heartbeat.found_ms

    def trust_clock(self, *, trusted: bool) -> None:
        self._heartbeat.trusted = trusted

    def on_fatal(self, callback: Callable[[Exception], None]) -> None:
        self._on_fatal = callback
        if self._fatal is not None:
            callback(self._fatal)

    def on_promoted(self, callback: Callable[[Sequence[DueDelivery]], None]) -> None:
        self._on_promoted = callback

    async def ping(self) -> None:
        await self._submit(Stage.EDIT, _nothing if self.healthy else _probe)

    def upkeep(self) -> str:
        if self._lock is None or self._fatal is not None:
            return ""
        if opening.identity(self._settings.path) != self._identity:
            self._writer.break_off(opening.moved(self._settings.path))
            return ""
        if self._check is not None:
            return ""  # which reads the file meanwhile, so the WAL cannot shrink
        return self._wal.look(self.sizes()["wal_bytes"])

    def _recovered(self) -> None:
        """Go on with what failed, and count anew, O(due + dead), after commits of which nobody knows whether they were kept."""
        self._healths.resume()
        self._deletions.resume()
        if self._writer.unknown:
            self._writer.unknown = False
            self._writer.submit(Job(Stage.EDIT, count, done=self._counts.reset))

    def _report_fatal(self, error: Exception) -> None:
        if self._fatal is None:
            self._fatal = error
            self._on_fatal(error)

    # -- counts ------------------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        return self._counts.backlog

    def due_count(self, ref: int) -> int:
        return self._counts.due(ref)

    def usage(self, application: int) -> Usage:
        return self._counts.usage(application)

    def due_counts(self) -> Mapping[int, int]:
        return self._counts.owing()

    def dead_counts(self) -> Mapping[int, int]:
        return self._counts.dead

    def dead_count(self, ref: int) -> int:
        return self._counts.dead[ref]

    # -- the path of an event ----------------------------------------------------------------------------------------

    @overload
    def accept(self, events: Sequence[NewEvent]) -> "asyncio.Future[list[AcceptResult]]": ...

    @overload
    def accept(self, events: Sequence[NewEvent], follow: Callable[[list[AcceptResult]], T]) -> "asyncio.Future[T]": ...

    def accept(
        self, events: Sequence[NewEvent], follow: Callable[[list[AcceptResult]], Any] = list
    ) -> "asyncio.Future[Any]":
        batch = self._counts.reserve(events, self._settings.endpoint_backlog)
        done, failed = partial(self._accepted, batch, follow), partial(self._counts.release, batch)
        rows = sum([1 + len(event.targets) for event in events])
        size = _ROW_BYTES * rows + sum([len(event.body) for event in events])
        return self._submit(Stage.ACCEPT, batch, done, failed, size, rows)

    def _accepted(self, batch: Batch, follow: Callable[[list[AcceptResult]], T], results: list[AcceptResult]) -> T:
        self._counts.accepted(batch, results)
        for event, _ in batch:
            self._deletions.accepted(event.targets)
        return follow(results)

    def settle(self, settlement: Settlement) -> "asyncio.Future[Settled]":
        work = SettleWork(settlement, self._clock.wall_ms())
        size = _ROW_BYTES if settlement.outcome is None else _ROW_BYTES + len(settlement.outcome.response_body)
        return self._submit(Stage.SETTLE, work, self._follow, size=size)

    @property
    def pending_settles(self) -> int:
        return self._writer.waiting[Stage.SETTLE]

    async def give_back(self, delivery: DueDelivery) -> DueDelivery | None:
        return await self._edit(give_back, delivery)

    # -- applications and endpoints ----------------------------------------------------------------------------------

    async def load_registry(self) -> RegistryRows:
        rows: RegistryRows = await self._submit(Stage.EDIT, partial(registry.load, keys=self._keys))
        return rows

    async def change_registry(self, change: RegistryChange) -> RegistryRows:
        for row in change.endpoints:
            if row.id in change.fresh:
                self._healths.forget(row.ref)
        rows = await self._edit(registry.change, change, self._clock.wall_ms(), self._keys)
        if not self._keys and change.brings_secrets:
            self._at_rest = AtRest.CLEAR
        return rows

    async def find_creation(self, scope: str, key: bytes) -> CreationRecord | None:
        find = partial(registry.find_creation, scope, key, self._keys)
        record: CreationRecord | None = await self._submit(Stage.EDIT, find)
        return record

    @property
    def at_rest(self) -> AtRest:
        return self._at_rest

    @property
    def rewriting(self) -> bool:
        return self._rewriting

    async def rekey(self) -> Rekeyed:
        if not self._keys:
            raise Conflict(
                "no_secrets_key",
                "storage.secrets_key is not set, so there is nothing to encrypt with",
                remedy="`relay rekey --generate` prints a key; configure it and restart relay.",
            )
        async with self._rekeying:
            resealed = await self._reseal()
            hindered = await self._scrub()
            self._at_rest = AtRest.MIXED if hindered else AtRest.ENCRYPTED
            backups = migrate.backups(self._settings.path)
            return Rekeyed(self._keys.ids[0], resealed, hindered, [str(path) for path in backups])

    async def _reseal(self) -> Resealed:
        total = Resealed()
        while True:
            step = await self._edit(rekey.reseal, self._keys)
            total = Resealed(*map(sum, zip(total, step.resealed, strict=True)))
            if step.done:
                return total

    async def _scrub(self) -> str:
        self._rewriting = True
        try:
            hindered: str = await self._submit(Stage.OUTSIDE, partial(rekey.scrub, folder=self._settings.path.parent))
        finally:
            self._rewriting = False
        return hindered

    def save_health(self, ref: int, health: Health) -> None:
        self._healths.save(ref, health)

    # -- deliveries by hand and by time ------------------------------------------------------------------------------

    async def retry_delivery(self, delivery_id: str, *, force: bool = False) -> DueDelivery:
        return await self._edit(edits.retry_delivery, delivery_id, self._clock.wall_ms(), force)

    async def cancel_delivery(self, delivery_id: str, by: str, under_way: DueDelivery | None = None) -> DeliveryKey:
        return await self._edit(edits.cancel_delivery, delivery_id, by, self._clock.wall_ms(), under_way)

    async def drop_dead(self, delivery_id: str, by: str) -> None:
        await self._edit(edits.drop_dead, delivery_id, by, self._clock.wall_ms())

    async def note_dead(self, ref: int, reason: DeadReason, note: str, by: str) -> None:
        await self._edit(edits.note_dead, ref, reason, note, by, self._clock.wall_ms())

    async def end_held(
        self,
        ref: int,
        budget_before_ms: int,
        now_ms: int,
        reason: DeadReason,
        limit: int = CANCEL_STEP,
        reserved: Collection[int] = (),
    ) -> dict[DeadReason, list[DeliveryKey]]:
        return await self._edit(edits.end_held, ref, budget_before_ms, now_ms, reason, limit, reserved)

    async def pull_forward(
        self, ref: int, latest_ms: Sequence[int], place: DueKey | None = None, limit: int = CANCEL_STEP
    ) -> PulledForward:
        return await self._edit(edits.pull_forward, ref, latest_ms, place, limit)

    async def prune(self, now_ms: int, retention: Retention, limit: int = 500) -> Pruned:
        pruned = await self._edit(self._pruner.step, now_ms, retention, limit)
        roomy: bool = await self._submit(Stage.OUTSIDE, partial(give_space_back, mono_ms=self._clock.mono_ms))
        return pruned._replace(more=pruned.more or roomy)

    # -- what people look at: the rest stands in `reads` -------------------------------------------------------------

    async def list_deliveries(self, wanted: DeliveryFilter, cursor: str | None, limit: int) -> Page[DeliveryView]:
        counts = {DeliveryState.DUE: self.backlog, DeliveryState.DEAD: self._counts.all_dead}
        few = {state for state, count in counts.items() if count <= FEW}
        return await lists.list_deliveries(self._search, wanted, cursor, limit, few=few)

    async def dead_groups(self, application: str | None = None) -> list[DeadGroup]:
        return await self._describe_groups(self._counts.dead_groups(), application)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _edit(
        self, edit: Callable[Concatenate[sqlite3.Connection, P], Change[T]], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """Make an edit in one of the next transactions, and follow it in memory."""
        return self._submit(Stage.EDIT, lambda connection: edit(connection, *args, **kwargs), self._follow)

    def _submit(
        self,
        stage: Stage,
        work: Any,
        done: Callable[[Any], Any] | None = None,
        failed: Callable[[], None] | None = None,
        size: int = _ROW_BYTES,
        rows: int = 1,
    ) -> "asyncio.Future[Any]":
        future = self._loop.create_future()
        self._writer.submit(Job(stage, work, size=size, rows=rows, done=done, failed=failed, future=future))
        return future

    def _follow(self, change: Change[T]) -> T:
        """Let memory follow what a commit changed."""
        if change.owners:
            self._counts.adopt(change.owners)
        self._counts.apply(change.moves)
        if change.deleted:
            self._deletions.add(change.deleted)
        if change.promoted:
            self._on_promoted(change.promoted)
        return change.answer


def _leave(connection: sqlite3.Connection) -> None:
    """Mark the file as closed properly and fold the WAL into it."""
    connection.execute("UPDATE meta SET value = 1 WHERE name = 'clean'")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _nothing(connection: sqlite3.Connection) -> None:
    del connection


def _probe(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE meta SET value = value + 1 WHERE name = 'probe'")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
