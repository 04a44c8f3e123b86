"""Which lane reads the database, how much, and the bound on memory over all lanes (Q1, Q2).

A lane that is behind wants a refill when it falls under half of what it should hold. Commonly that is the lane's own
bound. A lane from which nothing may start yet, because its endpoint cools down, holds a handful. Near the common bound a
lane gets its share, and reads only what could start; the largest lane is evicted from to make room. So reading always
feeds starting, and lanes do not evict each other for nothing.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from relay.core.clock import Now
from relay.core.model import DueDelivery
from relay.queue.heap import KeyedHeap
from relay.queue.lane import Lane
from relay.queue.memory import EVERYTHING

HANDFUL = 8
"""What a lane keeps of its queue while its endpoint cools down."""

READS_MAX = 4
"""Refills under way at once."""

REREAD_MS = 1_000
"""A refill that failed is tried again so long after it began."""


class Refill(NamedTuple):
    """A read to be made: up to `limit` due rows of `ref`, keys from (from_due_ms, from_event) on, in key order."""

    ref: int
    ticket: int
    from_due_ms: int
    from_event: int
    limit: int


class _Reading(NamedTuple):
    lane: Lane
    limit: int
    began_ms: float


class Refills:
    """Counts what waits in all lanes, and hands out the reads. `Lanes` owns it, and the lanes."""

    def __init__(self, lanes: Mapping[int, Lane], *, lane_max: int, total_max: int) -> None:
        self._lanes = lanes
        self._lane_max = lane_max
        self._total_max = total_max
        self._waiting = 0  # deliveries that wait in all lanes
        self._sizes = KeyedHeap()  # minus a bound on what each lane has: what it had when it was largest
        self.asking: deque[Lane] = deque()  # to be asked how much they would read
        self._readings: dict[int, _Reading] = {}  # by ticket; each comes back once
        self._tickets = 0
        self._later = KeyedHeap()  # wall clock: lanes that need nothing before
        self._again = KeyedHeap()  # monotonic clock: lanes whose refill failed

    def changed(self, lane: Lane) -> None:
        """Count the lane anew, keep within the common bound, and see whether the lane wants a refill."""
        if lane.memory.waiting != lane.counted:
            self._count(lane)
            if self._waiting > self._total_max:
                self._make_room()
        if lane.memory.frontier != EVERYTHING:  # it is, nearly always
            self._ask(lane)

    def relieve(self, lane: Lane) -> None:
        """Leave a lane that cools down a handful of scheduled deliveries."""
        lane.memory.evict(min(lane.memory.waiting - HANDFUL, len(lane.memory.scheduled.order)))

    def forget(self, lane: Lane) -> None:
        """Forget a lane that is no more."""
        self._sizes.remove(lane.ref)

    def next(self, now: Now) -> Refill | None:
        """Return a read to be made."""
        for timers, now_ms in ((self._later, now.wall_ms), (self._again, now.mono_ms)):
            for ref in timers.pop_until(now_ms):
                if ref in self._lanes:
                    self._ask(self._lanes[ref])
        while self.asking and len(self._readings) < READS_MAX:
            lane = self.asking.popleft()
            lane.wants_refill = False
            target = self._target(lane, now) if self._may_read(lane) else 0
            if 2 * lane.memory.waiting < target:
                return self._begin(lane, target - lane.memory.waiting, now)
        return None

    def end(self, ticket: int, rows: Sequence[DueDelivery]) -> Lane:
        """Take in what a refill read, unless it is void; return the lane."""
        lane = self._readings.pop(ticket).lane
        if self._is_current(lane, ticket):
            lane.memory.merge(rows)
        return lane

    def fail(self, ticket: int) -> None:
        """Let the lane try again later, unless its refill was void."""
        lane, _, began_ms = self._readings.pop(ticket)
        if self._is_current(lane, ticket):
            lane.memory.read = None
            self._again.set(lane.ref, began_ms + REREAD_MS)

    def first_wait_ms(self, now: Now) -> list[float]:
        """Return after how many milliseconds, at the earliest, lanes want to read on each of the two clocks."""
        firsts = ((self._later.first(), now.wall_ms), (self._again.first(), now.mono_ms))
        return [first[0] - now_ms for first, now_ms in firsts if first is not None]

    def wall_stepped(self) -> None:
        """Forget the timers on the wall clock; `changed` is to be called for every lane."""
        self._later.clear()

    def _count(self, lane: Lane) -> None:
        """Count the lane anew. Only growth reaches the heap, so that its bound is never below what the lane has."""
        waiting = lane.memory.waiting
        self._waiting += waiting - lane.counted
        lane.counted = waiting
        if waiting > lane.size_bound:
            lane.size_bound = waiting
            self._sizes.set(lane.ref, -waiting)

    def _make_room(self) -> None:
        """Evict half of the largest lane, again and again until all lanes together keep to the bound."""
        while self._waiting > self._total_max:
            largest = self._largest()
            largest.memory.evict((largest.memory.waiting + 1) // 2)
            self._count(largest)
            self._ask(largest)

    def _largest(self) -> Lane:
        """Return the lane that holds most. Each bound that is found too high is lowered, once for each growth."""
        while True:
            first = self._sizes.first()
            assert first is not None, "what waits is in lanes"
            lane = self._lanes[first[1]]
            if lane.memory.waiting == lane.size_bound:
                return lane
            lane.size_bound = lane.memory.waiting
            self._sizes.set(lane.ref, -lane.size_bound)

    def _ask(self, lane: Lane) -> None:
        if not lane.wants_refill and 2 * lane.memory.waiting < self._lane_max and self._may_read(lane):
            lane.wants_refill = True
            self.asking.append(lane)

    def _may_read(self, lane: Lane) -> bool:
        memory = lane.memory
        return memory.opened and not memory.live and memory.read is None and lane.ref not in self._again

    def _target(self, lane: Lane, now: Now) -> int:
        """Return how many deliveries the lane should hold."""
        expected = sum(reading.limit for reading in self._readings.values())
        if self._waiting + expected + self._lane_max <= self._total_max:
            return self._lane_max if lane.opens_ms <= now.wall_ms else min(HANDFUL, self._lane_max)
        useful_ms = max(lane.opens_ms, lane.memory.frontier[0])
        if now.wall_ms < useful_ms:
            self._later.set(lane.ref, useful_ms)
            return 0
        return max(min(self._total_max // len(self._lanes), self._lane_max), 1)

    def _begin(self, lane: Lane, limit: int, now: Now) -> Refill:
        self._tickets += 1
        self._readings[self._tickets] = _Reading(lane, limit, now.mono_ms)
        lane.memory.begin(self._tickets, limit)
        return Refill(lane.ref, self._tickets, *lane.memory.frontier, limit)

    @staticmethod
    def _is_current(lane: Lane, ticket: int) -> bool:
        return lane.memory.read is not None and lane.memory.read.ticket == ticket
