"""What may be said with a rotation."""

from collections.abc import Mapping
from typing import Any

from relay.api import problems
from relay.api.body import unknown_members
from relay.api.problems import Refused
from relay.core.issues import Issue
from relay.core.units import format_duration, parse_duration_ms

OVERLAP_MS = 24 * 3_600_000
"""How long an old secret signs beside the new one, unless the caller says otherwise."""

OVERLAP_MAX_MS = 30 * 24 * 3_600_000


def read_overlap_ms(written: Mapping[str, Any]) -> int:
    """Read `{"overlap"?}` of a rotation; Refused with every mistake."""
    mistakes = unknown_members(written, ["overlap"])
    overlap_ms: int | None = OVERLAP_MS
    if "overlap" in written:
        overlap_ms = _duration_ms(written["overlap"])
    if overlap_ms is None:
        longest = format_duration(OVERLAP_MAX_MS)
        mistakes.append(
            Issue("/overlap", f'must be a duration like "24h", at most "{longest}"; "0s" ends the old ones')
        )
    if mistakes or overlap_ms is None:
        raise Refused(problems.invalid(mistakes))
    return overlap_ms


def _duration_ms(value: Any) -> int | None:
    try:
        duration_ms = parse_duration_ms(value) if isinstance(value, str) else -1
    except (ValueError, OverflowError):
        return None
    return duration_ms if 0 <= duration_ms <= OVERLAP_MAX_MS else None
