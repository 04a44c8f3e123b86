"""The connections of a courier: those that wait for their next request, and how long and how many may."""

import asyncio
from collections import OrderedDict, deque

from relay.core.netguard import Reach
from relay.core.tls import TlsIdentity
from relay.delivery.exchange import Connection

IDLE_S = 15.0
"""How long a connection waits for its next request."""
AGE_S = 300.0
"""How old it may grow: names move, and what answers behind an address changes."""
LINGERING_MAX = 64
"""How many connections may still read the rest of a body that nobody waits for."""

Origin = tuple[str, str, int, Reach, TlsIdentity | None]
"""Scheme, host, port, the reach of whoever dialled, and how TLS is spoken there: nobody gets a connection that he could not
have made, or that was made with another's certificate."""


class Pool:
    """Owns every open connection, idle or not. Each operation is O(1), but for the end of many at once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, idle_max: int) -> None:
        self._loop = loop
        self._idle_max = idle_max
        self._origins: dict[Connection, Origin] = {}  # every open connection
        self._idle: dict[Origin, deque[Connection]] = {}  # the one that waits longest first
        self._waiting: OrderedDict[Connection, None] = OrderedDict()  # the same, over all origins
        self._lingering: OrderedDict[Connection, None] = OrderedDict()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._empty = asyncio.Event()

    def add(self, origin: Origin, connection: Connection) -> None:
        """Take charge of a new connection."""
        self._origins[connection] = origin
        if self._is_closed:
            connection.abort()

    def take(self, origin: Origin) -> Connection | None:
        """Return a connection that waits for its next request, the one used last; None when there is none."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        connection = idle.pop()
        del self._waiting[connection]
        return connection

    def keep(self, connection: Connection) -> None:
        """Take a connection back that can carry another request."""
        now = self._loop.time()
        self._lingering.pop(connection, None)
        if self._is_closed or now - connection.opened_at > AGE_S:
            connection.abort()
            return
        connection.kept_at = now
        self._waiting[connection] = None
        self._idle.setdefault(self._origins[connection], deque()).append(connection)
        if len(self._waiting) > self._idle_max:
            self._drop_oldest()
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(IDLE_S, self._sweep)

    def linger(self, connection: Connection) -> None:
        """Note that a connection reads the rest of a body; the one that has done so longest ends when there are many."""
        self._lingering[connection] = None
        if len(self._lingering) > LINGERING_MAX:
            self._lingering.popitem(last=False)[0].abort()

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        origin = self._origins.pop(connection, None)
        self._lingering.pop(connection, None)
        if origin is not None and connection in self._waiting:
            del self._waiting[connection]
            self._idle[origin].remove(connection)
            self._tidy(origin)
        if self._is_closed and not self._origins:
            self._empty.set()

    async def close(self) -> None:
        """End every connection, and wait until their sockets are closed. Safe twice."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self._origins):
            connection.abort()
        if self._origins:
            await self._empty.wait()

    def _sweep(self) -> None:
        now = self._loop.time()
        while self._waiting:
            oldest = next(iter(self._waiting))
            left_s = oldest.kept_at + IDLE_S - now
            if left_s > 0:
                self._sweeper = self._loop.call_later(left_s, self._sweep)
                return
            self._drop_oldest()
        self._sweeper = None

    def _drop_oldest(self) -> None:
        oldest, _ = self._waiting.popitem(last=False)
        origin = self._origins[oldest]
        self._idle[origin].popleft()
        self._tidy(origin)
        oldest.abort()

    def _tidy(self, origin: Origin) -> None:
        if not self._idle[origin]:
            del self._idle[origin]
