"""What the service manager sees of a relay: how things stand once a second, and a watchdog that is fed for a reason.

A watchdog that a timer feeds proves that the timer runs. This one is fed when the event loop woke in time, the database's
writer answered, and the dispatcher looked for work; so whichever of them hangs, systemd ends the process and starts another.
"""

import asyncio
import contextlib
import resource
from collections.abc import Callable

from relay.core.clock import Clock
from relay.core.errors import StoreUnavailable
from relay.daemon.service import Relay
from relay.daemon.systemd import Notifier

STATUS_EVERY_MS = 1_000

LOOP_LAG_MAX_MS = 2_000
"""A loop that wakes later than this does not feed the watchdog."""

PATIENCE_S = 5.0
"""Nor do a writer and a dispatcher that take longer than this, together, for a round each."""

EXTEND_EVERY_MS = 10_000
EXTEND_BY_MS = 120_000
"""How often a start that works asks for how much more time, from then."""


class Watchdog:
    """Tells the service manager how a running relay is."""

    def __init__(self, notifier: Notifier, relay: Relay, clock: Clock, interval_ms: float | None) -> None:
        """Feed the watchdog every `interval_ms`; None: nobody watches, and only the status is told."""
        self._notifier = notifier
        self._relay = relay
        self._clock = clock
        self._interval_ms = interval_ms
        self._fed_ms = 0.0

    @property
    def status(self) -> str:
        """The line that `systemctl status` shows."""
        return f"{self._relay.store.backlog} due, {self._relay.dispatch.lanes.in_flight} in flight"

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            await self.look(await _rest(self._clock, STATUS_EVERY_MS))

    async def look(self, lag_ms: float) -> None:
        """Tell how things stand, and feed the watchdog if all turn; the loop has woken `lag_ms` late."""
        self._notifier.status(self.status)
        if self._is_due() and lag_ms < LOOP_LAG_MAX_MS and await self._all_turn():
            self._notifier.watchdog()
            self._fed_ms = self._clock.mono_ms()

    def _is_due(self) -> bool:
        if self._interval_ms is None:
            return False
        return self._clock.mono_ms() - self._fed_ms >= self._interval_ms - STATUS_EVERY_MS

    async def _all_turn(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._writer_turns()
                await self._relay.dispatch.turn()
        except TimeoutError:
            return False
        return True

    async def _writer_turns(self) -> None:
        """Return when the writer answers; that it cannot write, on a full disk, is an answer: a restart would not help.

        While it writes the file anew, which takes as long as it takes, a restart would only begin that again.
        """
        if self._relay.store.rewriting:
            return
        with contextlib.suppress(StoreUnavailable):
            await self._relay.store.ping()


async def ask_for_time(notifier: Notifier, clock: Clock, spent: Callable[[], float]) -> None:
    """Ask for more time to start in, until cancelled, as long as the process works: `spent` grows.

    A migration, or the check after an unclean stop, takes minutes with a large database. A start that hangs gets no more
    time than the unit gives it.
    """
    before = spent()
    while True:
        await _rest(clock, EXTEND_EVERY_MS)
        now = spent()
        if now > before:
            notifier.extend_timeout(EXTEND_BY_MS)
        before = now


def work_done() -> float:
    """Return what this process has done so far: tenths of a second on a processor, and blocks read and written."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return int((usage.ru_utime + usage.ru_stime) * 10) + usage.ru_inblock + usage.ru_oublock


async def _rest(clock: Clock, duration_ms: int) -> float:
    """Let time pass; the answer is how much later than that it is."""
    before_ms = clock.mono_ms()
    await clock.wait(asyncio.Event(), duration_ms)
    return clock.mono_ms() - before_ms - duration_ms
