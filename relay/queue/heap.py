"""A heap whose values are found by key: the timers of the lanes, and the sizes of the lanes."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush


class KeyedHeap:
    """One value for each key, smallest first; setting a key again moves it.

    Every operation is O(log n) in the number of keys, amortised. A key that moved leaves its former entry in the heap:
    such entries are skipped at the front, and cleared away when they are more than half of all.
    """

    __slots__ = ("_heap", "_values")

    def __init__(self) -> None:
        self._values: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __contains__(self, key: int) -> bool:
        return key in self._values

    def set(self, key: int, value: float) -> None:
        """Give the key this value, and no other."""
        if self._values.get(key) == value:
            return
        self._values[key] = value
        heappush(self._heap, (value, key))
        if len(self._heap) > 2 * len(self._values) + 64:
            self._heap = [(value, key) for key, value in self._values.items()]
            heapify(self._heap)

    def first(self) -> tuple[float, int] | None:
        """Return the smallest value and its key."""
        heap = self._heap
        while heap and self._values.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0] if heap else None

    def pop_until(self, value: float) -> Iterator[int]:
        """Take out each key whose value is not above `value`."""
        while self._heap and self._heap[0][0] <= value:
            entry = heappop(self._heap)
            if self._values.get(entry[1]) == entry[0]:
                del self._values[entry[1]]
                yield entry[1]

    def remove(self, key: int) -> None:
        """Take out a key that may be here."""
        self._values.pop(key, None)

    def clear(self) -> None:
        """Take out all keys."""
        self._values.clear()
        self._heap.clear()
