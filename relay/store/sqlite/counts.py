"""How many deliveries are due and dead, by endpoint: counted when the database is opened, kept in step since.

What was submitted and is not answered yet is counted apart, as reserved. So what is stored can be counted anew at any
time, as it must be after a commit of which nobody knows whether it was kept.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from relay.core.model import Accepted, DeliveryKey, DeliveryState, NewEvent, Settlement
from relay.store.sqlite.accept import NONE_OVERFLOWED, AcceptBatch
from relay.store.sqlite.edits import Retried
from relay.store.values import AcceptResult

_DUE = "SELECT endpoint, count(*) FROM delivery INDEXED BY delivery_due WHERE state = 0 GROUP BY endpoint"
_DEAD = "SELECT endpoint, count(*) FROM delivery INDEXED BY delivery_dead WHERE state = 2 GROUP BY endpoint"


class Stored(NamedTuple):
    """What the database holds, by endpoint."""

    due: Mapping[int, int]
    dead: Mapping[int, int]


def count(connection: sqlite3.Connection) -> Stored:
    """Count due and dead deliveries from their indexes alone; O(due + dead)."""
    return Stored(dict(connection.execute(_DUE)), dict(connection.execute(_DEAD)))


class Counts:
    """Owner of the counts; belongs to the event loop. Each step is O(deliveries it is about)."""

    def __init__(self, stored: Stored) -> None:
        self._reserved: Counter[int] = Counter()
        self.reset(stored)

    def reset(self, stored: Stored) -> None:
        """Take what was counted in the database; what is reserved still stands. O(endpoints)"""
        self._due = Counter(stored.due)
        self.dead = Counter(stored.dead)
        self.backlog = sum(self._due.values()) + sum(self._reserved.values())

    def due(self, ref: int) -> int:
        """Due deliveries of an endpoint, those included that are being stored."""
        return self._due[ref] + self._reserved[ref]

    def reserve(self, events: Sequence[NewEvent], limit: int) -> AcceptBatch:
        """Count new deliveries as due from their submission on; those beyond an endpoint's backlog are dead (Q10)."""
        overflow = []
        for index, event in enumerate(events):
            for ref in event.targets:
                if self.due(ref) >= limit:
                    overflow.append((index, ref))
                else:
                    self._reserved[ref] += 1
                    self.backlog += 1
        return AcceptBatch(events, frozenset(overflow) if overflow else NONE_OVERFLOWED)

    def release(self, batch: AcceptBatch) -> None:
        """Take back what `reserve` counted: the batch is answered, or nothing of it was stored."""
        for index, event in enumerate(batch.events):
            for ref in event.targets:
                if (index, ref) not in batch.overflow:
                    self._reserved[ref] -= 1
                    self.backlog -= 1

    def accepted(self, batch: AcceptBatch, results: Sequence[AcceptResult]) -> None:
        """Count what was stored, in place of what was reserved for it."""
        self.release(batch)
        for index, (event, result) in enumerate(zip(batch.events, results, strict=True)):
            if not isinstance(result, Accepted) or result.reason is not None:
                continue  # a repeat, or held back after all: it has no deliveries
            for ref in event.targets:
                if (index, ref) in batch.overflow:
                    self.dead[ref] += 1
                else:
                    self._add_due(ref, 1)

    def settled(self, settlement: Settlement) -> None:
        """Follow a delivery that is not due any more."""
        ref = settlement.delivery.endpoint
        self._add_due(ref, -1)
        if settlement.state is DeliveryState.DEAD:
            self.dead[ref] += 1

    def retried(self, result: Retried) -> None:
        """Follow a manual retry."""
        ref = result.due.endpoint
        if result.before is not DeliveryState.DUE:
            self._add_due(ref, 1)
        if result.before is DeliveryState.DEAD:
            self.dead[ref] -= 1

    def cancelled(self, ref: int, count: int) -> None:
        """Follow deliveries of an endpoint that were cancelled."""
        self._add_due(ref, -count)

    def died(self, keys: Iterable[DeliveryKey]) -> None:
        """Follow due deliveries that ended dead."""
        for key in keys:
            self._add_due(key.endpoint, -1)
            self.dead[key.endpoint] += 1

    def pruned(self, dead: Mapping[int, int]) -> None:
        """Follow dead letters that were pruned, by endpoint."""
        self.dead.subtract(dead)

    def _add_due(self, ref: int, count: int) -> None:
        self._due[ref] += count
        self.backlog += count
