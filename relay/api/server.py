"""The HTTP server: one front door that every request passes, and the protocol limits that aiohttp leaves to us.

In order, before a handler runs: the head must come in time, the caller is established, a body that will not be taken is
refused by its head, and a producer is refused while the relay takes no events. Only then is a body asked for (`Expect`)
and read. A handler is never cancelled because its client has gone (invariant 3): aiohttp's `handler_cancellation` is off.
"""

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from relay.api import body, problems
from relay.api.auth import PRINCIPAL, Authenticator, peer_uid, refusal
from relay.api.listen import Listeners
from relay.api.pace import Paces
from relay.api.problems import Problem
from relay.config import ServerConfig
from relay.core.access import Right

Admission = Callable[[], Problem | None]
"""Says why no events are taken at the moment (Q10, draining); None when they are."""

OnUnexpected = Callable[[str, BaseException], None]
"""Takes an error that nobody foresaw: where ("POST /v1/events"), and what."""

OnEventRefused = Callable[[Problem], None]
"""Takes every problem that a call which brings events in is answered with."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LINGERING_S = 1.0
"""How long the rest of a refused body is read and dropped, so that its sender can read why."""

SHUTDOWN_TIMEOUT_S = 5.0
"""How long requests under way may take when listening ends."""

MAX_HEADERS = 64
MAX_LINE_BYTES = 8190


class Route(NamedTuple):
    """One call: who may make it, and what answers it."""

    method: str
    path: str
    right: Right | None  # None: anybody, without a token
    handler: Handler


class FrontDoor:
    """Looks at the head of every request, lets it in or not, and turns every error into a problem.

    One middleware does all of it: each layer costs every request its share.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        authenticator: Authenticator,
        admission: Admission,
        config: ServerConfig,
        on_unexpected: OnUnexpected,
        on_event_refused: OnEventRefused,
        paces: Paces,
    ) -> None:
        self._paces = paces
        self._public = {route.path for route in routes if route.right is None}
        self._rights = {route.handler: route.right for route in routes}
        self._authenticator = authenticator
        self._admission = admission
        self._config = config
        self._on_unexpected = on_unexpected
        self._on_event_refused = on_event_refused

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer with what the handler says, or with a problem."""
        try:
            problem = self.examine(request)
            if problem is None:
                return await self._handle(request, handler)
        except ConnectionError:
            raise  # the client has gone: nobody is left to answer
        except Exception as error:  # the boundary of a request
            if isinstance(error, web.HTTPException) and error.status < 400:
                raise
            problem = problems.foreseen(error)
            if problem is None:  # it is for the log; the client learns nothing of it
                self._on_unexpected(f"{request.method} {request.path}", error)
                problem = problems.unexpected()
        if self._right(request) is Right.POST_EVENTS:
            self._on_event_refused(problem)
        return problem.response()

    async def _handle(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = request.get(PRINCIPAL)
        if caller is None or caller.pace is None:
            return await handler(request)
        announced = request.content_length or 0
        self._paces.spend(caller, 1, announced)
        try:
            return await handler(request)
        finally:
            if request.content_length is None:
                self._paces.spend(caller, 0, request.content.total_bytes)

    def examine(self, request: web.Request) -> Problem | None:
        """Return why `request` goes no further; otherwise its principal is set."""
        if request.path in self._public:
            return body.examine_head(request, self._config)
        caller = self._authenticator.identify(request)  # before it is known whether there is such a call
        if isinstance(caller, Problem):
            return caller
        if caller.pace is not None and (wait_s := self._paces.wait_s(caller)):
            return problems.rate_limited(wait_s)
        right = self._right(request)
        request[PRINCIPAL] = caller
        if right is Right.POST_EVENTS and (closed := self._admission()) is not None:
            return closed
        return body.examine_head(request, self._config) or (right and refusal(caller, right))

    def _right(self, request: web.Request) -> Right | None:
        return self._rights.get(request.match_info.handler)

    async def expect(self, request: web.Request) -> web.StreamResponse | None:
        """Say `100 Continue` to whoever may go on: aiohttp says it before anybody has looked at the request."""
        if request.version < HttpVersion11:
            return None
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            return problems.expectation_failed().response()
        refusal = self.examine(request)
        if refusal is not None:
            return refusal.response()
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
        return None


def build_app(
    routes: Sequence[Route],
    authenticator: Authenticator,
    admission: Admission,
    config: ServerConfig,
    on_unexpected: OnUnexpected,
    on_event_refused: OnEventRefused = lambda problem: None,
    *,
    paces: Paces,
) -> web.Application:
    """Return the application that answers `routes`, each behind the front door."""
    door = FrontDoor(routes, authenticator, admission, config, on_unexpected, on_event_refused, paces)
    app = web.Application(middlewares=[door.answer], client_max_size=config.max_body_bytes)
    app[body.CONFIG] = config
    for route in routes:
        app.router.add_route(route.method, route.path, route.handler, expect_handler=door.expect)
    return app


async def serve(app: web.Application, config: ServerConfig, on_unexpected: OnUnexpected) -> Listeners:
    """Listen on every address (`host:port`, `unix:/path`) or on none; CannotStart says which one failed and why."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    listeners = Listeners(runner)
    try:
        for address in config.listen:
            await listeners.open(address, _connections(runner, config, on_unexpected))
    except BaseException:
        await listeners.close()
        raise
    return listeners


def _connections(runner: web.AppRunner, config: ServerConfig, on_unexpected: OnUnexpected) -> "ConnectionLimit":
    options: dict[str, Any] = {
        "loop": asyncio.get_running_loop(),
        "access_log": None,
        "auto_decompress": False,
        "keepalive_timeout": config.head_timeout_ms / 1000,  # from 3.14.4 on also the deadline for a head
        "lingering_time": LINGERING_S,
        "max_line_size": MAX_LINE_BYTES,
        "max_field_size": MAX_LINE_BYTES,
        "max_headers": MAX_HEADERS,
    }
    make = functools.partial(Connection, runner.server, on_unexpected=on_unexpected, **options)
    return ConnectionLimit(make, config.max_connections)  # for each listener: a flood on one leaves the others open


# -- one connection ------------------------------------------------------------------------------------------------------


class Connection(web.RequestHandler):
    """aiohttp's protocol, which also knows its peer and answers every error with a problem."""

    __slots__ = ("_gone", "_on_unexpected", "on_lost", "peer_uid")

    def __init__(self, *args: Any, on_unexpected: OnUnexpected, gone: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._on_unexpected = on_unexpected
        self._gone = gone
        self.on_lost: Callable[[], object] | None = None  # what a handler wants to hear of the end
        self.peer_uid: int | None = None  # set on a Unix socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock: socket.socket | None = transport.get_extra_info("socket")
        self.peer_uid = None if sock is None else peer_uid(sock)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._gone()
        if self.on_lost is not None:
            self.on_lost()

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

    def __init__(self, make: Callable[..., Connection], max_connections: int) -> None:
        self._make = make
        self._max_connections = max_connections
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a connection that was just accepted."""
        if self.open >= self._max_connections:
            return _TurnedAway(self._max_connections)
        self.open += 1
        return self._make(gone=self._closed)

    def _closed(self) -> None:
        self.open -= 1


class _TurnedAway(asyncio.Protocol):
    """Says that there are too many connections, and closes."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        refusal = _as_http(problems.too_many_connections(self._max_connections))
        transport.write(refusal)  # type: ignore[attr-defined]  # uvloop's transports are of no asyncio class
        transport.close()


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
