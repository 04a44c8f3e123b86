"""Whether a receiver agreed to take events before the first of them goes there.

A `Method` is how it is asked, a `Proof` that it agreed: about one URL, and kept until that is another one. The handshake by
OPTIONS is that of CloudEvents' "HTTP 1.1 Web Hooks for Event Delivery", whose rates are requests a minute.
"""

from dataclasses import dataclass
from enum import StrEnum

from relay.core.units import Rate

MINUTE_MS = 60_000

ORIGIN_HEADER = "WebHook-Request-Origin"
RATE_HEADER = "WebHook-Request-Rate"
ALLOWED_ORIGIN_HEADER = "WebHook-Allowed-Origin"
ALLOWED_RATE_HEADER = "WebHook-Allowed-Rate"

ANY = "*"
"""Every origin, or every rate."""

_RATE_DIGITS = 9  # what more digits allow, nobody sends


class Method(StrEnum):
    """How a receiver is asked whether it wants events."""

    NONE = "none"  # not at all
    CHALLENGE = "challenge"  # it repeats what it was sent
    OPTIONS = "options"  # it answers OPTIONS and allows our origin
    PING = "ping"  # it answers a message that is no event with a 2xx


@dataclass(frozen=True, slots=True)
class Proof:
    """That a receiver agreed. Persisted."""

    at_ms: int
    method: Method  # NONE: it took events before it was to be asked, or was verified elsewhere; good for every method
    origin: str = ""  # whom it allowed, by OPTIONS: every delivery says it again
    per_minute: int | None = None  # how many requests a minute it allowed; None: any number

    def serves(self, method: Method) -> bool:
        """Whether a receiver that is to be asked by `method` need not be."""
        return self.method in (Method.NONE, method)

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers that every delivery carries because of it."""
        return ((ORIGIN_HEADER, self.origin),) if self.origin else ()

    @property
    def rate(self) -> Rate | None:
        """Return the rate that it allowed; None for any."""
        return None if self.per_minute is None else Rate(self.per_minute, MINUTE_MS)


def slower(one: Rate | None, other: Rate | None) -> Rate | None:
    """Return the lower of two rates, of which None is no limit."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda rate: rate.starts / rate.period_ms)


def asked_per_minute(rate: Rate | None) -> int | None:
    """Return how many requests a minute to ask for; None where any number may go out."""
    return None if rate is None else max(1, rate.starts * MINUTE_MS // rate.period_ms)


def read_allowed_rate(text: str) -> int | None:
    """Read `WebHook-Allowed-Rate`; None for any rate, ValueError for what is no whole number above 0."""
    digits = text.strip().lstrip("0")
    if text.strip() == ANY:
        return None
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{text!r} is no rate")
    return int(digits) if len(digits) <= _RATE_DIGITS else None
