"""One HTTP attempt: a request in, an `Outcome` out, and never an exception (invariant 11).

A receiver may be slow, broken or hostile. One deadline covers everything from the name lookup to the last byte of the
answer, at most 16 KiB of which are read; redirects, proxies, cookies and compression do not exist here.
"""

import asyncio
import functools
import io
import math
import os
import re
import socket
import ssl
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import IntEnum
from ipaddress import ip_address
from itertools import islice
from typing import Any, NamedTuple

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from relay.core.clock import Clock, Now
from relay.core.model import Failure, HeaderPair, Outcome
from relay.core.netguard import AddrInfo, ForbiddenAddress, Guard

MAX_BODY_BYTES = 16 * 1024
"""How much of a response is read and kept; the connection of a longer one is dropped."""
MAX_HEARD_BYTES = 1 << 20
"""A receiver that sends more than this before the reader has had enough floods us, with interim answers for one."""
MAX_KEPT_HEADERS = 64
MAX_KEPT_VALUE = 1024
READ_BUFFER_BYTES = 16 * 1024  # unread responses then cost 79 MiB for 500 in flight, not 279 (reliability §3.2)
KEEP_ALIVE_S = 15.0
LARGE_BODY_BYTES = 1 << 20  # beyond this aiohttp wants a stream
MAX_TARGETS = 4096
MAX_REASON = 160
MAX_SECONDS_DIGITS = 10
MAX_SECONDS = 10**MAX_SECONDS_DIGITS  # three centuries: whoever reads it has a limit of an hour or so

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
    """How far an attempt has come."""

    RESOLVING = 0
    CONNECTING = 1
    WAITING = 2  # connected: sending, or waiting for the answer
    READING = 3  # the head of the answer is here


class _Trail:
    """What an attempt leaves behind for whoever must say how it ended. Owned by the attempt; aiohttp's hooks write to it."""

    __slots__ = ("address", "literal", "protocol", "refused", "reused", "stage", "status")

    def __init__(self) -> None:
        self.stage = Stage.RESOLVING
        self.literal = False  # the URL's host is an address itself
        self.refused = False  # a socket to a forbidden address was asked for
        self.reused = False  # the connection had been kept alive
        self.address: str | None = None
        self.status: int | None = None
        self.protocol: _Protocol | None = None

    def connected(self, protocol: "_Protocol", peer: Any) -> None:
        self.reused = self.stage is Stage.RESOLVING  # no socket was opened on the way
        self.stage = Stage.WAITING
        self.protocol = protocol
        self.address = peer[0] if peer else None

    def dropped_while_kept_alive(self) -> bool:
        """Whether a reused connection ended before the first byte of an answer."""
        return (
            self.reused and self.stage is Stage.WAITING and self.protocol is not None and not self.protocol.heard_bytes
        )


_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([2-5]\d\d)(?: .*)?")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*")
_LENGTH = re.compile(r"[0-9]{1,9}")

_trail: ContextVar[_Trail] = ContextVar("_trail")


class _Unsendable(ValueError):
    """The request can never be sent; the text says why and does not repeat the URL."""


class _Target(NamedTuple):
    url: URL
    literal: bool


class _Answer(NamedTuple):
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


class _Protocol(ResponseHandler):
    """Notes what aiohttp's own does not tell: how much came back, and what its parser rejected."""

    heard_bytes = 0  # in answer to the present request
    rejected = b""

    def data_received(self, data: bytes) -> None:
        self.heard_bytes += len(data)
        if self.heard_bytes > MAX_HEARD_BYTES and self.transport is not None:
            self.transport.abort()
            return
        super().data_received(data)
        if self.exception() is not None:
            self.rejected = data


class _Connector(aiohttp.TCPConnector):
    """Notes which connection an attempt was given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # aiohttp has no public way to choose the protocol; two tests of Q17 fail should this name ever change.
        self._factory = functools.partial(_Protocol, loop=self._loop)  # type: ignore[assignment]

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.connector.Connection:
        connection = await super().connect(req, traces, timeout)
        protocol, transport = connection.protocol, connection.transport
        assert isinstance(protocol, _Protocol)
        protocol.heard_bytes = 0
        _trail.get().connected(protocol, transport and transport.get_extra_info("peername"))
        return connection


class Courier:
    """Makes attempts over connections of its own."""

    def __init__(
        self,
        clock: Clock,
        guard: Guard,
        resolver: AbstractResolver,
        settings: CourierSettings,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls` takes the place of the system's certificate authorities. The resolver is its maker's to close."""
        self._clock = clock
        self._guard = guard
        self._resolver = resolver
        self._settings = settings
        self._tls = tls
        self._sessions: tuple[aiohttp.ClientSession, ...] = ()
        self._target = functools.lru_cache(MAX_TARGETS)(_parse_target)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self) -> None:
        """Load the certificate authorities and prepare the connection pools."""
        self._tls = self._tls or await asyncio.to_thread(strict_tls)
        self._pooled = self._session(keepalive_timeout=KEEP_ALIVE_S)
        self._fresh = self._session(force_close=True)
        self._sessions = (self._pooled, self._fresh)

    async def close(self) -> None:
        """Close all connections. Safe twice, and before `start`."""
        for session in self._sessions:
            await session.close()

    async def idle(self) -> None:
        """Wait until no attempt is under way, before a courier that was replaced is closed."""
        await self._idle.wait()

    async def attempt(self, request: Request) -> Outcome:
        """POST the request and say what came of it. Raises nothing but `CancelledError`."""
        self._running += 1
        self._idle.clear()
        try:
            return await self._attempt(request)
        finally:
            self._running -= 1
            if self._running == 0:
                self._idle.set()

    async def _attempt(self, request: Request) -> Outcome:
        started = self._clock.now()
        trail = _Trail()
        _trail.set(trail)
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                answer = await self._post(request, trail)
        except Exception as error:
            return self._failed(started, trail, *_explain(error, trail))
        if not 200 <= answer.status <= 599:
            return self._failed(
                started, trail, Failure.BROKEN_RESPONSE, f"status {answer.status} is no answer to a POST"
            )
        return self._answered(started, trail, answer)

    async def _post(self, request: Request, trail: _Trail) -> _Answer:
        target = self._target(request.url)
        trail.literal = target.literal
        try:
            return await _exchange(self._pooled, target.url, request, trail)
        except aiohttp.ClientConnectionError:
            if not trail.dropped_while_kept_alive():
                raise
        except aiohttp.ClientResponseError:
            answer = _salvage(trail.protocol.rejected) if trail.protocol is not None else None
            if answer is None:
                raise
            return answer
        trail.stage = Stage.RESOLVING
        return await _exchange(self._fresh, target.url, request, trail)  # Q17

    def _answered(self, started: Now, trail: _Trail, answer: _Answer) -> Outcome:
        retry_after = answer.headers.get(hdrs.RETRY_AFTER)
        return Outcome(
            started_at_ms=started.wall_ms,
            duration_ms=round(self._clock.mono_ms() - started.mono_ms),
            status=answer.status,
            address=trail.address,
            retry_after_ms=None if retry_after is None else parse_retry_after(retry_after, self._clock.wall_ms()),
            control=_control(answer.headers),
            response_headers=_kept(answer.headers),
            response_body=answer.body,
        )

    def _failed(self, started: Now, trail: _Trail, failure: Failure, detail: str) -> Outcome:
        return Outcome(
            started_at_ms=started.wall_ms,
            duration_ms=round(self._clock.mono_ms() - started.mono_ms),
            failure=failure,
            detail=detail,
            address=trail.address,
        )

    def _session(self, **pool: Any) -> aiohttp.ClientSession:
        connector = _Connector(
            limit=0,  # the dispatcher decides how much is in flight
            ssl=self._tls or True,
            resolver=self._resolver,
            use_dns_cache=False,  # the resolver has its own
            socket_factory=self._open_socket,
            **pool,
        )
        connect_s = self._settings.connect_timeout_ms / 1000
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=connect_s, ceil_threshold=math.inf),
            headers={hdrs.USER_AGENT: self._settings.user_agent, hdrs.ACCEPT_ENCODING: "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
        )

    def _open_socket(self, addr_info: AddrInfo) -> socket.socket:
        trail = _trail.get()
        trail.stage = Stage.CONNECTING
        try:
            return self._guard.socket_factory(addr_info)
        except ForbiddenAddress:
            trail.refused = True  # among several addresses aiohttp would lose the exception
            raise


def strict_tls() -> ssl.SSLContext:
    """Return a context that verifies certificate and host name and speaks TLS 1.2 or later."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def parse_retry_after(value: str, now_ms: int) -> int | None:
    """Read a `Retry-After` header, seconds or a date (RFC 9110 §10.2.3), as milliseconds from now; None for nonsense."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0")
        return 1000 * (int(digits or "0") if len(digits) <= MAX_SECONDS_DIGITS else MAX_SECONDS)
    try:
        date = parsedate_to_datetime(text)
        at_ms = date.replace(tzinfo=date.tzinfo or UTC).timestamp() * 1000
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0, round(at_ms) - now_ms)


def _parse_target(text: str) -> _Target:
    try:
        url = URL(text)
    except ValueError as error:
        raise _Unsendable("the URL cannot be parsed") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise _Unsendable("the URL is not an http or https URL")
    if url.raw_user or url.raw_password:
        raise _Unsendable("the URL holds a user name or a password")
    return _Target(url, literal=_is_address(url.host))


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def _exchange(session: aiohttp.ClientSession, url: URL, request: Request, trail: _Trail) -> _Answer:
    large = len(request.body) > LARGE_BODY_BYTES
    body = io.BytesIO(request.body) if large else request.body
    response = await session.post(url, data=body, headers=request.headers, allow_redirects=False)
    try:
        trail.stage, trail.status = Stage.READING, response.status
        return _Answer(response.status, response.headers, await _read(response.content))
    finally:
        if not response.closed:  # the connection of a body that was read whole is back in the pool
            response.close()


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    while not content.at_eof() and len(body) <= MAX_BODY_BYTES:
        body += await content.read(MAX_BODY_BYTES + 1 - len(body))
    return bytes(body[:MAX_BODY_BYTES])


def _salvage(data: bytes) -> _Answer | None:
    """Read an answer whose receiver sent more than it announced: a 204 with a body, a Content-Length that is too small.

    aiohttp loses it when the surplus comes in the same segment; every other client takes it for the answer that it is.
    """
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    status = _STATUS_LINE.fullmatch(status_line)
    fields = [_FIELD.fullmatch(line) for line in lines]
    if not status or not all(fields):
        return None
    headers = CIMultiDictProxy(CIMultiDict((field[1], field[2]) for field in fields if field))
    length = 0 if status[1] == "204" else _announced_length(headers)
    if length is None or len(rest) <= length:
        return None
    return _Answer(int(status[1]), headers, rest[: min(length, MAX_BODY_BYTES)])


def _announced_length(headers: CIMultiDictProxy[str]) -> int | None:
    lengths = headers.getall(hdrs.CONTENT_LENGTH, [])
    if hdrs.TRANSFER_ENCODING in headers or len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        return None
    return int(lengths[0])


def _control(headers: CIMultiDictProxy[str]) -> str | None:
    word = headers.get(CONTROL_HEADER, "").strip().lower()
    return word if word in CONTROLS else None


def _kept(headers: CIMultiDictProxy[str]) -> tuple[HeaderPair, ...]:
    pairs = islice(headers.items(), MAX_KEPT_HEADERS)
    return tuple([HeaderPair(name, _text(value[:MAX_KEPT_VALUE])) for name, value in pairs])


def _text(value: str) -> str:
    return value if value.isascii() else _printable(value)


def _printable(text: str) -> str:
    decoded = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in decoded)


def _explain(error: Exception, trail: _Trail) -> tuple[Failure, str]:
    if trail.refused or isinstance(error, ForbiddenAddress):
        return _BLOCKED[trail.literal]
    match error:
        case TimeoutError():
            return _LATE[trail.stage]
        case aiohttp.ClientConnectorDNSError():
            return Failure.DNS, f"the name does not resolve: {_reason(error.os_error)}"
        case aiohttp.ClientConnectorCertificateError():
            return Failure.TLS, f"certificate refused: {_reason(error.certificate_error)}"
        case aiohttp.ClientConnectorSSLError():
            return Failure.TLS, f"TLS failed: {_reason(error.os_error)}"
        case aiohttp.ClientConnectorError(os_error=ConnectionResetError() | ConnectionAbortedError()):
            return Failure.TLS, "the peer ended the TLS handshake"  # in TCP's own it would have refused
        case aiohttp.ClientConnectorError():
            return Failure.CONNECT, f"no connection: {_reason(error.os_error)}"
        case _Unsendable():
            return Failure.INVALID_REQUEST, str(error)
        case aiohttp.InvalidURL():
            return Failure.INVALID_REQUEST, "the URL's host is not a valid name or address"
        case ValueError() | TypeError():
            return Failure.INVALID_REQUEST, "a header holds characters that cannot be sent"
        case _:
            return Failure.BROKEN_RESPONSE, _broken(error, trail)


def _broken(error: Exception, trail: _Trail) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return "the answer is not HTTP, or its head is too large"
    if trail.stage is Stage.READING:
        return f"the answer {trail.status} broke off"
    if isinstance(error, aiohttp.ClientError):
        return "the connection ended before an answer"
    return f"the exchange failed ({type(error).__name__})"


def _reason(error: Exception) -> str:
    words = getattr(error, "verify_message", None) or getattr(error, "reason", None)  # certificates; TLS
    if not words and isinstance(error, OSError):
        number = error.errno or 0
        words = os.strerror(number) if number > 0 else error.strerror  # asyncio's own words hold the address
    return _printable(str(words or type(error).__name__))[:MAX_REASON]


_BLOCKED = {  # one text, whatever is there: a tenant's failed attempts must not map our network (reliability §3.1)
    True: (Failure.BLOCKED_ADDRESS, "the URL's address is not public; `delivery.allow_networks` opens networks"),
    False: (
        Failure.BLOCKED_NAME,
        "the URL's host resolves to an address that is not public; `delivery.allow_networks` opens networks",
    ),
}
_LATE = {
    Stage.RESOLVING: (Failure.DNS, "the name servers did not answer in time"),
    Stage.CONNECTING: (Failure.CONNECT, "no connection was made in time"),
    Stage.WAITING: (Failure.TIMEOUT, "no answer came in time"),
    Stage.READING: (Failure.TIMEOUT, "the answer did not end in time"),
}
