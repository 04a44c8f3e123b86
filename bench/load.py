"""The load: events over kept-alive connections, as fast as they are answered, or at a steady rate.

Without `--rate` each connection sends its next request when the last was answered. With it requests leave at their time
on whichever connection is free, and their latency counts from that time, so that a stall is seen by all that it delays.
Prints one JSON object: accepted, refused, seconds, and the latency of an answer at the 50th and 99th percentile.
"""

import argparse
import asyncio
import json
import time
from collections import deque
from typing import cast

import uvloop

from bench.receiver import STAMP, split

MARK = b"98761234"
"""Eight digits of a body that become the number of its event, so that no event repeats another."""


class Load:
    """What is left to send and what came of the rest. Shared by all connections."""

    def __init__(self, events: int, requests: list[bytes], *, per_request: int = 1) -> None:
        """Send `requests` in turn; a mark in one becomes a number, a stamp the time."""
        self._requests = requests
        self._per_request = per_request
        self.left = events
        self.accepted = 0
        self.refused = 0
        self.first_refusal = ""
        self.latencies_s: list[float] = []
        self.done = asyncio.Event()
        self.idle: deque[Sender] = deque()  # when there is a rate
        self.due: deque[float] = deque()  # times of requests that found no idle connection
        self.paced = False
        self._under_way = 0

    def next_request(self) -> bytes:
        """Take one of those that are left."""
        self.left -= self._per_request
        self._under_way += 1
        request = self._requests[self.left // self._per_request % len(self._requests)]
        if MARK in request:
            request = request.replace(MARK, b"%08d" % (self.left % 100_000_000))
        return request.replace(STAMP, b"%020d" % time.monotonic_ns()) if STAMP in request else request

    def answered(self, sender: "Sender", head: bytes, body: bytes, seconds: float) -> None:
        """Count an answer, and let its connection send again."""
        self._under_way -= 1
        self.latencies_s.append(seconds)
        if head.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")):
            self.accepted += self._per_request
        else:
            self.refused += self._per_request
            self.first_refusal = self.first_refusal or body[:500].decode(errors="replace")
        if self.left < self._per_request:
            if not self._under_way:
                self.done.set()
        elif not self.paced:
            sender.send(time.perf_counter())
        elif self.due:
            sender.send(self.due.popleft())
        else:
            self.idle.append(sender)

    async def pace(self, rate: float) -> None:
        """Send at a steady rate; what finds no idle connection goes when one becomes free."""
        started, sent, requests = time.perf_counter(), 0, self.left // self._per_request
        while sent < requests:
            due = min(int((time.perf_counter() - started) * rate) + 1, requests)
            for number in range(sent, due):
                at = started + number / rate
                if self.idle:
                    self.idle.popleft().send(at)
                else:
                    self.due.append(at)
            sent = due
            await asyncio.sleep(max(started + sent / rate - time.perf_counter(), 0.0005))


class Sender(asyncio.Protocol):
    """One connection: send, wait for the answer."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._pending = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def send(self, at: float) -> None:
        """Send the next request, whose latency counts from a time."""
        self._sent_at = at
        self.transport.write(self._load.next_request())

    def data_received(self, data: bytes) -> None:
        self._pending += data
        answer = split(self._pending)
        if answer is None:
            return
        head, body, self._pending = answer
        self._load.answered(self, head, body, time.perf_counter() - self._sent_at)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.first_refusal = self._load.first_refusal or f"a connection ended: {exc}"
        self._load.done.set()


def padded_event(body_bytes: int, event_type: str = "bench.event", members: str = "") -> bytes:
    """Make an event whose JSON is exactly `body_bytes` long; `members` are JSON members with a comma behind each."""
    empty = b'{%b"type":"%b","data":{"at":"%b","padding":""}}' % (members.encode(), event_type.encode(), STAMP)
    if len(empty) > body_bytes:
        empty = b'{%b"type":"%b","data":{"padding":""}}' % (members.encode(), event_type.encode())
    return empty[:-3] + b"x" * (body_bytes - len(empty)) + empty[-3:]


def request_bytes(token: str, body: bytes, path: str = "/v1/events") -> bytes:
    """Build the request that posts an event."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def requests_of(arguments: argparse.Namespace) -> list[bytes]:
    """Build the requests that are sent in turn: one for each application, or for each ordering key."""
    owners = [f'"application":"app-{number}",' for number in range(arguments.applications)] or [""]
    keys = [f'"ordering_key":"k{number}",' for number in range(arguments.ordering_keys)] or [""]
    events = [padded_event(arguments.body_bytes, arguments.type, owner + key) for owner in owners for key in keys]
    if arguments.event:
        events = [arguments.event.encode()]
    if arguments.batch == 1:
        return [request_bytes(arguments.token, event) for event in events]
    batches = [b"[" + b",".join([event] * arguments.batch) + b"]" for event in events]
    return [request_bytes(arguments.token, batch, "/v1/events/batch") for batch in batches]


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Send everything and measure."""
    load = Load(
        arguments.events // arguments.batch * arguments.batch, requests_of(arguments), per_request=arguments.batch
    )
    loop = asyncio.get_running_loop()
    senders = []
    for _ in range(min(arguments.connections, max(arguments.events // arguments.batch, 1))):
        if arguments.socket:
            _, sender = await loop.create_unix_connection(lambda: Sender(load), arguments.socket)
        else:
            _, sender = await loop.create_connection(lambda: Sender(load), "127.0.0.1", arguments.port)
        senders.append(sender)
    started = time.monotonic()  # the driver reads the same clock: starting this process is not part of the work
    if arguments.rate:
        load.paced = True
        load.idle.extend(senders)
        await load.pace(arguments.rate)
    else:
        for sender in senders:
            sender.send(time.perf_counter())
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
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--socket", default="", help="a Unix socket, instead of a port")
    parser.add_argument("--token", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0, help="requests per second; 0: as fast as they are answered")
    parser.add_argument("--batch", type=int, default=1, help="events of one request")
    parser.add_argument("--applications", type=int, default=0, help="name app-0, app-1, … in turn")
    parser.add_argument("--ordering-keys", type=int, default=0)
    parser.add_argument("--type", default="bench.event")
    parser.add_argument("--body-bytes", type=int, default=600)
    parser.add_argument("--event", default="", help="what to post, instead of padding to --body-bytes")
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
