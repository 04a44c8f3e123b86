"""Stores in temporary folders, and the few values that tests put in and look for."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryState,
    DueDelivery,
    Idempotency,
    KeyKind,
    NewEvent,
    Origin,
    Outcome,
    Secret,
    Settled,
    Settlement,
)
from relay.registry.planning import new_endpoint
from relay.store import AcceptResult, ApplicationRow, DeliveryFilter, EndpointRow, RegistryChange, Store
from relay.store.sqlite import SqliteStore, StoreSettings
from relay.store.sqlite.writer import Answer, Job, Stage, Writer
from tests.support.clock import FakeClock

DAY_MS = 86_400_000


class Kept(NamedTuple):
    """A retention, as the configuration has it."""

    events_ms: int = 30 * DAY_MS
    attempts_ms: int = 14 * DAY_MS
    idempotency_ms: int = 90 * DAY_MS
    memory_ms: int = 365 * DAY_MS
    replays_ms: int = 30 * DAY_MS


class Relay:
    """An open store with one application, its clock, and short words for what tests do."""

    def __init__(self, store: SqliteStore, clock: FakeClock, application: int) -> None:
        self.store = store
        self.clock = clock
        self.application = application
        self._made = 0

    async def endpoint(self, name: str = "ep_1") -> int:
        """Make an endpoint through the API and return its ref."""
        return (await self.endpoint_row(name)).ref

    async def endpoint_row(self, name: str = "ep_1") -> EndpointRow:
        url = f"https://{name}.example/"
        row = new_endpoint(name, "acme", Origin.API, url, self.clock.wall_ms())
        row = replace(row, definition={"url": url}, secrets=(Secret("whsec_one"),))
        return (await self.store.change_registry(RegistryChange(endpoints=[row]))).endpoints[0]

    async def endpoint_rows(self) -> Sequence[EndpointRow]:
        """Read every endpoint."""
        return (await self.store.load_registry()).endpoints

    async def delete_endpoint(self, name: str = "ep_1") -> None:
        await self.store.change_registry(RegistryChange(deleted_endpoints=[name]))

    def event(self, *targets: int, **changes: Any) -> NewEvent:
        """Make an event for some endpoints."""
        self._made += 1
        event = NewEvent(
            id=f"evt_{self._made:06d}",
            id_given=False,
            application=self.application,
            type="render.completed",
            body=b'{"n":%d}' % self._made,
            created_at_ms=self.clock.wall_ms(),
            timestamp_ms=self.clock.wall_ms(),
            targets=targets,
        )
        return event._replace(**changes)

    async def accept(self, *targets: int, **changes: Any) -> Accepted:
        """Accept one event that must be new."""
        result = await self.offer(self.event(*targets, **changes))
        assert isinstance(result, Accepted)
        return result

    async def offer(self, event: NewEvent) -> AcceptResult:
        """Accept one event, whatever becomes of it."""
        return (await self.store.accept([event]))[0]

    async def due(self, ref: int, **changes: Any) -> DueDelivery:
        """Accept one event for one endpoint and return what it owes."""
        return (await self.accept(ref, **changes)).due[0]

    async def delivered(self, delivery: DueDelivery) -> Settled:
        return await self.store.settle(
            Settlement(delivery, DeliveryState.DELIVERED, self.outcome(204), keep_response=False)
        )

    async def again(self, delivery: DueDelivery, due_ms: int, status: int = 500) -> Settled:
        return await self.store.settle(Settlement(delivery, DeliveryState.DUE, self.outcome(status), due_ms=due_ms))

    async def dead(self, delivery: DueDelivery, reason: DeadReason = DeadReason.EXHAUSTED) -> Settled:
        return await self.store.settle(Settlement(delivery, DeliveryState.DEAD, self.outcome(500), reason=reason))

    def outcome(self, status: int, **changes: Any) -> Outcome:
        """Make the outcome of an attempt that began now; time moves on, as it does between attempts."""
        outcome = Outcome(started_at_ms=self.clock.wall_ms(), duration_ms=7, status=status)
        self.clock.advance(1)
        return outcome._replace(**changes)


@asynccontextmanager
async def opened(
    folder: Path, clock: FakeClock | None = None, writer: type[Writer] = Writer, **settings: Any
) -> AsyncIterator[Relay]:
    """Open the store in a folder, and close it; a test that closed or abandoned it itself may have."""
    clock = FakeClock() if clock is None else clock
    store = await SqliteStore.open(StoreSettings(path=folder / "relay.db", **settings), clock, writer)
    try:
        yield Relay(store, clock, await application(store))
    finally:
        await store.close()


async def application(store: Store, name: str = "acme") -> int:
    """Make an application of the file, unless it is there; return its ref."""
    known = (await store.load_registry()).applications
    found = next((row.ref for row in known if row.id == name), None)
    if found is not None:
        return found
    row = ApplicationRow(0, name, Origin.FILE, None, "standard", 0, 0)
    return (await store.change_registry(RegistryChange(applications=[row]))).applications[0].ref


def key(text: str, body: str = "same", *, derived: bool = False) -> Idempotency:
    """Make a claim on a key for a body."""
    kind = KeyKind.DERIVED if derived else KeyKind.GIVEN
    return Idempotency(text.encode().ljust(16, b"."), body.encode().ljust(16, b"."), kind, may_differ=derived)


def look(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    """Read the file with other eyes, once the store is closed."""
    connection = sqlite3.connect(folder / "relay.db")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


class Gate:
    """Stands before the commit: lets it through, holds it up, or makes it fail. Shared by the loop and the writer."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._held: asyncio.Event = asyncio.Event()  # a commit is held up
        self.answered = 0  # groups of writes whose callers have heard
        self.error: Exception | None = None
        self.error_after: Exception | None = None
        self.commits = 0
        self._fail_from: tuple[int, Exception] | None = None

    def hold(self) -> None:
        self._held.clear()
        self._open.clear()

    @property
    def holds(self) -> bool:
        """Whether a commit is held up."""
        return self._held.is_set()

    def let_go(self) -> None:
        self._held.clear()
        self._open.set()

    def fail_from(self, number: int, error: Exception) -> None:
        """Let `number - 1` commits pass, counting one that is held up, and fail those after it until `error` is None."""
        self._fail_from = (self.commits + number - 1, error)

    @contextmanager
    def after_commit(self, error: Exception) -> Iterator[None]:
        """Let commits report an error although they are kept."""
        self.error_after = error
        yield
        self.error_after = None

    def pass_through(self, tell: Callable[..., None]) -> None:
        """Called by the writer before each commit; `tell` reaches the loop."""
        self.commits += 1
        if not self._open.is_set():
            tell(self._held.set)
        self._open.wait(20)
        if self._fail_from is not None and self.commits >= self._fail_from[0]:
            self.error, self._fail_from = self._fail_from[1], None
        if self.error is not None:
            raise self.error

    async def reached(self) -> None:
        """Wait until a commit is held up."""
        async with asyncio.timeout(20):
            await self._held.wait()


def gated(gate: Gate) -> type[Writer]:
    """Make a writer whose commits pass through a gate."""

    class Gated(Writer):
        def commit(self, connection: sqlite3.Connection) -> None:
            gate.pass_through(self._in_loop)
            super().commit(connection)
            if gate.error_after is not None:
                raise gate.error_after

        def _answer(self, answers: Sequence[Answer], healthy: bool | None) -> None:
            super()._answer(answers, healthy)
            gate.answered += 1

    return Gated


def idle(store: SqliteStore) -> bool:
    """Whether the threads of a store have nothing to do."""
    return not store._writer._queued_bytes and not any(reader._turn.locked() for reader in store._readers)


def hasty(gate: Gate) -> type[Writer]:
    """Make the writer that the tests must catch: it answers before its commit."""

    class Hasty(gated(gate)):  # type: ignore[misc]
        def _run_jobs(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> list[Answer]:
            self._in_loop(self._answer, super()._run_jobs(connection, jobs), None)
            return []

    return Hasty


async def outside(store: SqliteStore, work: Callable[[sqlite3.Connection], object]) -> None:
    """Run something on the writer's connection after the commit of its group."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    store._writer.submit(Job(Stage.OUTSIDE, work, done=lambda result: None, future=done))
    await done


def sqlite_error(code: int, message: str = "injected") -> sqlite3.OperationalError:
    """Make an error of SQLite with a code."""
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


async def sweep(relay: Relay, kept: Kept | None = None, limit: int = 500) -> list[tuple[int, int, int, int]]:
    """Prune to the end of a sweep; what each step removed."""
    steps = []
    more = True
    while more:
        pruned = await relay.store.prune(relay.clock.wall_ms(), kept or Kept(), limit)
        steps.append((pruned.events, pruned.deliveries, pruned.attempts, pruned.keys))
        more = pruned.more
    return steps


async def delivery_pages(relay: Relay, wanted: DeliveryFilter, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = await relay.store.list_deliveries(wanted, cursor, limit)
        assert len(page.data) <= limit
        found += [view.id for view in page.data]
        cursor = page.next
        if cursor is None:
            return found


class Engine(NamedTuple):
    """A kind of store. What a test does through `opened` must hold of every engine."""

    name: str
    opened: Callable[..., AbstractAsyncContextManager[Relay]]  # (folder, clock, gate before its commits, **settings)


def sqlite_opened(
    folder: Path, clock: FakeClock | None = None, gate: Gate | None = None, **settings: Any
) -> AbstractAsyncContextManager[Relay]:
    """Open a store on SQLite."""
    return opened(folder, clock, Writer if gate is None else gated(gate), **settings)


ENGINES = (Engine("sqlite", sqlite_opened),)
