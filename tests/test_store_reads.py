"""The store: what attempts, lanes and people read (invariant 4, Q2, DESIGN §8)."""

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from relay.core.errors import Conflict, StoreDamaged, StoreUnavailable
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, Failure, NoDelivery, Settlement
from relay.store import DeliveryFilter, EventFilter, delivery_id, delivery_key
from relay.store.sqlite import store as facade
from relay.store.sqlite.lists import list_deliveries, list_events
from relay.store.sqlite.reads import Reader
from tests.support.stores import Relay, application, opened, sqlite_error


async def test_a_refill_reads_in_order_from_a_key(tmp_path: Path) -> None:
    """Q2: due deliveries come by (due time, event), from the key on, with their events unless they are large."""
    async with opened(tmp_path) as relay:
        ref, other = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        first, second = await relay.due(ref), await relay.due(ref, body=b"x" * 20_000)
        await relay.accept(other)
        later = (await relay.again(first, first.due_ms + 50)).due
        whole = await relay.store.refill(ref, float("-inf"), float("-inf"), 10)
        assert whole.rows == [second, later]
        assert [event.ordinal for event in whole.events] == [first.event]
        assert (await relay.store.refill(ref, second.due_ms, second.event + 1, 10)).rows == [later]
        assert (await relay.store.refill(ref, 0, 0, 1)).rows == [second]
        assert (await relay.store.refill(ref, float("inf"), 0, 1)).rows == []
        assert await relay.store.audit_due(ref, 5) == whole.rows
        large = await relay.store.read_event(second.event)
        assert large is not None
        assert large.body == b"x" * 20_000
        assert await relay.store.read_event(99) is None


async def test_an_event_comes_back_as_it_was_accepted(tmp_path: Path) -> None:
    """Invariant 6: the frozen event read later equals the one handed over after the commit."""
    async with opened(tmp_path) as relay:
        accepted = await relay.accept(expires_at_ms=relay.clock.wall_ms() + 99)
        assert await relay.store.read_event(accepted.event.ordinal) == accepted.event


async def test_deliver_at_delays(tmp_path: Path) -> None:
    """Q6: a delivery is due at `deliver_at`, and its budget counts from there."""
    async with opened(tmp_path) as relay:
        at_ms = relay.clock.wall_ms() + 500
        due = await relay.due(await relay.endpoint(), deliver_at_ms=at_ms)
        assert (due.due_ms, due.budget_from_ms) == (at_ms, at_ms)


async def test_events_are_listed_newest_first_in_pages(tmp_path: Path) -> None:
    """DESIGN §8: pages follow each other without gap or repeat, under every filter."""
    async with opened(tmp_path) as relay:
        other = await application(relay.store, "other")
        ref = await relay.endpoint()
        for number in range(12):
            changes = {"application": other} if number % 3 == 0 else {}
            targets = () if number % 2 else (ref,)
            reason = NoDelivery.NO_MATCH if number % 2 else None
            await relay.accept(*targets, type=f"t.{number % 2}", reason=reason, **changes)
            if number % 2:
                relay.clock.advance(1)
        start_ms = relay.clock.wall_ms() - 6
        everything = await pages(relay, EventFilter(), 5)
        assert [view.id for view in everything] == [f"evt_{n:06d}" for n in range(12, 0, -1)]
        assert [
            len(await pages(relay, wanted, 2))
            for wanted in (
                EventFilter(application="other"),
                EventFilter(type="t.1"),
                EventFilter(reason=NoDelivery.NO_MATCH),
                EventFilter(since_ms=start_ms + 2, until_ms=start_ms + 4),
                EventFilter(application="nobody"),
            )
        ] == [4, 6, 6, 4, 0]
        assert (await relay.store.list_events(EventFilter(), None, 1)).data[0].body is None
        assert await relay.store.find_event("evt_none") is None


async def pages(relay: Relay, wanted: EventFilter, limit: int) -> list[object]:
    found: list[object] = []
    cursor = None
    while True:
        page = await relay.store.list_events(wanted, cursor, limit)
        assert len(page.data) <= limit
        found += page.data
        cursor = page.next
        if cursor is None:
            return found


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


@pytest.mark.parametrize("few_due", [0, 10_000])
async def test_deliveries_are_listed_under_every_filter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_due: int
) -> None:
    """DESIGN §8: deliveries of the newest event first; each walk finds what a look at all rows finds."""
    monkeypatch.setattr(facade, "FEW_DUE", few_due)
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
    """DESIGN §8: a page that found too little among the rows it may look at is short and says where to go on."""
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
                reader, DeliveryFilter(type="rare", state=state), None, 5, few_due=True, examined_max=8
            )
            steps = 1
            while found.next:
                assert not found.data
                found = await list_deliveries(
                    reader, DeliveryFilter(type="rare", state=state), found.next, 5, few_due=True, examined_max=8
                )
                steps += 1
            assert (len(found.data), steps) == (1, 3)


@pytest.mark.parametrize("cursor", ["", "x", "1.2", "1.2.x", "1.2.3.4", "1.2.-3", "1.2.9999999999999999999", "١.2.3"])
async def test_a_foreign_cursor_is_refused(tmp_path: Path, cursor: str) -> None:
    """DESIGN §8: a cursor that is none of ours is a Conflict, not a crash."""
    async with opened(tmp_path) as relay:
        with pytest.raises(Conflict, match="cursor"):
            await relay.store.list_events(EventFilter(), cursor, 5)


async def test_deliveries_of_an_event(tmp_path: Path) -> None:
    """DESIGN §8: all deliveries of one event, with the ids of endpoint and application as text."""
    async with opened(tmp_path) as relay:
        refs = [await relay.endpoint("ep_1"), await relay.endpoint("ep_2")]
        accepted = await relay.accept(*refs)
        views = await relay.store.deliveries_of(accepted.event.id)
        assert [(view.endpoint, view.application) for view in views] == [("ep_1", "acme"), ("ep_2", "acme")]
        assert await relay.store.deliveries_of("evt_none") == []
        assert await relay.store.find_delivery("nonsense") is None
        assert await relay.store.find_delivery(delivery_id(DeliveryKey(999, 1))) is None


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


async def test_failures_of_an_attempt_are_kept_by_name(tmp_path: Path) -> None:
    """Invariant 11: an attempt without a response keeps its failure class."""
    async with opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        outcome = replace(relay.outcome(0), status=None, failure=Failure.TIMEOUT)
        await relay.store.settle(Settlement(due, DeliveryState.DUE, outcome, due_ms=due.due_ms))
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        assert (view.timeline[0].failure, view.timeline[0].status) == ("timeout", None)


def test_ids_of_deliveries_are_derived() -> None:
    """DESIGN §8: a delivery's id sorts as its key, names it, and nothing else does."""
    keys = [DeliveryKey(1, 2), DeliveryKey(1, 3), DeliveryKey(2, 1), DeliveryKey(1 << 59, 1 << 29)]
    names = [delivery_id(entry) for entry in keys]
    assert sorted(names) == names
    assert [delivery_key(name) for name in names] == keys
