"""The connections of one listener: their deadlines, and who gives way when there are as many as may be.

A connection has no name until a request on it has said who is calling. When the places are taken, a new connection gets
the place of the oldest one without a name where those have a quarter of the places or more, else of one that waits
between two requests, or sends them ahead, of the caller who holds the most. So thousands that stay silent, or send a head byte by byte, keep
no caller out, for a caller's request follows its connection at once; nor does one caller's crowd cost another anything.
"""

import asyncio
import contextlib
import socket
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from relay.api import problems
from relay.api.accept import ACCEPTS
from relay.api.auth import NOBODY, peer_uid
from relay.api.problems import Problem
from relay.api.turns import Turns

OnUnexpected = Callable[[str, BaseException], None]
"""Takes an error that nobody foresaw: where ("POST /v1/events"), and what."""

UNREADABLE: web.RequestKey[Problem | None] = web.RequestKey("unreadable")
"""Set for every request: why its first line is not one of HTTP/1.1, or None."""

VERSIONS = (HttpVersion11, HttpVersion10)

UNREAD_BYTES_MAX = 64 << 20
"""Bytes of answers that may wait on one listener for clients that do not read them."""

ROUNDS_TO_A_NAME = 4
"""Rounds of the loop until a connection that was taken has said whose it is, where its request came with it."""

PIECE_BYTES = 16 << 10
"""From this size on a piece of what a client sends is large: loops read up to 256 KiB at once, from every client in each round."""

MAX_HEADERS = 64
MAX_LINE_BYTES = 8190
"""How long the request line and each header may be."""

_NOT_TAKEN = (
    "This is not a request that HTTP/1.1 allows, or its head is too large: mend it, or send at most "
    f"{MAX_HEADERS} headers, each of them and the request line of at most {MAX_LINE_BYTES} bytes."
)

SERVER = "relay"
"""What answers name as their server: no version tells a stranger which faults to try."""


class Connection(web.RequestHandler):
    """aiohttp's protocol, which also knows its peer, ends writes that take too long, and answers errors with problems."""

    __slots__ = (
        "_deadline",
        "_make_request",
        "_on_unexpected",
        "_others",
        "_turns",
        "_waits_to_read",
        "name",
        "on_lost",
        "peer_uid",
    )

    def __init__(
        self, *args: Any, on_unexpected: OnUnexpected, turns: Turns, others: "Connections", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._on_unexpected = on_unexpected
        self._turns = turns
        self._others = others
        assert self._request_factory is not None
        self._make_request: Callable[..., web.BaseRequest] = self._request_factory
        self._request_factory = self._request_of
        self._waits_to_read = False  # its turn to take in more has not come
        self._deadline: asyncio.TimerHandle | None = None  # of what the client has not read
        self.name: str | None = None  # of the caller whose connection it is, once a request has said so
        self.on_lost: Callable[[], object] | None = None  # what a handler wants to hear of the end
        self.peer_uid: int | None = None  # set on a Unix socket

    # -- its life --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock: socket.socket | None = transport.get_extra_info("socket")
        self.peer_uid = None if sock is None else peer_uid(sock)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._others.left(self)
        if self._deadline is not None:
            self._deadline.cancel()
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Take in what came. After a large piece, as of a large body, the next one waits for its turn."""
        super().data_received(data)
        if len(data) >= PIECE_BYTES and not self._waits_to_read:
            self._waits_to_read = True
            self._pause_transport_reading()
            self._turns.call(self.name or NOBODY, self._read_on)

    def _read_on(self) -> None:
        self._waits_to_read = False
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if not self._waits_to_read:
            super()._resume_transport_reading()

    def pause_writing(self) -> None:
        """Take note that the client does not read: from now on its time runs."""
        super().pause_writing()
        if self.transport is not None:
            self._end_in_time(self.transport)
            self._others.paused(self)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._others.resumed(self)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    async def start(self) -> None:
        """Answer requests until the connection ends; what the client has not read by then has a deadline, too."""
        transport = self.transport
        try:
            await super().start()
        except Exception as bug:  # aiohttp would leave the connection open for ever
            self._on_unexpected("connection", bug)
            self.force_close()
        finally:
            if transport is not None:
                self._end_in_time(transport)

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        if transport is not None:
            self._end_in_time(transport)

    def _end_in_time(self, transport: asyncio.Transport) -> None:
        """A closed transport still waits, without end, for a client to read the rest."""
        if self._deadline is None and transport.get_write_buffer_size() > 0:
            self._deadline = self._loop.call_later(self._others.write_timeout_s, transport.abort)

    def _request_of(self, message: RawRequestMessage, *others: Any) -> web.BaseRequest:
        """Make a request of a head that was parsed; one that cannot be read stands for itself as a problem.

        The parsers let through what the other one refuses, and URLs that fail only when their host is looked at.
        """
        problem = _unreadable(message)
        if problem is None:
            try:
                return self._make_request(message, *others)
            except ValueError:
                problem = problems.bad_request("The target of the request is no URL.")
        readable = message._replace(path="/", url=URL("/"), version=HttpVersion11, should_close=True)
        request = self._make_request(readable, *others)
        request[UNREADABLE] = problem
        return request

    # -- giving way ------------------------------------------------------------------------------------------------

    def belongs_to(self, name: str) -> Problem | None:
        """Count the connection to a caller from its first request on; say why not when they hold too many."""
        return None if self.name is not None else self._others.named(self, name)

    @property
    def unread_bytes(self) -> int:
        """Bytes of answers that its client has not read."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request, and everything that was answered has been read."""
        return not self._request_in_progress and not self._messages and self.unread_bytes == 0

    @property
    def is_ahead(self) -> bool:
        """Whether its client sends requests without waiting for answers, or does not read them."""
        return bool(self._messages) or self in self._others.paused_ones

    def give_way(self, refusal: bytes) -> None:
        """End at once; a client that waits for no answer under way learns why."""
        if self.transport is None:
            return
        if self.is_idle:
            self.transport.write(refusal)
            self.force_close()
        else:
            self.abort()

    def abort(self) -> None:
        """End at once, whatever is unread."""
        if self.transport is not None:
            self.transport.abort()

    # -- errors ----------------------------------------------------------------------------------------------------

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what never reached a handler. aiohttp's own answer repeats the input, and logs a traceback of it."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the client has gone, or an answer is under way that cannot be taken back")
        if status >= 500:
            self._on_unexpected("connection", exc or TimeoutError("a handler timed out"))
            response = problems.unexpected().response()
        else:
            response = problems.bad_request(_NOT_TAKEN).response()
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Hand over what aiohttp would log itself, but for what a client did to its own connection."""
        error = kw.get("exc_info") or RuntimeError(args[0])
        if not isinstance(error, ConnectionError | web.RequestPayloadError | HttpProcessingError):
            self._on_unexpected("connection", error)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer under our name. A request that was sent before it waits for its turn."""
        resp.headers.setdefault(hdrs.SERVER, SERVER)
        finished = await super().finish_response(request, resp, start_time)
        if self._messages:
            await self._turns.turn(self.name or NOBODY)
        return finished


class Connections:
    """Makes the connections of one listener. Owner of their number, their order and their shares."""

    def __init__(
        self,
        make: Callable[..., Connection],
        max_connections: int,
        write_timeout_s: float,
        claimant: Callable[[bytes], str] = lambda head: NOBODY,
    ) -> None:
        self.write_timeout_s = write_timeout_s
        self.claimant = claimant
        self._make = make
        self._max_connections = self.waiting_max = max_connections
        self.refusal = _as_http(problems.too_many_connections(max_connections))
        self._newcomers = max(1, max_connections // 4)  # without a name, which have the time to say one
        self._share = max_connections - max_connections // 4  # of one caller
        self.accepts = max(1, min(ACCEPTS, self._newcomers // ROUNDS_TO_A_NAME))
        """How many are served from each round of the loop on, so that newcomers do not push each other out."""
        self._nameless: dict[Connection, None] = {}  # the oldest first
        self._with_name: defaultdict[str, dict[Connection, None]] = defaultdict(dict)  # by caller, the oldest first
        self._open = 0
        self._all_named = asyncio.Event()  # or gone, since somebody began to wait for it
        self.paused_ones: dict[Connection, None] = {}
        """Those whose clients do not read, the longest first."""

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was just accepted."""
        if self._open >= self._max_connections and not self._make_room():
            return _TurnedAway(self.refusal)
        connection = self._make(others=self)
        self._nameless[connection] = None
        self._open += 1
        return connection

    def named(self, connection: Connection, name: str) -> Problem | None:
        """Put a connection under the name of its caller; say why not when the caller has its share already. O(1)."""
        if len(self._with_name.get(name, ())) >= self._share:
            return problems.too_many_of_one_caller(self._share)
        if connection in self._nameless:  # else it has ended meanwhile
            del self._nameless[connection]
            connection.name = name
            self._with_name[name][connection] = None
            self._note_newcomers()
        return None

    def left(self, connection: Connection) -> None:
        """Forget a connection that has ended, or was ended. Safe twice."""
        self.paused_ones.pop(connection, None)
        held = self._nameless if connection.name is None else self._with_name.get(connection.name, {})
        if connection not in held:
            return
        del held[connection]
        self._open -= 1
        self._note_newcomers()
        if connection.name is not None and not held:
            del self._with_name[connection.name]

    def _note_newcomers(self) -> None:
        if not self._nameless:
            self._all_named.set()

    async def no_newcomers(self, timeout_s: float) -> None:
        """Wait, not longer than `timeout_s`, until all who are connected have sent a request, or left."""
        if self._nameless:
            self._all_named.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_named.wait(), timeout_s)

    def paused(self, connection: Connection) -> None:
        """Take note that a client does not read; beyond `UNREAD_BYTES_MAX` those that have not for longest are ended."""
        self.paused_ones[connection] = None
        unread_bytes = sum(each.unread_bytes for each in self.paused_ones)
        for each in list(self.paused_ones):
            if unread_bytes <= UNREAD_BYTES_MAX:
                break
            unread_bytes -= each.unread_bytes
            self.left(each)
            each.abort()

    def resumed(self, connection: Connection) -> None:
        """Take note that a client has read."""
        self.paused_ones.pop(connection, None)

    def _make_room(self) -> bool:
        """End the connection that is missed least; False when every one of them is a caller's and at work."""
        oldest = next(iter(self._nameless), None)
        one = oldest if len(self._nameless) >= self._newcomers else (self._idle() or oldest)
        if one is None:
            return False
        self.left(one)
        one.give_way(self.refusal)
        return True

    def _idle(self) -> Connection | None:
        """Return one of the caller who holds the most, among those who have one that idles or is ahead: of these the oldest.

        O(open)
        """
        for crowd in sorted(self._with_name.values(), key=len, reverse=True):
            idle = next((each for each in crowd if each.is_idle), None)
            one = idle or next((each for each in crowd if each.is_ahead), None)
            if one is not None:
                return one
        return None


class _TurnedAway(asyncio.Protocol):
    """Says that there are too many connections, and closes."""

    def __init__(self, refusal: bytes) -> None:
        self._refusal = refusal

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(self._refusal)  # type: ignore[attr-defined]  # uvloop's transports are of no asyncio class
        transport.close()


def _unreadable(message: RawRequestMessage) -> Problem | None:
    if message.version not in VERSIONS:
        return problems.unknown_version()
    if not message.path.isascii():
        return problems.bad_request("The target of the request holds bytes that are not ASCII. Percent-encode them.")
    return None


def _as_http(problem: Problem) -> bytes:
    body = problem.body()
    head = (
        f"HTTP/1.1 {problem.status} Service Unavailable",
        f"Content-Type: {problems.CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
        "Connection: close",
    )
    return "\r\n".join((*head, "\r\n")).encode() + body
