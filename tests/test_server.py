"""The HTTP server over real sockets: who gets in, what is refused by its head, what a broken client may do."""

import asyncio
import contextlib
import json
import os
import random
import socket
import stat
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web
from aiohttp.http_parser import HttpRequestParserC, HttpRequestParserPy

from relay.api import accept, body, listen, problems
from relay.api.auth import PRINCIPAL, Authenticator
from relay.api.connections import PIECE_BYTES, Connection
from relay.api.listen import Listeners, bind_unix, split_address, written
from relay.api.pace import Paces
from relay.api.problems import Problem
from relay.api.routes import intake_routes
from relay.api.routing import Route
from relay.api.server import FrontDoor, serve
from relay.config import ServerConfig
from relay.core.access import Right, Role, Token
from relay.core.clock import SystemClock
from relay.core.errors import CannotStart, CommitUnknown, NotFound
from relay.core.ids import IdFactory
from relay.intake import Intake
from relay.registry import TokenTable
from relay.telemetry.metrics import Metrics
from tests.support.daemon import PRODUCER_TOKEN
from tests.support.fakes import FixedRegistrar, NotingStore, registry_of
from tests.support.stack import Stack
from tests.support.waiting import quiet, until

PRODUCER = "producer-secret-0123"
READER = "reader-secret-012345"
EVENT = b'{"type": "a.b", "data": 1}'
JSON_HEADERS = {"Authorization": f"Bearer {PRODUCER}", "Content-Type": "application/json"}
BIG = b"x" * (1 << 20)
BOTH_LOOPS = frozenset(
    {
        "test_the_oldest_connection_without_a_name_gives_way",
        "test_an_idle_connection_gives_way_and_one_at_work_does_not",
        "test_whoever_does_not_read_is_ended",
        "test_unread_answers_are_bounded_over_all",
        "test_malformed_requests_are_never_our_error",
    }
)
"""The daemon runs on uvloop where it is there, and on asyncio elsewhere."""

FAST = ServerConfig().model_copy(
    update={"max_body_bytes": 1000, "body_timeout_ms": 100, "max_connections": 5, "head_timeout_ms": 150}
)


class House:
    """A server with the doors for events, and a few routes that misbehave. Owner of its listeners and sessions."""

    def __init__(self, limits: ServerConfig, own_uid: int) -> None:
        self.limits = limits
        self.own_uid = own_uid
        self.store = NotingStore()
        self.closed: Problem | None = None  # what admission says
        self.refused: list[Problem] = []
        self.unexpected: list[tuple[str, BaseException]] = []
        self.on_round: Callable[[web.Request], object] = lambda request: None
        self._writers: list[asyncio.StreamWriter] = []
        self.listeners: Listeners

    async def open(self, *addresses: str, passed: Mapping[str, socket.socket] | None = None) -> None:
        clock = SystemClock()
        intake = Intake(
            registrar=FixedRegistrar(registry_of("acme")),
            store=self.store,
            clock=clock,
            ids=IdFactory(clock.wall_ms, random.Random(7).getrandbits),
            on_accepted=lambda _: None,
            metrics=Metrics("test"),
        )
        tokens = TokenTable([Token("p", Role.PRODUCER, "acme", PRODUCER), Token("r", Role.READER, None, READER)])
        paces = Paces(SystemClock().mono_ms)
        door = FrontDoor(
            [*intake_routes(intake, paces), *self._routes()],
            Authenticator(tokens, self.own_uid),
            lambda: self.closed,
            self.limits,
            self._on_unexpected,
            self.refused.append,
            paces=paces,
        )
        config = self.limits.model_copy(update={"listen": addresses})
        self.listeners = await serve(door, config, self._on_unexpected, passed)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        self._writers.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        if hasattr(self, "listeners"):
            await self.listeners.close()

    @property
    def url(self) -> str:
        return f"http://{self.listeners.addresses[0]}"

    @property
    def address(self) -> tuple[str, int]:
        return split_address(self.listeners.addresses[0])

    def open_connections(self) -> list[Any]:
        """Return the connections that are open, as the server has them."""
        server = self.listeners._runner.server
        return [] if server is None else server.connections

    def _on_unexpected(self, where: str, error: BaseException) -> None:
        self.unexpected.append((where, error))

    def _routes(self) -> list[Route]:
        async def whoami(request: web.Request) -> web.Response:
            principal = request[PRINCIPAL]
            return web.json_response({"name": principal.name, "role": principal.role})

        async def healthz(request: web.Request) -> web.Response:
            return web.Response(text="ok")

        async def noted(request: web.Request) -> web.Response:
            self.on_round(request)
            return web.Response(text="ok")

        async def broken(request: web.Request) -> web.Response:
            raise KeyError("a secret of ours")

        async def late(request: web.Request) -> web.Response:
            raise TimeoutError

        async def missing(request: web.Request) -> web.Response:
            raise NotFound("no event 'x'", remedy="List them.")

        async def moved(request: web.Request) -> web.Response:
            raise web.HTTPFound("/healthz")

        async def big(request: web.Request) -> web.Response:
            return web.Response(body=BIG)

        async def echo(request: web.Request) -> web.Response:
            return web.Response(body=await body.read(request))

        return [
            Route("GET", "/whoami", Right.READ_EVENTS, whoami),
            Route("GET", "/healthz", None, healthz),
            Route("GET", "/round", None, noted),
            Route("GET", "/broken", Right.READ_EVENTS, broken),
            Route("GET", "/late", Right.READ_EVENTS, late),
            Route("GET", "/missing", Right.READ_EVENTS, missing),
            Route("GET", "/moved", Right.READ_EVENTS, moved),
            Route("GET", "/big", Right.READ_EVENTS, big),
            Route("POST", "/echo", Right.READ_EVENTS, echo),
        ]


Opener = Callable[..., Any]


@pytest.fixture
async def open_house() -> AsyncIterator[Opener]:
    houses: list[House] = []

    async def open_one(
        *addresses: str,
        limits: ServerConfig | None = None,
        own_uid: int | None = None,
        passed: Mapping[str, socket.socket] | None = None,
    ) -> House:
        house = House(limits or ServerConfig(), os.getuid() if own_uid is None else own_uid)
        houses.append(house)
        await house.open(*(addresses or ("127.0.0.1:0",)), passed=passed)
        return house

    yield open_one
    for house in houses:
        await house.close()


@pytest.fixture
async def house(open_house: Opener) -> House:
    opened: House = await open_house()
    return opened


async def call(
    house: House, method: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Make one request on a connection of its own; return status, headers and JSON."""
    async with (
        ClientSession() as session,
        session.request(method, house.url + path, data=data, headers=headers, allow_redirects=False) as response,
    ):
        text = await response.read()
        if response.status >= 400:
            assert response.content_type == "application/problem+json"
        return response.status, dict(response.headers), json.loads(text) if text.startswith(b"{") else {}


async def raw(house: House, sent: bytes, *, end: bool = False) -> bytes:
    """Send bytes and return all that comes until the server closes."""
    reader, writer = await house.connect()
    writer.write(sent)
    if end:
        writer.write_eof()
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def head(*lines: str, path: str = "/v1/events", method: str = "POST") -> bytes:
    """Write a request head with a good token and JSON."""
    first = (f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {PRODUCER}")
    return "\r\n".join((*first, "Content-Type: application/json", *lines, "\r\n")).encode("latin-1")


# -- events in -----------------------------------------------------------------------------------------------------


async def test_an_event_is_accepted_over_http(house: House) -> None:
    """202 with `Location`, after the store has the event."""
    status, headers, answer = await call(house, "POST", "/v1/events", EVENT, JSON_HEADERS)
    assert (status, headers["Location"]) == (202, f"/v1/events/{answer['id']}")
    assert house.store.events[0].id == answer["id"]


async def test_the_idempotency_header_works_over_http(tmp_path: Path) -> None:
    """The second request with the same `Idempotency-Key` is 200 and a duplicate (Q8)."""
    key = {"Idempotency-Key": "k1"}
    async with Stack(tmp_path) as stack:
        await stack.call("POST", "/v1/events", EVENT, token=PRODUCER_TOKEN, headers=key)
        status, answer = await stack.call("POST", "/v1/events", EVENT, token=PRODUCER_TOKEN, headers=key)
    assert (status, answer["duplicate"]) == (200, True)


async def test_a_batch_is_answered_item_by_item(house: House) -> None:
    """200 with a status and a body or problem for each item."""
    status, _, answer = await call(house, "POST", "/v1/events/batch", b"[" + EVENT + b", 1]", JSON_HEADERS)
    assert status == 200
    assert [result["status"] for result in answer["results"]] == [202, 422]


async def test_a_batch_takes_no_idempotency_header(house: House) -> None:
    """One key cannot stand for many events."""
    headers = {**JSON_HEADERS, "Idempotency-Key": "k1"}
    status, _, problem = await call(house, "POST", "/v1/events/batch", b"[" + EVENT + b"]", headers)
    assert (status, problem["type"]) == (400, "bad_request")
    assert house.store.transactions == []


async def test_a_client_that_leaves_recalls_nothing(house: House) -> None:
    """A client that disconnects while the commit runs neither stops it nor breaks anything (invariant 3)."""
    house.store.release = asyncio.Event()
    _, writer = await house.connect()
    writer.write(head(f"Content-Length: {len(EVENT)}") + EVENT)
    await house.store.submitted.wait()
    writer.transport.abort()
    await call(house, "GET", "/healthz")  # the loop has seen the disconnect by then
    house.store.release.set()
    await call(house, "GET", "/healthz")
    assert len(house.store.events) == 1
    assert house.unexpected == []


async def test_clients_that_leave_at_any_byte_do_no_harm(house: House) -> None:
    """A connection cut after any number of bytes is no error, and a half request stores nothing (reliability §7.14)."""
    request = head(f"Content-Length: {len(EVENT)}") + EVENT
    for cut in range(0, len(request), 3):
        _, writer = await house.connect()
        writer.write(request[:cut])
        await writer.drain()
        writer.transport.abort()
    assert (await call(house, "POST", "/v1/events", EVENT, JSON_HEADERS))[0] == 202
    assert len(house.store.events) == 1
    assert house.unexpected == []


async def test_closing_waits_for_a_commit_under_way(house: House) -> None:
    """A request whose write was submitted is answered before the listeners are closed (invariant 12)."""
    house.store.release = asyncio.Event()
    posting = asyncio.ensure_future(call(house, "POST", "/v1/events", EVENT, JSON_HEADERS))
    await house.store.submitted.wait()
    closing = asyncio.ensure_future(house.listeners.close())
    with contextlib.suppress(ConnectionError):
        while True:  # until the port is closed
            await house.connect()
    assert not posting.done()
    house.store.release.set()
    assert (await posting)[0] == 202
    await closing


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
async def test_a_payload_is_held_once_while_it_waits_for_its_commit(house: House, path: str) -> None:
    """S7: of each event that waits there is the frozen body and no other copy; beside it, its mistaken neighbours."""
    size_bytes, posts = 400_000, 8
    text = b'{"type": "a.b", "data": "' + b"x" * size_bytes + b'"}'
    if path.endswith("batch"):
        text = b"[" + text + b", 1]"
    house.store.release = asyncio.Event()
    tracemalloc.start()
    try:
        posting = [asyncio.ensure_future(call(house, "POST", path, text, JSON_HEADERS)) for _ in range(posts)]
        await until(lambda: len(house.store.transactions) == posts)
        held = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(True, "*/relay/*"), tracemalloc.Filter(True, "*/aiohttp/web_*")]
        )
    finally:
        tracemalloc.stop()
    house.store.release.set()
    assert all(status < 300 for status, _, _ in await asyncio.gather(*posting))
    assert posts * size_bytes < sum(trace.size for trace in held.traces) < 1.3 * posts * size_bytes


# -- who gets in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer wrong-secret-0123", f"Basic {PRODUCER}", PRODUCER, f"Bearer {PRODUCER} x"],
)
async def test_tcp_needs_a_token(house: House, authorization: str | None) -> None:
    """Without a right token every call is 401 with `WWW-Authenticate`, also to paths that do not exist."""
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/whoami", "/nowhere"):
        status, answered, problem = await call(house, "GET", path, headers=headers)
        assert (status, problem["type"]) == (401, "unauthorized")
        assert answered["WWW-Authenticate"].startswith("Bearer")
        assert "wrong-secret" not in json.dumps(problem)


async def test_the_scheme_is_not_case_sensitive(house: House) -> None:
    """`bearer` is `Bearer` (RFC 9110)."""
    status, _, answer = await call(house, "GET", "/whoami", headers={"Authorization": f"bearer  {READER}"})
    assert (status, answer) == (200, {"name": "r", "role": "reader"})


async def test_health_needs_no_token(house: House) -> None:
    """`/healthz` answers anybody."""
    assert (await call(house, "GET", "/healthz"))[0] == 200


async def test_a_role_that_may_not_is_403(house: House) -> None:
    """The problem names the role it has and the roles it needs."""
    headers = {**JSON_HEADERS, "Authorization": f"Bearer {READER}"}
    status, _, problem = await call(house, "POST", "/v1/events", EVENT, headers)
    assert (status, problem["type"]) == (403, "forbidden")
    assert problem["detail"] == '"r" has the role reader; this takes a token with the role producer or admin.'


async def unix_call(path: Path, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    async with (
        ClientSession(connector=UnixConnector(str(path))) as session,
        session.get("http://relay/whoami", headers=headers) as response,
    ):
        return response.status, await response.json(content_type=None)


async def test_the_own_uid_is_admin_on_the_unix_socket(open_house: Opener, tmp_path: Path) -> None:
    """The kernel's word about the peer is enough for root and the daemon's own user (reliability §7.26)."""
    await open_house(f"unix:{tmp_path}/relay.sock")
    uid = os.getuid()
    assert await unix_call(tmp_path / "relay.sock") == (200, {"name": f"uid:{uid}", "role": "admin"})


async def test_another_uid_is_a_producer_on_the_unix_socket(
    open_house: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other peer may post events and no more, unless it sends a token."""
    monkeypatch.setattr("relay.api.connections.peer_uid", lambda sock: 12345)
    await open_house(f"unix:{tmp_path}/relay.sock")
    assert await unix_call(tmp_path / "relay.sock") == (200, {"name": "uid:12345", "role": "producer"})


async def test_a_token_decides_on_the_unix_socket_too(open_house: Opener, tmp_path: Path) -> None:
    """A right token is who it names, a wrong one is 401 even for root."""
    await open_house(f"unix:{tmp_path}/relay.sock")
    reader = await unix_call(tmp_path / "relay.sock", {"Authorization": f"Bearer {READER}"})
    assert reader == (200, {"name": "r", "role": "reader"})
    assert (await unix_call(tmp_path / "relay.sock", {"Authorization": "Bearer wrong"}))[0] == 401


# -- back-pressure -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "closed",
    [problems.backlog_full(10, 10), problems.disk_low(1, 2), problems.draining(), problems.store_unavailable("x")],
)
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
async def test_events_are_refused_before_their_body_is_read(house: House, closed: Problem, path: str) -> None:
    """While intake is closed the answer comes without the body, with Retry-After (Q10); other calls go on."""
    house.closed = closed
    reader, writer = await house.connect()
    writer.write(head("Content-Length: 500", path=path))
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {closed.status} ".encode())
    assert b"Retry-After: " in answer
    assert (await call(house, "GET", "/healthz"))[0] == 200


async def test_a_failed_commit_is_503_over_http(house: House) -> None:
    """Unknown outcomes are 503 with the advice to repeat with the same key (invariant 5), never 4xx."""
    house.store.failure = CommitUnknown("fsync failed")
    status, headers, problem = await call(house, "POST", "/v1/events", EVENT, JSON_HEADERS)
    assert (status, problem["type"], headers["Retry-After"]) == (503, "outcome_unknown", "1")


# -- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/json; charset=latin-1"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/json", "Content-Encoding": "identity"}, 415, "unsupported_media_type"),
    ],
)
async def test_other_forms_of_body_are_415(house: House, headers: dict[str, str], status: int, slug: str) -> None:
    """Only plain JSON in UTF-8 is taken; nothing is inflated (reliability §7.21)."""
    answer = await call(house, "POST", "/v1/events", EVENT, {**JSON_HEADERS, **headers})
    assert (answer[0], answer[2]["type"]) == (status, slug)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", 'Application/JSON;charset="UTF-8"'])
async def test_json_may_name_its_charset(house: House, media_type: str) -> None:
    """UTF-8 in any spelling is UTF-8."""
    headers = {**JSON_HEADERS, "Content-Type": media_type}
    assert (await call(house, "POST", "/v1/events", EVENT, headers))[0] == 202


async def test_a_body_that_is_announced_too_large_is_not_read(house: House) -> None:
    """A Content-Length of a tebibyte is 413 at once (reliability §7.21)."""
    reader, writer = await house.connect()
    writer.write(head(f"Content-Length: {1 << 40}"))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")


async def test_a_chunked_body_that_grows_too_large_is_413(open_house: Opener) -> None:
    """The limit holds for bodies that do not say how long they are."""
    house = await open_house(limits=FAST)
    chunk = b"64\r\n" + b" " * 100 + b"\r\n"
    answer = await raw(house, head("Transfer-Encoding: chunked") + chunk * 11)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"server.max_body" in answer
    assert house.unexpected == []


@pytest.mark.parametrize("framing", ["Content-Length: 500", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_408(open_house: Opener, framing: str) -> None:
    """A body is waited for until its deadline and then 408, never 504, and the connection is closed."""
    house = await open_house(limits=FAST)
    answer = await raw(house, head(framing) + b"4")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"request_timeout"' in answer
    assert house.unexpected == []


@pytest.mark.parametrize("framing", ["Content-Length: 1024", "Transfer-Encoding: chunked"])
async def test_bodies_that_arrive_are_bounded_over_all(
    open_house: Opener, monkeypatch: pytest.MonkeyPatch, framing: str
) -> None:
    """I7: where bodies that drip fill what all may have, the oldest is cut off (503), and a newer one is taken."""
    monkeypatch.setattr("relay.api.body.ARRIVING_BYTES_MAX", 0)
    house = await open_house(limits=ServerConfig(max_body_bytes=1_024))
    dripping = []
    for _ in range(8):
        reader, writer = await house.connect()
        writer.write(head(framing, "Expect: 100-continue"))
        await reader.readuntil(b"100 Continue\r\n\r\n")
        dripping.append(reader)
    reader, writer = await house.connect()
    writer.write(head(f"Content-Length: {len(EVENT)}", "Expect: 100-continue"))
    await reader.readuntil(b"100 Continue\r\n\r\n")
    refused = await dripping[0].readuntil(b"faster")
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in refused
    assert b'"too_many_bodies"' in refused
    writer.write(EVENT)
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 202 ")
    assert [reader._buffer for reader in dripping[1:]] == [b""] * 7  # type: ignore[attr-defined]
    assert house.unexpected == []


@pytest.mark.parametrize("chunks", [b"zz\r\nhello", b"5\r\nhelloworld\r\n", b"-1\r\n", b"5;" + b"x" * 20_000])
async def test_broken_chunks_are_the_clients_mistake(open_house: Opener, chunks: bytes) -> None:
    """A body that breaks HTTP's framing is the client's mistake: nothing stored, nothing logged as ours.

    aiohttp's C parser tells the reader of a body nothing of the break, so the answer is 408 at the deadline; its Python
    parser does, and the answer is 400 at once.
    """
    house = await open_house(limits=FAST)
    reader, writer = await house.connect()
    writer.write(head("Transfer-Encoding: chunked", "Expect: 100-continue"))
    await reader.readuntil(b"100 Continue\r\n\r\n")  # the head is parsed: what follows is the body
    writer.write(chunks)
    assert (await reader.read())[9:12] in (b"400", b"408")
    assert house.store.transactions == []
    assert house.unexpected == []


# -- Expect --------------------------------------------------------------------------------------------------------


async def test_expect_is_answered_after_the_checks_and_before_the_body(house: House) -> None:
    """A request that may go on gets `100 Continue`, then its answer."""
    reader, writer = await house.connect()
    writer.write(head("Expect: 100-continue", f"Content-Length: {len(EVENT)}"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(EVENT)
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 202 ")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (head("Expect: 100-continue", "Content-Length: 99999999"), 413),
        (head("Expect: 100-continue", "Content-Length: 5", "Content-Encoding: br"), 415),
        (head("Expect: a-miracle", "Content-Length: 5"), 417),
        (head("Expect: a-miracle", "Content-Length: 5", path="/nowhere"), 417),
        (head("Expect: 100-continue", "Content-Length: 5").replace(b"producer-s", b"x"), 401),
    ],
)
async def test_expect_never_lets_a_refused_body_through(house: House, sent: bytes, status: int) -> None:
    """The refusal comes instead of `100 Continue`, as a problem that repeats no input."""
    answer = await raw(house, sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in answer
    assert b"miracle" not in answer


async def test_expect_is_refused_while_intake_is_closed(house: House) -> None:
    """Back-pressure comes before the body is asked for (Q10)."""
    house.closed = problems.draining()
    assert (await raw(house, head("Expect: 100-continue", "Content-Length: 5"))).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("field", ["Expect: 100-continue", "X-Other: 1"])
async def test_an_event_refused_by_its_head_is_counted(house: House, field: str) -> None:
    """A producer who waits for `100 Continue` is counted like every other, and so is an event without a token."""
    house.closed = problems.draining()
    await raw(house, head(field, "Content-Length: 5", "Connection: close"))
    await raw(house, head(field, "Content-Length: 5", "Connection: close").replace(b"producer-s", b"x"))
    assert [problem.type for problem in house.refused] == ["draining", "unauthorized"]


# -- errors --------------------------------------------------------------------------------------------------------


async def test_an_unknown_path_is_a_problem(house: House) -> None:
    """404 as problem+json, without the path."""
    status, _, problem = await call(house, "GET", "/v1/nonsense", headers={"Authorization": f"Bearer {READER}"})
    assert (status, problem["type"]) == (404, "not_found")
    assert "nonsense" not in json.dumps(problem)


async def test_a_wrong_method_says_which_are_right(house: House) -> None:
    """405 with `Allow`."""
    status, headers, _ = await call(house, "DELETE", "/v1/events", headers={"Authorization": f"Bearer {READER}"})
    assert (status, headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/broken", "/late"])
async def test_an_error_of_ours_is_logged_and_not_told(house: House, path: str) -> None:
    """500 without a word about the cause; the log gets it with the method and path."""
    status, _, problem = await call(house, "GET", path, headers={"Authorization": f"Bearer {READER}"})
    assert (status, problem["type"]) == (500, "internal_error")
    assert "secret" not in json.dumps(problem)
    assert [where for where, _ in house.unexpected] == [f"GET {path}"]


async def test_an_own_error_of_a_handler_is_its_problem(house: House) -> None:
    """Errors that handlers raise become their problems."""
    status, _, problem = await call(house, "GET", "/missing", headers={"Authorization": f"Bearer {READER}"})
    assert (status, problem["detail"]) == (404, "No event 'x'. List them.")


async def test_a_redirect_is_no_problem(house: House) -> None:
    """What aiohttp raises without being an error passes through."""
    status, headers, _ = await call(house, "GET", "/moved", headers={"Authorization": f"Bearer {READER}"})
    assert (status, headers["Location"]) == (302, "/healthz")


MALFORMED = [
    b"\r\n\r\n", b"nonsense\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 64 + b"\r\n\r\n",
    b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"G\x00T / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n",
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", b"GET / HTTP/1.1\nHost: x\n\n",
    head("Content-Length: -5"), head("Content-Length: +3"), head("Content-Length: 1e3"),
    head("Content-Length: 5", "Content-Length: 6"), head("Content-Length: 5", "Transfer-Encoding: chunked"),
    head("Transfer-Encoding: gzip"), head("Transfer-Encoding: chunked, chunked"), head("Content-Length: \xb2"),
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET //%zz/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://evil.example/healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    "GET /whoami HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer é\r\n\r\n".encode(),
    head("Idempotency-Key: \xff", f"Content-Length: {len(EVENT)}") + EVENT,
    head("Content-Length: 2", "Content-Type: application/json;;;=") + b"{}",
    head(path="/v1/events?\xff=1"), head(path="/v1/\xffevents"), head(path="http://\xff/"), head(path="/?\xc3\xa9"),
    head(path="http://xn--zz--/"), head("X\xff: y"), head("Cookie: \xff=\xff"), head("Accept: \xff"), head("Expect: \xff"),
]  # fmt: skip


@pytest.fixture(params=[HttpRequestParserC, HttpRequestParserPy], ids=["c", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of aiohttp's parsers: which one runs depends on how it was built."""
    monkeypatch.setattr("aiohttp.web_protocol.HttpRequestParser", request.param)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("sent", MALFORMED)
async def test_malformed_requests_are_never_our_error(open_house: Opener, sent: bytes) -> None:
    """I14: no broken request is a 5xx of ours, an unforeseen error, a traceback or an echo of itself, by either parser."""
    house = await open_house(limits=FAST)
    answer = await raw(house, sent)
    assert answer[9:10] in (b"", b"4") or answer[9:12] == b"505" or answer.startswith(b"HTTP/1.1 200"), answer
    assert b"Traceback" not in answer
    assert b"aaaaa" not in answer
    assert house.store.transactions == []
    assert house.unexpected == []


async def test_a_malformed_head_is_answered_as_a_problem(house: House) -> None:
    """Even where no head parsed, whoever speaks HTTP learns what is wrong."""
    answer = await raw(house, b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")
    assert answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    assert b'"bad_request"' in answer


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_other_versions_of_http_are_refused(house: House, version: str) -> None:
    """I21: a request line of HTTP/0.9 or HTTP/2.0 is a problem, in HTTP/1.1."""
    answer = await raw(house, f"GET /healthz HTTP/{version}\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 505 ")
    assert b'"http_505"' in answer


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "double", ["Idempotency-Key: a", f"Authorization: Bearer {PRODUCER}", "Content-Type: application/json", "Host: x"]
)
async def test_headers_that_stand_once_are_refused_twice(house: House, double: str) -> None:
    """I21: of two such headers one reader would believe the first and another the last."""
    twice = (double, double) if double.startswith("Idem") else (double,)
    answer = await raw(house, head(*twice, f"Content-Length: {len(EVENT)}", "Connection: close") + EVENT)
    assert answer[9:12] == b"400"
    assert house.store.transactions == []


@pytest.mark.parametrize("path", ["/healthz?x=1", "/whoami?%c3%a9=1"])
async def test_a_call_without_parameters_takes_none(house: House, path: str) -> None:
    """I21: a parameter that nobody reads is a mistake, on single things as on lists."""
    status, _, answer = await call(house, "GET", path, headers={"Authorization": f"Bearer {READER}"})
    assert (status, answer["type"]) == (422, "invalid_request")


async def test_no_answer_names_the_versions_behind_it(house: House) -> None:
    """I21: neither an answer nor a refusal tells a stranger what it runs on."""
    for sent in (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"nonsense\r\n\r\n"):
        answer = await raw(house, sent)
        assert b"aiohttp" not in answer
        assert b"Python" not in answer


async def test_random_bytes_are_never_our_error(open_house: Opener) -> None:
    """Three hundred mutations of a good request: no 5xx, nothing unforeseen (reliability T12)."""
    house = await open_house(limits=FAST)
    good = head(f"Content-Length: {len(EVENT)}", "Connection: close") + EVENT
    rng = random.Random(3)
    for _ in range(300):
        sent = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            sent[rng.randrange(len(sent))] = rng.randrange(256)
        answer = await raw(house, bytes(sent), end=True)
        assert not answer.startswith(b"HTTP/1.1 5"), bytes(sent)
    assert house.unexpected == []


# -- time and number -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"POST /v1/ev", head()[:-4]])
async def test_a_head_that_does_not_come_closes_the_connection(open_house: Opener, sent: bytes) -> None:
    """Idle connections and heads that stop half-way end at the deadline (reliability §7.21, T14)."""
    house = await open_house(limits=FAST)
    assert await raw(house, sent) == b""


async def test_connections_are_kept_for_producers(house: House) -> None:
    """Several requests go over one connection."""
    reader, writer = await house.connect()
    for _ in range(3):
        writer.write(head(f"Content-Length: {len(EVENT)}") + EVENT)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 202 ")
        length = next(int(line[16:]) for line in answer.split(b"\r\n") if line.startswith(b"Content-Length: "))
        await reader.readexactly(length)


def with_token(secret: str, path: str = "/whoami") -> bytes:
    """Write a whole request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {secret}\r\n\r\n".encode()


async def ask(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], sent: bytes) -> bytes:
    """Send a request and read its answer; the connection stays open."""
    reader, writer = connection
    writer.write(sent)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
    return head + await reader.readexactly(length)


def connections(house: House) -> int:
    """Return how many connections the server has open."""
    return len(house.open_connections())


async def test_the_oldest_connection_without_a_name_gives_way(open_house: Opener, tmp_path: Path) -> None:
    """I9, I11: while nameless connections drip heads and hold every place, a producer's new one is served, and kept.

    The oldest of them learns why; listeners are counted apart.
    """
    house = await open_house("127.0.0.1:0", f"unix:{tmp_path}/relay.sock", limits=ServerConfig(max_connections=3))
    dripping = [await house.connect() for _ in range(3)]
    for _, writer in dripping:
        writer.write(b"POST /v1/ev")
    producer = await house.connect()
    assert (await ask(producer, with_token(PRODUCER))).startswith(b"HTTP/1.1 200 ")
    refused = await dripping[0][0].read()
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in refused
    assert b"server.max_connections" in refused
    for _ in range(5):
        await house.connect()
    assert (await ask(producer, with_token(PRODUCER))).startswith(b"HTTP/1.1 200 ")
    assert (await unix_call(tmp_path / "relay.sock"))[0] == 200
    assert house.unexpected == []


async def test_an_idle_connection_gives_way_and_one_at_work_does_not(open_house: Opener) -> None:
    """I9: where every place is a caller's, one that idles is given to a new connection; none that is at work is."""
    house = await open_house(limits=ServerConfig(max_connections=2))
    idle, working = await house.connect(), await house.connect()
    await ask(idle, with_token(READER))
    working[1].write(head("Content-Length: 2", "Expect: 100-continue", path="/echo"))
    await working[0].readuntil(b"100 Continue\r\n\r\n")
    newer = await house.connect()
    newer[1].write(head("Content-Length: 2", "Expect: 100-continue", path="/echo"))
    await newer[0].readuntil(b"100 Continue\r\n\r\n")
    assert b"too_many_connections" in await idle[0].read()
    answer = await raw(house, b"")
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1" in answer
    for reader, writer in (working, newer):
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert house.unexpected == []


async def test_a_crowd_of_one_caller_costs_another_nothing(open_house: Opener) -> None:
    """I4: where one caller's idle connections and newcomers fill every place, the crowd gives way and nobody else.

    Another caller's idle connection, older than all of them, stays; newcomers that came together all hear their answer.
    """
    house = await open_house(limits=ServerConfig(max_connections=12))
    kept = await house.connect()
    await ask(kept, with_token(PRODUCER))
    crowd = [await house.connect() for _ in range(9)]
    for connection in crowd:
        await ask(connection, with_token(READER))
    newcomers = [await house.connect() for _ in range(3)]
    for connection in newcomers:
        assert (await ask(connection, with_token(PRODUCER))).startswith(b"HTTP/1.1 200 ")
    assert (await ask(kept, with_token(PRODUCER))).startswith(b"HTTP/1.1 200 ")
    assert b"too_many_connections" in await crowd[0][0].read()
    assert house.unexpected == []


async def test_one_caller_holds_three_quarters_at_most(open_house: Opener) -> None:
    """I11: what one token has open keeps no other token out."""
    house = await open_house(limits=ServerConfig(max_connections=4))
    held = [await house.connect() for _ in range(3)]
    for connection in held:
        await ask(connection, with_token(PRODUCER))
    refused = await raw(house, with_token(PRODUCER))
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"This token has 3 connections open" in refused
    assert (await ask(await house.connect(), with_token(READER))).startswith(b"HTTP/1.1 200 ")
    assert (await ask(held[0], with_token(PRODUCER))).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/big", "/whoami"])
async def test_whoever_does_not_read_is_ended(open_house: Opener, path: str) -> None:
    """I6, I10: a client that asks again and again and never reads is ended by the write deadline."""
    quick = ServerConfig().model_copy(update={"write_timeout_ms": 100, "head_timeout_ms": 200})
    house = await open_house(limits=quick)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    with sock:
        await asyncio.get_running_loop().sock_connect(sock, house.address)
        with contextlib.suppress(ConnectionError):
            await asyncio.get_running_loop().sock_sendall(sock, with_token(READER, path) * 200)
        await until(lambda: connections(house) == 1)
        await until(lambda: connections(house) == 0)
    assert house.unexpected == []


async def test_who_sends_ahead_and_does_not_read_gives_way(open_house: Opener) -> None:
    """I10: where every place is a caller's, one whose client reads no answers is given to a newcomer; one at work is not."""
    assert await newcomer_beside_one_who_sends_ahead(open_house) == b"200"


async def test_the_place_of_who_sends_ahead_is_found_by_that(
    open_house: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of I10: where nobody counts as ahead, the newcomer is turned away."""
    monkeypatch.setattr(Connection, "is_ahead", False)
    assert await newcomer_beside_one_who_sends_ahead(open_house) == b"503"


async def newcomer_beside_one_who_sends_ahead(open_house: Opener) -> bytes:
    """Fill two places, one with a request that is at work; what a newcomer is answered. The one at work ends well."""
    house = await open_house(limits=ServerConfig(max_connections=2))
    ahead, working = await house.connect(), await house.connect()
    ahead[1].write(with_token(READER, "/big") * 30)
    await until(lambda: any(each.is_ahead or each.unread_bytes for each in house.open_connections()))
    working[1].write(head("Content-Length: 2", "Expect: 100-continue", path="/echo"))
    await working[0].readuntil(b"100 Continue\r\n\r\n")
    answer = await raw(house, with_token(PRODUCER))
    working[1].write(b"{}")
    assert (await working[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    assert house.unexpected == []
    return answer[9:12]


async def test_the_kernel_keeps_few_unread_answers(open_house: Opener) -> None:
    """I6: of what a client does not read the kernel takes 128 KiB, which Linux doubles, beside what the client's own side takes."""
    assert await taken_by_the_kernel(open_house) < len(BIG) // 2


async def test_the_count_finds_a_kernel_that_takes_more(open_house: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of I6: without the limit of ours it takes megabytes."""
    monkeypatch.setattr(accept, "UNREAD_BYTES", 4 << 20)
    assert await taken_by_the_kernel(open_house) == len(BIG)


async def taken_by_the_kernel(open_house: Opener) -> int:
    """Ask for megabytes and read nothing; how many bytes the server could hand to the kernel."""
    house = await open_house()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    with sock:
        await asyncio.get_running_loop().sock_connect(sock, house.address)
        await asyncio.get_running_loop().sock_sendall(sock, with_token(READER, "/big"))
        await until(lambda: any(each.name and (each.unread_bytes or each.is_idle) for each in house.open_connections()))
        (connection,) = house.open_connections()
        return len(BIG) - connection.unread_bytes


async def test_the_kernel_keeps_thousands_waiting(open_house: Opener) -> None:
    """I4, I11: for a listener of ours the kernel is asked for a queue of 4,096, of which it gives what the host allows."""
    house = await open_house()
    assert [queue_of(sock) for sock in listening(house)] == [min(4096, allowed_queue())]


async def test_a_passed_socket_keeps_its_queue(open_house: Opener) -> None:
    """A socket that systemd passed has the queue of its unit's `Backlog=`, whatever we would ask for."""
    with socket.create_server(("127.0.0.1", 0), backlog=77) as sock:
        house = await open_house(written(sock), passed={written(sock): sock})
        assert [queue_of(sock) for sock in listening(house)] == [77]


async def test_a_unix_socket_keeps_more_than_a_listener_by_default(open_house: Opener, tmp_path: Path) -> None:
    """I11: the kernel does not tell the queue of a Unix socket; more than the usual 128 find a place there at once."""
    await open_house(f"unix:{tmp_path}/relay.sock")
    crowd_at(tmp_path / "relay.sock")


async def test_a_short_queue_is_found(open_house: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of I11: both ways of looking tell a queue of 128."""
    monkeypatch.setattr(listen, "BACKLOG", 128)
    monkeypatch.setattr(accept, "BACKLOG", 128)
    house = await open_house("127.0.0.1:0", f"unix:{tmp_path}/relay.sock")
    assert [queue_of(sock) for sock in listening(house)] == [128]
    with pytest.raises(BlockingIOError):
        crowd_at(tmp_path / "relay.sock")


def crowd_at(path: Path) -> None:
    """Connect 300 times, without a turn of the loop in which some would be taken; BlockingIOError where the queue is full."""
    with contextlib.ExitStack() as waiting:
        for _ in range(300):
            sock = waiting.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            sock.connect(str(path))


def listening(house: House) -> Iterator[socket.socket]:
    """Yield each socket of this process that listens on the first address of a house."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            if written(sock) == house.listeners.addresses[0] and is_listening(sock):
                yield sock


def is_listening(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def allowed_queue() -> int:
    """How many the host lets the kernel keep waiting."""
    return int(Path("/proc/sys/net/core/somaxconn").read_text())


def queue_of(sock: socket.socket) -> int:
    """How many connections the kernel keeps waiting: `tcpi_sacked`, in the tcp_info of a socket that listens."""
    return int(struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 28)[0])


async def test_unread_answers_are_bounded_over_all(open_house: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """I6: where unread answers fill what they may, the client that has not read for longest is ended."""
    monkeypatch.setattr("relay.api.connections.UNREAD_BYTES_MAX", 30 << 20)
    house = await open_house()
    asked = [await house.connect() for _ in range(4)]
    for _, writer in asked:
        writer.write(with_token(READER, "/big") * 30)
    await until(lambda: connections(house) == 4)
    monkeypatch.setattr("relay.api.connections.UNREAD_BYTES_MAX", 0)
    last = await house.connect()
    last[1].write(with_token(READER, "/big") * 30)
    await until(lambda: connections(house) == 0)
    assert house.unexpected == []


async def test_a_large_body_comes_in_by_turns(open_house: Opener) -> None:
    """I7: after each large piece of a body its connection waits; while others have the turns nothing more of it is read.

    Negative control: what a client sends in small pieces is read all the time.
    """
    house = await open_house()
    reader, writer = await house.connect()
    asked = head(f"Content-Length: {400 << 10}", path="/echo").replace(PRODUCER.encode(), READER.encode())
    writer.write(asked)
    await until(lambda: any(each._request_in_progress for each in house.open_connections()))
    (connection,) = house.open_connections()
    held: list[Callable[[], object]] = []
    connection._turns.call = lambda caller, work: held.append(work)
    writer.write(b"x" * (PIECE_BYTES // 2))
    await until(lambda: connection._current_request.content.total_bytes == PIECE_BYTES // 2)
    assert held == []
    writer.write(b"x" * ((400 << 10) - PIECE_BYTES // 2))
    for _ in range(50):
        await until(lambda: bool(held) or connection._current_request is None)
        if connection._current_request is None:
            break
        seen = connection._current_request.content.total_bytes
        await quiet()
        assert connection._current_request.content.total_bytes == seen
        held.pop()()
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_requests_sent_ahead_go_in_turns(open_house: Opener) -> None:
    """I10: of all that clients sent before they had their answers one is looked at in each round of the loop."""
    house = await open_house()
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    asked = [await house.connect() for _ in range(4)]
    for _, writer in asked:
        writer.write(b"GET /round HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
    seen: dict[object, list[int]] = {}
    house.on_round = lambda request: seen.setdefault(request.protocol, []).append(rounds)
    await until(lambda: sum(map(len, seen.values())) == 80)
    counting.cancel()
    ahead = [number for numbers in seen.values() for number in numbers[1:]]
    assert len(ahead) == len(set(ahead)) == 76


# -- listening -----------------------------------------------------------------------------------------------------


async def test_the_unix_socket_is_for_owner_and_group(open_house: Opener, tmp_path: Path) -> None:
    """Mode 0660 whatever the umask, in a folder made 0750 (reliability §7.26); the path is gone after closing."""
    path = tmp_path / "run" / "relay.sock"
    house = await open_house(f"unix:{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o027 == 0
    await house.listeners.close()
    assert not path.exists()
    await house.listeners.close()


async def test_a_stale_path_is_replaced(open_house: Opener, tmp_path: Path) -> None:
    """A socket that nobody listens on was left by a daemon that died."""
    path = tmp_path / "relay.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await open_house(f"unix:{path}")
    assert (await unix_call(path))[0] == 200


async def test_a_path_in_use_is_refused(open_house: Opener, tmp_path: Path) -> None:
    """A second daemon does not take the path from the first, which goes on unharmed (reliability §7.10)."""
    path = tmp_path / "relay.sock"
    await open_house(f"unix:{path}")
    with pytest.raises(CannotStart, match=r"Another process listens on unix:.* Stop the process"):
        await open_house(f"unix:{path}")
    assert (await unix_call(path))[0] == 200


async def test_a_path_that_was_taken_over_is_not_removed(open_house: Opener, tmp_path: Path) -> None:
    """Closing removes the path only while it is the one this process bound."""
    path = tmp_path / "relay.sock"
    house = await open_house(f"unix:{path}")
    path.rename(tmp_path / "elsewhere")
    with bind_unix(path):
        await house.listeners.close()
        assert path.exists()


async def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """What is no socket is never removed."""
    path = tmp_path / "relay.sock"
    path.write_text("precious")
    with pytest.raises(CannotStart, match="is not a socket"):
        bind_unix(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/folder/relay.sock", "x" * 200])
async def test_a_path_that_cannot_be_bound_says_why(tmp_path: Path, name: str) -> None:
    """A missing folder or too long a name is one line with a remedy."""
    with pytest.raises(CannotStart, match=r"Cannot listen on unix:.*server\.listen"):
        bind_unix(tmp_path / name)


async def test_a_port_in_use_is_refused(open_house: Opener, tmp_path: Path) -> None:
    """One clear line with a remedy; what was opened before it is closed again."""
    house = await open_house()
    taken = house.listeners.addresses[0]
    with pytest.raises(CannotStart, match=rf"Cannot listen on {taken}: address already in use\. Stop the process"):
        await open_house(f"unix:{tmp_path}/relay.sock", taken)
    assert not (tmp_path / "relay.sock").exists()


@pytest.mark.parametrize(
    ("address", "says", "code"),
    [
        ("8420", "is no address", 78),
        ("127.0.0.1:http", "is no address", 78),
        (":8420", "is no address", 78),
        ("127.0.0.1:99999", "Cannot listen on", 78),
        ("192.0.2.1:0", "Bring the address up", 75),
        ("no such host:0", "Cannot listen on", 78),
    ],
)
async def test_an_address_that_cannot_be_used_says_why(open_house: Opener, address: str, says: str, code: int) -> None:
    """H18: every address that fails names itself, what to do, and by its exit code whether trying again may help."""
    with pytest.raises(CannotStart, match=says) as caught:
        await open_house(address)
    assert address in str(caught.value)
    assert caught.value.exit_code == code


def test_ipv6_addresses_stand_in_brackets() -> None:
    """`[::1]:8420` is host `::1`, port 8420."""
    assert split_address("[::1]:8420") == ("::1", 8420)
