"""Is it us or them? What the latest attempts say about this host's own network, name servers and clock (Q9).

One receiver, one host or one tenant proves nothing about us: somebody may have many endpoints with dead names. So hosts
are counted, not endpoints, and each application has one voice, however many endpoints it has.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from relay.core.model import Failure, Outcome

ACTIVE_MS = 10 * 60_000
"""An endpoint counts as active for so long after an attempt."""

APPLICATIONS_MIN = 2
HOSTS_MIN = 2
"""It is us only if so many hosts of so many applications are out of reach."""

HOSTS_ALONE_MIN = 3
"""Where a single application is active, so many of its hosts must be."""

_BLOCKED = frozenset({Failure.BLOCKED_ADDRESS, Failure.BLOCKED_NAME})


class Latest(NamedTuple):
    """The latest attempt of an endpoint."""

    mono_ms: float
    ours: bool


class Sighting(NamedTuple):
    """What the latest attempt of an active endpoint says about the way to a host."""

    application: int  # ref
    host: str
    ours: bool  # it failed in a way that this host causes


class Reachability:
    """The latest attempt of each active endpoint: how far did it come? Owned by dispatch."""

    def __init__(self) -> None:
        self._latest: dict[int, Latest] = {}  # by ref
        self._blocked: set[int] = set()  # refs whose latest attempt was refused by our own guard
        self._ours: set[int] = set()  # refs whose latest attempt failed in a way that this host causes

    def note(self, ref: int, outcome: Outcome, mono_ms: float) -> None:
        """Remember how an attempt ended. O(1)."""
        self._latest[ref] = Latest(mono_ms, outcome.ours)
        if outcome.failure is not None:
            (self._blocked.add if outcome.failure in _BLOCKED else self._blocked.discard)(ref)
            (self._ours.add if outcome.ours else self._ours.discard)(ref)
        elif ref in self._blocked or ref in self._ours:
            self._blocked.discard(ref)
            self._ours.discard(ref)

    def forget(self, ref: int) -> None:
        """Drop an endpoint that was deleted. O(1)."""
        self._latest.pop(ref, None)
        self._blocked.discard(ref)
        self._ours.discard(ref)

    @property
    def blocked(self) -> Collection[int]:
        """Endpoints whose latest attempt was refused by our own guard: they are shown as blocked; a view. O(1)."""
        return self._blocked

    @property
    def any_ours(self) -> bool:
        """Whether any latest attempt, however old, failed in a way that this host causes. O(1)."""
        return bool(self._ours)

    def active(self, mono_ms: float) -> Iterator[tuple[int, bool]]:
        """Walk through the active endpoints: each with whether it failed in a way that this host causes. O(endpoints)"""
        for ref, latest in self._latest.items():
            if mono_ms - latest.mono_ms <= ACTIVE_MS:
                yield ref, latest.ours


def is_us(sightings: Iterable[Sighting]) -> bool:
    """Whether the trouble is on this host. O(sightings)

    A host is out of reach when every latest attempt there failed in a way that this host causes, an application when
    more than half of its hosts are. It is us when more than half of the applications are out of reach, two at least with
    two hosts, or the only one with three.
    """
    applications: defaultdict[int, dict[str, bool]] = defaultdict(dict)
    for application, host, ours in sightings:
        hosts = applications[application]
        hosts[host] = ours and hosts.get(host, True)
    cut_off = [hosts for hosts in applications.values() if sum(hosts.values()) * 2 > len(hosts)]
    lost = {host for hosts in cut_off for host, is_lost in hosts.items() if is_lost}
    if len(applications) == 1:
        return len(lost) >= HOSTS_ALONE_MIN
    return len(cut_off) * 2 > len(applications) and len(cut_off) >= APPLICATIONS_MIN and len(lost) >= HOSTS_MIN
