"""One night of a relay: three applications with four endpoints each, an outage, a refusal, and books of who took what.

The clock is the test's; sockets, database and relay are real. Every five minutes each application posts its share. From
01:00 to 03:00 nobody listens at `acme-archive`; from 01:30 to 02:45 `globex-billing` answers everything with 401.
"""

import asyncio
import re
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from tests.support.clock import FakeClock
from tests.support.daemon import SECRET
from tests.support.stack import Stack

MIDNIGHT_MS = 1_799_971_200_000  # 2027-01-15T00:00:00Z
MINUTE_MS = 60_000
POST_EVERY_MS = 5 * MINUTE_MS
POSTED_FOR_MS = 4 * 60 * MINUTE_MS
TICK_MS = 15_000
REPLAY_TICK_MS = 100
PATIENCE_S = 900.0
"""How long everything that one moment brings may take; in the long form thousands of deliveries."""

ENDPOINTS = {
    application: [f"{application}-{system}" for system in ("archive", "billing", "mail", "search")]
    for application in ("acme", "globex", "initech")
}
DEAD, REFUSING = "acme-archive", "globex-billing"

DELIVERY = 'max_age = "90m"\nretry = { schedule = ["10s", "1m", "10m"], jitter = 0.0 }'
"""Patience that ends within the night, so that something is lost."""

PATIENT = 'retry = { schedule = ["10s", "1m", "10m", "20m", "20m", "20m", "20m"], jitter = 0.0 }\n'
"""At the endpoints of `acme` only `max_age` ends it, whichever deliveries the probes of a cool-down take."""

STAGE = ("warning: delivery.allow_http ", "warning: delivery.allow_networks ")
"""What `relay status` says of receivers without TLS on loopback."""

Taken = tuple[str, str]  # endpoint, event id


def at(clock: str) -> int:
    """Return a time of this night, such as `02:15`, in unix milliseconds."""
    hours, minutes = map(int, clock.split(":"))
    return MIDNIGHT_MS + (hours * 60 + minutes) * MINUTE_MS


class Books:
    """What was owed to whom, and how often it was taken: each once, or it is a mistake."""

    def __init__(self) -> None:
        self.owed: set[Taken] = set()
        self.taken: Counter[Taken] = Counter()

    def never(self) -> list[Taken]:
        """Return what some receiver was owed and has not taken."""
        return sorted(self.owed - self.taken.keys())

    def mistakes(self) -> dict[str, list[Taken]]:
        """Return what was taken more than once, what never, and what without being owed."""
        twice = sorted(one for one, times in self.taken.items() if times > 1)
        return {"twice": twice, "never": self.never(), "invented": sorted(self.taken.keys() - self.owed)}


class Door:
    """A receiver behind a port of its own, which it keeps while nobody listens there."""

    def __init__(self, answer: Callable[[str], int]) -> None:
        self.answer = answer  # of an event's id
        self.connections: set[asyncio.Transport] = set()
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._port.bind(("127.0.0.1", 0))
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        port: int = self._port.getsockname()[1]
        return port

    async def listen(self) -> None:
        """Take connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Caller(self), "127.0.0.1", self.port, reuse_port=True)

    async def shut(self) -> None:
        """Listen no more, and end every connection."""
        if self._server is not None:
            self._server.close()
            for connection in tuple(self.connections):
                connection.abort()
            await self._server.wait_closed()
            self._server = None

    async def close(self) -> None:
        """Shut it, and let the port go."""
        await self.shut()
        self._port.close()


class _Caller(asyncio.Protocol):
    """One connection to a receiver: requests one after the other, each answered at once."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._door.connections.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._door.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, end, rest = self._unread.partition(b"\r\n\r\n")
        if end and len(rest) >= int(_header(head, b"content-length")):
            self._unread = b""
            status = self._door.answer(_header(head, b"webhook-id").decode())
            said = b'{"error": "unknown token"}' if status == 401 else b""
            self._transport.write(b"HTTP/1.1 %d Night\r\ncontent-length: %d\r\n\r\n%b" % (status, len(said), said))


def _header(head: bytes, name: bytes) -> bytes:
    found = re.search(rb"^%b: *(.*?)\r?$" % name, head, re.MULTILINE | re.IGNORECASE)
    assert found is not None, head
    return found[1]


class Night:
    """The relay of the night with its twelve receivers; leaving the context stops all of them."""

    def __init__(self, folder: Path, events: int) -> None:
        self.folder = folder
        self.clock = FakeClock(MIDNIGHT_MS)
        self.books = Books()
        self.arrivals: list[tuple[int, Taken]] = []  # what was taken when, in unix milliseconds
        self.refused_by: set[str] = set()  # endpoints that answer 401
        self._changes = [  # what happens at what time, latest first
            (at("03:00"), self._listens_again),
            (at("02:45"), self._takes_again),
            (at("01:30"), self._refuses),
            (at("01:00"), self._listens_no_more),
        ]
        slots = POSTED_FOR_MS // POST_EVERY_MS * len(ENDPOINTS)
        self._shares = [events // slots + (slot < events % slots) for slot in range(slots)]  # taken from the end
        self._next_post_ms = MIDNIGHT_MS

    async def __aenter__(self) -> Self:
        self.doors = {name: Door(partial(self.answer, name)) for names in ENDPOINTS.values() for name in names}
        for door in self.doors.values():
            await door.listen()
        self.stack = Stack(self.folder, clock=self.clock, **self._config())
        await self.stack.start()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.stack.stop()
        for door in self.doors.values():
            await door.close()

    def answer(self, endpoint: str, event_id: str) -> int:
        """Say what a receiver answers, and write down what it takes."""
        if endpoint in self.refused_by:
            return 401
        self.books.taken[endpoint, event_id] += 1
        self.arrivals.append((self.clock.wall_ms(), (endpoint, event_id)))
        return 204

    async def pass_until(self, time_ms: int) -> None:
        """Let time pass, and everything happen that follows from it; finely while a replay is under way."""
        while (now_ms := self.clock.wall_ms()) < time_ms:
            await self._change()
            if self._shares and self._next_post_ms <= now_ms:
                await self._post()
            await self.stack.quiet(PATIENCE_S)
            self.clock.advance(REPLAY_TICK_MS if self.stack.relay.replays.unfinished else TICK_MS)
        await self._change()
        await self.stack.quiet(PATIENCE_S)

    async def _change(self) -> None:
        """Let happen to receivers what has come."""
        while self._changes and self._changes[-1][0] <= self.clock.wall_ms():
            await self._changes.pop()[1]()

    async def due(self) -> int:
        """How many deliveries are due."""
        status, found = await self.stack.call("GET", "/v1/status")
        assert status == 200
        due: int = found["due"]
        return due

    def unstaged(self, printed: str) -> str:
        """Return what a verb printed as it would stand elsewhere: other paths and URLs, no warnings about this stage."""
        for name, door in self.doors.items():
            application, system = name.split("-")
            printed = printed.replace(f"http://127.0.0.1:{door.port}", f"https://{system}.{application}.example")
            printed = printed.replace(f"127.0.0.1:{door.port}", "192.0.2.10:443")
        lines = [line for line in printed.splitlines(keepends=True) if not line.startswith(STAGE)]
        printed = "".join(lines).rstrip("\n") + "\n"
        printed = printed.replace(f"{self.folder}/config.toml", "/etc/relay/config.toml")
        return printed.replace(str(self.folder), "/var/lib/relay")

    async def _post(self) -> None:
        self._next_post_ms += POST_EVERY_MS
        for application, endpoints in ENDPOINTS.items():
            event = {"type": "order.paid", "application": application, "data": {"amount": 40}}
            status, answers = await self.stack.call("POST", "/v1/events/batch", [event] * self._shares.pop())
            assert status == 200, answers
            ids = [one["body"]["id"] for one in answers["results"]]
            self.books.owed.update((endpoint, event_id) for event_id in ids for endpoint in endpoints)

    async def _listens_no_more(self) -> None:
        await self.doors[DEAD].shut()

    async def _listens_again(self) -> None:
        await self.doors[DEAD].listen()

    async def _refuses(self) -> None:
        self.refused_by.add(REFUSING)

    async def _takes_again(self) -> None:
        self.refused_by.remove(REFUSING)

    def _config(self) -> dict[str, Any]:
        first, *others = ENDPOINTS
        urls = {name: f"http://127.0.0.1:{door.port}/hook" for name, door in self.doors.items()}
        return {
            "endpoints": {name: urls[name] for name in ENDPOINTS[first]},
            "endpoint_settings": PATIENT,
            "delivery": DELIVERY,
            "extra": "\n".join(
                f'[[application]]\nid = "{application}"\n'
                + "".join(
                    f'[[application.endpoint]]\nid = "{name}"\nurl = "{urls[name]}"\nsecret = "{SECRET}"\n'
                    for name in ENDPOINTS[application]
                )
                for application in others
            ),
        }
