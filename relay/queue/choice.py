"""Whose turn it is: round robin over the lanes that may start something, under the global limit (Q4).

Every lane with something waiting is in one of these places:

- in `_ready`, a queue of lanes to be looked at, each at its turn: it starts one delivery and queues up again, or
  it cannot and goes to one of the places below;
- in `_suspects`, when it may hurt others: its last attempt failed, or one has been running for 2 s. Suspects together
  hold at most a quarter of the slots; they keep their seniority and go on in turn when one of these slots is free;
- under an alarm, when only time can help: due times and cool-downs on the wall clock, rates on the monotonic one, so
  a step of the wall clock moves just what it should (Q15);
- nowhere, when its window is full or its probe is out: the end of an attempt queues it up.

Any news of a lane queues it up (`_stir`), and nothing but its turn decides (`_turn`). So no limit can be passed
elsewhere, and no decision can be forgotten. `take` costs a step for each start and each lane with news, no more.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from relay.core.clock import Now
from relay.core.model import DeliveryKey, DueDelivery, Health
from relay.queue.alarms import Alarms
from relay.queue.health import Suspension
from relay.queue.lane import Lane, LaneSettings
from relay.queue.memory import Memory
from relay.queue.refills import Refill, Refills
from relay.queue.retry import Classification

SLOW_MS = 2_000
"""An endpoint whose oldest attempt has been running for so long is suspect."""

SHARE = 4
"""One endpoint, and all suspects together, hold at most 1 / SHARE of the slots."""

AUDIT_AGE_MS = 10_000
"""A row younger than this may be news on its way to us, not a mistake."""


class Start(NamedTuple):
    """An attempt to be made now."""

    delivery: DueDelivery
    probe: bool
    suspension: Suspension | None = None  # what this attempt ends if it runs through


@dataclass(frozen=True, slots=True)
class LaneView:
    """A lane as people see it."""

    waiting: int  # in memory; the database may hold more unless `live`
    held: int
    running: int
    window: int
    live: bool
    health: Health
    cool_until_ms: int  # 0 when it does not cool down
    why_waiting: str  # "" when nothing waits, or nothing stands in its way
    suspension: Suspension | None = None


class Lanes:
    """The lanes of all endpoints. Owner of everything in them; called from one thread.

    News (`offer`, `drop`, `settled`) must come in the order of the commits it tells of.
    """

    def __init__(
        self, global_limit: int, rng: Random, *, lane_max: int = 200, total_max: int = 20_000, side_max: int = 1_000
    ) -> None:
        self._rng = rng
        self._lane_max = lane_max
        self._side_max = side_max
        self._global_limit = global_limit
        self._share = max(global_limit // SHARE, 1)  # the most for one endpoint, and for all suspects together
        self._lanes: dict[int, Lane] = {}
        self._refills = Refills(self._lanes, lane_max=lane_max, total_max=total_max)
        self._running = 0
        self._suspects_running = 0
        self._turns = 0
        self._ready: deque[Lane] = deque()
        self._suspects: deque[Lane] = deque()
        self._wall = Alarms()  # due times, cool-downs, Retry-After
        self._rates = Alarms()
        self._slow = Alarms()  # when an oldest attempt becomes slow

    @property
    def in_flight(self) -> int:
        """Attempts under way."""
        return self._running

    # What the configuration says.

    def configure(self, ref: int, settings: LaneSettings, health: Health | None, due_count: int) -> None:
        """Create a lane, or change it; `health` None keeps the health it has.

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
        if settings.held:
            self._close(lane)
        elif not lane.memory.opened:
            lane.memory.open(live=new and due_count == 0)
        self._review(lane)
        self._stir(lane)

    def remove(self, ref: int) -> None:
        """Forget a lane. What it has in flight still counts until it is settled."""
        lane = self._lanes.get(ref)
        if lane is not None:
            self._close(lane)
            lane.removed = True
            self._bury(lane)

    def set_global_limit(self, global_limit: int) -> None:
        """Change how many attempts may run at once; more than that may be running, and finish."""
        self._global_limit = global_limit
        self._share = max(global_limit // SHARE, 1)
        self._stir_all()

    def wall_stepped(self, now: Now) -> None:
        """Look at every lane again: the wall clock jumped (Q15)."""
        self._wall.clear()
        self._refills.wall_stepped()
        for lane in self._lanes.values():
            lane.mend_clock(now.wall_ms)
        self._stir_all()

    # News of deliveries.

    def offer(self, items: Iterable[DueDelivery], now: Now) -> int:
        """Hear of deliveries that a commit made due, or due at another time (Q13).

        Return how many more wait in memory now: 0 when the database alone keeps them, for their lanes are behind or held.
        """
        more = 0
        for delivery in items:
            lane = self._lanes.get(delivery.endpoint)
            if lane is not None:
                before = lane.memory.waiting
                lane.memory.offer(delivery)
                more += lane.memory.waiting - before
                self._resized(lane, before)
        return more

    def drop(self, keys: Iterable[DeliveryKey]) -> None:
        """Hear of deliveries that a commit ended without an attempt: cancelled, expired, dead by an edit."""
        for key in keys:
            lane = self._lanes.get(key.endpoint)
            if lane is not None:
                before = lane.memory.waiting
                lane.memory.drop(key.event)
                self._resized(lane, before)

    # Attempts.

    def take(self, now: Now) -> list[Start]:
        """Choose what starts now. Each is held until `settled`, and runs until `finished` or `finished_unsent`."""
        self._ring(now)
        starts: list[Start] = []
        while self._running < self._global_limit and (lane := self._next_lane()) is not None:
            start = self._turn(lane, now)
            if start is not None:
                starts.append(start)
        return starts

    def finished(self, key: DeliveryKey, verdict: Classification, now: Now) -> Health | None:
        """Hear that an attempt is over; return the endpoint's health when it changed and is to be saved."""
        lane = self._lanes[key.endpoint]
        self._free_slot(lane)
        health = lane.finish(key.event, verdict, now, self._share, self._rng)
        if lane.cooling:
            self._refills.trim(lane)
        self._after_finish(lane, now)
        return None if lane.removed else health

    def finished_unsent(self, key: DeliveryKey, now: Now) -> None:
        """Hear that what was taken is not sent after all (expired, corrupt, stopping)."""
        lane = self._lanes[key.endpoint]
        self._free_slot(lane)
        lane.stop(key.event)
        self._after_finish(lane, now)

    def suspend(self, delivery: DueDelivery, cause: str, now: Now) -> Suspension | None:
        """Hear that a mistake of our own ended an attempt: its endpoint waits, and the delivery is due as it was.

        Return the suspension when it begins, or begins anew after its probe. O(log n) in the lane's deliveries.
        """
        suspension = self._lanes[delivery.endpoint].suspend(cause, now)
        self.finished_unsent(delivery.key, now)
        self.settled(delivery.key, delivery, now)
        return suspension

    def settled(self, key: DeliveryKey, due: DueDelivery | None, now: Now) -> None:
        """Hear that the settle of a finished attempt is committed, and what is due of the delivery now."""
        lane = self._lanes[key.endpoint]
        assert key.event not in lane.running, "an attempt is finished before it is settled"
        before = lane.memory.waiting
        lane.memory.release(key.event, due)
        self._resized(lane, before)
        self._bury(lane)

    # Refills.

    def next_refill(self, now: Now) -> Refill | None:
        """Return a read to be made, to be answered by `refilled` or `refill_failed`; call again until None."""
        return self._refills.next(now)

    def refilled(self, ticket: int, rows: Sequence[DueDelivery], now: Now) -> None:
        """Take in what a refill read. The rows of a void one (its lane was paused, or too much moved) are ignored."""
        self._stir(self._refills.end(ticket, rows))

    def refill_failed(self, ticket: int) -> None:
        """Hear that a refill could not be read; it is tried again a second after it began."""
        self._refills.fail(ticket)

    # Questions.

    def next_wake(self, now: Now) -> float | None:
        """Return in how many milliseconds something may become startable; None: not before there is news."""
        if self._running < self._global_limit and (self._ready or (self._suspects and self._suspects_may_start)):
            return 0.0
        waits = self._refills.first_wait_ms(now)
        for alarms, now_ms in ((self._wall, now.wall_ms), (self._rates, now.mono_ms)):
            at_ms = alarms.first_ms()
            if at_ms is not None:
                waits.append(at_ms - now_ms)
        return max(min(waits), 0.0) if waits else None

    def oldest_due_ms(self) -> int | None:
        """Return the earliest due time of what waits in memory; held endpoints keep nothing there."""
        return min((lane.memory.earliest_ms for lane in self._lanes.values() if lane.memory.waiting), default=None)

    def known(self, ref: int) -> set[int]:
        """Return the events whose deliveries to `ref` are in memory or in flight."""
        lane = self._lanes.get(ref)
        return set() if lane is None else lane.memory.known()

    def begin_audit(self, ref: int) -> bool:
        """Prepare for a read of the oldest due rows of `ref`; False when memory keeps nothing to compare them with."""
        lane = self._lanes.get(ref)
        return lane is not None and lane.memory.begin_audit()

    def audited(self, ref: int, rows: Iterable[DueDelivery], now: Now) -> list[DueDelivery]:
        """Compare with memory what an audit read, take in what was forgotten, and return it: each is a bug."""
        lane = self._lanes.get(ref)
        if lane is None:
            return []
        missing = lane.memory.end_audit(row for row in rows if row.due_ms <= now.wall_ms - AUDIT_AGE_MS)
        self.offer(missing, now)
        return missing

    def snapshot(self, ref: int, now: Now) -> LaneView | None:
        """Show a lane as it is now."""
        lane = self._lanes.get(ref)
        if lane is None:
            return None
        return LaneView(
            waiting=lane.memory.waiting,
            held=len(lane.memory.held),
            running=len(lane.running),
            window=lane.room(self._share),
            live=lane.memory.live,
            health=lane.health,
            cool_until_ms=lane.health.cool_until_ms,
            why_waiting=lane.why_waiting(now, self._share) or self._why_no_turn(lane),
            suspension=lane.suspension,
        )

    @property
    def _suspects_may_start(self) -> bool:
        return self._suspects_running < self._share

    def _ring(self, now: Now) -> None:
        for alarms, now_ms in ((self._wall, now.wall_ms), (self._rates, now.mono_ms)):
            for ref in alarms.ring(now_ms):
                if ref in self._lanes:
                    self._stir(self._lanes[ref])
        for ref in self._slow.ring(now.mono_ms):
            if ref in self._lanes:
                self._watch(self._lanes[ref], now)

    def _next_lane(self) -> Lane | None:
        """Take the lane that has waited longest; suspects wait aside while their share is used up."""
        ready, suspects = self._ready, self._suspects
        if suspects and self._suspects_may_start and not (ready and ready[0].turn < suspects[0].turn):
            return suspects.popleft()
        return ready.popleft() if ready else None

    def _turn(self, lane: Lane, now: Now) -> Start | None:
        """Start the lane's next delivery and queue it up again, or put it where it waits best."""
        if lane.suspect and not self._suspects_may_start:
            lane.parked = True
            self._suspects.append(lane)
            return None
        lane.queued = lane.parked = False
        delivery = lane.next_start(now, self._share)
        if delivery is None:
            self._set_alarm(lane, now)
            return None
        self._take_slot(lane, now)
        start = Start(delivery, lane.start(delivery, now), lane.suspension)
        self._stir(lane)
        return start

    def _set_alarm(self, lane: Lane, now: Now) -> None:
        wall_ms, mono_ms = lane.waits_until(now, self._share)
        if wall_ms is not None:
            self._wall.set(lane.ref, wall_ms)
        elif mono_ms is not None:
            self._rates.set(lane.ref, mono_ms)

    def _take_slot(self, lane: Lane, now: Now) -> None:
        self._refills.count(-1)
        self._running += 1
        if lane.suspect:
            self._suspects_running += 1
        if not lane.slow and lane.ref not in self._slow:
            self._slow.set(lane.ref, now.mono_ms + SLOW_MS)

    def _free_slot(self, lane: Lane) -> None:
        self._running -= 1
        if lane.suspect:
            self._suspects_running -= 1

    def _after_finish(self, lane: Lane, now: Now) -> None:
        if lane.slow:
            self._watch(lane, now)
        else:
            self._review(lane)
        self._stir(lane)

    def _watch(self, lane: Lane, now: Now) -> None:
        """See whether the lane is slow, and when to look again. One alarm serves all attempts of a lane."""
        started_ms = lane.oldest_start_ms()
        lane.slow = started_ms is not None and started_ms + SLOW_MS <= now.mono_ms
        if started_ms is not None and not lane.slow:
            self._slow.set(lane.ref, started_ms + SLOW_MS)
        self._review(lane)

    def _review(self, lane: Lane) -> None:
        """Count the lane among the suspects, or no longer."""
        suspect = lane.slow or lane.health.failures > 0
        if suspect == lane.suspect:
            return
        lane.suspect = suspect
        self._suspects_running += len(lane.running) if suspect else -len(lane.running)
        if lane.parked:
            self._suspects.remove(lane)
            lane.queued = lane.parked = False
            self._stir(lane)

    def _stir(self, lane: Lane) -> None:
        """Something about the lane changed: let it have its turn, and a refill if it wants one."""
        if not lane.queued and lane.memory.waiting:
            lane.queued = True
            self._turns += 1
            lane.turn = self._turns
            self._ready.append(lane)
        self._refills.stir(lane)

    def _stir_all(self) -> None:
        for lane in self._lanes.values():
            self._stir(lane)

    def _resized(self, lane: Lane, before: int) -> None:
        self._refills.count(lane.memory.waiting - before)
        self._stir(lane)

    def _close(self, lane: Lane) -> None:
        self._refills.count(-lane.memory.waiting)
        lane.memory.close()

    def _bury(self, lane: Lane) -> None:
        if lane.removed and not lane.memory.held:
            del self._lanes[lane.ref]

    def _why_no_turn(self, lane: Lane) -> str:
        if not lane.memory.waiting:
            return ""
        if self._running >= self._global_limit:
            return "all slots in use"
        return "suspects' share of slots in use" if lane.suspect and not self._suspects_may_start else ""
