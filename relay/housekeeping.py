"""What has to be done now and then.

Watch the disk, the store and the clock; audit the lanes; mend due times that a wrong clock set; end what is held too
long; prune. Each duty is one small step; the loops at the top only say how often. Nothing here is needed for a delivery
to start.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable

import structlog

from relay.core.clock import Clock, ClockState, ClockWatch
from relay.core.errors import StoreUnavailable
from relay.core.model import DeadReason, DueDelivery, Endpoint, EndpointState
from relay.dispatch.loop import Dispatch
from relay.queue.retry import latest_due_ms
from relay.registry import Registrar
from relay.store import DueKey, Retention, Store, delivery_id
from relay.telemetry import log
from relay.telemetry.metrics import Metrics
from relay.telemetry.recurring import Recurring

WATCH_EVERY_MS = 1_000
SUMMARY_EVERY_MS = 10_000
AUDIT_EVERY_MS = 60_000
PRUNE_EVERY_MS = 60_000
PRUNE_REST = 8
PRUNE_REST_MAX_MS = 20.0
"""Between two steps of pruning the writer is left to others for so many times as long as the step took, up to this."""

STEP_ROWS = 500
"""Rows one housekeeping transaction touches: a larger one would stall the writer."""

AUDIT_ROWS = 1_000
"""Due rows of one endpoint that an audit compares with its lane."""

READMIT = 1.25
"""Intake reopens when free space is this much above the limit, so that it does not flap."""


class Housekeeping:
    """The relay's periodic duties."""

    def __init__(
        self,
        *,
        store: Store,
        registrar: Registrar,
        dispatch: Dispatch,
        clock: Clock,
        clock_watch: ClockWatch,
        metrics: Metrics,
        retention: Retention,
        min_free_disk_bytes: int,
    ) -> None:
        self._store = store
        self._registrar = registrar
        self._dispatch = dispatch
        self._clock = clock
        self._metrics = metrics
        self._min_free_disk_bytes = min_free_disk_bytes
        self.retention = retention
        self.disk_low = False  # intake is closed then
        self.disk_free_bytes = 0
        self.loop_lag_ms = 0.0  # how late the event loop woke last
        self._clock_watch = clock_watch
        self._clock_was = ClockState.TRUSTED
        self._went_back = clock_watch.went_back
        self._due_times_doubtful = asyncio.Event()
        self._due_times_doubtful.set()  # at a start: a clock that was wrong may have been corrected while the relay was down
        store.trust_clock(trusted=clock_watch.trusted)  # before the first commit
        self._prune_rest_ms = 0.0
        self._writer_was_healthy = True
        self._hindered = ""  # what the store said last of its upkeep
        self._never = asyncio.Event()
        self._log = structlog.get_logger("relay.housekeeping")
        failed = (log.HOUSEKEEPING_FAILED, log.HOUSEKEEPING_RECOVERED)
        self._disk_unseen = Recurring(self._log, clock, *failed)
        self._failing = Recurring(self._log, clock, *failed)

    # -- the loops -------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look at the disk, the writer and the clock, once a second."""
        while True:
            await self.watch_once()
            asleep_ms = self._clock.mono_ms()
            await self._clock.wait(self._never, WATCH_EVERY_MS)
            self.loop_lag_ms = max(self._clock.mono_ms() - asleep_ms - WATCH_EVERY_MS, 0.0)

    async def audit(self) -> None:
        """Compare the lanes with the database once a minute; look at due times at the start and when the clock stepped."""
        while True:
            if await self._clock.wait(self._due_times_doubtful, AUDIT_EVERY_MS):
                await self._guarded(self.pull_forward())
            else:
                await self._guarded(self.audit_all())

    async def prune(self) -> None:
        """Delete what has outlived its retention, in small steps."""
        while True:
            more = await self._guarded(self.prune_once())
            await self._clock.wait(self._never, self._prune_rest_ms if more else PRUNE_EVERY_MS)

    async def summarise(self) -> None:
        """Log one line every ten seconds in which something happened."""
        while True:
            await self._clock.wait(self._never, SUMMARY_EVERY_MS)
            facts = self._metrics.summary()
            if any(facts.values()):
                self._log.info(log.SUMMARY, **facts, due=self._store.backlog, in_flight=self._dispatch.lanes.in_flight)

    # -- the steps -------------------------------------------------------------------------------------------------

    async def watch_once(self) -> None:
        """Refresh the gate, wake a writer that failed, and notice a stepped clock."""
        self._watch_disk()
        self._watch_clock()
        self._watch_store()
        if not self._store.lost:  # of which the process says why, and ends
            await self._watch_writer()
        self._failing.ended(quiet_ms=SUMMARY_EVERY_MS)

    def _watch_disk(self) -> None:
        try:
            free_bytes = self._store.free_disk_bytes()
        except OSError as error:  # the folder is out of sight: whether the database still works, its writer finds out
            self._disk_unseen.happened(error=str(error.strerror))
            return
        self._disk_unseen.ended()
        limit = self._min_free_disk_bytes * (READMIT if self.disk_low else 1)
        disk_low = free_bytes < limit
        if disk_low != self.disk_low:
            self._log.warning(log.DISK_LOW if disk_low else log.DISK_OK, free_bytes=free_bytes)
        self.disk_low, self.disk_free_bytes = disk_low, free_bytes

    def _watch_store(self) -> None:
        hindered = self._store.upkeep()
        if hindered and not self._hindered:
            self._log.warning(log.STORE_HINDERED, detail=hindered)
        self._hindered = hindered

    async def _watch_writer(self) -> None:
        healthy = self._store.healthy
        changed, self._writer_was_healthy = healthy != self._writer_was_healthy, healthy
        if changed:
            self._log.warning(log.STORE_RECOVERED if healthy else log.STORE_FAILED)
        if not healthy:
            await self._guarded(self._store.ping())
        if changed or not healthy:
            self._dispatch.kick()

    def _watch_clock(self) -> None:
        step_ms = self._clock_watch.look()
        if step_ms:
            self._log.warning(log.WALL_CLOCK_STEPPED, step_ms=round(step_ms))
            self._dispatch.wall_stepped()
        if step_ms < 0:
            self._went_back = True
            self._due_times_doubtful.set()
        was, self._clock_was = self._clock_was, self._clock_watch.state
        if self._clock_was is ClockState.DISTRUSTED and was is not ClockState.DISTRUSTED:
            self._log.warning(log.CLOCK_DISTRUSTED, jump_ms=self._clock_watch.jump_ms)
        elif self._clock_was is not was and self._clock_was is ClockState.TRUSTED:
            self._log.info(log.CLOCK_TRUSTED)
        self._store.trust_clock(trusted=self._clock_watch.trusted)

    async def pull_forward(self) -> None:
        """Let no delivery wait longer than the delay that its next attempt was given: the clock may have gone back (Q15).

        O(deliveries due later than now), in steps. If it is not known to have gone back, only what waits longer than any
        delay of its endpoint is looked at; commonly that is nothing. Tried again until it comes to its end.
        """
        went_back, self._went_back = self._went_back, False
        self._due_times_doubtful.clear()
        try:
            for endpoint in await self._endpoints_with_due():
                await self._pull_forward(endpoint, went_back=went_back)
        except StoreUnavailable:
            await self._clock.wait(self._never, WATCH_EVERY_MS)
            self._went_back = self._went_back or went_back
            self._due_times_doubtful.set()
            raise

    async def _pull_forward(self, endpoint: Endpoint, *, went_back: bool) -> None:
        latest_ms = latest_due_ms(endpoint.retry, self._clock.wall_ms())
        place: DueKey | None = None if went_back else (max(latest_ms), 0)
        while True:
            moved, place = await self._store.pull_forward(endpoint.ref, latest_ms, place, STEP_ROWS)
            self._dispatch.offer(moved)
            if place is None:
                break

    async def audit_all(self) -> None:
        """Audit every endpoint that has due deliveries, and end what was held too long. The database says which have.

        O(endpoints with due deliveries), however many there are: idle ones cost nothing.
        """
        for endpoint in await self._endpoints_with_due():
            await self._guarded(self.audit_once(endpoint))
            await self._guarded(self.end_held(endpoint))

    async def _endpoints_with_due(self) -> list[Endpoint]:
        found = [self._registrar.current.endpoint_by_ref(ref) for ref in await self._store.endpoints_with_due()]
        return [endpoint for endpoint in found if endpoint is not None]

    async def audit_once(self, endpoint: Endpoint) -> int:
        """Find due rows that no lane knows of, hand them over, and count each as a bug (invariant 8)."""
        lanes = self._dispatch.lanes
        if not lanes.begin_audit(endpoint.ref):
            return 0
        rows: list[DueDelivery] = []
        try:
            rows = await self._store.audit_due(endpoint.ref, AUDIT_ROWS)
        finally:
            forgotten = lanes.audited(endpoint.ref, rows, self._clock.now())
        for delivery in forgotten:
            self._metrics.audit_repair()
            self._log.error(log.AUDIT_REPAIRED, endpoint=endpoint.id, delivery=delivery_id(delivery.key))
        self._dispatch.kick()
        return len(forgotten)

    async def end_held(self, endpoint: Endpoint) -> int:
        """End deliveries that an endpoint held beyond their budget (`max_age`) or past their expiry (Q6, Q9)."""
        if not self._clock_watch.trusted or not endpoint.held:
            return 0
        now_ms = self._clock.wall_ms()
        reason = DeadReason.ENDPOINT_DISABLED if endpoint.state is EndpointState.DISABLED else DeadReason.EXHAUSTED
        ended: Counter[DeadReason] = Counter()
        # Between two steps it may have been resumed.
        while self._registrar.current.endpoint_by_ref(endpoint.ref) is endpoint:
            reserved = self._dispatch.lanes.reserved(endpoint.ref)
            step = await self._store.end_held(
                endpoint.ref, now_ms - endpoint.retry.max_age_ms, now_ms, reason, STEP_ROWS, reserved
            )
            if not step:
                break
            for why, keys in step.items():
                self._dispatch.drop(keys)
                self._metrics.dead(endpoint.id, why, len(keys))
                ended[why] += len(keys)
        for why, count in ended.items():
            self._log.warning(log.HELD_ENDED, endpoint=endpoint.id, reason=why.value, deliveries=count)
        return ended.total()

    async def prune_once(self) -> bool:
        """Take one pruning step; True when there may be more to do at once."""
        if not self._clock_watch.trusted:
            return False
        pruned = await self._store.prune(self._clock.wall_ms(), self.retention, STEP_ROWS)
        self._prune_rest_ms = min(pruned.took_ms * PRUNE_REST, PRUNE_REST_MAX_MS)
        if pruned.total:
            self._log.debug(
                log.PRUNED, events=pruned.events, attempts=pruned.attempts, keys=pruned.keys, memories=pruned.memories
            )
        return pruned.more

    async def _guarded(self, step: Awaitable[object]) -> bool:
        """Run a step; a database that is busy or full is tried again at the next round."""
        try:
            return bool(await step)
        except StoreUnavailable as error:
            if not self._store.lost:
                self._failing.happened(error=error.detail)
            return False
