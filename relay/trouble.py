"""Is it us, or them? When most of the endpoints that were tried lately cannot even be reached, it is us (Q9)."""

from relay.model import Failure, Outcome

ACTIVE_MS = 10 * 60_000
"""An endpoint counts as active for so long after an attempt."""

ENDPOINTS_MIN = 2
"""One unreachable endpoint alone proves nothing about us."""

_OURS = frozenset({Failure.DNS, Failure.CONNECT})
_BLOCKED = frozenset({Failure.BLOCKED_ADDRESS, Failure.BLOCKED_NAME})


class Reachability:
    """The latest attempt of each active endpoint: did it come as far as a connection? Owned by dispatch."""

    def __init__(self) -> None:
        self._latest: dict[int, tuple[float, Failure | None]] = {}  # ref → when (monotonic ms), how

    def note(self, ref: int, outcome: Outcome, mono_ms: float) -> None:
        """Remember how an attempt ended."""
        self._latest[ref] = (mono_ms, outcome.failure)

    def forget(self, ref: int) -> None:
        """Drop an endpoint that was deleted."""
        self._latest.pop(ref, None)

    def blocked(self, ref: int) -> bool:
        """Whether the latest attempt was refused by our own guard: the endpoint is shown as blocked (docs/DELIVERY.md §3)."""
        return ref in self._latest and self._latest[ref][1] in _BLOCKED

    def local_trouble(self, mono_ms: float) -> bool:
        """Whether more than half of the active endpoints, and at least two, fail at DNS or connect."""
        active = [failure in _OURS for at_ms, failure in self._latest.values() if mono_ms - at_ms <= ACTIVE_MS]
        return len(active) >= ENDPOINTS_MIN and sum(active) * 2 > len(active)
