"""The HTTP server: one front door that every request passes, and the protocol limits that aiohttp leaves to us.

In order, before a handler runs: the head must come in time and be one that every reader reads alike, the relay must not
be on its way down, the caller is established, a body that will not be taken is refused by its head, and a producer is
refused while the relay takes no events. Only then is a body asked for (`Expect`) and read. A handler is never cancelled because its client has gone (invariant 3): aiohttp's `handler_cancellation` is off.
"""

import asyncio
import functools
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.http import RawRequestMessage

from relay.api import body, problems
from relay.api.auth import PRINCIPAL, Authenticator, refusal
from relay.api.connections import MAX_HEADERS, MAX_LINE_BYTES, UNREADABLE, Connection, Connections, OnUnexpected
from relay.api.listen import Listeners
from relay.api.pace import Paces
from relay.api.problems import Problem
from relay.api.routing import PARAMETERS, Handler, Route, Table
from relay.api.turns import TURNS, Turns
from relay.config import ServerConfig
from relay.core.access import Right
from relay.core.issues import Issue

Admission = Callable[[], Problem | None]
"""Says why no events are taken at the moment (Q10, draining); None when they are."""

OnEventRefused = Callable[[Problem], None]
"""Takes every problem that a call which brings events in is answered with."""

LINGERING_S = 1.0
"""How long the rest of a refused body is read and dropped, so that its sender can read why."""

SHUTDOWN_TIMEOUT_S = 5.0
"""How long requests under way may take when listening ends."""

SINGLE_HEADERS = ("Authorization", "Content-Type", "Host", "Idempotency-Key")
"""Headers that a request has once: of two, one reader believes the first and another the last."""


class FrontDoor:
    """Finds the call of every request, looks at its head, lets it in or not, and turns every error into a problem.

    It is all that stands between aiohttp's connections and the handlers: each layer costs every request its share.
    """

    def __init__(
        self,
        routes: Sequence[Route],
        authenticator: Authenticator,
        admission: Admission,
        config: ServerConfig,
        on_unexpected: OnUnexpected,
        on_event_refused: OnEventRefused = lambda problem: None,
        *,
        paces: Paces,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._paces = paces
        self._table = Table(routes)
        self._authenticator = authenticator
        self._admission = admission
        self._config = config
        self._on_unexpected = on_unexpected
        self._on_event_refused = on_event_refused
        self._is_stopping = is_stopping
        self.claimant = authenticator.claimant

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer with what the handler of the call says, or with a problem."""
        route, parameters = self._table.find(request)
        try:
            problem = self._examine(request, route) or await self._expected(request)
            if problem is None:
                if parameters:
                    request[PARAMETERS] = parameters
                return await self._handle(request, route.handler)
        except ConnectionError:
            raise  # the client has gone: nobody is left to answer
        except Exception as error:  # the boundary of a request
            if isinstance(error, web.HTTPException) and error.status < 400:
                raise
            problem = problems.foreseen(error)
            if problem is None:  # it is for the log; the client learns nothing of it
                self._on_unexpected(f"{request.method} {request.path}", error)
                problem = problems.unexpected()
        if route.right is Right.POST_EVENTS:
            self._on_event_refused(problem)
        return _response(problem)

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

    def _examine(self, request: web.Request, route: Route) -> Problem | None:
        """Return why `request` goes no further; otherwise its principal is set."""
        if (ambiguous := _ambiguity(request)) is not None:
            return ambiguous
        if route.path in self._table.public:
            return _unasked(request, route) or body.examine_head(request, self._config)
        if self._is_stopping():
            return problems.draining()
        caller = self._authenticator.identify(request)  # before it is said whether there is such a call
        if isinstance(caller, Problem):
            return caller
        if caller.pace is not None and (wait_s := self._paces.wait_s(caller)):
            return problems.rate_limited(wait_s)
        if isinstance(request.protocol, Connection) and (crowd := request.protocol.belongs_to(caller.name)) is not None:
            return crowd
        right = route.right
        request[PRINCIPAL] = caller
        if right is Right.POST_EVENTS and (closed := self._admission()) is not None:
            return closed
        head = body.examine_head(request, self._config, takes_events=right is Right.POST_EVENTS)
        return head or (right and refusal(caller, right)) or _unasked(request, route)

    async def _expected(self, request: web.Request) -> Problem | None:
        """Say `100 Continue` to whoever waits for it, now that the head was examined."""
        expected = request.headers.get(hdrs.EXPECT)
        if not expected or request.version < HttpVersion11:
            return None
        if expected.lower() != "100-continue":
            return problems.expectation_failed()
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
        return None


def _unasked(request: web.Request, route: Route) -> Problem | None:
    """Say which parameters a call that has none was given; what takes some checks them itself."""
    if route.takes_query or not request.query_string:
        return None
    found = [Issue("", f'the parameter "{name[:64]}" is not taken here') for name in request.query]
    return problems.invalid(found) if found else None


def _response(problem: Problem) -> web.Response:
    """Return the answer; while the relay stops, and for a caller with too many connections, it is the last one."""
    response = problem.response()
    if problem.type in ("draining", "too_many_connections"):
        response.force_close()
    return response


def _ambiguity(request: web.Request) -> Problem | None:
    """Say what of a head is no HTTP/1.1, or may be read in two ways."""
    if (unreadable := request[UNREADABLE]) is not None:
        return unreadable
    headers = request.headers
    for name in SINGLE_HEADERS:
        if len(headers.getall(name, ())) > 1:
            return problems.bad_request(f"The header {name} is there more than once. Send one.")
    return None


async def serve(
    door: FrontDoor,
    config: ServerConfig,
    on_unexpected: OnUnexpected,
    passed: Mapping[str, socket.socket] | None = None,
) -> Listeners:
    """Listen on every address (`host:port`, `unix:/path`) or on none; CannotStart says which one failed and why.

    Sockets that were `passed`, by address, are taken over.
    """
    loop, make_request = asyncio.get_running_loop(), cast(Callable[..., web.Request], web.Request)
    arriving, turns = body.Arriving(config.max_body_bytes), Turns(loop)

    def request_of(message: RawRequestMessage, *others: Any) -> web.Request:
        state: dict[Any, Any] = {body.CONFIG: config, body.ARRIVING: arriving, TURNS: turns, UNREADABLE: None}
        return make_request(message, *others, loop, client_max_size=config.max_body_bytes, state=state)

    server = web.Server(door.answer, request_factory=request_of)  # type: ignore[arg-type]  # it is given those requests
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    listeners = Listeners(runner, passed or {})
    try:
        for address in config.listen:
            await listeners.open(address, _connections(server, door, config, on_unexpected, turns))
    except BaseException:
        await listeners.close()
        raise
    return listeners


def _connections(
    server: web.Server, door: FrontDoor, config: ServerConfig, on_unexpected: OnUnexpected, turns: Turns
) -> Connections:
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
    make = functools.partial(Connection, server, on_unexpected=on_unexpected, turns=turns, **options)
    # For each listener: a flood on one leaves the others open.
    return Connections(make, config.max_connections, config.write_timeout_ms / 1000, door.claimant)
