"""Starts counted in an exact sliding window, on the monotonic clock."""

from collections import deque

from relay.core.units import Rate

_GRAINS = 1_000  # a window remembers at most about so many moments, whatever its rate


class RateWindow:
    """Allows at most `rate.starts` starts in any window of `rate.period_ms`.

    Rates above 1,000 starts a period count starts within a thousandth of it as made at the latest of them: never one
    too many, and bounded memory. Owner: one lane.
    """

    __slots__ = ("_moments", "_rate", "_total")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._moments: deque[list[float]] = deque()  # [first start, last start, count], oldest first
        self._total = 0

    def change(self, rate: Rate) -> None:
        """Count by another rate from now on; starts already made count too."""
        self._rate = rate

    def free_at_ms(self, mono_ms: float) -> float:
        """Return when one more start is allowed: `mono_ms` itself when it is now."""
        self._forget(mono_ms)
        excess = self._total - self._rate.starts + 1
        if excess <= 0:
            return mono_ms
        moments = iter(self._moments)
        while excess > 0:
            _, last_ms, count = next(moments)
            excess -= int(count)
        return last_ms + self._rate.period_ms

    def note(self, mono_ms: float) -> None:
        """Count a start."""
        self._total += 1
        if self._rate.starts > _GRAINS and self._moments:
            newest = self._moments[-1]
            if mono_ms - newest[0] < self._rate.period_ms / _GRAINS:
                newest[1:] = mono_ms, newest[2] + 1
                return
        self._moments.append([mono_ms, mono_ms, 1])

    def _forget(self, mono_ms: float) -> None:
        moments, period_ms = self._moments, self._rate.period_ms
        while moments and moments[0][1] + period_ms <= mono_ms:
            self._total -= int(moments.popleft()[2])
