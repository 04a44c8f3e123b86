"""Time, as something that is handed in, and whether it can be believed.

Rows and signatures use the wall clock in unix milliseconds; durations, deadlines and rates use the monotonic clock.
Nothing below the service asks the system for either: it takes a `Clock`. The wall clock may be wrong, at a start and
while the relay runs; a `ClockWatch` says when nothing may be ended by it (Q15).
"""

import asyncio
import ctypes
import time
from enum import StrEnum
from typing import NamedTuple, Protocol

STEP_MS = 60_000
"""A wall clock that moved this much against the monotonic one has been stepped."""

REST_MS = 15 * 60_000
"""How long nothing is ended after a step."""

AHEAD_MS = 24 * 3_600_000
"""A start that finds the wall clock this much ahead of the last heartbeat takes it for one that jumped."""

DISTRUST_MAX_MS = 24 * 3_600_000
"""How long a clock that jumped and that nobody synchronises is distrusted."""


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

    def synchronised(self) -> bool:
        """Whether the kernel knows the wall clock to be right."""
        ...

    async def wait(self, event: asyncio.Event, timeout_ms: float) -> bool:
        """Wait until `event` is set (True) or `timeout_ms` have passed (False)."""
        ...


_SYNCHRONISED = range(5)
"""States of the kernel's clock: 0 to 4 are right, or about to have a leap second; 5 is not synchronised, -1 an error."""


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> Now:
        return Now(self.wall_ms(), self.mono_ms())

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> float:
        return time.monotonic_ns() / 1_000_000

    def synchronised(self) -> bool:
        # An NTP daemon tells the kernel. With no field to change, adjtimex(2) only reports, which anybody may ask for.
        report = ctypes.create_string_buffer(1024)  # a struct timex has about 200 bytes
        return ctypes.CDLL(None).adjtimex(report) in _SYNCHRONISED

    async def wait(self, event: asyncio.Event, timeout_ms: float) -> bool:
        try:
            async with asyncio.timeout(max(timeout_ms, 0.0) / 1000):
                await event.wait()
        except TimeoutError:
            return False
        return True


class ClockState(StrEnum):
    """What is thought of the wall clock."""

    TRUSTED = "trusted"
    STEPPED = "stepped"  # while the relay ran, a short while ago
    DISTRUSTED = "distrusted"  # it jumped while the relay was down, and nobody has synchronised it


class ClockWatch:
    """Notices a wall clock that jumps, and says whether it may end anything: expiry, retention and disabling (Q15).

    Owner: housekeeping, which looks once a second; whoever ends something by the wall clock asks `trusted`.
    """

    def __init__(self, clock: Clock, heartbeat_ms: int | None) -> None:
        """Compare the clock with the time of the last commit before this start; None when there was none."""
        now = clock.now()
        self._clock = clock
        self._offset_ms = now.wall_ms - now.mono_ms
        self._rests_until_ms = 0.0  # monotonic; after a step
        self._distrusted_until_ms = 0.0  # monotonic; after a jump before the start
        self.jump_ms = 0 if heartbeat_ms is None else now.wall_ms - heartbeat_ms  # since the last commit
        if self.went_back or self.jump_ms > AHEAD_MS:
            self._distrusted_until_ms = now.mono_ms + DISTRUST_MAX_MS
            self._believe_the_kernel()

    @property
    def went_back(self) -> bool:
        """Whether the clock was behind the last commit when this start found it."""
        return self.jump_ms < -STEP_MS

    @property
    def state(self) -> ClockState:
        mono_ms = self._clock.mono_ms()
        if mono_ms < self._distrusted_until_ms:
            return ClockState.DISTRUSTED
        return ClockState.STEPPED if mono_ms < self._rests_until_ms else ClockState.TRUSTED

    @property
    def trusted(self) -> bool:
        """Whether the clock may end anything."""
        until_ms = max(self._rests_until_ms, self._distrusted_until_ms)
        return not until_ms or self._clock.mono_ms() >= until_ms

    def look(self) -> float:
        """Look whether the clock was stepped since the last look, or synchronised; return the step's milliseconds, or 0."""
        now = self._clock.now()
        offset_ms = now.wall_ms - now.mono_ms
        step_ms, self._offset_ms = offset_ms - self._offset_ms, offset_ms
        if self.state is ClockState.DISTRUSTED:
            self._believe_the_kernel()
        if abs(step_ms) <= STEP_MS:
            return 0.0
        self._rests_until_ms = now.mono_ms + REST_MS
        return step_ms

    def _believe_the_kernel(self) -> None:
        if self._clock.synchronised():
            self._distrusted_until_ms = 0.0
