"""Heads as they come off a socket, piece by piece: what is kept of them, and that it does not matter where they are cut."""

import asyncio
import socket
import ssl
import tracemalloc
from collections.abc import Iterable

import pytest

from relay.delivery.answer import FIELDS_MAX, FRAMED_BYTES, HEAD_BYTES, READ_BYTES, Answer, NotHTTP
from relay.delivery.courier import Courier
from relay.delivery.dial import RECEIVE_BYTES
from relay.delivery.exchange import Connection
from tests.support import hostile
from tests.support.answers import ANSWERS, CHUNKED, OK, TWO
from tests.support.couriers import post
from tests.support.hostile import Hostile
from tests.support.waiting import until

BOTH_LOOPS = True
"""Every async test here runs under asyncio's loop and under uvloop's."""

PIECE_BYTES = 1_000


class Wire(asyncio.Transport):
    """What a connection writes to; whoever keeps connections, too."""

    def __init__(self) -> None:
        super().__init__()
        self.is_aborted = False
        self.kept = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        self.is_aborted = True

    def keep(self, connection: Connection) -> None:
        self.kept += 1

    def linger(self, connection: Connection) -> None:
        pass

    def forget(self, connection: Connection) -> None:
        pass


async def begun() -> tuple[Connection, Wire, asyncio.Task[Answer]]:
    """Return a connection that has sent a request, what it writes to, and who waits for the answer."""
    loop, wire = asyncio.get_running_loop(), Wire()
    connection = Connection(loop, wire, lambda: 0.0, "127.0.0.1")
    connection.connection_made(wire)
    waiting = asyncio.create_task(connection.post(b"", loop.time() + 60, excerpt=True))
    await asyncio.sleep(0)  # a turn to send it
    return connection, wire, waiting


async def read(pieces: Iterable[bytes]) -> tuple[int, list[tuple[bytes, bytes]], bytes, bool]:
    """Return what is read of an answer that comes in pieces, and whether its connection is kept."""
    connection, wire, waiting = await begun()
    for piece in pieces:
        if not wire.is_aborted:
            connection.data_received(piece)
    if not connection.is_closed:
        connection.eof_received()
    is_kept = bool(wire.kept and not wire.is_aborted)
    connection.connection_lost(None)
    try:
        answer = await waiting
    except Exception:  # what it was does not matter, only that it was no answer
        return 0, [], b"", False
    return answer.status, answer.fields, bytes(answer.body), is_kept


@pytest.mark.parametrize("name", ANSWERS)
async def test_it_does_not_matter_where_an_answer_is_cut(name: str) -> None:
    """W4: each answer, sound or odd, is the same in one piece, in two, and byte by byte."""
    answer = ANSWERS[name]
    status, fields, body, _ = await read([answer])
    for cut in range(1, min(len(answer), 200)):
        assert (await read([answer[:cut], answer[cut:]]))[:3] == (status, fields, body), cut
    step = 1 if len(answer) < 10_000 else 997
    assert (await read(answer[at : at + step] for at in range(0, len(answer), step)))[:3] == (status, fields, body)


async def grown_by(answer: bytes) -> int:
    """Return the bytes that a connection keeps of what has come of an answer."""
    connection, wire, waiting = await begun()
    pieces = [answer[at : at + PIECE_BYTES] for at in range(0, len(answer), PIECE_BYTES)]
    tracemalloc.start()
    for piece in pieces:
        connection.data_received(piece)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not wire.is_aborted
    connection.connection_lost(None)
    await asyncio.gather(waiting, return_exceptions=True)
    return grown


INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
UNFINISHED = {
    "one long field": OK + b"X-Fat: " + b"y" * 63_000,
    "a long name": OK + b"y" * 63_000,
    "a long reason": b"HTTP/1.1 200 " + b"y" * 63_000,
    "thousands of fields": OK + b"a:b\r\n" * 12_600,
    "odd fields": OK + b"a :b\n" * 12_600,
    "after an interim answer": INTERIM + OK + b"X-Fat: " + b"y" * 63_000,
    "after an odd one": INTERIM.replace(b"\r", b"") + OK + b"X-Fat: " + b"y" * 63_000,
}


@pytest.mark.parametrize("name", UNFINISHED)
async def test_an_unfinished_head_is_kept_once(name: str) -> None:
    """T8: 63 KB of a head that does not end take little more than 63 KB, whatever they are."""
    assert await grown_by(UNFINISHED[name]) < 63_000 * 1.25


async def test_of_a_head_200_fields_count() -> None:
    """T8: thousands of fields, sound or odd, are an answer, of which the first 200 are kept while its body is read."""
    for end in (b"\r\n", b"\n"):
        status, fields, body, _ = await read([OK + b"a:b" + end + (b"c:d" + end) * 9_000 + TWO])
        assert (status, fields[:2], len(fields), body) == (200, [(b"a", b"b"), (b"c", b"d")], FIELDS_MAX, b"ok")


@pytest.mark.parametrize("surplus", [0, 1])
async def test_a_head_has_64_kib_in_however_many_pieces(surplus: int) -> None:
    """W3: one byte beyond is no answer, also when all of it comes at once."""
    head = OK + b"Content-Length: 0\r\nX: " + b"y" * (HEAD_BYTES + surplus)
    head = head[: HEAD_BYTES + surplus - 4] + b"\r\n\r\n"
    for cut in (len(head), 100):
        assert (await read([head[:cut], head[cut:]]))[0] == (0 if surplus else 200)


async def test_blank_lines_without_end_are_no_answer() -> None:
    """T8: a receiver that sends nothing but line ends is told from one that answers before its time is over."""
    connection, wire, waiting = await begun()
    for _ in range(HEAD_BYTES):
        if not wire.is_aborted:
            connection.data_received(b"\r\n")
    with pytest.raises(NotHTTP):
        await waiting


async def test_trailers_without_end_are_not_kept() -> None:
    """T8: of what follows a head, 128 KiB are read, though none of it be body."""
    connection, wire, waiting = await begun()
    connection.data_received(OK.replace(b"200 OK", b"500 No") + CHUNKED + b"\r\n2\r\nok\r\n0\r\nX: ")
    read_bytes = 0
    while not wire.is_aborted and read_bytes < 1 << 20:
        connection.data_received(b"y" * PIECE_BYTES)
        read_bytes += PIECE_BYTES
    assert FRAMED_BYTES - PIECE_BYTES < read_bytes <= FRAMED_BYTES + PIECE_BYTES
    assert (await waiting).body == b"ok"
    connection.connection_lost(None)


async def test_a_socket_takes_in_little_until_a_body_comes(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """T8: what a hostile head can fill is small, and a body that comes apart from its head is taken in as a whole."""
    sizes = []

    def taken_in() -> int:
        assert courier._pool is not None
        (connection,) = courier._pool._origins
        taken: int = connection._transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return taken

    async def behave(wire: hostile.Wire) -> None:
        await wire.request()
        await wire.send(OK)
        sizes.append(taken_in())
        await wire.send(b"Content-Length: 2\r\n\r\n")
        await until(lambda: taken_in() > sizes[0])
        sizes.append(taken_in())
        await wire.send(b"ok")
        await wire.until_closed()

    async with Hostile(behave, tls=tls) as server:
        assert (await courier.attempt(post(server.url))).response_body == b"ok"
    assert sizes == [2 * RECEIVE_BYTES, 2 * READ_BYTES]  # the kernel doubles what is asked for
