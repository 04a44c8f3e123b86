"""One HTTP connection: whose it is, how many there may be, and a quiet answer to what is not HTTP."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from relay.api import problems
from relay.api.auth import Peer, peer_of
from relay.api.problems import OnUnexpected


class Connection(web.RequestHandler):
    """aiohttp's protocol, which also knows its peer and answers every error with a problem."""

    __slots__ = ("_gone", "_on_unexpected", "peer")

    def __init__(self, *args: Any, on_unexpected: OnUnexpected, gone: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_unexpected = on_unexpected
        self._gone = gone
        self.peer: Peer | None = None  # set on a Unix socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock: socket.socket | None = transport.get_extra_info("socket")
        self.peer = None if sock is None else peer_of(sock)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._gone()

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
            response = problems.bad_request("This is not a request that HTTP/1.1 allows.").response()
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
        """Send the answer; a refusal that aiohttp made before any middleware ran becomes a problem."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = problems.from_http(resp).response()
        return await super().finish_response(request, resp, start_time)


class ConnectionLimit:
    """Makes the connections of one listener. Owner of their number."""

    def __init__(self, make: Callable[[Callable[[], None]], asyncio.Protocol], max_connections: int) -> None:
        self._make = make
        self._max_connections = max_connections
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was just accepted."""
        if self.open >= self._max_connections:
            return _TurnedAway(self._max_connections)
        self.open += 1
        return self._make(self._closed)

    def _closed(self) -> None:
        self.open -= 1


class _TurnedAway(asyncio.Protocol):
    """Says that there are too many connections, and closes."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_as_http(problems.too_many_connections(self._max_connections)))
        transport.close()


def _as_http(problem: problems.Problem) -> bytes:
    body = problem.body()
    head = (
        f"HTTP/1.1 {problem.status} Service Unavailable",
        f"Content-Type: {problems.CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
        "Connection: close",
    )
    return "\r\n".join((*head, "\r\n")).encode() + body
