"""A receiver that does not limit the figure: answers 204 to every POST, and tells how many there were.

Used where nginx is not installed, and where more is asked of a receiver: to fail one in n, to fall silent on paths that
begin with `/silent`, to say how old the events were that arrived elsewhere. `GET /count` answers how many were taken and
how many connections were opened, `GET /ages` the ages since the last such question. The first line on stdout is the port.
"""

import argparse
import asyncio
import json
import re
import signal
import time
from typing import ClassVar, cast

import uvloop

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"
FAILURE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"

STAMP = b"@" * 20
"""Stands in an event where the load puts the time, in nanoseconds of the clock that all processes share."""

_STAMPED = re.compile(rb'"at":"(\d{20})"')


class Receiver(asyncio.Protocol):
    """One kept-alive connection. The class owns the counts."""

    fail_one_in = 0
    seen = 0
    received = 0
    connections = 0
    ages_ms: ClassVar[list[float]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._pending = b""
        self._posted = False

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (request := split(self._pending)) is not None:
            head, body, self._pending = request
            self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET "):
            return _json(_ages() if head.startswith(b"GET /ages") else [Receiver.received, Receiver.connections])
        if not self._posted:
            self._posted = True
            Receiver.connections += 1
        if head.startswith(b"POST /silent"):
            return b""
        Receiver.seen += 1
        if Receiver.fail_one_in and Receiver.seen % Receiver.fail_one_in == 0:
            return FAILURE
        Receiver.received += 1
        if (stamped := _STAMPED.search(body, 0, 400)) is not None:
            Receiver.ages_ms.append((time.monotonic_ns() - int(stamped[1])) / 1e6)
        return NO_CONTENT


def _ages() -> dict[str, float]:
    ages, Receiver.ages_ms = sorted(Receiver.ages_ms) or [0.0], []
    at = {"p50": len(ages) // 2, "p90": len(ages) * 9 // 10, "p99": len(ages) * 99 // 100, "most": -1}
    return {"count": len(ages)} | {name: ages[index] for name, index in at.items()}


def _json(value: object) -> bytes:
    text = json.dumps(value).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)


def split(pending: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Cut one message with a Content-Length off the front: head, body, rest; None while it is not complete."""
    head, separator, rest = pending.partition(b"\r\n\r\n")
    if not separator:
        return None
    _, found, after = head.lower().partition(b"content-length:")
    length = int(after.partition(b"\r\n")[0]) if found else 0
    return None if len(rest) < length else (head, rest[:length], rest[length:])


async def main(arguments: argparse.Namespace) -> None:
    Receiver.fail_one_in = arguments.fail_one_in
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Receiver, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fail-one-in", type=int, default=0)
    uvloop.run(main(parser.parse_args()))
