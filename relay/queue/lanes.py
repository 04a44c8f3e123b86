"""Which deliveries start: every limit in one place, and each lane asked at its turn (Q4).

Every lane with something waiting is in one of these places:

- in `_turns`, where it waits for its turn and a slot: then it starts one delivery and queues up again, or it cannot and
  goes to one of the places below;
- under a timer, when only time can help: due times and cool-downs on the wall clock, rates on the monotonic one, so
  a step of the wall clock moves just what it should (Q15);
- nowhere, when its window is full or its probe is out: the end of an attempt queues it up.

Whatever changes a lane queues it up (`_changed`), and nothing but its turn decides (`_turn`). So no limit can be passed
elsewhere, and no decision can be forgotten. `take` costs a step for each start and each lane that changed, no more.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from relay.core.clock import Now
from relay.core.model import DeliveryKey, DueDelivery, Health
from relay.queue.health import Suspension
from relay.queue.heap import KeyedHeap
from relay.queue.lane import Lane, LaneSettings, Running
from relay.queue.memory import Memory
from relay.queue.refills import Refill, Refills
from relay.queue.retry import Classification
from relay.queue.slots import SILENT_MS, Kind, Slots
from relay.queue.turns import Turns

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
        self, concurrency: int, rng: Random, *, lane_max: int = 200, total_max: int = 20_000, side_max: int = 1_000
    ) -> None:
        self._rng = rng
        self._lane_max = lane_max
        self._side_max = side_max
        self._slots = Slots(concurrency)
        self._lanes: dict[int, Lane] = {}
        self._turns = Turns(self._lanes, self._slots)
        self._refills = Refills(self._lanes, lane_max=lane_max, total_max=total_max)
        self._young: deque[tuple[Lane, int, Running]] = deque()  # attempts, with their events, oldest first
        self._wall = KeyedHeap()  # due times, cool-downs, Retry-After
        self._rates = KeyedHeap()
        self._of_note: set[int] = set()  # refs

    @property
    def of_note(self) -> Collection[int]:
        """Endpoints that are held or suspended, or did anything but succeed since their last success; a view. O(1)."""
        return self._of_note

    @property
    def in_flight(self) -> int:
        """Attempts under way. O(1)."""
        return self._slots.total.in_flight

    # What the configuration says.

    def configure(self, ref: int, settings: LaneSettings, health: Health | None, due_count: int, now: Now) -> None:
        """Create a lane, or change it; `health` None keeps the health it has. O(log n), and what a pause leaves.

        `due_count`, rows due in the database, matters to a new lane only: without any it is live at once.
        """
        lane = self._lanes.get(ref)
        new = lane is None or lane.removed
        if lane is None:
            memory = Memory(lane_max=self._lane_max, side_max=self._side_max)
            lane = self._lanes[ref] = Lane(ref, self._turns.join(settings.application), settings, memory)
        lane.removed = False
        lane.configure(settings)
        if health is not None:
            lane.become(health)
            lane.clamp_waits(now.wall_ms)
        if settings.held:
            lane.memory.close()
        elif not lane.memory.opened:
            lane.memory.open(live=new and due_count == 0)
        self._note(lane)
        self._review(lane)
        self._changed(lane)

    def remove(self, ref: int) -> None:
        """Forget a lane. What it has in flight still counts until it is settled. O(log n), and what waits in it."""
        lane = self._lanes.get(ref)
        if lane is not None:
            lane.memory.close()
            lane.removed = True
            self._note(lane)
            self._changed(lane)
            self._forget_removed(lane)

    def end_waits(self, ref: int) -> Health | None:
        """End an endpoint's cool-down and `Retry-After`; return its health if that changed it. O(log n)"""
        lane = self._lanes.get(ref)
        if lane is None or lane.removed or not lane.end_waits():
            return None
        self._note(lane)
        self._changed(lane)
        return lane.health

    def set_concurrency(self, concurrency: int) -> None:
        """Change how many attempts may run at once; more than that may be running, and finish. O(n)."""
        self._slots.concurrency = concurrency
        for lane in self._lanes.values():
            self._changed(lane)
            self._turns.freed(lane.application)

    def wall_stepped(self, now: Now) -> None:
        """Look at every lane again: the wall clock jumped (Q15). O(n)."""
        self._wall.clear()
        self._refills.wall_stepped()
        for lane in self._lanes.values():
            lane.clamp_waits(now.wall_ms)
            self._note(lane)
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

    def take(self, now: Now, most: float = math.inf) -> list[Start]:
        """Choose what starts now, at most so many. Each is reserved until `settled`, and runs until `finished` or `finished_unsent`.

        O(log n) for each start, each lane that changed since the last call, and each timer that ran out.
        """
        self._run_timers(now)
        starts: list[Start] = []
        while len(starts) < most and (lane := self._turns.next()) is not None:
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
        self._notice_silence(now)
        lane = self._lanes[key.endpoint]
        self._free_slot(lane, key.event)
        health = lane.finish(key.event, verdict, now, self._slots.endpoint_max, self._rng)
        if health is not None or key.endpoint in self._of_note:
            self._note(lane)
        if lane.cooling:
            self._refills.relieve(lane)
        self._after_attempt(lane)
        return None if lane.removed else health

    def finished_unsent(self, key: DeliveryKey) -> None:
        """End an attempt that is not made after all (expired, corrupt, stopping). O(log n)."""
        lane = self._lanes[key.endpoint]
        self._free_slot(lane, key.event)
        lane.stop(key.event)
        self._after_attempt(lane)

    def suspend(self, key: DeliveryKey, cause: str, now: Now) -> Suspension | None:
        """End an attempt that a mistake of our own stopped: its endpoint waits. O(log n).

        Return the suspension when it begins, or begins anew after its probe.
        """
        lane = self._lanes[key.endpoint]
        suspension = lane.suspend(cause, now)
        self._note(lane)
        self.finished_unsent(key)
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
        return self._turns.is_open or bool(self._refills.asking)

    def next_wake(self, now: Now) -> float | None:
        """Return in how many milliseconds something may become startable; None: not before something changes. O(log n)."""
        if self._turns.is_open:
            return 0.0
        waits = self._refills.first_wait_ms(now)
        if self._turns.is_anybody_waiting and (first_young := self._first_young()) is not None:
            waits.append(first_young.started_ms + SILENT_MS - now.mono_ms)
        for timers, now_ms in ((self._wall, now.wall_ms), (self._rates, now.mono_ms)):
            first = timers.first()
            if first is not None:
                waits.append(first[0] - now_ms)
        return max(min(waits), 0.0) if waits else None

    def oldest_due_ms(self, refs: Iterable[int]) -> int | None:
        """Return the earliest due time of what waits in memory for these endpoints. O(as many)

        Held endpoints keep nothing there.
        """
        lanes = [self._lanes[ref] for ref in refs if ref in self._lanes]
        return min((lane.memory.earliest_ms for lane in lanes if lane.memory.waiting), default=None)

    def spare(self, ref: int, now: Now) -> int:
        """Return how many replays an endpoint may be given so that nothing else waits for them; 0 for none. O(log n)

        Only half of the slots are for replays, as far as they are free.
        """
        lane = self._lanes.get(ref)
        free = self._slots.concurrency // 2 - self._slots.total.in_flight
        if lane is None or lane.removed or free <= 0:
            return 0
        return max(min(lane.spare(now, self._slots.endpoint_max), free), 0)

    def snapshot(self, ref: int, now: Now) -> LaneView | None:
        """Show a lane as it is now. O(1)."""
        lane = self._lanes.get(ref)
        if lane is None:
            return None
        return LaneView(
            waiting=lane.memory.waiting,
            reserved=len(lane.memory.reserved),
            running=len(lane.running),
            window=lane.room(self._slots.endpoint_max),
            live=lane.memory.live,
            health=lane.health,
            cool_until_ms=lane.health.cool_until_ms,
            why_waiting=lane.why_waiting(now, self._slots.endpoint_max) or self._why_no_turn(lane),
            suspension=lane.suspension,
        )

    def _note(self, lane: Lane) -> None:
        """Keep in step which endpoints are of note, after anything that may change it."""
        is_of_note = lane.is_of_note and not lane.removed
        (self._of_note.add if is_of_note else self._of_note.discard)(lane.ref)

    def _run_timers(self, now: Now) -> None:
        for timers, now_ms in ((self._wall, now.wall_ms), (self._rates, now.mono_ms)):
            for ref in timers.pop_until(now_ms):
                if ref in self._lanes:
                    self._changed(self._lanes[ref])
        self._notice_silence(now)

    def _notice_silence(self, now: Now) -> None:
        """Let attempts that have run for a second leave their slots: their endpoints are doubtful now."""
        while (first := self._first_young()) is not None and first.started_ms + SILENT_MS <= now.mono_ms:
            lane, _, attempt = self._young.popleft()
            self._slots.count(lane.application, _young_kind(lane), -1)
            self._slots.count(lane.application, Kind.SILENT, 1)
            lane.fall_silent(attempt)
            self._review(lane)
            self._turns.freed(lane.application)

    def _first_young(self) -> Running | None:
        """Return the oldest young attempt; those before it that have ended are cleared away."""
        while self._young:
            lane, event, attempt = self._young[0]
            if lane.running.get(event) is attempt:
                return attempt
            self._young.popleft()
        return None

    def _turn(self, lane: Lane, now: Now) -> Start | None:
        """Start the lane's next delivery and queue it up again, or put it where it waits best."""
        delivery = lane.next_start(now, self._slots.endpoint_max)
        if delivery is None:
            self._set_timer(lane, now)
            return None
        self._slots.count(lane.application, _young_kind(lane), 1)
        start = Start(delivery, lane.start(delivery, now), lane.suspension)
        self._young.append((lane, delivery.event, lane.running[delivery.event]))
        self._changed(lane)
        return start

    def _set_timer(self, lane: Lane, now: Now) -> None:
        wall_ms, mono_ms = lane.waits_until(now, self._slots.endpoint_max)
        if wall_ms is not None:
            self._wall.set(lane.ref, wall_ms)
        elif mono_ms is not None and mono_ms < math.inf:
            self._rates.set(lane.ref, mono_ms)

    def _free_slot(self, lane: Lane, event: int) -> None:
        kind = Kind.SILENT if lane.running[event].silent else _young_kind(lane)
        self._slots.count(lane.application, kind, -1)

    def _after_attempt(self, lane: Lane) -> None:
        self._review(lane)
        self._changed(lane)
        self._turns.freed(lane.application)

    def _review(self, lane: Lane) -> None:
        """Judge the endpoint anew: its young attempts, and its place among those that wait, go with its kind."""
        kind = lane.judge()
        if kind is lane.kind:
            return
        self._slots.count(lane.application, _young_kind(lane), -lane.young)
        lane.kind = kind
        self._slots.count(lane.application, _young_kind(lane), lane.young)
        if lane.turn:
            lane.turn = 0
            self._turns.add(lane)
        self._turns.freed(lane.application)

    def _changed(self, lane: Lane) -> None:
        """Something about the lane changed: count it anew, let it have its turn, and a refill if it wants one."""
        if lane.memory.waiting:
            self._turns.add(lane)
        self._refills.changed(lane)

    def _forget_removed(self, lane: Lane) -> None:
        if not lane.memory.reserved:
            del self._lanes[lane.ref]
            self._refills.forget(lane)
            self._turns.leave(lane.application)

    def _why_no_turn(self, lane: Lane) -> str:
        obstacle = self._slots.obstacle(lane.application, lane.kind) if lane.memory.waiting else None
        return "" if obstacle is None else obstacle.value


def _young_kind(lane: Lane) -> Kind:
    """Return the kind of the lane's young attempts."""
    return Kind.ANSWERING if lane.kind is Kind.ANSWERING else Kind.DOUBTFUL
