"""Durations, sizes and rates as people write them: `"30s"`, `"1MiB"`, `"50/s"`."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

_DURATION_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_RATE = re.compile(r"(\d{1,9})/(s|m|h)")


class Rate(NamedTuple):
    """At most `starts` starts in any window of `period_ms`."""

    starts: int
    period_ms: int


def parse_duration_ms(text: str) -> int:
    """Read `"500ms"`, `"5s"`, `"1h30m"`; ValueError says which forms are taken."""
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError('a duration is a number and a unit (ms, s, m, h, d), such as "30s" or "1h30m"')
    return round(sum(float(number) * _DURATION_UNITS_MS[unit] for number, unit in parts))


def format_duration(duration_ms: float) -> str:
    """Write milliseconds as the shortest form that `parse_duration_ms` reads back exactly."""
    rest = round(duration_ms)
    if rest == 0:
        return "0s"
    words = []
    for unit, size in reversed(_DURATION_UNITS_MS.items()):
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count}{unit}")
    return "".join(words)


def parse_size_bytes(text: str) -> int:
    """Read `"64KiB"`, `"1MiB"`, `"512 MB"`; ValueError says which forms are taken."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2] not in _SIZE_UNITS:
        raise ValueError(f'a size is a number and a unit ({", ".join(_SIZE_UNITS)}), such as "1MiB"')
    return round(float(match[1]) * _SIZE_UNITS[match[2]])


def format_size(size_bytes: int) -> str:
    """Write bytes with the largest binary unit that divides them."""
    for unit in ("GiB", "MiB", "KiB"):
        if size_bytes and size_bytes % _SIZE_UNITS[unit] == 0:
            return f"{size_bytes // _SIZE_UNITS[unit]}{unit}"
    return f"{size_bytes}B"


def parse_rate(text: str) -> Rate:
    """Read `"50/s"`, `"600/m"`, `"1000/h"`; ValueError says which forms are taken."""
    match = _RATE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError('a rate is a whole number above 0 for each second, minute or hour, such as "50/s" or "600/m"')
    return Rate(int(match[1]), _DURATION_UNITS_MS[match[2]])


def format_rate(rate: Rate) -> str:
    """Write a rate as `parse_rate` reads it."""
    unit = {size: unit for unit, size in _DURATION_UNITS_MS.items()}[rate.period_ms]
    return f"{rate.starts}/{unit}"


UNLIMITED = Rate(0, 1000)
"""No limit at all."""


def parse_bytes_rate(text: str) -> Rate:
    """Read bytes in a period, such as `10MiB/s`; ValueError says how one is written."""
    amount, slash, unit = text.rpartition("/")
    size_bytes = parse_size_bytes(amount) if slash and unit in ("s", "m", "h") else 0
    if size_bytes < 1:
        raise ValueError('bytes in a second, minute or hour are written like "10MiB/s"')
    return Rate(size_bytes, _DURATION_UNITS_MS[unit])


def format_bytes_rate(rate: Rate) -> str:
    """Write a rate as `parse_bytes_rate` reads it."""
    return f"{format_size(rate.starts)}/{format_rate(rate).rpartition('/')[2]}"


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_MICROSECOND = timedelta(microseconds=1)
_FIRST_MS = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MILLISECOND
_LAST_MS = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MILLISECOND


@lru_cache(maxsize=256)  # many events are accepted in one millisecond
def format_time(time_ms: int) -> str:
    """Write unix milliseconds as `2026-11-22T08:30:00.125Z`; what no calendar holds as its first or last moment."""
    return (_EPOCH + min(max(time_ms, _FIRST_MS), _LAST_MS) * _MILLISECOND).isoformat(timespec="milliseconds")[
        :-6
    ] + "Z"


def parse_time_ms(text: str) -> int:
    """Read an RFC 3339 time as unix milliseconds, rounded down; ValueError for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} lacks its zone")
    time_ms = unix_ms(moment)
    if not _FIRST_MS <= time_ms <= _LAST_MS:  # by its offset
        raise ValueError(f"{text!r} is not in the years 1 to 9999 of UTC")
    return time_ms


def unix_ms(moment: datetime) -> int:
    """Return unix milliseconds of a moment that knows its zone, rounded down."""
    return (moment - _EPOCH) // _MILLISECOND


def unix_us(moment: datetime) -> int:
    """Return unix microseconds of a moment that knows its zone."""
    return (moment - _EPOCH) // _MICROSECOND
