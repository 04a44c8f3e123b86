"""Whether an endpoint is tried at all: cool-down, probes, refusals, and the end of patience (Q5, Q9).

How many attempts run at once is another mechanism, the lane's window; neither is inferred from the other. A cool-down
only ever delays: waiting burns no attempts. It doubles once for each failed probe and ends with any success. A receiver
that refuses everything is never cooled down for it: it costs nothing, and somebody has to change something.
"""

from dataclasses import dataclass, replace
from random import Random

from relay.core.clock import Now
from relay.core.model import Health, HealthPolicy
from relay.queue.retry import NOT_BEFORE_MAX_MS, Classification, HealthEffect

JITTER = 0.2
"""A cool-down lasts its step × uniform(1 - JITTER, 1 + JITTER), so that endpoints do not come back in step."""

SUSPENSION_MS = 60_000
SUSPENSION_MAX_MS = 15 * 60_000
"""How long an endpoint is suspended at first, and at most."""

REFUSALS = 10
REFUSING_AFTER_MS = 100_000
"""So many refusals in a row, or nothing else for so long, make an endpoint refusing; it shows within two minutes."""

THROTTLED_AFTER_MS = 3_600_000
"""An endpoint that asked for nothing but patience for so long is refusing too."""

ANSWER_CHARACTERS = 300
"""How much is remembered of what an answer means."""

DISABLE_FAILURES = 10
DISABLE_DAYS = 3
_DAY_MS = 86_400_000


def after(
    health: Health, verdict: Classification, event: int, now_ms: int, policy: HealthPolicy, rng: Random, *, probe: bool
) -> Health:
    """Return the health after an attempt for `event`; the same object when nothing changed."""
    if verdict.health is HealthEffect.NONE:
        return health
    if verdict.health is HealthEffect.SUCCESS:
        return _recovered(health, now_ms)
    missed = _missed(health, verdict, event, now_ms)
    if verdict.health is HealthEffect.FAILURE:
        return _cooled(_failed(missed, event), now_ms, policy, rng, probe=probe)
    if verdict.health is HealthEffect.REFUSED:
        return _refused(missed, now_ms)
    return _throttled(missed, verdict, now_ms)


def is_refusing(health: Health, now_ms: int) -> bool:
    """Whether the receiver answers, but refuses everything: time alone may make it so (Q9)."""
    since_ms, throttled_ms = health.refusing_since_ms, health.throttled_since_ms
    for_long = since_ms is not None and now_ms - since_ms >= REFUSING_AFTER_MS
    put_off = throttled_ms is not None and now_ms - throttled_ms >= THROTTLED_AFTER_MS
    return health.refusals >= REFUSALS or for_long or put_off


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
        health.misses >= DISABLE_FAILURES
        and health.several_missed
        and health.failure_days >= DISABLE_DAYS
        and health.failing_since_ms is not None
        and now_ms - health.failing_since_ms >= policy.disable_after_ms
    )


def _recovered(health: Health, now_ms: int) -> Health:
    # A success that was under way when another attempt met a `Retry-After` does not take that back.
    waiting = health.not_before_ms > now_ms
    if health.answered and health.misses == health.failures == 0 and (waiting or health.not_before_ms == 0):
        return health
    return Health(answered=True, not_before_ms=health.not_before_ms if waiting else 0)


def _missed(health: Health, verdict: Classification, event: int, now_ms: int) -> Health:
    first = event if health.first_missed is None else health.first_missed
    since = now_ms if health.failing_since_ms is None else min(health.failing_since_ms, now_ms)
    same_day = health.last_failure_ms is not None and health.last_failure_ms // _DAY_MS == now_ms // _DAY_MS
    return replace(
        health,
        misses=health.misses + 1,
        first_missed=first,
        several_missed=health.several_missed or event != first,
        failing_since_ms=since,
        failure_days=health.failure_days + (not same_day),
        last_failure_ms=now_ms,
        last_failure=verdict.cause,
        last_answer="" if verdict.health is HealthEffect.FAILURE else verdict.detail[:ANSWER_CHARACTERS],
    )


def _failed(health: Health, event: int) -> Health:
    first = event if health.first_failed is None else health.first_failed
    return replace(
        health,
        failures=health.failures + 1,
        first_failed=first,
        several=health.several or event != first,
        refusals=0,
        refusing_since_ms=None,
        throttled_since_ms=None,
    )


def _refused(health: Health, now_ms: int) -> Health:
    since = now_ms if health.refusing_since_ms is None else min(health.refusing_since_ms, now_ms)
    return replace(health, refusals=health.refusals + 1, refusing_since_ms=since, throttled_since_ms=None)


def _throttled(health: Health, verdict: Classification, now_ms: int) -> Health:
    since = now_ms if health.throttled_since_ms is None else min(health.throttled_since_ms, now_ms)
    not_before_ms = max(health.not_before_ms, now_ms + verdict.not_before_ms) if verdict.not_before_ms else 0
    return replace(health, throttled_since_ms=since, not_before_ms=not_before_ms or health.not_before_ms)


def _cooled(health: Health, now_ms: int, policy: HealthPolicy, rng: Random, *, probe: bool) -> Health:
    if health.cool_down_ms:
        step = min(health.cool_down_ms * 2, policy.cool_down_max_ms) if probe else 0
    else:
        step = policy.cool_down_ms if health.failures >= policy.failures and health.several else 0
    if not step:
        return health
    return replace(health, cool_down_ms=step, cool_until_ms=now_ms + round(step * rng.uniform(1 - JITTER, 1 + JITTER)))


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
