"""Turns for work that holds the loop: a large body, each large piece of it that comes in, a page, a request sent ahead.

Nothing else runs while one of them is at work, so they go one by one: callers in turn, and each with a rest behind it while
small requests come in. What is small waits for one of them at most, however many there are.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable

from aiohttp import web

RESTS = 2
"""So many times as long as a turn took is the rest after it, while others want the loop."""

REST_MAX_S = 0.2

OTHERS_S = 0.1
"""How long after a small request there may be more of them."""


class Turns:
    """Owner of whose turn it is. Each step is O(1)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by caller, who is next first
        self._is_taken = False
        self._began_s = 0.0
        self._others = 0
        self._others_before = 0
        self._others_until_s = 0.0

    def other(self) -> None:
        """Take note of a small request, which waits for no turn."""
        self._others += 1

    async def turn(self, caller: str) -> None:
        """Wait until work may begin; it ends where its task waits for something the next time."""
        if self._is_taken:
            called = self._asked(caller)
            try:
                await called
            except asyncio.CancelledError:
                if called.done() and not called.cancelled():
                    self._next()  # it was this one's turn
                raise
        self._begin()

    def call(self, caller: str, work: Callable[[], object]) -> None:
        """Call `work` when it is its turn."""

        def begin(_: asyncio.Future[None]) -> None:
            self._begin()
            work()

        self._asked(caller).add_done_callback(begin)

    def _asked(self, caller: str) -> asyncio.Future[None]:
        called = self._loop.create_future()
        self._waiting.setdefault(caller, deque()).append(called)
        if not self._is_taken:
            self._next()
        return called

    def _begin(self) -> None:
        self._is_taken = True
        self._began_s = self._loop.time()
        self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        """A turn is over: call the next one, after a rest where others want the loop."""
        now_s = self._loop.time()
        if self._others != self._others_before:
            self._others_before, self._others_until_s = self._others, now_s + OTHERS_S
        if now_s < self._others_until_s:
            self._loop.call_later(min(RESTS * (now_s - self._began_s), REST_MAX_S), self._next)
        else:
            self._next()

    def _next(self) -> None:
        """Call whoever has waited for longest, of the caller whose turn it is."""
        while self._waiting:
            caller, queue = self._waiting.popitem(last=False)
            called = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            if not called.done():
                self._is_taken = True
                called.set_result(None)
                return
        self._is_taken = False


TURNS: web.RequestKey[Turns] = web.RequestKey("turns", Turns)
"""Set for every request: the turns of all of them."""
