"""A courier that is played: answers from a script, without a network."""

import contextlib
from collections.abc import Awaitable
from typing import Any

from relay.core.clock import Clock
from relay.core.model import Failure, Outcome
from relay.delivery.courier import Request

Reply = int | Failure | Outcome


class PlayedCourier:
    """Answers each attempt from `script`, and with 204 when it has ended. An awaitable holds its attempt open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.script: list[Reply | Awaitable[Reply] | Exception] = []
        self.requests: list[Request] = []

    async def open(self, delivery: object, guard: object, clock: Clock, opened: contextlib.AsyncExitStack) -> Any:
        """Stand where a relay would open its courier."""
        return self

    async def idle(self) -> None:
        """Return at once: nothing of it is left open."""

    async def attempt(self, request: Request) -> Outcome:
        self.requests.append(request)
        reply = self.script.pop(0) if self.script else 204
        if isinstance(reply, Exception):
            raise reply
        answer = reply if isinstance(reply, int | Failure | Outcome) else await reply
        if isinstance(answer, Outcome):
            return answer
        outcome = Outcome(started_at_ms=self._clock.wall_ms(), duration_ms=7)
        return outcome._replace(status=answer) if isinstance(answer, int) else outcome._replace(failure=answer)
