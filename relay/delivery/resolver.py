"""Names to addresses without letting one dead name delay another (Q16).

`socket.getaddrinfo` blocks a thread for as long as a name server keeps silent, and nothing can call it back. So every
lookup has a thread of its own, counted by the standing of its name: proven (the last lookup worked), unknown (never looked
up), doubtful (the last one failed, or it has been running for long). Doubtful ones never take the places of the others. The
threads are daemons: a lookup that hangs does not keep the process from ending.
"""

import asyncio
import contextlib
import errno
import math
import os
import socket
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from relay.core.clock import Clock
from relay.core.netguard import ForbiddenAddress, Guard, Networks

FRESH_MS = 60_000
"""How long an answer serves without being asked for again."""
STALE_MS = 600_000
"""How long it serves while a new one is being looked up or cannot be had."""
FAILED_MS = 5_000
"""How long a failure stands before the name is looked up again."""
PATIENCE_MS = 1_000
"""A lookup that runs for longer turns doubtful and frees its place."""
MAX_ADDRESSES = 16
MAX_NAMES = 10_000
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
"""No file descriptor is left to this process, or to the whole system."""


class Standing(StrEnum):
    """What is known of a name. Each standing has places of its own."""

    PROVEN = "proven"
    UNKNOWN = "unknown"
    DOUBTFUL = "doubtful"


PLACES = {Standing.PROVEN: 8, Standing.UNKNOWN: 8, Standing.DOUBTFUL: 8}
"""A lookup is started while fewer of its standing are running."""
MAX_THREADS = 48
"""… and fewer than this in all: those that turned doubtful while they ran have left their places to others."""

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


@dataclass(slots=True, eq=False)
class _Name:
    """What is known of one host name. Owned by the event loop's thread, as everything here."""

    host: str
    standing: Standing = Standing.UNKNOWN
    addresses: tuple[tuple[int, str], ...] = ()  # (family, address), in getaddrinfo's order
    answered_ms: float = -math.inf
    failure: tuple[int, str] = (socket.EAI_AGAIN, "the resolver was closed")
    failed_ms: float = -math.inf
    lookup: "_Lookup | None" = None  # queued or running


@dataclass(slots=True, eq=False)
class _Lookup:
    """One question to the name servers, shared by everybody who asks meanwhile."""

    name: _Name
    standing: Standing  # whose place it holds
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: OSError | None = None  # no descriptor was left to ask with


class Resolver:
    """Looks names up, each in a thread of its own, and remembers the answers."""

    def __init__(self, guard: Guard, clock: Clock, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._guard = guard
        self._clock = clock
        self._getaddrinfo = getaddrinfo
        self._names: OrderedDict[str, _Name] = OrderedDict()  # least recently asked for first
        self._queues: dict[Standing, deque[_Lookup]] = {standing: deque() for standing in Standing}
        self._running: Counter[Standing] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def resolve(self, host: str, opened: Networks = ()) -> tuple[tuple[int, str], ...]:
        """Return the addresses of `host`, each with its family; an answer less than ten minutes old is given at once.

        Raises `socket.gaierror` when there is none, and `ForbiddenAddress` when any of them may not be dialled by one to
        whom the networks `opened` are open: choosing the permitted ones out of a mixed answer would let its owner probe
        for what is forbidden. Another `OSError` when no file descriptor is left. O(addresses) but for the lookup.
        """
        name = self._name(host)
        self._refresh(name)
        lookup = name.lookup
        if lookup and not self._servable(name):
            await lookup.done.wait()
            if lookup.error:
                raise lookup.error
        if not self._servable(name):
            raise socket.gaierror(*name.failure)
        for _, address in name.addresses:
            if reason := self._guard.forbidden(address, None, opened):
                raise ForbiddenAddress(address, reason)
        return name.addresses

    async def close(self) -> None:
        """Wake everybody who waits. Threads that hang are left to end with the process."""
        for queue in self._queues.values():
            queue.clear()
        for task in self._tasks:
            task.cancel()
        for name in self._names.values():
            if name.lookup:
                name.lookup.done.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _name(self, host: str) -> _Name:
        name = self._names.setdefault(host, _Name(host))
        self._names.move_to_end(host)
        if len(self._names) > MAX_NAMES:
            self._names.popitem(last=False)
        return name

    def _refresh(self, name: _Name) -> None:
        now_ms = self._clock.mono_ms()
        if name.lookup or now_ms - name.answered_ms < FRESH_MS or now_ms - name.failed_ms < FAILED_MS:
            return
        name.lookup = _Lookup(name, name.standing)
        self._queues[name.standing].append(name.lookup)
        self._start_lookups()

    def _servable(self, name: _Name) -> bool:
        return self._clock.mono_ms() - name.answered_ms < STALE_MS

    def _start_lookups(self) -> None:
        for standing, queue in self._queues.items():
            while queue and self._running[standing] < PLACES[standing] and self._running.total() < MAX_THREADS:
                self._start(queue.popleft())

    def _start(self, lookup: _Lookup) -> None:
        self._running[lookup.standing] += 1
        loop = asyncio.get_running_loop()
        try:
            threading.Thread(target=self._ask, args=(lookup, loop), name="resolver", daemon=True).start()
        except RuntimeError:
            loop.call_soon(
                self._finish, lookup, socket.gaierror(socket.EAI_AGAIN, "no thread left to look the name up")
            )
        task = loop.create_task(self._lose_patience(lookup))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _ask(self, lookup: _Lookup, loop: asyncio.AbstractEventLoop) -> None:
        """Run in a thread of its own; everything else here runs in the event loop's."""
        answer: Sequence[tuple[Any, ...]] | OSError
        try:
            answer = self._getaddrinfo(lookup.name.host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        except OSError as error:
            answer = _no_descriptor() or error
        except Exception:  # a name that cannot be encoded raises UnicodeError, not gaierror
            answer = socket.gaierror(socket.EAI_NONAME, "not a host name")
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._finish, lookup, answer)

    async def _lose_patience(self, lookup: _Lookup) -> None:
        await self._clock.wait(lookup.done, PATIENCE_MS)
        if lookup.done.is_set():
            return
        self._running[lookup.standing] -= 1
        lookup.standing = lookup.name.standing = Standing.DOUBTFUL
        self._running[lookup.standing] += 1
        self._start_lookups()

    def _finish(self, lookup: _Lookup, answer: Sequence[tuple[Any, ...]] | OSError) -> None:
        self._running[lookup.standing] -= 1
        if isinstance(answer, OSError) and answer.errno in NO_DESCRIPTORS:
            lookup.error = answer  # it says nothing about the name
        else:
            self._learn(lookup.name, answer)
        lookup.name.lookup = None
        lookup.done.set()
        self._start_lookups()

    def _learn(self, name: _Name, answer: Sequence[tuple[Any, ...]] | OSError) -> None:
        now_ms = self._clock.mono_ms()
        addresses = () if isinstance(answer, OSError) else _addresses(answer)
        if not addresses:
            name.standing, name.failed_ms = Standing.DOUBTFUL, now_ms
            name.failure = _failure(answer)
            return
        name.addresses = addresses[:MAX_ADDRESSES]
        name.standing, name.answered_ms = Standing.PROVEN, now_ms


def _addresses(answer: Sequence[tuple[Any, ...]]) -> tuple[tuple[int, str], ...]:
    pairs = ((family, address[0]) for family, _, _, _, address in answer if family in (socket.AF_INET, socket.AF_INET6))
    return tuple(dict.fromkeys(pairs))


def _no_descriptor() -> OSError | None:
    """Return the error of opening a file when none can be opened: a lookup for want of one fails like a dead name server."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error if error.errno in NO_DESCRIPTORS else None
    return None


def _failure(answer: Sequence[tuple[Any, ...]] | OSError) -> tuple[int, str]:
    if isinstance(answer, OSError):
        return answer.errno or socket.EAI_FAIL, answer.strerror or "the lookup failed"
    return socket.EAI_NONAME, "the name has no addresses"
