"""One endpoint that is slow, dead or unresolvable costs the others nothing (invariant 9, Q4, Q16, reliability §7.31).

The clock stands still: no time-out ever ends a hostile attempt, so whatever waits for one waits for ever. Healthy deliveries
that end while every hostile one is still under way therefore never waited for any of them.
"""

import asyncio
import functools
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from relay.delivery.resolver import PATIENCE_MS, Resolver
from tests.support.clock import FakeClock
from tests.support.receiver import Answer, Receiver
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
    monkeypatch.setattr("relay.daemon.service.Resolver", functools.partial(Resolver, getaddrinfo=played.getaddrinfo))
    yield played
    played.end()


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

    def view(self, name: str) -> Any:
        ref = self.stack.relay.registrar.current.endpoint(name).ref
        return self.stack.relay.dispatch.lanes.snapshot(ref, self.stack.clock.now())


@asynccontextmanager
async def town(folder: Path, hostile: Sequence[str], delivery: str = "") -> AsyncIterator[Town]:
    never: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    async def keep_silent(request: object) -> Answer:
        return await asyncio.shield(never)

    async with Receiver() as receiver, Receiver(default=keep_silent) as silent:
        ports = dict.fromkeys(hostile, silent.port) | dict.fromkeys(HEALTHY, receiver.port)
        urls = {name: f"http://{name}.example:{port}/{name}" for name, port in ports.items()}
        stack = Stack(folder, clock=FakeClock(), endpoints=urls, delivery=f"{PATIENT}\n{delivery}")
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

        assert here.running(*SILENT) == 2 * len(SILENT)  # a window of two each, and none of them has ended
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


async def test_endpoints_that_went_silent_hold_a_quarter_at_most(tmp_path: Path, names: Names) -> None:
    """Once they have been slow for two seconds hostile endpoints together start nothing beyond a quarter of the slots (Q4)."""
    async with town(tmp_path, SILENT, "concurrency = 64") as here:
        await here.stack.post()
        await until(lambda: here.running(*SILENT) == len(SILENT))
        await until(lambda: here.due(*HEALTHY) == 0)
        here.stack.fake.advance(2_000)
        await here.stack.quiet()
        for number in range(EVENTS):
            await here.stack.post(data={"n": number})
        await until(lambda: here.due(*HEALTHY) == 0)

        assert here.running(*SILENT) == len(SILENT) > 64 // 4
        assert len(here.receiver.received) == (EVENTS + 1) * len(HEALTHY)


async def test_the_facts_find_shared_slots(tmp_path: Path, names: Names) -> None:
    """Negative control: where hostile endpoints may fill every slot, healthy ones stand still."""
    async with town(tmp_path, SILENT, "concurrency = 8") as here:  # 20 × 2 starts want 8 slots: far too few
        await here.stack.call("POST", f"/v1/webhook-endpoints/{HEALTHY[0]}/pause")
        for name in HEALTHY[1:]:
            await here.stack.call("POST", f"/v1/webhook-endpoints/{name}/pause")
        await here.stack.post()
        await until(lambda: here.running(*SILENT) == 8)
        for name in HEALTHY:
            await here.stack.call("POST", f"/v1/webhook-endpoints/{name}/resume")
        await until(lambda: all(here.view(name).live for name in HEALTHY))
        await here.stack.quiet()

        # Nothing is left that could change without time, and the clock stands still.
        assert here.due(*HEALTHY) == len(HEALTHY)
        assert {here.view(name).why_waiting for name in HEALTHY} == {"all slots in use"}
        assert here.receiver.received == []


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
