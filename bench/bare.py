"""The bare pipeline: what this machine can do with the same libraries, the same durability and nothing else.

aiohttp server → one writer thread that commits whatever has queued up (WAL, synchronous FULL) → aiohttp client with one
HMAC header → receiver, and the delivery's end written back by the same writer. No tokens, no matching, no limits, no
retries, no guard, no idempotency, no lanes, no logs. With `--lean` the relay's own courier stands in the client's place:
what is left between that and the relay is everything but the exchange. The first line on stdout is the port.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import queue
import signal
import sqlite3
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
import uvloop
from aiohttp import web

from relay.core.clock import SystemClock
from relay.core.netguard import Guard
from relay.core.tls import TlsIdentity
from relay.delivery.courier import Courier, CourierSettings, Request
from relay.delivery.resolver import Resolver

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE event (id INTEGER PRIMARY KEY, type TEXT, created_at INTEGER, body BLOB) STRICT;
CREATE TABLE delivery (event INTEGER, endpoint INTEGER, state INTEGER, PRIMARY KEY (event, endpoint))
  STRICT, WITHOUT ROWID;
"""
KEY = b"k" * 32


class Event(NamedTuple):
    id: int
    type: str
    created_at: int
    body: bytes


class Writer(threading.Thread):
    """Owner of the connection. Everything that queued up during one commit forms the next."""

    def __init__(self, path: str, fan_out: int, on_committed: Callable[[Sequence[Event]], None]) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._fan_out = fan_out
        self._on_committed = on_committed
        self.queue: queue.SimpleQueue[Event | tuple[int, int]] = queue.SimpleQueue()

    def run(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None)
        connection.executescript(SCHEMA)
        while True:
            events: list[Event] = []
            settled: list[tuple[int, int]] = []
            item = self.queue.get()
            while True:
                if isinstance(item, Event):
                    events.append(item)
                else:
                    settled.append(item)
                try:
                    item = self.queue.get_nowait()
                except queue.Empty:
                    break
            self._commit(connection, events, settled)
            self._on_committed(events)

    def _commit(self, connection: sqlite3.Connection, events: list[Event], settled: list[tuple[int, int]]) -> None:
        owed = [(event.id, endpoint) for event in events for endpoint in range(self._fan_out)]
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO event VALUES (?, ?, ?, ?)", events)
        connection.executemany("INSERT INTO delivery VALUES (?, ?, 0)", owed)
        connection.executemany("UPDATE delivery SET state = 1 WHERE event = ? AND endpoint = ?", settled)
        connection.execute("COMMIT")


Post = Callable[[str, bytes, dict[str, str]], Awaitable[int | None]]
"""Sends a body with headers to a URL; the status of the answer."""


class Pipeline:
    """Intake, hand-over and delivery in one loop."""

    def __init__(self, path: str, urls: list[str], post: Post) -> None:
        self._urls = urls
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(path, len(urls), self._hand_back)
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._due: asyncio.Queue[tuple[Event, int]] = asyncio.Queue()
        self._next_id = 0

    def start(self, concurrency: int) -> list[asyncio.Task[None]]:
        """Start the writer and `concurrency` workers."""
        self._writer.start()
        return [asyncio.create_task(self._deliver()) for _ in range(concurrency)]

    async def accept(self, request: web.Request) -> web.Response:
        """Answer 202 after the commit."""
        body = await request.read()
        self._next_id += 1
        event = Event(self._next_id, orjson.loads(body)["type"], time.time_ns() // 1_000_000, body)
        self._answers[event.id] = answer = self._loop.create_future()
        self._writer.queue.put(event)
        await answer
        return web.Response(status=202, body=orjson.dumps({"id": event.id}), content_type="application/json")

    def _hand_back(self, events: Sequence[Event]) -> None:
        self._loop.call_soon_threadsafe(self._committed, events)

    def _committed(self, events: Sequence[Event]) -> None:
        for event in events:
            self._answers.pop(event.id).set_result(None)
            for endpoint in range(len(self._urls)):
                self._due.put_nowait((event, endpoint))

    async def _deliver(self) -> None:
        while True:
            event, endpoint = await self._due.get()
            signature = base64.b64encode(hmac.digest(KEY, b"%d." % event.id + event.body, hashlib.sha256))
            headers = {"webhook-signature": "v1," + signature.decode(), "content-type": "application/json"}
            if await self._post(self._urls[endpoint], event.body, headers) == 204:
                self._writer.queue.put((event.id, endpoint))


@asynccontextmanager
async def aiohttp_client(ca: str) -> AsyncIterator[Post]:
    """Post as most Python programs would, with what is known to make it fast."""
    tls = ssl.create_default_context(cafile=ca) if ca else True
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=15),
        auto_decompress=False,
        read_bufsize=16384,
    )

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int:
        async with session.post(url, data=body, headers=headers) as response:
            await response.read()
        return response.status

    async with session:
        yield post


@asynccontextmanager
async def relays_client(ca: str) -> AsyncIterator[Post]:
    """Post over the relay's own courier, with its guard and its deadlines."""
    clock, guard = SystemClock(), Guard([ip_network("127.0.0.0/8")])
    resolver = Resolver(guard, clock)
    tls = TlsIdentity(ca=await asyncio.to_thread(Path(ca).read_text) if ca else "")
    courier = Courier(clock, guard, resolver, CourierSettings(tls=tls))
    await courier.start()

    async def post(url: str, body: bytes, headers: dict[str, str]) -> int | None:
        return (await courier.attempt(Request(url, headers, body, 15_000))).status

    yield post
    await courier.close()
    await resolver.close()


async def main(arguments: argparse.Namespace) -> None:
    sys.setswitchinterval(0.0001)
    urls = [f"{arguments.receiver}/{number}" for number in range(arguments.fan_out)]
    client = relays_client if arguments.lean else aiohttp_client
    async with client(arguments.ca) as post:
        pipeline = Pipeline(arguments.database, urls, post)
        tasks = pipeline.start(arguments.concurrency)
        app = web.Application(client_max_size=2 << 20)
        app.router.add_post("/v1/events", pipeline.accept)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        await _until_told_to_stop(tasks)
        await runner.cleanup()


async def _until_told_to_stop(tasks: list[asyncio.Task[Any]]) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    waiting = asyncio.create_task(stopped.wait())
    # A worker that dies ends the run: a figure from a broken pipeline is worse than none.
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {waiting}:
        task.result()
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--receiver", required=True)
    parser.add_argument("--fan-out", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--lean", action="store_true", help="deliver over the relay's own courier")
    parser.add_argument("--ca", default="", help="who signs the receiver's certificate")
    uvloop.run(main(parser.parse_args()))
