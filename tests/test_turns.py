"""Nobody holds the loop: connections are taken a few at a time, and long work goes in turns, one piece in each round."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from relay.api import accept
from relay.api.accept import ACCEPTS, LOOKS, TAKES, Acceptor
from relay.api.auth import PRINCIPAL
from relay.api.body import ARRIVING, CONFIG, LARGE_BYTES, Arriving, read
from relay.api.query import page_response
from relay.api.turns import OTHERS_S, REST_MAX_S, RESTS, TURNS, Turns
from relay.config import ServerConfig
from relay.core.access import Principal, Role
from relay.core.views import Page
from tests.support.waiting import quiet, until

BOTH_LOOPS = {
    "test_a_crowd_is_taken_a_few_at_a_time",
    "test_a_listener_without_descriptors_goes_on_later",
    "test_a_newcomer_does_not_wait_behind_a_crowd",
    "test_a_crowd_that_waits_makes_room_for_others_only",
}

CROWD = 5 * TAKES


# -- connections ---------------------------------------------------------------------------------------------------


@contextmanager
def crowd(port: int, said: bytes = b"", count: int = CROWD) -> Iterator[list[socket.socket]]:
    """Connect many at once, each of which says something; the kernel keeps them waiting."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    try:
        for client in clients:
            client.sendall(said)
        yield clients
    finally:
        for client in clients:
            client.close()


class Taken(asyncio.Protocol):
    """A connection that was taken; ends when its client does."""

    def __init__(self, made: list["Taken"]) -> None:
        self.ended = False
        self.said = b""
        made.append(self)

    def data_received(self, data: bytes) -> None:
        self.said += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True


class Room:
    """Places for connections, which are written down in the order in which they were taken."""

    accepts = ACCEPTS
    refusal = b"no room"

    def __init__(self, waiting_max: int = 1_000) -> None:
        self.waiting_max = waiting_max
        self.made: list[Taken] = []

    def claimant(self, head: bytes) -> str:
        """Believe every word."""
        return head.decode()

    def __call__(self) -> Taken:
        return Taken(self.made)

    @property
    def said(self) -> list[bytes]:
        """What each of them said."""
        return [each.said for each in self.made]


async def taken_by_round(made: list[Taken]) -> list[int]:
    """Say how many were taken in each round of the loop until the crowd is in."""
    seen = [len(made)]
    while len(made) < CROWD:
        await asyncio.sleep(0)
        seen.append(len(made))
    return [after - before for before, after in itertools.pairwise(seen)]


async def test_a_crowd_is_taken_a_few_at_a_time() -> None:
    """I4, I11: of connections that came together a bounded number is taken in each round, on either loop, and more than one."""
    room = Room()
    sock = socket.create_server(("127.0.0.1", 0), backlog=CROWD)
    acceptor = Acceptor(sock, room)
    with crowd(sock.getsockname()[1]):
        rounds = await taken_by_round(room.made)
    assert 1 < max(rounds) <= ACCEPTS
    await until(lambda: all(each.ended for each in room.made))
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
    room = Room()
    sock = Exhausted(socket.AF_INET, socket.SOCK_STREAM)
    sock.bind(("127.0.0.1", 0))
    acceptor = Acceptor(sock, room)
    with socket.create_connection(sock.getsockname()):
        await until(lambda: len(room.made) == 1)
    assert sock.failures == 0
    await until(lambda: room.made[0].ended)
    acceptor.close()


async def test_a_newcomer_does_not_wait_behind_a_crowd() -> None:
    """I4, I11: those who wait are served by claimant in turn, as their first bytes say, however many came before."""
    rounds = CROWD // TAKES + 2  # until it was seen, and had its turn
    assert await place_behind_a_crowd(Room()) <= rounds * ACCEPTS < CROWD


async def test_the_place_finds_a_door_that_asks_nobody() -> None:
    """Negative control of the test before: where nobody says who is calling, the newcomer is the last."""
    room = Room()
    room.claimant = lambda head: ""  # type: ignore[method-assign]
    assert await place_behind_a_crowd(room) == CROWD


async def place_behind_a_crowd(room: Room) -> int:
    """Let one of another claimant come after a crowd; how many of these were taken before it."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=2 * CROWD)
    port = sock.getsockname()[1]
    with crowd(port, b"crowd"), crowd(port, b"one", 1):
        acceptor = Acceptor(sock, room)
        await until(lambda: len(room.made) == CROWD + 1 and all(room.said))
        place = room.said.index(b"one")
    await until(lambda: all(each.ended for each in room.made))
    acceptor.close()
    return place


async def test_who_speaks_while_waiting_has_a_turn_as_who_it_is() -> None:
    """I11: one that had said nothing when it was taken out of the kernel's queue is looked at again."""
    room = Room()
    sock = socket.create_server(("127.0.0.1", 0), backlog=2 * CROWD)
    port = sock.getsockname()[1]
    with crowd(port, b"crowd"), socket.create_connection(("127.0.0.1", port)) as late:
        acceptor = Acceptor(sock, room)
        room.accepts = 0  # it is not served before it spoke
        await turns_of_the_loop()
        late.sendall(b"late")
        room.accepts = 1
        await until(lambda: len(room.made) == CROWD + 1 and all(room.said))
        assert room.said.index(b"late") <= CROWD // LOOKS + 2
    await until(lambda: all(each.ended for each in room.made))
    acceptor.close()


async def turns_of_the_loop() -> None:
    """Let whoever waits in the kernel be taken."""
    for _ in range(2 * CROWD):
        await asyncio.sleep(0)


async def test_a_crowd_that_waits_makes_room_for_others_only() -> None:
    """I9, I11: of more than may wait the crowd's own are turned away, with the answer that says so; another's is served."""
    room = Room(waiting_max=ACCEPTS)
    sock = socket.create_server(("127.0.0.1", 0), backlog=2 * CROWD)
    port = sock.getsockname()[1]
    with crowd(port, b"crowd") as clients, crowd(port, b"one", 1):
        acceptor = Acceptor(sock, room)
        await until(lambda: b"one" in room.said)
        for client in clients:
            client.setblocking(False)
        await until(lambda: len(room.made) + sum(map(turned_away, clients)) == CROWD + 1)
        assert len(room.made) < CROWD
    await until(lambda: all(each.ended for each in room.made))
    acceptor.close()


def turned_away(client: socket.socket) -> bool:
    """Whether a client was told that there is no room; what it was told stays for the next to look at."""
    try:
        return client.recv(100, socket.MSG_PEEK) == Room.refusal
    except BlockingIOError:
        return False


async def test_who_waits_when_a_listener_closes_is_served() -> None:
    """A connection that was taken out of the kernel's queue, which may be systemd's, is nobody else's to serve."""
    room = Room()
    room.accepts = 0
    sock = socket.create_server(("127.0.0.1", 0), backlog=2 * CROWD)
    with crowd(sock.getsockname()[1], b"crowd"):
        acceptor = Acceptor(sock, room)
        await turns_of_the_loop()
        acceptor.close()
        await until(lambda: len(room.made) == CROWD)
    await until(lambda: all(each.ended for each in room.made))


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
