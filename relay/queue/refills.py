"""Which lane reads the database, how much, and the bound on memory over all lanes (Q1, Q2).

A lane that is behind wants a refill when it falls under half of its *appetite*. Commonly that is the lane's own bound.
A lane from which nothing may start yet, because its endpoint cools down, is content with a handful. Near the common
bound a lane gets its share, and reads only what could start; whoever has most makes room. So reading always feeds
starting, and lanes cannot chase each other out of memory for nothing.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from relay.core.clock import Now
from relay.core.model import DueDelivery
from relay.queue.alarms import Alarms
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
    """Counts what waits in all lanes, and hands out the reads. Owner: the choice among lanes, which owns `lanes`."""

    def __init__(self, lanes: Mapping[int, Lane], *, lane_max: int, total_max: int) -> None:
        self._lanes = lanes
        self._lane_max = lane_max
        self._total_max = total_max
        self._waiting = 0  # deliveries on all shelves
        self._hungry: deque[Lane] = deque()  # to be asked for their appetite
        self._readings: dict[int, _Reading] = {}  # by ticket; each comes back once
        self._tickets = 0
        self._later = Alarms()  # wall clock: lanes that need nothing before
        self._again = Alarms()  # monotonic clock: lanes whose refill failed

    def stir(self, lane: Lane) -> None:
        """Something about the lane changed: ask it for its appetite when a read is free."""
        if lane.hungry or lane.memory.frontier == EVERYTHING:  # said first: so it is nearly always
            return
        if 2 * lane.memory.waiting < self._lane_max and self._may_read(lane):
            lane.hungry = True
            self._hungry.append(lane)

    def count(self, change: int) -> None:
        """Keep count of what waits; the largest lanes make room when it is too much."""
        self._waiting += change
        while self._waiting > self._total_max:
            largest = max(self._lanes.values(), key=lambda lane: lane.memory.waiting)
            self._shed(largest, (largest.memory.waiting + 1) // 2)
            self.stir(largest)

    def trim(self, lane: Lane) -> None:
        """Leave a lane that cools down a handful of scheduled deliveries."""
        self._shed(lane, min(lane.memory.waiting - HANDFUL, len(lane.memory.scheduled.order)))

    def next(self, now: Now) -> Refill | None:
        """Return a read to be made."""
        for alarms, now_ms in ((self._later, now.wall_ms), (self._again, now.mono_ms)):
            for ref in alarms.ring(now_ms):
                if ref in self._lanes:
                    self.stir(self._lanes[ref])
        while self._hungry and len(self._readings) < READS_MAX:
            lane = self._hungry.popleft()
            lane.hungry = False
            appetite = self._appetite(lane, now) if self._may_read(lane) else 0
            if 2 * lane.memory.waiting < appetite:
                return self._begin(lane, appetite - lane.memory.waiting, now)
        return None

    def end(self, ticket: int, rows: Sequence[DueDelivery]) -> Lane:
        """Take in what a refill read, unless it is void; return the lane."""
        lane = self._readings.pop(ticket).lane
        before = lane.memory.waiting
        if self._is_current(lane, ticket):
            lane.memory.merge(rows)
        self.count(lane.memory.waiting - before)
        return lane

    def fail(self, ticket: int) -> None:
        """Let the lane try again later, unless its refill was void."""
        lane, _, began_ms = self._readings.pop(ticket)
        if self._is_current(lane, ticket):
            lane.memory.read = None
            self._again.set(lane.ref, began_ms + REREAD_MS)

    def first_wait_ms(self, now: Now) -> list[float]:
        """Return after how many milliseconds, at the earliest, lanes want to read on each of the two clocks."""
        firsts = ((self._later.first_ms(), now.wall_ms), (self._again.first_ms(), now.mono_ms))
        return [at_ms - now_ms for at_ms, now_ms in firsts if at_ms is not None]

    def wall_stepped(self) -> None:
        """Forget the alarms on the wall clock; every lane is to be stirred."""
        self._later.clear()

    def _may_read(self, lane: Lane) -> bool:
        memory = lane.memory
        return memory.opened and not memory.live and memory.read is None and lane.ref not in self._again

    def _appetite(self, lane: Lane, now: Now) -> int:
        """Return up to how many deliveries the lane should have in memory."""
        reserved = sum(reading.limit for reading in self._readings.values())
        if self._waiting + reserved + self._lane_max <= self._total_max:
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

    def _shed(self, lane: Lane, count: int) -> None:
        if count > 0:
            lane.memory.shed(count)
            self._waiting -= count

    @staticmethod
    def _is_current(lane: Lane, ticket: int) -> bool:
        return lane.memory.read is not None and lane.memory.read.ticket == ticket
