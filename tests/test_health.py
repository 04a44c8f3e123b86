"""Cool-down, probes, `Retry-After` and disabling, as pure functions (Q5, Q9, Q15)."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.model import Failure, Health, HealthPolicy, Outcome
from relay.queue.health import ACTIVE_MS, JITTER, Reachability, after, clamped, opens_ms, should_disable
from relay.queue.retry import NOT_BEFORE_MAX_MS, Action, Classification, HealthEffect

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS
POLICY = HealthPolicy()
SUCCESS = Classification(Action.DELIVERED, HealthEffect.SUCCESS)
FAILURE = Classification(Action.RETRY, HealthEffect.FAILURE, cause="503")
REFUSED = Classification(Action.RETRY, HealthEffect.NONE, cause="404")


def throttled(not_before_ms: int | None) -> Classification:
    return Classification(Action.RETRY, HealthEffect.THROTTLED, not_before_ms=not_before_ms)


def tell(
    health: Health, verdict: Classification, *, event: int = 1, now_ms: int = NOW_MS, probe: bool = False, seed: int = 1
) -> Health:
    return after(health, verdict, event, now_ms, POLICY, Random(seed), probe=probe)


def fail(times: int, *, events: int = 2, health: Health | None = None) -> Health:
    health = health or Health()
    for number in range(times):
        health = tell(health, FAILURE, event=number % events)
    return health


def test_ten_failures_over_two_deliveries_cool_an_endpoint_down() -> None:
    """The tenth consecutive failure, over at least two deliveries, starts a cool-down of about 5 s (Q5)."""
    assert fail(9).cool_down_ms == 0
    cooled = fail(10)
    assert cooled.cool_down_ms == 5_000
    assert 4_000 <= cooled.cool_until_ms - NOW_MS <= 6_000
    assert opens_ms(cooled) == cooled.cool_until_ms


def test_one_poisonous_delivery_does_not_cool_an_endpoint_down() -> None:
    """Any number of failures of one delivery says nothing about the endpoint (Q5)."""
    health = fail(50, events=1)
    assert (health.failures, health.several, health.cool_down_ms) == (50, False, 0)


def test_only_a_failed_probe_doubles_the_cool_down() -> None:
    """What was in flight when the cool-down began changes nothing; each failed probe doubles, up to the most (Q5)."""
    cooled = fail(10)
    straggler = tell(cooled, FAILURE)
    assert (straggler.failures, straggler.cool_until_ms) == (11, cooled.cool_until_ms)
    steps = []
    for _ in range(10):
        cooled = tell(cooled, FAILURE, probe=True)
        steps.append(cooled.cool_down_ms // 1_000)
    assert steps == [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]


@given(st.integers())
def test_cool_downs_are_jittered(seed: int) -> None:
    """Endpoints that failed together do not come back together (Q5)."""
    cooled = tell(fail(10), FAILURE, probe=True, seed=seed)
    assert 10_000 * (1 - JITTER) <= cooled.cool_until_ms - NOW_MS <= 10_000 * (1 + JITTER)


def test_any_success_ends_everything() -> None:
    """A success, of a probe or not, resets health, and is remembered (Q5)."""
    assert tell(fail(25), SUCCESS) == Health(answered=True)
    assert tell(Health(), SUCCESS) == Health(answered=True)


def test_failures_do_not_unmake_an_answer() -> None:
    """I3: an endpoint that answered once is none that never did, whatever fails after that."""
    failed = tell(Health(answered=True), FAILURE)
    assert (failed.answered, failed.failures) == (True, 1)


def test_a_success_does_not_take_back_a_retry_after() -> None:
    """An attempt that was under way when another was told to wait does not open the endpoint early."""
    waiting = tell(fail(3), throttled(60_000))
    assert tell(waiting, SUCCESS) == Health(answered=True, not_before_ms=NOW_MS + 60_000)
    assert tell(waiting, SUCCESS, now_ms=NOW_MS + 60_000) == Health(answered=True)


def test_nothing_new_is_the_same_object() -> None:
    """Only a change is persisted, so no change must be recognisable."""
    healthy, told = Health(answered=True), Health(answered=True, not_before_ms=NOW_MS + 1)
    assert tell(healthy, SUCCESS) is healthy
    assert tell(told, SUCCESS) is told
    assert tell(healthy, REFUSED) is healthy
    assert tell(healthy, throttled(None)) is healthy
    assert tell(healthy, throttled(0)) is healthy


def test_a_refusal_neither_harms_nor_clears() -> None:
    """3xx and most 4xx leave health as it is, also when a probe gets them (outcome table)."""
    cooled = fail(10)
    assert tell(cooled, REFUSED, probe=True) is cooled


def test_the_longest_retry_after_counts() -> None:
    """A shorter wait told later does not open the endpoint earlier."""
    health = tell(tell(Health(), throttled(60_000)), throttled(5_000))
    assert health == Health(not_before_ms=NOW_MS + 60_000)
    assert opens_ms(health) == NOW_MS + 60_000


def test_failures_are_remembered_for_people() -> None:
    """Health says since when, on how many days, when last and how an endpoint failed."""
    first = tell(Health(), FAILURE)
    second = tell(first, replace(FAILURE, cause="timeout"), event=2, now_ms=NOW_MS + DAY_MS)
    third = tell(second, FAILURE, event=1, now_ms=NOW_MS + DAY_MS + 1)
    assert (first.failing_since_ms, first.failure_days, first.first_failed) == (NOW_MS, 1, 1)
    assert (second.failing_since_ms, second.failure_days, second.last_failure) == (NOW_MS, 2, "timeout")
    assert (third.failure_days, third.last_failure_ms, third.last_failure) == (2, NOW_MS + DAY_MS + 1, "503")


def test_a_run_of_failures_never_starts_in_the_future() -> None:
    """After a backward step of the wall clock the run counts from the present (Q15)."""
    assert tell(fail(3), FAILURE, now_ms=NOW_MS - DAY_MS).failing_since_ms == NOW_MS - DAY_MS


LOST = Health(
    failures=10, first_failed=1, several=True, failing_since_ms=NOW_MS - POLICY.disable_after_ms, failure_days=3
)


@pytest.mark.parametrize(
    ("health", "disabled"),
    [
        (LOST, True),
        (replace(LOST, failures=9), False),
        (replace(LOST, several=False), False),
        (replace(LOST, failure_days=2), False),
        (replace(LOST, failing_since_ms=NOW_MS - POLICY.disable_after_ms + 1), False),
        (replace(LOST, failing_since_ms=None), False),
        (Health(), False),
    ],
)
def test_disabling_needs_all_of_its_conditions(health: Health, disabled: bool) -> None:
    """Ten failures, two deliveries, three days, and five days without a success (Q9)."""
    assert should_disable(health, NOW_MS, POLICY) is disabled


def test_waits_beyond_reach_are_shortened() -> None:
    """After the wall clock stepped back no endpoint waits longer than a rule could have told it to (Q15)."""
    far = Health(
        failures=10, cool_down_ms=5_000, cool_until_ms=NOW_MS + 365 * DAY_MS, not_before_ms=NOW_MS + 9 * DAY_MS
    )
    near = clamped(far, NOW_MS, POLICY)
    assert near.cool_until_ms == NOW_MS + round(POLICY.cool_down_max_ms * (1 + JITTER))
    assert near.not_before_ms == NOW_MS + NOT_BEFORE_MAX_MS
    assert clamped(near, NOW_MS, POLICY) is near


@pytest.mark.parametrize(
    ("failures", "ours"),
    [
        ([Failure.DNS], False),
        ([Failure.DNS, Failure.CONNECT], True),
        ([Failure.DNS, None], False),
        ([Failure.DNS, Failure.CONNECT, None], True),
        ([Failure.TIMEOUT, Failure.TLS, Failure.BROKEN_RESPONSE], False),
    ],
)
def test_when_it_is_us(failures: list[Failure | None], ours: bool) -> None:
    """It is us when more than half of the active endpoints, and at least two, fail at DNS or connect (Q9)."""
    reachability = Reachability()
    for ref, failure in enumerate(failures):
        reachability.note(ref, Outcome(0, 1, None if failure else 204, failure), 0)
    assert reachability.local_trouble(ACTIVE_MS) is ours
    assert not reachability.local_trouble(ACTIVE_MS + 1)


def test_an_endpoint_is_blocked_while_its_latest_attempt_was() -> None:
    """Our own guard refused its address: people see that, until an attempt goes out or the endpoint is deleted."""
    reachability = Reachability()
    assert not reachability.blocked(1)
    reachability.note(1, Outcome(0, 1, failure=Failure.BLOCKED_NAME), 0)
    assert reachability.blocked(1)
    reachability.note(1, Outcome(0, 1, 204), 0)
    assert not reachability.blocked(1)
    reachability.note(1, Outcome(0, 1, failure=Failure.BLOCKED_ADDRESS), 0)
    reachability.forget(1)
    reachability.forget(1)
    assert not reachability.blocked(1)
