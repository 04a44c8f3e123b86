"""The loop that owns in-flight work: what it starts, what it waits for, and what it never starts (Q1, Q3, Q7, Q9, Q15)."""

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.core.errors import StoreUnavailable
from relay.core.frozen import FrozenEvent
from relay.core.model import DisabledBy, EndpointState, Failure, Health, Outcome
from relay.delivery.courier import Request
from relay.dispatch import loop
from relay.dispatch.cache import ENTRY_BYTES, EventCache
from relay.dispatch.loop import CACHE_AHEAD_MS, Dispatch
from relay.telemetry import log
from tests.support.clock import FakeClock
from tests.support.engine import Engine, config, engine
from tests.support.stores import sqlite_error
from tests.support.waiting import until

DISK_FULL = sqlite_error(sqlite3.SQLITE_FULL)
DAY_MS = 86_400_000
LATER_MS = 10_000

ONCE = 'retry = { schedule = ["5s"], jitter = 0.0 }'


def held_open() -> "asyncio.Future[int | Failure]":
    """An answer that a test gives when it wants to."""
    return asyncio.get_running_loop().create_future()


async def due_later(house: Engine) -> Any:
    """Accept an event that is due ten seconds from now."""
    return await house.post(deliver_at_ms=house.clock.wall_ms() + LATER_MS)


# -- what starts at once ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("starts_at_once", "most"), [(loop.STARTS_AT_ONCE, loop.STARTS_AT_ONCE), (1_000, 30)])
async def test_a_crowd_starts_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starts_at_once: int, most: int
) -> None:
    """I2: of thirty attempts that may start, a few do in each round of the loop; with no such limit (negative control) all."""
    monkeypatch.setattr(loop, "STARTS_AT_ONCE", starts_at_once)
    names = [f"endpoint-{number}" for number in range(30)]
    async with engine(tmp_path, config(*names)) as house:
        started = [0]  # by round of the loop

        async def count_rounds() -> None:
            while True:
                await asyncio.sleep(0)
                started.append(len(house.courier.requests) - sum(started))

        rounds = asyncio.create_task(count_rounds())
        house.run()
        await house.post()
        await until(lambda: house.store.backlog == 0)
        rounds.cancel()

        assert sum(started) == 30
        assert max(started) == most


# -- what cannot be recorded is not sent (Q7) --------------------------------------------------------------------------


async def test_nothing_starts_while_the_writer_fails(tmp_path: Path) -> None:
    """While the writer fails no attempt starts; a settle is submitted again until it is committed, and then it goes on."""
    async with engine(tmp_path, config("first")) as house:
        first, later = await fail_the_writer(house)
        assert len(house.courier.requests) == 1
        assert (await house.states(first))["first"] == "due"

        house.gate.error = None
        house.clock.advance(1_000)
        await until(lambda: house.store.backlog == 0)

        assert await house.states(first) == await house.states(later) == {"first": "delivered"}
        assert len(house.courier.requests) == 2
        assert house.fatal == []


async def test_the_books_find_a_start_that_cannot_be_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of Q7: a dispatch that does not look at the writer, and starts whatever is due, is caught."""
    monkeypatch.setattr(Dispatch, "_can_start", lambda dispatch: True)
    async with engine(tmp_path, config("first")) as house:
        await fail_the_writer(house)
        assert len(house.courier.requests) == 2


async def fail_the_writer(house: Engine) -> tuple[Any, Any]:
    """One event under way when the disk fills up, another due afterwards; return them when both had their chance."""
    answer = held_open()
    house.courier.script = [answer]
    house.run()
    first, later = await house.post(), await due_later(house)
    await until(lambda: len(house.courier.requests) == 1)
    house.gate.error = DISK_FULL
    with capture_logs() as lines:
        answer.set_result(204)
        await until(lambda: told(lines, log.SETTLE_FAILED) >= 1)
        house.clock.advance(LATER_MS)
        await until(lambda: told(lines, log.SETTLE_FAILED) >= 2)  # it was submitted again, and failed again
    await house.quiet()
    return first, later


def told(lines: Sequence[Mapping[str, Any]], event: str) -> int:
    """How often something was logged."""
    return sum(line["event"] == event for line in lines)


async def test_an_idle_dispatch_sleeps_even_while_the_writer_fails(tmp_path: Path) -> None:
    """Due work that may not start does not keep the loop turning (invariant 8)."""
    clock = CountingClock()
    async with engine(tmp_path, config("first"), clock=clock) as house:
        await fail_the_writer(house)
        waits = clock.waits
        await house.quiet()
        assert clock.waits == waits


class CountingClock(FakeClock):
    """Counts how often somebody began to wait."""

    waits = 0

    async def wait(self, event: asyncio.Event, timeout_ms: float) -> bool:
        self.waits += 1
        return await super().wait(event, timeout_ms)


@pytest.mark.parametrize(("settles_max", "started"), [(2, 3), (1_000, 4)])
async def test_nothing_starts_while_too_many_settles_wait(tmp_path: Path, settles_max: int, started: int) -> None:
    """Beyond so many settles without a commit nothing new starts; with room, the negative control, it does."""
    async with engine(tmp_path, config("one", "two", "three")) as house:
        house.dispatch._settles_max = settles_max
        answers = [held_open() for _ in range(3)]
        house.courier.script = list(answers)
        house.run()
        await house.post()
        await house.apply(config("one"))
        later = await due_later(house)
        await until(lambda: len(house.courier.requests) == 3)
        house.gate.hold()
        for answer in answers:
            answer.set_result(204)
        await until(lambda: house.store.pending_settles == 3)
        house.clock.advance(LATER_MS)
        await house.quiet()
        assert len(house.courier.requests) == started

        house.gate.let_go()
        await until(lambda: house.store.due_count(house.endpoint("one").ref) == 0)
        assert (await house.states(later))["one"] == "delivered"


async def test_a_refill_is_read_again(tmp_path: Path) -> None:
    """A read of the queue that fails is tried again a second later; nothing is forgotten (Q2)."""
    async with engine(tmp_path, config("first")) as house:
        await house.post()
    async with engine(tmp_path, config("first")) as house:  # its lane is behind
        fail_once(house, "refill")
        with capture_logs() as lines:
            house.run()
            await until(lambda: any(line["event"] == log.REFILL_FAILED for line in lines))
        house.clock.advance(1_000)
        await until(lambda: house.store.backlog == 0)
        assert len(house.courier.requests) == 1


def fail_once(house: Engine, name: str) -> None:
    """Let the next call of a method of the store fail."""
    real: Callable[..., Any] = getattr(house.store, name)
    errors = [StoreUnavailable("injected")]

    async def failing(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return await real(*args)

    setattr(house.store, name, failing)


# -- the event cache (Q1) ----------------------------------------------------------------------------------------------


async def test_an_event_that_is_not_in_the_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the cache every attempt reads its body, and sends the same; a read that fails is tried again."""
    monkeypatch.setattr("relay.dispatch.loop.CACHE_BYTES", 0)
    async with engine(tmp_path, config("first")) as house:
        fail_once(house, "read_event")
        with capture_logs() as lines:
            house.run()
            accepted = await house.post()
            await until(lambda: any(line["event"] == log.READ_FAILED for line in lines))
        assert house.courier.requests == []
        house.clock.advance(1_000)
        await until(lambda: house.store.backlog == 0)

        assert [request.body for request in house.courier.requests] == [accepted.event.body]
        assert house.fatal == []


def frozen(ordinal: int, body: bytes) -> FrozenEvent:
    return FrozenEvent(ordinal, f"evt_{ordinal}", "a.b", 1, 0, None, body)


def test_the_cache_keeps_what_was_used_last() -> None:
    """Least recently used goes first, and the bytes held never pass the limit."""
    cache = EventCache(3 * (ENTRY_BYTES + 10))
    for ordinal in (1, 2, 3):
        cache.put(frozen(ordinal, b"x" * 10))
    assert cache.get(1) is not None
    cache.put(frozen(4, b"x" * 10))
    assert [ordinal for ordinal in (1, 2, 3, 4) if cache.get(ordinal)] == [1, 3, 4]
    assert cache.bytes == 3 * (ENTRY_BYTES + 10)


async def test_the_cache_keeps_only_what_starts_soon(tmp_path: Path) -> None:
    """H9: events without deliveries, held ones and those due much later take no room; one that starts does."""
    async with engine(tmp_path, config("first", settings='event_types = ["a.b"]')) as house:
        cache = house.dispatch._cache
        await house.post("nobody.wants")
        await house.post(deliver_at_ms=house.clock.wall_ms() + CACHE_AHEAD_MS + 1)
        await house.registrar.pause("first")
        await house.post()
        assert len(cache) == 0
        await house.registrar.resume("first")
        house.run()
        await until(lambda: len(house.courier.requests) == 1)
        assert len(cache) == 1  # the delayed one was refilled too, and stays out


@pytest.mark.parametrize("contract", ["standard", "editframe"])
async def test_a_paused_endpoint_keeps_nothing_in_memory(tmp_path: Path, contract: str) -> None:
    """I18: what is due to a paused endpoint is in the database alone, under every contract; one that runs is the control."""
    text = config("first").replace('id = "acme"\n', f'id = "acme"\ncontract = "{contract}"\n', 1)
    async with engine(tmp_path, text) as house:
        ref, dispatch = house.endpoint("first").ref, house.dispatch
        await house.registrar.pause("first")
        for _ in range(50):
            await house.post("render.created")
        held = dispatch.lanes.snapshot(ref, house.clock.now())
        assert held is not None
        assert (house.store.due_count(ref), held.waiting, held.reserved, len(dispatch._cache)) == (50, 0, 0, 0)
        await house.registrar.resume("first")
        for refill in iter(lambda: dispatch.lanes.next_refill(house.clock.now()), None):
            await dispatch._refill(refill)
        awake = dispatch.lanes.snapshot(ref, house.clock.now())
        assert awake is not None
        assert (awake.waiting, len(dispatch._cache)) == (50, 50)


def test_the_cache_keeps_nothing_larger_than_itself() -> None:
    """One huge body does not push everything else out; the same event twice counts once."""
    cache = EventCache(1_000)
    cache.put(frozen(1, b"x"))
    cache.put(frozen(1, b"x"))
    cache.put(frozen(2, b"x" * 1_000))
    assert (len(cache), cache.bytes) == (1, ENTRY_BYTES + 1)


# -- between the choice and the attempt --------------------------------------------------------------------------------


async def while_reading(house: Engine, change: Callable[[], Any]) -> Any:
    """Accept an event, and let `change` happen after it was chosen and before its body is there."""
    reading, read = asyncio.Event(), house.store.read_event
    released = asyncio.Event()

    async def slow(ordinal: int) -> FrozenEvent | None:
        reading.set()
        await released.wait()
        return await read(ordinal)

    house.store.read_event = slow  # type: ignore[method-assign]
    house.run()
    accepted = await house.post()
    await reading.wait()
    await change()
    released.set()
    await until(lambda: house.dispatch.lanes.in_flight == 0)
    return accepted


async def test_a_pause_stops_what_was_chosen_but_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read at attempt start: a paused endpoint gets nothing, and later all of it, uncounted (Q9, Q11)."""
    monkeypatch.setattr("relay.dispatch.loop.CACHE_BYTES", 0)
    async with engine(tmp_path, config("first")) as house:
        accepted = await while_reading(house, lambda: house.registrar.pause("first"))
        await house.quiet()
        assert house.courier.requests == []

        await house.registrar.resume("first")
        await until(lambda: house.store.backlog == 0)
        (view,) = await house.store.deliveries_of(accepted.event.id)
        assert (view.state, view.attempts) == ("delivered", 1)


async def test_what_vanished_is_never_sent_unsigned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that vanishes from the file between choice and attempt has no secret: nothing is sent (Q11)."""
    monkeypatch.setattr("relay.dispatch.loop.CACHE_BYTES", 0)
    async with engine(tmp_path, config("first")) as house:
        await while_reading(house, lambda: house.apply(config()))
        await house.quiet()
        assert house.courier.requests == []
        assert house.store.backlog == 1


async def test_an_endpoint_deleted_meanwhile_gets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint deleted between choice and attempt gets nothing, and nothing fails."""
    monkeypatch.setattr("relay.dispatch.loop.CACHE_BYTES", 0)
    async with engine(tmp_path, config()) as house:
        made = await add(house)
        accepted = await while_reading(house, lambda: house.registrar.delete_endpoint(made))
        await until(lambda: house.store.backlog == 0)
        assert house.courier.requests == []
        assert (await house.states(accepted))[made] == "cancelled"
        assert house.fatal == []


async def add(house: Engine) -> str:
    """Make an endpoint through the API and return its id."""
    from relay.config import EndpointDefinition
    from relay.registry import EndpointDraft

    endpoint, _, _ = await house.registrar.create_endpoint(
        house.acme, EndpointDraft(EndpointDefinition(url="https://api.example/"))
    )
    return endpoint.id


# -- an error of our own (invariant 12); up to the settle see test_suspension -------------------------------------------


async def test_an_error_after_a_settle_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H1: what follows a commit may not be left half told: a mistake there stops the process, and suspends nobody."""

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("ours")

    async with engine(tmp_path, config("first")) as house:
        monkeypatch.setattr(house.metrics, "delivered", refuse)
        house.run()
        accepted = await house.post()
        await until(lambda: bool(house.fatal))
        assert str(house.fatal[0]) == "ours"
        assert await house.states(accepted) == {"first": "delivered"}
        assert house.metrics._attempt_errors == 0


async def test_a_hand_over_that_fails_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H2: the event is stored: whoever hands it over hears of the error, the process stops, and the next start delivers."""

    def refuse(*arguments: Any) -> int:
        raise RuntimeError("ours")

    async with engine(tmp_path, config("first")) as house:
        monkeypatch.setattr(house.dispatch.lanes, "offer", refuse)
        with pytest.raises(RuntimeError, match="ours"):
            await house.post()
        assert [str(error) for error in house.fatal] == ["ours"]
    async with engine(tmp_path, config("first")) as house:
        house.run()
        await until(lambda: house.store.backlog == 0)
        assert len(house.courier.requests) == 1


# -- a full disk is a few lines ----------------------------------------------------------------------------------------


async def test_a_long_outage_is_a_few_lines(tmp_path: Path) -> None:
    """H7: 100 settles wait for a full disk for 60 s: one line when it begins, one every ten seconds, one when it ends."""
    names = [f"e{number}" for number in range(50)]
    async with engine(tmp_path, config(*names)) as house:
        answers = [held_open() for _ in range(100)]
        house.run()
        await house.post()  # every endpoint answers once, so that none is doubtful
        await until(lambda: len(house.courier.requests) == 50 and house.store.backlog == 0)
        house.courier.script = list(answers)
        await house.post()
        await house.post()
        await until(lambda: len(house.courier.requests) == 150)
        house.gate.error = DISK_FULL
        with capture_logs() as lines:
            for answer in answers:
                answer.set_result(204)
            for seconds in range(60):
                await all_failed(house, (seconds + 1) * 100)
                house.clock.advance(1_000)
            house.gate.error = None
            await house.passing(lambda: house.store.backlog == 0)
        assert 6 <= told(lines, log.SETTLE_FAILED) <= 8
        (end,) = [line for line in lines if line["event"] == log.SETTLE_RECOVERED]
        assert end["times"] >= 6_000
        assert len([line for line in lines if line["log_level"] != "debug"]) < 12
        assert house.fatal == []


async def all_failed(house: Engine, times: int) -> None:
    """Wait until settles have failed so many times in all."""
    await until(lambda: house.dispatch.attempts._unsettled._total >= times)


# -- tests by hand -----------------------------------------------------------------------------------------------------


async def test_a_test_delivery_counts_for_nothing(tmp_path: Path) -> None:
    """A test is signed and sent like any other, and leaves no row, no health and no count of attempts."""
    async with engine(tmp_path, config("first")) as house:
        house.run()
        house.courier.script = [500, 410]
        endpoint = house.endpoint("first")
        outcomes = [await house.dispatch.attempts.test(endpoint, frozen(0, b"{}")) for _ in range(2)]
        await house.quiet()
        view = house.dispatch.lanes.snapshot(endpoint.ref, house.clock.now())

        assert [outcome.status for outcome in outcomes] == [500, 410]
        assert "webhook-signature" in house.courier.requests[0].headers
        assert view is not None
        assert view.health == Health()
        assert house.endpoint("first").state is EndpointState.ENABLED
        assert house.metrics._attempts == {}
        assert house.metrics._tests.total() == 2


# -- disabling (Q9) ----------------------------------------------------------------------------------------------------


async def test_several_answers_disable_once(tmp_path: Path) -> None:
    """Two 410s at once disable once and are told once (reliability §7.35)."""
    async with engine(tmp_path, config("first")) as house:
        house.courier.script = [held_open(), held_open()]
        answers = list(house.courier.script)
        with capture_logs() as lines:
            house.run()
            await house.post()
            await house.post()
            await until(lambda: len(house.courier.requests) == 2)
            for answer in answers:
                answer.set_result(410)  # type: ignore[union-attr]
            await until(lambda: house.endpoint("first").state is EndpointState.DISABLED and house.store.backlog == 0)
            await house.quiet()
        assert [line["by"] for line in lines if line["event"] == log.ENDPOINT_DISABLED] == ["gone"]


async def test_a_410_from_an_address_that_was_left_disables_nothing(tmp_path: Path) -> None:
    """The endpoint moved while the attempt ran: what the old address says is about the old address."""
    async with engine(tmp_path, config("first")) as house:
        answer = held_open()
        house.courier.script = [answer]
        house.run()
        accepted = await house.post()
        await until(lambda: len(house.courier.requests) == 1)
        await house.apply(config("first", first="https://elsewhere.example/"))
        answer.set_result(410)
        await until(lambda: house.store.backlog == 0)
        await house.quiet()
        assert house.endpoint("first").state is EndpointState.ENABLED
        assert await house.states(accepted) == {"first": "dead gone"}


async def test_a_410_of_a_deleted_endpoint_harms_nobody(tmp_path: Path) -> None:
    """The endpoint was deleted while the attempt ran: there is nothing to disable, and nothing fails."""
    async with engine(tmp_path, config()) as house:
        made, answer = await add(house), held_open()
        house.courier.script = [answer]
        house.run()
        await house.post()
        await until(lambda: len(house.courier.requests) == 1)
        await house.registrar.delete_endpoint(made)
        answer.set_result(410)
        await until(lambda: house.dispatch.lanes.in_flight == 0)
        await house.quiet()
        assert house.fatal == []


async def test_a_disable_is_stored_in_the_end(tmp_path: Path) -> None:
    """When the database takes no writes, a disable is tried again, and stops nothing."""
    async with engine(tmp_path, config("first")) as house:
        answer = held_open()
        house.courier.script = [answer]
        house.run()
        await house.post()
        await until(lambda: len(house.courier.requests) == 1)
        house.gate.error = DISK_FULL
        answer.set_result(410)
        await until(lambda: not house.store.healthy)
        await house.quiet()
        house.gate.error = None
        await house.passing(lambda: house.endpoint("first").state is EndpointState.DISABLED)
        assert house.fatal == []


def failing_for_days(house: Engine, name: str) -> None:
    """Let an endpoint have failed for six days."""
    now_ms = house.clock.wall_ms()
    run = {"failing_since_ms": now_ms - 6 * DAY_MS, "failure_days": 6, "last_failure_ms": now_ms - DAY_MS}
    sick = Health(30, 1, True, 30, 1, True, **run, last_failure="503")
    ref = house.endpoint(name).ref
    from relay.dispatch.loop import lane_settings

    house.dispatch.lanes.configure(ref, lane_settings(house.endpoint(name)), sick, 0, house.clock.now())


async def test_days_of_failure_disable(tmp_path: Path) -> None:
    """An endpoint that failed for `disable_after` is disabled by its next failure; what is due stays (Q9)."""
    async with engine(tmp_path, config("first")) as house:
        failing_for_days(house, "first")
        house.courier.script = [503]
        house.run()
        accepted = await house.post()
        await until(lambda: house.endpoint("first").state is EndpointState.DISABLED)
        assert house.endpoint("first").disabled_by is DisabledBy.FAILING
        assert await house.states(accepted) == {"first": "due"}


def no_way_out(failure: Failure) -> Outcome:
    return Outcome(0, 1, failure=failure, ours=True)


async def test_nothing_is_disabled_while_it_is_us(tmp_path: Path) -> None:
    """While hosts are out of reach for a reason of ours none is disabled for failing (Q9)."""
    async with engine(tmp_path, config("first", "second", "third")) as house:
        failing_for_days(house, "first")
        answer = held_open()
        house.courier.script = [answer, no_way_out(Failure.CONNECT), no_way_out(Failure.DNS)]
        house.run()
        await house.post()
        await until(lambda: house.metrics._retries == 2)
        answer.set_result(no_way_out(Failure.DNS))
        await until(lambda: house.metrics._retries == 3)
        await house.quiet()
        assert house.dispatch.standing.local_trouble()
        assert house.endpoint("first").state is EndpointState.ENABLED


async def test_nothing_is_disabled_after_a_step_of_the_clock(tmp_path: Path) -> None:
    """Disabling rests for 15 minutes after the wall clock stepped (Q15)."""
    async with engine(tmp_path, config("first")) as house:
        failing_for_days(house, "first")
        house.clock.step_wall(DAY_MS)
        house.clock_watch.look()
        house.courier.script = [503]
        house.run()
        await house.post()
        await until(lambda: house.metrics._retries == 1)
        await house.quiet()
        assert house.endpoint("first").state is EndpointState.ENABLED


# -- expiry and the wall clock (Q6, Q15) -------------------------------------------------------------------------------


@pytest.mark.parametrize(("resting", "state"), [(True, "delivered"), (False, "dead expired")])
async def test_expiry_rests_after_a_step_of_the_clock(tmp_path: Path, resting: bool, state: str) -> None:
    """A wall clock that jumped past `expires_at` ends nothing for 15 minutes; otherwise nothing is sent (Q6, Q15)."""
    async with engine(tmp_path, config("first")) as house:
        await house.registrar.pause("first")
        accepted = await house.post(expires_at_ms=house.clock.wall_ms() + 60_000)
        house.clock.step_wall(DAY_MS)
        if resting:
            house.clock_watch.look()
        house.run()
        await house.registrar.resume("first")
        await until(lambda: house.store.backlog == 0)
        assert await house.states(accepted) == {"first": state}
        assert len(house.courier.requests) == int(resting)


@pytest.mark.parametrize(("resting", "state"), [(True, "due"), (False, "dead expired")])
async def test_a_failure_after_a_step_of_the_clock_is_retried(tmp_path: Path, resting: bool, state: str) -> None:
    """The end of an attempt believes the clock as little as its start does (Q15)."""
    async with engine(tmp_path, config("first", settings=ONCE)) as house:
        answer = held_open()
        house.courier.script = [answer]
        house.run()
        accepted = await house.post(expires_at_ms=house.clock.wall_ms() + 60_000)
        await until(lambda: len(house.courier.requests) == 1)
        house.clock.step_wall(DAY_MS)
        if resting:
            house.clock_watch.look()
        answer.set_result(500)
        await until(lambda: house.dispatch.lanes.in_flight == 0 and house.store.pending_settles == 0)
        assert await house.states(accepted) == {"first": state}


# -- what an attempt sends ---------------------------------------------------------------------------------------------


async def test_an_attempt_carries_what_the_endpoint_says_now(tmp_path: Path) -> None:
    """URL, headers and time-out are read when an attempt starts (Q11); its own headers go along with the signature's."""
    async with engine(tmp_path, config("first", settings=ONCE)) as house:
        house.courier.script = [500]
        house.run()
        await house.post()
        await until(lambda: house.metrics._retries == 1)
        settings = ONCE + '\ntimeout = "3s"\nheaders = { X-Tenant = "acme" }'
        await house.apply(config("first", settings=settings, first="https://elsewhere.example/"))
        house.clock.advance(5_000)
        await until(lambda: house.store.backlog == 0)

        request: Request = house.courier.requests[1]
        assert (request.url, request.timeout_ms) == ("https://elsewhere.example/", 3_000)
        assert request.headers["X-Tenant"] == "acme"
        assert "webhook-signature" in request.headers


async def test_a_cool_down_is_told_once_for_each_step(tmp_path: Path) -> None:
    """The log says when an endpoint begins to cool down and when it has recovered, not for every attempt (Q5)."""
    text = config(
        "first", extra="[delivery]\nhealth = { failures = 2 }", settings='retry = { schedule = ["1s", "1s"] }'
    )
    async with engine(tmp_path, text) as house:
        house.courier.script = [500, 500]
        with capture_logs() as lines:
            house.run()
            await house.post()
            await house.post()
            await until(lambda: house.metrics._retries == 2)
            house.clock.advance(10_000)
            await until(lambda: house.store.backlog == 0 and not house.dispatch._tasks)
        told = [line["event"] for line in lines if line["event"] in (log.ENDPOINT_COOLING, log.ENDPOINT_RECOVERED)]
        assert told == [log.ENDPOINT_COOLING, log.ENDPOINT_RECOVERED]


# -- stopping ----------------------------------------------------------------------------------------------------------


async def test_a_drain_is_safe_twice_and_at_once(tmp_path: Path) -> None:
    """H9: a second drain waits as the first does, the earliest deadline cuts, and a third finds nothing to do."""
    async with engine(tmp_path, config("first")) as house:
        house.courier.script = [held_open()]
        house.run()
        accepted = await house.post()
        await until(lambda: len(house.courier.requests) == 1)
        house.dispatch.stop_starting()
        patient = asyncio.create_task(house.dispatch.drain(60_000))
        hurried = asyncio.create_task(house.dispatch.drain(1_000))
        await house.quiet()
        assert [patient.done(), hurried.done()] == [False, False]
        house.clock.advance(1_000)
        assert (await hurried, await patient) == (1, 0)
        assert await house.dispatch.drain(60_000) == 0
        assert await house.states(accepted) == {"first": "due"}
        assert house.fatal == []
