"""How many deliveries are due and dead, by endpoint: counted when the database is opened, kept in step since."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from relay.core.model import Accepted, DeliveryKey, DeliveryState, NewEvent, Settlement
from relay.store.rows import AcceptResult
from relay.store.sqlite.accept import NONE_OVERFLOWED, AcceptBatch
from relay.store.sqlite.edits import Retried


class Counts:
    """Owner of the counts; belongs to the event loop."""

    def __init__(self, due: Mapping[int, int], dead: Mapping[int, int]) -> None:
        self.due = Counter(due)
        self.dead = Counter(dead)
        self.backlog = sum(due.values())

    def reserve(self, events: Sequence[NewEvent], limit: int) -> AcceptBatch:
        """Count new deliveries as due from their submission on; those beyond an endpoint's backlog are dead (Q10)."""
        overflow = []
        for index, event in enumerate(events):
            for ref in event.targets:
                if self.due[ref] >= limit:
                    overflow.append((index, ref))
                else:
                    self._add_due(ref, 1)
        return AcceptBatch(events, frozenset(overflow) if overflow else NONE_OVERFLOWED)

    def release(self, batch: AcceptBatch) -> None:
        """Take back what `reserve` counted: nothing of the batch was stored."""
        for index in range(len(batch.events)):
            self._release_one(batch, index)

    def accepted(self, batch: AcceptBatch, results: Sequence[AcceptResult]) -> None:
        """Take back what was not stored after all."""
        for index, result in enumerate(results):
            if not _has_deliveries(result):
                self._release_one(batch, index)
        for index, ref in batch.overflow:
            if _has_deliveries(results[index]):
                self.dead[ref] += 1

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

    def _release_one(self, batch: AcceptBatch, index: int) -> None:
        for ref in batch.events[index].targets:
            if (index, ref) not in batch.overflow:
                self._add_due(ref, -1)

    def _add_due(self, ref: int, count: int) -> None:
        self.due[ref] += count
        self.backlog += count


def _has_deliveries(result: AcceptResult) -> bool:
    """Whether what was reserved was stored: not for repeats, nor for what was held back after all."""
    return isinstance(result, Accepted) and result.reason is None


def count(connection: sqlite3.Connection) -> Counts:
    """Count due and dead deliveries, from their indexes alone."""
    due = connection.execute(
        "SELECT endpoint, count(*) FROM delivery INDEXED BY delivery_due WHERE state = 0 GROUP BY endpoint"
    )
    dead = connection.execute(
        "SELECT endpoint, count(*) FROM delivery INDEXED BY delivery_dead WHERE state = 2 GROUP BY endpoint"
    )
    return Counts(dict(due), dict(dead))
