"""One endpoint that is slow, dead or unresolvable costs the others nothing (invariant 9, Q4, Q16, reliability §7.31).

The clock stands still: no time-out ever ends a hostile attempt, so whatever waits for one waits for ever. Healthy deliveries
that end while every hostile one is still under way therefore never waited for any of them.
"""

import asyncio
import functools
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from relay.delivery.resolver import PATIENCE_MS, Resolver
from relay.queue.lane import Lane
from relay.queue.slots import SILENT_MS, Kind, Slots
from tests.support.clock import FakeClock
from tests.support.receiver import Answer, Received, Receiver, Script
from tests.support.stack import Stack
from tests.support.waiting import until

HEALTHY = [f"healthy-{number}" for number in range(5)]
SILENT = [f"silent-{number}" for number in range(20)]
NAMELESS = [f"nameless-{number}" for number in range(20)]
EVENTS = 40

PATIENT = 'timeout = "10m"\nconnect_timeout = "10m"\ndrain_timeout = "0s"'
"""Deadlines of attempts run on the system's clock, not on the test's: none of them comes into sight."""


class Names:
    """Plays the name servers: `healthy-…` and `silent-…` are here, `nameless-…` is never answered."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self._over = threading.Event()

    def getaddrinfo(self, host: str, port: object, **options: object) -> Sequence[tuple[Any, ...]]:
        """Answer as `socket.getaddrinfo` would, in a thread of the resolver."""
        self.asked.add(host)
        if host.startswith("nameless"):
            self._over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "over")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    played = Names()
    monkeypatch.setattr("relay.daemon.outbound.Resolver", functools.partial(Resolver, getaddrinfo=played.getaddrinfo))
    yield played
    played.end()


NEIGHBOUR = """
[[application]]
id = "other"

[[application.endpoint]]
id = "neighbour"
url = "http://healthy-neighbour.example:{port}/neighbour"
secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLwTt"
"""
"""An endpoint of another application."""


class Town:
    """A relay with healthy and hostile endpoints, and what the receivers saw."""

    def __init__(self, stack: Stack, receiver: Receiver, silent: Receiver) -> None:
        self.stack, self.receiver, self.silent = stack, receiver, silent

    def due(self, *names: str) -> int:
        """How many deliveries of some endpoints are due."""
        registry, store = self.stack.relay.registrar.current, self.stack.relay.store
        return sum(store.due_count(registry.endpoint(name).ref) for name in names)

    def running(self, *names: str) -> int:
        """How many attempts of some endpoints are under way."""
        return sum(self.view(name).running for name in names)

    async def post_to_neighbour(self, events: int) -> None:
        """Post events of the other application."""
        for number in range(events):
            body = {"type": "render.completed", "data": {"n": number}, "application": "other"}
            assert (await self.stack.call("POST", "/v1/events", body))[0] == 202

    async def pass_time(self, duration_ms: float) -> None:
        """Let time pass, and everything happen that follows from it."""
        self.stack.fake.advance(duration_ms)
        await self.stack.quiet()

    def view(self, name: str) -> Any:
        ref = self.stack.relay.registrar.current.endpoint(name).ref
        return self.stack.relay.dispatch.lanes.snapshot(ref, self.stack.clock.now())


@asynccontextmanager
async def town(
    folder: Path, hostile: Sequence[str], delivery: str = "", *, healthy: Sequence[str] = HEALTHY, script: Script = 204
) -> AsyncIterator[Town]:
    """A relay whose hostile and healthy endpoints belong to one application, and `neighbour` to another.

    `script` is what healthy endpoints answer.
    """
    never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def keep_silent(request: object) -> Answer:
        return await asyncio.shield(never)

    async with Receiver(default=script) as receiver, Receiver(default=keep_silent) as silent:
        ports = dict.fromkeys(hostile, silent.port) | dict.fromkeys(healthy, receiver.port)
        urls = {name: f"http://{name}.example:{port}/{name}" for name, port in ports.items()}
        neighbour = NEIGHBOUR.format(port=receiver.port)
        stack = Stack(folder, clock=FakeClock(), endpoints=urls, delivery=f"{PATIENT}\n{delivery}", extra=neighbour)
        try:
            async with stack:
                yield Town(stack, receiver, silent)
        finally:
            never.cancel()


async def test_endpoints_that_never_answer_delay_no_other(tmp_path: Path, names: Names) -> None:
    """20 endpoints that accept and never answer: every healthy delivery ends while all of them hang."""
    async with town(tmp_path, SILENT) as here:
        for number in range(EVENTS):
            await here.stack.post(data={"n": number})
        await until(lambda: here.due(*HEALTHY) == 0)

        assert here.running(*SILENT) == 256 // 8  # half of the share of doubtful endpoints, and none of them has ended
        assert here.due(*SILENT) == EVENTS * len(SILENT)
        assert len(here.receiver.received) == EVENTS * len(HEALTHY)
        assert len({(request.path, request.headers["webhook-id"]) for request in here.receiver.received}) == EVENTS * 5


async def test_names_that_never_resolve_delay_no_other(tmp_path: Path, names: Names) -> None:
    """20 names whose servers keep silent: healthy names are looked up and delivered to meanwhile (Q16).

    All names are new here, so those nobody knows anything about share their places with the silent ones until these have
    used up their patience: that second is the only time that passes.
    """
    async with town(tmp_path, NAMELESS) as here:
        for number in range(EVENTS):
            await here.stack.post(data={"n": number})
        await spend_patience(here, names)
        await until(lambda: here.due(*HEALTHY) == 0)

        assert names.asked >= {f"{name}.example" for name in HEALTHY}
        assert here.running(*NAMELESS) == 2 * len(NAMELESS)
        assert here.due(*NAMELESS) == EVENTS * len(NAMELESS)
        assert len(here.receiver.received) == EVENTS * len(HEALTHY)


async def spend_patience(here: Town, names: Names) -> None:
    """Let a second pass for each round of lookups, until every name was asked for or waits among the suspects."""
    for _ in range(4):
        asked = len(names.asked)
        await here.stack.quiet()
        here.stack.fake.advance(PATIENCE_MS)
        await here.stack.quiet()
        if {f"{name}.example" for name in HEALTHY} <= names.asked and asked == len(names.asked):
            return


async def test_hostile_endpoints_do_not_stop_intake_or_reads(tmp_path: Path, names: Names) -> None:
    """While everything hostile hangs, events are accepted, statuses read and endpoints edited (invariant 9)."""
    async with town(tmp_path, SILENT) as here:
        await here.stack.post()
        await until(lambda: here.running(*SILENT) == len(SILENT))

        assert (await here.stack.post())["deliveries"] == len(SILENT) + len(HEALTHY)
        status, answer = await here.stack.call("GET", "/v1/status")
        assert (status, answer["in_flight"] >= len(SILENT)) == (200, True)
        assert (await here.stack.call("POST", f"/v1/webhook-endpoints/{SILENT[0]}/pause"))[0] == 200


# -- slots (Q4) ----------------------------------------------------------------------------------------------------------


def share_all_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what was: every endpoint and every attempt uses the same slots, whatever became of it."""
    monkeypatch.setattr(Lane, "judge", lambda lane: Kind.ANSWERING)
    monkeypatch.setattr("relay.queue.lanes.SILENT_MS", 10**9)
    monkeypatch.setattr(Slots, "crowd_max", 1_000)
    monkeypatch.setattr(Slots, "weight_max", 1_000)


MANY = [f"silent-{number}" for number in range(140)]


async def test_a_tenant_with_140_silent_endpoints_delays_no_other(tmp_path: Path, names: Names) -> None:
    """I1: two events for each of them, and the other tenant is served at once, then and in each second that follows."""
    async with town(tmp_path, MANY, healthy=()) as here:
        for _ in range(2):
            await here.stack.post()
        await until(lambda: here.running(*MANY) == 256 // 8)
        for second in range(8):
            await here.post_to_neighbour(10)
            await until(lambda: here.due("neighbour") == 0)
            assert here.running(*MANY) == min(32 * (second + 1), 128)
            await here.pass_time(SILENT_MS)
        assert len(here.receiver.received) == 80


async def test_the_test_finds_a_tenant_that_takes_all_slots(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: where new endpoints share all slots, the other tenant waits for ever."""
    share_all_slots(monkeypatch)
    async with town(tmp_path, MANY, healthy=()) as here:
        for _ in range(2):
            await here.stack.post()
        await until(lambda: here.running(*MANY) == 256)
        await here.post_to_neighbour(1)
        await here.pass_time(SILENT_MS)
        assert here.view("neighbour").why_waiting == "all slots in use"
        assert here.due("neighbour") == 1


BUSY = [f"healthy-busy-{number}" for number in range(20)]


async def fall_silent(here: Town, silence: asyncio.Event) -> None:
    """Let the busy endpoints answer until their windows are wide, and then no more."""
    for _ in range(8):
        await here.stack.post()
        await until(lambda: here.due(*BUSY, *HEALTHY) == 0)
    for name in HEALTHY:
        await here.stack.call("POST", f"/v1/webhook-endpoints/{name}/pause")
    silence.set()
    for _ in range(8):
        await here.stack.post()


@asynccontextmanager
async def street(folder: Path) -> AsyncIterator[tuple[Town, asyncio.Event]]:
    """20 busy endpoints that answer until an event is set, beside others of the same application that always do."""
    silence, never = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def answer(request: Received) -> int:
        if silence.is_set() and request.path.startswith("/healthy-busy"):
            await asyncio.shield(never)
        return 204

    async with town(folder, (), "concurrency = 64", healthy=(*BUSY, *HEALTHY), script=answer) as here:
        try:
            yield here, silence
        finally:
            never.cancel()


async def test_busy_endpoints_that_fall_silent_at_once_delay_no_other(tmp_path: Path, names: Names) -> None:
    """I2: the other application is served at once, and after a second the healthy ones of the same one are too."""
    async with street(tmp_path) as (here, silence):
        await fall_silent(here, silence)
        await until(lambda: here.running(*BUSY) == 64 * 7 // 8)

        await here.post_to_neighbour(20)
        await until(lambda: here.due("neighbour") == 0)

        await here.pass_time(SILENT_MS)
        for name in HEALTHY:
            await here.stack.call("POST", f"/v1/webhook-endpoints/{name}/resume")
        await until(lambda: here.due(*HEALTHY) == 0)
        assert here.running(*BUSY) == 64 * 7 // 8


async def test_the_test_finds_silent_attempts_that_keep_their_slots(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: where all attempts share the slots until they end, nobody else is served."""
    share_all_slots(monkeypatch)
    async with street(tmp_path) as (here, silence):
        await fall_silent(here, silence)
        await until(lambda: here.running(*BUSY) == 64)
        await here.post_to_neighbour(1)
        await here.pass_time(SILENT_MS)
        assert here.view("neighbour").why_waiting == "all slots in use"


HUNDRED = [f"silent-{number}" for number in range(100)]


def one_in_fifty(request: Received) -> int:
    """Fail once in fifty requests."""
    return 500 if request.number % 50 == 49 else 204


async def answer_once(here: Town) -> None:
    """Let the flaky endpoint have its turn among the new ones, and the silent fall silent."""
    await here.stack.post()
    for _ in range(10):
        await here.pass_time(SILENT_MS)
    await until(lambda: here.due("healthy-flaky") == 0)


async def test_one_failure_in_fifty_costs_its_own_retry(tmp_path: Path, names: Names) -> None:
    """I3: beside 100 silent endpoints all other deliveries go out at once, and what failed is due again."""
    async with town(tmp_path, HUNDRED, healthy=("healthy-flaky",), script=one_in_fifty) as here:
        await answer_once(here)
        for _ in range(100):
            await here.stack.post()
        await until(lambda: here.due("healthy-flaky") == 2)
        assert len(here.receiver.received) == 101
        assert here.running(*HUNDRED) == 128
        assert here.view("healthy-flaky").why_waiting == "not due yet"


async def test_the_test_finds_that_one_failure_makes_doubtful(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: where one failure makes an endpoint doubtful, it waits behind the silent ones."""
    monkeypatch.setattr("relay.queue.lane.DOUBT_FAILURES", 1)
    async with town(tmp_path, HUNDRED, healthy=("healthy-flaky",), script=one_in_fifty) as here:
        await answer_once(here)
        for _ in range(47):
            await here.stack.post()
        await until(lambda: here.due("healthy-flaky") == 0)
        await here.stack.post()
        await until(lambda: here.view("healthy-flaky").health.failures == 1)
        await here.stack.post()
        await here.stack.quiet()
        assert "doubtful endpoints" in here.view("healthy-flaky").why_waiting


async def slow_street(folder: Path, rounds: int) -> tuple[int, int]:
    """Deliver 40 events to an endpoint that always answers after 1.2 s, beside 100 silent ones of the same application.

    Return how many are left, and how many attempts the silent ones have under way.
    """
    answers: list[asyncio.Future[int]] = []

    def later(request: Received) -> asyncio.Future[int]:
        answers.append(asyncio.get_running_loop().create_future())
        return answers[-1]

    async with town(folder, HUNDRED, healthy=("healthy-slow",), script=later) as here:
        for _ in range(40):
            await here.stack.post()
        for _ in range(rounds):
            await here.pass_time(SILENT_MS)
            under_way = [answer for answer in answers if not answer.done()]
            await here.pass_time(200)
            for answer in under_way:
                answer.set_result(204)
            await here.stack.quiet()
        left = here.due("healthy-slow"), here.running(*HUNDRED)
        for answer in answers:
            answer.cancel()
        return left


async def test_an_endpoint_that_answers_after_more_than_a_second_goes_on(tmp_path: Path, names: Names) -> None:
    """I3: its window opens beside 100 silent endpoints, and every delivery arrives while all of them hang."""
    assert await slow_street(tmp_path, rounds=12) == (0, 128)


async def test_the_test_finds_a_slow_endpoint_among_the_silent(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: where silent attempts keep the share of doubtful endpoints, a slow one is not served."""
    monkeypatch.setattr("relay.queue.lanes.SILENT_MS", 10**9)
    left, _ = await slow_street(tmp_path, rounds=12)
    assert left == 40


async def standing(stack: Stack) -> bool:
    """Start a relay, say whether its endpoint is known to answer, and stop it."""
    await stack.start()
    ref = stack.relay.registrar.current.endpoint("known").ref
    view = stack.relay.dispatch.lanes.snapshot(ref, stack.clock.now())
    await stack.stop()
    assert view is not None
    return view.health.answered


async def test_a_restart_knows_who_answered(tmp_path: Path) -> None:
    """A 2xx is persisted with health, so a restart does not begin with doubt; a row of an older version has none."""
    async with Receiver() as receiver:
        stack = Stack(tmp_path, endpoints={"known": receiver.url})
        assert not await standing(stack)
        async with stack:
            event = await stack.post()
            await stack.settled(event["id"], "delivered")
        assert await standing(stack)
        with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as database:
            database.execute("UPDATE endpoint SET health = json_remove(health, '$.answered')")
        assert not await standing(stack)


# -- lookups (Q16) -------------------------------------------------------------------------------------------------------


async def test_the_facts_find_shared_lookups(tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a resolver without patience's places, as the event loop's own, leaves healthy names unasked."""
    monkeypatch.setattr("relay.delivery.resolver.PATIENCE_MS", 10**9)
    async with town(tmp_path, NAMELESS) as here:
        for name in HEALTHY:
            await here.stack.call("POST", f"/v1/webhook-endpoints/{name}/pause")
        await here.stack.post()
        await until(lambda: len(names.asked) == 8)
        for name in HEALTHY:
            await here.stack.call("POST", f"/v1/webhook-endpoints/{name}/resume")
        await until(lambda: here.running(*HEALTHY) == len(HEALTHY))
        await spend_patience(here, names)

        assert all(name.startswith("nameless") for name in names.asked)
        assert here.due(*HEALTHY) == len(HEALTHY)
