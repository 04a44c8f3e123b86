"""Which endpoints a status and the metrics look at: those of note, and of the others those with most due, then the oldest.

An endpoint is of note when it is held, suspended or blocked, or did anything but succeed since its last success. Of the
others, however many there are, only the sums are asked for, which their owners keep.
"""

import asyncio
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from relay.api.condition import Line, Word, look_at
from relay.api.services import Services
from relay.core.model import Endpoint
from relay.registry.registry import Registry

LOOKED_AT_ONCE = 100
"""Endpoints that are looked at before others have their turn."""


class Survey(NamedTuple):
    """How all endpoints stand: sums over all, and one by one what has to be looked at."""

    total: int  # endpoints
    dead: int  # dead letters of theirs
    due: Mapping[int, int]  # by ref, of those that have any
    noted: Sequence[Line]
    quiet: Sequence[Line] = ()  # of those not of note, as many as were asked for

    @property
    def states(self) -> dict[str, int]:
        """How many endpoints there are by the one word for each; every word is there. O(noted)"""
        counts = Counter(line.word.value for line in self.noted)
        counts[Word.ENABLED.value] += self.total - len(self.noted)
        return {word.value: counts[word.value] for word in Word}


async def survey(services: Services, quiet_max: int = 0) -> Survey:
    """Look at the endpoints of note and so many of the others, in turns, so that nobody waits for the whole.

    O(endpoints of note, those with due deliveries or dead letters, and `quiet_max`)
    """
    registry, lanes, standing = services.registrar.current, services.dispatch.lanes, services.dispatch.standing
    due, noted = services.store.due_counts(), {*lanes.of_note, *standing.blocked}
    dead = sum([count for ref, count in services.store.dead_counts().items() if ref in registry.entries])
    quiet = _most_due(registry, due, noted, quiet_max)
    await asyncio.sleep(0)
    lines = await _look_at_all(services, (registry.entries[ref].endpoint for ref in noted if ref in registry.entries))
    quiet_lines = await _look_at_all(services, quiet)
    return Survey(len(registry.endpoints), dead, due, lines, quiet_lines)


def _most_due(registry: Registry, due: Mapping[int, int], noted: set[int], most: int) -> list[Endpoint]:
    """Choose of the endpoints that are not of note those with most due, and then the oldest."""
    busy = ((count, -ref) for ref, count in due.items() if ref not in noted and ref in registry.entries)
    chosen = [-ref for _, ref in heapq.nlargest(most, busy)]
    taken = noted.union(chosen)
    idle = (endpoint for endpoint in registry.endpoints.values() if endpoint.ref not in taken)
    left = max(most - len(taken), 0)
    return [*(registry.entries[ref].endpoint for ref in chosen), *islice(idle, left)]


async def _look_at_all(services: Services, endpoints: Iterable[Endpoint]) -> list[Line]:
    lines: list[Line] = []
    for endpoint in endpoints:
        lines.append(look_at(services, endpoint))
        if len(lines) % LOOKED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return lines


class Words(Mapping[str, str]):
    """The one word for how each endpoint stands, by id: each is looked at when it is asked for. O(1)"""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._endpoints = services.registrar.current.endpoints

    def __getitem__(self, endpoint_id: str) -> str:
        return look_at(self._services, self._endpoints[endpoint_id]).word.value

    def __contains__(self, endpoint_id: object) -> bool:
        return endpoint_id in self._endpoints

    def __iter__(self) -> Iterator[str]:
        return iter(self._endpoints)

    def __len__(self) -> int:
        return len(self._endpoints)
