"""The HTTP server: one front door that every request passes, and the protocol limits that aiohttp leaves to us.

In order, before a handler runs: the head must come in time and be one that every reader reads alike, the relay must not
be on its way down, the caller is established, a body that will not be taken is refused by its head, and a producer is
refused while the relay takes no events. Only then is a body asked for (`Expect`) and read. A handler is never cancelled because its client has gone (invariant 3): aiohttp's `handler_cancellation` is off.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from aiohttp import HttpVersion11, hdrs, web

from relay.api import body, problems
from relay.api.auth import PRINCIPAL, Authenticator, refusal
from relay.api.connections import MAX_HEADERS, MAX_LINE_BYTES, UNREADABLE, Connection, Connections, OnUnexpected
from relay.api.listen import Listeners
from relay.api.pace import Paces
from relay.api.problems import Problem
from relay.api.query import TURN
from relay.config import ServerConfig
from relay.core.access import Right
from relay.core.issues import Issue

Admission = Callable[[], Problem | None]
"""Says why no events are taken at the moment (Q10, draining); None when they are."""

OnEventRefused = Callable[[Problem], None]
"""Takes every problem that a call which brings events in is answered with."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LINGERING_S = 1.0
"""How long the rest of a refused body is read and dropped, so that its sender can read why."""

SHUTDOWN_TIMEOUT_S = 5.0
"""How long requests under way may take when listening ends."""

SINGLE_HEADERS = ("Authorization", "Content-Type", "Host", "Idempotency-Key")
"""Headers that a request has once: of two, one reader believes the first and another the last."""


class Route(NamedTuple):
    """One call: who may make it, and what answers it."""

    method: str
    path: str
    right: Right | None  # None: anybody, without a token
    handler: Handler
    takes_query: bool = False


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
        is_stopping: Callable[[], bool],
    ) -> None:
        self._paces = paces
        self._public = {route.path for route in routes if route.right is None}
        self._querying = {route.handler for route in routes if route.takes_query}
        self._rights = {route.handler: route.right for route in routes}
        self._authenticator = authenticator
        self._admission = admission
        self._config = config
        self._on_unexpected = on_unexpected
        self._on_event_refused = on_event_refused
        self._is_stopping = is_stopping

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
        return self._response(problem)

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
        if (ambiguous := _ambiguity(request)) is not None:
            return ambiguous
        if request.path in self._public:
            return self._unasked(request) or body.examine_head(request, self._config)
        if self._is_stopping():
            return problems.draining()
        caller = self._authenticator.identify(request)  # before it is known whether there is such a call
        if isinstance(caller, Problem):
            return caller
        if caller.pace is not None and (wait_s := self._paces.wait_s(caller)):
            return problems.rate_limited(wait_s)
        if isinstance(request.protocol, Connection) and (crowd := request.protocol.belongs_to(caller.name)) is not None:
            return crowd
        right = self._right(request)
        request[PRINCIPAL] = caller
        if right is Right.POST_EVENTS and (closed := self._admission()) is not None:
            return closed
        return body.examine_head(request, self._config) or (right and refusal(caller, right)) or self._unasked(request)

    def _unasked(self, request: web.Request) -> Problem | None:
        """Say which parameters a call that has none was given; what takes some checks them itself."""
        if not request.query_string or request.match_info.handler in self._querying:
            return None
        if request.match_info.http_exception is not None:
            return None  # there is no such call
        return problems.invalid([Issue("", f'the parameter "{name[:64]}" is not taken here') for name in request.query])

    def _response(self, problem: Problem) -> web.Response:
        """Return the answer; while the relay stops, and for a caller with too many connections, it is the last one."""
        response = problem.response()
        if problem.type in ("draining", "too_many_connections"):
            response.force_close()
        return response

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
            return self._response(refusal)
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
        return None


def _ambiguity(request: web.Request) -> Problem | None:
    """Say what of a head is no HTTP/1.1, or may be read in two ways."""
    if UNREADABLE in request:
        return request[UNREADABLE]
    headers = request.headers
    for name in SINGLE_HEADERS:
        if len(headers.getall(name, ())) > 1:
            return problems.bad_request(f"The header {name} is there more than once. Send one.")
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
    is_stopping: Callable[[], bool] = lambda: False,
) -> web.Application:
    """Return the application that answers `routes`, each behind the front door."""
    door = FrontDoor(routes, authenticator, admission, config, on_unexpected, on_event_refused, paces, is_stopping)
    app = web.Application(middlewares=[door.answer], client_max_size=config.max_body_bytes)
    app[body.CONFIG] = config
    app[TURN] = asyncio.Lock()
    app[body.ARRIVING] = body.Arriving(config.max_body_bytes)
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


def _connections(runner: web.AppRunner, config: ServerConfig, on_unexpected: OnUnexpected) -> Connections:
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
    # For each listener: a flood on one leaves the others open.
    return Connections(make, config.max_connections, config.write_timeout_ms / 1000)
