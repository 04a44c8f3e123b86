"""The store on SQLite: every verb of `relay.store.Store`, with its parts.

Writes go to one thread of our own, which groups them (see `writer`); what a write changes in memory happens in the event
loop when its commit has returned. Reads go through connections that cannot write. What must be the same after a crash is
in the file when a write's awaitable has a result, and not before. Read `writer` for what happens when the power fails,
then `accept` and `settle`.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from relay.core.clock import Clock
from relay.core.model import (
    DeadGroup,
    DeadReason,
    DeliveryKey,
    DeliveryView,
    DueDelivery,
    EventView,
    FrozenEvent,
    Health,
    NewEvent,
    Page,
    Settled,
    Settlement,
)
from relay.store.sqlite import edits, lists, opening, order, reads, registry
from relay.store.sqlite.accept import AcceptBatch, Acceptor
from relay.store.sqlite.background import CANCEL_STEP, Deletions, HealthSaver, Heartbeat, WalKeeper
from relay.store.sqlite.counts import Counts, count
from relay.store.sqlite.opening import StoreSettings
from relay.store.sqlite.prune import Pruner, PruneResult, give_space_back
from relay.store.sqlite.reads import Reader
from relay.store.sqlite.settle import SettleResult, SettleWork, give_back, settle
from relay.store.sqlite.writer import Job, Stage, Writer
from relay.store.values import (
    AcceptResult,
    DeliveryFilter,
    DueKey,
    EventFilter,
    Fact,
    Pruned,
    PulledForward,
    RefillResult,
    RegistryChange,
    RegistryRows,
    Retention,
)

T = TypeVar("T")

FEW_DUE = 10_000
"""Up to this many due deliveries are sorted for a list; more are found on the walk through all."""

_ROW_BYTES = 500


class SqliteStore:
    """Owner of the database file, the writer, the readers, and the counts. Belongs to one event loop."""

    def __init__(self, settings: StoreSettings, clock: Clock, writer_type: type[Writer] = Writer) -> None:
        """Use `open` instead; `writer_type` lets a test put a worse writer in."""
        self._settings = settings
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor()
        self._pruner = Pruner()
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
        self._readers: list[Reader] = []
        self._fatal: Exception | None = None
        self._on_fatal: Callable[[Exception], None] = lambda error: None
        self._on_promoted: Callable[[Sequence[DueDelivery]], None] = lambda due: None
        self._healths = HealthSaver(self._writer)
        self._wal = WalKeeper(self._writer, clock, settings.wal_max_bytes)
        self._deletions: Deletions  # these are set by `open`
        self._counts: Counts
        self._check: opening.DamageCheck | None = None  # under way, after an unclean start with a large file
        self._checking: asyncio.Future[None] | None = None
        self._identity: tuple[tuple[int, int] | None, ...]
        self._opened: opening.StoreFacts
        self.pending_settles = 0

    # -- life --------------------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, settings: StoreSettings, clock: Clock, writer_type: type[Writer] = Writer) -> "SqliteStore":
        """Lock, check, migrate and open the database; CannotStart, AlreadyRunning or StoreDamaged say what to do."""
        store = cls(settings, clock, writer_type)
        store._lock = opening.prepare(settings.path)
        try:
            await store._writer.start()
            await store._open_readers()
            store._identity = opening.identity(settings.path)
            store._deletions = Deletions(store._writer, store._counts, clock)
            store._deletions.add(await store._edit(registry.deleted_refs))
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
        for reader in self._readers:
            await reader.close()
        self._submit_outside(_leave)
        await self._writer.close()
        self._lock.release()
        self._lock = None

    async def abandon(self) -> None:
        """Stop as a crash would: nothing is finished, marked or folded. For failed starts and for tests."""
        await self._end_check()
        await self._writer.abandon()  # before the readers: the last connection to close must not be able to tidy up
        for reader in self._readers:
            await reader.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _connect(self) -> sqlite3.Connection:
        """Open the writer's connection, in its thread."""
        connection, self._opened = opening.open_writer(self._settings)
        self._heartbeat.resume(connection)
        order.release_all_heads(connection)
        self._counts = Counts(count(connection))
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

    async def _open_readers(self) -> None:
        path, timeout_ms = self._settings.path, self._settings.read_timeout_ms
        for _ in range(3):
            self._readers.append(await Reader.open(path, timeout_ms, self._report_fatal))
        self._people, self._refills, self._attempts = self._readers

    # -- health ------------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        return self._writer.healthy

    @property
    def facts(self) -> Mapping[str, Fact]:
        named = self._opened._asdict()
        return {name: str(value) if isinstance(value, os.PathLike) else value for name, value in named.items()}

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
        await self._edit(_nothing if self.healthy else _probe)

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
        """Go on with what failed, and count anew after commits of which nobody knows whether they were kept."""
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

    def dead_count(self, ref: int) -> int:
        return self._counts.dead[ref]

    # -- the path of an event ----------------------------------------------------------------------------------------

    def accept(self, events: Sequence[NewEvent]) -> "asyncio.Future[list[AcceptResult]]":
        batch = self._counts.reserve(events, self._settings.endpoint_backlog)
        future: asyncio.Future[list[AcceptResult]] = self._loop.create_future()
        job = Job(
            Stage.ACCEPT,
            batch,
            size=sum([len(event.body) + _ROW_BYTES * (1 + len(event.targets)) for event in events]),
            done=lambda results: self._accepted(batch, results),
            failed=lambda: self._counts.release(batch),
            future=future,
        )
        self._writer.submit(job)
        return future

    def settle(self, settlement: Settlement) -> "asyncio.Future[Settled]":
        self.pending_settles += 1
        future: asyncio.Future[Settled] = self._loop.create_future()
        job = Job(
            Stage.SETTLE,
            SettleWork(settlement, self._clock.wall_ms()),
            size=_ROW_BYTES if settlement.outcome is None else _ROW_BYTES + len(settlement.outcome.response_body),
            done=lambda result: self._settled(settlement, result),
            failed=self._settle_failed,
            future=future,
        )
        self._writer.submit(job)
        return future

    async def give_back(self, delivery: DueDelivery) -> DueDelivery | None:
        def given_back(result: SettleResult) -> DueDelivery | None:
            self._promote(result.promoted)
            return result.settled.due

        return await self._edit(lambda connection: give_back(connection, delivery), given_back)

    def _accepted(self, batch: AcceptBatch, results: list[AcceptResult]) -> list[AcceptResult]:
        self._counts.accepted(batch, results)
        for event in batch.events:
            self._deletions.accepted(event.targets)
        return results

    def _settled(self, settlement: Settlement, result: SettleResult) -> Settled:
        self.pending_settles -= 1
        if result.left:
            self._counts.settled(settlement)
        self._promote(result.promoted)
        return result.settled

    def _settle_failed(self) -> None:
        self.pending_settles -= 1

    def _promote(self, due: Sequence[DueDelivery]) -> None:
        if due:
            self._on_promoted(due)

    # -- what attempts and lanes read --------------------------------------------------------------------------------

    async def refill(self, ref: int, from_due_ms: float, from_event: float, limit: int) -> RefillResult:
        return await reads.refill(self._refills, ref, from_due_ms, from_event, limit)

    async def audit_due(self, ref: int, limit: int) -> list[DueDelivery]:
        return await reads.audit_due(self._refills, ref, limit)

    async def endpoints_with_due(self) -> list[int]:
        return [row[0] for row in await self._refills.fetch(reads.WITH_DUE)]

    async def read_event(self, ordinal: int) -> FrozenEvent | None:
        return await reads.read_event(self._attempts, ordinal)

    # -- applications and endpoints ----------------------------------------------------------------------------------

    async def load_registry(self) -> RegistryRows:
        return await self._edit(registry.load)

    async def change_registry(self, change: RegistryChange) -> RegistryRows:
        for row in change.endpoints:
            if row.id in change.fresh:
                self._healths.forget(row.ref)
        now_ms = self._clock.wall_ms()

        def changed(result: tuple[RegistryRows, list[int]]) -> RegistryRows:
            written, deleted = result
            self._deletions.add(deleted)
            return written

        return await self._edit(lambda connection: registry.change(connection, change, now_ms), changed)

    def save_health(self, ref: int, health: Health) -> None:
        self._healths.save(ref, health)

    # -- deliveries by hand and by time ------------------------------------------------------------------------------

    async def retry_delivery(self, delivery_id: str, *, force: bool = False) -> DueDelivery:
        now_ms = self._clock.wall_ms()

        def retried(result: edits.Retried) -> DueDelivery:
            self._counts.retried(result)
            return result.due

        return await self._edit(
            lambda connection: edits.retry_delivery(connection, delivery_id, now_ms, force=force), retried
        )

    async def cancel_delivery(self, delivery_id: str, by: str, under_way: DueDelivery | None = None) -> DeliveryKey:
        now_ms = self._clock.wall_ms()

        def cancelled(result: edits.Ended) -> DeliveryKey:
            self._counts.cancelled(result.keys[0].endpoint, 1)
            self._promote(result.promoted)
            return result.keys[0]

        return await self._edit(
            lambda connection: edits.cancel_delivery(connection, delivery_id, by, now_ms, under_way), cancelled
        )

    async def end_held(
        self, ref: int, budget_before_ms: int, now_ms: int, reason: DeadReason, limit: int = CANCEL_STEP
    ) -> dict[DeadReason, list[DeliveryKey]]:
        def end(connection: sqlite3.Connection) -> edits.Ended:
            return edits.end_held(connection, ref, budget_before_ms, now_ms, reason, limit)

        def ended(result: edits.Ended) -> dict[DeadReason, list[DeliveryKey]]:
            self._counts.died(result.keys)
            self._promote(result.promoted)
            by_reason = {DeadReason.EXPIRED: result.keys[: result.expired], reason: result.keys[result.expired :]}
            return {each: keys for each, keys in by_reason.items() if keys}

        return await self._edit(end, ended)

    async def pull_forward(
        self, ref: int, latest_ms: Sequence[int], place: DueKey | None = None, limit: int = CANCEL_STEP
    ) -> PulledForward:
        def step(connection: sqlite3.Connection) -> PulledForward:
            return edits.pull_forward(connection, ref, latest_ms, place, limit)

        return await self._edit(step)

    async def prune(self, now_ms: int, retention: Retention, limit: int = 500) -> Pruned:
        def step(connection: sqlite3.Connection) -> PruneResult:
            return self._pruner.step(connection, now_ms, retention, limit)

        def pruned(result: PruneResult) -> Pruned:
            self._counts.pruned(result.dead)
            return result.pruned

        answer = await self._edit(step, pruned)
        self._submit_outside(lambda connection: give_space_back(connection, 2 * limit))
        return answer

    # -- what people look at -----------------------------------------------------------------------------------------

    async def find_event(self, event_id: str) -> EventView | None:
        return await reads.find_event(self._people, event_id)

    async def list_events(self, wanted: EventFilter, cursor: str | None, limit: int) -> Page[EventView]:
        return await lists.list_events(self._people, wanted, cursor, limit)

    async def deliveries_of(self, event_id: str) -> list[DeliveryView]:
        return await reads.deliveries_of(self._people, event_id)

    async def find_delivery(self, delivery_id: str) -> DeliveryView | None:
        return await reads.find_delivery(self._people, delivery_id)

    async def list_deliveries(self, wanted: DeliveryFilter, cursor: str | None, limit: int) -> Page[DeliveryView]:
        few_due = self.backlog <= FEW_DUE
        return await lists.list_deliveries(self._people, wanted, cursor, limit, few_due=few_due)

    async def dead_groups(self, application: str | None = None) -> list[DeadGroup]:
        return await reads.dead_groups(self._people, application)

    # -- submitting --------------------------------------------------------------------------------------------------

    def _edit(
        self, work: Callable[[sqlite3.Connection], Any], done: Callable[[Any], T] | None = None
    ) -> "asyncio.Future[T]":
        future: asyncio.Future[T] = self._loop.create_future()
        self._writer.submit(Job(Stage.EDIT, work, done=done, future=future))
        return future

    def _submit_outside(self, work: Callable[[sqlite3.Connection], None]) -> None:
        self._writer.submit(Job(Stage.OUTSIDE, work))


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
