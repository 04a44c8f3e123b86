"""Is it us, or them? When most of the endpoints that were tried lately cannot even be reached, it is us (Q9)."""

from relay.model import Failure, Outcome

ACTIVE_MS = 10 * 60_000
"""An endpoint counts as active for so long after an attempt."""

ENDPOINTS_MIN = 2
"""One unreachable endpoint alone proves nothing about us."""

_OURS = frozenset({Failure.DNS, Failure.CONNECT})


class Reachability:
    """The latest attempt of each active endpoint: did it come as far as a connection? Owned by dispatch."""

    def __init__(self) -> None:
        self._latest: dict[int, tuple[float, bool]] = {}  # ref → when (monotonic ms), unreachable

    def note(self, ref: int, outcome: Outcome, mono_ms: float) -> None:
        """Remember how an attempt ended."""
        self._latest[ref] = (mono_ms, outcome.failure in _OURS)

    def forget(self, ref: int) -> None:
        """Drop an endpoint that was deleted."""
        self._latest.pop(ref, None)

    def local_trouble(self, mono_ms: float) -> bool:
        """Whether more than half of the active endpoints, and at least two, fail at DNS or connect."""
        active = [unreachable for at_ms, unreachable in self._latest.values() if mono_ms - at_ms <= ACTIVE_MS]
        return len(active) >= ENDPOINTS_MIN and sum(active) * 2 > len(active)
