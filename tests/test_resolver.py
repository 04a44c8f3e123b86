"""Q16: names, threads and memory of the resolver, with a `getaddrinfo` that the test holds in its hands."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from ipaddress import ip_network
from typing import Any

import pytest

from relay.core.netguard import ForbiddenAddress, Guard
from relay.delivery.resolver import (
    FAILED_MS,
    FRESH_MS,
    MAX_ADDRESSES,
    MAX_NAMES,
    MAX_THREADS,
    PATIENCE_MS,
    PLACES,
    STALE_MS,
    Resolver,
    Standing,
)
from tests.support.clock import FakeClock
from tests.support.waiting import quiet

PUBLIC = "93.184.216.34"


class Names:
    """Stands in for the name servers: answers, refuses, or keeps silent until released."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Exception] = {}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.released = threading.Event()
        self._asked = asyncio.Condition()
        self._loop = asyncio.get_running_loop()

    async def until_asked(self, count: int = 1) -> None:
        """Wait until `count` lookups have begun."""
        async with self._asked:
            await self._asked.wait_for(lambda: len(self.asked) >= count)

    async def _note(self, host: str) -> None:
        async with self._asked:
            self.asked.append(host)
            self._asked.notify_all()

    def getaddrinfo(self, host: str, port: None, *, type: int, flags: int) -> list[tuple[Any, ...]]:
        asyncio.run_coroutine_threadsafe(self._note(host), self._loop).result()
        if host in self.silent:
            self.released.wait()
        answer = self.answers.get(host, [PUBLIC])
        if isinstance(answer, Exception):
            raise answer
        return [_info(address) for address in answer]


def _info(address: str) -> tuple[Any, ...]:
    if ":" in address:
        return socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0)
    return socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)


@pytest.fixture
async def names() -> Names:
    """The name servers of one test."""
    return Names()


@pytest.fixture
def clock() -> FakeClock:
    """The time of one test."""
    return FakeClock()


@pytest.fixture
async def resolver(names: Names, clock: FakeClock) -> AsyncIterator[Resolver]:
    """A resolver that asks `names`."""
    resolver = Resolver(Guard(), clock, names.getaddrinfo)
    yield resolver
    names.released.set()
    await resolver.close()


async def _addresses(resolver: Resolver, host: str) -> list[str]:
    return [address for _, address in await resolver.resolve(host)]


async def _learnt(resolver: Resolver, host: str) -> None:
    """Wait until no lookup of `host` is under way."""
    lookup = resolver._names[host].lookup
    if lookup:
        await lookup.done.wait()


async def test_answers_have_families(resolver: Resolver, names: Names) -> None:
    """An answer keeps getaddrinfo's order and names each address once, with its family."""
    names.answers["a.example"] = ["2606:4700::1", PUBLIC, PUBLIC]
    assert await resolver.resolve("a.example") == ((socket.AF_INET6, "2606:4700::1"), (socket.AF_INET, PUBLIC))


async def test_fresh_answers_are_not_asked_for_again(resolver: Resolver, names: Names, clock: FakeClock) -> None:
    """Within 60 s a name is looked up once (Q16)."""
    await resolver.resolve("a.example")
    clock.advance(FRESH_MS - 1)
    await resolver.resolve("a.example")
    assert names.asked == ["a.example"]


async def test_stale_answer_serves_while_a_new_one_is_sought(
    resolver: Resolver, names: Names, clock: FakeClock
) -> None:
    """After 60 s the old answer is given at once and the new one afterwards; nobody waits for a slow name server (Q16)."""
    await resolver.resolve("a.example")
    clock.advance(FRESH_MS)
    names.answers["a.example"] = ["1.1.1.1"]
    names.silent.add("a.example")
    assert await _addresses(resolver, "a.example") == [PUBLIC]
    names.released.set()
    await _learnt(resolver, "a.example")
    assert await _addresses(resolver, "a.example") == ["1.1.1.1"]


async def test_stale_answer_serves_ten_minutes_of_failure(resolver: Resolver, names: Names, clock: FakeClock) -> None:
    """A name whose servers fail is still served for 10 minutes, and then no longer (Q16)."""
    await resolver.resolve("a.example")
    names.answers["a.example"] = socket.gaierror(socket.EAI_AGAIN, "try again")
    clock.advance(STALE_MS - 1)
    assert await _addresses(resolver, "a.example") == [PUBLIC]
    await _learnt(resolver, "a.example")
    assert await _addresses(resolver, "a.example") == [PUBLIC]
    clock.advance(1)
    with pytest.raises(socket.gaierror, match="try again"):
        await resolver.resolve("a.example")


async def test_failure_stands_for_a_moment(resolver: Resolver, names: Names, clock: FakeClock) -> None:
    """A failed name is not asked for again at every attempt, but soon enough."""
    names.answers["no.example"] = socket.gaierror(socket.EAI_NONAME, "unknown")
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            await resolver.resolve("no.example")
    assert names.asked == ["no.example"]
    names.answers["no.example"] = [PUBLIC]
    clock.advance(FAILED_MS)
    assert await _addresses(resolver, "no.example") == [PUBLIC]


@pytest.mark.parametrize(
    "answer", [[], UnicodeError("label too long"), OSError(5, "I/O error"), socket.gaierror(), MemoryError()]
)
async def test_every_odd_answer_is_a_failed_lookup(resolver: Resolver, names: Names, answer: Any) -> None:
    """Whatever getaddrinfo does, the caller sees `socket.gaierror`."""
    names.answers["odd.example"] = answer
    with pytest.raises(socket.gaierror):
        await resolver.resolve("odd.example")


async def test_callers_share_a_lookup(resolver: Resolver, names: Names) -> None:
    """Twenty callers of one name cost one thread."""
    names.silent.add("a.example")
    callers = [asyncio.create_task(_addresses(resolver, "a.example")) for _ in range(20)]
    await names.until_asked()
    names.released.set()
    assert await asyncio.gather(*callers) == [[PUBLIC]] * 20
    assert names.asked == ["a.example"]


async def test_cancelled_caller_does_not_cancel_the_others(resolver: Resolver, names: Names) -> None:
    """A caller that runs out of time leaves the shared lookup alone."""
    names.silent.add("a.example")
    first, second = (asyncio.create_task(_addresses(resolver, "a.example")) for _ in range(2))
    await names.until_asked()
    first.cancel()
    names.released.set()
    assert await second == [PUBLIC]
    assert first.cancelled() or first.cancelling()


@pytest.mark.parametrize(
    "answer", [["10.0.0.1"], [PUBLIC, "127.0.0.1"], ["2606:4700::1", "::1"], ["1.1.1.1"] * 20 + ["::1"]]
)
async def test_one_forbidden_address_refuses_the_answer(resolver: Resolver, names: Names, answer: list[str]) -> None:
    """A mixed answer is refused whole, again and again, without being mended (T11, reliability §3.1 step 2)."""
    names.answers["mixed.example"] = answer
    for _ in range(2):
        with pytest.raises(ForbiddenAddress):
            await resolver.resolve("mixed.example")


async def test_rebinding_is_seen_at_the_next_answer(resolver: Resolver, names: Names, clock: FakeClock) -> None:
    """A name that was public and turns private is refused as soon as the new answer is known (T11)."""
    await resolver.resolve("rebind.example")
    names.answers["rebind.example"] = ["127.0.0.1"]
    clock.advance(FRESH_MS)
    await resolver.resolve("rebind.example")
    await _learnt(resolver, "rebind.example")
    with pytest.raises(ForbiddenAddress):
        await resolver.resolve("rebind.example")


async def test_answers_are_capped(resolver: Resolver, names: Names) -> None:
    """A name with a thousand addresses does not make a thousand connects."""
    names.answers["many.example"] = [f"8.8.{n // 256}.{n % 256}" for n in range(1000)]
    assert len(await resolver.resolve("many.example")) == MAX_ADDRESSES


async def test_memory_of_names_is_bounded(resolver: Resolver) -> None:
    """The least recently used name is forgotten first."""
    resolver._names.update({f"n{n}": resolver._name(f"n{n}") for n in range(MAX_NAMES)})
    await resolver.resolve("a.example")
    assert len(resolver._names) == MAX_NAMES
    assert "n0" not in resolver._names
    assert "a.example" in resolver._names


class _Isolation:
    """Fifty dead names and what they do to others."""

    def __init__(self, resolver: Resolver, names: Names, clock: FakeClock) -> None:
        self.resolver, self.names, self.clock = resolver, names, clock
        self.waits: list[asyncio.Task[Any]] = []

    def ask_dead(self, count: int = 50) -> None:
        dead = [f"dead{n}.example" for n in range(count)]
        self.names.silent.update(dead)
        self.waits += [asyncio.create_task(self.resolver.resolve(name)) for name in dead]

    async def lose_patience(self) -> None:
        await self.clock.waiting.wait()
        self.clock.advance(PATIENCE_MS)

    async def end(self) -> None:
        self.names.released.set()
        await asyncio.gather(*self.waits, return_exceptions=True)


async def test_proven_names_have_threads_of_their_own(resolver: Resolver, names: Names, clock: FakeClock) -> None:
    """Fifty names whose servers keep silent do not delay one that resolved before (invariant 9, Q16, T9)."""
    await resolver.resolve("healthy.example")
    clock.advance(STALE_MS)
    scene = _Isolation(resolver, names, clock)
    scene.ask_dead()
    await names.until_asked(1 + PLACES[Standing.UNKNOWN])
    assert await _addresses(resolver, "healthy.example") == [PUBLIC]
    await scene.end()


async def test_without_own_threads_the_dead_delay_the_healthy(
    resolver: Resolver, names: Names, clock: FakeClock
) -> None:
    """Negative control of the test above: a healthy name that stands among the unknown waits behind the dead."""
    scene = _Isolation(resolver, names, clock)
    scene.ask_dead()
    await names.until_asked(PLACES[Standing.UNKNOWN])
    healthy = asyncio.create_task(_addresses(resolver, "healthy.example"))
    await quiet()
    assert "healthy.example" not in names.asked
    assert not healthy.done()
    await scene.end()
    assert await healthy == [PUBLIC]


async def test_silent_names_lose_their_places(resolver: Resolver, names: Names, clock: FakeClock) -> None:
    """A lookup that has run for a second leaves its place to others, so an unknown name gets its turn."""
    scene = _Isolation(resolver, names, clock)
    scene.ask_dead(PLACES[Standing.UNKNOWN])
    await names.until_asked(PLACES[Standing.UNKNOWN])
    healthy = asyncio.create_task(_addresses(resolver, "healthy.example"))
    await scene.lose_patience()
    assert await healthy == [PUBLIC]
    await scene.end()


async def test_names_known_to_be_bad_hold_half_of_the_places(
    resolver: Resolver, names: Names, clock: FakeClock
) -> None:
    """With every suspect place taken a name never seen before is looked up at once (Q16)."""
    bad = [f"bad{n}.example" for n in range(30)]
    names.answers.update({name: socket.gaierror(socket.EAI_AGAIN, "no server") for name in bad})
    await asyncio.gather(*(resolver.resolve(name) for name in bad), return_exceptions=True)
    clock.advance(FAILED_MS)
    names.silent.update(bad)
    scene = _Isolation(resolver, names, clock)
    scene.waits = [asyncio.create_task(resolver.resolve(name)) for name in bad]
    await names.until_asked(len(bad) + PLACES[Standing.DOUBTFUL])
    assert await _addresses(resolver, "new.example") == [PUBLIC]
    assert len(names.asked) == len(bad) + PLACES[Standing.DOUBTFUL] + 1
    await scene.end()


async def test_threads_are_bounded(resolver: Resolver, names: Names, clock: FakeClock) -> None:
    """However many names keep silent for however long, no more than 48 threads wait for them."""
    scene = _Isolation(resolver, names, clock)
    scene.ask_dead(100)
    for places in range(PLACES[Standing.UNKNOWN], MAX_THREADS + 1, PLACES[Standing.UNKNOWN]):
        await names.until_asked(places)
        await scene.lose_patience()
    assert resolver._running.total() == MAX_THREADS
    await scene.end()
    assert len(names.asked) == 100


async def test_no_thread_to_be_had(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system gives no more threads the lookup fails and the next one is tried."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(socket.gaierror, match="no thread"):
            await resolver.resolve("a.example")
    assert await _addresses(resolver, "b.example") == [PUBLIC]


async def test_close_lets_go_of_callers(names: Names, clock: FakeClock) -> None:
    """Closing does not wait for name servers, and nobody waits for a closed resolver."""
    resolver = Resolver(Guard(), clock, names.getaddrinfo)
    names.silent.add("a.example")
    caller = asyncio.create_task(resolver.resolve("a.example"))
    await names.until_asked()
    await resolver.close()
    with pytest.raises(socket.gaierror, match="closed"):
        await caller
    names.released.set()


def test_process_ends_beside_a_stuck_lookup() -> None:
    """A `getaddrinfo` that never returns does not keep the process from ending (Q16, invariant 12)."""
    program = """
import asyncio, threading
from relay.core.clock import SystemClock
from relay.core.netguard import Guard
from relay.delivery.resolver import Resolver

async def main():
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    def stuck(*args, **options):
        loop.call_soon_threadsafe(asked.set)
        threading.Event().wait()
    resolver = Resolver(Guard(), SystemClock(), stuck)
    caller = asyncio.create_task(resolver.resolve("a.example"))
    await asked.wait()
    caller.cancel()
    await resolver.close()
    print("closed")

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "closed\n", "")


async def test_system_names_resolve() -> None:
    """With the system's own getaddrinfo `localhost` is found in the hosts file."""
    resolver = Resolver(Guard([ip_network("127.0.0.0/8"), ip_network("::1/128")]), FakeClock())
    assert "127.0.0.1" in await _addresses(resolver, "localhost") or "::1" in await _addresses(resolver, "localhost")
    await resolver.close()
