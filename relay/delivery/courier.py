"""One HTTP attempt: a request in, an `Outcome` out. Whatever a receiver does is an outcome; only our own mistakes raise.

A receiver may be slow, broken or hostile. One deadline covers everything from the name lookup to the head of the answer,
which is the answer; of its body at most 64 KiB are read, for at most a second. Redirects, proxies, cookies and
compression do not exist here.
"""

import asyncio
import functools
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from relay.core.clock import Clock
from relay.core.model import Failure, Outcome, shown_without
from relay.core.netguard import PUBLIC_ONLY, Guard, Reach, Sources
from relay.core.tls import DEFAULT, TlsIdentity
from relay.core.urls import Target
from relay.delivery.answer import Answer, control, kept_headers, retry_after
from relay.delivery.contexts import Contexts
from relay.delivery.dial import Dialler, Names
from relay.delivery.exchange import Connection, Dropped, Late
from relay.delivery.failures import explain, is_ours
from relay.delivery.pool import Origin, Pool
from relay.delivery.remedies import explain_status
from relay.delivery.request import lay_out
from relay.delivery.trail import Trail

LAYOUTS_MAX = 4096


class Request(NamedTuple):
    """What is to be sent, ready for the wire."""

    url: str
    headers: Mapping[str, str]  # signatures, and what the endpoint authenticates with
    body: bytes
    timeout_ms: int
    tls: TlsIdentity | None = None  # None: the courier's own
    excerpt: bool = False  # headers and body of a 2xx are wanted, too, as those of every other answer are
    reach: Reach = PUBLIC_ONLY  # where it may go, and comes from
    method: str = "POST"

    def __repr__(self) -> str:
        return shown_without(self, "headers", "body")


@dataclass(frozen=True, slots=True)
class CourierSettings:
    """`connect_timeout_ms` covers name lookup, TCP and TLS, inside the request's own deadline."""

    connect_timeout_ms: int = 5_000
    user_agent: str = "relay"
    tls: TlsIdentity = DEFAULT
    idle_max: int = 512  # connections that wait for their next request, over all receivers
    source_addresses: Sources = ()  # of requests whose reach names none; empty: as the routes say


class Courier:
    """Makes attempts over connections of its own."""

    def __init__(self, clock: Clock, guard: Guard, names: Names, settings: CourierSettings) -> None:
        """The resolver is its maker's to close."""
        self._clock = clock
        self._guard = guard
        self._names = names
        self._settings = settings
        self._contexts = Contexts(settings.tls)
        self._lay_out = functools.lru_cache(LAYOUTS_MAX)(functools.partial(lay_out, user_agent=settings.user_agent))
        self._loop: asyncio.AbstractEventLoop
        self._dialler: Dialler | None = None
        self._pool: Pool | None = None
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Load the certificate authorities and prepare the pool of connections."""
        await self._contexts.get(None)
        self._loop = asyncio.get_running_loop()
        sources, timeout_s = self._settings.source_addresses, self._settings.connect_timeout_ms / 1000
        self._dialler = Dialler(self._guard, self._names, timeout_s, sources)
        self._pool = Pool(self._loop, self._settings.idle_max)

    async def close(self) -> None:
        """End all connections, and what is under way. Safe twice, and before `start`."""
        if self._dialler is not None and self._pool is not None:
            self._dialler.give_up()
            await self._pool.close()

    async def idle(self) -> None:
        """Wait until no attempt is under way, before a courier that was replaced is closed."""
        await self._idle.wait()

    async def attempt(self, request: Request) -> Outcome:
        """Send the request and say what came of it. A mistake of our own is raised, and its connection is closed.

        O(length of the request and of what is read), whatever the number of endpoints and connections.
        """
        trail = Trail(self._clock)
        self._running += 1
        self._idle.clear()
        try:
            answer = await self._post(request, trail)
        except Exception as error:
            explained = explain(error)
            if explained is None:
                raise
            return self._failed(trail, *explained, ours=is_ours(error))
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()
        if not 200 <= answer.status <= 599:
            return self._failed(trail, Failure.BROKEN_RESPONSE, f"status {answer.status} is no answer to a POST")
        return self._answered(trail, answer, request)

    async def _post(self, request: Request, trail: Trail) -> Answer:
        deadline = self._loop.time() + request.timeout_ms / 1000
        layout = self._lay_out(request.url, tuple(request.headers), request.method)
        data = layout.fill(request.headers.values(), request.body)
        origin = (*layout.target[:3], request.reach, request.tls)
        connection = self._kept(origin)
        if connection is not None:
            trail.send_over(connection, reused=True)
            try:
                return await connection.post(data, deadline, excerpt=request.excerpt)
            except Dropped as dropped:
                if dropped.begun:
                    raise
            trail.repeat()  # Q17
        connection = await self._connect(layout.target, origin, deadline, trail)
        trail.send_over(connection, reused=False)
        return await connection.post(data, deadline, excerpt=request.excerpt)

    def _kept(self, origin: Origin) -> Connection | None:
        assert self._pool is not None
        while (connection := self._pool.take(origin)) is not None and connection.is_closed:
            pass
        return connection

    async def _connect(self, target: Target, origin: Origin, deadline: float, trail: Trail) -> Connection:
        assert self._dialler is not None
        assert self._pool is not None
        *_, reach, identity = origin
        make = functools.partial(Connection, self._loop, self._pool, self._clock.mono_ms)
        tls = await self._context(identity, deadline) if target.scheme == "https" else None
        connection = await self._dialler.connect(target, tls, deadline, make, trail, reach)
        try:
            if not connection.is_closed:  # it may have ended before this task had its turn
                self._pool.add(origin, connection)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _context(self, identity: TlsIdentity | None, deadline: float) -> ssl.SSLContext:
        """Return the context of an identity; it is rarely made, and not on the time of connecting."""
        context = self._contexts.kept(identity)
        if context is not None:
            return context
        try:
            async with asyncio.timeout_at(deadline):
                return await self._contexts.get(identity)
        except TimeoutError:
            raise Late from None

    def _answered(self, trail: Trail, answer: Answer, request: Request) -> Outcome:
        duration_ms, trace = trail.end()
        excerpt = request.excerpt or not answer.is_success
        said = "" if answer.is_success else explain_status(answer.status, answer.fields, request.url)
        return Outcome(
            started_at_ms=trail.started.wall_ms,
            duration_ms=duration_ms,
            status=answer.status,
            detail=trail.explained(said),
            address=trail.address,
            retry_after_ms=retry_after(answer.fields, self._clock.wall_ms()),
            control=control(answer.fields),
            trace=trace,
            certificate=trail.certificate,
            response_headers=kept_headers(answer.fields) if excerpt else (),
            response_body=bytes(answer.body) if excerpt else b"",
        )

    def _failed(self, trail: Trail, failure: Failure, detail: str, *, ours: bool = False) -> Outcome:
        duration_ms, trace = trail.end()
        return Outcome(
            started_at_ms=trail.started.wall_ms,
            duration_ms=duration_ms,
            failure=failure,
            detail=trail.explained(detail),
            address=trail.address,
            trace=trace,
            ours=ours,
            certificate=trail.certificate,
        )
