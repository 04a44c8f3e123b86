"""The SQLite store when its file, its WAL or a commit is not what it should be (invariants 5 and 12)."""

import asyncio
import gc
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from relay.core.errors import AlreadyRunning, CommitUnknown, StoreDamaged, StoreMoved, StoreUnavailable
from relay.core.model import Accepted, DeliveryState, DueDelivery, Duplicate, Settlement
from relay.store.sqlite.writer import Writer
from tests.support.stores import Gate, Relay, gated, key, opened, sqlite_error
from tests.support.waiting import quiet


class Kept(Writer):
    """A writer whose commits are kept although they report an error, while `doubtful` is set."""

    doubtful = False

    def commit(self, connection: sqlite3.Connection) -> None:
        super().commit(connection)
        if Kept.doubtful:
            raise sqlite_error(sqlite3.SQLITE_FULL, "reported, but kept")


async def in_doubt(write: Callable[[], "asyncio.Future[object]"]) -> None:
    """Make a write whose commit reports an error and is kept."""
    Kept.doubtful = True
    try:
        with pytest.raises(CommitUnknown):
            await write()
    finally:
        Kept.doubtful = False


async def mended(relay: Relay) -> None:
    """Let the writer work again, as housekeeping does, and wait until the counts are read."""
    await relay.store.ping()
    await relay.store.ping()
    assert relay.store.healthy


# -- commits in doubt -------------------------------------------------------------------------------------------------


async def test_what_a_failed_commit_kept_is_counted(tmp_path: Path) -> None:
    """H3: after a commit that reported an error and was kept, the counts are those of the database."""
    async with opened(tmp_path, writer=Kept) as relay:
        ref, quiet = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        event = relay.event(ref, idempotency=key("k"))
        await in_doubt(lambda: relay.store.accept([event]))
        assert relay.store.due_count(ref) == 0  # nobody knows
        await mended(relay)
        assert (relay.store.due_count(ref), relay.store.due_count(quiet), relay.store.backlog) == (1, 0, 1)
        assert isinstance(await relay.offer(event), Duplicate)
        assert relay.store.due_count(ref) == 1
        assert await relay.store.endpoints_with_due() == [ref]


async def test_a_settlement_in_doubt_is_counted_once(tmp_path: Path) -> None:
    """H3: a settlement that is submitted again after a commit in doubt changes neither row nor counts twice."""
    async with opened(tmp_path, writer=Kept) as relay:
        ref = await relay.endpoint()
        first, second = await relay.due(ref), await relay.due(ref)
        settlement = Settlement(first, DeliveryState.DELIVERED, relay.outcome(200), keep_response=False)
        await in_doubt(lambda: relay.store.settle(settlement))
        assert (await relay.store.settle(settlement)).applied  # again, before the counts were read anew
        await mended(relay)
        assert relay.store.due_count(ref) == 1
        assert (await relay.store.settle(settlement)).applied  # and once more, after it
        assert (relay.store.due_count(ref), relay.store.backlog) == (1, 1)
        await relay.delivered(second)
        assert (relay.store.due_count(ref), relay.store.backlog) == (0, 0)


async def test_what_is_being_stored_stays_counted_when_counts_are_read_anew(tmp_path: Path) -> None:
    """H3: events that wait for their commit while the counts are read are neither lost nor counted twice."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref = await relay.endpoint()
        gate.fail_from(1, sqlite_error(sqlite3.SQLITE_FULL))
        with pytest.raises(CommitUnknown):
            await relay.store.accept([relay.event(ref)])
        gate.error = None
        gate.hold()
        pinging = asyncio.ensure_future(relay.store.ping())
        await gate.reached()
        accepting = [relay.store.accept([relay.event(ref)]) for _ in range(3)]
        assert relay.store.due_count(ref) == 3
        gate.let_go()
        await asyncio.gather(pinging, *accepting)
        await mended(relay)
        assert (relay.store.due_count(ref), relay.store.backlog) == (3, 3)


async def test_endpoints_with_due_rows_are_found_without_the_counts(tmp_path: Path) -> None:
    """H3: the audit asks the database, by one seek for each endpoint, and trusts nothing in memory."""
    async with opened(tmp_path) as relay:
        refs = [await relay.endpoint(f"ep_{number}") for number in range(4)]
        for ref in refs[1:]:
            await relay.due(ref)
        await relay.delivered(await relay.due(refs[0]))
        assert await relay.store.endpoints_with_due() == refs[1:]


# -- a queue with an end, reads that nobody waits for ----------------------------------------------------------------------


async def test_the_writers_queue_has_an_end_in_bytes(tmp_path: Path) -> None:
    """H9: more events than `queue_bytes` are refused with a remedy while others wait; settles are always taken."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate), queue_bytes=100_000) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        gate.hold()
        waiting = [relay.store.accept([relay.event(ref, body=b"x" * 60_000)])]
        with pytest.raises(StoreUnavailable, match="wait to be written") as refused:
            await relay.store.accept([relay.event(ref, body=b"x" * 60_000)])
        assert refused.value.remedy
        assert relay.store.healthy
        settling = relay.store.settle(Settlement(due, DeliveryState.DELIVERED, relay.outcome(200)))
        await gate.reached()
        gate.let_go()
        await asyncio.gather(settling, *waiting)
        assert relay.store.due_count(ref) == 1
        await relay.accept(ref, body=b"x" * 200_000)  # alone it is never too large


async def test_a_cancelled_read_leaves_nothing_behind(tmp_path: Path) -> None:
    """H9: cancelling whoever waits for a read ends the statement, and its error is nobody's."""
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    async with opened(tmp_path) as relay:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
        reading = asyncio.ensure_future(relay.store._people.fetch(endless))
        await quiet()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await relay.store.find_event("evt_1") is None
    gc.collect()
    assert reported == []


# -- the file -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("deed", ["removed", "renamed", "replaced"])
async def test_a_database_that_is_moved_away_is_noticed(tmp_path: Path, deed: str, suffix: str) -> None:
    """H14: a file or WAL that is not the one that was opened stops the process with a sentence, and nothing is taken."""
    async with opened(tmp_path) as relay:
        fatal: list[Exception] = []
        relay.store.on_fatal(fatal.append)
        await relay.accept()
        assert relay.store.upkeep() == ""
        assert fatal == []
        path = tmp_path / f"relay.db{suffix}"
        if deed == "removed":
            path.unlink()
        else:
            path.rename(tmp_path / "elsewhere")
        if deed == "replaced":
            path.write_bytes((tmp_path / "elsewhere").read_bytes())
        relay.store.upkeep()
        assert [type(error) for error in fatal] == [StoreMoved]
        assert isinstance(fatal[0], StoreDamaged)
        assert "not the file that was opened" in str(fatal[0])
        assert fatal[0].exit_code == 78  # a restart by itself would begin with an empty database
        assert not relay.store.healthy
        with pytest.raises(StoreUnavailable):
            await relay.accept()
        relay.store.upkeep()
        assert len(fatal) == 1


async def test_a_commit_under_way_does_not_mend_a_database_that_moved(tmp_path: Path) -> None:
    """H14: a group that was being committed when the file went does not open intake again."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        gate.hold()
        accepting = relay.store.accept([relay.event()])
        await gate.reached()
        os.rename(tmp_path / "relay.db", tmp_path / "elsewhere")
        relay.store.upkeep()
        gate.let_go()
        await asyncio.wait([accepting])
        assert accepting.exception() is None
        assert not relay.store.healthy


async def test_an_unclean_start_builds_upon_no_wal(tmp_path: Path) -> None:
    """H19: what a crash left in the WAL is folded into the file whole before anything is written."""
    async with opened(tmp_path) as relay:
        events = [await relay.accept(body=b"x" * 20_000) for _ in range(20)]
        left = relay.store.sizes()["wal_bytes"]
        await relay.store.abandon()
    async with opened(tmp_path) as relay:
        assert relay.store.facts["unclean_start"]
        assert left > 20 * 20_000
        assert relay.store.sizes()["wal_bytes"] < left / 10
        for event in events:
            assert await relay.store.find_event(event.event.id) is not None


async def test_an_unclean_start_waits_for_no_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H19: a foreign reader that keeps the WAL from being folded stops the start, in words and for a while (75)."""
    monkeypatch.setattr("relay.store.sqlite.opening.BUSY_TIMEOUT_MS", 0)
    async with opened(tmp_path) as relay:
        await relay.accept()
        await relay.store.abandon()
    with closing(reader(tmp_path)):
        with pytest.raises(AlreadyRunning, match="reading") as refused:
            async with opened(tmp_path):
                pass
        assert (refused.value.exit_code, bool(refused.value.remedy)) == (75, True)
    async with opened(tmp_path):
        pass


def reader(folder: Path) -> sqlite3.Connection:
    """Be another program that reads an old state of the database."""
    connection = sqlite3.connect(folder / "relay.db", isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM event").fetchone()
    return connection


async def test_a_grown_wal_shrinks_when_its_reader_is_gone(tmp_path: Path) -> None:
    """H20: a long foreign reader lets the WAL grow, which is said; when it is gone the WAL shrinks by itself."""
    async with opened(tmp_path, wal_max_bytes=1 << 20, checkpoint_pages=100) as relay:
        await relay.accept()
        with closing(reader(tmp_path)):
            for _ in range(40):
                await relay.accept(body=b"x" * 60_000)
            assert relay.store.sizes()["wal_bytes"] > 2 << 20
            assert await tried(relay) == ""  # once may have been a reader of our own
            assert "WAL cannot shrink" in await tried(relay)
            assert relay.store.healthy
            await relay.accept()
        await tried(relay)
        assert relay.store.sizes()["wal_bytes"] == 0
        assert await tried(relay) == ""


async def tried(relay: Relay) -> str:
    """Let one round of upkeep do what it can; return what hindered it."""
    relay.clock.advance(10_000)
    relay.store.upkeep()
    await relay.store.ping()
    await relay.store.ping()
    return relay.store.upkeep()


async def test_accepted_is_what_the_file_holds(tmp_path: Path) -> None:
    """H3, negative control: the writer of these tests keeps what it reports as failed."""
    async with opened(tmp_path, writer=Kept) as relay:
        event = relay.event(await relay.endpoint())
        await in_doubt(lambda: relay.store.accept([event]))
        assert await relay.store.find_event(event.id) is not None
        assert isinstance(await relay.offer(relay.event()), Accepted)
        assert isinstance((await relay.store.refill(1, 0, 0, 5)).rows[0], DueDelivery)
