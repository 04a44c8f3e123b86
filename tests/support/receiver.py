"""A real HTTP receiver on a free port that records what it was sent and answers from a script."""

import asyncio
import inspect
import ssl as tls_module
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web
from multidict import CIMultiDictProxy


@dataclass(frozen=True, slots=True)
class Received:
    """One request, as it arrived."""

    number: int  # from 1, in order of arrival
    method: str
    path: str  # with its query
    headers: CIMultiDictProxy[str]
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    connection: int  # from 1: which connection it came over


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


Reply = Answer | int
Script = Reply | Callable[[Received], Reply | Awaitable[Reply]]


class Receiver:
    """Answers request n with `script[n - 1]`, and with `default` when the script has ended.

    An entry is a status, an `Answer`, or a function (plain or async) of the request: one that awaits a future holds its
    request open.

        async with Receiver(500, Answer(429, {"Retry-After": "7"})) as receiver:
            ...  # post to receiver.url
            await receiver.wait_for(3)
    """

    def __init__(self, *script: Script, default: Script = 204, tls: tls_module.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self._script = list(script)
        self._default = default
        self._tls = tls
        self._connections: dict[int, int] = {}
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._handle), handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.shutdown()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"{'https' if self._tls else 'http'}://{'localhost' if self._tls else '127.0.0.1'}:{self.port}/hook"

    async def wait_for(self, count: int) -> list[Received]:
        """Wait until `count` requests have arrived, and return them all."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.received) >= count)
        return self.received

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        received = await self._record(request, body)
        entry = self._script[received.number - 1] if received.number <= len(self._script) else self._default
        reply = entry(received) if callable(entry) else entry
        answer = await reply if inspect.isawaitable(reply) else reply
        if isinstance(answer, int):
            answer = Answer(answer)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body or None)

    async def _record(self, request: web.BaseRequest, body: bytes) -> Received:
        connection = self._connections.setdefault(id(request.protocol), len(self._connections) + 1)
        async with self._arrived:
            received = Received(
                number=len(self.received) + 1,
                method=request.method,
                path=request.raw_path,
                headers=request.headers,
                raw_headers=request.raw_headers,
                body=body,
                connection=connection,
            )
            self.received.append(received)
            self._arrived.notify_all()
        return received
