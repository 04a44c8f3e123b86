"""From a host to an open connection: names resolved, addresses guarded, TLS verified.

Several addresses are tried in the manner of RFC 8305: families by turns, the next one when the last has failed or has
been silent for a quarter of a second, and the first that connects wins.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, count, zip_longest
from typing import Protocol, TypeVar

from relay.core.netguard import PUBLIC_ONLY, Address, ForbiddenAddress, Guard, Networks, Reach, Sources
from relay.core.urls import Target, host_address
from relay.delivery.trail import Stage, Trail

_BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when it connects, so ports last longer

RECEIVE_BYTES = 4 * 1024
"""What a socket takes in before it is read, until a body comes: over TLS a connection keeps buffers for the largest piece."""

HEAD_START_S = 0.25
"""How long an address is tried alone."""

Place = tuple[int, str]
"""A socket family and an address."""

Made = TypeVar("Made", bound=asyncio.Protocol)


class NotConnected(Exception):
    """No connection came about; the cause says why."""

    def __init__(self, stage: Stage, *, literal: bool) -> None:
        super().__init__()
        self.stage = stage
        self.literal = literal  # the URL's host is an address itself


class NoSource(OSError):
    """No address of this host fits from which a connection should come; the text says why, and what to do."""


class Names(Protocol):
    """Who knows the addresses of a name."""

    async def resolve(self, host: str, opened: Networks = ()) -> Sequence[Place]:
        """Return them; `socket.gaierror` when there are none, `ForbiddenAddress` when one may not be dialled.

        `opened` are the networks that are open to whoever asks.
        """


class Dialler:
    """Opens connections. Owns nothing but what is under way."""

    def __init__(self, guard: Guard, names: Names, timeout_s: float, sources: Sources = ()) -> None:
        """`sources` are the addresses that connections come from where a reach names none."""
        self._guard = guard
        self._names = names
        self._timeout_s = timeout_s
        self._sources = sources
        self._turns = count()  # of connections, for those that may come from several addresses
        self._limits: set[asyncio.Timeout] = set()

    async def connect(
        self,
        target: Target,
        tls: ssl.SSLContext | None,
        deadline: float,
        make: Callable[[str], Made],
        trail: Trail,
        reach: Reach = PUBLIC_ONLY,
    ) -> Made:
        """Return a protocol, made for the address, whose connection is open; `NotConnected` when none comes about.

        The deadline is in the loop's time; the dialler has a limit of its own for all that happens here. The trail enters
        each stage. Without a context there is no TLS. The reach says what may be dialled for this target, and from where.
        """
        address = host_address(target.host)
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout_at(min(deadline, loop.time() + self._timeout_s))
        self._limits.add(limit)
        try:
            async with limit:
                places = [_place(address)] if address else await self._resolve(target.host, trail, reach)
                trail.enter(Stage.CONNECTING)
                connected, chosen = await self._first_of(self._from_here(places, reach), target.port, reach)
                return await self._secure(connected, target, tls, lambda: make(chosen), trail)
        except (OSError, ForbiddenAddress) as error:  # all else is a mistake of our own
            raise NotConnected(trail.stage, literal=address is not None) from error
        finally:
            self._limits.discard(limit)

    def give_up(self) -> None:
        """End what is under way as if its time were over."""
        for limit in self._limits:
            limit.reschedule(0)

    async def _resolve(self, host: str, trail: Trail, reach: Reach) -> Sequence[Place]:
        trail.enter(Stage.RESOLVING)
        return await self._names.resolve(host, reach.networks)

    def _from_here(self, places: Sequence[Place], reach: Reach) -> Sequence[Place]:
        """Return the places that can be reached from where the connections of a reach come from; all where that is open."""
        sources = self._sources_of(reach)
        families = {family_of(source) for source in sources}
        near = [place for place in places if not families or place[0] in families]
        if not near:
            raise NoSource("the receiver has no address of a family that source_addresses lists; add one of ours to it")
        return near

    async def _first_of(self, places: Sequence[Place], port: int, reach: Reach) -> tuple[socket.socket, str]:
        """Return the first socket that connects, and its address."""
        if len(places) == 1:
            return await self._open(places[0], port, reach), places[0][1]
        left = deque(_by_turns(places))
        running: dict[asyncio.Task[socket.socket], str] = {}
        errors: list[BaseException] = []
        try:
            while left or running:
                if left:
                    place = left.popleft()
                    running[asyncio.create_task(self._open(place, port, reach))] = place[1]
                done, _ = await asyncio.wait(
                    running, timeout=HEAD_START_S if left else None, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    address = running.pop(task)
                    error = task.exception()
                    if error is None:
                        return task.result(), address
                    if not isinstance(error, OSError):
                        raise error  # forbidden, or a mistake of our own: no other address makes up for it
                    errors.append(error)
            raise errors[0]
        finally:
            await _call_off(running)

    async def _open(self, place: Place, port: int, reach: Reach) -> socket.socket:
        family, address = place
        made = self._guard.open_socket(family, address, port, reach.networks)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            self._bind(made, reach)
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        except BaseException:
            made.close()
            raise
        return made

    def _sources_of(self, reach: Reach) -> Sources:
        return self._sources if reach.sources is None else reach.sources

    def _bind(self, made: socket.socket, reach: Reach) -> None:
        """Choose where a connection comes from: in turn one of the addresses of its family."""
        sources = self._sources_of(reach)
        fitting = [source for source in sources if family_of(source) == made.family]
        if not fitting:
            return
        made.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        try:
            made.bind((str(fitting[next(self._turns) % len(fitting)]), 0))
        except OSError:
            raise NoSource(
                "an address of source_addresses is no longer this host's; give it back or take it out"
            ) from None

    async def _secure(
        self, opened: socket.socket, target: Target, tls: ssl.SSLContext | None, make: Callable[[], Made], trail: Trail
    ) -> Made:
        """Put a protocol, and for https a TLS session, over a connected socket."""
        if tls is not None:
            trail.enter(Stage.SECURING)
        try:
            _, protocol = await asyncio.get_running_loop().create_connection(
                make,
                sock=opened,
                ssl=tls,
                server_hostname=None if tls is None else target.host.rstrip("."),
            )
        except BaseException:
            opened.close()
            raise
        return protocol


def family_of(address: Address) -> int:
    """Return the family of the sockets that speak to an address, or from it."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _place(address: Address) -> Place:
    return family_of(address), str(address)


def _by_turns(places: Sequence[Place]) -> list[Place]:
    """Put the families in turn, beginning with that of the first address."""
    first = [place for place in places if place[0] == places[0][0]]
    others = [place for place in places if place[0] != places[0][0]]
    return [place for place in chain.from_iterable(zip_longest(first, others)) if place]


async def _call_off(running: Iterable[asyncio.Task[socket.socket]]) -> None:
    """End the attempts that lost, and close what they opened meanwhile."""
    for task in running:
        task.cancel()
    for result in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(result, socket.socket):
            result.close()
