"""The store: what attempts, lanes and people read (invariant 4, Q2)."""

from pathlib import Path

import pytest

from relay.core.errors import Conflict
from relay.core.model import DeliveryKey, DeliveryState, Failure, NoDelivery, Settlement
from relay.store import EventFilter, delivery_id, delivery_key
from tests.support.stores import Engine, Relay, application


async def test_a_refill_reads_in_order_from_a_key(engine: Engine, tmp_path: Path) -> None:
    """Q2: due deliveries come by (due time, event), from the key on, with their events unless they are large."""
    async with engine.opened(tmp_path) as relay:
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


async def test_an_event_comes_back_as_it_was_accepted(engine: Engine, tmp_path: Path) -> None:
    """Invariant 6: the frozen event read later equals the one handed over after the commit."""
    async with engine.opened(tmp_path) as relay:
        accepted = await relay.accept(expires_at_ms=relay.clock.wall_ms() + 99)
        assert await relay.store.read_event(accepted.event.ordinal) == accepted.event


async def test_deliver_at_delays(engine: Engine, tmp_path: Path) -> None:
    """Q6: a delivery is due at `deliver_at`, and its budget counts from there."""
    async with engine.opened(tmp_path) as relay:
        at_ms = relay.clock.wall_ms() + 500
        due = await relay.due(await relay.endpoint(), deliver_at_ms=at_ms)
        assert (due.due_ms, due.budget_from_ms) == (at_ms, at_ms)


async def test_events_are_listed_newest_first_in_pages(engine: Engine, tmp_path: Path) -> None:
    """Pages follow each other without gap or repeat, under every filter."""
    async with engine.opened(tmp_path) as relay:
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


@pytest.mark.parametrize("cursor", ["", "x", "1.2", "1.2.x", "1.2.3.4", "1.2.-3", "1.2.9999999999999999999", "١.2.3"])
async def test_a_foreign_cursor_is_refused(engine: Engine, tmp_path: Path, cursor: str) -> None:
    """A cursor that is none of ours is a Conflict, not a crash."""
    async with engine.opened(tmp_path) as relay:
        with pytest.raises(Conflict, match="cursor"):
            await relay.store.list_events(EventFilter(), cursor, 5)


async def test_deliveries_of_an_event(engine: Engine, tmp_path: Path) -> None:
    """All deliveries of one event, with the ids of endpoint and application as text."""
    async with engine.opened(tmp_path) as relay:
        refs = [await relay.endpoint("ep_1"), await relay.endpoint("ep_2")]
        accepted = await relay.accept(*refs)
        views = await relay.store.deliveries_of(accepted.event.id)
        assert [(view.endpoint, view.application) for view in views] == [("ep_1", "acme"), ("ep_2", "acme")]
        assert await relay.store.deliveries_of("evt_none") == []
        assert await relay.store.find_delivery("nonsense") is None
        assert await relay.store.find_delivery(delivery_id(DeliveryKey(999, 1))) is None


async def test_failures_of_an_attempt_are_kept_by_name(engine: Engine, tmp_path: Path) -> None:
    """Invariant 11: an attempt without a response keeps its failure class."""
    async with engine.opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        outcome = relay.outcome(0)._replace(status=None, failure=Failure.TIMEOUT)
        await relay.store.settle(Settlement(due, DeliveryState.DUE, outcome, due_ms=due.due_ms))
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        assert (view.timeline[0].failure, view.timeline[0].status) == ("timeout", None)


def test_ids_of_deliveries_are_derived() -> None:
    """A delivery's id sorts as its key, names it, and nothing else does."""
    keys = [DeliveryKey(1, 2), DeliveryKey(1, 3), DeliveryKey(2, 1), DeliveryKey(1 << 59, 1 << 29)]
    names = [delivery_id(entry) for entry in keys]
    assert sorted(names) == names
    assert [delivery_key(name) for name in names] == keys
