"""One HTTP attempt: a request in, an `Outcome` out, and never an exception (invariant 11).

A receiver may be slow, broken or hostile. One deadline covers everything from the name lookup to the last byte of the
answer, at most 16 KiB of which are read; redirects, proxies, cookies and compression do not exist here.
"""

import asyncio
import functools
import io
import math
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import IntEnum
from ipaddress import ip_address
from typing import Any, NamedTuple

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDictProxy
from yarl import URL

from relay.clock import Clock
from relay.guard import AddrInfo, ForbiddenAddress, Guard
from relay.model import Failure, HeaderPair, Outcome

MAX_BODY_BYTES = 16 * 1024
"""How much of a response is read and kept; the connection of a longer one is dropped."""
MAX_KEPT_HEADERS = 64
MAX_KEPT_VALUE = 1024
READ_BUFFER_BYTES = 16 * 1024  # unread responses then cost 79 MiB for 500 in flight, not 279 (reliability §3.2)
KEEP_ALIVE_S = 15.0
LARGE_BODY_BYTES = 1 << 20  # beyond this aiohttp wants a stream
MAX_TARGETS = 4096

CONTROL_HEADER = "webhook-delivery"
CONTROLS = frozenset({"abort-message", "disable"})


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be POSTed, ready for the wire."""

    url: str
    headers: Mapping[str, str] = field(repr=False)  # signatures, and what the endpoint authenticates with
    body: bytes = field(repr=False)
    timeout_ms: int


@dataclass(frozen=True, slots=True)
class CourierSettings:
    """`connect_timeout_ms` covers name lookup, TCP and TLS, inside the request's own deadline."""

    connect_timeout_ms: int = 5_000
    user_agent: str = "relay"


class Stage(IntEnum):
    """How far an exchange has come."""

    RESOLVING = 0
    CONNECTING = 1
    WAITING = 2  # connected: sending, or waiting for the answer
    READING = 3  # the head of the answer is here


class _Trail:
    """What one attempt leaves behind for the reading of its end. Owned by the attempt; aiohttp's hooks write to it."""

    __slots__ = ("address", "refused", "reused", "stage", "status")

    def __init__(self) -> None:
        self.stage = Stage.RESOLVING
        self.reused = False  # a kept-alive connection
        self.refused = False  # a socket was asked for to a forbidden address
        self.address: str | None = None
        self.status: int | None = None


_trail: ContextVar[_Trail] = ContextVar("_trail")


class _Target(NamedTuple):
    url: URL
    literal: bool  # the host is an address itself


class _Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class _Connector(aiohttp.TCPConnector):
    """Notes which connection an attempt was given, and whether it had been used before (Q17)."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        trail = _trail.get()
        trail.reused = trail.stage is Stage.RESOLVING  # no socket was opened on the way
        trail.stage = Stage.WAITING
        if connection.transport is not None and (peer := connection.transport.get_extra_info("peername")):
            trail.address = peer[0]
        return connection


class Courier:
    """Makes attempts over its own pool of connections."""

    def __init__(
        self,
        clock: Clock,
        guard: Guard,
        resolver: aiohttp.abc.AbstractResolver,
        settings: CourierSettings,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` replaces the system's certificate authorities. The resolver stays its owner's to close."""
        self._clock = clock
        self._guard = guard
        self._resolver = resolver
        self._settings = settings
        self._tls = tls
        self._target = functools.lru_cache(MAX_TARGETS)(_parse_target)

    async def start(self) -> None:
        """Prepare the connection pools; loads the system's certificate authorities."""
        self._tls = self._tls or await asyncio.to_thread(strict_tls)
        self._pooled = self._session(keepalive_timeout=KEEP_ALIVE_S)
        self._fresh = self._session(force_close=True)

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()

    async def attempt(self, request: Request) -> Outcome:
        """POST the request once and say what came of it. Raises nothing but `CancelledError`."""
        started = self._clock.now()
        trail = _Trail()
        _trail.set(trail)
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                answer = await self._post(request, trail)
            return self._answered(answer)
        except Exception as error:
            return _failed(error, trail, request)

    async def _post(self, request: Request, trail: _Trail) -> _Answer:
        ...
