"""Tests of endpoints, which reach a receiver on request: how many an application may have made, and for whom they run."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Any, TypeVar

from aiohttp import web

from relay.api import problems
from relay.api.problems import Refused
from relay.core.model import Application

T = TypeVar("T")

MINUTE_MS = 60_000


class TestCalls:
    """Owner of which tests are under way, and which began within a minute, by application. O(1) a test."""

    def __init__(self, mono_ms: Callable[[], float]) -> None:
        self._mono_ms = mono_ms
        self._running: Counter[str] = Counter()
        self._began_ms: dict[str, deque[float]] = {}

    def refuse_more(self, application: Application) -> None:
        """Refuse (429) what is beyond the tests that an application may have."""
        limits, name = application.limits, application.id
        if self._running[name] >= limits.tests_at_once:
            raise Refused(problems.too_many_tests(f"{limits.tests_at_once} at once (limits.tests.at_once)", 1))
        began = self._lately(name)
        if len(began) >= limits.tests_per_minute:
            wait_ms = began[0] + MINUTE_MS - self._mono_ms() if began else MINUTE_MS
            said = f"{limits.tests_per_minute} in a minute (limits.tests.per_minute)"
            raise Refused(problems.too_many_tests(said, ceil(wait_ms / 1_000)))

    @contextmanager
    def admitted(self, application: Application) -> Iterator[None]:
        """Count a test while it runs; Refused (429) beyond what its application may have."""
        self.refuse_more(application)
        name = application.id
        began = self._lately(name)
        began.append(self._mono_ms())
        self._began_ms[name] = began
        self._running[name] += 1
        try:
            yield
        finally:
            self._running[name] -= 1
            if not self._running[name]:
                del self._running[name]

    def _lately(self, name: str) -> deque[float]:
        began, now_ms = self._began_ms.get(name, deque()), self._mono_ms()
        while began and began[0] + MINUTE_MS <= now_ms:
            began.popleft()
        return began


async def for_client(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """Do something as long as the client waits for it: when its connection ends, so does the work (ConnectionError)."""
    task = asyncio.ensure_future(work)
    connection: Any = request.protocol
    connection.on_lost = task.cancel
    try:
        if request.transport is None:
            task.cancel()
        return await task
    except asyncio.CancelledError:
        if request.transport is None:
            raise ConnectionResetError("the client has gone") from None
        raise
    finally:
        connection.on_lost = None
