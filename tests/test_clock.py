"""The wall clock may be wrong: steps while the relay runs, jumps while it was down, and the kernel's word (Q15)."""

import pytest

from relay.core.clock import AHEAD_MS, DISTRUST_MAX_MS, REST_MS, STEP_MS, ClockState, ClockWatch, SystemClock
from tests.support.clock import FakeClock


def unsynchronised() -> FakeClock:
    clock = FakeClock()
    clock.synchronised_by_kernel = False
    return clock


@pytest.mark.parametrize(
    ("jump_ms", "state"),
    [
        (AHEAD_MS + 1, ClockState.DISTRUSTED),
        (AHEAD_MS, ClockState.TRUSTED),
        (0, ClockState.TRUSTED),
        (-STEP_MS, ClockState.TRUSTED),
        (-STEP_MS - 1, ClockState.DISTRUSTED),
    ],
)
def test_a_start_compares_the_clock_with_the_last_commit(jump_ms: int, state: ClockState) -> None:
    """H12: more than a day ahead of the heartbeat, or behind it, the clock is distrusted; between them it is trusted."""
    clock = unsynchronised()
    watch = ClockWatch(clock, clock.wall_ms() - jump_ms)
    assert (watch.state, watch.trusted) == (state, state is ClockState.TRUSTED)
    assert watch.went_back == (jump_ms < -STEP_MS)


def test_a_first_start_has_nothing_to_compare() -> None:
    """An empty database holds nothing that a wrong clock could end; hosts without NTP start like others."""
    assert ClockWatch(unsynchronised(), None).trusted


def test_the_kernel_knows_better_than_the_heartbeat() -> None:
    """H12: a host that was down for a week and whose clock is synchronised is trusted at once."""
    clock = FakeClock()
    assert ClockWatch(clock, clock.wall_ms() - 7 * AHEAD_MS).trusted


def test_distrust_ends_when_the_kernel_reports_a_synchronised_clock() -> None:
    """H12: the look that hears of it ends the distrust; a step of more than a minute lets things rest as ever."""
    clock = unsynchronised()
    watch = ClockWatch(clock, clock.wall_ms() - 60 * AHEAD_MS)
    clock.advance(4_000)
    assert watch.look() == 0.0
    assert watch.state is ClockState.DISTRUSTED
    clock.step_wall(-60 * AHEAD_MS)
    clock.synchronised_by_kernel = True
    assert watch.look() == -60 * AHEAD_MS
    assert watch.state is ClockState.STEPPED
    clock.advance(REST_MS - 1)
    assert not watch.trusted
    clock.advance(1)
    assert (watch.look(), watch.state) == (0.0, ClockState.TRUSTED)


def test_distrust_ends_after_a_day_where_nobody_synchronises() -> None:
    """H12: a host without NTP that was switched off for a week expires and prunes again a day later."""
    clock = unsynchronised()
    watch = ClockWatch(clock, clock.wall_ms() - 7 * AHEAD_MS)
    clock.advance(DISTRUST_MAX_MS - 1)
    watch.look()
    assert not watch.trusted
    clock.advance(1)
    assert watch.trusted


@pytest.mark.parametrize("step_ms", [STEP_MS, -STEP_MS])
def test_a_small_step_is_none(step_ms: int) -> None:
    """NTP may move the clock by a minute."""
    clock = FakeClock()
    watch = ClockWatch(clock, clock.wall_ms())
    clock.step_wall(step_ms)
    assert (watch.look(), watch.state) == (0.0, ClockState.TRUSTED)


def test_the_system_says_whether_its_clock_is_synchronised() -> None:
    """The kernel of whatever host runs the tests answers, one way or the other."""
    assert SystemClock().synchronised() in (True, False)
