"""What goes over the wire and what is read from it: W1, W3, W4, W5 and the hostile receivers that a parser meets."""

import asyncio
import contextlib
import http.client
import os
import random
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from typing import Self

import pytest

from relay.contracts.fields import endpoint_values
from relay.core.model import Failure
from relay.core.urls import check_url
from relay.delivery.answer import HEAD_BYTES, READ_BYTES, NotHTTP, read_odd_head
from relay.delivery.courier import Courier, Request
from relay.delivery.exchange import LINGER_S
from relay.delivery.request import Unsendable, lay_out
from tests.support import hostile
from tests.support.answers import ANSWERS, OK, TWO
from tests.support.couriers import idle_connections, open_connections, post
from tests.support.hostile import Behaviour, Hostile, Wire
from tests.support.receiver import Receiver
from tests.support.waiting import until

BOTH_LOOPS = True
"""Every async test here runs under asyncio's loop and under uvloop's."""

MIB = 1 << 20


# The request line (W1)


class Recorder(asyncio.Protocol):
    """Notes the first line of every request and answers 204."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        self._lines.append(data.partition(b"\r\n")[0])
        self._transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")  # type: ignore[attr-defined]


def _generated(count: int) -> list[str]:
    """Paths of everything that somebody might write: escapes sound and broken, brackets, dots, blanks, other letters."""
    pieces = ["%2F", "%2f", "%28", "%7E", "%zz", "%", "..", ".", "//", "a[0]=1", "?", "&", "=", "+", "'", "*", ";", ":"]
    pieces += [
        "@",
        "!",
        "$",
        "(",
        ")",
        ",",
        "~",
        "_",
        "-",
        "|",
        "^",
        "{",
        " ",
        "\t",
        "ü",
        "€",
        "\\",
        '"',
        "#",
        "hooks",
        "7",
    ]
    rng = random.Random(8)
    starts = ["/", "", "?", "/a/"]
    return [rng.choice(starts) + "".join(rng.choices(pieces, k=rng.randrange(6))) for _ in range(count)]


NINE = [
    "/path%28x%29",
    "/a%3Ab",
    "/?sig=Y%2FXC%2Bw%3D",
    "/?q=%27x%27",
    "/foo%2Etxt",
    "/a/../b",
    "/h?",
    "/a%zz",
    "/?a[0]=1",
]


async def test_targets_go_out_as_they_were_registered(courier: Courier) -> None:
    """W1: the bytes on the request line are those of the URL, or registration refuses it and nothing is sent."""
    lines: list[bytes] = []
    server = await asyncio.get_running_loop().create_server(lambda: Recorder(lines), "127.0.0.1", 0)
    origin = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    sent = 0
    for path in NINE + _generated(10_000):
        url = origin + path
        outcome = await courier.attempt(post(url))
        if check_url(url, allow_http=True, allow_private=True) or (path and path[0] not in "/?"):
            assert (outcome.failure, len(lines)) == (Failure.INVALID_REQUEST, sent), url
            continue
        sent += 1
        target = path if path.startswith("/") else f"/{path}"
        assert (outcome.status, lines[-1], len(lines)) == (204, f"POST {target} HTTP/1.1".encode(), sent), url
    server.close()
    assert sent > 1_000


@pytest.mark.parametrize("path", [*NINE, "", "?x=1", "//"])
def test_contracts_sign_the_path_that_is_sent(path: str) -> None:
    """W2: `{path}` and `{url}` in a signature are what the request line and the registered URL say."""
    url = f"https://a.example:8443{path}"
    values = endpoint_values(url, "ep_1")
    assert values["url"] == url.encode()
    if not check_url(url, allow_http=False, allow_private=False):
        request = lay_out(url, (), user_agent="relay").fill((), b"")
        assert request.startswith(b"POST %s HTTP/1.1\r\n" % values["path"])


@pytest.mark.parametrize(
    "headers", [{"x-odd": "\udcff"}, {"x odd": "a"}, {"": "a"}, {"content-length": "5"}, {"Host": "b"}]
)
async def test_what_cannot_be_sent_is_an_outcome(courier: Courier, headers: dict[str, str]) -> None:
    """Names and values that no request may hold are said to be so; nothing is raised, and nothing sent."""
    async with Receiver() as receiver:
        outcome = await courier.attempt(Request(receiver.url, headers, b"", 1_000))
    assert (outcome.failure, receiver.received) == (Failure.INVALID_REQUEST, [])


def test_a_head_is_laid_out_once_and_filled_in() -> None:
    """Per cent signs in paths, names and values come through, and an own user agent takes the place of ours."""
    layout = lay_out("https://a.example/%41?b=%25d", ("x-%s", "User-Agent"), user_agent="relay")
    assert layout.fill(("100%", "mine"), b"body") == (
        b"POST /%41?b=%25d HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
        b"x-%s: 100%\r\nUser-Agent: mine\r\nContent-Length: 4\r\n\r\nbody"
    )
    with pytest.raises(Unsendable):
        layout.fill(("a\r\nX-Evil: 1", "mine"), b"")


# Heads (W3, W4)


@pytest.mark.parametrize(
    "head",
    [
        b"X: " + b"y" * 9_000 + b"\r\n",
        b"X: " + b"y" * (HEAD_BYTES - 100) + b"\r\n",
        b"".join(b"X-%d: y\r\n" % n for n in range(200)),
        b"".join(b"X-%d: y\r\n" % n for n in range(3_000)),
    ],
)
async def test_large_heads_are_read(courier: Courier, head: bytes, tls: ssl.SSLContext | None) -> None:
    """W3: a head of up to 64 KiB with any number of headers is an answer, and its connection is used again."""
    async with Hostile(hostile.raw_kept_open(OK + head + TWO), tls=tls) as server:
        outcomes = [await courier.attempt(post(server.url)) for _ in range(2)]
        assert [(outcome.status, outcome.response_body) for outcome in outcomes] == [(200, b"ok")] * 2
        assert server.connections == 1


async def test_a_head_in_small_pieces_is_read(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """W4: sound and odd heads, and interim answers before them, are read however they are cut."""

    async def drip(wire: Wire) -> None:
        await wire.request()
        for at in range(len(answer)):
            await wire.send(answer[at : at + 1])
            await asyncio.sleep(0)  # a turn for each piece

    for name in ("plain", "bare LF", "103 first", "103 first, then bare LF", "two equal lengths", "chunks"):
        answer = ANSWERS[name]
        async with Hostile(drip, tls=tls) as server:
            outcome = await courier.attempt(post(server.url))
        assert (outcome.status, outcome.response_body) == (200, b"ok"), name


async def test_an_odd_answer_ends_its_connection(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """W4: what only a lenient reading takes for an answer is delivered, and its connection is not trusted with another."""
    async with Hostile(hostile.raw_kept_open(ANSWERS["two equal lengths"]), tls=tls) as server:
        for count in (1, 2):
            outcome = await courier.attempt(post(server.url))
            assert (outcome.status, outcome.response_body, server.connections) == (200, b"ok", count)


@pytest.mark.parametrize("surplus", [b"x", OK + TWO, b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"X: "])
async def test_bytes_that_nobody_asked_for_end_a_connection(courier: Courier, surplus: bytes) -> None:
    """What comes after an answer is never taken for the answer to the next request."""
    async with Hostile(hostile.raw_kept_open(OK + TWO + surplus)) as server:
        for count in (1, 2):
            outcome = await courier.attempt(post(server.url))
            assert (outcome.status, outcome.response_body, server.connections) == (200, b"ok", count)


async def test_a_late_surplus_ends_a_connection(courier: Courier) -> None:
    """An answer that comes while nobody waits (a 408 to an idle connection) is not read as the next one."""
    said = asyncio.Event()

    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(OK + TWO)
        await said.wait()
        await wire.send(b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n")
        await wire.until_closed()

    async with Hostile(behave) as server:
        await courier.attempt(post(server.url))
        said.set()
        await until(lambda: not open_connections(courier))
        assert (await courier.attempt(post(server.url))).status == 200
        assert server.connections == 2


class Witnesses:
    """curl, Python's `http.client` and node, each asked to post to a server that gives one answer."""

    PROGRAM = """
        const http = require('http'), readline = require('readline')
        const say = (status) => process.stdout.write(status + '\\n')
        readline.createInterface({input: process.stdin}).on('line', (port) => {
            const options = {port: +port, method: 'POST', headers: {'content-length': 4}, agent: false}
            const request = http.request(options, (answer) => { once(answer.statusCode); request.destroy() })
            let once = (status) => { once = () => {}; say(status) }
            request.on('error', () => once(0))
            request.end('body')
        })
    """

    def __enter__(self) -> Self:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(["node", "-e", self.PROGRAM], stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=10)

    def read(self, answer: bytes) -> list[int]:
        """Return the statuses that were read."""
        return [status for ask in (self._curl, self._python, self._node) if (status := self._ask(ask, answer))]

    def _ask(self, ask: Callable[[int], int], answer: bytes) -> int:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(10)
            server = threading.Thread(target=self._serve, args=(listener, answer))
            server.start()
            status = ask(listener.getsockname()[1])
            server.join()
        return status

    @staticmethod
    def _serve(listener: socket.socket, answer: bytes) -> None:
        accepted, _ = listener.accept()
        with accepted, contextlib.suppress(OSError):
            accepted.settimeout(5)
            received = b""
            while not received.endswith(b"body"):
                received += accepted.recv(65536)
            accepted.sendall(answer)
            accepted.shutdown(socket.SHUT_WR)
            accepted.recv(1)

    @staticmethod
    def _curl(port: int) -> int:
        command = [
            "curl",
            "-s",
            "-o",
            os.devnull,
            "-w",
            "%{http_code}",
            "-d",
            "body",
            "-m",
            "5",
            f"http://127.0.0.1:{port}/",
        ]
        return int(subprocess.run(command, capture_output=True, check=False).stdout or b"0")

    @staticmethod
    def _python(port: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", "/", b"body")
            with connection.getresponse() as answer:
                return answer.status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _node(self, port: int) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{port}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("node"), reason="curl and node are the witnesses")
@pytest.mark.timeout(180)
async def test_what_others_read_as_a_success_is_one(courier: Courier) -> None:
    """W4: where two of curl, http.client and node read a 2xx, so do we; and what is an answer to all is one to us."""
    assert len(ANSWERS) >= 93
    wrong = []
    with Witnesses() as witnesses:
        for name, answer in ANSWERS.items():
            others = await asyncio.to_thread(witnesses.read, answer)
            async with Hostile(hostile.raw(answer)) as server:
                outcome = await courier.attempt(post(server.url, excerpt=False))
            success = outcome.status is not None and 200 <= outcome.status < 300
            if sum(200 <= status < 300 for status in others) >= 2 and not success:
                wrong.append((name, others, outcome.status, outcome.detail))
    assert wrong == []


@pytest.mark.parametrize("cut", range(len(ANSWERS["folded header"]) - len(b"\r\n\r\nok")))
def test_a_head_without_end_is_no_answer(cut: int) -> None:
    """Of an odd head nothing is concluded before it is complete, unless it has no status line."""
    assert read_odd_head(ANSWERS["folded header"][:cut]) is None


@pytest.mark.parametrize(
    "text", [b"X", b"HTTP/1.1 OK\r\n", b"HTTP/1.1 2000 OK\r\n", b"\0\0\0\0\0", b"HTPP/1.1 200 OK\n\n"]
)
def test_what_has_no_status_line_is_not_http(text: bytes) -> None:
    """Whatever begins otherwise is refused at once."""
    with pytest.raises(NotHTTP):
        read_odd_head(text)


# Bodies (W5)


def _head_then_nothing(status: bytes = b"200 OK", announced: int = 100) -> Behaviour:
    async def behave(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\nhalf" % (status, announced))
        await wire.until_closed()

    return behave


async def test_a_success_counts_with_its_head(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """W5: nobody waits for the body of a 2xx, and its connection ends when the body does not come."""
    async with Hostile(_head_then_nothing(), tls=tls) as server:
        outcome = await courier.attempt(post(server.url, timeout_ms=30_000, excerpt=False))
        assert (outcome.status, outcome.failure) == (200, None)
        assert outcome.duration_ms < LINGER_S * 1000
        await until(lambda: not open_connections(courier))


async def test_of_every_other_answer_the_body_is_waited_for(courier: Courier) -> None:
    """The excerpt of a failure is worth a second; a body that stands still does not make another outcome of it."""
    async with Hostile(_head_then_nothing(b"503 Busy")) as server:
        outcome = await courier.attempt(post(server.url, timeout_ms=30_000, excerpt=False))
    assert (outcome.status, outcome.response_body) == (503, b"half")
    assert outcome.duration_ms >= LINGER_S * 1000 - 1


async def test_a_body_that_comes_later_keeps_the_connection(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """W5: up to 64 KiB are read behind the back of whoever had the answer, and the connection is used again."""
    more = asyncio.Event()

    async def behave(wire: Wire) -> None:
        while True:
            await wire.request()
            await wire.send(OK + b"Content-Length: %d\r\n\r\n" % READ_BYTES)
            await more.wait()
            await wire.send(b"x" * READ_BYTES)

    async with Hostile(behave, tls=tls) as server:
        assert (await courier.attempt(post(server.url, excerpt=False))).status == 200
        more.set()
        await until(lambda: idle_connections(courier) == 1)
        assert (await courier.attempt(post(server.url))).status == 200
        assert server.connections == 1


async def test_an_answer_before_the_request_was_read(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """A receiver that refuses a large body without reading it is heard, and its connection is not used again."""

    async def refuse(wire: Wire) -> None:
        await wire.head()
        await wire.send(b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\nno")
        await wire.ignore()

    async with Hostile(refuse, tls=tls) as server:
        for count in (1, 2):
            outcome = await courier.attempt(post(server.url, bytes(8 * MIB)))
            assert (outcome.status, outcome.response_body, server.connections) == (413, b"no", count)


async def test_a_receiver_that_does_not_read(courier: Courier, tls: ssl.SSLContext | None) -> None:
    """T8: one that takes the connection and leaves a large request unread ends at the deadline."""

    async def deaf(wire: Wire) -> None:
        await wire.ignore()

    async with Hostile(deaf, tls=tls) as server:
        outcome = await courier.attempt(post(server.url, bytes(8 * MIB), timeout_ms=300))
    assert (outcome.failure, outcome.detail) == (Failure.TIMEOUT, "no answer came in time")
