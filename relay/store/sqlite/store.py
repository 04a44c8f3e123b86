"""The store: every verb that touches the database. Nothing outside this package knows SQLite.

Writes go to one thread of our own, which groups them (see `writer`); what a write changes in memory happens in the event
loop when its commit has returned. Reads go through connections that cannot write. What must be the same after a crash is
in the file when a write's awaitable has a result, and not before.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from relay.core.clock import Clock
from relay.core.errors import StoreDamaged
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
    Secret,
    Settled,
    Settlement,
)
from relay.store.rows import (
    AcceptResult,
    DeliveryFilter,
    DueKey,
    EndpointRow,
    EventFilter,
    FileSizes,
    Pruned,
    PulledForward,
    RefillResult,
    Retention,
    StoreFacts,
    StoreSettings,
    new_endpoint,
)
from relay.store.sqlite import applications, edits, endpoints, lists, opening, reads
from relay.store.sqlite.accept import AcceptBatch, Acceptor
from relay.store.sqlite.background import CANCEL_STEP, Deletions, HealthSaver, Heartbeat
from relay.store.sqlite.counts import Counts, count
from relay.store.sqlite.prune import Pruner, PruneResult, give_space_back
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.settle import SettleResult, SettleWork, settle
from relay.store.sqlite.writer import Job, Stage, Writer

T = TypeVar("T")

FEW_DUE = 10_000
"""Up to this many due deliveries are sorted for a list; more are found on the walk through all."""

_ROW_BYTES = 500


class Store:
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
            on_fatal=self._report_fatal,
            before_commit=self._heartbeat.beat,
        )
        self._lock: opening.Lock | None = None
        self._readers: list[Reader] = []
        self._fatal: StoreDamaged | None = None
        self._on_fatal: Callable[[StoreDamaged], None] = lambda error: None
        self._on_promoted: Callable[[Sequence[DueDelivery]], None] = lambda due: None
        self._healths = HealthSaver(self._writer)
        self.applications = applications.Applications(self._edit, lambda refs: self._deletions.add(refs))
        self._deletions: Deletions  # these three are set by `open`
        self._counts: Counts
        self.facts: StoreFacts
        self.pending_settles = 0

    # -- life --------------------------------------------------------------------------------------------------------

    @classmethod
    async def open(cls, settings: StoreSettings, clock: Clock, writer_type: type[Writer] = Writer) -> "Store":
        """Lock, check, migrate and open the database; CannotStart, AlreadyRunning or StoreDamaged say what to do."""
        store = cls(settings, clock, writer_type)
        store._lock = opening.prepare(settings.path)
        try:
            await store._writer.start()
            await store._open_readers()
            store._deletions = Deletions(store._writer, store._counts, clock)
            store._deletions.add(await store._edit(endpoints.deleted_refs))
        except BaseException:
            await store.abandon()
            raise
        return store

    async def close(self) -> None:
        """Finish what was submitted, fold the WAL into the file, mark it as closed properly. Safe twice."""
        if self._lock is None:
            return
        self._healths.finish()
        for reader in self._readers:
            await reader.close()
        self._submit_outside(_leave)
        await self._writer.close()
        self._lock.release()
        self._lock = None

    async def abandon(self) -> None:
        """Stop as a crash would: nothing is finished, marked or folded. For failed starts and for tests."""
        await self._writer.abandon()  # before the readers: the last connection to close must not be able to tidy up
        for reader in self._readers:
            await reader.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _connect(self) -> sqlite3.Connection:
        """Open the writer's connection, in its thread."""
        connection, self.facts = opening.open_writer(self._settings)
        self._heartbeat.resume(connection)
        self._counts = count(connection)
        self._acceptor.resume(connection)
        return connection

    async def _open_readers(self) -> None:
        path, timeout_ms = self._settings.path, self._settings.read_timeout_ms
        for _ in range(3):
            self._readers.append(await Reader.open(path, timeout_ms, self._report_fatal))
        self._people, self._refills, self._attempts = self._readers

    # -- health ------------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """False from a commit that failed to the next that wrote something."""
        return self._writer.healthy

    @property
    def heartbeat_ms(self) -> int | None:
        """When a commit was last noted before this start, in unix ms; None in a new database (Q15)."""
        return self._heartbeat.found_ms

    def trust_clock(self, *, trusted: bool) -> None:
        """Note the time of commits only while the wall clock is trusted, so that a second start still sees a jump."""
        self._heartbeat.trusted = trusted

    def on_fatal(self, callback: Callable[[StoreDamaged], None]) -> None:
        """Call `callback`, once, when the database reports an I/O error or corruption (invariant 5)."""
        self._on_fatal = callback
        if self._fatal is not None:
            callback(self._fatal)

    def on_promoted(self, callback: Callable[[Sequence[DueDelivery]], None]) -> None:
        """Call `callback` with deliveries whose turn has come because a commit ended their predecessor (Q12)."""
        self._on_promoted = callback

    async def ping(self) -> None:
        """Go through the writer and back; while it is unhealthy, try whether it can write again."""
        await self._edit(_nothing if self.healthy else _probe)
        self._healths.resume()
        self._deletions.resume()

    def file_sizes(self) -> FileSizes:
        """Return the size of the file and of its WAL, in bytes, without opening either."""
        path = self._settings.path
        return FileSizes(_size(str(path)), _size(f"{path}-wal"))

    def free_disk_bytes(self) -> int:
        """Return what is free for us on the disk."""
        disk = os.statvfs(self._settings.path.parent)
        return disk.f_bavail * disk.f_frsize

    def _report_fatal(self, error: StoreDamaged) -> None:
        if self._fatal is None:
            self._fatal = error
            self._on_fatal(error)

    # -- counts ------------------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Due deliveries, held and delayed ones too."""
        return self._counts.backlog

    def due_count(self, ref: int) -> int:
        """Due deliveries of an endpoint."""
        return self._counts.due[ref]

    def dead_count(self, ref: int) -> int:
        """Dead letters of an endpoint."""
        return self._counts.dead[ref]

    # -- the path of an event ----------------------------------------------------------------------------------------

    def accept(self, events: Sequence[NewEvent]) -> "asyncio.Future[list[AcceptResult]]":
        """Store events and their deliveries in one transaction; one result for each, in order.

        A Conflict is a result, not an error: its neighbours are stored. StoreUnavailable when nothing was kept,
        CommitUnknown when nobody knows.
        """
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
        """Record the end of an attempt; the same settlement again, after CommitUnknown, changes nothing twice."""
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
        """Read due deliveries of an endpoint with (due_ms, event) from the given key on, ascending."""
        return await reads.refill(self._refills, ref, from_due_ms, from_event, limit)

    async def audit_due(self, ref: int, limit: int) -> list[DueDelivery]:
        """Read the first due deliveries of an endpoint, as `refill` does but without their events."""
        return await reads.audit_due(self._refills, ref, limit)

    async def endpoints_with_due(self) -> list[int]:
        return [row[0] for row in await self._refills.fetch(reads.WITH_DUE)]

    async def read_event(self, ordinal: int) -> FrozenEvent | None:
        """Read what an attempt sends."""
        return await reads.read_event(self._attempts, ordinal)

    # -- applications and endpoints ----------------------------------------------------------------------------------

    async def sync_applications(self, names: Iterable[str]) -> dict[str, int]:
        """Make the file's applications that are new; return all, id → ref. ConfigError for an id that is taken."""
        chosen, now_ms = list(names), self._clock.wall_ms()
        return await self._edit(lambda connection: applications.sync(connection, chosen, now_ms))

    async def sync_file_endpoints(self, wanted: Iterable[tuple[str, int]]) -> dict[str, EndpointRow]:
        """Make the file's endpoints, (id, application ref), that are new; ConfigError for an id that is taken."""
        chosen, now_ms = list(wanted), self._clock.wall_ms()
        return await self._edit(lambda connection: endpoints.sync_file_endpoints(connection, chosen, now_ms))

    async def load_endpoints(self) -> list[EndpointRow]:
        """Read every endpoint that was not deleted, oldest first."""
        return await self._edit(endpoints.load_endpoints)

    async def create_endpoint(
        self,
        *,
        endpoint_id: str,
        application: int,
        definition: Mapping[str, Any],
        secrets: Sequence[Secret],
        now_ms: int,
    ) -> EndpointRow:
        """Store an endpoint made through the API."""
        row = new_endpoint(
            endpoint_id=endpoint_id, application=application, definition=definition, secrets=secrets, now_ms=now_ms
        )
        return await self._edit(lambda connection: endpoints.create_endpoint(connection, row))

    async def save_endpoint(self, row: EndpointRow, *, health: Health | None = None) -> None:
        """Store what changed of an endpoint; its health only when given, for attempts change it all the time."""
        if health is not None:
            self._healths.forget(row.ref)
        await self._edit(lambda connection: endpoints.save_endpoint(connection, row, health))

    def save_health(self, ref: int, health: Health) -> None:
        """Store an endpoint's health with one of the next commits; only the latest counts."""
        self._healths.save(ref, health)

    async def delete_endpoint(self, ref: int) -> None:
        """Delete an endpoint; its due deliveries are then cancelled step by step, after a restart too."""
        now_ms = self._clock.wall_ms()
        await self._edit(lambda connection: endpoints.mark_deleted(connection, ref, now_ms))
        self._deletions.add([ref])

    # -- deliveries by hand and by time ------------------------------------------------------------------------------

    async def retry_delivery(self, delivery_id: str, *, force: bool = False) -> DueDelivery:
        """Make a delivery due now (Q13), with `force` an expired one too; NotFound, or Conflict when it cannot be."""
        now_ms = self._clock.wall_ms()

        def retried(result: edits.Retried) -> DueDelivery:
            self._counts.retried(result)
            return result.due

        return await self._edit(
            lambda connection: edits.retry_delivery(connection, delivery_id, now_ms, force=force), retried
        )

    async def cancel_delivery(self, delivery_id: str, by: str) -> DeliveryKey:
        """Cancel a due delivery; NotFound, or Conflict when it has ended."""
        now_ms = self._clock.wall_ms()

        def cancelled(result: edits.Ended) -> DeliveryKey:
            self._counts.cancelled(result.keys[0].endpoint, 1)
            self._promote(result.promoted)
            return result.keys[0]

        return await self._edit(
            lambda connection: edits.cancel_delivery(connection, delivery_id, by, now_ms), cancelled
        )

    async def end_held(
        self, ref: int, budget_before_ms: int, now_ms: int, reason: DeadReason, limit: int = CANCEL_STEP
    ) -> dict[DeadReason, list[DeliveryKey]]:
        """End some held deliveries, by reason: expired ones, and with `reason` those whose budget began before a time.

        Empty when none is left (Q6, Q9).
        """

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
        """Make what waits too long due earlier, after the wall clock stepped back (Q15); O(limit), whatever is due.

        `latest_ms[n]` is the latest lawful due time of a delivery with n attempts in its series; the last one is for
        all beyond. A first attempt and a manual retry go by `latest_ms[0]`; what waits for its `deliver_at` is left
        alone. The result names what moved, for the lanes, and the place from which the next step goes on (None: done).
        """

        def step(connection: sqlite3.Connection) -> PulledForward:
            return edits.pull_forward(connection, ref, latest_ms, place, limit)

        return await self._edit(step)

    async def prune(self, now_ms: int, retention: Retention, limit: int = 500) -> Pruned:
        """Remove some of what is older than its retention (Q14); `more` until the sweep has come to its end."""

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
        """Read an event with its body and how many of its deliveries are in each state."""
        return await reads.find_event(self._people, event_id)

    async def list_events(self, wanted: EventFilter, cursor: str | None, limit: int) -> Page[EventView]:
        """List events, newest first. A page may be short although more follow: `next` decides."""
        return await lists.list_events(self._people, wanted, cursor, limit)

    async def deliveries_of(self, event_id: str) -> list[DeliveryView]:
        """Read the deliveries of an event."""
        return await reads.deliveries_of(self._people, event_id)

    async def find_delivery(self, delivery_id: str) -> DeliveryView | None:
        """Read a delivery with its attempts, oldest first."""
        return await reads.find_delivery(self._people, delivery_id)

    async def list_deliveries(self, wanted: DeliveryFilter, cursor: str | None, limit: int) -> Page[DeliveryView]:
        """List deliveries, those of the newest event first. A page may be short although more follow."""
        few_due = self.backlog <= FEW_DUE
        return await lists.list_deliveries(self._people, wanted, cursor, limit, few_due=few_due)

    async def dead_groups(self, application: str | None = None) -> list[DeadGroup]:
        """Group dead letters by endpoint and reason; the group with the latest death first."""
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
