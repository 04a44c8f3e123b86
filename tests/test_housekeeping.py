"""The periodic duties: audit, held deliveries, the disk gate, the stepped clock, pruning (Q6, Q9, Q10, Q14, Q15, invariant 8)."""

import asyncio
import errno
import os
import sqlite3
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from relay.config.model import RetentionConfig
from relay.core.errors import CommitUnknown, StoreUnavailable
from relay.core.model import DisabledBy, DueDelivery, Health
from relay.daemon.service import exit_code
from relay.housekeeping import PRUNE_REST, PRUNE_REST_MAX_MS
from relay.store import Pruned
from relay.telemetry import log
from tests.support.clock import FakeClock
from tests.support.daemon import PRODUCER_TOKEN
from tests.support.engine import Engine, config, engine
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.stores import sqlite_error
from tests.support.waiting import until

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
AUDIT_AGE_MS = 10_000
MINUTES = 60_000


KEPT = RetentionConfig(events_ms=DAY_MS, attempts_ms=DAY_MS, idempotency_ms=DAY_MS)


def forget(house: Engine, name: str, event: int) -> None:
    """Make the mistake that the audit is there for: a due delivery leaves its lane without a trace."""
    lanes = house.dispatch.lanes
    lane = lanes._lanes[house.endpoint(name).ref]
    lane.memory.scheduled.remove(event)
    lane.memory.waiting -= 1
    lanes._changed(lane)


# -- the audit (invariant 8) -------------------------------------------------------------------------------------------


async def test_the_audit_finds_what_a_lane_forgot(tmp_path: Path) -> None:
    """A due row that no lane knows of is handed over, counted, and logged as a bug."""
    async with engine(tmp_path, config("first")) as house:
        accepted = await house.post()
        forget(house, "first", accepted.event.ordinal)
        house.clock.advance(AUDIT_AGE_MS)
        with capture_logs() as lines:
            assert await house.housekeeping.audit_once(house.endpoint("first")) == 1
        assert [line["event"] for line in lines] == [log.AUDIT_REPAIRED]
        assert house.metrics._audit_repairs == 1

        house.run()
        await until(lambda: house.store.backlog == 0)
        assert await house.states(accepted) == {"first": "delivered"}


async def test_the_audit_trusts_no_count(tmp_path: Path) -> None:
    """H3: a due row is found even when the counts in memory say that there is none."""
    async with engine(tmp_path, config("first")) as house:
        await house.post()
        forget(house, "first", 1)
        uncounted: Any = house.store
        uncounted.due_count = lambda ref: 0
        house.run(house.housekeeping.audit)
        await house.passing(lambda: len(house.courier.requests) == 1, MINUTES)
        assert house.metrics._audit_repairs == 1


async def test_an_audit_costs_nothing_for_idle_endpoints(tmp_path: Path) -> None:
    """H3: the database says in one question which endpoints have due rows, and only their rows are read."""
    async with engine(tmp_path, config("first", *(f"idle{number}" for number in range(20)))) as house:
        for number in range(20):
            await house.registrar.disable(f"idle{number}", DisabledBy.GONE)
        await house.post()
        asked: list[int] = []
        audit_due, counted = house.store.audit_due, cast(Any, house.store)

        async def counting(ref: int, limit: int) -> list[DueDelivery]:
            asked.append(ref)
            return await audit_due(ref, limit)

        counted.audit_due = counting
        await house.housekeeping.audit_all()
        assert asked == [house.endpoint("first").ref]


async def test_due_times_are_looked_at_again_after_the_database_was_busy(tmp_path: Path) -> None:
    """H13: a step back whose due times could not be mended is not forgotten."""
    async with engine(tmp_path, config("first")) as house:
        await house.registrar.pause("first")
        await house.post()
        await house.registrar.resume("first")
        house.clock.step_wall(-8 * HOUR_MS)
        house.gate.error = sqlite_error(sqlite3.SQLITE_BUSY)
        house.run(house.housekeeping.watch, house.housekeeping.audit)
        with capture_logs() as lines:
            await house.passing(lambda: any(line["event"] == log.HOUSEKEEPING_FAILED for line in lines))
        assert house.courier.requests == []
        house.gate.error = None
        await house.passing(lambda: len(house.courier.requests) == 1)
        assert house.clock.wall_ms() < FakeClock().wall_ms() - 7 * HOUR_MS


async def test_the_audit_finds_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    """Negative control: waiting, running, behind and paused lanes are no bugs, however often they are audited."""
    async with engine(tmp_path, config("first", "second")) as house:
        await house.registrar.pause("second")
        for _ in range(3):
            await house.post()
        house.clock.advance(AUDIT_AGE_MS)
        endpoints = [house.endpoint("first"), house.endpoint("second")]
        assert [await house.housekeeping.audit_once(endpoint) for endpoint in endpoints] == [0, 0]
        await house.registrar.resume("second")  # its lane knows nothing yet
        assert await house.housekeeping.audit_once(house.endpoint("second")) == 0
        house.run()
        await until(lambda: house.store.backlog == 0)
        assert house.metrics._audit_repairs == 0


async def test_the_audit_comes_by_itself_once_a_minute(tmp_path: Path) -> None:
    """Nobody has to ask: a minute later the delivery is on its way."""
    async with engine(tmp_path, config("first")) as house:
        accepted = await house.post()
        forget(house, "first", accepted.event.ordinal)
        house.run(house.housekeeping.audit)
        await house.quiet()
        assert house.courier.requests == []
        await house.passing(lambda: house.store.backlog == 0, MINUTES)
        assert house.metrics._audit_repairs == 1


# -- what is held does not wait for ever (Q6, Q9) ----------------------------------------------------------------------


@pytest.mark.parametrize(("move", "state"), [("pause", "dead exhausted"), ("disable", "dead endpoint_disabled")])
async def test_a_held_delivery_ends_after_max_age(tmp_path: Path, move: str, state: str) -> None:
    """What an endpoint holds ends with its `max_age`, never tried, and says of what: not a millisecond earlier."""
    async with engine(tmp_path, config("first", "second", settings='max_age = "1h"')) as house:
        accepted = await house.post()
        await getattr(house.registrar, move)("first")
        house.clock.advance(HOUR_MS)
        assert await house.housekeeping.end_held(house.endpoint("first")) == 0
        house.clock.advance(1)
        assert await house.housekeeping.end_held(house.endpoint("first")) == 1
        assert await house.housekeeping.end_held(house.endpoint("second")) == 0
        assert await house.states(accepted) == {"first": state, "second": "due"}
        assert house.metrics._dead == {state.removeprefix("dead "): 1}  # H15


async def test_a_held_delivery_ends_at_its_expiry(tmp_path: Path) -> None:
    """`expires_at` ends everything, also what is held (Q6)."""
    async with engine(tmp_path, config("first")) as house:
        accepted = await house.post(expires_at_ms=house.clock.wall_ms() + 1_000)
        await house.registrar.pause("first")
        house.clock.advance(999)
        assert await house.housekeeping.end_held(house.endpoint("first")) == 0
        house.clock.advance(1)
        assert await house.housekeeping.end_held(house.endpoint("first")) == 1
        assert await house.states(accepted) == {"first": "dead expired"}
        assert house.metrics._dead == {"expired": 1}  # H15


async def test_max_age_never_ends_what_was_not_tried_and_is_not_held(tmp_path: Path) -> None:
    """An endpoint that is merely behind loses nothing by age (Q6)."""
    async with engine(tmp_path, config("first", settings='max_age = "1h"')) as house:
        accepted = await house.post()
        house.clock.advance(DAY_MS)
        assert await house.housekeeping.end_held(house.endpoint("first")) == 0
        house.run(house.housekeeping.audit)
        await until(lambda: house.store.backlog == 0)
        assert await house.states(accepted) == {"first": "delivered"}


async def test_what_was_resumed_meanwhile_is_not_ended_by_age(tmp_path: Path) -> None:
    """A round over all endpoints takes a while: one that was resumed before its turn came is not held any more (Q6)."""
    async with engine(tmp_path, config("first", settings='max_age = "1h"')) as house:
        accepted = await house.post()
        await house.registrar.pause("first")
        held = house.endpoint("first")
        house.clock.advance(HOUR_MS + 1)
        await house.registrar.resume("first")
        assert await house.housekeeping.end_held(held) == 0
        house.run()
        await until(lambda: house.store.backlog == 0)
        assert await house.states(accepted) == {"first": "delivered"}


async def test_what_vanished_is_held_until_max_age(tmp_path: Path) -> None:
    """Deliveries of an endpoint that is no longer in the file end like other held ones."""
    async with engine(tmp_path, config("first")) as house:
        accepted = await house.post()
        await house.apply(config(extra='[delivery]\nmax_age = "1h"'))
        house.clock.advance(HOUR_MS + 1)
        assert await house.housekeeping.end_held(house.endpoint("first")) == 1
        assert await house.states(accepted) == {"first": "dead exhausted"}


async def test_a_resumed_lane_does_not_start_what_was_ended(tmp_path: Path) -> None:
    """More than one step's worth of held deliveries ends, in steps, and none of it is sent afterwards (Q11)."""
    async with engine(tmp_path, config("first", settings='max_age = "1h"')) as house:
        await house.registrar.pause("first")
        for _ in range(30):
            await house.post()
        house.clock.advance(HOUR_MS + 1)
        kept = await house.post()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("relay.housekeeping.STEP_ROWS", 7)
            assert await house.housekeeping.end_held(house.endpoint("first")) == 30
        await house.registrar.resume("first")
        house.run()
        await until(lambda: house.store.backlog == 0)
        assert len(house.courier.requests) == 1
        assert await house.states(kept) == {"first": "delivered"}


async def test_what_is_reserved_is_not_held(tmp_path: Path) -> None:
    """H17: an attempt under way when its endpoint is paused ends its delivery itself, and what follows it waits so long."""
    async with engine(tmp_path, config("first", settings='max_age = "1h"')) as house:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        house.courier.script.append(answer)
        head, follower = [await house.post(ordering_key="k", expires_at_ms=expiry_ms(house)) for _ in range(2)]
        house.run()
        await until(lambda: len(house.courier.requests) == 1)
        await house.registrar.pause("first")
        promoted: list[DueDelivery] = []
        house.store.on_promoted(promoted.extend)
        house.clock.advance(2 * HOUR_MS)
        assert await house.housekeeping.end_held(house.endpoint("first")) == 1  # the one that waits for its turn
        assert await house.states(head) == {"first": "due"}
        assert await house.states(follower) == {"first": "dead expired"}
        last = await house.post(ordering_key="k")
        assert not last.due
        answer.set_result(204)
        await until(lambda: house.store.pending_settles == 0 and len(promoted) == 1)
        assert await house.states(head) == {"first": "delivered"}
        assert [due.event for due in promoted] == [last.event.ordinal]


def expiry_ms(house: Engine) -> int:
    return house.clock.wall_ms() + HOUR_MS


# -- the disk gate (Q10) -----------------------------------------------------------------------------------------------


async def test_the_disk_gate_closes_and_reopens(tmp_path: Path) -> None:
    """Intake closes below `min_free_disk` and reopens at 1.25 times it; each change is told once (Q10)."""
    async with engine(tmp_path, config("first")) as house:
        seen = []
        with capture_logs() as lines:
            for free_bytes in (2 << 20, 1 << 20, (1 << 20) - 1, 1 << 20, (5 << 18) - 1, 5 << 18, 1 << 20):
                house.store.free_disk_bytes = lambda free_bytes=free_bytes: free_bytes  # type: ignore[method-assign]
                await house.housekeeping.watch_once()
                seen.append(house.housekeeping.disk_low)
        assert seen == [False, False, True, True, True, False, False]
        assert [line["event"] for line in lines] == [log.DISK_LOW, log.DISK_OK]


async def test_a_folder_that_cannot_be_asked_for_space_ends_nothing(tmp_path: Path) -> None:
    """What `statvfs` refuses is logged and asked again; the gate stays as it was, and the relay goes on."""
    async with engine(tmp_path, config("first")) as house:

        def refused() -> int:
            raise OSError(errno.EACCES, "Permission denied")

        house.store.free_disk_bytes = refused  # type: ignore[method-assign]
        with capture_logs() as lines:
            await house.housekeeping.watch_once()
        assert [line["event"] for line in lines] == [log.HOUSEKEEPING_FAILED]
        assert not house.housekeeping.disk_low


async def test_a_full_disk_closes_intake_and_not_deliveries(tmp_path: Path) -> None:
    """While the disk is low events are refused with 507 and Retry-After; what is due is delivered; then it reopens (Q10)."""
    async with Receiver(500) as receiver:
        stack = Stack(tmp_path, clock=FakeClock(), endpoints={"primary": receiver.url})
        async with stack:
            event = await stack.post()
            await stack.attempted(event["id"], 1)
            store = stack.relay.store
            really, store.free_disk_bytes = store.free_disk_bytes, lambda: 0  # type: ignore[method-assign]
            stack.fake.advance(1_000)
            await until(lambda: stack.relay.housekeeping.disk_low)

            status, problem = await stack.call("POST", "/v1/events", {"type": "a.b", "data": {}})
            assert (status, problem["type"].rpartition("/")[2]) == (507, "disk_low")
            assert (await stack.call("GET", "/readyz"))[0] == 503
            stack.fake.advance(6_000)  # the retry, 5 s ± 20 %
            await stack.settled(event["id"], "delivered")

            store.free_disk_bytes = really  # type: ignore[method-assign]
            stack.fake.advance(1_000)
            await until(lambda: not stack.relay.housekeeping.disk_low)
            assert (await stack.post())["deliveries"] == 1


# -- the writer --------------------------------------------------------------------------------------------------------


async def test_a_writer_that_failed_is_noticed_and_woken(tmp_path: Path) -> None:
    """With nobody writing the watch finds out that the database takes writes again, and says so once."""
    async with engine(tmp_path, config("first")) as house:
        accepted = await house.post()
        house.gate.error = sqlite_error(sqlite3.SQLITE_FULL)
        house.run()
        await until(lambda: not house.store.healthy)
        with capture_logs() as lines:
            await house.housekeeping.watch_once()
            await house.housekeeping.watch_once()
            house.gate.error = None
            await house.housekeeping.watch_once()
            await house.housekeeping.watch_once()
        assert house.store.healthy
        told = [line["event"] for line in lines if line["event"] in (log.STORE_FAILED, log.STORE_RECOVERED)]
        assert told == [log.STORE_FAILED, log.STORE_RECOVERED]
        await house.passing(lambda: house.store.backlog == 0)
        assert await house.states(accepted) == {"first": "delivered"}


async def test_what_became_due_while_the_writer_failed_starts_when_it_recovers(tmp_path: Path) -> None:
    """The watch wakes dispatch too: nobody waits for the next news, or for a time-out, to go on (invariant 8)."""
    async with engine(tmp_path, config("first")) as house:
        await house.post(deliver_at_ms=house.clock.wall_ms() + 5_000)
        house.run()
        house.gate.error = sqlite_error(sqlite3.SQLITE_FULL)
        with pytest.raises(StoreUnavailable):
            await house.post()
        await house.housekeeping.watch_once()
        house.clock.advance(5_000)
        await house.quiet()
        assert house.courier.requests == []

        house.gate.error = None
        await house.housekeeping.watch_once()
        await until(lambda: house.store.backlog == 0)
        assert len(house.courier.requests) == 1


# -- a stepped clock (Q15) ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_ms", [2 * DAY_MS, -2 * DAY_MS])
async def test_a_step_of_the_wall_clock_lets_expiry_and_retention_rest(tmp_path: Path, step_ms: int) -> None:
    """After a step of more than a minute nothing expires and nothing is pruned for 15 minutes; it is logged (Q15)."""
    async with engine(tmp_path, config("first", settings='max_age = "1h"')) as house:
        house.housekeeping.retention = KEPT
        house.run(house.housekeeping.watch, house.housekeeping.audit, house.housekeeping.prune)
        old = await house.post()
        await until(lambda: house.store.backlog == 0)
        await house.registrar.pause("first")
        held = await house.post()
        with capture_logs() as lines:
            house.clock.step_wall(step_ms)
            house.clock.advance(1_000)
            await until(lambda: not house.clock_watch.trusted)
        assert [line["step_ms"] for line in lines if line["event"] == log.WALL_CLOCK_STEPPED] == [step_ms]

        for _ in range(14):
            house.clock.advance(MINUTES)
            await house.quiet()
        assert await house.housekeeping.end_held(house.endpoint("first")) == 0
        assert not await house.housekeeping.prune_once()
        assert await house.states(old) == {"first": "delivered"}
        assert await house.states(held) == {"first": "due"}

        house.clock.advance(max(-step_ms, 0) + HOUR_MS + 1)  # by either clock the budget is used up
        await house.passing(lambda: house.store.backlog == 0, MINUTES)
        assert await house.states(held) == {"first": "dead exhausted"}


@pytest.mark.parametrize("step_ms", [60_000, -60_000])
async def test_a_small_step_is_no_step(tmp_path: Path, step_ms: int) -> None:
    """NTP may move the clock by a minute; nothing rests for that."""
    async with engine(tmp_path, config("first")) as house:
        house.clock.step_wall(step_ms)
        await house.housekeeping.watch_once()
        assert house.clock_watch.trusted


async def test_a_step_wakes_what_is_due_by_the_new_time(tmp_path: Path) -> None:
    """Due times are wall-clock times: after a step forward what became due starts at once (Q15)."""
    async with engine(tmp_path, config("first")) as house:
        house.run(house.housekeeping.watch)
        await house.post(deliver_at_ms=house.clock.wall_ms() + DAY_MS)
        await house.quiet()
        house.clock.step_wall(DAY_MS)
        house.clock.advance(1_000)
        await until(lambda: house.store.backlog == 0)
        assert len(house.courier.requests) == 1


async def test_a_step_back_leaves_no_endpoint_cold_for_ever(tmp_path: Path) -> None:
    """A cool-down that a step back has set days ahead is cut to what a rule could have set (Q15)."""
    async with engine(tmp_path, config("first")) as house:
        from relay.dispatch.loop import lane_settings

        endpoint, now_ms = house.endpoint("first"), house.clock.wall_ms()
        cold = Health(failures=12, several=True, cool_down_ms=5_000, cool_until_ms=now_ms + 5_000)
        house.dispatch.lanes.configure(endpoint.ref, lane_settings(endpoint), cold, 0, house.clock.now())
        house.run(house.housekeeping.watch)
        await house.post()
        await house.quiet()
        house.clock.step_wall(-30 * DAY_MS)
        house.clock.advance(1_000)
        await house.quiet()
        house.clock.advance(30 * MINUTES)  # the longest cool-down, 15 min, and its jitter
        await house.quiet()
        view = house.dispatch.lanes.snapshot(endpoint.ref, house.clock.now())
        assert view is not None
        assert view.cool_until_ms <= house.clock.wall_ms()


# -- retention (Q14) ---------------------------------------------------------------------------------------------------


async def test_what_is_old_goes_and_what_is_due_stays(tmp_path: Path) -> None:
    """Pruning runs by itself: finished events go after their retention, one with a due delivery stays (Q14)."""
    async with engine(tmp_path, config("first", "second")) as house:
        house.housekeeping.retention = KEPT
        await house.registrar.pause("second")
        house.run()
        due = await house.post()
        await house.apply(config("first"))
        done = await house.post()
        await until(lambda: house.store.backlog == 1)
        house.clock.advance(DAY_MS + 1)
        house.run(house.housekeeping.prune)

        async def gone() -> bool:
            return await house.store.find_event(done.event.id) is None

        await house.until(gone)
        assert await house.states(due) == {"first": "delivered", "second": "due"}


async def test_pruning_leaves_the_writer_to_others_between_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S6: while there is more to remove, the next step waits for a multiple of what the last one took of the writer."""
    async with engine(tmp_path, config("first")) as house:
        steps: list[float] = []

        async def prune(*_: object) -> Pruned:
            steps.append(house.clock.mono_ms())
            return Pruned(1, 1, 1, 0, more=True, took_ms=2.0 if len(steps) < 3 else 1_000.0)

        monkeypatch.setattr(house.store, "prune", prune)
        house.run(house.housekeeping.prune)
        for wait_ms in (2.0 * PRUNE_REST, 2.0 * PRUNE_REST, PRUNE_REST_MAX_MS):
            count = len(steps) + 1
            await until(lambda count=count: len(steps) == count)  # type: ignore[misc]
            await house.quiet()
            house.clock.advance(wait_ms - 1)
            await house.quiet()
            assert len(steps) == count
            house.clock.advance(1)
        await until(lambda: len(steps) == 4)


async def test_pruning_goes_on_after_the_database_was_busy(tmp_path: Path) -> None:
    """A step that fails is logged and made again a minute later; the loop does not end."""
    async with engine(tmp_path, config("first")) as house:
        house.housekeeping.retention = KEPT
        house.run()
        done = await house.post()
        await until(lambda: house.store.backlog == 0)
        house.clock.advance(DAY_MS + 1)
        house.gate.error = sqlite_error(sqlite3.SQLITE_BUSY)
        with capture_logs() as lines:
            house.run(house.housekeeping.prune)
            await until(lambda: any(line["event"] == log.HOUSEKEEPING_FAILED for line in lines))
        house.gate.error = None
        await house.quiet()
        house.clock.advance(MINUTES)

        async def gone() -> bool:
            return await house.store.find_event(done.event.id) is None

        await house.until(gone)


async def test_held_deliveries_end_by_themselves(tmp_path: Path) -> None:
    """The audit's round also ends what was held for too long; a disabled endpoint keeps nothing for ever (Q9)."""
    async with engine(tmp_path, config("first", settings='max_age = "1h"')) as house:
        accepted = await house.post()
        await house.registrar.disable("first", DisabledBy.GONE)
        house.run(house.housekeeping.audit)
        house.clock.advance(HOUR_MS + 1)
        await house.passing(lambda: house.store.backlog == 0, MINUTES)
        assert await house.states(accepted) == {"first": "dead endpoint_disabled"}


# -- the summary -------------------------------------------------------------------------------------------------------


async def test_a_summary_every_ten_seconds_in_which_something_happened(tmp_path: Path) -> None:
    """One line says how many were accepted and delivered; an idle relay says nothing."""
    async with engine(tmp_path, config("first")) as house:
        with capture_logs() as lines:
            house.run(house.housekeeping.summarise)
            await house.quiet()
            house.clock.advance(10_000)
            await house.quiet()
            house.metrics.accepted()
            await house.post()
            await until(lambda: house.store.backlog == 0)
            house.clock.advance(10_000)
            await house.quiet()
            house.clock.advance(10_000)
            await house.quiet()
        (summary,) = [line for line in lines if line["event"] == log.SUMMARY]
        assert (summary["accepted"], summary["delivered"], summary["due"], summary["in_flight"]) == (1, 1, 0, 0)


# -- the database itself -----------------------------------------------------------------------------------------------


async def test_a_database_that_is_moved_away_stops_the_relay(tmp_path: Path) -> None:
    """H14: within a second or two of its removal the relay takes nothing more and ends with a sentence, not with 0."""
    stack = Stack(tmp_path)
    await stack.start()
    try:
        await stack.post()
        os.rename(str(stack.relay.store.facts["path"]), tmp_path / "elsewhere.db")
        with capture_logs() as lines:
            error = await stack.relay.wait()
            await stack.relay.housekeeping.watch_once()
            await stack.relay.housekeeping.audit_all()
        assert [line["event"] for line in lines] == []  # the process has the sentence, and says it once
        assert "not the file that was opened" in str(error)
        assert exit_code(error) == 78  # a restart by itself would begin with an empty database
        assert (await stack.call("GET", "/readyz"))[0] == 503
        event = {"type": "a.b", "data": {}}
        assert (await stack.call("POST", "/v1/events", event, token=PRODUCER_TOKEN))[0] == 503
    finally:
        await stack.http.close()
        await stack.relay.stop()


async def test_what_hinders_the_database_is_logged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H20: a WAL that cannot shrink is one line in the log, and one more when it happens again."""
    async with engine(tmp_path, config("first")) as house:
        with capture_logs() as lines:
            for detail in ("", "a reader", "a reader", "", "a reader"):
                monkeypatch.setattr(house.store, "upkeep", lambda detail=detail: detail)
                await house.housekeeping.watch_once()
        assert [line["detail"] for line in lines if line["event"] == log.STORE_HINDERED] == ["a reader", "a reader"]


async def test_the_audit_finds_what_a_failed_commit_kept(tmp_path: Path) -> None:
    """H3: a row that was kept although its commit reported an error is found within a minute, and delivered."""
    async with engine(tmp_path, config("first")) as house:
        committed = house.gate.after_commit(sqlite_error(sqlite3.SQLITE_FULL))
        with committed, pytest.raises(CommitUnknown):
            await house.post()
        assert house.store.backlog == 0
        house.run(house.housekeeping.audit)
        await house.housekeeping.watch_once()
        house.clock.advance(AUDIT_AGE_MS)
        await house.quiet()
        house.clock.advance(MINUTES)
        await until(lambda: len(house.courier.requests) == 1 and house.store.backlog == 0)
        assert house.metrics._audit_repairs == 1
