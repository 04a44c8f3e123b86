"""What producers were told against what receivers saw: the books of a crash test.

Every posted event carries a key of its own in its data. After the dust has settled: *lost* was acknowledged and never
arrived at some endpoint, *invented* arrived without ever having been posted, *torn* arrived under two event ids.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import orjson


@dataclass(slots=True)
class Ledger:
    """The books of one test. Producers and receivers write, the test reads."""

    posted: set[str] = field(default_factory=set)  # keys that were sent, whatever came back
    acknowledged: dict[str, str] = field(default_factory=dict)  # key → event id of a 2xx
    arrivals: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    owed: set[tuple[str, str]] = field(default_factory=set)  # (endpoint, event id): what has yet to arrive

    def arrived(self, endpoint: str, event_id: str, body: bytes) -> None:
        """Write down one request that an endpoint got."""
        self.owed.discard((endpoint, event_id))
        self.arrivals[endpoint][orjson.loads(body)["data"]["key"]].add(event_id)

    def lost(self, endpoints: list[str]) -> set[tuple[str, str]]:
        """Acknowledged events that some endpoint never saw under the acknowledged id."""
        return {
            (endpoint, key)
            for endpoint in endpoints
            for key, event_id in self.acknowledged.items()
            if event_id not in self.arrivals[endpoint].get(key, set())
        }

    def invented(self) -> set[str]:
        """Keys that arrived without having been posted."""
        return {key for seen in self.arrivals.values() for key in seen} - self.posted

    def torn(self) -> set[str]:
        """Keys that arrived under more than one event id."""
        ids: dict[str, set[str]] = defaultdict(set)
        for seen in self.arrivals.values():
            for key, event_ids in seen.items():
                ids[key] |= event_ids
        return {key for key, event_ids in ids.items() if len(event_ids) > 1}
