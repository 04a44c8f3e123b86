"""The store: what is kept of events and attempts, and what callers are told (invariants 1–7, Q7, Q8, Q10, Q12)."""

import asyncio
from pathlib import Path

import pytest

from relay.core.errors import Conflict, NotFound, StoreUnavailable
from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryState,
    DueDelivery,
    Duplicate,
    HeaderPair,
    Health,
    NoDelivery,
    Settlement,
    Trace,
    Trigger,
)
from relay.store import attempt_id, delivery_id
from tests.support.stores import (
    DAY_MS,
    Engine,
    Gate,
    Kept,
    Relay,
    application,
    key,
)
from tests.support.waiting import quiet


async def state_of(relay: Relay, delivery: DueDelivery) -> DeliveryState:
    view = await relay.store.find_delivery(delivery_id(delivery.key))
    assert view is not None
    return view.state


# -- accepting --------------------------------------------------------------------------------------------------------


async def test_an_event_and_its_deliveries_are_kept(engine: Engine, tmp_path: Path) -> None:
    """Invariant 1: after the answer, the event and every delivery are in the file."""
    async with engine.opened(tmp_path) as relay:
        one, two = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        accepted = await relay.accept(one, two, metadata=b'{"k":1}')
        assert [due.endpoint for due in accepted.due] == [one, two]
        assert accepted.deliveries == 2
        await relay.store.abandon()
    async with engine.opened(tmp_path) as relay:
        view = await relay.store.find_event(accepted.event.id)
        assert view is not None
        assert (view.body, view.metadata, view.deliveries) == (accepted.event.body, b'{"k":1}', {"due": 2})
        assert (relay.store.due_count(one), relay.store.backlog) == (1, 2)


async def test_an_event_without_deliveries_keeps_its_reason(engine: Engine, tmp_path: Path) -> None:
    """Invariant 7: an event that goes nowhere is stored with the reason."""
    async with engine.opened(tmp_path) as relay:
        accepted = await relay.accept(reason=NoDelivery.NO_MATCH, reason_detail="nobody wants it")
        view = await relay.store.find_event(accepted.event.id)
        assert view is not None
        assert (view.reason, view.reason_detail, view.deliveries) == (NoDelivery.NO_MATCH, "nobody wants it", {})


async def test_what_is_queued_up_goes_in_one_transaction(engine: Engine, tmp_path: Path) -> None:
    """Invariant 3: writes that arrive while a commit runs form the next group, accepts before settles before edits."""
    gate = Gate()
    async with engine.opened(tmp_path, gate=gate) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        gate.hold()
        first = relay.store.accept([relay.event(ref)])
        await gate.reached()
        health = Health(failures=3)
        relay.store.save_health(ref, health)
        settling = relay.store.settle(Settlement(due, DeliveryState.DELIVERED, relay.outcome(200)))
        accepting = [relay.store.accept([relay.event(ref)]) for _ in range(5)]
        commits = gate.commits
        gate.let_go()
        await asyncio.gather(first, settling, *accepting)
        assert gate.commits - commits == 2 - 1  # the one held up was counted when it came
        assert (await relay.endpoint_rows())[0].health == health


async def test_a_bad_item_fails_alone(engine: Engine, tmp_path: Path) -> None:
    """Invariant 3: an item that the database refuses is retried alone and fails alone."""
    gate = Gate()
    async with engine.opened(tmp_path, gate=gate) as relay:
        ref = await relay.endpoint()
        gate.hold()
        first = relay.store.accept([relay.event(ref)])
        await gate.reached()
        good = relay.store.accept([relay.event(ref)])
        bad = relay.store.accept([relay.event(ref, reason="nonsense")])
        also_good = relay.store.accept([relay.event(ref)])
        gate.let_go()
        await asyncio.gather(first, good, also_good)
        with pytest.raises(StoreUnavailable, match="refused"):
            await bad
        assert relay.store.healthy
        assert relay.store.due_count(ref) == 3


async def test_an_edit_that_is_refused_undoes_itself_alone(engine: Engine, tmp_path: Path) -> None:
    """Invariant 3: an edit's NotFound leaves the rest of its group in place."""
    gate = Gate()
    async with engine.opened(tmp_path, gate=gate) as relay:
        ref = await relay.endpoint()
        gate.hold()
        first = relay.store.accept([relay.event(ref)])
        await gate.reached()
        refused = asyncio.ensure_future(relay.delete_endpoint("ep_99"))
        accepting = relay.store.accept([relay.event(ref)])
        await quiet()
        gate.let_go()
        with pytest.raises(NotFound):
            await refused
        await asyncio.gather(first, accepting)
        assert relay.store.due_count(ref) == 2


async def test_a_submitted_write_is_not_recalled(engine: Engine, tmp_path: Path) -> None:
    """Invariant 3: cancelling whoever waits does not take the write back, and the counts stay right."""
    gate = Gate()
    async with engine.opened(tmp_path, gate=gate) as relay:
        ref = await relay.endpoint()
        gate.hold()
        event = relay.event(ref)
        accepting = relay.store.accept([event])
        await gate.reached()
        accepting.cancel()
        gate.let_go()
        await relay.store.ping()
        assert await relay.store.find_event(event.id) is not None
        assert relay.store.due_count(ref) == 1


# -- idempotency ------------------------------------------------------------------------------------------------------


async def test_a_repeat_is_answered_with_the_first_event(engine: Engine, tmp_path: Path) -> None:
    """Q8: the same key and body is a duplicate, in the same batch and later; nothing more is stored."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        events = [relay.event(ref, idempotency=key("k")) for _ in range(3)]
        first, *repeats = await relay.store.accept(events)
        assert isinstance(first, Accepted)
        known = Duplicate(events[0].id, events[0].type, events[0].created_at_ms, 1, differs=False)
        assert repeats == [known, known]
        assert await relay.offer(relay.event(ref, idempotency=key("k"))) == known
        assert relay.store.due_count(ref) == 1


async def test_a_key_with_another_body_is_a_conflict(engine: Engine, tmp_path: Path) -> None:
    """Q8: an explicit key with another body is refused; a derived one is a duplicate that differs."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.accept(ref, idempotency=key("k"))
        refused = await relay.offer(relay.event(ref, idempotency=key("k", "other")))
        assert isinstance(refused, Conflict)
        assert refused.code == "idempotency_conflict"
        derived = await relay.offer(relay.event(ref, idempotency=key("k", "other", derived=True)))
        assert isinstance(derived, Duplicate)
        assert derived.differs


async def test_a_key_belongs_to_its_application(engine: Engine, tmp_path: Path) -> None:
    """Q8: two applications may use the same key."""
    async with engine.opened(tmp_path) as relay:
        other = await application(relay.store, "other")
        await relay.accept(idempotency=key("k"))
        await relay.accept(idempotency=key("k"), application=other)


async def test_a_given_id_is_unique(engine: Engine, tmp_path: Path) -> None:
    """Q8: a given id acts as a key; with another key, or from another application, it is taken."""
    async with engine.opened(tmp_path) as relay:
        given = relay.event(id="order-1", id_given=True, idempotency=key("id order-1"))
        first, second = await relay.store.accept([given, given])
        assert isinstance(first, Accepted)
        assert isinstance(second, Duplicate)
        assert isinstance(await relay.offer(given), Duplicate)
        other_key = await relay.offer(given._replace(idempotency=key("another")))
        assert isinstance(other_key, Conflict)
        assert other_key.code == "event_id_taken"
        assert isinstance(await relay.offer(given._replace(idempotency=key("another"), id="order-2")), Accepted)


async def test_a_refused_event_does_not_touch_its_neighbours(engine: Engine, tmp_path: Path) -> None:
    """Q8: a duplicate key is not a bad item: new, repeated and refused events of one batch are told apart."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.accept(ref, idempotency=key("old"))
        results = await relay.store.accept(
            [
                relay.event(ref),
                relay.event(ref, idempotency=key("old")),
                relay.event(ref, idempotency=key("old", "other")),
                relay.event(ref, idempotency=key("new")),
            ]
        )
        assert [type(result) for result in results] == [Accepted, Duplicate, Conflict, Accepted]
        assert relay.store.due_count(ref) == 3


async def test_a_repeat_is_known_after_pruning(engine: Engine, tmp_path: Path) -> None:
    """Q8: a repeat of an event that was pruned is still answered as a repeat, and its ordinal is never used again."""
    async with engine.opened(tmp_path) as relay:
        first = await relay.accept(idempotency=key("k"))
        relay.clock.advance(31 * DAY_MS)
        await relay.store.prune(relay.clock.wall_ms(), Kept())
        assert await relay.store.find_event(first.event.id) is None
        assert isinstance(await relay.offer(relay.event(idempotency=key("k"))), Duplicate)
        await relay.store.abandon()
        clock = relay.clock
    async with engine.opened(tmp_path, clock) as relay:
        assert (await relay.accept()).event.ordinal > first.event.ordinal


# -- overflow, order --------------------------------------------------------------------------------------------------


async def test_beyond_the_backlog_deliveries_are_dead(engine: Engine, tmp_path: Path) -> None:
    """Q10: what exceeds an endpoint's backlog is committed as dead, `overflow`, and can be retried by hand."""
    async with engine.opened(tmp_path, endpoint_backlog=2) as relay:
        full, free = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        for _ in range(2):
            await relay.accept(full)
        accepted = await relay.accept(full, free)
        assert ([due.endpoint for due in accepted.due], accepted.deliveries) == ([free], 1)
        assert (relay.store.due_count(full), relay.store.dead_count(full)) == (2, 1)
        (group,) = await relay.store.dead_groups()
        assert (group.reason, group.count) == (DeadReason.OVERFLOW, 1)
        retried = await relay.store.retry_delivery(group.newest_delivery)
        assert (retried.endpoint, relay.store.dead_count(full)) == (full, 0)


async def test_a_full_backlog_of_a_refused_batch_is_given_back(engine: Engine, tmp_path: Path) -> None:
    """Q10: what was reserved for a repeat or a failed write does not count against the backlog."""
    async with engine.opened(tmp_path, endpoint_backlog=5) as relay:
        ref = await relay.endpoint()
        for _ in range(4):
            await relay.offer(relay.event(ref, idempotency=key("k")))
            with pytest.raises(StoreUnavailable):
                await relay.store.accept([relay.event(ref, reason="nonsense")])
        assert relay.store.due_count(ref) == 1


async def test_a_later_delivery_waits_for_its_predecessor(engine: Engine, tmp_path: Path) -> None:
    """Q12: of one ordering key only the first unfinished delivery is due; its end promotes the next."""
    async with engine.opened(tmp_path) as relay:
        promoted: list[DueDelivery] = []
        relay.store.on_promoted(promoted.extend)
        ref, other = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        first = await relay.due(ref, ordering_key="cut-1")
        second, third = await relay.store.accept([relay.event(ref, ordering_key="cut-1") for _ in range(2)])
        assert isinstance(second, Accepted)
        assert isinstance(third, Accepted)
        assert (second.due, second.deliveries) == ((), 1)
        assert (await relay.accept(ref, ordering_key="cut-2")).due
        assert (await relay.accept(other, ordering_key="cut-1")).due
        await relay.again(first, first.due_ms + 5)
        assert not promoted
        await relay.dead(first)
        assert [due.event for due in promoted] == [second.event.ordinal]
        await relay.store.cancel_delivery(delivery_id(promoted[0].key), "somebody")
        assert [due.event for due in promoted] == [second.event.ordinal, third.event.ordinal]


async def test_a_manual_retry_blocks_nobody(engine: Engine, tmp_path: Path) -> None:
    """Q12: a predecessor that was retried by hand is no predecessor any more."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="cut-1")
        await relay.dead(first)
        await relay.store.retry_delivery(delivery_id(first.key))
        assert (await relay.accept(ref, ordering_key="cut-1")).due


# -- settling ---------------------------------------------------------------------------------------------------------


async def test_an_attempt_is_recorded_with_its_delivery(engine: Engine, tmp_path: Path) -> None:
    """Q7: a settlement moves the delivery and writes the attempt in one transaction; failures keep their response."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        failed = relay.outcome(
            500,
            detail="x" * 900,
            response_headers=(HeaderPair("Server", "nginx"),),
            response_body=b"no",
            address="192.0.2.1",
        )
        settled = await relay.store.settle(Settlement(due, DeliveryState.DUE, failed, due_ms=due.due_ms + 9))
        assert settled.applied
        assert settled.due == due._replace(due_ms=due.due_ms + 9, attempts=1, series_attempts=1)
        await relay.delivered(settled.due)
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        first, second = view.timeline
        assert (view.state, view.attempts, view.finished_at_ms) == (
            DeliveryState.DELIVERED,
            2,
            relay.clock.wall_ms(),
        )
        assert (first.number, first.status, first.response_body, len(first.detail)) == (1, 500, b"no", 500)
        assert (first.response_headers, first.address) == ((HeaderPair("Server", "nginx"),), "192.0.2.1")
        assert first.id == attempt_id(due.key, 1)
        assert (second.number, second.status, second.response_body) == (2, 204, None)
        assert (relay.store.due_count(ref), relay.store.pending_settles) == (0, 0)


@pytest.mark.parametrize(
    ("duration_ms", "trace"),
    [
        (0.412, Trace(None, 0.001, None, 0.25)),
        (12.5, Trace(1.25, 2.5, 8.0, 0.75, False, "TLSv1.3", True)),
        (600_000.0, Trace(first_byte_ms=599_999.999, reused=True, tls_version="TLSv1.2")),
        (7.0, None),
    ],
)
async def test_how_an_attempt_went_is_kept(
    engine: Engine, tmp_path: Path, duration_ms: float, trace: Trace | None
) -> None:
    """The timeline has each part of an attempt to the microsecond, the connection, TLS and the immediate repeat."""
    async with engine.opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        outcome = relay.outcome(204, duration_ms=duration_ms, trace=trace)
        await relay.store.settle(Settlement(due, DeliveryState.DELIVERED, outcome))
        view = await relay.store.find_delivery(delivery_id(due.key))
    assert view is not None
    (attempt,) = view.timeline or ()
    assert (attempt.duration_ms, attempt.trace) == (duration_ms, trace)


async def test_a_trace_beyond_its_columns_is_cut(engine: Engine, tmp_path: Path) -> None:
    """An hour and more, or a version of TLS that nobody knew, is stored as far as it goes: nothing stops for it."""
    async with engine.opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        trace = Trace(1e12, tls_version="TLSv9.9")
        await relay.store.settle(Settlement(due, DeliveryState.DELIVERED, relay.outcome(204, trace=trace)))
        view = await relay.store.find_delivery(delivery_id(due.key))
    assert view is not None
    (attempt,) = view.timeline or ()
    assert attempt.trace == Trace(4_294_967.294)


async def test_a_settlement_without_an_attempt_counts_none(engine: Engine, tmp_path: Path) -> None:
    """Q7: what ended unsent (expired, corrupt) has a reason and no attempt."""
    async with engine.opened(tmp_path) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        await relay.store.settle(Settlement(due, DeliveryState.DEAD, None, reason=DeadReason.CORRUPT))
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert (view.state, view.reason, view.attempts) == (DeliveryState.DEAD, DeadReason.CORRUPT, 0)
        assert view.timeline == ()
        assert relay.store.dead_count(ref) == 1


async def test_success_after_a_cancel_is_recorded(engine: Engine, tmp_path: Path) -> None:
    """Q7: a 2xx that arrives after a cancel still records `delivered`."""
    async with engine.opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        assert (await relay.delivered(due)).applied
        assert await state_of(relay, due) is DeliveryState.DELIVERED
        assert relay.store.backlog == 0


async def test_failure_after_a_cancel_leaves_it_cancelled(engine: Engine, tmp_path: Path) -> None:
    """Q7: a failure that arrives after a cancel is only recorded."""
    async with engine.opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        settled = await relay.again(due, due.due_ms + 5)
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        assert (settled.applied, settled.due) == (False, None)
        assert (view.state, view.cancelled_by, len(view.timeline)) == (DeliveryState.CANCELLED, "somebody", 1)


async def test_a_stale_series_only_records_its_attempt(engine: Engine, tmp_path: Path) -> None:
    """Q7, Q13: an attempt that outlived its series moves nothing, and attempt numbers stay distinct."""
    async with engine.opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        retried = await relay.store.retry_delivery(delivery_id(due.key))
        assert not (await relay.delivered(due)).applied
        assert (await relay.again(retried, retried.due_ms + 5)).applied
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        assert [(attempt.number, attempt.series, attempt.trigger) for attempt in view.timeline] == [
            (1, 1, Trigger.SCHEDULED),
            (2, 2, Trigger.MANUAL),
        ]


async def test_the_same_settlement_again_changes_nothing_twice(engine: Engine, tmp_path: Path) -> None:
    """Invariant 5: a settlement whose commit was unknown is submitted again and answered as the first time."""
    async with engine.opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        settlement = Settlement(due, DeliveryState.DUE, relay.outcome(500), due_ms=due.due_ms + 5)
        first = await relay.store.settle(settlement)
        assert await relay.store.settle(settlement) == first
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.attempts == 1


async def test_two_settlements_of_one_delivery_in_one_group(engine: Engine, tmp_path: Path) -> None:
    """Q7: within a group settlements apply in order, each on what the one before left."""
    gate = Gate()
    async with engine.opened(tmp_path, gate=gate) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        gate.hold()
        first = relay.store.accept([relay.event(ref)])
        await gate.reached()
        again = relay.store.settle(Settlement(due, DeliveryState.DUE, relay.outcome(500), due_ms=due.due_ms))
        done = relay.store.settle(Settlement(due, DeliveryState.DELIVERED, relay.outcome(200)))
        gate.let_go()
        await first
        assert ((await again).applied, (await done).applied) == (True, True)
        assert await state_of(relay, due) is DeliveryState.DELIVERED


async def test_responses_of_a_delivery_are_bounded(engine: Engine, tmp_path: Path) -> None:
    """Q14: at most 64 KiB of responses are kept for one delivery, the newest ones."""
    async with engine.opened(tmp_path) as relay:
        due: DueDelivery | None = await relay.due(await relay.endpoint())
        for _ in range(7):
            assert due is not None
            outcome = relay.outcome(500, response_body=b"x" * 20_000)
            due = (await relay.store.settle(Settlement(due, DeliveryState.DUE, outcome, due_ms=due.due_ms))).due
        assert due is not None
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        kept = [attempt.number for attempt in view.timeline if attempt.response_body is not None]
        assert kept == [5, 6, 7]  # four of 16 KiB and their headers are a little over


async def test_settling_what_was_pruned_is_no_error(engine: Engine, tmp_path: Path) -> None:
    """Q7: a settlement of a delivery that does not exist (any more) is simply not applied."""
    async with engine.opened(tmp_path) as relay:
        due = (await relay.due(await relay.endpoint()))._replace(event=99)
        assert not (await relay.delivered(due)).applied
        unsent = Settlement(due, DeliveryState.DEAD, None, reason=DeadReason.EXPIRED)
        assert not (await relay.store.settle(unsent)).applied
