"""Time, as something that is handed in.

Rows and signatures use the wall clock in unix milliseconds; durations, deadlines and rates use the monotonic clock.
Nothing below the service asks the system for either: it takes a `Clock`.
"""

import asyncio
import time
from typing import NamedTuple, Protocol


class Now(NamedTuple):
    """One reading of both clocks, taken together."""

    wall_ms: int
    mono_ms: float


class Clock(Protocol):
    """What time it is, and how to wait for it to pass."""

    def now(self) -> Now:
        """Read both clocks."""
        ...

    def wall_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    def mono_ms(self) -> float:
        """Milliseconds on a clock that never steps; only differences mean anything."""
        ...

    async def wait(self, event: asyncio.Event, timeout_ms: float) -> bool:
        """Wait until `event` is set (True) or `timeout_ms` have passed (False)."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> Now:
        return Now(self.wall_ms(), self.mono_ms())

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> float:
        return time.monotonic_ns() / 1_000_000

    async def wait(self, event: asyncio.Event, timeout_ms: float) -> bool:
        try:
            async with asyncio.timeout(max(timeout_ms, 0.0) / 1000):
                await event.wait()
        except TimeoutError:
            return False
        return True
