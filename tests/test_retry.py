"""The outcome table, the schedule, and what ends a delivery (Q6, Q15, outcome table)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.model import DeadReason, DeliveryState, DisabledBy, DueDelivery, Failure, Outcome, RetryPolicy
from relay.queue.retry import (
    NOT_BEFORE_MAX_MS,
    Action,
    Classification,
    Decision,
    HealthEffect,
    classify,
    decide,
    delay_ms,
    latest_due_ms,
)

HOUR_MS = 3_600_000
POLICY = RetryPolicy(schedule_ms=(5_000, 300_000), jitter=0.0, max_age_ms=HOUR_MS)
NOW_MS = 1_800_000_000_000


def outcome(
    status: int | None = None,
    failure: Failure | None = None,
    *,
    retry_after_ms: int | None = None,
    control: str | None = None,
) -> Outcome:
    return Outcome(NOW_MS, 10, status, failure, retry_after_ms=retry_after_ms, control=control)


def delivery(series_attempts: int = 0, budget_from_ms: int = NOW_MS) -> DueDelivery:
    return DueDelivery(1, 2, NOW_MS, 0, series_attempts, series_attempts, budget_from_ms)


def decided(result: Outcome, due: DueDelivery | None = None, expires_at_ms: int | None = None) -> Decision:
    return decide(result, due or delivery(), POLICY, expires_at_ms, NOW_MS, Random(1))


RETRY_FAILURE = (Action.RETRY, HealthEffect.FAILURE)
RETRY_NONE = (Action.RETRY, HealthEffect.NONE)
RETRY_REFUSED = (Action.RETRY, HealthEffect.REFUSED)
RETRY_THROTTLED = (Action.RETRY, HealthEffect.THROTTLED)
DEAD_NONE = (Action.DEAD, HealthEffect.NONE)
TABLE = [
    *[(outcome(status), Action.DELIVERED, HealthEffect.SUCCESS) for status in (200, 201, 204, 299)],
    *[(outcome(status), *RETRY_FAILURE) for status in (408, 425, 500, 502, 503, 504, 599)],
    *[(outcome(status), *RETRY_REFUSED) for status in (300, 301, 308, 400, 401, 403, 404, 409, 422, 499)],
    *[(outcome(status), *RETRY_FAILURE) for status in (101, 0, 600, 999)],
    (outcome(410), *DEAD_NONE),
    (outcome(429), *RETRY_THROTTLED),
    (outcome(429, retry_after_ms=7_000), *RETRY_THROTTLED),
    (outcome(503, retry_after_ms=7_000), *RETRY_THROTTLED),
    (outcome(500, retry_after_ms=7_000), *RETRY_FAILURE),
    (outcome(404, retry_after_ms=7_000), *RETRY_REFUSED),
    *[(outcome(failure=failure), *RETRY_FAILURE) for failure in list(Failure)[:5]],
    (outcome(failure=Failure.BLOCKED_ADDRESS), *DEAD_NONE),
    (outcome(failure=Failure.BLOCKED_NAME), *RETRY_FAILURE),
    (outcome(failure=Failure.INVALID_REQUEST), *RETRY_NONE),
    (outcome(200, Failure.TIMEOUT), *RETRY_FAILURE),  # the head came, the body never ended
    (outcome(500, control="abort-message"), *DEAD_NONE),
    (outcome(404, control="disable"), *DEAD_NONE),
    (outcome(500, control="dance"), *RETRY_FAILURE),
    (outcome(204, control="abort-message"), Action.DELIVERED, HealthEffect.SUCCESS),
    (outcome(204, control="disable"), Action.DELIVERED, HealthEffect.SUCCESS),
]


@pytest.mark.parametrize(("result", "action", "effect"), TABLE, ids=lambda value: str(value)[:90])
def test_every_row_of_the_outcome_table(result: Outcome, action: Action, effect: HealthEffect) -> None:
    """Each outcome does to delivery and health what the table says."""
    verdict = classify(result)
    assert (verdict.action, verdict.health) == (action, effect)
    assert (verdict.reason is not None) == (action is Action.DEAD)


def test_every_failure_has_a_row() -> None:
    """No class of failure is missing from the table."""
    assert all(isinstance(classify(outcome(failure=failure)), Classification) for failure in Failure)


@pytest.mark.parametrize(
    ("result", "reason", "by"),
    [
        (outcome(410), DeadReason.GONE, DisabledBy.GONE),
        (outcome(500, control="disable"), DeadReason.GONE, DisabledBy.RECEIVER),
        (outcome(500, control="abort-message"), DeadReason.ABORTED, None),
        (outcome(failure=Failure.BLOCKED_ADDRESS), DeadReason.BLOCKED, None),
        (outcome(200, control="disable"), None, DisabledBy.RECEIVER),
        (outcome(200), None, None),
    ],
)
def test_what_dies_and_what_is_disabled(result: Outcome, reason: DeadReason | None, by: DisabledBy | None) -> None:
    """410 and `webhook-delivery: disable` disable the endpoint; each death has its reason (Q9)."""
    verdict = classify(result)
    assert (verdict.reason, verdict.disable) == (reason, by)


@pytest.mark.parametrize(
    ("asked_ms", "waits_ms"), [(0, 0), (-5, 0), (30_000, 30_000), (10 * HOUR_MS, NOT_BEFORE_MAX_MS)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_up_to_an_hour(status: int, asked_ms: int, waits_ms: int) -> None:
    """`Retry-After` becomes the endpoint's `not_before`, at most an hour (outcome table)."""
    assert classify(outcome(status, retry_after_ms=asked_ms)).not_before_ms == waits_ms


@pytest.mark.parametrize(("result", "cause"), [(outcome(503), "503"), (outcome(failure=Failure.DNS), "dns")])
def test_a_verdict_names_its_cause(result: Outcome, cause: str) -> None:
    """People see what failed last: the status, or the class of failure."""
    assert classify(result).cause == cause


def test_an_outcome_without_result_is_our_mistake() -> None:
    """An outcome has a status or a failure; one without either stops the process."""
    with pytest.raises(AssertionError, match="status or a failure"):
        classify(outcome())


@given(st.integers(0, 10**9), st.floats(0, 1), st.integers())
def test_jitter_stays_within_its_bounds(delay: int, jitter: float, seed: int) -> None:
    """A delay is multiplied by uniform(1 - j, 1 + j) (Q6)."""
    made = delay_ms(RetryPolicy((delay,), jitter, 0), 1, Random(seed))
    assert made is not None
    assert delay * (1 - jitter) - 1 <= made <= delay * (1 + jitter) + 1


def test_n_delays_are_n_plus_1_attempts() -> None:
    """After the last attempt of the schedule a delivery is exhausted (Q6)."""
    states = [decided(outcome(500), delivery(made)).settlement for made in range(3)]
    assert [settlement.state for settlement in states] == [DeliveryState.DUE, DeliveryState.DUE, DeliveryState.DEAD]
    assert [settlement.due_ms for settlement in states] == [NOW_MS + 5_000, NOW_MS + 300_000, None]
    assert states[2].reason is DeadReason.EXHAUSTED


def test_a_success_settles_without_its_response() -> None:
    """Response bodies are kept for failures only (Q14)."""
    settlement = decided(outcome(200)).settlement
    assert (settlement.state, settlement.keep_response) == (DeliveryState.DELIVERED, False)
    assert decided(outcome(500)).settlement.keep_response


def test_a_dead_outcome_is_settled_with_its_reason() -> None:
    """410 is a dead letter of reason `gone` at once, however much schedule is left."""
    settlement, verdict = decided(outcome(410))
    assert (settlement.state, settlement.reason) == (DeliveryState.DEAD, DeadReason.GONE)
    assert verdict.disable is DisabledBy.GONE


@pytest.mark.parametrize(("expires_in_ms", "state"), [(5_000, DeliveryState.DEAD), (5_001, DeliveryState.DUE)])
def test_a_retry_that_would_come_after_expiry_is_dead_now(expires_in_ms: int, state: DeliveryState) -> None:
    """`expires_at` is absolute and ends everything (Q6)."""
    settlement = decided(outcome(500), expires_at_ms=NOW_MS + expires_in_ms).settlement
    assert settlement.state is state
    assert settlement.reason is (DeadReason.EXPIRED if state is DeliveryState.DEAD else None)


@pytest.mark.parametrize(
    ("age_ms", "state"), [(HOUR_MS - 5_000, DeliveryState.DUE), (HOUR_MS - 4_999, DeliveryState.DEAD)]
)
def test_a_retry_beyond_the_budget_is_exhausted(age_ms: int, state: DeliveryState) -> None:
    """`max_age` is a budget for retries, counted from the latest of created, `deliver_at` and manual retry (Q6)."""
    settlement = decided(outcome(500), delivery(budget_from_ms=NOW_MS - age_ms)).settlement
    assert settlement.state is state
    assert settlement.reason is (DeadReason.EXHAUSTED if state is DeliveryState.DEAD else None)


def test_no_clock_ends_a_delivery_after_the_wall_clock_stepped() -> None:
    """While the clock is not trusted neither expiry nor age ends anything (Q15)."""
    due = delivery(budget_from_ms=NOW_MS - 10 * HOUR_MS)
    trusting = decide(outcome(500), due, POLICY, NOW_MS - 1, NOW_MS, Random(1))
    doubting = decide(outcome(500), due, POLICY, NOW_MS - 1, NOW_MS, Random(1), clock_trusted=False)
    assert trusting.settlement.reason is DeadReason.EXPIRED
    assert doubting.settlement.state is DeliveryState.DUE


def test_the_latest_time_that_an_attempt_may_be_due() -> None:
    """H13: after n attempts of a series no rule sets the next one later than the nth delay and its jitter."""
    policy = RetryPolicy(schedule_ms=(1_000, 60_000), jitter=0.2, max_age_ms=1)
    assert latest_due_ms(policy, NOW_MS) == [NOW_MS, NOW_MS + 1_200, NOW_MS + 72_000]
