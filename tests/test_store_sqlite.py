"""What holds of the store on SQLite alone, beside its files, plans and failures: steps, limits, and readers that cannot write."""

import asyncio
import itertools
import sqlite3
import sys
from collections.abc import Awaitable
from pathlib import Path

import pytest

from relay.core.errors import CommitUnknown, NotFound, StoreDamaged, StoreUnavailable
from relay.core.model import (
    DeadReason,
    DeliveryState,
    Health,
    Settlement,
)
from relay.store import DeliveryFilter, EventFilter, delivery_id, delivery_key
from relay.store.sqlite import opening, prune, writer
from relay.store.sqlite import store as facade
from relay.store.sqlite.lists import list_deliveries, list_events
from relay.store.sqlite.reader import Reader
from tests.support.stores import (
    DAY_MS,
    Gate,
    Kept,
    delivery_pages,
    gated,
    hasty,
    look,
    opened,
    outside,
    sqlite_error,
    sweep,
)
from tests.support.waiting import quiet


async def test_an_answer_comes_after_the_commit(tmp_path: Path) -> None:
    """Invariant 1: while the commit is held up, nobody hears of success."""
    assert await answered_before_commit(tmp_path, gated) is False


async def test_a_writer_that_answers_before_the_commit_is_caught(tmp_path: Path) -> None:
    """Negative control of invariant 1: the test above can fail, and what was acknowledged is then lost."""
    assert await answered_before_commit(tmp_path, hasty) is True


async def answered_before_commit(folder: Path, make: object) -> bool:
    """Hold a commit up, see whether its answer came, then crash; what was answered must be there afterwards."""
    gate = Gate()
    async with opened(folder, writer=make(gate)) as relay:  # type: ignore[operator]
        ref = await relay.endpoint()
        await outside(relay.store, lambda connection: None)  # a hasty writer may still be at the commit
        gate.hold()
        event = relay.event(ref)
        accepting = relay.store.accept([event])
        await gate.reached()
        await quiet()  # an answer that was sent before the commit has arrived by now
        answered = accepting.done()
        gate.error = sqlite_error(sqlite3.SQLITE_FULL)
        gate.let_go()
        await relay.store.abandon()
    async with opened(folder) as relay:
        lost = await relay.store.find_event(event.id) is None
    assert lost
    return answered


async def test_a_deleted_endpoint_loses_what_is_due_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q11: deletion marks at once and cancels step by step; its history keeps its name; the id is free again."""
    monkeypatch.setattr("relay.store.sqlite.background.CANCEL_STEP", 2)
    async with opened(tmp_path) as relay:
        ref, other = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        owed = [await relay.due(ref) for _ in range(5)]
        await relay.accept(other)
        await relay.delete_endpoint()
        while relay.store.due_count(ref):
            await relay.store.ping()
        views = [await relay.store.find_delivery(delivery_id(due.key)) for due in owed]
        assert {(view.state, view.cancelled_by, view.endpoint) for view in views if view} == {
            (DeliveryState.CANCELLED, "endpoint deleted", "ep_1")
        }
        assert relay.store.backlog == 1
        with pytest.raises(NotFound):
            await relay.delete_endpoint()
        assert await relay.endpoint("ep_1") != ref
        await relay.accept(ref)  # matched before the deletion, stored after it
        while relay.store.due_count(ref):
            await relay.store.ping()


async def test_a_deletion_goes_on_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q11: the steps of a deletion that a crash cut short are taken after the restart."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref = await relay.endpoint()
        await relay.due(ref)
        deleting = asyncio.ensure_future(relay.delete_endpoint())
        await asyncio.wait({deleting})
        gate.error = sqlite_error(sqlite3.SQLITE_FULL)  # the step that cancels may have been committed, or never is
        await relay.store.abandon()
    async with opened(tmp_path) as relay:
        while relay.store.due_count(ref):
            await relay.store.ping()
        assert look_at_states(await relay.store.list_deliveries(DeliveryFilter(), None, 10)) == ["cancelled"]


async def test_a_deletion_step_that_fails_is_taken_again(tmp_path: Path) -> None:
    """Q11: a full disk only delays a deletion, and the health that could not be written."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref, other = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        await relay.due(ref)
        gate.hold()
        deleting = asyncio.ensure_future(relay.delete_endpoint())
        await gate.reached()
        gate.fail_from(2, sqlite_error(sqlite3.SQLITE_FULL))
        gate.let_go()
        await deleting
        relay.store.save_health(other, Health(failures=4))
        with pytest.raises(CommitUnknown):
            await relay.store.ping()
        assert relay.store.due_count(ref) == 1
        gate.error = None
        while relay.store.due_count(ref):
            await relay.store.ping()
        assert (await relay.endpoint_rows())[0].health.failures == 4


async def test_only_finished_events_are_pruned(tmp_path: Path) -> None:
    """Q14: an event goes without due deliveries and `retention` after its last final state, with all that hangs on it."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        finished = await relay.due(ref)
        await relay.delivered(finished)
        late = await relay.due(ref)
        await relay.dead(await relay.due(ref))
        waiting = await relay.due(ref)
        relay.clock.advance(20 * DAY_MS)
        await relay.delivered(late)
        relay.clock.advance(11 * DAY_MS)
        assert await sweep(relay) == [(2, 2, 0, 0)]  # their attempts went with them
        assert relay.store.dead_count(ref) == 0
        assert (await relay.store.find_delivery(delivery_id(waiting.key))) is not None
        assert (await relay.store.find_delivery(delivery_id(late.key))) is not None
        relay.clock.advance(20 * DAY_MS)
        assert (await sweep(relay))[0][0] == 1
    assert look(tmp_path, "SELECT count(*) FROM attempt") == [(0,)]


def test_steps_of_pruning_grow_and_shrink_with_the_time_they_take(tmp_path: Path) -> None:
    """S6: a step that keeps the writer too long is followed by one half as large, a short one by one twice as large."""
    lock = opening.prepare(tmp_path / "relay.db")
    connection, _ = opening.open_writer(opening.StoreSettings(path=tmp_path / "relay.db"))
    times_ms = itertools.chain([0, 0, 0, 0, 0, 9, 10, 19, 20, 29], itertools.repeat(30))
    pruner = prune.Pruner(lambda: float(next(times_ms)))
    sizes = []
    for _ in range(6):
        pruner.step(connection, 0, Kept(), 100)
        sizes.append(pruner._size)
    assert sizes == [2 * prune.STEP_MIN, 100, 50, prune.STEP_MIN, prune.STEP_MIN, 2 * prune.STEP_MIN]
    connection.close()
    lock.close()


async def test_attempts_go_before_their_events(tmp_path: Path) -> None:
    """Q14: attempts and responses have a shorter life; the delivery remembers how many there were."""
    async with opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        outcome = relay.outcome(500, response_body=b"no")
        await relay.store.settle(Settlement(due, DeliveryState.DEAD, outcome, reason=DeadReason.GONE))
        relay.clock.advance(15 * DAY_MS)
        assert await sweep(relay) == [(0, 0, 1, 0)]
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert (view.attempts, view.timeline) == (1, ())
    assert look(tmp_path, "SELECT count(*) FROM response") == [(0,)]


@pytest.mark.parametrize("few", [0, 10_000])
async def test_deliveries_are_listed_under_every_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Deliveries of the newest event first; each walk finds what a look at all rows finds."""
    monkeypatch.setattr(facade, "FEW", few)
    async with opened(tmp_path) as relay:
        one, two = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        for number in range(9):
            first, second = (await relay.accept(one, two, type=f"t.{number % 2}")).due
            if number % 3 == 0:
                await relay.dead(first, DeadReason.GONE if number % 2 else DeadReason.EXHAUSTED)
            if number % 3 == 1:
                await relay.delivered(first)
            if number % 4 == 0:
                await relay.store.cancel_delivery(delivery_id(second.key), "somebody")
        whole = await relay.store.list_deliveries(DeliveryFilter(), None, 100)
        assert len(whole.data) == 18
        assert whole.next is None
        keys = [delivery_key(view.id) for view in whole.data]
        assert keys == sorted(keys, reverse=True)
        middle_ms = whole.data[9].created_at_ms
        for wanted, holds in {
            DeliveryFilter(): lambda view: True,
            DeliveryFilter(endpoint="ep_2"): lambda view: view.endpoint == "ep_2",
            DeliveryFilter(application="acme", type="t.1"): lambda view: view.event_type == "t.1",
            DeliveryFilter(application="other"): lambda view: False,
            DeliveryFilter(reason=DeadReason.GONE): lambda view: view.reason is DeadReason.GONE,
            DeliveryFilter(since_ms=middle_ms): lambda view: view.created_at_ms >= middle_ms,
            DeliveryFilter(until_ms=middle_ms): lambda view: view.created_at_ms < middle_ms,
            DeliveryFilter(since_ms=middle_ms - 1, until_ms=middle_ms + 1): lambda view: (
                middle_ms - 1 <= view.created_at_ms <= middle_ms
            ),
            DeliveryFilter(reason=DeadReason.GONE, since_ms=middle_ms): lambda view: (
                view.reason is DeadReason.GONE and view.created_at_ms >= middle_ms
            ),
            DeliveryFilter(state=DeliveryState.DEAD, until_ms=middle_ms): lambda view: (
                view.state is DeliveryState.DEAD and view.created_at_ms < middle_ms
            ),
            DeliveryFilter(state=DeliveryState.DUE, endpoint="ep_1"): lambda view: (
                view.state is DeliveryState.DUE and view.endpoint == "ep_1"
            ),
            DeliveryFilter(state=DeliveryState.CANCELLED): lambda view: view.state is DeliveryState.CANCELLED,
        }.items():
            assert await delivery_pages(relay, wanted, 2) == [view.id for view in whole.data if holds(view)]


async def test_a_page_looks_at_a_bounded_number_of_rows(tmp_path: Path) -> None:
    """A page that found too little among the rows it may look at is short and says where to go on."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.dead(await relay.due(ref, type="rare"))
        for _ in range(20):
            await relay.dead(await relay.due(ref))
        reader = relay.store._people
        page = await list_events(reader, EventFilter(type="rare"), None, 5, examined_max=8)
        seen = [len(page.data)]
        while page.next:
            page = await list_events(reader, EventFilter(type="rare"), page.next, 5, examined_max=8)
            seen.append(len(page.data))
        assert seen == [0, 0, 1]
        for state in (None, DeliveryState.DEAD):
            found = await list_deliveries(
                reader, DeliveryFilter(type="rare", state=state), None, 5, few=(), examined_max=8
            )
            steps = 1
            while found.next:
                assert not found.data
                found = await list_deliveries(
                    reader, DeliveryFilter(type="rare", state=state), found.next, 5, few=(), examined_max=8
                )
                steps += 1
            assert (len(found.data), steps) == (1, 3)


async def test_a_slow_read_is_stopped(tmp_path: Path) -> None:
    """Invariant 4: a read over its time limit is interrupted, and the connection serves the next one."""
    async with opened(tmp_path, read_timeout_ms=20) as relay:
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
        with pytest.raises(StoreUnavailable, match="Narrow"):
            await relay.store._people.fetch(endless)
        assert await relay.store._people.fetch("SELECT 1") == [(1,)]


async def test_a_cancelled_read_frees_its_connection(tmp_path: Path) -> None:
    """Invariant 4: when whoever reads is cancelled, the statement stops too."""
    async with opened(tmp_path, read_timeout_ms=600_000) as relay:
        reader = relay.store._people
        began = asyncio.Event()
        loop = asyncio.get_running_loop()
        await reader._connection.create_function("began", 0, lambda: loop.call_soon_threadsafe(began.set) and None)
        endless = "WITH RECURSIVE n(i) AS (SELECT began() UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
        reading = asyncio.ensure_future(reader.fetch(endless))
        await began.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await reader.fetch("SELECT 1") == [(1,)]


async def test_readers_cannot_write(tmp_path: Path) -> None:
    """Invariant 2: a reading connection refuses to write."""
    async with opened(tmp_path) as relay:
        for reader in relay.store._readers:
            with pytest.raises(StoreUnavailable, match="readonly"):
                await reader.fetch("UPDATE meta SET value = 5")


async def test_one_connection_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: of all connections that a store opens, also after a crash, one may write; those that read are seen too."""
    async with opened(tmp_path) as relay:
        await relay.accept()
        await relay.store.abandon()
    targets: list[str] = []
    connect = sqlite3.connect

    def noting(target: object, *arguments: object, **options: object) -> sqlite3.Connection:
        targets.append(str(target))
        return connect(target, *arguments, **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(sqlite3, "connect", noting)
    async with opened(tmp_path) as relay:
        assert relay.store.facts["unclean_start"]
        assert await relay.store.find_event("evt_1") is None
    assert [target for target in targets if "mode=ro" not in target] == [str(tmp_path / "relay.db")]
    assert len(targets) > 2


async def test_corruption_found_while_reading_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 5: corruption that a reader finds stops the process too."""
    async with opened(tmp_path) as relay:
        told: list[StoreDamaged] = []
        relay.store.on_fatal(told.append)

        async def corrupt(self: Reader, *arguments: object) -> list[object]:
            raise sqlite_error(sqlite3.SQLITE_CORRUPT)

        monkeypatch.setattr(Reader, "_fetch_all", corrupt)
        with pytest.raises(StoreUnavailable):
            await relay.store.find_event("evt_1")
        assert len(told) == 1


def look_at_states(page: object) -> list[str]:
    return [view.state.value for view in page.data]  # type: ignore[attr-defined]


async def test_a_crowd_of_large_events_keeps_a_small_one_waiting_for_one_group(tmp_path: Path) -> None:
    """I8: events of very many rows are written a few at a time; an edit still comes after what was submitted before it."""
    assert await written_in_order(tmp_path) == (["small", *["large"] * 5, "edit"], 3)


async def test_a_writer_without_such_a_bound_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of I8: where no event counts as large, the small one waits for all that came before it."""
    monkeypatch.setattr(writer, "LARGE_ROWS", sys.maxsize)
    assert await written_in_order(tmp_path) == ([*["large"] * 5, "small", "edit"], 1)


async def written_in_order(folder: Path) -> tuple[list[str], int]:
    """Submit large batches, an event and an edit while a commit is held up; in which order they are answered, in how many groups."""
    gate = Gate()
    answered: list[str] = []
    async with opened(folder, writer=gated(gate)) as relay:
        ref = await relay.endpoint()

        def submit(name: str, work: Awaitable[object]) -> asyncio.Future[object]:
            future = asyncio.ensure_future(work)
            future.add_done_callback(lambda _: answered.append(name))
            return future

        gate.hold()
        first = asyncio.ensure_future(relay.store.ping())
        await gate.reached()
        events = writer.GROUP_ROWS // 4 - 1  # each of them has one delivery: two batches fill a group
        large = [relay.store.accept([relay.event(ref) for _ in range(events)]) for _ in range(5)]
        under_way = [submit("large", batch) for batch in large]
        under_way += [submit("small", relay.store.accept([relay.event(ref)])), submit("edit", relay.endpoint("ep_2"))]
        await quiet()
        commits = gate.commits
        gate.let_go()
        await asyncio.gather(first, *under_way)
        await quiet()
        return answered, gate.commits - commits
