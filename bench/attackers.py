"""Clients that mean harm, in a process of their own: `python -m bench.attackers`, with an `Attack` as JSON on stdin.

It opens every client, each of which comes back when its connection ends, until its stdin ends; then it prints as JSON what
became of them. What is measured is what the relay does to others, not who wins the cores that all of them share here, so it
is as nice as a process can be: the relay, and the producer beside it, have a core when they want one.
"""

import asyncio
import contextlib
import json
import os
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import uvloop

from bench.receiver import split
from tests.support.warm import ROOT

NICE = 19
AT_ONCE = 100
"""Connections that are being opened at a time."""

RETURN_S = 10.0
"""When a client comes back whose connection was ended, or could not be opened."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call that a client makes, with a body of JSON or none."""

    method: str
    path: str
    token: str = ""
    body: str = ""

    def written(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: relay.example"]
        lines += [f"Authorization: Bearer {self.token}"] if self.token else []
        lines += ["Content-Type: application/json", f"Content-Length: {len(self.body)}"] if self.body else []
        return "\r\n".join((*lines, "\r\n")).encode() + self.body.encode()


@dataclass(frozen=True, slots=True)
class Attack:
    """What every client does: it takes its request by its number."""

    port: int
    clients: int
    requests: Sequence[Request]
    pipelined: int = 1  # sent at once
    reads: bool = True
    drips: bool = False  # a byte a second
    again_s: float | None = None  # after an answer it waits so long and asks again; None: it does not


class Client(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, attack: Attack, sent: bytes, seen: Counter[str]) -> None:
        self._attack = attack
        self._sent = sent
        self._seen = seen
        self._pending = b""
        self._loop = asyncio.get_running_loop()
        self.ended = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._seen["connections"] += 1
        if not self._attack.reads:
            self._loop.call_soon(self._transport.pause_reading)  # uvloop begins to read after this
        self._drip(0) if self._attack.drips else self._ask()

    def data_received(self, data: bytes) -> None:
        if not self._attack.reads:
            return
        self._pending += data
        while (answer := split(self._pending)) is not None:
            head, _, self._pending = answer
            self._seen[head[9:12].decode()] += 1
            if self._attack.again_s is not None:
                self._loop.call_later(self._attack.again_s, self._ask)

    def connection_lost(self, exc: Exception | None) -> None:
        self._seen["ended"] += 1
        if not self.ended.done():
            self.ended.set_result(None)

    def _ask(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._sent * self._attack.pipelined)

    def _drip(self, place: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._sent[place : place + 1])
            self._loop.call_later(1, self._drip, place + 1)


async def attack_with(attack: Attack, sent: bytes, opening: asyncio.Semaphore, seen: Counter[str]) -> None:
    """Be one client, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(OSError):
            async with opening:
                _, connection = await loop.create_connection(
                    lambda: Client(attack, sent, seen), "127.0.0.1", attack.port
                )
            await connection.ended
        await asyncio.sleep(RETURN_S)


async def besiege(attack: Attack) -> Counter[str]:
    """Run every client until stdin ends; return what became of them."""
    seen: Counter[str] = Counter()
    opening = asyncio.Semaphore(AT_ONCE)
    sent = [request.written() for request in attack.requests]
    clients = [
        asyncio.create_task(attack_with(attack, sent[number % len(sent)], opening, seen))
        for number in range(attack.clients)
    ]
    await asyncio.to_thread(sys.stdin.read)
    for client in clients:
        client.cancel()
    await asyncio.wait(clients)
    return seen


class Attackers:
    """The process, as whoever started it sees it."""

    def __init__(self, attack: Attack) -> None:
        command = [sys.executable, "-m", "bench.attackers"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.seen: dict[str, int] = {}  # known when it has ended
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(attack)) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End it, and with it every connection."""
        output, _ = self._process.communicate()
        self.seen = json.loads(output)


@contextlib.asynccontextmanager
async def attacked(attack: Attack) -> AsyncIterator[Attackers]:
    """Let every client attack as long as the context lasts."""
    attackers = await asyncio.to_thread(Attackers, attack)
    try:
        yield attackers
    finally:
        await asyncio.to_thread(attackers.end)


def main() -> None:
    os.nice(NICE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    given["requests"] = [Request(**each) for each in given["requests"]]
    print(json.dumps(uvloop.run(besiege(Attack(**given)))))


if __name__ == "__main__":
    main()
