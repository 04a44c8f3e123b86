"""How many deliveries are due (and the bytes they are charged) and dead, by endpoint (and by reason): counted when the database is opened, kept in step since.

What was submitted and is not answered yet is counted apart, as reserved. So what is stored can be counted anew at any
time, as it must be after a commit of which nobody knows whether it was kept.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from relay.core.frozen import share_bytes
from relay.core.model import Accepted, DeadReason, DueDelivery, NewEvent
from relay.store.sqlite.accept import Batch
from relay.store.values import AcceptResult, Usage

T = TypeVar("T")

_DUE = """
    SELECT endpoint, count(*), sum(share) FROM delivery INDEXED BY delivery_due WHERE state = 0 GROUP BY endpoint"""
_DEAD = """
    SELECT endpoint, reason, count(*) FROM delivery INDEXED BY delivery_dead_group WHERE state = 2
    GROUP BY endpoint, reason"""

_OVERFLOW = DeadReason.OVERFLOW.value
_NONE: frozenset[int] = frozenset()

Move = tuple[int, int, int, int, str | None]
"""An endpoint, how many more of its deliveries are due now, the bytes of their shares, how many more are dead, and of what
reason."""


class Change(NamedTuple, Generic[T]):
    """What a write made of the database: its answer, and what memory follows when it is committed."""

    answer: T
    moves: Sequence[Move] = ()
    promoted: Sequence[DueDelivery] = ()  # their turn has come
    deleted: Sequence[int] = ()  # endpoints
    owners: Mapping[int, int] = {}  # the application of endpoints that may never have had a delivery


class Stored(NamedTuple):
    """What the database holds, by endpoint."""

    due: Mapping[int, tuple[int, int]]  # and the bytes of their shares
    dead: Mapping[tuple[int, str], int]  # by reason as well
    owners: Mapping[int, int]  # the application of each endpoint


def count(connection: sqlite3.Connection) -> Stored:
    """Count due and dead deliveries from their indexes alone; O(due + dead).

    Part of every start, and of a transaction after a commit of which nobody knows whether it was kept: about 0.1 s for
    each million, in which the writer does nothing else.
    """
    dead = {(ref, reason): dead for ref, reason, dead in connection.execute(_DEAD)}
    owners = dict(connection.execute("SELECT ref, application FROM endpoint").fetchall())
    return Stored({ref: (due, size) for ref, due, size in connection.execute(_DUE)}, dead, owners)


class Counts:
    """Owner of the counts; belongs to the event loop. Each step is O(deliveries it is about)."""

    def __init__(self) -> None:
        self._reserved: Counter[int] = Counter()
        self._reserved_bytes: Counter[int] = Counter()  # by application
        self._reserved_of: Counter[int] = Counter()  # deliveries, by application
        self.reset(Stored({}, {}, {}))

    def reset(self, stored: Stored) -> None:
        """Take what was counted in the database; what is reserved still stands. O(endpoints)"""
        self._due = Counter({ref: due for ref, (due, _) in stored.due.items()})
        self.dead: Counter[int] = Counter()
        self.dead_by_reason = Counter(stored.dead)
        for (ref, _), dead in stored.dead.items():
            self.dead[ref] += dead
        self.all_dead = sum(stored.dead.values())
        self.backlog = sum(self._due.values()) + sum(self._reserved.values())
        self._owners = dict(stored.owners)
        self._due_of: Counter[int] = Counter()
        self._bytes_of: Counter[int] = Counter()  # by application
        for ref, (due, size) in stored.due.items():
            self._due_of[self._owners[ref]] += due
            self._bytes_of[self._owners[ref]] += size

    def due(self, ref: int) -> int:
        """Due deliveries of an endpoint, those included that are being stored."""
        return self._due[ref] + self._reserved[ref]

    def owing(self) -> dict[int, int]:
        """Due deliveries of every endpoint that has any. O(those, and those that had some since this was last asked)

        What fell to nothing is cleared away here, where hardly anybody asks, and not where every delivery passes.
        """
        for counts in (self._due, self._reserved):
            for ref in [ref for ref, count in counts.items() if not count]:
                del counts[ref]
        return {ref: self.due(ref) for ref in (*self._due, *self._reserved)}

    def usage(self, application: int) -> Usage:
        """What an application has due, that included which is being stored; O(1)."""
        return Usage(
            self._due_of[application] + self._reserved_of[application],
            self._bytes_of[application] + self._reserved_bytes[application],
        )

    def reserve(self, events: Sequence[NewEvent], limit: int) -> Batch:
        """Count new deliveries as due from their submission on; those beyond an endpoint's backlog are dead (Q10)."""
        batch = []
        due, reserved = self._due, self._reserved
        for event in events:
            overflowed = []
            for ref in event.targets:
                if due[ref] + reserved[ref] >= limit:
                    overflowed.append(ref)
                else:
                    reserved[ref] += 1
                    self._owners[ref] = event.application
            self._hold(event, len(event.targets) - len(overflowed))
            batch.append((event, frozenset(overflowed) if overflowed else _NONE))
        return batch

    def _hold(self, event: NewEvent, deliveries: int) -> None:
        """Count deliveries of an event as reserved; less than none end that."""
        self._reserved_of[event.application] += deliveries
        self._reserved_bytes[event.application] += deliveries * event.share_bytes
        self.backlog += deliveries

    def release(self, batch: Batch) -> None:
        """Take back what `reserve` counted: the batch is answered, or nothing of it was stored."""
        for event, overflowed in batch:
            for ref in event.targets:
                if ref not in overflowed:
                    self._reserved[ref] -= 1
            self._hold(event, len(overflowed) - len(event.targets))

    def accepted(self, batch: Batch, results: Sequence[AcceptResult]) -> None:
        """Count what was stored, in place of what was reserved for it."""
        self.release(batch)
        for (event, overflowed), result in zip(batch, results, strict=True):
            if isinstance(result, Accepted) and result.reason is None:  # not a repeat, nor held back after all
                share = share_bytes(result.event.body, result.event.variants, event.targets)
                dead, due = (0, 0, 1, _OVERFLOW), (1, share, 0, None)
                self.apply([(ref, *(dead if ref in overflowed else due)) for ref in event.targets])

    def adopt(self, owners: Mapping[int, int]) -> None:
        """Learn the applications of endpoints."""
        self._owners.update(owners)

    def apply(self, moves: Iterable[Move]) -> None:
        """Follow what a commit changed."""
        for ref, due, size, dead, reason in moves:
            owner = self._owners[ref]
            self._due[ref] += due
            self._due_of[owner] += due
            self._bytes_of[owner] += size
            self.backlog += due
            if reason is not None:
                self.dead[ref] += dead
                self.all_dead += dead
                self.dead_by_reason[ref, reason] += dead

    def dead_groups(self) -> list[tuple[int, str, int]]:
        """List endpoint, reason and count of the dead letters; O(groups)."""
        return [(ref, reason, dead) for (ref, reason), dead in self.dead_by_reason.items() if dead > 0]
