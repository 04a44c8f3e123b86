"""What an attempt's outcome means, and what happens to its delivery next (invariant 11).

`classify` is the outcome table of docs/DELIVERY.md and nothing else; `decide` adds the schedule and the two clocks that
can end a delivery. Both are functions of their arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from random import Random
from typing import NamedTuple

from relay.core.model import (
    DeadReason,
    DeliveryState,
    DisabledBy,
    DueDelivery,
    Failure,
    Outcome,
    RetryPolicy,
    Settlement,
)

NOT_BEFORE_MAX_MS = 3_600_000
"""The longest wait that a receiver can ask for with `Retry-After`."""


class Action(Enum):
    """What becomes of the delivery."""

    DELIVERED = auto()
    RETRY = auto()
    DEAD = auto()
    NONE = auto()  # no attempt was made, for a reason of ours: it stays due as it is


class HealthEffect(Enum):
    """What the endpoint's health learns."""

    SUCCESS = auto()
    FAILURE = auto()
    REFUSED = auto()  # an answer that asking again will not change: no cool-down, but it shows, and counts for Q9
    THROTTLED = auto()  # the receiver asks for less: the window halves, health stays as it is
    NONE = auto()


@dataclass(frozen=True, slots=True)
class Classification:
    """One row of the outcome table."""

    action: Action
    health: HealthEffect
    reason: DeadReason | None = None  # with action DEAD
    disable: DisabledBy | None = None
    not_before_ms: int | None = None  # a duration: nothing scheduled starts at this endpoint for so long
    cause: str = ""  # "503", "timeout": what people see as the last failure
    detail: str = ""  # what an answer means, and what to do about it


class Decision(NamedTuple):
    """What to write, and what the lane learns from it."""

    settlement: Settlement
    classification: Classification


_DELIVERED = Classification(Action.DELIVERED, HealthEffect.SUCCESS)
_DELIVERED_LAST = Classification(Action.DELIVERED, HealthEffect.SUCCESS, disable=DisabledBy.RECEIVER)
_FAILED = Classification(Action.RETRY, HealthEffect.FAILURE)
_REFUSED = Classification(Action.RETRY, HealthEffect.REFUSED)
_UNSENT = Classification(Action.RETRY, HealthEffect.NONE)
_THROTTLED = Classification(Action.RETRY, HealthEffect.THROTTLED)
_GONE = Classification(Action.DEAD, HealthEffect.NONE, reason=DeadReason.GONE, disable=DisabledBy.GONE)

_BY_FAILURE: Mapping[Failure, Classification] = {
    Failure.TIMEOUT: _FAILED,
    Failure.DNS: _FAILED,
    Failure.CONNECT: _FAILED,
    Failure.TLS: _FAILED,
    Failure.BROKEN_RESPONSE: _FAILED,
    Failure.BLOCKED_ADDRESS: Classification(Action.DEAD, HealthEffect.NONE, reason=DeadReason.BLOCKED),
    Failure.BLOCKED_NAME: _FAILED,  # as a name that does not resolve: a tenant must not tell them apart
    Failure.NO_TOKEN: _FAILED,  # no fault of the receiver's, but to ask for each delivery would burn their attempts
    Failure.TOKEN_UNREACHABLE: _FAILED,
    Failure.NO_DESCRIPTORS: Classification(Action.NONE, HealthEffect.NONE),
    Failure.INVALID_REQUEST: _UNSENT,  # an edit of the endpoint mends it: settings are read at every attempt
}
_BY_CONTROL: Mapping[str, Classification] = {
    "abort-message": Classification(Action.DEAD, HealthEffect.NONE, reason=DeadReason.ABORTED),
    "disable": replace(_GONE, disable=DisabledBy.RECEIVER),
}
_BY_STATUS: Mapping[int, Classification] = {408: _FAILED, 410: _GONE, 425: _FAILED, 429: _THROTTLED}
_BY_FAMILY: Mapping[int, Classification] = {3: _REFUSED, 4: _REFUSED, 5: _FAILED}


def classify(outcome: Outcome) -> Classification:
    """Look the outcome up in the table."""
    if outcome.failure is not None:
        return replace(_BY_FAILURE[outcome.failure], cause=outcome.failure.value)
    assert outcome.status is not None, "an outcome has a status or a failure"
    if 200 <= outcome.status <= 299:
        return _DELIVERED_LAST if outcome.control == "disable" else _DELIVERED
    return replace(_unsuccessful(outcome, outcome.status), cause=str(outcome.status), detail=outcome.detail)


def delay_ms(policy: RetryPolicy, series_attempts_made: int, rng: Random) -> int | None:
    """Return the jittered delay after so many attempts (at least 1) of a series; None when the schedule is used up."""
    if series_attempts_made > len(policy.schedule_ms):
        return None
    spread = rng.uniform(1 - policy.jitter, 1 + policy.jitter)
    return round(policy.schedule_ms[series_attempts_made - 1] * spread)


def latest_due_ms(policy: RetryPolicy, now_ms: int) -> list[int]:
    """Return, by the attempts made of a series, the latest time at which the next could be due when set at `now_ms`."""
    return [now_ms, *(now_ms + round(delay * (1 + policy.jitter)) for delay in policy.schedule_ms)]


def decide(
    outcome: Outcome,
    delivery: DueDelivery,
    policy: RetryPolicy,
    expires_at_ms: int | None,
    now_ms: int,
    rng: Random,
    *,
    clock_trusted: bool = True,
) -> Decision:
    """Turn the outcome of an attempt of `delivery` into what is written; there must have been one.

    A retry that would start at or after `expires_at_ms` is dead at once (`expired`), one beyond the retry budget too
    (`exhausted`, Q6). With `clock_trusted` false, after the wall clock stepped, neither ends anything (Q15).
    """
    verdict = classify(outcome)
    assert verdict.action is not Action.NONE, "what was not attempted is not decided"
    if verdict.action is Action.DELIVERED:
        return Decision(Settlement(delivery, DeliveryState.DELIVERED, outcome, keep_response=False), verdict)
    if verdict.action is Action.DEAD:
        return Decision(Settlement(delivery, DeliveryState.DEAD, outcome, reason=verdict.reason), verdict)
    delay = delay_ms(policy, delivery.series_attempts + 1, rng)
    if delay is None:
        return Decision(Settlement(delivery, DeliveryState.DEAD, outcome, reason=DeadReason.EXHAUSTED), verdict)
    due_ms = now_ms + delay
    end = _end(due_ms, delivery.budget_from_ms + policy.max_age_ms, expires_at_ms) if clock_trusted else None
    if end is not None:
        return Decision(Settlement(delivery, DeliveryState.DEAD, outcome, reason=end), verdict)
    return Decision(Settlement(delivery, DeliveryState.DUE, outcome, due_ms=due_ms), verdict)


def _unsuccessful(outcome: Outcome, status: int) -> Classification:
    control = _BY_CONTROL.get(outcome.control or "")
    if control is not None:
        return control
    if outcome.retry_after_ms is not None and status in (429, 503):
        return replace(_THROTTLED, not_before_ms=min(max(outcome.retry_after_ms, 0), NOT_BEFORE_MAX_MS))
    # What is left, 1xx and 600 upwards, is no final answer of HTTP: a broken response.
    return _BY_STATUS.get(status) or _BY_FAMILY.get(status // 100, _FAILED)


def _end(due_ms: int, budget_ends_ms: int, expires_at_ms: int | None) -> DeadReason | None:
    if expires_at_ms is not None and due_ms >= expires_at_ms:
        return DeadReason.EXPIRED
    if due_ms > budget_ends_ms:
        return DeadReason.EXHAUSTED
    return None
