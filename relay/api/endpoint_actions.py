"""What may be said with a rotation and with a test."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from relay import problems
from relay.api.objects import parse_object, raw_member, unknown_members
from relay.contracts import Contract
from relay.durations import format_duration, parse_duration_ms
from relay.problems import Mistake, Refused

OVERLAP_MS = 24 * 3_600_000
"""How long an old secret signs beside the new one, unless the caller says otherwise."""

OVERLAP_MAX_MS = 30 * 24 * 3_600_000

TEST_TYPE = "webhook.test"
TEST_DATA = b'{"message":"This is a test."}'


class Sample(NamedTuple):
    """What a test sends."""

    type: str
    data: bytes


def read_overlap_ms(written: Mapping[str, Any]) -> int:
    """Read `{"overlap"?}` of a rotation; Refused with every mistake."""
    mistakes = unknown_members(written, ["overlap"])
    overlap_ms: int | None = OVERLAP_MS
    if "overlap" in written:
        overlap_ms = _duration_ms(written["overlap"])
    if overlap_ms is None:
        longest = format_duration(OVERLAP_MAX_MS)
        mistakes.append(
            Mistake("/overlap", f'must be a duration like "24h", at most "{longest}"; "0s" ends the old ones')
        )
    if mistakes or overlap_ms is None:
        raise Refused(problems.invalid(mistakes))
    return overlap_ms


def read_test(body: bytes, contract: Contract) -> Sample:
    """Read `{"type"?, "data"?}` of a test; Refused with every mistake."""
    written = parse_object(body)
    mistakes = unknown_members(written, ["type", "data"])
    event_type = written.get("type", TEST_TYPE)
    wrong = contract.check_type(event_type) if isinstance(event_type, str) else "must be the name of an event type"
    if wrong is not None:
        mistakes.append(Mistake("/type", wrong))
    if mistakes:
        raise Refused(problems.invalid(mistakes))
    return Sample(event_type, raw_member(body, "data") or TEST_DATA)


def _duration_ms(value: Any) -> int | None:
    try:
        duration_ms = parse_duration_ms(value) if isinstance(value, str) else -1
    except (ValueError, OverflowError):
        return None
    return duration_ms if 0 <= duration_ms <= OVERLAP_MAX_MS else None
