"""The store: what is kept, what callers are told, and what happens when something fails (invariants 1–7, Q7–Q14)."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from relay.errors import CommitUnknown, ConfigError, Conflict, NotFound, StoreDamaged, StoreUnavailable
from relay.model import (
    Accepted,
    DeadReason,
    DeliveryKey,
    DeliveryState,
    DisabledBy,
    DueDelivery,
    Duplicate,
    EndpointState,
    Failure,
    HeaderPair,
    Health,
    NoDelivery,
    Secret,
    Settlement,
    Trigger,
)
from relay.store import DeliveryFilter, EventFilter, Store, attempt_id, delivery_id, delivery_key
from relay.store import store as facade
from relay.store.lists import list_deliveries, list_events
from relay.store.reader import Reader
from relay.store.writer import Job, Stage
from tests.support.stores import Gate, Relay, gated, hasty, key, look, opened, sqlite_error

DAY_MS = 86_400_000


class Kept(NamedTuple):
    """A retention, as the configuration has it."""

    events_ms: int = 30 * DAY_MS
    attempts_ms: int = 14 * DAY_MS
    idempotency_ms: int = 90 * DAY_MS


async def state_of(relay: Relay, delivery: DueDelivery) -> DeliveryState:
    view = await relay.store.find_delivery(delivery_id(delivery.key))
    assert view is not None
    return view.state


# -- accepting --------------------------------------------------------------------------------------------------------


async def test_an_event_and_its_deliveries_are_kept(tmp_path: Path) -> None:
    """Invariant 1: after the answer, the event and every delivery are in the file."""
    async with opened(tmp_path) as relay:
        one, two = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        accepted = await relay.accept(one, two, metadata=b'{"k":1}')
        assert [due.endpoint for due in accepted.due] == [one, two]
        assert accepted.deliveries == 2
        await relay.store.abandon()
    async with opened(tmp_path) as relay:
        view = await relay.store.find_event(accepted.event.id)
        assert view is not None
        assert (view.body, view.metadata, view.deliveries) == (accepted.event.body, b'{"k":1}', {"due": 2})
        assert (relay.store.due_count(one), relay.store.backlog) == (1, 2)


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
        await asyncio.sleep(0)  # an answer that was sent before the commit has arrived by now
        answered = accepting.done()
        gate.error = sqlite_error(sqlite3.SQLITE_FULL)
        gate.let_go()
        await relay.store.abandon()
    async with opened(folder) as relay:
        lost = await relay.store.find_event(event.id) is None
    assert lost
    return answered


async def test_an_event_without_deliveries_keeps_its_reason(tmp_path: Path) -> None:
    """Invariant 7: an event that goes nowhere is stored with the reason."""
    async with opened(tmp_path) as relay:
        accepted = await relay.accept(reason=NoDelivery.NO_MATCH, reason_detail="nobody wants it")
        view = await relay.store.find_event(accepted.event.id)
        assert view is not None
        assert (view.reason, view.reason_detail, view.deliveries) == (NoDelivery.NO_MATCH, "nobody wants it", {})


async def test_what_is_queued_up_goes_in_one_transaction(tmp_path: Path) -> None:
    """Invariant 3: writes that arrive while a commit runs form the next group, accepts before settles before edits."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
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
        assert (await relay.store.load_endpoints())[0].health == health


async def test_a_bad_item_fails_alone(tmp_path: Path) -> None:
    """Invariant 3: an item that the database refuses is retried alone and fails alone."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
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


async def test_an_edit_that_is_refused_undoes_itself_alone(tmp_path: Path) -> None:
    """Invariant 3: an edit's NotFound leaves the rest of its group in place."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref = await relay.endpoint()
        gate.hold()
        first = relay.store.accept([relay.event(ref)])
        await gate.reached()
        refused = asyncio.ensure_future(relay.store.delete_endpoint(99))
        accepting = relay.store.accept([relay.event(ref)])
        await asyncio.sleep(0)
        gate.let_go()
        with pytest.raises(NotFound):
            await refused
        await asyncio.gather(first, accepting)
        assert relay.store.due_count(ref) == 2


async def test_a_submitted_write_is_not_recalled(tmp_path: Path) -> None:
    """Invariant 3: cancelling whoever waits does not take the write back, and the counts stay right."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
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


async def test_a_repeat_is_answered_with_the_first_event(tmp_path: Path) -> None:
    """Q8: the same key and body is a duplicate, in the same batch and later; nothing more is stored."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        events = [relay.event(ref, idempotency=key("k")) for _ in range(3)]
        first, *repeats = await relay.store.accept(events)
        assert isinstance(first, Accepted)
        known = Duplicate(events[0].id, events[0].type, events[0].created_at_ms, 1, differs=False)
        assert repeats == [known, known]
        assert await relay.offer(relay.event(ref, idempotency=key("k"))) == known
        assert relay.store.due_count(ref) == 1


async def test_a_key_with_another_body_is_a_conflict(tmp_path: Path) -> None:
    """Q8: an explicit key with another body is refused; a derived one is a duplicate that differs."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        await relay.accept(ref, idempotency=key("k"))
        refused = await relay.offer(relay.event(ref, idempotency=key("k", "other")))
        assert isinstance(refused, Conflict)
        assert refused.code == "idempotency_conflict"
        derived = await relay.offer(relay.event(ref, idempotency=key("k", "other", derived=True)))
        assert isinstance(derived, Duplicate)
        assert derived.differs


async def test_a_key_belongs_to_its_application(tmp_path: Path) -> None:
    """Q8: two applications may use the same key."""
    async with opened(tmp_path) as relay:
        other = (await relay.store.sync_applications(["other"]))["other"]
        await relay.accept(idempotency=key("k"))
        await relay.accept(idempotency=key("k"), application=other)


async def test_a_given_id_is_unique(tmp_path: Path) -> None:
    """Q8: a given id acts as a key; with another key, or from another application, it is taken."""
    async with opened(tmp_path) as relay:
        given = relay.event(id="order-1", id_given=True, idempotency=key("id order-1"))
        first, second = await relay.store.accept([given, given])
        assert isinstance(first, Accepted)
        assert isinstance(second, Duplicate)
        assert isinstance(await relay.offer(given), Duplicate)
        other_key = await relay.offer(replace(given, idempotency=key("another")))
        assert isinstance(other_key, Conflict)
        assert other_key.code == "event_id_taken"
        assert isinstance(await relay.offer(replace(given, idempotency=key("another"), id="order-2")), Accepted)


async def test_a_refused_event_does_not_touch_its_neighbours(tmp_path: Path) -> None:
    """Q8: a duplicate key is not a bad item: new, repeated and refused events of one batch are told apart."""
    async with opened(tmp_path) as relay:
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


async def test_a_repeat_is_known_after_pruning(tmp_path: Path) -> None:
    """Q8: a repeat of an event that was pruned is still answered as a repeat, and its ordinal is never used again."""
    async with opened(tmp_path) as relay:
        first = await relay.accept(idempotency=key("k"))
        relay.clock.advance(31 * DAY_MS)
        await relay.store.prune(relay.clock.wall_ms(), Kept())
        assert await relay.store.find_event(first.event.id) is None
        assert isinstance(await relay.offer(relay.event(idempotency=key("k"))), Duplicate)
        await relay.store.abandon()
        clock = relay.clock
    async with opened(tmp_path, clock) as relay:
        assert (await relay.accept()).event.ordinal > first.event.ordinal


# -- overflow, order --------------------------------------------------------------------------------------------------


async def test_beyond_the_backlog_deliveries_are_dead(tmp_path: Path) -> None:
    """Q10: what exceeds an endpoint's backlog is committed as dead, `overflow`, and can be retried by hand."""
    async with opened(tmp_path, endpoint_backlog=2) as relay:
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


async def test_a_full_backlog_of_a_refused_batch_is_given_back(tmp_path: Path) -> None:
    """Q10: what was reserved for a repeat or a failed write does not count against the backlog."""
    async with opened(tmp_path, endpoint_backlog=5) as relay:
        ref = await relay.endpoint()
        for _ in range(4):
            await relay.offer(relay.event(ref, idempotency=key("k")))
            with pytest.raises(StoreUnavailable):
                await relay.store.accept([relay.event(ref, reason="nonsense")])
        assert relay.store.due_count(ref) == 1


async def test_a_later_delivery_waits_for_its_predecessor(tmp_path: Path) -> None:
    """Q12: of one ordering key only the first unfinished delivery is due; its end promotes the next."""
    async with opened(tmp_path) as relay:
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


async def test_a_manual_retry_blocks_nobody(tmp_path: Path) -> None:
    """Q12: a predecessor that was retried by hand is no predecessor any more."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="cut-1")
        await relay.dead(first)
        await relay.store.retry_delivery(delivery_id(first.key))
        assert (await relay.accept(ref, ordering_key="cut-1")).due


# -- settling ---------------------------------------------------------------------------------------------------------


async def test_an_attempt_is_recorded_with_its_delivery(tmp_path: Path) -> None:
    """Q7: a settlement moves the delivery and writes the attempt in one transaction; failures keep their response."""
    async with opened(tmp_path) as relay:
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
        assert settled.due == replace(due, due_ms=due.due_ms + 9, attempts=1, series_attempts=1)
        await relay.delivered(settled.due)
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        first, second = view.timeline
        assert (view.state, view.attempts, view.finished_at_ms) == (DeliveryState.DELIVERED, 2, relay.clock.wall_ms())
        assert (first.number, first.status, first.response_body, len(first.detail)) == (1, 500, b"no", 500)
        assert (first.response_headers, first.address) == ((HeaderPair("Server", "nginx"),), "192.0.2.1")
        assert first.id == attempt_id(due.key, 1)
        assert (second.number, second.status, second.response_body) == (2, 204, None)
        assert (relay.store.due_count(ref), relay.store.pending_settles) == (0, 0)


async def test_a_settlement_without_an_attempt_counts_none(tmp_path: Path) -> None:
    """Q7: what ended unsent (expired, corrupt) has a reason and no attempt."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        await relay.store.settle(Settlement(due, DeliveryState.DEAD, None, reason=DeadReason.CORRUPT))
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert (view.state, view.reason, view.attempts) == (DeliveryState.DEAD, DeadReason.CORRUPT, 0)
        assert view.timeline == ()
        assert relay.store.dead_count(ref) == 1


async def test_success_after_a_cancel_is_recorded(tmp_path: Path) -> None:
    """Q7: a 2xx that arrives after a cancel still records `delivered`."""
    async with opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        assert (await relay.delivered(due)).applied
        assert await state_of(relay, due) is DeliveryState.DELIVERED
        assert relay.store.backlog == 0


async def test_failure_after_a_cancel_leaves_it_cancelled(tmp_path: Path) -> None:
    """Q7: a failure that arrives after a cancel is only recorded."""
    async with opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        settled = await relay.again(due, due.due_ms + 5)
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.timeline is not None
        assert (settled.applied, settled.due) == (False, None)
        assert (view.state, view.cancelled_by, len(view.timeline)) == (DeliveryState.CANCELLED, "somebody", 1)


async def test_a_stale_series_only_records_its_attempt(tmp_path: Path) -> None:
    """Q7, Q13: an attempt that outlived its series moves nothing, and attempt numbers stay distinct."""
    async with opened(tmp_path) as relay:
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


async def test_the_same_settlement_again_changes_nothing_twice(tmp_path: Path) -> None:
    """Invariant 5: a settlement whose commit was unknown is submitted again and answered as the first time."""
    async with opened(tmp_path) as relay:
        due = await relay.due(await relay.endpoint())
        settlement = Settlement(due, DeliveryState.DUE, relay.outcome(500), due_ms=due.due_ms + 5)
        first = await relay.store.settle(settlement)
        assert await relay.store.settle(settlement) == first
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert view.attempts == 1


async def test_two_settlements_of_one_delivery_in_one_group(tmp_path: Path) -> None:
    """Q7: within a group settlements apply in order, each on what the one before left."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
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


async def test_responses_of_a_delivery_are_bounded(tmp_path: Path) -> None:
    """Q14: at most 64 KiB of responses are kept for one delivery, the newest ones."""
    async with opened(tmp_path) as relay:
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


async def test_settling_what_was_pruned_is_no_error(tmp_path: Path) -> None:
    """Q7: a settlement of a delivery that does not exist (any more) is simply not applied."""
    async with opened(tmp_path) as relay:
        due = replace(await relay.due(await relay.endpoint()), event=99)
        assert not (await relay.delivered(due)).applied
        unsent = Settlement(due, DeliveryState.DEAD, None, reason=DeadReason.EXPIRED)
        assert not (await relay.store.settle(unsent)).applied


# -- failures of the machine ------------------------------------------------------------------------------------------


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


async def outside(store: Store, work: Callable[[sqlite3.Connection], object]) -> None:
    """Run something on the writer's connection after the commit of its group."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    store._writer.submit(Job(Stage.OUTSIDE, work, done=lambda result: None, future=done))
    await done


async def test_an_io_error_stops_the_store_for_good(tmp_path: Path) -> None:
    """Invariant 5: after an I/O error at COMMIT nothing is written any more, `on_fatal` is told once, unclean."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        told: list[StoreDamaged] = []
        relay.store.on_fatal(told.append)
        gate.error = sqlite_error(sqlite3.SQLITE_IOERR | 4 << 8, "disk I/O error")
        with pytest.raises(CommitUnknown):
            await relay.accept()
        gate.error = None
        with pytest.raises(StoreUnavailable):
            await relay.accept()
        await asyncio.sleep(0)
        assert [type(error) for error in told] == [StoreDamaged]
        late: list[StoreDamaged] = []
        relay.store.on_fatal(late.append)
        assert late == told
    assert look(tmp_path, "SELECT value FROM meta WHERE name = 'clean'") == [(0,)]


async def test_corruption_found_while_writing_is_fatal(tmp_path: Path) -> None:
    """Invariant 5: corruption reported by a statement is not blamed on an item."""
    async with opened(tmp_path) as relay:
        told: list[StoreDamaged] = []
        relay.store.on_fatal(told.append)

        def corrupt(connection: sqlite3.Connection) -> None:
            raise sqlite_error(sqlite3.SQLITE_CORRUPT)

        with pytest.raises(CommitUnknown):
            await relay.store._edit(corrupt)
        assert len(told) == 1


async def test_a_bug_in_the_writer_stops_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 12: a dead writer thread is told, not survived in silence."""
    async with opened(tmp_path) as relay:
        told: asyncio.Future[StoreDamaged] = asyncio.get_running_loop().create_future()
        relay.store.on_fatal(told.set_result)

        def broken(*arguments: object) -> None:
            raise SystemError("a bug")

        monkeypatch.setattr(relay.store._writer, "_perform", broken)
        writing = relay.store.accept([relay.event()])
        assert "a bug" in (await told).detail
        assert not writing.done()
        with pytest.raises(StoreUnavailable):
            await relay.accept()


async def test_a_bug_in_an_edit_fails_that_edit_alone(tmp_path: Path) -> None:
    """Invariant 3: an edit with a bug raises it to its caller and to nobody else."""
    async with opened(tmp_path) as relay:

        def broken(connection: sqlite3.Connection) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await relay.store._edit(broken)
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
        await asyncio.sleep(0)
        gate.error = sqlite_error(sqlite3.SQLITE_IOERR)
        gate.let_go()
        with pytest.raises(CommitUnknown):
            await first
        with pytest.raises(StoreUnavailable, match="stopping"):
            await behind
        with pytest.raises(StoreUnavailable, match="stopping"):
            await after


async def test_a_bug_after_a_commit_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Invariant 12: a listener with a bug is reported to the event loop, and the others are answered."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))

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
        editing = asyncio.ensure_future(relay.store.load_endpoints())
        await asyncio.sleep(0)
        gate.let_go()
        with pytest.raises(ZeroDivisionError):
            await settling
        await asyncio.gather(holding, editing)
        assert [type(bug) for bug in reported] == [ZeroDivisionError]


async def test_a_group_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 3: what queued up in excess of a group's size waits for the next one."""
    monkeypatch.setattr("relay.store.writer.GROUP_JOBS", 10)
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
        assert relay.store.file_sizes().wal == 0
    assert look(tmp_path, "SELECT count(*) FROM delivery") == [(50,)]
    async with opened(tmp_path) as relay:
        assert not relay.store.facts.unclean
        assert (await relay.store.load_endpoints())[0].health.failures == 2


# -- manual work ------------------------------------------------------------------------------------------------------


async def test_a_retry_of_a_due_delivery_keeps_its_series(tmp_path: Path) -> None:
    """Q13: due now, same series, past cool-down; the budget starts anew; it survives a restart as manual."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        delayed = (await relay.again(due, due.due_ms + DAY_MS)).due
        assert delayed is not None
        relay.clock.advance(1_000)
        retried = await relay.store.retry_delivery(delivery_id(due.key))
        now_ms = relay.clock.wall_ms()
        assert retried == replace(delayed, due_ms=now_ms, budget_from_ms=now_ms, manual=True)
        assert (await relay.store.refill(ref, 0, 0, 10)).rows == [retried]
        assert relay.store.due_count(ref) == 1
        after = (await relay.again(retried, now_ms + 5)).due
        assert after is not None
        assert not after.manual


@pytest.mark.parametrize("end", [DeliveryState.DELIVERED, DeliveryState.DEAD, DeliveryState.CANCELLED])
async def test_a_retry_of_an_ended_delivery_begins_a_series(tmp_path: Path, end: DeliveryState) -> None:
    """Q13: a dead, cancelled or delivered delivery is the same row, due again, in a new series."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        due = await relay.due(ref)
        if end is DeliveryState.CANCELLED:
            await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        else:
            reason = DeadReason.GONE if end is DeliveryState.DEAD else None
            await relay.store.settle(Settlement(due, end, relay.outcome(200), reason=reason))
        retried = await relay.store.retry_delivery(delivery_id(due.key))
        assert (retried.series, retried.series_attempts, retried.manual) == (2, 0, True)
        assert retried.attempts == (0 if end is DeliveryState.CANCELLED else 1)
        assert (relay.store.due_count(ref), relay.store.dead_count(ref)) == (1, 0)
        view = await relay.store.find_delivery(delivery_id(due.key))
        assert view is not None
        assert (view.state, view.reason, view.cancelled_by) == (DeliveryState.DUE, None, None)


async def test_what_cannot_be_retried_or_cancelled_says_why(tmp_path: Path) -> None:
    """Q13: unknown, expired, deleted and ended deliveries are refused in words."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        for unknown in ("dlv_1", "nonsense", delivery_id(DeliveryKey(5, 5)), "dlv_" + "u" * 18, "dlv_" + "Z" * 18):
            with pytest.raises(NotFound):
                await relay.store.retry_delivery(unknown)
        short = await relay.due(ref, expires_at_ms=relay.clock.wall_ms() + 10)
        relay.clock.advance(10)
        with pytest.raises(Conflict, match="expired"):
            await relay.store.retry_delivery(delivery_id(short.key))
        due = await relay.due(ref)
        await relay.delivered(due)
        with pytest.raises(Conflict, match="delivered already"):
            await relay.store.cancel_delivery(delivery_id(due.key), "somebody")
        await relay.store.delete_endpoint(ref)
        with pytest.raises(Conflict, match="deleted"):
            await relay.store.retry_delivery(delivery_id(due.key))


async def test_held_deliveries_end_with_their_budget(tmp_path: Path) -> None:
    """Q6, Q9: what was held beyond its budget is dead with the given reason, what expired is dead as expired."""
    async with opened(tmp_path) as relay:
        ref = await relay.endpoint()
        start_ms = relay.clock.wall_ms()
        old = [await relay.due(ref) for _ in range(3)]
        relay.clock.advance(10_000)
        young = await relay.due(ref)
        short = await relay.due(ref, expires_at_ms=relay.clock.wall_ms() + 1)
        relay.clock.advance(5)
        ended: list[DeliveryKey] = []
        while keys := await relay.store.end_held(
            ref, start_ms + 5_000, relay.clock.wall_ms(), DeadReason.ENDPOINT_DISABLED, 2
        ):
            assert len(keys) <= 2
            ended += keys
        assert sorted(ended) == sorted([*(due.key for due in old), short.key])
        reasons = {group.reason: group.count for group in await relay.store.dead_groups("acme")}
        assert reasons == {DeadReason.ENDPOINT_DISABLED: 3, DeadReason.EXPIRED: 1}
        assert await state_of(relay, young) is DeliveryState.DUE
        assert (relay.store.due_count(ref), relay.store.dead_count(ref)) == (1, 4)
        assert await relay.store.dead_groups("other") == []


async def test_a_held_head_gives_way_in_order(tmp_path: Path) -> None:
    """Q12: ending a held predecessor makes the next due since it was accepted, so its own budget ends it in turn."""
    async with opened(tmp_path) as relay:
        promoted: list[DueDelivery] = []
        relay.store.on_promoted(promoted.extend)
        ref = await relay.endpoint()
        first = await relay.due(ref, ordering_key="cut")
        second = await relay.accept(ref, ordering_key="cut")
        relay.clock.advance(10)
        now_ms = relay.clock.wall_ms()
        assert await relay.store.end_held(ref, now_ms, now_ms, DeadReason.EXHAUSTED) == [first.key]
        assert [due.event for due in promoted] == [second.event.ordinal]
        assert len(await relay.store.end_held(ref, now_ms, now_ms, DeadReason.EXHAUSTED)) == 1


# -- endpoints --------------------------------------------------------------------------------------------------------


async def test_endpoints_are_remembered(tmp_path: Path) -> None:
    """DESIGN §8: definition, secrets, state and health of an endpoint survive a restart."""
    async with opened(tmp_path) as relay:
        row = await relay.endpoint_row()
        changed = replace(
            row,
            definition={"url": "https://b.example/"},
            secrets=(Secret("new"), Secret("old", 5)),
            state=EndpointState.DISABLED,
            disabled_by=DisabledBy.GONE,
            state_since_ms=7,
            url_seen="https://b.example/",
            updated_at_ms=8,
        )
        health = Health(failures=3, several=True, last_failure="503")
        await relay.store.save_endpoint(changed, health=health)
        assert "whsec" not in repr(row)
    async with opened(tmp_path) as relay:
        assert await relay.store.load_endpoints() == [replace(changed, health=health)]
        await relay.store.save_endpoint(changed)
        assert (await relay.store.load_endpoints())[0].health == health
        with pytest.raises(NotFound):
            await relay.store.save_endpoint(replace(changed, ref=77))


async def test_endpoints_of_the_file_keep_their_ref(tmp_path: Path) -> None:
    """Q11: the same id from the file resumes its history; an id that means another endpoint is refused."""
    async with opened(tmp_path) as relay:
        refs = await relay.store.sync_applications(["acme", "beta"])
        first = await relay.store.sync_file_endpoints([("primary", refs["acme"])])
        assert await relay.store.sync_file_endpoints([("primary", refs["acme"])]) == first
        assert first["primary"].definition is None
        with pytest.raises(ConfigError, match="another application"):
            await relay.store.sync_file_endpoints([("primary", refs["beta"])])
        await relay.endpoint("ep_1")
        with pytest.raises(ConfigError, match="through the API"):
            await relay.store.sync_file_endpoints([("ep_1", refs["acme"])])
        assert len(await relay.store.load_endpoints()) == 2


async def test_a_deleted_endpoint_loses_what_is_due_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Q11: deletion marks at once and cancels step by step; its history keeps its name; the id is free again."""
    monkeypatch.setattr("relay.store.background.CANCEL_STEP", 2)
    async with opened(tmp_path) as relay:
        ref, other = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        owed = [await relay.due(ref) for _ in range(5)]
        await relay.accept(other)
        await relay.store.delete_endpoint(ref)
        while relay.store.due_count(ref):
            await relay.store.ping()
        views = [await relay.store.find_delivery(delivery_id(due.key)) for due in owed]
        assert {(view.state, view.cancelled_by, view.endpoint) for view in views if view} == {
            (DeliveryState.CANCELLED, "endpoint deleted", "ep_1")
        }
        assert relay.store.backlog == 1
        with pytest.raises(NotFound):
            await relay.store.delete_endpoint(ref)
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
        deleting = asyncio.ensure_future(relay.store.delete_endpoint(ref))
        await asyncio.wait({deleting})
        gate.error = sqlite_error(sqlite3.SQLITE_FULL)  # the step that cancels may have been committed, or never is
        await relay.store.abandon()
    async with opened(tmp_path) as relay:
        while relay.store.due_count(ref):
            await relay.store.ping()
        assert look_at_states(await relay.store.list_deliveries(DeliveryFilter(), None, 10)) == ["cancelled"]


def look_at_states(page: object) -> list[str]:
    return [view.state.value for view in page.data]  # type: ignore[attr-defined]


async def test_a_deletion_step_that_fails_is_taken_again(tmp_path: Path) -> None:
    """Q11: a full disk only delays a deletion, and the health that could not be written."""
    gate = Gate()
    async with opened(tmp_path, writer=gated(gate)) as relay:
        ref, other = await relay.endpoint("ep_1"), await relay.endpoint("ep_2")
        await relay.due(ref)
        gate.hold()
        deleting = asyncio.ensure_future(relay.store.delete_endpoint(ref))
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
        assert (await relay.store.load_endpoints())[0].health.failures == 4


# -- retention --------------------------------------------------------------------------------------------------------


async def sweep(relay: Relay, kept: Kept | None = None, limit: int = 500) -> list[tuple[int, int, int, int]]:
    """Prune to the end of a sweep; what each step removed."""
    steps = []
    more = True
    while more:
        pruned = await relay.store.prune(relay.clock.wall_ms(), kept or Kept(), limit)
        steps.append((pruned.events, pruned.deliveries, pruned.attempts, pruned.keys))
        more = pruned.more
    return steps


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


async def test_keys_are_forgotten_in_the_end(tmp_path: Path) -> None:
    """Q8, Q14: a key that was pruned may be used again, for another event."""
    async with opened(tmp_path) as relay:
        await relay.accept(idempotency=key("k"))
        relay.clock.advance(91 * DAY_MS)
        await sweep(relay)
        await relay.accept(idempotency=key("k", "other"))
        assert await sweep(relay) == [(0, 0, 0, 0)]


async def test_pruning_takes_small_steps(tmp_path: Path) -> None:
    """Q14: a step touches a bounded number of rows and the next goes on from there, past what must stay."""
    async with opened(tmp_path) as relay:
        refs = [await relay.endpoint(f"ep_{n}") for n in range(6)]
        stays = await relay.accept(refs[0])
        for _ in range(10):
            for due in (await relay.accept(*refs, idempotency=key(str(relay.clock.wall_ms())))).due:
                await relay.delivered(due)
        relay.clock.advance(200 * DAY_MS)
        steps = await sweep(relay, limit=4)
        assert sum(step[0] for step in steps) == 10
        assert all(step[0] <= 4 and step[1] <= 16 for step in steps)
        assert sum(step[3] for step in steps) == 10
        assert await relay.store.find_event(stays.event.id) is not None


async def test_pruned_space_goes_back_to_the_disk(tmp_path: Path) -> None:
    """Q14: a file that is mostly unused shrinks, so that free disk space means something again."""
    async with opened(tmp_path) as relay:
        for _ in range(60):
            await relay.accept(body=b"x" * 50_000)
        relay.clock.advance(31 * DAY_MS)
        for _ in range(3):
            await sweep(relay)
        await relay.store.close()
        assert relay.store.file_sizes().database < 1_000_000
        assert relay.store.free_disk_bytes() > 0


# -- reading ----------------------------------------------------------------------------------------------------------


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
        other = (await relay.store.sync_applications(["other"]))["other"]
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
