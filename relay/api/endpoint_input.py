"""What people write about endpoints: read as JSON, checked whole, every mistake with a JSON pointer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from relay.api import problems
from relay.api.forms import Form, merged
from relay.api.problems import Refused
from relay.config import Config, EndpointDefinition
from relay.config.registration import address_faults, header_fault, selection_fault
from relay.contracts import Contract
from relay.core.issues import Issue, pointer
from relay.core.model import Endpoint


@dataclass(frozen=True, slots=True)
class Rules:
    """What an endpoint must comply with beside the form of its fields."""

    contract: Contract
    config: Config


def warnings(endpoint: Endpoint, contract: Contract) -> list[Issue]:
    """Say what is lawful about an endpoint and should be thought over: deprecated types, an unprotected address."""
    found = [
        Issue(f"/event_types/{index}", warning)
        for index, pattern in enumerate(endpoint.event_types)
        if (warning := contract.warn_subscription(pattern))
    ]
    if endpoint.url.lower().startswith("http:"):
        found.append(Issue("/url", "payloads go to this address unencrypted; use https where the receiver has it"))
    return found


def create(written: Mapping[str, Any], rules: Rules) -> EndpointDefinition:
    """Read a new endpoint; Refused with every mistake."""
    definition, mistakes = read(written, rules)
    if definition is None or mistakes:
        raise Refused(problems.invalid(mistakes))
    return definition


def revise(present: EndpointDefinition, patch: Mapping[str, Any], rules: Rules) -> EndpointDefinition:
    """Apply a JSON merge patch (RFC 7396): null takes a setting back to its default. Refused with every mistake.

    What the patch does not touch is not judged again: a rule that became stricter since must not block another edit.
    """
    definition, mistakes = read(merged(present.to_json(), patch), rules)
    touched = _FORM.touched(patch, mistakes)
    if definition is None or touched:
        raise Refused(problems.invalid(touched or mistakes))
    return definition


def read(written: Mapping[str, Any], rules: Rules) -> tuple[EndpointDefinition | None, list[Issue]]:
    """Read a whole definition, and everything that is wrong with it; None if it has not even the right form."""
    endpoint, mistakes = _FORM.read(written)
    if endpoint is None:
        return None, mistakes
    return endpoint, list(_check(endpoint, rules))


def _check(endpoint: EndpointDefinition, rules: Rules) -> Iterator[Issue]:
    contract = rules.contract
    for fault in address_faults(endpoint.url, contract.registration, rules.config.delivery):
        yield Issue("/url", fault)
    missing = selection_fault(contract.registration, given="event_types" in endpoint.model_fields_set)
    if missing:
        yield Issue("/event_types", missing)
    for index, pattern in enumerate(endpoint.event_types):
        wrong = contract.check_subscription(pattern)
        if wrong:
            yield Issue(f"/event_types/{index}", wrong)
    yield from _check_headers(endpoint.headers, contract)
    yield from _check_limits(endpoint, rules.config)


def _check_headers(headers: Mapping[str, str], contract: Contract) -> Iterator[Issue]:
    seen: set[str] = set()
    for name, value in headers.items():
        wrong = header_fault(name, value, contract)
        if wrong is None and name.lower() in seen:
            wrong = "is given twice in different spellings; header names do not tell upper from lower case"
        if wrong:
            yield Issue(pointer("headers", name), wrong)
        seen.add(name.lower())


def _check_limits(endpoint: EndpointDefinition, config: Config) -> Iterator[Issue]:
    most = max(1, config.delivery.concurrency // 4)
    if (endpoint.concurrency or 0) > most:
        yield Issue("/concurrency", f"one endpoint may have a quarter of delivery.concurrency, which is {most}")
    if (endpoint.max_age_ms or 0) > config.storage.retention.events_ms:
        yield Issue("/max_age", "is longer than storage.retention.events: the event would be gone before its end")


_FORM = Form(EndpointDefinition, "an endpoint")
