"""The one cache of frozen events (Q1): what an attempt sends, kept while memory allows."""

from collections import OrderedDict

from relay.core.frozen import FrozenEvent, bodies_bytes

ENTRY_BYTES = 600
"""What an entry costs beside its bodies: the object, its strings and its place in the table."""


class EventCache:
    """Frozen events by ordinal, least recently used out first. Owner of the bytes it counts."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._events: OrderedDict[int, FrozenEvent] = OrderedDict()
        self.bytes = 0

    def put(self, event: FrozenEvent) -> None:
        """Remember an event; one larger than the whole cache is not kept."""
        cost = _cost(event)
        if event.ordinal in self._events or cost > self._bytes_max:
            return
        self._events[event.ordinal] = event
        self.bytes += cost
        while self.bytes > self._bytes_max:
            _, oldest = self._events.popitem(last=False)
            self.bytes -= _cost(oldest)

    def get(self, ordinal: int) -> FrozenEvent | None:
        """Return the event, or None when it has to be read."""
        event = self._events.get(ordinal)
        if event is not None:
            self._events.move_to_end(ordinal)
        return event

    def drop(self, ordinal: int) -> None:
        """Forget an event: more is frozen of it by now."""
        event = self._events.pop(ordinal, None)
        if event is not None:
            self.bytes -= _cost(event)

    def __len__(self) -> int:
        return len(self._events)


def _cost(event: FrozenEvent) -> int:
    return bodies_bytes(event.body, event.variants) + ENTRY_BYTES
