"""Whether an endpoint is tried at all: cool-down, probes, and the end of patience (Q5, Q9).

How many attempts run at once is another mechanism, the lane's window; neither is inferred from the other. A cool-down
only ever delays: waiting burns no attempts. It doubles once for each failed probe and ends with any success.
"""

from dataclasses import dataclass, replace
from random import Random

from relay.core.clock import Now
from relay.core.model import Failure, Health, HealthPolicy, Outcome
from relay.queue.retry import NOT_BEFORE_MAX_MS, Classification, HealthEffect

JITTER = 0.2
"""A cool-down lasts its step × uniform(1 - JITTER, 1 + JITTER), so that endpoints do not come back in step."""

SUSPENSION_MS = 60_000
SUSPENSION_MAX_MS = 15 * 60_000
"""How long an endpoint is suspended at first, and at most."""

DISABLE_FAILURES = 10
DISABLE_DAYS = 3
_DAY_MS = 86_400_000


def after(
    health: Health, verdict: Classification, event: int, now_ms: int, policy: HealthPolicy, rng: Random, *, probe: bool
) -> Health:
    """Return the health after an attempt for `event`; the same object when nothing changed."""
    if verdict.health is HealthEffect.SUCCESS:
        return _recovered(health, now_ms)
    if verdict.health is HealthEffect.FAILURE:
        return _cooled(_failed(health, verdict.cause, event, now_ms), now_ms, policy, rng, probe=probe)
    if verdict.not_before_ms:
        return replace(health, not_before_ms=max(health.not_before_ms, now_ms + verdict.not_before_ms))
    return health


def opens_ms(health: Health) -> int:
    """Return the wall time before which nothing scheduled may start."""
    return max(health.cool_until_ms, health.not_before_ms)


def clamped(health: Health, now_ms: int, policy: HealthPolicy) -> Health:
    """Shorten waits to the longest that a rule could have set at `now_ms`: the clock was wrong when these were (Q15)."""
    cool_until_ms = min(health.cool_until_ms, now_ms + round(policy.cool_down_max_ms * (1 + JITTER)))
    not_before_ms = min(health.not_before_ms, now_ms + NOT_BEFORE_MAX_MS)
    if (cool_until_ms, not_before_ms) == (health.cool_until_ms, health.not_before_ms):
        return health
    return replace(health, cool_until_ms=cool_until_ms, not_before_ms=not_before_ms)


def should_disable(health: Health, now_ms: int, policy: HealthPolicy) -> bool:
    """Whether the endpoint has failed so long, so often and so evenly that it is given up (Q9)."""
    return (
        health.failures >= DISABLE_FAILURES
        and health.several
        and health.failure_days >= DISABLE_DAYS
        and health.failing_since_ms is not None
        and now_ms - health.failing_since_ms >= policy.disable_after_ms
    )


def _recovered(health: Health, now_ms: int) -> Health:
    # A success that was under way when another attempt met a `Retry-After` does not take that back.
    waiting = health.not_before_ms > now_ms
    if health.answered and health.failures == 0 and (waiting or health.not_before_ms == 0):
        return health
    return Health(answered=True, not_before_ms=health.not_before_ms if waiting else 0)


def _failed(health: Health, cause: str, event: int, now_ms: int) -> Health:
    first = event if health.first_failed is None else health.first_failed
    since = now_ms if health.failing_since_ms is None else min(health.failing_since_ms, now_ms)
    same_day = health.last_failure_ms is not None and health.last_failure_ms // _DAY_MS == now_ms // _DAY_MS
    return replace(
        health,
        failures=health.failures + 1,
        first_failed=first,
        several=health.several or event != first,
        failing_since_ms=since,
        failure_days=health.failure_days + (not same_day),
        last_failure_ms=now_ms,
        last_failure=cause,
    )


def _cooled(health: Health, now_ms: int, policy: HealthPolicy, rng: Random, *, probe: bool) -> Health:
    if health.cool_down_ms:
        step = min(health.cool_down_ms * 2, policy.cool_down_max_ms) if probe else 0
    else:
        step = policy.cool_down_ms if health.failures >= policy.failures and health.several else 0
    if not step:
        return health
    return replace(health, cool_down_ms=step, cool_until_ms=now_ms + round(step * rng.uniform(1 - JITTER, 1 + JITTER)))


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
        """Remember how an attempt ended. O(1)."""
        self._latest[ref] = (mono_ms, outcome.failure)

    def forget(self, ref: int) -> None:
        """Drop an endpoint that was deleted. O(1)."""
        self._latest.pop(ref, None)

    def blocked(self, ref: int) -> bool:
        """Whether the latest attempt was refused by our own guard: the endpoint is shown as blocked. O(1)."""
        return ref in self._latest and self._latest[ref][1] in _BLOCKED

    def local_trouble(self, mono_ms: float) -> bool:
        """Whether more than half of the active endpoints, and at least two, fail at DNS or connect. O(endpoints)."""
        active = [failure in _OURS for at_ms, failure in self._latest.values() if mono_ms - at_ms <= ACTIVE_MS]
        return len(active) >= ENDPOINTS_MIN and sum(active) * 2 > len(active)


@dataclass(frozen=True, slots=True)
class Suspension:
    """A mistake of our own stands between an endpoint and its deliveries; its receiver did nothing wrong.

    Nothing starts there for a while, then one attempt shows whether the mistake is still there. Kept in memory only: a
    restart is a chance for it to be gone.
    """

    cause: str  # the class of the error; its text may hold secrets, and stands masked in the log
    since_ms: int  # when the first attempt failed so
    until_ms: int  # when one attempt may start
    until_mono_ms: float  # the same on the clock that never steps: this one decides
    length_ms: int


def suspend(present: Suspension | None, cause: str, now: Now) -> Suspension:
    """Return the suspension that follows a mistake; `present` is the one whose probe made it, and half as long."""
    length_ms = SUSPENSION_MS if present is None else min(2 * present.length_ms, SUSPENSION_MAX_MS)
    since_ms = now.wall_ms if present is None else present.since_ms
    return Suspension(cause, since_ms, now.wall_ms + length_ms, now.mono_ms + length_ms, length_ms)
