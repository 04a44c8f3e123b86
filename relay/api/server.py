"""The HTTP server: one front door that every request passes, and the protocol limits that aiohttp leaves to us.

In order, before a handler runs: the head must come in time, the caller is established, a body that will not be taken is
refused by its head, and a producer is refused while the relay takes no events. Only then is a body asked for (`Expect`)
and read. A handler is never cancelled because its client has gone (invariant 3): aiohttp's `handler_cancellation` is off.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import HttpVersion11, hdrs, web

from relay.api import body, problems
from relay.api.auth import PRINCIPAL, Authenticator
from relay.api.body import BodyLimits
from relay.api.connection import Connection, ConnectionLimit
from relay.api.listen import Listeners
from relay.api.problems import OnRefused, OnUnexpected, Problem

Admission = Callable[[], Problem | None]
"""Says why no events are taken at the moment (Q10, draining); None when they are."""

PUBLIC = frozenset({"/healthz", "/readyz"})
"""Paths that need no token."""

INTAKE = frozenset({"/v1/events", "/v1/events/batch"})
"""Paths where `POST` brings events in, and admission is asked."""

LINGERING_S = 1.0
"""How long the rest of a refused body is read and dropped, so that its sender can read why."""

MAX_HEADERS = 64
MAX_LINE_BYTES = 8190


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a client may take."""

    body: BodyLimits = field(default_factory=BodyLimits)
    max_connections: int = 1000  # for each listener, so that a flood on one leaves the others open
    head_timeout_ms: int = 10_000  # also how long an idle connection is kept
    shutdown_timeout_ms: int = 5_000


class FrontDoor:
    """Looks at the head of every request and says whether it may go on."""

    def __init__(self, authenticator: Authenticator, admission: Admission, limits: BodyLimits) -> None:
        self._authenticator = authenticator
        self._admission = admission
        self._limits = limits

    def examine(self, request: web.Request) -> Problem | None:
        """Return why `request` goes no further; otherwise its principal is set."""
        if request.path not in PUBLIC:
            caller = self._authenticator.identify(request)
            if isinstance(caller, Problem):
                return caller
            request[PRINCIPAL] = caller
        if request.method == hdrs.METH_POST and request.path in INTAKE and (closed := self._admission()) is not None:
            return closed
        return body.examine_head(request, self._limits)


def build_app(
    routes: Iterable[web.RouteDef],
    authenticator: Authenticator,
    admission: Admission,
    limits: ServerLimits,
    on_unexpected: OnUnexpected,
    on_refused: OnRefused = lambda where, problem: None,
) -> web.Application:
    """Return the application that answers `routes`, each behind the front door."""
    door = FrontDoor(authenticator, admission, limits.body)
    app = web.Application(
        middlewares=[problems.middleware(on_unexpected, door.examine, on_refused)],
        client_max_size=limits.body.max_bytes,
    )
    app[body.LIMITS] = limits.body
    expect = _expectation(door)
    app.add_routes(
        web.RouteDef(route.method, route.path, route.handler, {"expect_handler": expect, **route.kwargs})
        for route in routes
    )
    return app


async def serve(
    app: web.Application, addresses: Sequence[str], limits: ServerLimits, on_unexpected: OnUnexpected
) -> Listeners:
    """Listen on every address (`host:port`, `unix:/path`) or on none; CannotStart says which one failed and why."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=limits.shutdown_timeout_ms / 1000)
    await runner.setup()
    listeners = Listeners(runner)
    try:
        for address in addresses:
            await listeners.open(address, _connections(runner, limits, on_unexpected))
    except BaseException:
        await listeners.close()
        raise
    return listeners


def _connections(runner: web.AppRunner, limits: ServerLimits, on_unexpected: OnUnexpected) -> ConnectionLimit:
    options: dict[str, Any] = {
        "loop": asyncio.get_running_loop(),
        "access_log": None,
        "auto_decompress": False,
        "keepalive_timeout": limits.head_timeout_ms / 1000,  # from 3.14.4 on also the deadline for a head
        "lingering_time": LINGERING_S,
        "max_line_size": MAX_LINE_BYTES,
        "max_field_size": MAX_LINE_BYTES,
        "max_headers": MAX_HEADERS,
    }

    def make(gone: Callable[[], None]) -> Connection:
        return Connection(runner.server, on_unexpected=on_unexpected, gone=gone, **options)

    return ConnectionLimit(make, limits.max_connections)


def _expectation(door: FrontDoor) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """aiohttp says `100 Continue` before anybody has looked at the request; this looks first."""

    async def expect(request: web.Request) -> web.StreamResponse | None:
        if request.version < HttpVersion11:
            return None
        if request.headers[hdrs.EXPECT].lower() != "100-continue":
            return problems.expectation_failed().response()
        refusal = door.examine(request)
        if refusal is not None:
            return refusal.response()
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun
        return None

    return expect
