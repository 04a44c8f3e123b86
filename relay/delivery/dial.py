"""From a host to an open connection: names resolved, addresses guarded, TLS verified.

Several addresses are tried in the manner of RFC 8305: families by turns, the next one when the last has failed or has
been silent for a quarter of a second, and the first that connects wins.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Protocol, TypeVar

from relay.core.netguard import Address, ForbiddenAddress, Guard, Networks
from relay.core.urls import Target, host_address
from relay.delivery.trail import Stage, Trail

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


class Names(Protocol):
    """Who knows the addresses of a name."""

    async def resolve(self, host: str, opened: Networks = ()) -> Sequence[Place]:
        """Return them; `socket.gaierror` when there are none, `ForbiddenAddress` when one may not be dialled.

        `opened` are the networks that are open to whoever asks.
        """


class Dialler:
    """Opens connections. Owns nothing but what is under way."""

    def __init__(self, guard: Guard, names: Names, timeout_s: float) -> None:
        self._guard = guard
        self._names = names
        self._timeout_s = timeout_s
        self._limits: set[asyncio.Timeout] = set()

    async def connect(
        self,
        target: Target,
        tls: ssl.SSLContext | None,
        deadline: float,
        make: Callable[[str], Made],
        trail: Trail,
        opened: Networks = (),
    ) -> Made:
        """Return a protocol, made for the address, whose connection is open; `NotConnected` when none comes about.

        The deadline is in the loop's time; the dialler has a limit of its own for all that happens here. The trail enters
        each stage. Without a context there is no TLS. `opened` are networks that may be dialled for this target, beside
        those open to every target.
        """
        address = host_address(target.host)
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout_at(min(deadline, loop.time() + self._timeout_s))
        self._limits.add(limit)
        try:
            async with limit:
                places = [_place(address)] if address else await self._resolve(target.host, trail, opened)
                trail.enter(Stage.CONNECTING)
                connected, chosen = await self._first_of(places, target.port, opened)
                return await self._secure(connected, target, tls, lambda: make(chosen), trail)
        except (OSError, ForbiddenAddress) as error:  # all else is a mistake of our own
            raise NotConnected(trail.stage, literal=address is not None) from error
        finally:
            self._limits.discard(limit)

    def give_up(self) -> None:
        """End what is under way as if its time were over."""
        for limit in self._limits:
            limit.reschedule(0)

    async def _resolve(self, host: str, trail: Trail, opened: Networks) -> Sequence[Place]:
        trail.enter(Stage.RESOLVING)
        return await self._names.resolve(host, opened)

    async def _first_of(self, places: Sequence[Place], port: int, opened: Networks) -> tuple[socket.socket, str]:
        """Return the first socket that connects, and its address."""
        if len(places) == 1:
            return await self._open(places[0], port, opened), places[0][1]
        left = deque(_by_turns(places))
        running: dict[asyncio.Task[socket.socket], str] = {}
        errors: list[BaseException] = []
        try:
            while left or running:
                if left:
                    place = left.popleft()
                    running[asyncio.create_task(self._open(place, port, opened))] = place[1]
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

    async def _open(self, place: Place, port: int, opened: Networks) -> socket.socket:
        family, address = place
        made = self._guard.open_socket(family, address, port, opened)
        try:
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        except BaseException:
            made.close()
            raise
        return made

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


def _place(address: Address) -> Place:
    return (socket.AF_INET if address.version == 4 else socket.AF_INET6), str(address)


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
