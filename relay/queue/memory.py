"""What a lane knows of its endpoint's due deliveries: a bounded head of the queue that the database is (Q1–Q3).

Deliveries are ordered by key, (due_ms, event). What a lane may rely on is one number, the *frontier*, and one law:

    Every due row of the endpoint whose key is below the frontier is in memory: waiting here, or reserved.

At `EVERYTHING` the lane is live: it knows all there is. At `NOTHING` it knows nothing. A delivery above the frontier is
left to the database; an eviction lowers the frontier to the key of what it evicts; a refill reads from the frontier on
and raises it. Three things keep the law while a refill reads, for its rows may be older than what was committed since:

- A delivery above the frontier goes to a bounded *side buffer*, which keeps the smallest keys.
- What is evicted from memory or from the side buffer lowers the *ceiling* of the read, which the new frontier cannot
  pass.
- Every delivery that is reserved, or that changed since the read began (*touched*), is skipped in the rows.

A delivery is *reserved* from the start of its attempt until its settle is committed; after that, `touched` guards it
against reads begun before (Q3). Deliveries retried by hand are kept even above the frontier: knowing more than the law
asks does no harm, and they must not wait behind a backlog (Q13).

Changes must arrive in the order of their commits. Every operation costs O(log k) comparisons and at most one shift of a
list, k being what the lane holds, 200 at most; evictions and merges cost that for each delivery they move. The lane
owns everything here.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from relay.core.model import DueDelivery

Key = tuple[int, int]  # (due_ms, event): the order of a lane

NOTHING: Key = (0, 0)
EVERYTHING: Key = (1 << 63, 0)


class SortedDeliveries:
    """Deliveries in key order, found by event."""

    __slots__ = ("by_event", "order")

    def __init__(self) -> None:
        self.order: list[Key] = []
        self.by_event: dict[int, DueDelivery] = {}

    def first(self) -> DueDelivery | None:
        """Return the delivery with the smallest key."""
        return self.by_event[self.order[0][1]] if self.order else None

    def last_due(self, now_ms: int) -> DueDelivery | None:
        """Return the delivery with the largest key that is due."""
        place = self.count_due(now_ms)
        return self.by_event[self.order[place - 1][1]] if place else None

    def first_but_replays(self, now_ms: int) -> DueDelivery | None:
        """Return the first delivery that is due and no replay. O(replays before it)"""
        for due_ms, event in self.order:
            if due_ms > now_ms:
                break
            if not self.by_event[event].replayed:
                return self.by_event[event]
        return None

    def count_due(self, now_ms: int) -> int:
        """Return how many are due."""
        return bisect_left(self.order, (now_ms + 1, 0))

    def add(self, delivery: DueDelivery) -> None:
        """Put in a delivery whose event is not here yet."""
        insort(self.order, (delivery.due_ms, delivery.event))
        self.by_event[delivery.event] = delivery

    def remove(self, event: int) -> bool:
        """Take out the delivery of `event`; return whether it was here."""
        delivery = self.by_event.pop(event, None)
        if delivery is None:
            return False
        del self.order[bisect_left(self.order, (delivery.due_ms, event))]
        return True

    def pop_last(self) -> Key:
        """Take out the delivery with the largest key, and return the key."""
        key = self.order.pop()
        del self.by_event[key[1]]
        return key

    def clear(self) -> None:
        self.order.clear()
        self.by_event.clear()


@dataclass(slots=True)
class Read:
    """A read of the database under way, and what has changed since it began."""

    ticket: int
    limit: int
    ceiling: Key = EVERYTHING
    side: SortedDeliveries = field(default_factory=SortedDeliveries)
    touched: set[int] = field(default_factory=set)


class Memory:
    """The head of one endpoint's queue. Closed, it keeps nothing but what is reserved."""

    __slots__ = (
        "_lane_max",
        "_side_max",
        "_superseding",
        "audit",
        "frontier",
        "manual",
        "opened",
        "read",
        "reserved",
        "scheduled",
        "waiting",
    )

    def __init__(self, *, lane_max: int, side_max: int) -> None:
        self._lane_max = lane_max
        self._side_max = side_max
        self._superseding: dict[int, DueDelivery] = {}  # later states of reserved deliveries, compared at their settle
        self.opened = False
        self.frontier = NOTHING
        self.scheduled = SortedDeliveries()
        self.manual = SortedDeliveries()  # retried by hand; perhaps above the frontier
        self.waiting = 0  # scheduled and manual together
        self.reserved: dict[int, DueDelivery] = {}
        self.read: Read | None = None  # the refill under way; None again when its rows would be of no use
        self.audit: Read | None = None

    @property
    def live(self) -> bool:
        return self.frontier == EVERYTHING

    def open(self, *, live: bool) -> None:
        """Start to keep deliveries; `live` says that none is due yet."""
        self.opened = True
        self.frontier = EVERYTHING if live else NOTHING

    def close(self) -> None:
        """Forget all that waits: the database has it. Reads under way are void."""
        self.opened = False
        self.frontier = NOTHING
        self.scheduled.clear()
        self.manual.clear()
        self.waiting = 0
        self.read = self.audit = None

    def offer(self, delivery: DueDelivery) -> None:
        """Take in a delivery that a commit made due: a new one, or a known one with another due time."""
        event = delivery.event
        if event in self.reserved:
            self._superseding[event] = _newest(self._superseding.get(event), delivery)
            return
        known = self._find(event)
        if known is not None and _version(delivery) < _version(known):
            return
        if known is not None:
            self._remove(event)
        if delivery.attempts or delivery.manual:  # else no older row of it can exist
            self._touch(event)
        if self.opened:
            self._keep(delivery)
            if self.waiting > self._lane_max:
                self.evict(1)

    def drop(self, event: int) -> None:
        """Take out a delivery that is no longer due. A reserved one stays reserved until its settle."""
        self._superseding.pop(event, None)
        self._remove(event)
        self._touch(event)

    def reserve(self, delivery: DueDelivery) -> None:
        """Reserve a waiting delivery: its attempt starts."""
        deliveries = self.manual if delivery.manual else self.scheduled
        deliveries.remove(delivery.event)
        self.waiting -= 1
        self.reserved[delivery.event] = delivery

    def release(self, event: int, due: DueDelivery | None) -> None:
        """End the reservation of a delivery whose settle is committed; `due` is what is due of it now."""
        started = self.reserved.pop(event)
        self._touch(event)
        later = self._superseding.pop(event, None)
        if later is not None and (due is not None or _version(later) > _version(started)):
            due = _newest(due, later)
        if due is not None:
            self.offer(due)

    def begin(self, ticket: int, limit: int) -> None:
        """Note that a refill starts to read up to `limit` rows from the frontier on."""
        self.read = Read(ticket, limit)

    def merge(self, rows: Sequence[DueDelivery]) -> None:
        """Take in what the refill read, in key order, and move the frontier to where its knowledge ends."""
        assert self.read is not None, "rows of a void read are not merged"
        read, self.read = self.read, None
        reached = (rows[-1].due_ms, rows[-1].event + 1) if len(rows) >= read.limit else EVERYTHING
        self.frontier = min(reached, read.ceiling)
        for delivery in read.side.by_event.values():
            self._keep(delivery)
        for row in rows:
            if not self._knows_better(row.event, read):
                self._keep(row)
        self.evict(self.waiting - self._lane_max)

    def begin_audit(self) -> bool:
        """Note that an audit starts to read due rows; False when there is nothing to compare them with."""
        self.audit = Read(ticket=0, limit=0) if self.opened else None
        return self.opened

    def end_audit(self, rows: Iterable[DueDelivery]) -> list[DueDelivery]:
        """Return those of the rows read that the law says must be known here, but are not."""
        audit, self.audit = self.audit, None
        if audit is None:
            return []
        owed = (row for row in rows if (row.due_ms, row.event) < self.frontier)
        return [row for row in owed if not self._knows_better(row.event, audit)]

    def evict(self, count: int) -> None:
        """Leave `count` deliveries, those with the largest keys, to the database."""
        for _ in range(count):
            deliveries = self.scheduled if self.scheduled.order else self.manual
            self._lower(deliveries.pop_last())
            self.waiting -= 1

    @property
    def earliest_ms(self) -> int:
        """The earliest due time here; ask only where something is."""
        return min(deliveries.order[0][0] for deliveries in (self.scheduled, self.manual) if deliveries.order)

    def _find(self, event: int) -> DueDelivery | None:
        side = None if self.read is None else self.read.side.by_event.get(event)
        return side or self.scheduled.by_event.get(event) or self.manual.by_event.get(event)

    def _keep(self, delivery: DueDelivery) -> None:
        if delivery.manual:
            self.manual.add(delivery)
            self.waiting += 1
        elif (delivery.due_ms, delivery.event) < self.frontier:
            self.scheduled.add(delivery)
            self.waiting += 1
        elif self.read is not None:
            self.read.side.add(delivery)
            if len(self.read.side.order) > self._side_max:
                self.read.ceiling = min(self.read.ceiling, self.read.side.pop_last())

    def _lower(self, key: Key) -> None:
        self.frontier = min(self.frontier, key)
        if self.read is not None:
            self.read.ceiling = min(self.read.ceiling, key)

    def _knows_better(self, event: int, read: Read) -> bool:
        return event in self.reserved or event in read.touched or self._find(event) is not None

    def _remove(self, event: int) -> None:
        self.waiting -= self.scheduled.remove(event) + self.manual.remove(event)
        if self.read is not None:
            self.read.side.remove(event)

    def _touch(self, event: int) -> None:
        """Mark rows of the delivery that reads under way may bring as stale."""
        if self.read is not None:
            self.read = self._touched(self.read, event)
        if self.audit is not None:
            self.audit = self._touched(self.audit, event)

    def _touched(self, read: Read, event: int) -> Read | None:
        read.touched.add(event)
        return read if len(read.touched) <= self._side_max else None  # so much has moved that its rows help little


def _version(delivery: DueDelivery) -> tuple[int, int]:
    return delivery.series, delivery.attempts


def _newest(known: DueDelivery | None, other: DueDelivery) -> DueDelivery:
    """Return the later of two states of one delivery; `other` if neither is."""
    return other if known is None or _version(other) >= _version(known) else known
