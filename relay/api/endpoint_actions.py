"""What may be said with a rotation and with a test."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from relay import problems
from relay.api.objects import parse_object, raw_member, unknown_members
from relay.contracts import Contract, NoExample
from relay.durations import format_duration, parse_duration_ms
from relay.problems import Mistake, Refused

OVERLAP_MS = 24 * 3_600_000
"""How long an old secret signs beside the new one, unless the caller says otherwise."""

OVERLAP_MAX_MS = 30 * 24 * 3_600_000


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


def read_test(body: bytes, contract: Contract, facts: Mapping[str, str]) -> Sample:
    """Read `{"type"?, "data"?}` of a test; Refused with every mistake.

    Without data it is the contract's example of that type; without type the contract's own test event, whose ids are
    `facts`. Data that are given must be what the catalogue asks for.
    """
    written = parse_object(body)
    mistakes = unknown_members(written, ["type", "data"])
    named = written.get("type")
    wrong = _type_fault(named, contract) if "type" in written else None
    if wrong is not None:
        mistakes.append(Mistake("/type", wrong))
    if mistakes:
        raise Refused(problems.invalid(mistakes))
    data = raw_member(body, "data")
    if data is None:
        return _example(contract, named, facts)
    event_type = _example(contract, None, facts).type if named is None else named
    faults = [Mistake(f"/data{fault.pointer}", fault.sentence) for fault in contract.check_data(event_type, data)]
    if faults:
        raise Refused(problems.invalid(faults))
    return Sample(event_type, data)


def _type_fault(named: Any, contract: Contract) -> str | None:
    return contract.check_type(named) if isinstance(named, str) else "must be the name of an event type"


def _example(contract: Contract, named: str | None, facts: Mapping[str, str]) -> Sample:
    try:
        return Sample(*contract.test_event(named, facts))
    except NoExample as missing:
        stand_in = _stand_in(contract, facts)
        if named is None or stand_in is None:
            place = "/type" if named is None else "/data"
            raise Refused(problems.invalid([Mistake(place, str(missing))])) from None
        return Sample(named, stand_in)


def _stand_in(contract: Contract, facts: Mapping[str, str]) -> bytes | None:
    """Return the contract's own test data, for a type that an open catalogue takes and does not describe."""
    own = next((listed.name for listed in contract.types.values() if listed.test_only), None)
    return None if own is None else contract.test_event(own, facts)[1]


def _duration_ms(value: Any) -> int | None:
    try:
        duration_ms = parse_duration_ms(value) if isinstance(value, str) else -1
    except (ValueError, OverflowError):
        return None
    return duration_ms if 0 <= duration_ms <= OVERLAP_MAX_MS else None
