"""The store when the machine fails: what callers are told, and what goes on afterwards (invariants 3, 5, 12)."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from relay.core.errors import CommitUnknown, StoreDamaged, StoreUnavailable
from relay.core.model import DeliveryState, Health, Settlement
from relay.store import Store
from relay.store.sqlite.writer import Stage
from tests.support.stores import Gate, gated, look, opened, outside, sqlite_error
from tests.support.waiting import quiet


async def test_a_failed_commit_is_unknown(tmp_path: Path) -> None:
    """Invariant 5: when COMMIT fails everybody hears 'unknown', the store is unhealthy until one succeeds."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        gate.error = sqlite_error(sqlite3.SQLITE_FULL, "database or disk is full")
        with pytest.raises(CommitUnknown, match="same idempotency key"):
            await relay.store.accept([relay.event(ref)])
        with pytest.raises(CommitUnknown):
            await relay.delivered(due)
        assert not relay.store.healthy
        with pytest.raises(CommitUnknown):
            await relay.store.ping()
        gate.error = None
        await relay.store.ping()
        assert relay.store.healthy
        assert (relay.store.due_count(ref), relay.store.pending_settles) == (1, 0)


async def test_a_full_disk_before_the_commit_keeps_nothing(tmp_path: Path) -> None:
    """Invariant 5: what fails before COMMIT is certain, and is not retried item by item."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await fill(relay.store)
        with pytest.raises(StoreUnavailable, match="full") as failed:
            await relay.store.accept([relay.event(ref, body=b"x" * 200_000)])
        assert not isinstance(failed.value, CommitUnknown)
        assert not relay.store.healthy
        assert relay.store.due_count(ref) == 0
        await fill(relay.store, pages=1 << 30)
        await relay.store.ping()
        assert relay.store.healthy
        await relay.accept(ref)


async def fill(store: Store, pages: int = 1) -> None:
    """Let the database be no larger than it is."""
    await outside(store, lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))


async def test_an_io_error_stops_the_store_for_good(tmp_path: Path) -> None:
    """Invariant 5: after an I/O error at COMMIT nothing is written any more, `on_fatal` is told once, unclean."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        told: list[Exception] = []
        relay.store.on_fatal(told.append)
        gate.error = sqlite_error(sqlite3.SQLITE_IOERR | 4 << 8, "disk I/O error")
        with pytest.raises(CommitUnknown):
            await relay.accept()
        gate.error = None
        with pytest.raises(StoreUnavailable):
            await relay.accept()
        await quiet()
        assert [type(error) for error in told] == [StoreDamaged]
        late: list[Exception] = []
        relay.store.on_fatal(late.append)
        assert late == told
    assert look(tmp_path, "SELECT value FROM meta WHERE name = 'clean'") == [(0,)]


async def test_corruption_found_while_writing_is_fatal(tmp_path: Path) -> None:
    """Invariant 5: corruption reported by a statement is not blamed on an item."""
    async with opened(tmp_path) as relay:
        told: list[Exception] = []
        relay.store.on_fatal(told.append)

        def corrupt(connection: sqlite3.Connection) -> None:
            raise sqlite_error(sqlite3.SQLITE_CORRUPT)

        with pytest.raises(CommitUnknown):
            await relay.store._submit(Stage.EDIT, corrupt)
        assert len(told) == 1


async def test_a_bug_in_the_writer_stops_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 12: a dead writer thread is told, not survived in silence, and nobody waits for it for ever."""
    async with opened(tmp_path) as relay:
        told: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        relay.store.on_fatal(told.set_result)

        def broken(*arguments: object) -> None:
            raise SystemError("a bug")

        monkeypatch.setattr(relay.store._writer, "_perform", broken)
        writing = relay.store.accept([relay.event()])
        waiting = relay.store.accept([relay.event()])
        assert "a bug" in str(await told)
        with pytest.raises(CommitUnknown):  # the group it died in: nobody knows
            await writing
        with pytest.raises(StoreUnavailable):
            await waiting
        with pytest.raises(StoreUnavailable):
            await relay.accept()


async def test_a_bug_in_an_edit_fails_that_edit_alone(tmp_path: Path) -> None:
    """Invariant 3: an edit with a bug raises it to its caller and to nobody else."""
    async with opened(tmp_path) as relay:

        def broken(connection: sqlite3.Connection) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await relay.store._submit(Stage.EDIT, broken)
        await relay.accept()


async def test_what_waits_behind_an_io_error_fails_too(tmp_path: Path) -> None:
    """Invariant 5: writes that were queued when the database broke are not tried any more."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        gate.hold()
        first = relay.store.accept([relay.event()])
        await gate.reached()
        behind = relay.store.accept([relay.event()])
        after = asyncio.ensure_future(outside(relay.store, lambda connection: None))
        await quiet()
        gate.error = sqlite_error(sqlite3.SQLITE_IOERR)
        gate.let_go()
        with pytest.raises(CommitUnknown):
            await first
        with pytest.raises(StoreUnavailable, match="stopping"):
            await behind
        with pytest.raises(StoreUnavailable, match="stopping"):
            await after


async def test_a_bug_after_a_commit_keeps_nobody_waiting(tmp_path: Path) -> None:
    """H2, invariant 12: what cannot follow a commit stops the process through `on_fatal`; the others are answered."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        reported: list[Exception] = []
        relay.store.on_fatal(reported.append)

        def broken(due: object) -> None:
            raise ZeroDivisionError

        relay.store.on_promoted(broken)
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="cut")
        await relay.accept(ref, ordering_key="cut")
        gate.hold()
        holding = relay.store.accept([relay.event()])
        await gate.reached()
        settling = relay.store.settle(Settlement(first, DeliveryState.DELIVERED, relay.outcome(200)))
        editing = asyncio.ensure_future(relay.endpoint_rows())
        await quiet()
        gate.let_go()
        with pytest.raises(ZeroDivisionError):
            await settling
        await asyncio.gather(holding, editing)
        assert [type(bug) for bug in reported] == [ZeroDivisionError]


async def test_a_group_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 3: what queued up in excess of a group's size waits for the next one."""
    monkeypatch.setattr("relay.store.sqlite.writer.GROUP_JOBS", 10)
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        gate.hold()
        first = relay.store.accept([relay.event()])
        await gate.reached()
        commits = gate.commits
        rest = [relay.store.accept([relay.event()]) for _ in range(25)]
        gate.let_go()
        await asyncio.gather(first, *rest)
        assert gate.commits - commits == 3


async def test_what_one_turn_of_the_loop_submits_is_one_group(tmp_path: Path) -> None:
    """S8: writes that are submitted together share one transaction: the first does not wake the thread for itself."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        await relay.accept()
        commits = gate.commits
        gate.hold()
        writes = [relay.store.accept([relay.event()])]
        assert relay.store._writer._queue.empty()
        writes += [relay.store.accept([relay.event()]) for _ in range(200)]
        await gate.reached()
        gate.let_go()
        await asyncio.gather(*writes)
        assert gate.commits - commits == 1


async def test_a_dead_writer_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 12: what was submitted before a bug that ends the thread became known is refused, wherever it waits."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:

        def broken() -> None:
            raise SystemError("a bug")

        gate.hold()
        first = relay.store.accept([relay.event()])
        await gate.reached()
        monkeypatch.setattr(relay.store._writer, "_take", broken)
        queued = relay.store.accept([relay.event()])
        await quiet()
        gate.let_go()
        unsent = relay.store.accept([relay.event()])
        await first
        for refused in (queued, unsent):
            with pytest.raises(StoreUnavailable, match="stopping"):
                await refused


async def test_a_failure_outside_of_transactions_is_told(tmp_path: Path) -> None:
    """Invariant 3: a checkpoint that fails raises to whoever waits for it, and the writer goes on."""
    async with opened(tmp_path) as relay:
        with pytest.raises(sqlite3.OperationalError):
            await outside(relay.store, lambda connection: connection.execute("nonsense"))
        await relay.accept()


async def test_a_closed_store_refuses(tmp_path: Path) -> None:
    """Invariant 12: after closing, twice, writes and reads are refused in words."""
    async with opened(tmp_path) as relay:
        await relay.store.close()
        await relay.store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await relay.store.accept([relay.event()])
        with pytest.raises(StoreUnavailable, match="closed"):
            await relay.store.find_event("evt_1")


async def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    """Invariant 12: closing waits for every submitted write; the file is then whole without its WAL."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        writes = [relay.store.accept([relay.event(ref)]) for _ in range(50)]
        relay.store.save_health(ref, Health(failures=1))
        relay.store.save_health(ref, Health(failures=2))
        await relay.store.close()
        assert all(write.done() for write in writes)
        assert relay.store.sizes()["wal_bytes"] == 0
    assert look(tmp_path, "SELECT count(*) FROM delivery") == [(50,)]
    async with opened(tmp_path) as relay:
        assert not relay.store.facts["unclean_start"]
        assert (await relay.endpoint_rows())[0].health.failures == 2
