"""What happens over and over, said in few lines."""

from typing import Any

from relay.core.clock import Clock

SUM_EVERY_MS = 10_000


class Recurring:
    """Logs the first time at once, then at most every ten seconds how often since, and the end if there is one."""

    def __init__(self, logger: Any, clock: Clock, event: str, end: str = "") -> None:
        self._log = logger
        self._clock = clock
        self._event = event
        self._end = end
        self._since_ms: float | None = None  # None: it does not happen now
        self._logged_ms = self._last_ms = 0.0
        self._times = 0  # since it was last logged
        self._total = 0

    @property
    def goes_on(self) -> bool:
        """Whether it happened, and its end was not logged yet."""
        return self._since_ms is not None

    def happened(self, times: int = 1, **facts: Any) -> None:
        """Count it, and log it if it is news."""
        now_ms = self._last_ms = self._clock.mono_ms()
        self._times += times
        self._total += times
        if self._since_ms is None:
            self._since_ms = now_ms
        elif now_ms - self._logged_ms < SUM_EVERY_MS:
            return
        self._log.warning(self._event, times=self._times, **facts)
        self._logged_ms, self._times = now_ms, 0

    def ended(self, *, quiet_ms: int = 0) -> None:
        """Log how often it happened in all, if it happened and has not for `quiet_ms`."""
        if self._since_ms is None or self._clock.mono_ms() - self._last_ms < quiet_ms:
            return
        self._log.warning(self._end, times=self._total, lasted_ms=round(self._last_ms - self._since_ms))
        self._since_ms, self._times, self._total = None, 0, 0
