"""Durations, sizes and rates as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.units import (
    Rate,
    format_duration,
    format_rate,
    format_size,
    parse_duration_ms,
    parse_rate,
    parse_size_bytes,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 500), ("5s", 5000), ("1h30m", 5_400_000), ("1.5s", 1500), ("0s", 0), ("30d", 2_592_000_000)],
)
def test_durations_are_read(text: str, expected: int) -> None:
    """Numbers with units, one after the other, add up to milliseconds."""
    assert parse_duration_ms(text) == expected


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "5S", "5s ", "5sec", "1h-3m", "inf", "1e3s"])
def test_other_durations_are_refused(text: str) -> None:
    """A number without a unit, a sign, a blank or an unknown unit is refused with the forms that are taken."""
    with pytest.raises(ValueError, match="such as"):
        parse_duration_ms(text)


@given(st.integers(0, 10**13))
def test_durations_survive_a_round_trip(duration_ms: int) -> None:
    """What is written is read back exactly."""
    assert parse_duration_ms(format_duration(duration_ms)) == duration_ms


@pytest.mark.parametrize(
    ("text", "expected"), [("1MiB", 1 << 20), ("512 MB", 512_000_000), ("1.5KiB", 1536), ("0B", 0)]
)
def test_sizes_are_read(text: str, expected: int) -> None:
    """Numbers with binary or decimal units are bytes."""
    assert parse_size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "1", "1mb", "MiB", "-1MiB", "1 TiB"])
def test_other_sizes_are_refused(text: str) -> None:
    """A size without a known unit is refused with the forms that are taken."""
    with pytest.raises(ValueError, match="such as"):
        parse_size_bytes(text)


@given(st.integers(0, 1 << 50))
def test_sizes_survive_a_round_trip(size_bytes: int) -> None:
    """What is written is read back exactly."""
    assert parse_size_bytes(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize("text", ["", "50", "0/s", "50/d", "-1/s", "1.5/s", "50 / s"])
def test_other_rates_are_refused(text: str) -> None:
    """A rate is a whole number above 0 for each second, minute or hour."""
    with pytest.raises(ValueError, match="such as"):
        parse_rate(text)


@given(st.integers(1, 10**9 - 1), st.sampled_from([1000, 60_000, 3_600_000]))
def test_rates_survive_a_round_trip(starts: int, period_ms: int) -> None:
    """What is written is read back exactly."""
    assert parse_rate(format_rate(Rate(starts, period_ms))) == Rate(starts, period_ms)
