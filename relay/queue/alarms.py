"""When which lane is to be looked at again, on one clock."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush


class Alarms:
    """One alarm for each lane; setting it again moves it. Owner: the choice among lanes."""

    __slots__ = ("_at", "_heap")

    def __init__(self) -> None:
        self._at: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []  # moved alarms leave stale entries behind

    def __contains__(self, lane: int) -> bool:
        return lane in self._at

    def set(self, lane: int, at_ms: float) -> None:
        """Ring for the lane at `at_ms`, and at no other time."""
        if self._at.get(lane) == at_ms:
            return
        self._at[lane] = at_ms
        heappush(self._heap, (at_ms, lane))
        if len(self._heap) > 2 * len(self._at) + 64:
            self._heap = [(at_ms, lane) for lane, at_ms in self._at.items()]
            heapify(self._heap)

    def ring(self, now_ms: float) -> Iterator[int]:
        """Yield each lane whose time has come, once."""
        while (first := self.first_ms()) is not None and first <= now_ms:
            lane = heappop(self._heap)[1]
            del self._at[lane]
            yield lane

    def first_ms(self) -> float | None:
        """Return when the next alarm rings."""
        heap = self._heap
        while heap and self._at.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None

    def clear(self) -> None:
        self._at.clear()
        self._heap.clear()
