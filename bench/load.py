"""The load: a fixed number of events over kept-alive connections, each sending its next when the last was answered.

Prints one JSON object: accepted, refused, seconds, and the latency of an answer at the 50th and 99th percentile.
"""

import argparse
import asyncio
import json
import time
from typing import cast

import uvloop

from bench.receiver import split


class Load:
    """What is left to send and what came of the rest. Shared by all connections."""

    def __init__(self, events: int, request: bytes, mark: bytes = b"") -> None:
        """Send `request`, in which a number stands in the place of `mark`, so that no event repeats another."""
        self._head, self._mark, self._tail = request.partition(mark) if mark else (request, b"", b"")
        self.left = events
        self.accepted = 0
        self.refused = 0
        self.first_refusal = ""
        self.latencies_s: list[float] = []
        self.open = 0
        self.done = asyncio.Event()

    def next_request(self) -> bytes:
        """Take one of those that are left."""
        self.left -= 1
        return b"%s%08d%s" % (self._head, self.left, self._tail) if self._mark else self._head


class Sender(asyncio.Protocol):
    """One connection: send, wait for the answer, send."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pending = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._load.open += 1

    def send(self) -> None:
        """Send the next event, or close when there is none left."""
        if self._load.left == 0:
            self._transport.close()
            return
        request = self._load.next_request()
        self._sent_at = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._pending += data
        answer = split(self._pending)
        if answer is None:
            return
        head, body, self._pending = answer
        self._load.latencies_s.append(time.perf_counter() - self._sent_at)
        if head.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")):
            self._load.accepted += 1
        else:
            self._load.refused += 1
            self._load.first_refusal = self._load.first_refusal or body[:500].decode(errors="replace")
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.open -= 1
        if self._load.open == 0:
            self._load.done.set()


def padded_event(body_bytes: int) -> bytes:
    """Make an event whose JSON is exactly `body_bytes` long."""
    empty = b'{"type":"bench.event","data":{"padding":""}}'
    return empty[:-3] + b"x" * (body_bytes - len(empty)) + empty[-3:]


def request_bytes(host: str, token: str, body: bytes) -> bytes:
    """Build the request that posts an event."""
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Send everything and measure."""
    event = arguments.event.encode() or padded_event(arguments.body_bytes)
    load = Load(arguments.events, request_bytes("127.0.0.1", arguments.token, event), arguments.mark.encode())
    loop = asyncio.get_running_loop()
    opened = [
        loop.create_connection(lambda: Sender(load), "127.0.0.1", arguments.port) for _ in range(arguments.connections)
    ]
    senders = [sender for _, sender in await asyncio.gather(*opened)]
    started = time.monotonic()  # the driver reads the same clock: starting this process is not part of the work
    for sender in senders:
        sender.send()
    await load.done.wait()
    seconds = time.monotonic() - started
    latencies = sorted(load.latencies_s) or [0.0]
    return {
        "accepted": load.accepted,
        "refused": load.refused,
        "first_refusal": load.first_refusal,
        "started_at": started,
        "seconds": seconds,
        "p50_ms": latencies[len(latencies) // 2] * 1000,
        "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--body-bytes", type=int, default=600)
    parser.add_argument("--event", default="", help="what to post, instead of padding to --body-bytes")
    parser.add_argument("--mark", default="", help="eight characters of the event that become a number")
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
