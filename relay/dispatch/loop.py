"""The one loop that owns in-flight work.

It wakes for a kick (something was committed, an attempt ended, a setting changed) or for the lanes' next due time, asks
the lanes what to start, and starts it; `attempt` says what happens then. Deliberately absent: a claim or in-flight state
in the database, and any polling of it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from random import Random
from types import TracebackType
from typing import Any

import structlog

from relay.core.clock import Clock, ClockWatch, Now
from relay.core.errors import StoreUnavailable
from relay.core.model import Accepted, DeadReason, DeliveryKey, DueDelivery, Endpoint
from relay.delivery.courier import Courier
from relay.dispatch.attempt import STORE_RETRY_MS, Attempts
from relay.dispatch.cache import EventCache
from relay.dispatch.standing import Standing
from relay.queue import Lanes, LaneSettings, Refill
from relay.registry import Change, Registrar
from relay.store import Store, delivery_key
from relay.telemetry import log
from relay.telemetry.metrics import Metrics
from relay.telemetry.recurring import Recurring

SLEEP_MAX_MS = 30_000
"""The longest sleep: a suspended machine or a stepped clock is noticed within it (Q15)."""

SETTLES_MAX = 1_000
"""No attempt starts while more settles than this wait for a commit (Q7)."""

STARTS_AT_ONCE = 4
"""How many attempts start before whatever else is ready has its turn: 200 that connect at once hold the others up for 50 ms."""

CACHE_BYTES = 64 << 20
"""What the cache of frozen events may hold (Q1)."""

CACHE_AHEAD_MS = 60_000
"""What is due later than this does not take up the cache."""


class Dispatch:
    """Starts what is due. Owner of the lanes, the event cache and the tasks of the running attempts.

    What follows a commit (`hand_over`, `offer`, `drop`) cannot be left half done: an error there stops the process, and
    is raised, so that whoever waits for an answer gets one (`hand_over` is part of what the store does after the commit,
    and the store sees to both). The rows are found at the next start.
    """

    def __init__(
        self,
        *,
        store: Store,
        registrar: Registrar,
        courier: Courier,
        lanes: Lanes,
        clock: Clock,
        clock_watch: ClockWatch,
        rng: Random,
        metrics: Metrics,
        on_fatal: Callable[[BaseException], None],
        log_all: bool = False,
        settles_max: int = SETTLES_MAX,
    ) -> None:
        self.lanes = lanes
        self.standing = Standing(registrar, clock, clock_watch)
        self._store = store
        self._registrar = registrar
        self._clock = clock
        self._metrics = metrics
        self._on_fatal = on_fatal
        self._settles_max = settles_max
        self._cache = EventCache(CACHE_BYTES)
        self.attempts = Attempts(
            store=store,
            registrar=registrar,
            courier=courier,
            lanes=lanes,
            cache=self._cache,
            standing=self.standing,
            clock=clock,
            clock_watch=clock_watch,
            rng=rng,
            metrics=metrics,
            on_progress=self._attempt_progressed,
            spawn=self._spawn,
            log_all=log_all,
        )
        self._kick = asyncio.Event()
        self._turned = asyncio.Event()  # since somebody began to wait for it
        self._idle = asyncio.Event()
        self._after_commit = _AfterCommit(self._fail)
        self._starting = True
        self._could_start = False  # when the loop looked last
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("relay.dispatch")
        self._unread = Recurring(self._log, clock, log.REFILL_FAILED, log.REFILL_RECOVERED)
        self._overflows: dict[int, Recurring] = {}  # by ref
        registrar.on_change(self._endpoint_changed)
        store.on_promoted(self.offer)

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start what is due, until cancelled. Ends only by cancellation or by our own mistake."""
        while True:
            self._kick.clear()  # before looking: whatever comes meanwhile wakes us again
            self._turned.set()
            now = self._clock.now()
            self._could_start = can_start = self._can_start()
            if can_start:
                for start in self.lanes.take(now, STARTS_AT_ONCE):
                    self._spawn(self.attempts.run(start))
            self._start_refills(now)
            # What cannot start now is no reason to wake: a settle's commit, or a writer that works again, kicks.
            wake_ms = self.lanes.next_wake(now) if can_start else None
            if wake_ms == 0:
                await asyncio.sleep(0)
            else:
                await self._clock.wait(self._kick, SLEEP_MAX_MS if wake_ms is None else min(wake_ms, SLEEP_MAX_MS))

    def kick(self) -> None:
        """Look again soon."""
        self._kick.set()

    async def turn(self) -> None:
        """Return when the loop looks once more; never, if it hangs."""
        self._turned.clear()
        self.kick()
        await self._turned.wait()

    def _attempt_progressed(self) -> None:
        """Look again if an attempt's end, or its settle's commit, lets something start; commonly it does not."""
        if self.lanes.has_work or not self._could_start:
            self._kick.set()

    def _can_start(self) -> bool:
        return self._starting and self._store.healthy and self._store.pending_settles <= self._settles_max

    def _start_refills(self, now: Now) -> None:
        while self._starting and (refill := self.lanes.next_refill(now)) is not None:
            self._spawn(self._refill(refill))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._log.error(log.TASK_FAILED, exc_info=error)
        self._on_fatal(error)

    # -- what comes in ---------------------------------------------------------------------------------------------

    def hand_over(self, accepted: Accepted) -> None:
        """Take an event that was just committed; the store calls it. O(log n) for each of its deliveries."""
        if self.lanes.offer(accepted.due) and self._is_soon(accepted.due[0]):
            self._cache.put(accepted.event)
        if accepted.overflowed:
            self._note_overflow(accepted.overflowed)
        self._kick.set()

    def offer(self, due: Iterable[DueDelivery]) -> None:
        """Take deliveries that a commit made due."""
        with self._after_commit:
            self.lanes.offer(due)
            self._kick.set()

    def owe(self, due: Sequence[DueDelivery]) -> None:
        """Take deliveries of events that are owed to more endpoints than when they came; what is frozen for these is read."""
        for delivery in due:
            self._cache.drop(delivery.event)
        self.offer(due)

    def drop(self, keys: Iterable[DeliveryKey]) -> None:
        """Forget deliveries that a commit ended."""
        with self._after_commit:
            self.lanes.drop(keys)
            self._kick.set()

    def _is_soon(self, due: DueDelivery) -> bool:
        """Whether a body is worth its place in the cache: the others are read when their time has come."""
        return due.due_ms <= self._clock.wall_ms() + CACHE_AHEAD_MS

    def _note_overflow(self, refs: Iterable[int]) -> None:
        """Count deliveries that were dead at accept, because their endpoint's backlog was full (Q10)."""
        for ref in refs:
            endpoint = self._registrar.current.endpoint_by_ref(ref)
            if endpoint is not None:
                self._metrics.dead(endpoint.id, DeadReason.OVERFLOW)
                if ref not in self._overflows:
                    self._overflows[ref] = Recurring(self._log, self._clock, log.OVERFLOWED)
                self._overflows[ref].happened(endpoint=endpoint.id)

    def _endpoint_changed(self, change: Change) -> None:
        if change.after is None:
            assert change.before is not None
            ref = change.before.ref
            self.lanes.remove(ref)
            self.standing.forget(ref)
            self._overflows.pop(ref, None)
        else:
            ref = change.after.ref
            self.lanes.configure(
                ref, lane_settings(change.after), change.health, self._store.due_count(ref), self._clock.now()
            )
            self.standing.configured(change.after)
            if change.health is not None:
                self.standing.loaded(ref, change.health)
        self._kick.set()

    def wall_stepped(self) -> None:
        """Look at every due time anew: the wall clock was stepped (Q15). O(endpoints)."""
        self.lanes.wall_stepped(self._clock.now())
        self._kick.set()

    # -- refills ---------------------------------------------------------------------------------------------------

    async def _refill(self, refill: Refill) -> None:
        try:
            result = await self._store.refill(refill.ref, refill.from_due_ms, refill.from_event, refill.limit)
        except StoreUnavailable as error:
            self._unread.happened(error=error.detail)
            await self._clock.wait(asyncio.Event(), STORE_RETRY_MS)
            self.lanes.refill_failed(refill.ticket)
        else:
            self._unread.ended()
            if self.lanes.refilled(refill.ticket, result.rows):
                soon = {row.event for row in result.rows if self._is_soon(row)}
                for event in result.events:
                    if event.ordinal in soon:
                        self._cache.put(event)
        self._kick.set()

    # -- by hand ---------------------------------------------------------------------------------------------------

    async def retry(self, delivery_id: str, *, force: bool = False) -> DueDelivery:
        """Make a delivery due now (Q13), with `force` an expired one too; NotFound, or Conflict when it cannot be."""
        due = await self._store.retry_delivery(delivery_id, force=force)
        self.offer((due,))
        return due

    async def retry_endpoint(self, ref: int, most: int) -> tuple[int, bool]:
        """Make what an endpoint has due later due now, but for a `deliver_at`, and end its cool-down and `Retry-After`.

        Return how many moved, and whether there are more: a step ends after about `most`. O(those that are due later)
        """
        now_ms, moved, place = self._clock.wall_ms(), 0, None
        while moved < most:
            step = await self._store.pull_forward(ref, (now_ms,), place)
            self.offer(step.moved)
            moved, place = moved + len(step.moved), step.next
            if place is None:
                break
        health = self.lanes.end_waits(ref)
        if health is not None:
            self._store.save_health(ref, health)
        self.kick()
        return moved, place is not None

    async def cancel(self, delivery_id: str, by: str) -> None:
        """Cancel a due delivery; NotFound, or Conflict when it is not due."""
        key = delivery_key(delivery_id)
        under_way = None if key is None else self.lanes.under_way(key)
        self.drop([await self._store.cancel_delivery(delivery_id, by, under_way)])

    # -- stopping --------------------------------------------------------------------------------------------------

    def stop_starting(self) -> None:
        """Start nothing from here on; what runs goes on. Safe at any time, any number of times."""
        self._starting = False
        self._kick.set()

    async def drain(self, deadline_ms: float) -> int:
        """Wait for what runs, at most `deadline_ms`, then cancel the rest, which stays due. Return how many were cut.

        Safe twice and at once: the call with the earliest deadline cuts, and the others return when that is done.
        """
        self.stop_starting()
        if self._tasks:
            await self._clock.wait(self._idle, deadline_ms)
        cut = list(self._tasks)
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        await self.attempts.close()
        return len(cut)


class _AfterCommit:
    """A block that follows a commit: an error in it stops the process, and is raised."""

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        self._fail = fail

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._fail(error)


def lane_settings(endpoint: Endpoint) -> LaneSettings:
    """What a lane must know of its endpoint."""
    return LaneSettings(
        application=endpoint.application.ref,
        concurrency=endpoint.concurrency,
        rate=endpoint.rate,
        held=endpoint.held,
        policy=endpoint.health,
    )
