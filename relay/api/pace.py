"""How fast each token is used: requests and events, and their bytes, against the rates that it has.

A rate lets one period's amount through at once and gives it back evenly over the period. A request is judged by its head,
and let in while anything is left; what it then turns out to be, a batch of many events or a body without a length, is
charged in full, and whoever comes next waits for it.
"""

from collections.abc import Callable
from math import ceil

from relay.core.access import Principal
from relay.core.units import Rate

ROUNDING_MS = 1e-6

FORGET_AT = 1_000
"""From so many tokens on those are let go of whose rates are whole again."""


class Paces:
    """Owner of what each token has used. Only tokens that have a rate are here; each step is O(1)."""

    def __init__(self, mono_ms: Callable[[], float]) -> None:
        self._mono_ms = mono_ms
        self._events: dict[Principal, float] = {}  # when everything will have been given back
        self._bytes: dict[Principal, float] = {}
        self._forget_at = FORGET_AT

    def wait_s(self, principal: Principal) -> int:
        """Say in how many whole seconds a token may be used again; 0 for now."""
        pace = principal.pace
        if pace is None:
            return 0
        now_ms = self._mono_ms()
        spans_ms = (
            _span_ms(pace.events, self._events.get(principal, now_ms) - now_ms),
            _span_ms(pace.bytes, self._bytes.get(principal, now_ms) - now_ms),
        )
        return ceil(max(spans_ms) / 1_000)

    def spend(self, principal: Principal, events: int, size_bytes: int) -> None:
        """Charge what was let in, even where it is more than was left."""
        pace = principal.pace
        if pace is None:
            return
        now_ms = self._mono_ms()
        for used, rate, amount in ((self._events, pace.events, events), (self._bytes, pace.bytes, size_bytes)):
            if rate.starts and amount:
                used[principal] = max(used.get(principal, now_ms), now_ms) + amount * rate.period_ms / rate.starts
        if len(self._events) + len(self._bytes) > self._forget_at:
            self.forget()
            self._forget_at = max(FORGET_AT, 2 * (len(self._events) + len(self._bytes)))

    def forget(self) -> None:
        """Let go of tokens whose rates are whole again; some of them may be no more. O(tokens with a rate)"""
        now_ms = self._mono_ms()
        for used in (self._events, self._bytes):
            for principal in [one for one, whole_at_ms in used.items() if whole_at_ms <= now_ms]:
                del used[principal]


def _span_ms(rate: Rate, owing_ms: float) -> float:
    """Say how long it takes until one more fits in; 0 when it does now."""
    if not rate.starts:
        return 0.0
    over_ms = owing_ms + rate.period_ms / rate.starts - rate.period_ms
    return over_ms if over_ms > ROUNDING_MS else 0.0
