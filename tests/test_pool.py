"""Which connections are kept, for how long and how many, and how they come about."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
import trustme

from relay.core.model import Failure
from relay.core.netguard import Guard
from relay.delivery.courier import Courier
from relay.delivery.dial import HEAD_START_S
from relay.delivery.exchange import Connection
from relay.delivery.pool import AGE_S, IDLE_S, LINGERING_MAX, Pool
from tests.support import hostile
from tests.support.couriers import (
    FixedNames,
    SilentNames,
    idle_connections,
    open_connections,
    post,
    running_courier,
    serving,
    trusting,
)
from tests.support.hostile import Hostile
from tests.support.receiver import Answer, Receiver
from tests.support.waiting import until

BOTH_LOOPS = True
"""Every async test here runs under asyncio's loop and under uvloop's."""

HERE = ("https", "a.example", 443)
THERE = ("https", "b.example", 443)


# The pool, by itself


class Time:
    """Stands in for the loop: its time passes when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None]) -> "Time":
        self.timers.append((self.now + delay, callback))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due, self.timers = [t for t in self.timers if t[0] <= self.now], [t for t in self.timers if t[0] > self.now]
        for _, callback in due:
            callback()


class Line:
    """Stands in for a connection: it ends at once when it is aborted."""

    def __init__(self, pool: Pool, now: float) -> None:
        self.opened_at = now
        self.kept_at = 0.0
        self.is_closed = False
        self._pool = pool

    def abort(self) -> None:
        self.is_closed = True
        self._pool.forget(self)  # type: ignore[arg-type]


class Scene:
    """A pool with lines and time of its own."""

    def __init__(self, idle_max: int = 3) -> None:
        self.time = Time()
        self.pool = Pool(self.time, idle_max)  # type: ignore[arg-type]

    def line(self, origin: tuple[str, str, int] = HERE) -> Line:
        line = Line(self.pool, self.time.now)
        self.pool.add(origin, line)  # type: ignore[arg-type]
        return line

    def kept(self, origin: tuple[str, str, int] = HERE) -> Line:
        line = self.line(origin)
        self.pool.keep(line)  # type: ignore[arg-type]
        return line


@pytest.fixture
def scene() -> Scene:
    """A pool that keeps three."""
    return Scene()


def test_the_connection_used_last_is_used_next(scene: Scene) -> None:
    """So that those beyond what the traffic needs grow old and end."""
    first, second = scene.kept(), scene.kept()
    assert [scene.pool.take(HERE), scene.pool.take(HERE), scene.pool.take(HERE)] == [second, first, None]


def test_origins_do_not_share_connections(scene: Scene) -> None:
    """A connection carries requests to one scheme, host and port."""
    scene.kept()
    assert scene.pool.take(THERE) is None
    assert scene.pool.take(("http", "a.example", 443)) is None


def test_idle_connections_end(scene: Scene) -> None:
    """What has waited for 15 s is closed, each in its turn, and a pool without connections has no timer."""
    first = scene.kept()
    scene.time.advance(1)
    second = scene.kept(THERE)
    scene.time.advance(IDLE_S - 1)
    assert (first.is_closed, second.is_closed) == (True, False)
    scene.time.advance(1)
    assert second.is_closed
    assert scene.time.timers == []


def test_old_connections_are_not_kept(scene: Scene) -> None:
    """After five minutes a connection is closed when its exchange ends: names move."""
    line = scene.line()
    scene.time.advance(AGE_S + 1)
    scene.pool.keep(line)  # type: ignore[arg-type]
    assert line.is_closed
    assert scene.pool.take(HERE) is None


def test_idle_connections_are_bounded_over_all(scene: Scene) -> None:
    """Beyond the bound the one that has waited longest makes room, whichever origin it belongs to."""
    lines = [scene.kept(origin) for origin in (THERE, HERE, HERE, HERE, THERE)]
    assert [line.is_closed for line in lines] == [True, True, False, False, False]
    assert scene.pool.take(THERE) is lines[4]


def test_lingering_connections_are_bounded(scene: Scene) -> None:
    """Receivers that never end their bodies hold 64 connections at most that nobody waits for."""
    lines = [scene.line() for _ in range(LINGERING_MAX + 2)]
    for line in lines:
        scene.pool.linger(line)  # type: ignore[arg-type]
    assert [line.is_closed for line in lines] == [True] * 2 + [False] * LINGERING_MAX


def test_a_connection_that_ends_is_forgotten(scene: Scene) -> None:
    """Whatever it was doing, nothing of it stays."""
    idle, busy, lingering = scene.kept(), scene.line(), scene.line(THERE)
    scene.pool.linger(lingering)  # type: ignore[arg-type]
    for line in (idle, busy, lingering, busy):
        scene.pool.forget(line)  # type: ignore[arg-type]
    pool = scene.pool
    assert not any((pool._origins, pool._idle, pool._waiting, pool._lingering))


# Over real sockets


def _sockets() -> int:
    """How many sockets this process has open; uvloop keeps a spare descriptor of its own besides."""
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


@pytest.mark.parametrize("tls", [False, True])
async def test_connections_are_used_again_under_steady_load(courier: Courier, authority: trustme.CA, tls: bool) -> None:
    """At least 99 in 100 requests of 16 at once go over a connection that was there."""
    count = 3_200
    context = serving(authority.issue_cert("localhost")) if tls else None
    async with Receiver(default=Answer(200, body=b"ok"), tls=context) as receiver:

        async def send() -> None:
            for _ in range(count // 16):
                assert (await courier.attempt(post(receiver.url))).status == 200

        await asyncio.gather(*(send() for _ in range(16)))
        connections = {received.connection for received in receiver.received}
    assert len(receiver.received) == count
    assert len(connections) <= count // 100


async def test_the_bound_holds_over_real_connections() -> None:
    """A courier that keeps two closes the others when their answers are there."""
    async with running_courier(idle_max=2) as courier, Receiver(default=204) as receiver:
        await asyncio.gather(*(courier.attempt(post(receiver.url)) for _ in range(8)))
        await until(lambda: open_connections(courier) == 2)
        assert idle_connections(courier) == 2


async def test_a_connection_that_the_receiver_ends_is_not_used(courier: Courier) -> None:
    """A FIN that was seen costs nothing: the next attempt opens a connection without a word about it."""
    async with Hostile(hostile.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        await courier.attempt(post(server.url))
        await until(lambda: not open_connections(courier))
        outcome = await courier.attempt(post(server.url))
        assert (outcome.status, outcome.detail, server.connections) == (200, "", 2)


@pytest.mark.parametrize("answer", ["HTTP/1.0 200 OK\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n"])
async def test_a_receiver_may_ask_for_a_connection_each(courier: Courier, answer: str) -> None:
    """HTTP/1.0 and `Connection: close` are respected."""
    async with Hostile(hostile.raw_kept_open(answer.encode() + b"Content-Length: 0\r\n\r\n")) as server:
        for count in (1, 2):
            await courier.attempt(post(server.url))
            assert server.connections == count


async def test_nothing_is_left_when_a_courier_closes(authority: trustme.CA) -> None:
    """Idle, waiting, lingering and half-made connections are gone when `close` returns, and so are their sockets."""
    before = _sockets()
    context = serving(authority.issue_cert("localhost"))
    async with (
        Receiver(default=204, tls=context) as receiver,
        Hostile(hostile.silent) as silent,
        Hostile(hostile.drip_body) as dripping,
        running_courier(tls=trusting(authority)) as courier,
    ):
        await courier.attempt(post(receiver.url))
        await courier.attempt(post(dripping.url, timeout_ms=60_000, excerpt=False))
        waiting = asyncio.create_task(courier.attempt(post(silent.url, timeout_ms=60_000)))
        securing = asyncio.create_task(courier.attempt(post(silent.url.replace("http:", "https:"), timeout_ms=60_000)))
        await until(lambda: silent.connections == 2)
        await courier.close()
        assert open_connections(courier) == 0
        assert (await waiting).failure is Failure.BROKEN_RESPONSE
        assert (await securing).failure is Failure.CONNECT
    await until(lambda: _sockets() <= before)


async def test_cancelled_connects_leave_nothing(authority: trustme.CA) -> None:
    """An attempt that is cancelled while names, TCP or TLS are under way leaves no socket behind."""
    before = _sockets()
    with _full_listener() as port:
        async with Hostile(hostile.silent) as silent, running_courier(names=SilentNames()) as courier:
            urls = [f"http://127.0.0.1:{port}/", silent.url.replace("http:", "https:"), "http://slow.example/"]
            attempts = [asyncio.create_task(courier.attempt(post(url, timeout_ms=60_000))) for url in urls]
            await silent.connected.wait()
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)
            assert all(attempt.cancelled() for attempt in attempts)
    await until(lambda: _sockets() <= before)


@contextlib.contextmanager
def _full_listener(address: str = "127.0.0.1"):  # type: ignore[no-untyped-def]
    """A port where a connect stays without an answer: its backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((address, 0))
        listener.listen(0)
        for _ in range(2):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("tls", [False, True])
async def test_an_address_that_refuses_costs_nothing(authority: trustme.CA, tls: bool) -> None:
    """RFC 8305: where one family refuses the other is tried at once, and the outcome names the address that answered."""
    context = serving(authority.issue_cert("receiver.example")) if tls else None
    names = FixedNames("::1", "127.0.0.1", "127.0.0.2")
    async with running_courier(names=names, tls=trusting(authority)) as courier, Receiver(tls=context) as receiver:
        scheme = "https" if tls else "http"
        outcome = await courier.attempt(post(f"{scheme}://receiver.example:{receiver.port}/"))
    assert (outcome.status, outcome.address) == (204, "127.0.0.1")


async def test_a_silent_address_has_a_quarter_of_a_second() -> None:
    """RFC 8305: while the first address says nothing the next one is tried, and the loser leaves nothing behind."""
    before = _sockets()
    with _full_listener("127.0.0.2") as port:
        server = await asyncio.start_server(_answer, "127.0.0.1", port)
        async with server, running_courier(names=FixedNames("127.0.0.2", "127.0.0.1")) as courier:
            outcome = await courier.attempt(post(f"http://receiver.example:{port}/"))
    assert (outcome.status, outcome.address) == (204, "127.0.0.1")
    assert outcome.duration_ms >= HEAD_START_S * 1000 - 1
    await until(lambda: _sockets() <= before)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_when_all_addresses_fail_the_first_says_why() -> None:
    """The outcome of several refusals is one of them."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with running_courier(names=FixedNames("127.0.0.1", "::1", "127.0.0.2")) as courier:
            outcome = await courier.attempt(post(f"http://receiver.example:{unused.getsockname()[1]}/"))
    assert (outcome.failure, outcome.detail) == (Failure.CONNECT, "no connection: Connection refused")


async def test_no_forbidden_address_is_raced() -> None:
    """Among several addresses each one passes the guard before its socket is opened."""
    async with Receiver() as inside, running_courier(Guard(), FixedNames("127.0.0.1", "127.0.0.2")) as courier:
        outcome = await courier.attempt(post(f"http://rebound.example:{inside.port}/"))
    assert (outcome.failure, inside.received) == (Failure.BLOCKED_NAME, [])


@pytest.mark.parametrize("end", [Connection.eof_received, lambda connection: connection.connection_lost(None)])
async def test_a_connection_that_ends_before_its_first_request(
    courier: Courier, end: Callable[[Connection], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that is gone before the attempt has its turn is known at once, and the pool holds nothing of it."""
    assert courier._dialler is not None
    connect = courier._dialler.connect

    async def connect_and_lose(*arguments: Any) -> Connection:
        connection = await connect(*arguments)
        end(connection)
        connection._transport.abort()
        return connection

    monkeypatch.setattr(courier._dialler, "connect", connect_and_lose)
    async with Receiver() as receiver:
        outcome = await courier.attempt(post(receiver.url))
    assert (outcome.failure, outcome.detail) == (Failure.BROKEN_RESPONSE, "the connection ended before an answer")
    assert open_connections(courier) == 0
