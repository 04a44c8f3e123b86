"""Whose turn it is: round robin over the lanes that may start something, under the global limit (Q4).

Every lane with something waiting is in one of these places:

- in `_ready`, a queue of lanes to be looked at, each at its turn: it starts one delivery and queues up again, or
  it cannot and goes to one of the places below;
- in `_doubtful`, when it may hurt others: its last attempt failed, or one has been running for 2 s. Doubtful lanes
  together hold at most a quarter of the slots; they keep their seniority and go on in turn when one of these slots is
  free;
- under a timer, when only time can help: due times and cool-downs on the wall clock, rates on the monotonic one, so
  a step of the wall clock moves just what it should (Q15);
- nowhere, when its window is full or its probe is out: the end of an attempt queues it up.

Whatever changes a lane queues it up (`_changed`), and nothing but its turn decides (`_turn`). So no limit can be passed
elsewhere, and no decision can be forgotten. `take` costs a step for each start and each lane that changed, no more.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from relay.core.clock import Now
from relay.core.model import DeliveryKey, DueDelivery, Health
from relay.queue.health import Suspension
from relay.queue.heap import KeyedHeap
from relay.queue.lane import Lane, LaneSettings
from relay.queue.memory import Memory
from relay.queue.refills import Refill, Refills
from relay.queue.retry import Classification

SLOW_MS = 2_000
"""An endpoint whose oldest attempt has been running for so long is doubtful."""

SHARE = 4
"""One endpoint, and all doubtful ones together, hold at most 1 / SHARE of the slots."""

AUDIT_AGE_MS = 10_000
"""A row younger than this may be on its way to us, not a mistake."""


class Start(NamedTuple):
    """An attempt to be made now."""

    delivery: DueDelivery
    probe: bool
    suspension: Suspension | None = None  # what this attempt ends if it runs through


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as people see it."""

    waiting: int  # in memory; the database may hold more unless `live`
    reserved: int
    running: int
    window: int
    live: bool
    health: Health
    cool_until_ms: int  # 0 when it does not cool down
    why_waiting: str  # "" when nothing waits, or nothing stands in its way
    suspension: Suspension | None = None


class Lanes:
    """The lanes of all endpoints. Owner of everything in them; called from one thread.

    Commits must be passed on (`offer`, `drop`, `settled`) in their order. Costs are in n lanes; within a lane of at most
    200 deliveries each move costs a binary search. All but the costs of `take` and `next_refill` are amortised: what
    they clear away was put there by one call each.
    """

    def __init__(
        self, global_limit: int, rng: Random, *, lane_max: int = 200, total_max: int = 20_000, side_max: int = 1_000
    ) -> None:
        self._rng = rng
        self._lane_max = lane_max
        self._side_max = side_max
        self._global_limit = global_limit
        self._share = max(global_limit // SHARE, 1)  # the most for one endpoint, and for all doubtful ones together
        self._lanes: dict[int, Lane] = {}
        self._refills = Refills(self._lanes, lane_max=lane_max, total_max=total_max)
        self._running = 0
        self._doubtful_running = 0
        self._turns = 0
        self._ready: deque[tuple[int, Lane]] = deque()  # each with its turn; an entry of another turn is void
        self._doubtful: deque[tuple[int, Lane]] = deque()
        self._wall = KeyedHeap()  # due times, cool-downs, Retry-After
        self._rates = KeyedHeap()
        self._slow = KeyedHeap()  # when an oldest attempt becomes slow

    @property
    def in_flight(self) -> int:
        """Attempts under way. O(1)."""
        return self._running

    # What the configuration says.

    def configure(self, ref: int, settings: LaneSettings, health: Health | None, due_count: int, now: Now) -> None:
        """Create a lane, or change it; `health` None keeps the health it has. O(log n), and what a pause leaves.

        `due_count`, rows due in the database, matters to a new lane only: without any it is live at once.
        """
        lane = self._lanes.get(ref)
        new = lane is None or lane.removed
        if lane is None:
            lane = self._lanes[ref] = Lane(ref, settings, Memory(lane_max=self._lane_max, side_max=self._side_max))
        lane.removed = False
        lane.configure(settings)
        if health is not None:
            lane.become(health)
            lane.clamp_waits(now.wall_ms)
        if settings.held:
            lane.memory.close()
        elif not lane.memory.opened:
            lane.memory.open(live=new and due_count == 0)
        self._review(lane)
        self._changed(lane)

    def remove(self, ref: int) -> None:
        """Forget a lane. What it has in flight still counts until it is settled. O(log n), and what waits in it."""
        lane = self._lanes.get(ref)
        if lane is not None:
            lane.memory.close()
            lane.removed = True
            self._changed(lane)
            self._forget_removed(lane)

    def set_global_limit(self, global_limit: int) -> None:
        """Change how many attempts may run at once; more than that may be running, and finish. O(n)."""
        self._global_limit = global_limit
        self._share = max(global_limit // SHARE, 1)
        for lane in self._lanes.values():
            self._changed(lane)

    def wall_stepped(self, now: Now) -> None:
        """Look at every lane again: the wall clock jumped (Q15). O(n)."""
        self._wall.clear()
        self._refills.wall_stepped()
        for lane in self._lanes.values():
            lane.clamp_waits(now.wall_ms)
            self._changed(lane)

    # Commits.

    def offer(self, items: Iterable[DueDelivery]) -> int:
        """Take in deliveries that a commit made due, or due at another time (Q13). O(log n) each.

        Return how many more wait in memory now: 0 when the database alone keeps them, for their lanes are behind or held.
        """
        more = 0
        for delivery in items:
            lane = self._lanes.get(delivery.endpoint)
            if lane is not None:
                lane.memory.offer(delivery)
                more += lane.memory.waiting - lane.counted
                self._changed(lane)
        return more

    def drop(self, keys: Iterable[DeliveryKey]) -> None:
        """Take out deliveries that a commit ended without an attempt: cancelled, expired, dead. O(log n) each."""
        for key in keys:
            lane = self._lanes.get(key.endpoint)
            if lane is not None:
                lane.memory.drop(key.event)
                self._changed(lane)

    # Attempts.

    def take(self, now: Now) -> list[Start]:
        """Choose what starts now. Each is reserved until `settled`, and runs until `finished` or `finished_unsent`.

        O(log n) for each start, each lane that changed since the last call, and each timer that ran out.
        """
        self._run_timers(now)
        starts: list[Start] = []
        while self._running < self._global_limit and (lane := self._next_lane()) is not None:
            start = self._turn(lane, now)
            if start is not None:
                starts.append(start)
        return starts

    def sent(self, key: DeliveryKey, now: Now) -> None:
        """Count an attempt against the endpoint's rate limit: its request goes out now. O(log n)."""
        lane = self._lanes[key.endpoint]
        if lane.rate is not None:
            lane.rate.send(key.event, now.mono_ms)
            self._changed(lane)

    def finished(self, key: DeliveryKey, verdict: Classification, now: Now) -> Health | None:
        """End an attempt; return the endpoint's health when it changed and is to be saved. O(log n)."""
        lane = self._lanes[key.endpoint]
        self._free_slot(lane)
        health = lane.finish(key.event, verdict, now, self._share, self._rng)
        if lane.cooling:
            self._refills.relieve(lane)
        self._after_attempt(lane, now)
        return None if lane.removed else health

    def finished_unsent(self, key: DeliveryKey, now: Now) -> None:
        """End an attempt that is not made after all (expired, corrupt, stopping). O(log n)."""
        lane = self._lanes[key.endpoint]
        self._free_slot(lane)
        lane.stop(key.event)
        self._after_attempt(lane, now)

    def suspend(self, key: DeliveryKey, cause: str, now: Now) -> Suspension | None:
        """End an attempt that a mistake of our own stopped: its endpoint waits. O(log n).

        Return the suspension when it begins, or begins anew after its probe.
        """
        suspension = self._lanes[key.endpoint].suspend(cause, now)
        self.finished_unsent(key, now)
        return suspension

    def settled(self, key: DeliveryKey, due: DueDelivery | None) -> None:
        """End the reservation: the settle is committed, and `due` is what is due of the delivery now. O(log n)."""
        lane = self._lanes[key.endpoint]
        assert key.event not in lane.running, "an attempt is finished before it is settled"
        lane.memory.release(key.event, due)
        self._changed(lane)
        if lane.removed:
            self._forget_removed(lane)

    # Refills.

    def next_refill(self, now: Now) -> Refill | None:
        """Return a read to be made, to be answered by `refilled` or `refill_failed`; call again until None.

        O(log n) for each lane that changed since the last call while it was behind.
        """
        return self._refills.next(now)

    def refilled(self, ticket: int, rows: Sequence[DueDelivery]) -> int:
        """Take in what a refill read. The rows of a void one (its lane was paused, or too much moved) are ignored.

        Return how many more wait in memory now. O(log n) for each row.
        """
        lane = self._refills.end(ticket, rows)
        more = lane.memory.waiting - lane.counted
        self._changed(lane)
        return more

    def refill_failed(self, ticket: int) -> None:
        """Note that a refill could not be read; it is tried again a second after it began. O(log n)."""
        self._refills.fail(ticket)

    def reserved(self, ref: int) -> list[int]:
        """List the events of a lane whose attempt or settle is under way; O(as many)."""
        lane = self._lanes.get(ref)
        return [] if lane is None else list(lane.memory.reserved)

    # The audit.

    def under_way(self, key: DeliveryKey) -> DueDelivery | None:
        """Return a delivery as its attempt was started, while that attempt runs; O(1)."""
        lane = self._lanes.get(key.endpoint)
        return None if lane is None or key.event not in lane.running else lane.memory.reserved[key.event]

    def begin_audit(self, ref: int) -> bool:
        """Prepare for a read of the oldest due rows of `ref`; False when memory keeps nothing to compare. O(1)."""
        lane = self._lanes.get(ref)
        return lane is not None and lane.memory.begin_audit()

    def audited(self, ref: int, rows: Iterable[DueDelivery], now: Now) -> list[DueDelivery]:
        """Compare with memory what an audit read, take in what was missing, and return it: each is a bug.

        O(1) for each row, O(log n) for each that was missing.
        """
        lane = self._lanes.get(ref)
        if lane is None:
            return []
        missing = lane.memory.end_audit(row for row in rows if row.due_ms <= now.wall_ms - AUDIT_AGE_MS)
        self.offer(missing)
        return missing

    # Questions.

    @property
    def has_work(self) -> bool:
        """Whether `take` or `next_refill` would look at a lane now, as far as limits allow. O(1)."""
        return bool(self._ready or self._doubtful or self._refills.asking)

    def next_wake(self, now: Now) -> float | None:
        """Return in how many milliseconds something may become startable; None: not before something changes. O(log n)."""
        if self._running < self._global_limit and (self._ready or (self._doubtful and self._doubtful_may_start)):
            return 0.0
        waits = self._refills.first_wait_ms(now)
        for timers, now_ms in ((self._wall, now.wall_ms), (self._rates, now.mono_ms)):
            first = timers.first()
            if first is not None:
                waits.append(first[0] - now_ms)
        return max(min(waits), 0.0) if waits else None

    def oldest_due_ms(self) -> int | None:
        """Return the earliest due time of what waits in memory; held endpoints keep nothing there.

        O(n): for status and metrics, not for every delivery.
        """
        return min((lane.memory.earliest_ms for lane in self._lanes.values() if lane.memory.waiting), default=None)

    def snapshot(self, ref: int, now: Now) -> LaneView | None:
        """Show a lane as it is now. O(1)."""
        lane = self._lanes.get(ref)
        if lane is None:
            return None
        return LaneView(
            waiting=lane.memory.waiting,
            reserved=len(lane.memory.reserved),
            running=len(lane.running),
            window=lane.room(self._share),
            live=lane.memory.live,
            health=lane.health,
            cool_until_ms=lane.health.cool_until_ms,
            why_waiting=lane.why_waiting(now, self._share) or self._why_no_turn(lane),
            suspension=lane.suspension,
        )

    @property
    def _doubtful_may_start(self) -> bool:
        return self._doubtful_running < self._share

    def _run_timers(self, now: Now) -> None:
        for timers, now_ms in ((self._wall, now.wall_ms), (self._rates, now.mono_ms)):
            for ref in timers.pop_until(now_ms):
                if ref in self._lanes:
                    self._changed(self._lanes[ref])
        for ref in self._slow.pop_until(now.mono_ms):
            if ref in self._lanes:
                self._watch(self._lanes[ref], now)

    def _next_lane(self) -> Lane | None:
        """Take the lane that has waited longest; doubtful ones wait aside while their share is used up."""
        ready, doubtful = self._ready, self._doubtful
        while ready or (doubtful and self._doubtful_may_start):
            aside = doubtful and self._doubtful_may_start and not (ready and ready[0][0] < doubtful[0][0])
            turn, lane = (doubtful if aside else ready).popleft()
            if lane.turn == turn:
                return lane
        return None

    def _turn(self, lane: Lane, now: Now) -> Start | None:
        """Start the lane's next delivery and queue it up again, or put it where it waits best."""
        if lane.doubtful and not self._doubtful_may_start:
            self._doubtful.append((lane.turn, lane))
            return None
        lane.turn = 0
        delivery = lane.next_start(now, self._share)
        if delivery is None:
            self._set_timer(lane, now)
            return None
        self._take_slot(lane, now)
        start = Start(delivery, lane.start(delivery, now), lane.suspension)
        self._changed(lane)
        return start

    def _set_timer(self, lane: Lane, now: Now) -> None:
        wall_ms, mono_ms = lane.waits_until(now, self._share)
        if wall_ms is not None:
            self._wall.set(lane.ref, wall_ms)
        elif mono_ms is not None and mono_ms < math.inf:
            self._rates.set(lane.ref, mono_ms)

    def _take_slot(self, lane: Lane, now: Now) -> None:
        self._running += 1
        if lane.doubtful:
            self._doubtful_running += 1
        if not lane.slow and lane.ref not in self._slow:
            self._slow.set(lane.ref, now.mono_ms + SLOW_MS)

    def _free_slot(self, lane: Lane) -> None:
        self._running -= 1
        if lane.doubtful:
            self._doubtful_running -= 1

    def _after_attempt(self, lane: Lane, now: Now) -> None:
        if lane.slow:
            self._watch(lane, now)
        else:
            self._review(lane)
        self._changed(lane)

    def _watch(self, lane: Lane, now: Now) -> None:
        """See whether the lane is slow, and when to look again. One timer serves all attempts of a lane."""
        started_ms = lane.oldest_start_ms()
        lane.slow = started_ms is not None and started_ms + SLOW_MS <= now.mono_ms
        if started_ms is not None and not lane.slow:
            self._slow.set(lane.ref, started_ms + SLOW_MS)
        self._review(lane)

    def _review(self, lane: Lane) -> None:
        """Count the lane among the doubtful ones, or no longer."""
        doubtful = lane.slow or lane.health.failures > 0
        if doubtful == lane.doubtful:
            return
        lane.doubtful = doubtful
        self._doubtful_running += len(lane.running) if doubtful else -len(lane.running)
        if not doubtful:
            lane.turn = 0  # it may wait aside: let it queue up with the others
            self._changed(lane)

    def _changed(self, lane: Lane) -> None:
        """Something about the lane changed: count it anew, let it have its turn, and a refill if it wants one."""
        if lane.memory.waiting and not lane.turn:
            self._turns += 1
            lane.turn = self._turns
            self._ready.append((lane.turn, lane))
        self._refills.changed(lane)

    def _forget_removed(self, lane: Lane) -> None:
        if not lane.memory.reserved:
            del self._lanes[lane.ref]
            self._refills.forget(lane)

    def _why_no_turn(self, lane: Lane) -> str:
        if not lane.memory.waiting:
            return ""
        if self._running >= self._global_limit:
            return "all slots in use"
        return "doubtful endpoints' share of slots in use" if lane.doubtful and not self._doubtful_may_start else ""
