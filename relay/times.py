"""Points in time as the API writes them: RFC 3339, UTC, milliseconds, `Z`."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)


@lru_cache(maxsize=256)  # many events are accepted in one millisecond
def format_time(time_ms: int) -> str:
    """Write unix milliseconds as `2026-11-22T08:30:00.125Z`."""
    return (_EPOCH + time_ms * _MILLISECOND).isoformat(timespec="milliseconds")[:-6] + "Z"


def unix_ms(moment: datetime) -> int:
    """Return unix milliseconds of a moment that knows its zone, rounded down."""
    return (moment - _EPOCH) // _MILLISECOND


def unix_us(moment: datetime) -> int:
    """Return unix microseconds of a moment that knows its zone."""
    return (moment - _EPOCH) // _MICROSECOND
