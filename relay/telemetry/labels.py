"""Which endpoints have metrics of their own: so many at most, those that exist and are at work, and of each tenant a share.
Applications have theirs by the same rule, each as its own tenant.

What has no label is counted under `other`. Who has one keeps it until the endpoint is deleted, or another needs it and
this one was idle for long, or this one's application has two more labels than the other's. So one tenant's endpoints
cannot keep those of another out, and labels do not go to and fro between endpoints that are equally busy.
"""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

ENDPOINTS_MAX = 200
"""Endpoints with a label of their own."""

APPLICATIONS_MAX = 200
"""Applications with a label of their own: given out by the same rule, each for itself."""

OTHER = "other"

IDLE_TURNS = 240
"""An endpoint that nothing was counted for in so many turns is idle; a turn ends when somebody reads the metrics."""


@dataclass(slots=True, eq=False)
class _Holder:
    """An endpoint that has a label."""

    application: str
    turn: int  # when something was counted for it last


class EndpointLabels:
    """Gives labels out and takes them back. Owner of who has one; only the event loop's thread calls it."""

    def __init__(
        self, owner: Callable[[str], str | None], on_taken: Callable[[str], None], labels_max: int = ENDPOINTS_MAX
    ) -> None:
        """`owner` says whose an endpoint is, None once it was deleted; `on_taken` hears of each that loses its label."""
        self._owner = owner
        self._on_taken = on_taken
        self._labels_max = labels_max
        self._holders: dict[str, _Holder] = {}  # by endpoint, in the order in which they got their labels
        self._held: Counter[str] = Counter()  # by application
        self._refused: set[str] = set()  # asked in vain in this turn
        self._turn = 0

    def counted(self, endpoint: str) -> str:
        """Return the label to count something under. O(1), and O(labels) once a turn for an endpoint without one."""
        holder = self._holders.get(endpoint)
        if holder is not None:
            holder.turn = self._turn
            return endpoint
        return OTHER if endpoint in self._refused else self._admit(endpoint)

    def shown(self, endpoint: str) -> str:
        """Return the label to show a state under; it takes a label only while some are left."""
        if endpoint not in self._holders and len(self._holders) < self._labels_max:
            return self._admit(endpoint)
        return endpoint if endpoint in self._holders else OTHER

    def named(self, endpoints: Collection[str]) -> list[str]:
        """List those of `endpoints` that have a label; what labels are left go to the first of the others. O(labels)"""
        for endpoint in endpoints:
            if len(self._holders) >= self._labels_max:
                break
            self.shown(endpoint)
        return [endpoint for endpoint in self._holders if endpoint in endpoints]

    def end_turn(self) -> None:
        """Take back what deleted endpoints have, and let those that were refused ask again. O(labels)"""
        self._turn += 1
        self._refused.clear()
        for endpoint in [endpoint for endpoint in self._holders if self._owner(endpoint) is None]:
            self._take(endpoint)

    def _admit(self, endpoint: str) -> str:
        application = self._owner(endpoint)
        if application is None:  # a last result of one that was deleted
            return OTHER
        if len(self._holders) >= self._labels_max:
            least = self._least(application)
            if least is None:
                self._refused.add(endpoint)
                return OTHER
            self._take(least)
        self._holders[endpoint] = _Holder(application, self._turn)
        self._held[application] += 1
        return endpoint

    def _least(self, application: str) -> str | None:
        """Return the endpoint that must give its label to one of an application: deleted, idle, or of one with too many."""
        for endpoint in self._holders:
            if self._owner(endpoint) is None:
                return endpoint
        longest = min(self._holders, key=lambda endpoint: self._holders[endpoint].turn)
        if self._turn - self._holders[longest].turn >= IDLE_TURNS:
            return longest
        richest, held = self._held.most_common(1)[0]
        if held < self._held[application] + 2:
            return None
        theirs = (endpoint for endpoint, holder in self._holders.items() if holder.application == richest)
        return min(theirs, key=lambda endpoint: self._holders[endpoint].turn)

    def _take(self, endpoint: str) -> None:
        holder = self._holders.pop(endpoint)
        self._held[holder.application] -= 1
        if not self._held[holder.application]:
            del self._held[holder.application]
        self._on_taken(endpoint)
