"""What a test of an endpoint sends: an event that nobody posted, in the shape that one would have."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from relay.api.body import parse_object, raw_member, unknown_members
from relay.contracts import Contract, NoExample, Payload, Rendering
from relay.core.frozen import FrozenEvent
from relay.core.issues import Invalid, Issue
from relay.core.model import Application
from relay.intake import rules


class Sample(NamedTuple):
    """What a test sends, and what the catalogue has against it without forbidding it."""

    type: str
    data: bytes
    warnings: tuple[Issue, ...] = ()


def read_sample(
    body: bytes, contract: Contract, catalogue: Contract, application: Application, endpoint_id: str
) -> Sample:
    """Read `{"type"?, "data"?}` of a test; Invalid with every mistake.

    Without data it is the contract's example of that type; without type the contract's own test event, with its ids.
    What is given is held against the catalogue as intake does it. An endpoint's own contract that is open says nothing
    of types that it does not list: there the application's `catalogue` stands in.
    """
    written = parse_object(body)
    mistakes = unknown_members(written, ["type", "data"])
    named: Any = written.get("type")
    if "type" in written and not isinstance(named, str):
        mistakes.append(Issue("/type", "must be the name of an event type"))
        raise Invalid(mistakes)
    listed = contract.types if named is None else named in contract.types
    if contract.catalogue_open and not listed:
        contract = catalogue
    facts = {"endpoint_id": endpoint_id, "application_id": application.id}
    data = raw_member(body, "data")
    event_type = _own_type(contract, facts) if named is None else named
    found = rules.enforce(contract, application.validation, event_type, Payload(data or b"null"))
    # What is said about data that were not given is left out: an example will be taken.
    found = [issue for issue in found if data is not None or issue.path == "/type"]
    mistakes += [issue for issue in found if not issue.warning]
    if mistakes:
        raise Invalid(mistakes)
    sample = _example(contract, named, facts) if data is None else Sample(event_type, data)
    return sample._replace(warnings=tuple(found))


def freeze(sample: Sample, contract: Contract, application: Application, event_id: str, now_ms: int) -> FrozenEvent:
    """Render a sample as intake renders an event; Unrenderable for what cannot be in the contract's body."""
    body = rules.freeze(contract, Rendering(event_id, sample.type, now_ms, now_ms, Payload(sample.data)))
    return FrozenEvent(
        ordinal=0,
        id=event_id,
        type=sample.type,
        application=application.ref,
        created_at_ms=now_ms,
        expires_at_ms=None,
        body=body,
        contract=contract.name,
    )


def _own_type(contract: Contract, facts: Mapping[str, str]) -> str:
    return _example(contract, None, facts).type


def _example(contract: Contract, named: str | None, facts: Mapping[str, str]) -> Sample:
    try:
        return Sample(*contract.test_event(named, facts))
    except NoExample as missing:
        stand_in = _stand_in(contract, facts)
        if named is None or stand_in is None:
            place = "/type" if named is None else "/data"
            raise Invalid([Issue(place, str(missing))]) from None
        return Sample(named, stand_in)


def _stand_in(contract: Contract, facts: Mapping[str, str]) -> bytes | None:
    """Return the contract's own test data, for a type that it takes and does not describe."""
    return None if contract.test_type is None else contract.test_event(contract.test_type, facts)[1]
