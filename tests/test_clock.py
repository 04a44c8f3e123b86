"""The wall clock may be wrong: steps while the relay runs, jumps while it was down, and the kernel's word (Q15)."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.core.clock import AHEAD_MS, DISTRUST_MAX_MS, REST_MS, STEP_MS, ClockState, ClockWatch, SystemClock
from relay.core.units import format_time
from relay.telemetry import log
from tests.support.clock import FakeClock
from tests.support.receiver import Answer, Receiver
from tests.support.stack import Stack
from tests.support.waiting import until

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


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


# -- through the doors -------------------------------------------------------------------------------------------------


async def pass_time(stack: Stack, ms: int, step_ms: int = 1_000) -> None:
    """Let time pass, and the loops of the daemon with it."""
    for _ in range(0, ms, step_ms):
        stack.fake.advance(step_ms)
        await stack.quiet()


async def restart(stack: Stack, *, clock_jumps_ms: int, synchronised: bool = False) -> None:
    """Stop the relay, and start it with another wall clock."""
    await stack.stop()
    stack.fake.step_wall(clock_jumps_ms)
    stack.fake.synchronised_by_kernel = synchronised
    await stack.start()


async def endpoint(stack: Stack, name: str, verb: str) -> None:
    status, answer = await stack.call("POST", f"/v1/webhook-endpoints/{name}/{verb}")
    assert status == 200, answer


async def states(stack: Stack, event: dict[str, Any]) -> dict[str, str]:
    """The state of each delivery of an event, by endpoint; nothing when the event is gone."""
    status, answer = await stack.call("GET", f"/v1/events/{event['id']}/deliveries")
    return {delivery["endpoint"]: delivery["state"] for delivery in answer["data"]} if status == 200 else {}


async def clock_state(stack: Stack) -> str:
    _, status = await stack.call("GET", "/v1/status")
    state: str = status["clock"]
    return state


def three_endpoints(folder: Path, receiver: Receiver) -> Stack:
    urls = dict.fromkeys(("late", "prompt", "held"), receiver.url)
    return Stack(folder, clock=FakeClock(), endpoints=urls, delivery='max_age = "5d"')


async def life_under_a_wrong_clock(
    stack: Stack, jump_ms: int, *, synchronised: bool, still_due: int
) -> tuple[list[Any], list[Any]]:
    """Start with the clock wrong for 90 seconds. Return the states of 20 expiring events then, and when it is right."""
    for name in ("late", "held"):
        await endpoint(stack, name, "pause")
    expires_at = format_time(stack.fake.wall_ms() + HOUR_MS)
    events = [await stack.post(expires_at=expires_at) for _ in range(20)]
    await until(lambda: stack.relay.store.backlog == 40)

    await restart(stack, clock_jumps_ms=jump_ms, synchronised=synchronised)
    await endpoint(stack, "late", "resume")
    await pass_time(stack, 90_000)
    await until(lambda: stack.relay.store.backlog == still_due)
    under = [await states(stack, event) for event in events]

    stack.fake.step_wall(-jump_ms)
    stack.fake.synchronised_by_kernel = True
    await pass_time(stack, 16 * 60_000, 10_000)
    return under, [await states(stack, event) for event in events]


@pytest.mark.parametrize("jump_ms", [60 * DAY_MS, -60 * DAY_MS])
async def test_a_start_under_a_wrong_clock_loses_nothing(tmp_path: Path, jump_ms: int) -> None:
    """H12: expiring deliveries are made, delivered events kept, held ones not ended, under the wrong clock and after."""
    async with Receiver() as receiver, three_endpoints(tmp_path, receiver) as stack:
        with capture_logs() as lines:
            under, after = await life_under_a_wrong_clock(stack, jump_ms, synchronised=False, still_due=20)
        assert under == [{"late": "delivered", "prompt": "delivered", "held": "due"}] * 20
        assert after == under
        assert await clock_state(stack) == "trusted"
        about_the_clock = [line["event"] for line in lines if "clock" in line["event"]]
        assert about_the_clock == [log.CLOCK_DISTRUSTED, log.WALL_CLOCK_STEPPED, log.CLOCK_TRUSTED]


async def test_a_start_that_believes_a_wrong_clock_loses_deliveries(tmp_path: Path) -> None:
    """Negative control: were the clock believed, what expires by it would be dead, and what was held as well."""
    async with Receiver() as receiver, three_endpoints(tmp_path, receiver) as stack:
        under, _ = await life_under_a_wrong_clock(stack, 60 * DAY_MS, synchronised=True, still_due=0)
        assert under == [{"late": "dead", "prompt": "delivered", "held": "dead"}] * 20


async def test_a_second_start_under_a_wrong_clock_still_sees_the_jump(tmp_path: Path) -> None:
    """H12: what is committed under a distrusted clock leaves no heartbeat, and status says so with what to do."""
    async with Receiver() as receiver, three_endpoints(tmp_path, receiver) as stack:
        await stack.post()
        await restart(stack, clock_jumps_ms=60 * DAY_MS)
        await stack.post()
        await pass_time(stack, 120_000, 10_000)
        await stack.post()
        await restart(stack, clock_jumps_ms=0)
        _, status = await stack.call("GET", "/v1/status")
        assert status["clock"] == "distrusted"
        assert any("NTP" in warning for warning in status["warnings"])


def next_due_in_ms(stack: Stack) -> int:
    """In how many milliseconds the first delivery in memory is due; for ever when there is none."""
    lanes = stack.relay.dispatch.lanes
    oldest_ms = lanes.oldest_due_ms(lanes._lanes)
    return 1 << 60 if oldest_ms is None else oldest_ms - stack.fake.wall_ms()


async def test_after_a_step_back_an_attempt_waits_no_longer_than_its_delay(tmp_path: Path) -> None:
    """H13: the clock goes back 8 hours in the middle of a schedule of 3 s, and the next attempt comes within it."""
    settings = 'retry = { schedule = ["3s", "3s"], jitter = 0.0 }'
    async with Receiver(500, 500) as receiver:
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url}, endpoint_settings=settings)
        async with stack:
            event = await stack.post()
            appointed = await stack.post(deliver_at=format_time(stack.fake.wall_ms() + HOUR_MS))
            await stack.attempted(event["id"], 1)
            stack.fake.step_wall(-8 * HOUR_MS)
            stack.fake.advance(1_000)  # the watch sees it
            await until(lambda: next_due_in_ms(stack) <= 3_000)
            stack.fake.advance(3_000)
            await stack.attempted(event["id"], 2)
            await restart(stack, clock_jumps_ms=-8 * HOUR_MS)  # and once more while it is down
            await until(lambda: next_due_in_ms(stack) <= 3_000)
            stack.fake.advance(3_000)
            await stack.settled(event["id"], "delivered")
            assert (await states(stack, appointed)) == {"primary": "due"}


async def test_waits_that_a_wrong_clock_set_are_clamped_when_they_are_loaded(tmp_path: Path) -> None:
    """H11: `Retry-After` heard while the clock was 30 days ahead holds an endpoint back for an hour, not for 30 days."""
    async with Receiver(Answer(429, {"Retry-After": "3600"})) as receiver:
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url})
        async with stack:
            stack.fake.step_wall(30 * DAY_MS)
            event = await stack.post()
            await stack.attempted(event["id"], 1)
            await restart(stack, clock_jumps_ms=-30 * DAY_MS, synchronised=True)
            await pass_time(stack, HOUR_MS - 60_000, 60_000)
            assert len(receiver.received) == 1
            await pass_time(stack, 3 * 60_000, 10_000)
            await stack.settled(event["id"], "delivered")
