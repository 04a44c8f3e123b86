"""Nobody holds the loop: connections are taken a few at a time, and long work goes in turns, one piece in each round."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from relay.api import accept
from relay.api.accept import ACCEPTS, Acceptor
from relay.api.auth import PRINCIPAL
from relay.api.body import ARRIVING, CONFIG, LARGE_BYTES, Arriving, read
from relay.api.query import page_response
from relay.api.turns import OTHERS_S, REST_MAX_S, RESTS, TURNS, Turns
from relay.config import ServerConfig
from relay.core.access import Principal, Role
from relay.core.views import Page
from tests.support.waiting import quiet, until

BOTH_LOOPS = {"test_a_crowd_is_taken_a_few_at_a_time", "test_a_listener_without_descriptors_goes_on_later"}

CROWD = 5 * ACCEPTS


# -- connections ---------------------------------------------------------------------------------------------------


@contextmanager
def crowd(port: int) -> Iterator[list[socket.socket]]:
    """Connect many at once; the kernel keeps them waiting."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CROWD)]
    try:
        yield clients
    finally:
        for client in clients:
            client.close()


class Taken(asyncio.Protocol):
    """A connection that was taken; ends when its client does."""

    def __init__(self, made: list["Taken"]) -> None:
        self.ended = False
        made.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True


async def taken_by_round(made: list[Taken]) -> list[int]:
    """Say how many were taken in each round of the loop until the crowd is in."""
    seen = [len(made)]
    while len(made) < CROWD:
        await asyncio.sleep(0)
        seen.append(len(made))
    return [after - before for before, after in itertools.pairwise(seen)]


async def test_a_crowd_is_taken_a_few_at_a_time() -> None:
    """I4, I11: of connections that came together a bounded number is taken in each round, on either loop, and more than one."""
    made: list[Taken] = []
    sock = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(sock, lambda: Taken(made))
    with crowd(sock.getsockname()[1]):
        rounds = await taken_by_round(made)
    assert 1 < max(rounds) <= ACCEPTS
    await until(lambda: all(each.ended for each in made))
    acceptor.close()
    acceptor.close()


async def test_the_count_finds_a_listener_that_takes_all_at_once() -> None:
    """Negative control of the test before: asyncio's own server takes the whole crowd in one round."""
    made: list[Taken] = []
    server = await asyncio.get_running_loop().create_server(lambda: Taken(made), "127.0.0.1", 0, backlog=CROWD)
    with crowd(server.sockets[0].getsockname()[1]):
        assert max(await taken_by_round(made)) > ACCEPTS
    await until(lambda: all(each.ended for each in made))
    server.close()
    await server.wait_closed()


class Exhausted(socket.socket):
    """A listener for whose connections there are no descriptors, for some time."""

    failures = 2

    def accept(self) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError(24, "Too many open files")
        return super().accept()


async def test_a_listener_without_descriptors_goes_on_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """H22: where no descriptor is left the listener rests instead of trying for ever, and then takes who still waits."""
    monkeypatch.setattr(accept, "PAUSE_S", 0)
    made: list[Taken] = []
    sock = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    acceptor = Acceptor(sock, lambda: Taken(made))
    with socket.create_connection(sock.getsockname()):
        await until(lambda: len(made) == 1)
    assert sock.failures == 0
    await until(lambda: made[0].ended)
    acceptor.close()


# -- turns ---------------------------------------------------------------------------------------------------------


class Loop:
    """The running loop with a clock of its own. A rest is written down and ends when the test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.rests: list[tuple[float, Callable[[], object]]] = []
        self._loop = asyncio.get_running_loop()
        self.call_soon, self.create_future = self._loop.call_soon, self._loop.create_future

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, end: Callable[[], object]) -> None:
        self.rests.append((delay_s, end))


@asynccontextmanager
async def working(turns: Turns, loop: Any, work: list[tuple[str, float]]) -> AsyncIterator[list[str]]:
    """Let callers do work of some length each, all at once; yields who had their turn."""
    order: list[str] = []

    async def one(caller: str, took_s: float) -> None:
        await turns.turn(caller)
        order.append(caller)
        loop.now_s += took_s

    tasks = [asyncio.create_task(one(*each)) for each in work]
    yield order
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_callers_have_their_turns_in_turn() -> None:
    """I6, I7: the one piece of a caller waits for one of a crowd's, not for all of them."""
    loop: Any = Loop()
    async with working(Turns(loop), loop, [("crowd", 0.01)] * 5 + [("one", 0.01)]) as order:
        await quiet()
        assert order == ["crowd", "crowd", "one", "crowd", "crowd", "crowd"]
    assert loop.rests == []


async def test_nobody_rests_where_nobody_else_wants_the_loop() -> None:
    """Large bodies alone follow each other at once, however long they take; small requests of long ago are no others."""
    loop: Any = Loop()
    turns = Turns(loop)
    turns.other()
    async with working(turns, loop, [("a", OTHERS_S)]):
        await quiet()
    ((_, end),) = loop.rests
    loop.now_s += OTHERS_S
    end()
    async with working(turns, loop, [("a", 0.5)] * 3) as order:
        await quiet()
        assert order == ["a"] * 3
    assert len(loop.rests) == 1


@pytest.mark.parametrize(("took_s", "rest_s"), [(0.01, 0.01 * RESTS), (5.0, REST_MAX_S)])
async def test_others_have_the_loop_after_each_turn(took_s: float, rest_s: float) -> None:
    """I7: while small requests come in, the next piece begins after a rest as long as RESTS times the one before, or the most."""
    loop: Any = Loop()
    turns = Turns(loop)
    async with working(turns, loop, [("crowd", took_s)] * 3) as order:
        for done in (1, 2, 3):
            turns.other()
            await quiet()
            assert len(order) == done
            delay_s, end = loop.rests[-1]
            assert delay_s == pytest.approx(rest_s)
            end()


async def test_whoever_is_cancelled_holds_nobody_up() -> None:
    """A request that ends while it waits, or when it was just called, passes the turn on."""
    loop: Any = Loop()
    turns = Turns(loop)
    first, *waiting = [asyncio.create_task(turns.turn(name)) for name in ("first", "a", "b", "c", "d")]
    await asyncio.sleep(0)  # each has asked; the next one is called in the round after this
    waiting[1].cancel()
    await asyncio.sleep(0)
    assert first.done()
    assert not waiting[0].done()
    waiting[0].cancel()
    await asyncio.wait(waiting)
    assert [task.cancelled() for task in waiting] == [True, True, False, False]


async def test_what_is_called_and_what_waits_share_the_turns() -> None:
    """I7: a piece that is read when it is called, and work that waits for its turn, go one by one in the order they asked."""
    loop: Any = Loop()
    turns = Turns(loop)
    order: list[str] = []
    async with working(turns, loop, [("a", 0.01), ("a", 0.01)]) as done:
        await asyncio.sleep(0)
        turns.call("a", lambda: order.append(f"piece after {len(done)}"))
        turns.call("b", lambda: order.append(f"piece after {len(done)}"))
        await quiet()
    assert order == ["piece after 2", "piece after 2"]
    turns.call("a", lambda: order.append("alone"))
    await quiet()
    assert order[-1] == "alone"


# -- what goes in turns --------------------------------------------------------------------------------------------


class Content:
    """A body that is there."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def is_eof(self) -> bool:
        return True

    def read_nowait(self) -> bytes:
        return self._text


class Posted(dict[Any, Any]):
    """As much of a request as reading its body needs."""

    def __init__(self, state: dict[Any, Any], text: bytes) -> None:
        super().__init__(state)
        self.content = Content(text)


async def test_large_bodies_are_looked_at_one_by_one() -> None:
    """I7: of large bodies that are there at once one is returned after the other; a small one waits for none."""
    order: list[str] = []
    loop: Any = Loop()
    state = {ARRIVING: Arriving(1 << 20), CONFIG: ServerConfig(), TURNS: Turns(loop)}

    async def post(name: str, text: bytes) -> None:
        request: Any = Posted(state | {PRINCIPAL: Principal(name, Role.PRODUCER)}, text)
        await read(request)
        order.append(name)

    large = [asyncio.create_task(post(f"large{number}", b"x" * (LARGE_BYTES + 1))) for number in range(3)]
    small = asyncio.create_task(post("small", b"x" * LARGE_BYTES))
    await asyncio.wait([small, *large[:1]])
    assert order == ["large0", "small"]
    for number in (1, 2):
        await quiet()
        loop.rests[-1][1]()
        await large[number]
    assert order == ["large0", "small", "large1", "large2"]


async def test_many_pages_let_others_have_their_turn_between_them() -> None:
    """I6: pages that are asked for at once are put together one in each round of the loop, and others run in between."""
    seen: list[str] = []
    loop: Any = Loop()
    request: Any = {TURNS: Turns(loop)}

    async def other() -> None:
        while True:
            seen.append("other")
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await asyncio.gather(
        *(page_response(request, Page((1,), None, ["1"]), lambda _: seen.append("page")) for _ in range(5))
    )
    running.cancel()
    pages = [place for place, one in enumerate(seen) if one == "page"]
    assert len(pages) == 5
    assert all("other" in seen[first:second] for first, second in itertools.pairwise(pages))
