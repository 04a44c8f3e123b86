"""What a lane knows of its endpoint's due deliveries: a bounded head of the queue that the database is (Q1–Q3).

Deliveries are ordered by key, (due_ms, event). The whole of a lane's honesty is one number, the *frontier*, and one law:

    Every due row of the endpoint whose key is below the frontier is on a shelf here or held.

At `EVERYTHING` the lane is live: it knows all there is. At `NOTHING` it knows nothing. News above the frontier is left
to the database; what must make room lowers the frontier to its own key; a refill reads from the frontier on and raises
it. Three things keep the law while a refill's read is under way, for its rows may be older than what memory has heard
since it began:

- News above the frontier goes to a bounded *side* shelf, which keeps the smallest keys.
- Whatever leaves memory or the side shelf for want of room lowers the read's *ceiling*, which the new frontier
  cannot pass.
- Every delivery that is held, or that memory heard news of (*touched*), is skipped in the rows: memory knows better.

A delivery is *held* from the start of its attempt until its settle is committed; after that, `touched` guards it
against reads begun before (Q3). Deliveries retried by hand are kept even above the frontier: knowing more than the law
asks does no harm, and they must not wait behind a backlog (Q13).

News must arrive in the order of the commits it tells of. Owner of everything here: the lane.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from relay.model import DueDelivery

Key = tuple[int, int]  # (due_ms, event): the order of a lane

NOTHING: Key = (0, 0)
EVERYTHING: Key = (1 << 63, 0)


class Shelf:
    """Deliveries in key order, found by event."""

    __slots__ = ("_by_event", "_order")

    def __init__(self) -> None:
        self._order: list[Key] = []
        self._by_event: dict[int, DueDelivery] = {}

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[DueDelivery]:
        return iter(self._by_event.values())

    def get(self, event: int) -> DueDelivery | None:
        return self._by_event.get(event)

    def first(self) -> DueDelivery | None:
        """Return the delivery with the smallest key."""
        return self._by_event[self._order[0][1]] if self._order else None

    def add(self, delivery: DueDelivery) -> None:
        """Put in a delivery whose event is not here yet."""
        insort(self._order, (delivery.due_ms, delivery.event))
        self._by_event[delivery.event] = delivery

    def remove(self, event: int) -> None:
        """Take out the delivery of `event`, if it is here."""
        delivery = self._by_event.pop(event, None)
        if delivery is not None:
            del self._order[bisect_left(self._order, (delivery.due_ms, event))]

    def pop_last(self) -> Key:
        """Take out the delivery with the largest key, and return the key."""
        key = self._order.pop()
        del self._by_event[key[1]]
        return key

    def clear(self) -> None:
        self._order.clear()
        self._by_event.clear()


@dataclass(slots=True)
class Read:
    """A read of the database under way, and what memory has heard since it began."""

    ticket: int
    limit: int
    ceiling: Key = EVERYTHING
    side: Shelf = field(default_factory=Shelf)
    touched: set[int] = field(default_factory=set)


class Memory:
    """The head of one endpoint's queue. Closed, it keeps nothing but what is held."""

    __slots__ = (
        "_lane_max",
        "_side_max",
        "_superseding",
        "audit",
        "frontier",
        "held",
        "manual",
        "opened",
        "read",
        "scheduled",
    )

    def __init__(self, *, lane_max: int, side_max: int) -> None:
        self._lane_max = lane_max
        self._side_max = side_max
        self._superseding: dict[int, DueDelivery] = {}  # news of held deliveries, weighed when they settle
        self.opened = False
        self.frontier = NOTHING
        self.scheduled = Shelf()
        self.manual = Shelf()  # retried by hand; perhaps above the frontier
        self.held: dict[int, DueDelivery] = {}
        self.read: Read | None = None  # the refill under way; None again when its rows would be of no use
        self.audit: Read | None = None

    def __len__(self) -> int:
        """Count what waits on the shelves."""
        return len(self.scheduled) + len(self.manual)

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
        self.read = self.audit = None

    def offer(self, delivery: DueDelivery) -> None:
        """Hear that a delivery is due, as just committed: a new one, or a known one with another due time."""
        event = delivery.event
        if event in self.held:
            self._superseding[event] = _newest(self._superseding.get(event), delivery)
            return
        known = self._find(event)
        if known is not None and _version(delivery) < _version(known):
            return
        if delivery.attempts or delivery.manual or known is not None:  # else no older row of it can exist
            self._hear_of(event)
        if self.opened:
            self._keep(delivery)
            self.shed(len(self) - self._lane_max)

    def drop(self, event: int) -> None:
        """Hear that a delivery is no longer due. A held one stays held until its settle."""
        self._superseding.pop(event, None)
        self._hear_of(event)

    def hold(self, delivery: DueDelivery) -> None:
        """Take a waiting delivery off its shelf: its attempt starts."""
        shelf = self.manual if delivery.manual else self.scheduled
        shelf.remove(delivery.event)
        self.held[delivery.event] = delivery

    def release(self, event: int, due: DueDelivery | None) -> None:
        """Hear that the settle of a held delivery is committed, and what is due of it now."""
        started = self.held.pop(event)
        self._hear_of(event)
        news = self._superseding.pop(event, None)
        if news is not None and (due is not None or _version(news) > _version(started)):
            due = _newest(due, news)
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
        for delivery in read.side:
            self._keep(delivery)
        for row in rows:
            if not self._knows_better(row.event, read):
                self._keep(row)
        self.shed(len(self) - self._lane_max)

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

    def shed(self, count: int) -> None:
        """Leave `count` deliveries, those with the largest keys, to the database."""
        for _ in range(count):
            self._lower((self.scheduled or self.manual).pop_last())

    def known(self) -> set[int]:
        """Return the events of all deliveries in memory."""
        return {*self.held, *(d.event for d in self.scheduled), *(d.event for d in self.manual)}

    def _find(self, event: int) -> DueDelivery | None:
        side = None if self.read is None else self.read.side.get(event)
        return side or self.scheduled.get(event) or self.manual.get(event)

    def _keep(self, delivery: DueDelivery) -> None:
        if delivery.manual:
            self.manual.add(delivery)
        elif (delivery.due_ms, delivery.event) < self.frontier:
            self.scheduled.add(delivery)
        elif self.read is not None:
            self.read.side.add(delivery)
            if len(self.read.side) > self._side_max:
                self.read.ceiling = min(self.read.ceiling, self.read.side.pop_last())

    def _lower(self, key: Key) -> None:
        self.frontier = min(self.frontier, key)
        if self.read is not None:
            self.read.ceiling = min(self.read.ceiling, key)

    def _knows_better(self, event: int, read: Read) -> bool:
        return (
            event in self.held
            or event in read.touched
            or self.scheduled.get(event) is not None
            or self.manual.get(event) is not None
        )

    def _hear_of(self, event: int) -> None:
        """Take the delivery out of memory, and mark older rows of it as stale."""
        self.scheduled.remove(event)
        self.manual.remove(event)
        if self.read is not None:
            self.read.side.remove(event)
            self.read = self._touched(self.read, event)
        if self.audit is not None:
            self.audit = self._touched(self.audit, event)

    def _touched(self, read: Read, event: int) -> Read | None:
        read.touched.add(event)
        return read if len(read.touched) <= self._side_max else None  # so much has moved that its rows help little


def _version(delivery: DueDelivery) -> tuple[int, int]:
    return delivery.series, delivery.attempts


def _newest(known: DueDelivery | None, news: DueDelivery) -> DueDelivery:
    """Return the later of two states of one delivery; `news` if they are of one age."""
    return news if known is None or _version(news) >= _version(known) else known
