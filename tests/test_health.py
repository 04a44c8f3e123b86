"""Cool-down, probes, `Retry-After` and disabling, as pure functions (Q5, Q9, Q15)."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.model import Failure, Health, HealthPolicy, Outcome
from relay.queue.health import (
    JITTER,
    REFUSALS,
    REFUSING_AFTER_MS,
    THROTTLED_AFTER_MS,
    after,
    clamped,
    is_refusing,
    opens_ms,
    should_disable,
)
from relay.queue.reachability import ACTIVE_MS, Reachability, Sighting, is_us
from relay.queue.retry import NOT_BEFORE_MAX_MS, Action, Classification, HealthEffect

DAY_MS = 86_400_000
NOW_MS = 20_000 * DAY_MS
POLICY = HealthPolicy()
SUCCESS = Classification(Action.DELIVERED, HealthEffect.SUCCESS)
FAILURE = Classification(Action.RETRY, HealthEffect.FAILURE, cause="503")
REFUSED = Classification(Action.RETRY, HealthEffect.REFUSED, cause="404", detail="correct the URL")
UNSENT = Classification(Action.RETRY, HealthEffect.NONE, cause="blocked_name")


def throttled(not_before_ms: int | None) -> Classification:
    return Classification(Action.RETRY, HealthEffect.THROTTLED, not_before_ms=not_before_ms, cause="429")


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
    assert tell(healthy, UNSENT) is healthy


def test_a_refusal_neither_harms_nor_clears() -> None:
    """3xx and most 4xx leave failures and cool-down as they are, also when a probe gets them (outcome table)."""
    cooled = fail(10)
    refused = tell(cooled, REFUSED, probe=True)
    assert (refused.failures, refused.cool_down_ms, refused.cool_until_ms, refused.several) == (
        cooled.failures,
        cooled.cool_down_ms,
        cooled.cool_until_ms,
        cooled.several,
    )
    assert opens_ms(refuse(50)) == 0


def test_refusals_of_others_do_not_make_one_poisonous_delivery_cool_an_endpoint_down() -> None:
    """Ten failures of one delivery cool nothing down, whatever was refused beside them (Q5)."""
    assert fail(20, events=1, health=refuse(3)).cool_down_ms == 0


def refuse(times: int, *, events: int = 2, now_ms: int = NOW_MS, health: Health | None = None) -> Health:
    health = health or Health(answered=True)
    for number in range(times):
        health = tell(health, REFUSED, event=100 + number % events, now_ms=now_ms)
    return health


def test_ten_refusals_in_a_row_are_refusing_at_once() -> None:
    """T1: ten refusals in a row need no time (Q9)."""
    assert not is_refusing(refuse(REFUSALS - 1), NOW_MS)
    assert is_refusing(refuse(REFUSALS), NOW_MS)


def test_one_refusal_becomes_refusing_by_time_alone() -> None:
    """T1: nothing but refusals for 100 s are enough, though the next attempt is hours away (Q9)."""
    once = refuse(1)
    assert not is_refusing(once, NOW_MS + REFUSING_AFTER_MS - 1)
    assert is_refusing(once, NOW_MS + REFUSING_AFTER_MS)
    assert REFUSING_AFTER_MS < 120_000
    assert (once.last_failure, once.last_answer, once.failing_since_ms) == ("404", "correct the URL", NOW_MS)


def test_a_success_or_a_failure_ends_the_row_of_refusals() -> None:
    """A 2xx takes all back; a health failure begins the row anew, for that endpoint fails (Q9)."""
    row, later_ms = refuse(REFUSALS), NOW_MS + REFUSING_AFTER_MS
    assert not is_refusing(tell(row, SUCCESS), later_ms)
    failed = tell(row, FAILURE)
    assert not is_refusing(failed, later_ms)
    assert failed.misses == REFUSALS + 1


def test_an_hour_of_patience_asked_for_is_refusing() -> None:
    """T1: nothing but 429 for an hour is shown too; an answer of another kind in between begins the hour anew (Q9)."""
    waiting = tell(Health(answered=True), throttled(None))
    assert not is_refusing(waiting, NOW_MS + THROTTLED_AFTER_MS - 1)
    assert is_refusing(waiting, NOW_MS + THROTTLED_AFTER_MS)
    assert not is_refusing(tell(waiting, FAILURE), NOW_MS + THROTTLED_AFTER_MS)
    assert is_refusing(tell(refuse(9), throttled(None), now_ms=NOW_MS + 1), NOW_MS + REFUSING_AFTER_MS)


@pytest.mark.parametrize("verdict", [REFUSED, throttled(None), FAILURE], ids=["404", "429", "503"])
def test_whatever_is_not_delivered_counts_for_the_five_days(verdict: Classification) -> None:
    """T1: refusals and wishes to be asked later end an endpoint as failures do: ten, two deliveries, three days (Q9)."""
    health = Health(answered=True)
    for day in range(6):
        for event in (1, 2):
            health = tell(health, verdict, event=event, now_ms=NOW_MS + day * DAY_MS)
    assert should_disable(health, NOW_MS + 5 * DAY_MS, POLICY)
    assert not should_disable(tell(health, SUCCESS), NOW_MS + 5 * DAY_MS, POLICY)


def test_the_longest_retry_after_counts() -> None:
    """A shorter wait told later does not open the endpoint earlier."""
    health = tell(tell(Health(), throttled(60_000)), throttled(5_000))
    assert health.not_before_ms == NOW_MS + 60_000
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
    misses=10, first_missed=1, several_missed=True, failing_since_ms=NOW_MS - POLICY.disable_after_ms, failure_days=3
)


@pytest.mark.parametrize(
    ("health", "disabled"),
    [
        (LOST, True),
        (replace(LOST, misses=9), False),
        (replace(LOST, several_missed=False), False),
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
    ("seen", "us"),
    [
        ("", False),
        ("1a-", False),
        ("1a- 1a- 1a-", False),  # one host, however many endpoints
        ("1a- 1b-", False),  # a single application needs three hosts
        ("1a- 1b- 1c-", True),
        ("1a- 1b- 1c- 2d+", False),  # one of two applications
        ("1a- 2a-", False),  # two applications, one host
        ("1a- 2b-", True),
        ("1a- 2b- 3c+", True),
        ("1a- 2b- 3c+ 4d+", False),  # half is not more than half
        ("1a- 1a+ 2b-", False),  # somebody reached that host
        ("1a- 1b- 1c- 1d- 1e- 1f- 2x+ 3y+", False),  # one voice each, however many hosts
    ],
)
def test_when_it_is_us(seen: str, us: bool) -> None:
    """T2: several hosts of several applications out of reach for a reason of ours are us, one tenant never (Q9)."""
    sightings = [Sighting(int(word[0]), word[1], word[2] == "-") for word in seen.split()]
    assert is_us(sightings) is us


def test_an_endpoint_is_active_for_ten_minutes() -> None:
    """What was last tried long ago says nothing about the network now (Q9)."""
    reachability = Reachability()
    reachability.note(1, Outcome(0, 1, failure=Failure.DNS, ours=True), 0)
    reachability.note(2, Outcome(0, 1, failure=Failure.CONNECT), ACTIVE_MS)
    assert reachability.any_ours
    assert list(reachability.active(ACTIVE_MS)) == [(1, True), (2, False)]
    assert list(reachability.active(ACTIVE_MS + 1)) == [(2, False)]
    reachability.note(1, Outcome(0, 1, 204), ACTIVE_MS)
    assert not reachability.any_ours


def test_an_endpoint_is_blocked_while_its_latest_attempt_was() -> None:
    """Our own guard refused its address: people see that, until an attempt goes out or the endpoint is deleted."""
    reachability = Reachability()
    assert 1 not in reachability.blocked
    reachability.note(1, Outcome(0, 1, failure=Failure.BLOCKED_NAME), 0)
    assert 1 in reachability.blocked
    reachability.note(1, Outcome(0, 1, 204), 0)
    assert 1 not in reachability.blocked
    reachability.note(1, Outcome(0, 1, failure=Failure.BLOCKED_ADDRESS), 0)
    reachability.forget(1)
    reachability.forget(1)
    assert 1 not in reachability.blocked
