"""The one loop that owns in-flight work.

It wakes for a kick (something was committed, an attempt ended, a setting changed) or for the lanes' next due time, asks
the lanes what to start, and starts it. Each attempt then runs this line, and nobody else touches what it holds:

    take ─▶ read the frozen event ─▶ courier.attempt ─▶ retry.decide ─▶ lanes.finished ─▶ store.settle ─▶ lanes.settled

Nothing is written before an attempt, so a power cut before the settle's commit leaves the delivery as it was: due. The
receiver may then see the request again, with the same id. `finished` frees the slot at once; the id itself stays held
until the settle is committed (Q3), so no delivery is ever under way twice.

Deliberately absent: a claim or in-flight state in the database, and any polling of it.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from logging import DEBUG
from random import Random
from typing import Any, Protocol
from zlib import crc32

import structlog

from relay.core.clock import Clock, Now
from relay.core.errors import NotFound, StoreUnavailable
from relay.core.model import (
    Accepted,
    DeadReason,
    DeliveryKey,
    DeliveryState,
    DisabledBy,
    DueDelivery,
    Endpoint,
    EndpointState,
    FrozenEvent,
    Health,
    Outcome,
    Settled,
    Settlement,
    Trigger,
)
from relay.delivery.courier import Request
from relay.dispatch.cache import EventCache
from relay.queue import Lanes, LaneSettings, Refill, Start
from relay.queue.health import Reachability, should_disable
from relay.queue.retry import Decision, decide
from relay.registry import Change, Directory
from relay.store import Store
from relay.telemetry import log
from relay.telemetry.metrics import Metrics

SLEEP_MAX_MS = 30_000
"""The longest sleep: a suspended machine or a stepped clock is noticed within it (Q15)."""

SETTLES_MAX = 1_000
"""No attempt starts while more settles than this wait for a commit (Q7)."""

STORE_RETRY_MS = 1_000
"""What the database did not do, a settle or a read, is asked of it again after this long."""

CACHE_BYTES = 64 << 20
"""What the cache of frozen events may hold (Q1)."""


class Courier(Protocol):
    """Makes one HTTP attempt."""

    async def attempt(self, request: Request) -> Outcome: ...


class Dispatch:
    """Starts what is due and records what came of it. Owner of the lanes, the event cache and the running attempts."""

    def __init__(
        self,
        *,
        store: Store,
        directory: Directory,
        courier: Courier,
        lanes: Lanes,
        clock: Clock,
        rng: Random,
        metrics: Metrics,
        on_fatal: Callable[[BaseException], None],
        log_all: bool = False,
        settles_max: int = SETTLES_MAX,
    ) -> None:
        self._store = store
        self._directory = directory
        self.courier: Courier = courier  # a reload may put another in its place
        self.lanes = lanes
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._on_fatal = on_fatal  # an error of our own in an attempt stops the process (invariant 12)
        self.log_all = log_all  # deliveries at info too, not at debug
        self._settles_max = settles_max
        self._reachability = Reachability()
        self._cooling: dict[int, int] = {}  # ref → the cool-down step that was last reported
        self._disabling: set[int] = set()  # refs
        self._cache = EventCache(CACHE_BYTES)
        self._kick = asyncio.Event()
        self._idle = asyncio.Event()
        self._starting = True
        self._rest_until_mono_ms = 0.0  # expiry and disabling rest until then (Q15)
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("relay.dispatch")
        self._tells_successes = log_all or self._log.is_enabled_for(DEBUG)  # asked once: it is the hot path
        directory.on_change(self._endpoint_changed)
        store.on_promoted(self.offer)

    # -- the loop --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start what is due, until cancelled. Ends only by cancellation or by our own mistake."""
        while True:
            self._kick.clear()  # before looking: whatever comes meanwhile wakes us again
            now = self._clock.now()
            if self._may_start():
                for start in self.lanes.take(now):
                    self._spawn(self._attempt(start))
            self._start_refills(now)
            await self._clock.wait(self._kick, self._sleep_ms(now))

    def kick(self) -> None:
        """Look again soon."""
        self._kick.set()

    def _may_start(self) -> bool:
        return self._starting and self._store.healthy and self._store.pending_settles <= self._settles_max

    def _sleep_ms(self, now: Now) -> float:
        if not self._may_start():
            return SLEEP_MAX_MS  # a settle's commit, or a writer that works again, kicks
        wake_ms = self.lanes.next_wake(now)
        return SLEEP_MAX_MS if wake_ms is None else min(wake_ms, SLEEP_MAX_MS)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._tasks:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error(log.TASK_FAILED, exc_info=error)
            self._on_fatal(error)

    # -- what comes in ---------------------------------------------------------------------------------------------

    def hand_over(self, accepted: Accepted) -> None:
        """Take over an event that was just committed."""
        self._cache.put(accepted.event)
        self.offer(accepted.due)

    def offer(self, due: Iterable[DueDelivery]) -> None:
        """Take over deliveries that a commit made due."""
        self.lanes.offer(due)
        self._kick.set()

    def drop(self, keys: list[DeliveryKey]) -> None:
        """Forget deliveries that a commit ended."""
        self.lanes.drop(keys)
        self._kick.set()

    def _endpoint_changed(self, change: Change) -> None:
        if change.after is None:
            assert change.before is not None
            self.lanes.remove(change.before.ref)
            self._reachability.forget(change.before.ref)
            self._cooling.pop(change.before.ref, None)
        else:
            ref = change.after.ref
            settings = lane_settings(change.after)
            self.lanes.configure(ref, settings, change.health, self._store.due_count(ref), self._clock.now())
            if change.health is not None:
                self._cooling[ref] = change.health.cool_down_ms
        self._kick.set()

    # -- one attempt -----------------------------------------------------------------------------------------------

    async def _attempt(self, start: Start) -> None:
        delivery = start.delivery
        event = self._cache.get(delivery.event) or await self._read_event(delivery)
        endpoint = self._directory.by_ref(delivery.endpoint)
        if event is None or endpoint is None or endpoint.held:
            self._let_go(delivery, due=None if event is None or endpoint is None else delivery)
            return
        unsent = self._unsendable(event, delivery)
        if unsent is not None:
            self.lanes.finished_unsent(delivery.key, self._clock.now())
            await self._settle(endpoint, event, Settlement(delivery, DeliveryState.DEAD, None, reason=unsent))
            return
        if endpoint.rate is not None:
            self.lanes.sent(delivery.key, self._clock.now())
            self._kick.set()
        outcome = await self.courier.attempt(self._request(endpoint, event, delivery))
        decision = decide(
            outcome,
            delivery,
            endpoint.retry,
            event.expires_at_ms,
            self._clock.wall_ms(),
            self._rng,
            clock_trusted=not self.resting,
        )
        self._finish(endpoint, decision)
        await self._settle(endpoint, event, decision.settlement)

    async def _read_event(self, delivery: DueDelivery) -> FrozenEvent | None:
        while True:
            try:
                event = await self._store.read_event(delivery.event)
            except StoreUnavailable as error:
                self._log.warning(log.READ_FAILED, error=error.detail)
                await self._pause()
                continue
            if event is not None:
                self._cache.put(event)
            return event

    def _unsendable(self, event: FrozenEvent, delivery: DueDelivery) -> DeadReason | None:
        """Why no attempt may start: the event expired (Q6), or its bytes are not those we accepted (invariant 6)."""
        expired = event.expires_at_ms is not None and self._clock.wall_ms() >= event.expires_at_ms
        if expired and not delivery.forced and not self.resting:
            return DeadReason.EXPIRED
        if crc32(event.body) != event.checksum:
            return DeadReason.CORRUPT
        return None

    def _let_go(self, delivery: DueDelivery, due: DueDelivery | None) -> None:
        """Event or endpoint were deleted, or the endpoint was held, while the event was read: `due` is what stays due."""
        self.lanes.finished_unsent(delivery.key, self._clock.now())
        self.lanes.settled(delivery.key, due)
        self._kick.set()

    def _request(self, endpoint: Endpoint, event: FrozenEvent, delivery: DueDelivery) -> Request:
        headers = self._directory.signer(endpoint).headers(
            id=event.id,
            type=event.type,
            timestamp_ms=self._clock.wall_ms(),
            body=event.body,
            attempt=delivery.attempts + 1,
        )
        headers.update(endpoint.headers)
        return Request(endpoint.url, headers, event.body, endpoint.timeout_ms)

    def _finish(self, endpoint: Endpoint, decision: Decision) -> None:
        delivery, outcome = decision.settlement.delivery, decision.settlement.outcome
        assert outcome is not None
        health = self.lanes.finished(delivery.key, decision.classification, self._clock.now())
        self._kick.set()
        self._reachability.note(endpoint.ref, outcome, self._clock.mono_ms())
        self._metrics.attempt(endpoint.id, outcome)
        if health is not None:
            self._store.save_health(endpoint.ref, health)
            self._report_health(endpoint, health)
            if self._is_lost(endpoint, health):
                self._spawn(self._disable(endpoint, DisabledBy.FAILING))
        if decision.classification.disable is not None:
            self._spawn(self._disable(endpoint, decision.classification.disable))

    def _is_lost(self, endpoint: Endpoint, health: Health) -> bool:
        """Whether an endpoint failed for so long that it is disabled; never while the trouble is ours (Q9, Q15)."""
        lost = should_disable(health, self._clock.wall_ms(), endpoint.health)
        return lost and not self.resting and not self.local_trouble()

    async def _settle(self, endpoint: Endpoint, event: FrozenEvent, settlement: Settlement) -> None:
        settled = await self._settle_until_committed(settlement)
        self.lanes.settled(settlement.delivery.key, settled.due)
        self._kick.set()
        if settled.applied:
            self._report(endpoint, event, settlement)

    async def _settle_until_committed(self, settlement: Settlement) -> Settled:
        while True:
            try:
                return await self._store.settle(settlement)
            except StoreUnavailable as error:
                self._log.warning(log.SETTLE_FAILED, error=error.detail)
                await self._pause()

    async def _pause(self) -> None:
        await self._clock.wait(asyncio.Event(), STORE_RETRY_MS)

    async def _disable(self, endpoint: Endpoint, by: DisabledBy) -> None:
        """Disable an endpoint, once, however many attempts ask for it."""
        if endpoint.ref in self._disabling:
            return
        self._disabling.add(endpoint.ref)
        try:
            while self._may_be_disabled(endpoint) and not await self._try_to_disable(endpoint, by):
                await self._pause()
        finally:
            self._disabling.discard(endpoint.ref)

    def _may_be_disabled(self, endpoint: Endpoint) -> bool:
        """Whether it is still there, and at the address that the attempt went to."""
        present = self._directory.by_ref(endpoint.ref)
        return present is not None and present.state is not EndpointState.DISABLED and present.url == endpoint.url

    async def _try_to_disable(self, endpoint: Endpoint, by: DisabledBy) -> bool:
        try:
            await self._directory.disable(endpoint.id, by)
        except NotFound:
            return True  # it was deleted while this waited for its turn
        except StoreUnavailable as error:
            self._log.warning(log.SETTLE_FAILED, error=error.detail)
            return False
        self._log.warning(log.ENDPOINT_DISABLED, endpoint=endpoint.id, by=by.value)
        return True

    def blocked(self, ref: int) -> bool:
        """Whether an endpoint's latest attempt was refused because its address may not be dialled."""
        return self._reachability.blocked(ref)

    def local_trouble(self) -> bool:
        """Whether most active endpoints fail at DNS or connect: that is us, not them (Q9)."""
        return self._reachability.local_trouble(self._clock.mono_ms())

    def wall_stepped(self, rest_until_mono_ms: float) -> None:
        """The wall clock was stepped: look at every due time anew, and let expiry and disabling rest (Q15)."""
        self._rest_until_mono_ms = rest_until_mono_ms
        self.lanes.wall_stepped(self._clock.now())
        self._kick.set()

    @property
    def resting(self) -> bool:
        return self._clock.mono_ms() < self._rest_until_mono_ms

    # -- refills ---------------------------------------------------------------------------------------------------

    def _start_refills(self, now: Now) -> None:
        while self._starting and (refill := self.lanes.next_refill(now)) is not None:
            self._spawn(self._refill(refill))

    async def _refill(self, refill: Refill) -> None:
        try:
            result = await self._store.refill(refill.ref, refill.from_due_ms, refill.from_event, refill.limit)
        except StoreUnavailable as error:
            self._log.warning(log.REFILL_FAILED, error=error.detail)
            await self._pause()
            self.lanes.refill_failed(refill.ticket)
        else:
            for event in result.events:
                self._cache.put(event)
            self.lanes.refilled(refill.ticket, result.rows)
        self._kick.set()

    # -- by hand ---------------------------------------------------------------------------------------------------

    async def retry(self, delivery_id: str, *, force: bool = False) -> DueDelivery:
        """Make a delivery due now (Q13), with `force` an expired one too; NotFound, or Conflict when it cannot be."""
        due = await self._store.retry_delivery(delivery_id, force=force)
        self.offer((due,))
        return due

    async def cancel(self, delivery_id: str, by: str) -> None:
        """Cancel a due delivery; NotFound, or Conflict when it is not due."""
        self.drop([await self._store.cancel_delivery(delivery_id, by)])

    async def test(self, endpoint: Endpoint, event: FrozenEvent) -> Outcome:
        """Send `event` to one endpoint now, outside its lane: never retried, never counted against health."""
        outcome = await self.courier.attempt(self._request(endpoint, event, _uncounted(event, endpoint)))
        self._metrics.attempt(endpoint.id, outcome, Trigger.TEST)
        return outcome

    # -- stopping --------------------------------------------------------------------------------------------------

    def stop_starting(self) -> None:
        """Start nothing from here on; what runs goes on. Safe at any time, any number of times."""
        self._starting = False
        self._kick.set()

    async def drain(self, deadline_ms: float) -> int:
        """Wait for what runs, at most `deadline_ms`, then cancel the rest, which stays due. Return how many were cut."""
        self.stop_starting()
        self._idle.clear()
        if self._tasks:
            await self._clock.wait(self._idle, deadline_ms)
        cut = list(self._tasks)
        for task in cut:
            task.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        return len(cut)

    # -- telling ---------------------------------------------------------------------------------------------------

    def _report_health(self, endpoint: Endpoint, health: Health) -> None:
        reported_ms = self._cooling.get(endpoint.ref, 0)
        if health.cool_down_ms == reported_ms:
            return
        self._cooling[endpoint.ref] = health.cool_down_ms
        if health.cool_down_ms:
            facts = {"failures": health.failures, "last_failure": health.last_failure}
            self._log.warning(log.ENDPOINT_COOLING, endpoint=endpoint.id, cool_down_ms=health.cool_down_ms, **facts)
        else:
            self._log.info(log.ENDPOINT_RECOVERED, endpoint=endpoint.id)

    def _report(self, endpoint: Endpoint, event: FrozenEvent, settlement: Settlement) -> None:
        if settlement.state is DeliveryState.DELIVERED:
            self._metrics.delivered(endpoint.id, self._clock.wall_ms() - event.created_at_ms)
            if self._tells_successes:
                tell = self._log.info if self.log_all else self._log.debug
                tell(log.DELIVERED, **_facts(endpoint, event, settlement))
        elif settlement.state is DeliveryState.DEAD:
            assert settlement.reason is not None
            self._metrics.dead(endpoint.id, settlement.reason)
            reason = settlement.reason.value
            self._log.warning(log.DEAD_LETTER, reason=reason, **_facts(endpoint, event, settlement))
        else:
            self._metrics.retry_scheduled(endpoint.id)
            next_ms = settlement.due_ms
            self._log.info(log.ATTEMPT_FAILED, next_attempt_ms=next_ms, **_facts(endpoint, event, settlement))


def lane_settings(endpoint: Endpoint) -> LaneSettings:
    """What a lane must know of its endpoint."""
    return LaneSettings(
        concurrency=endpoint.concurrency, rate=endpoint.rate, held=endpoint.held, policy=endpoint.health
    )


def _facts(endpoint: Endpoint, event: FrozenEvent, settlement: Settlement) -> dict[str, Any]:
    """One line for an attempt. `event` is structlog's own name for what happened, hence `event_id`."""
    outcome = settlement.outcome
    facts: dict[str, Any] = {"event_id": event.id, "event_type": event.type, "endpoint": endpoint.id}
    if outcome is None:
        return facts
    facts |= {"attempt": settlement.delivery.attempts + 1, "status": outcome.status, "duration_ms": outcome.duration_ms}
    if settlement.state is not DeliveryState.DELIVERED:
        facts |= {"failure": outcome.failure.value if outcome.failure else None, "detail": outcome.detail}
    return facts


def _uncounted(event: FrozenEvent, endpoint: Endpoint) -> DueDelivery:
    return DueDelivery(event.ordinal, endpoint.ref, 0, series=0, attempts=0, series_attempts=0, budget_from_ms=0)
