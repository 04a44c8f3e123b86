"""What people write about endpoints: read as JSON, checked whole, every mistake with a JSON pointer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from relay.api import problems
from relay.api.forms import Form, merged
from relay.api.problems import Refused
from relay.config import Config
from relay.config.fields import Filled, RateLimit, whole
from relay.config.model import Overrides
from relay.config.registration import address_faults, header_fault, selection_fault
from relay.contracts import Contract
from relay.core.issues import Issue, pointer
from relay.core.model import Endpoint
from relay.core.units import Rate
from relay.registry.definition import EndpointDefinition


class EndpointInput(Overrides):
    """The fields of an endpoint that may be written."""

    url: str
    event_types: Annotated[tuple[str, ...], Filled, Field(max_length=1000)] = ("*",)
    description: Annotated[str, Field(max_length=1000)] = ""
    headers: Annotated[Mapping[str, str], Field(max_length=50)] = Field(default_factory=dict)
    concurrency: Annotated[int, whole(1, 10_000)] | None = None
    rate: RateLimit | None = Field(None, alias="rate_limit")

    def definition(self) -> EndpointDefinition:
        """Return it as the directory keeps it."""
        return EndpointDefinition(
            url=self.url,
            event_types=tuple(dict.fromkeys(self.event_types)),
            description=self.description,
            headers=tuple(self.headers.items()),
            concurrency=self.concurrency,
            rate=None if self.rate is None else Rate(*self.rate),
            timeout_ms=self.timeout_ms,
            schedule_ms=self.schedule_ms,
            jitter=self.jitter,
            max_age_ms=self.max_age_ms,
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """What an endpoint must comply with beside the form of its fields."""

    contract: Contract
    config: Config


def warnings(endpoint: EndpointDefinition | Endpoint, contract: Contract) -> list[Issue]:
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
    return endpoint.definition(), list(_check(endpoint, rules))


def _check(endpoint: EndpointInput, rules: Rules) -> Iterator[Issue]:
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


def _check_limits(endpoint: EndpointInput, config: Config) -> Iterator[Issue]:
    most = max(1, config.delivery.concurrency // 4)
    if (endpoint.concurrency or 0) > most:
        yield Issue("/concurrency", f"one endpoint may have a quarter of delivery.concurrency, which is {most}")
    if (endpoint.max_age_ms or 0) > config.storage.retention.events_ms:
        yield Issue("/max_age", "is longer than storage.retention.events: the event would be gone before its end")


_FORM = Form(EndpointInput, "an endpoint")
