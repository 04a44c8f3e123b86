"""A server of raw bytes on a free port, for receivers that are broken or hostile (reliability T8)."""

import asyncio
import contextlib
import socket
import ssl as tls_module
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self


class Wire:
    """One accepted connection, as a behaviour sees it."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number  # from 1
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """Read one request, head and body."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return head + await self._reader.readexactly(length)

    async def head(self) -> bytes:
        """Read the head of a request and leave its body."""
        return await self._reader.readuntil(b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Send bytes; `ConnectionError` when the peer is gone."""
        if self._writer.is_closing():  # asyncio would drop it and say so in its log, uvloop raise what it likes
            raise ConnectionResetError
        self._writer.write(data)
        await self._writer.drain()
        await asyncio.sleep(0)  # `drain` gives nobody else a turn while the peer takes everything

    async def reset(self) -> None:
        """End the connection with RST."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def until_closed(self) -> None:
        """Keep silent until the peer goes away."""
        while await self._reader.read(65536):
            pass

    async def ignore(self) -> None:
        """Read nothing until the test is over."""
        await asyncio.Event().wait()


Behaviour = Callable[[Wire], Awaitable[None]]


class Hostile:
    """Runs `behaviour` on every connection and closes it when the behaviour returns.

    async with Hostile(behaviour) as server: ...  # post to server.url
    """

    def __init__(
        self, behaviour: Behaviour, *, tls: tls_module.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> None:
        self._behaviour = behaviour
        self._tls = tls
        self._host = host
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.connected = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"{'https' if self._tls else 'http'}://{'localhost' if self._tls else '127.0.0.1'}:{self.port}/hook"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        self.connected.set()
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._behaviour(Wire(self.connections, reader, writer))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        except asyncio.CancelledError:
            pass  # the test is over; asyncio would log a cancelled task as an error
        finally:
            writer.transport.abort()


async def silent(wire: Wire) -> None:
    """Accept and never answer."""
    await wire.until_closed()


async def reset_at_once(wire: Wire) -> None:
    """RST before the request is read."""
    await wire.reset()


async def reset_after_request(wire: Wire) -> None:
    """RST instead of an answer."""
    await wire.request()
    await wire.reset()


async def close_after_request(wire: Wire) -> None:
    """FIN instead of an answer."""
    await wire.request()


async def reset_in_head(wire: Wire) -> None:
    """RST in the middle of the head."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-")
    await wire.reset()


async def reset_in_body(wire: Wire) -> None:
    """RST in the middle of the body."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    await wire.reset()


async def truncated_body(wire: Wire) -> None:
    """FIN before the promised length."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


async def truncated_chunks(wire: Wire) -> None:
    """FIN before the last chunk."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")


async def drip_head(wire: Wire) -> None:
    """A head that never ends, header by header, as fast as the peer reads."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    await wire.until_closed()


async def drip_body(wire: Wire) -> None:
    """A body that stops half way and stays open."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nslow")
    await wire.until_closed()


async def endless_chunks(wire: Wire) -> None:
    """A chunked body without end."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await wire.send(b"1000\r\n" + b"x" * 4096 + b"\r\n")


async def endless_body(wire: Wire) -> None:
    """A body without length and end."""
    await wire.request()
    await wire.send(b"HTTP/1.1 500 Oops\r\n\r\n")
    while True:
        await wire.send(b"x" * 65536)


async def tiny_chunks(wire: Wire) -> None:
    """An endless body in chunks of one byte."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await wire.send(b"1\r\nx\r\n" * 4096)


async def header_flood(wire: Wire) -> None:
    """Headers without end."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await wire.send(b"X-Flood: y\r\n" * 256)


async def odd_header_flood(wire: Wire) -> None:
    """Headers without end that no strict parser takes."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\n")
    while True:
        await wire.send(b"X-Flood : y\n" * 256)


async def huge_chunk_extensions(wire: Wire) -> None:
    """A chunk whose extensions are longer than any answer."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;" + b"x" * 30_000 + b"\r\nok\r\n0\r\n\r\n")


async def long_header(wire: Wire) -> None:
    """One header line of 10 MB."""
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(160):
        await wire.send(b"y" * 65536)


async def continue_flood(wire: Wire) -> None:
    """Interim answers without end."""
    await wire.request()
    while True:
        await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 64)


async def garbage(wire: Wire) -> None:
    """No HTTP at all."""
    await wire.request()
    await wire.send(b"\x16\x03\x01 SSH-2.0-OpenSSH_9.2\r\n\r\n")


async def garbage_at_once(wire: Wire) -> None:
    """No HTTP and no TLS, before anything was asked."""
    await wire.send(b"220 mail.example ESMTP\r\n")
    await wire.until_closed()


def raw(*answers: bytes) -> Behaviour:
    """Answer the n-th request of a connection with the n-th bytes, then close."""

    async def behave(wire: Wire) -> None:
        for answer in answers:
            await wire.request()
            await wire.send(answer)

    return behave


def raw_kept_open(answer: bytes) -> Behaviour:
    """Answer every request with these bytes and keep the connection."""

    async def behave(wire: Wire) -> None:
        while True:
            await wire.request()
            await wire.send(answer)

    return behave
