"""A clock that stands still until a test moves it."""

import asyncio

from relay.core.clock import Now


class FakeClock:
    """Both clocks, in step; `advance` moves them and wakes every wait whose time has come."""

    def __init__(self, wall_ms: int = 1_800_000_000_000) -> None:
        self._wall_ms = wall_ms
        self._mono_ms = 1_000_000.0
        self._waits: dict[asyncio.Future[None], float] = {}
        self.synchronised_by_kernel = True
        self.waiting = asyncio.Event()  # set while somebody waits: a test may wait for that fact

    def now(self) -> Now:
        return Now(self._wall_ms, self._mono_ms)

    def wall_ms(self) -> int:
        return self._wall_ms

    def mono_ms(self) -> float:
        return self._mono_ms

    def synchronised(self) -> bool:
        return self.synchronised_by_kernel

    def advance(self, duration_ms: float) -> None:
        """Let time pass on both clocks."""
        self._wall_ms += round(duration_ms)
        self._mono_ms += duration_ms
        self._wake()

    def step_wall(self, delta_ms: int) -> None:
        """Step the wall clock alone, as NTP does."""
        self._wall_ms += delta_ms

    async def wait(self, event: asyncio.Event, timeout_ms: float) -> bool:
        timer = asyncio.get_running_loop().create_future()
        self._waits[timer] = self._mono_ms + timeout_ms
        self.waiting.set()
        self._wake()
        setter = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait({timer, setter}, return_when=asyncio.FIRST_COMPLETED)
            return event.is_set()
        finally:
            setter.cancel()
            self._waits.pop(timer, None)
            timer.cancel()
            if not self._waits:
                self.waiting.clear()

    def _wake(self) -> None:
        for timer, at_ms in list(self._waits.items()):
            if at_ms <= self._mono_ms and not timer.done():
                timer.set_result(None)
