"""The store against a dictionary: random verbs, closing, crashing (reliability T7).

After every step the due rows and the counts must be those of the model; after every restart, all deliveries must be. A
crash abandons writes that nobody was answered: those that were committed are kept whole, of the others there is nothing.
"""

import asyncio
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from relay.core.errors import Conflict, RelayError
from relay.core.frozen import Variant
from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryKey,
    DeliveryState,
    DueDelivery,
    Duplicate,
    NewEvent,
    NoDelivery,
    Outcome,
    ReplayMode,
    Settlement,
)
from relay.core.units import Rate
from relay.store import DeliveryFilter, delivery_id
from relay.store.replays import Replay, ReplayState, Share, Wanted
from relay.store.sqlite import SqliteStore, StoreSettings, accept
from relay.store.sqlite.counts import Counts, Move
from relay.store.sqlite.selection import ENDED
from relay.store.sqlite.writer import Job, Stage, Writer
from tests.support.clock import FakeClock
from tests.support.stores import Relay, application
from tests.support.stores import key as claim_on

T = TypeVar("T")

BACKLOG = 6
FULL_COUNT = """
    SELECT coalesce(sum(due), 0), coalesce(sum(due * ((size + targets - 1) / targets)), 0) FROM (
      SELECT length(e.body) + (SELECT coalesce(sum(length(body)), 0) FROM variant WHERE event = e.ordinal) AS size,
             count(*) AS targets, sum(d.state = 0) AS due
      FROM event e JOIN delivery d ON d.event = e.ordinal WHERE e.application = ? GROUP BY e.ordinal)"""
KEYS = st.none() | st.sampled_from(["a", "b", "c"])
TARGETS = st.none() | st.sets(st.integers(0, 2))
ORDERS = st.none() | st.sampled_from(["x", "y"])
PICK = st.integers(min_value=0, max_value=1_000)


@dataclass
class Expected:
    """What the model knows of a delivery."""

    state: DeliveryState
    due: DueDelivery | None  # None: ended, or waiting for its predecessor
    series: int
    attempts: int
    reason: DeadReason | None = None
    ordering_key: str | None = None
    budget_from_ms: int = 0

    def overtakes(self, started: DueDelivery) -> bool:
        """Whether it was retried by hand, and has not been settled since, while an attempt ran."""
        manual = self.due is not None and self.due.manual
        return manual and self.series == started.series and self.budget_from_ms > started.budget_from_ms


@dataclass
class Model:
    """What must be in the database."""

    deliveries: dict[DeliveryKey, Expected] = field(default_factory=dict)
    keys: dict[str, tuple[str, bytes, bool]] = field(default_factory=dict)  # key → (event id, fingerprint, filtered)
    deleted: set[int] = field(default_factory=set)
    variants: dict[int, tuple[Variant, ...]] = field(default_factory=dict)  # by event

    def due(self, ref: int) -> list[DueDelivery]:
        found = [kept.due for key, kept in self.deliveries.items() if key.endpoint == ref and kept.due is not None]
        return sorted(found, key=lambda due: (due.due_ms, due.event))

    def count(self, ref: int, state: DeliveryState) -> int:
        return sum(key.endpoint == ref and kept.state is state for key, kept in self.deliveries.items())

    def blocked(self, ref: int, ordering_key: str | None) -> bool:
        return ordering_key is not None and any(
            key.endpoint == ref and kept.ordering_key == ordering_key and kept.series == 1
            for key, kept in self.deliveries.items()
            if kept.state is DeliveryState.DUE
        )

    def end(self, key: DeliveryKey, state: DeliveryState, reason: DeadReason | None = None) -> None:
        kept = self.deliveries[key]
        kept.state, kept.due, kept.reason = state, None, reason
        self.promote(key.endpoint, kept.ordering_key)

    def promote(self, ref: int, ordering_key: str | None) -> None:
        if ordering_key is None:
            return
        waiting = [
            (key, kept)
            for key, kept in sorted(self.deliveries.items())
            if key.endpoint == ref
            and (kept.ordering_key, kept.state, kept.series) == (ordering_key, DeliveryState.DUE, 1)
        ]
        if waiting and waiting[0][1].due is None:
            key, kept = waiting[0]
            start_ms = kept.budget_from_ms
            kept.due = DueDelivery(key.event, ref, start_ms, 1, kept.attempts, kept.attempts, start_ms)


class Barrier:
    """Holds the writer up after the commit of the group that it comes to in."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._open = threading.Event()
        self.reached: asyncio.Future[None] = self._loop.create_future()

    def submit(self) -> None:
        self._store._writer.submit(Job(Stage.OUTSIDE, self._wait))

    def open(self) -> None:
        self._open.set()

    def _wait(self, connection: sqlite3.Connection) -> None:
        self._loop.call_soon_threadsafe(self.reached.set_result, None)
        assert self._open.wait(20)


class StoreMachine(RuleBasedStateMachine):
    """Random verbs on a store and on the model."""

    writer: type[Writer] = Writer

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="relay-model-"))
        self.runner = asyncio.Runner()
        self.clock = FakeClock()
        self.model = Model()
        self.replays = 0  # that were ever made
        self.stale: list[DueDelivery] = []  # deliveries as they once were: attempts that are still under way
        self.open()

    def open(self) -> None:
        place = StoreSettings(path=self.folder / "relay.db", endpoint_backlog=BACKLOG)
        self.store: SqliteStore = self.runner.run(SqliteStore.open(place, self.clock, self.writer))

    def run(self, awaitable: Awaitable[T]) -> T:
        async def wait() -> T:
            return await awaitable

        return self.runner.run(wait())

    @initialize()
    def begin(self) -> None:
        acme = self.runner.run(application(self.store))
        self.relay = Relay(self.store, self.clock, acme)
        self.refs = [self.runner.run(self.relay.endpoint(f"ep_{number}")) for number in range(3)]

    # -- the verbs -----------------------------------------------------------------------------------------------------

    @rule(posts=st.lists(st.tuples(TARGETS, KEYS, st.booleans(), ORDERS), min_size=1, max_size=4))
    def accept(self, posts: list[tuple[set[int] | None, str | None, bool, str | None]]) -> None:
        events = [self.event(*post) for post in posts]

        async def submit() -> Sequence[Any]:
            return await self.store.accept(events)

        # The backlog is looked at when a batch is submitted: its repeats still count.
        reserved = {ref: self.model.count(ref, DeliveryState.DUE) for ref in self.refs}
        for event, post, result in zip(events, posts, self.runner.run(submit()), strict=True):
            full = {ref for ref in event.targets if reserved[ref] >= BACKLOG}
            for ref in event.targets:
                reserved[ref] += ref not in full
            self.expect(event, post[1], full, result)

    def event(self, targets: set[int] | None, name: str | None, other: bool, ordering_key: str | None) -> NewEvent:
        """Make an event; one with no targets at all, not even none of them, is filtered."""
        refs = tuple(self.refs[index] for index in sorted(targets or ()) if self.refs[index] not in self.model.deleted)
        claim = None if name is None else claim_on(name, "other" if other else "same")
        self.clock.advance(1)
        event = self.relay.event(*refs, idempotency=claim, ordering_key=ordering_key, body_under=str.encode)
        if targets is None:
            return event._replace(reason=NoDelivery.FILTERED, reason_detail="it lacks a thing")
        if self.refs[2] not in refs:
            return event
        return event._replace(variants=self.variants(event.id), variants_under=self.variants)

    def variants(self, event_id: str) -> tuple[Variant, ...]:
        """Make what the third endpoint is sent, which has a contract of its own."""
        return (Variant("other", (self.refs[2],), b"<other>%s</other>" % event_id.encode()),)

    def expect(self, event: NewEvent, name: str | None, full: set[int], result: object) -> None:
        known = None if name is None else self.model.keys.get(name)
        if known is not None and known[2] and event.reason is NoDelivery.FILTERED:
            assert isinstance(result, Duplicate)
            assert (result.event_id, result.reason, result.differs) == (known[0], NoDelivery.FILTERED, False)
            return
        if known is not None and known[2]:
            event = event._replace(id=known[0], body=known[0].encode())
            event = event._replace(variants=self.variants(known[0]) if event.variants else ())
        elif known is not None:
            assert event.idempotency is not None
            if known[1] == event.idempotency.fingerprint:
                assert isinstance(result, Duplicate)
                assert result.event_id == known[0]
            else:
                assert isinstance(result, Conflict)
            return
        assert isinstance(result, Accepted)
        assert (result.event.id, result.event.body, result.event.variants) == (event.id, event.body, event.variants)
        self.learn(event, name, full, result.event.ordinal)
        mine = [self.model.deliveries[DeliveryKey(result.event.ordinal, ref)].due for ref in event.targets]
        assert list(result.due) == [due for due in mine if due is not None]

    def learn(self, event: NewEvent, name: str | None, full: set[int], ordinal: int) -> None:
        """Put an event that was stored into the model."""
        if name is not None:
            assert event.idempotency is not None
            filtered = event.reason is NoDelivery.FILTERED
            self.model.keys[name] = (event.id, event.idempotency.fingerprint, filtered)
        start_ms = event.created_at_ms
        self.model.variants[ordinal] = event.variants
        for ref in event.targets:
            kept = Expected(DeliveryState.DUE, None, 1, 0, None, event.ordering_key, start_ms)
            if ref in full:
                kept.state, kept.reason = DeliveryState.DEAD, DeadReason.OVERFLOW
            elif not self.model.blocked(ref, event.ordering_key):
                kept.due = DueDelivery(ordinal, ref, start_ms, 1, 0, 0, start_ms)
            self.model.deliveries[DeliveryKey(ordinal, ref)] = kept

    @precondition(lambda self: any(kept.due for kept in self.model.deliveries.values()))
    @rule(pick=PICK, state=st.sampled_from([DeliveryState.DUE, DeliveryState.DELIVERED, DeliveryState.DEAD]))
    def settle(self, pick: int, state: DeliveryState) -> None:
        owed = [kept.due for kept in self.model.deliveries.values() if kept.due is not None]
        due = owed[pick % len(owed)]
        self.stale.append(due)
        self.finish(due, state)

    @precondition(lambda self: self.stale)
    @rule(pick=PICK, state=st.sampled_from([DeliveryState.DUE, DeliveryState.DELIVERED, DeliveryState.DEAD]))
    def settle_late(self, pick: int, state: DeliveryState) -> None:
        """End an attempt of a delivery that ended, was retried by hand, or is in another series by now."""
        due = self.stale[pick % len(self.stale)]
        kept = self.model.deliveries.get(due.key)
        moved_on = kept is None or kept.state is not DeliveryState.DUE or kept.series != due.series
        if moved_on or (kept is not None and kept.overtakes(due)):
            self.finish(due, state)

    def finish(self, due: DueDelivery, state: DeliveryState) -> None:
        outcome = self.relay.outcome(500)
        due_ms = self.clock.wall_ms() + 10 if state is DeliveryState.DUE else None
        reason = DeadReason.EXHAUSTED if state is DeliveryState.DEAD else None
        settled = self.run(self.store.settle(Settlement(due, state, outcome, due_ms, reason)))
        kept = self.model.deliveries.get(due.key)
        if kept is None:
            assert not settled.applied
            return
        kept.attempts += 1
        if kept.state is DeliveryState.DUE and kept.overtakes(due) and state is not DeliveryState.DELIVERED:
            assert kept.due is not None
            kept.due = kept.due._replace(attempts=kept.attempts, series_attempts=kept.due.series_attempts + 1)
            assert settled == (False, kept.due)
        elif kept.state is DeliveryState.DUE and kept.series == due.series:
            assert settled.applied
            if state is DeliveryState.DUE:
                assert due_ms is not None
                kept.due = due._replace(
                    due_ms=due_ms,
                    attempts=kept.attempts,
                    series_attempts=due.series_attempts + 1,
                    budget_from_ms=kept.budget_from_ms,
                    manual=False,
                    replayed=False,
                )
                assert settled.due == kept.due
            else:
                self.model.end(due.key, state, reason)
        elif kept.state is DeliveryState.CANCELLED and kept.series == due.series and state is DeliveryState.DELIVERED:
            assert settled.applied
            kept.state = state
        else:
            kept.due = kept.due and kept.due._replace(attempts=kept.attempts)
            assert settled == (False, kept.due)

    @precondition(lambda self: self.model.deliveries)
    @rule(pick=PICK)
    def retry(self, pick: int) -> None:
        key, kept = self.any_delivery(pick)
        if key.endpoint in self.model.deleted:
            with pytest.raises(Conflict):
                self.run(self.store.retry_delivery(delivery_id(key)))
            return
        self.clock.advance(1)
        now_ms = self.clock.wall_ms()
        due = self.run(self.store.retry_delivery(delivery_id(key)))
        same = kept.state is DeliveryState.DUE
        before = kept.due
        kept.series += 0 if same else 1
        series_attempts = (before.series_attempts if before else 0) if same else 0
        kept.state, kept.reason = DeliveryState.DUE, None
        kept.budget_from_ms = max(now_ms, kept.budget_from_ms + 1)
        if before is not None and same:
            self.stale.append(before)
        kept.due = DueDelivery(
            key.event,
            key.endpoint,
            now_ms,
            kept.series,
            kept.attempts,
            series_attempts,
            kept.budget_from_ms,
            manual=True,
        )
        assert due == kept.due

    @precondition(lambda self: self.model.deliveries)
    @rule(pick=PICK, mode=st.sampled_from([ReplayMode.FAILED, ReplayMode.ALL]))
    def replay(self, pick: int, mode: ReplayMode) -> None:
        """Replay one delivery by its id, from the selection to its end."""
        key, kept = self.any_delivery(pick)
        self.clock.advance(1)
        now_ms, rows = self.clock.wall_ms(), self.store.replays
        self.replays += 1
        made = Replay(f"rpl_{self.replays}", None, mode, Wanted(), Rate(50, 1_000), False, "test", now_ms)
        made = self.run(rows.create(made, [delivery_id(key)], None))
        page = self.run(rows.select(made))
        noted = self.run(rows.note(made, page, 10))
        assert noted.ref == made.ref == self.replays
        if kept.state not in ENDED[mode] or key.endpoint in self.model.deleted:
            assert (list(page.keys), noted.state) == ([], ReplayState.FINISHED)
            return
        assert (list(page.keys), noted.state) == ([key], ReplayState.RUNNING)
        step = self.run(rows.step(made.ref, [Share(key.endpoint, 5)]))
        kept.series += 1
        kept.state, kept.reason = DeliveryState.DUE, None
        kept.budget_from_ms = max(now_ms, kept.budget_from_ms + 1)
        numbers = (now_ms, kept.series, kept.attempts, 0, kept.budget_from_ms)
        kept.due = DueDelivery(*key, *numbers, replayed=True)
        assert (list(step.due), step.replay.state) == ([kept.due], ReplayState.FINISHED)

    @precondition(lambda self: self.model.deliveries)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        key, kept = self.any_delivery(pick)
        if kept.state is not DeliveryState.DUE:
            with pytest.raises(Conflict):
                self.run(self.store.cancel_delivery(delivery_id(key), "test"))
            return
        if kept.due is not None:
            self.stale.append(kept.due)
        assert self.run(self.store.cancel_delivery(delivery_id(key), "test")) == key
        self.model.end(key, DeliveryState.CANCELLED)

    @precondition(lambda self: self.model.deliveries)
    @rule(pick=PICK)
    def drop(self, pick: int) -> None:
        """Drop a dead letter; nothing else can be dropped."""
        key, kept = self.any_delivery(pick)
        if kept.state is not DeliveryState.DEAD:
            with pytest.raises(Conflict):
                self.run(self.store.drop_dead(delivery_id(key), "test"))
            return
        self.run(self.store.drop_dead(delivery_id(key), "test"))
        kept.state, kept.reason = DeliveryState.CANCELLED, None

    def any_delivery(self, pick: int) -> tuple[DeliveryKey, Expected]:
        return list(self.model.deliveries.items())[pick % len(self.model.deliveries)]

    @rule(index=st.integers(0, 2), age=st.integers(1, 20), limit=st.integers(1, 3))
    def end_held(self, index: int, age: int, limit: int) -> None:
        ref, now_ms = self.refs[index], self.clock.wall_ms()
        reason = DeadReason.ENDPOINT_DISABLED
        while step := self.run(self.store.end_held(ref, now_ms - age, now_ms, reason, limit)):
            ended = step[reason]
            assert len(ended) <= limit
            for key in ended:
                due = self.model.deliveries[key].due
                assert due is not None
                assert due.budget_from_ms < now_ms - age
            for key in ended:
                self.model.end(key, DeliveryState.DEAD, DeadReason.ENDPOINT_DISABLED)
        assert not [
            due for due in self.model.due(ref) if due.due_ms < now_ms - age and due.budget_from_ms < now_ms - age
        ]

    @precondition(lambda self: len(self.model.deleted) < 2)
    @rule(index=st.integers(0, 2))
    def delete_endpoint(self, index: int) -> None:
        ref = self.refs[index]
        if ref in self.model.deleted:
            return
        self.run(self.relay.delete_endpoint(f"ep_{index}"))
        self.model.deleted.add(ref)
        for _ in range(BACKLOG):  # each step cancels all there is, but steps of other endpoints may come between
            self.run(self.store.ping())
        for key, kept in self.model.deliveries.items():
            if key.endpoint == ref and kept.state is DeliveryState.DUE:
                kept.state, kept.due = DeliveryState.CANCELLED, None

    # -- restarts ------------------------------------------------------------------------------------------------------

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self.restart()

    @rule(
        posts=st.lists(st.tuples(st.sets(st.integers(0, 2), min_size=1), ORDERS), max_size=3),
        settles=st.integers(0, 2),
        committed=st.integers(0, 5),
    )
    def crash(self, posts: list[tuple[set[int], str | None]], settles: int, committed: int) -> None:
        """Crash with writes under way of which nobody was answered; the first ones are committed, the others are not."""
        events = [self.event(targets, None, False, ordering_key) for targets, ordering_key in posts]
        owed = [kept.due for kept in self.model.deliveries.values() if kept.due is not None][:settles]
        outcomes = [self.relay.outcome(200) for _ in owed]

        def write(event: NewEvent) -> None:
            self.store.accept([event])

        def end(due: DueDelivery, outcome: Outcome) -> None:
            self.store.settle(Settlement(due, DeliveryState.DELIVERED, outcome))

        writes = [partial(write, event) for event in events] + [
            partial(end, *pair) for pair in zip(owed, outcomes, strict=True)
        ]
        self.runner.run(self.crash_after(writes, committed))
        self.open()
        self.relay.store = self.store
        for number, event in enumerate(events):
            self.recover(event, kept=number < committed)
        for number, due in enumerate(owed, len(events)):
            self.recover_settle(due, kept=number < committed)
        self.compare()

    async def crash_after(self, writes: Sequence[Callable[[], None]], committed: int) -> None:
        """Submit writes, let one transaction commit the first of them, and crash before anybody hears of it."""
        before, after = Barrier(self.store), Barrier(self.store)
        before.submit()
        for write in writes[:committed]:
            write()
        after.submit()
        before.open()
        await after.reached
        for write in writes[committed:]:
            write()
        crashing = asyncio.ensure_future(self.store.abandon())
        await asyncio.sleep(0)  # from here on the writer begins nothing
        after.open()
        await crashing

    def recover(self, event: NewEvent, *, kept: bool) -> None:
        """An unanswered event that was committed is there whole: learn it; of another there is nothing."""
        views = self.run(self.store.deliveries_of(event.id))
        found = self.run(self.store.find_event(event.id)) is not None
        assert found is kept
        assert [view.endpoint_ref for view in views] == (sorted(event.targets) if kept else [])
        full = {view.endpoint_ref for view in views if view.reason is DeadReason.OVERFLOW}
        if views:
            self.learn(event, None, full, self.ordinal(event.id))

    def ordinal(self, event_id: str) -> int:
        rows = self.run(self.store._people.fetch("SELECT ordinal FROM event WHERE id = ?", (event_id,)))
        return int(rows[0][0])

    def recover_settle(self, due: DueDelivery, *, kept: bool) -> None:
        view = self.run(self.store.find_delivery(delivery_id(due.key)))
        assert view is not None
        assert view.timeline is not None
        assert len(view.timeline) == view.attempts
        assert (view.state is DeliveryState.DELIVERED) is kept
        if kept:
            self.model.deliveries[due.key].attempts += 1
            self.model.end(due.key, DeliveryState.DELIVERED)

    def restart(self) -> None:
        self.open()
        self.relay.store = self.store
        self.compare()

    def compare(self) -> None:
        """Compare every delivery with the model."""
        found = {}
        cursor = None
        while True:
            page = self.run(self.store.list_deliveries(DeliveryFilter(), cursor, 7))
            found.update({view.id: (view.state, view.reason, view.series, view.attempts) for view in page.data})
            cursor = page.next
            if cursor is None:
                break
        assert found == {
            delivery_id(key): (kept.state, kept.reason, kept.series, kept.attempts)
            for key, kept in self.model.deliveries.items()
        }
        for ordinal, variants in self.model.variants.items():
            event = self.run(self.store.read_event(ordinal))
            assert event is None or event.variants == variants  # None: another has taken its place since

    @invariant()
    def due_rows_are_those_of_the_model(self) -> None:
        for ref in getattr(self, "refs", ()):
            assert self.store.due_count(ref) == self.model.count(ref, DeliveryState.DUE)
            assert self.store.dead_count(ref) == self.model.count(ref, DeliveryState.DEAD)
        counts = {ref: self.model.count(ref, DeliveryState.DUE) for ref in getattr(self, "refs", ())}
        assert self.store.due_counts() == {ref: count for ref, count in counts.items() if count}
        assert self.runner.run(self.all_due()) == [self.model.due(ref) for ref in getattr(self, "refs", ())]

    @invariant()
    def what_is_owed_is_what_a_full_count_finds(self) -> None:
        """I8: deliveries and bytes of an application are those of the rows that are due, each with its part of the body."""
        if not hasattr(self, "refs"):
            return
        acme = self.relay.application
        (counted,) = self.run(self.store._people.fetch(FULL_COUNT, (acme,)))
        assert self.store.usage(acme) == counted

    async def all_due(self) -> list[list[DueDelivery]]:
        return [(await self.store.refill(ref, 0, 0, 1_000)).rows for ref in getattr(self, "refs", ())]

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_store_does_what_the_model_does() -> None:
    """Reliability T7: random verbs, restarts and crashes leave the store as the model says."""
    run_state_machine_as_test(StoreMachine, settings=SETTINGS)


class Forgetful(Writer):
    """Negative control: every fourth commit is none, and nobody is told."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._commits = 0

    def commit(self, connection: sqlite3.Connection) -> None:
        self._commits += 1
        connection.execute("ROLLBACK" if self._commits % 4 == 0 else "COMMIT")


class ForgetfulMachine(StoreMachine):
    writer = Forgetful


@pytest.mark.timeout(120)
def test_a_store_that_takes_nothing_off_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of I8: bytes that stay owed after their last delivery ended do not go unnoticed."""
    apply = Counts.apply

    def add_only(counts: Counts, moves: Iterable[Move]) -> None:
        apply(counts, [(ref, due, max(size, 0), *rest) for ref, due, size, *rest in moves])

    monkeypatch.setattr(Counts, "apply", add_only)
    hurried = settings(SETTINGS, phases=[Phase.generate], derandomize=True, database=None, report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(StoreMachine, settings=hurried)


@pytest.mark.timeout(120)
def test_a_store_that_forgets_whom_a_variant_is_for_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: what endpoints with a contract of their own are sent is compared with the model after a restart."""
    row = accept._variant_row
    monkeypatch.setattr(accept, "_variant_row", lambda *given: (*row(*given)[:2], "[]", *row(*given)[3:]))
    hurried = settings(SETTINGS, phases=[Phase.generate], derandomize=True, database=None, report_multiple_bugs=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(StoreMachine, settings=hurried)


@pytest.mark.timeout(120)
def test_a_store_that_forgets_is_caught() -> None:
    """Negative control of reliability T7: a lost commit does not go unnoticed."""
    hurried = settings(SETTINGS, phases=[Phase.generate], derandomize=True, database=None, report_multiple_bugs=False)
    with pytest.raises((AssertionError, RelayError)):
        run_state_machine_as_test(ForgetfulMachine, settings=hurried)
