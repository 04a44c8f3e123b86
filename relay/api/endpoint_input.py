"""What people write about endpoints: read as JSON, checked whole, every mistake with a JSON pointer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from relay import problems
from relay.api.objects import pointer
from relay.config import Config
from relay.config.checks import allows_private
from relay.config.fields import Filled, RateLimit, whole
from relay.config.model import Overrides
from relay.config.secrets import Wrong
from relay.contracts import Contract
from relay.definition import EndpointDefinition
from relay.durations import Rate
from relay.event_types import check_subscription
from relay.headers import check_header
from relay.problems import Mistake, Refused
from relay.urls import check_url


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
    merged_away = [name for name, value in patch.items() if value is None and name not in _NAMES]
    touched = [Mistake(pointer(name), _UNKNOWN) for name in merged_away]
    touched += [mistake for mistake in mistakes if _member(mistake.pointer) in patch]
    if definition is None or touched:
        raise Refused(problems.invalid(touched or mistakes))
    return definition


def read(written: Mapping[str, Any], rules: Rules) -> tuple[EndpointDefinition | None, list[Mistake]]:
    """Read a whole definition, and everything that is wrong with it; None if it has not even the right form."""
    try:
        endpoint = EndpointInput.model_validate(written, by_alias=True, by_name=False, context="written by a person")
    except ValidationError as error:
        return None, [_mistake(found) for found in error.errors(include_url=False, include_input=False)]
    return endpoint.definition(), list(_check(endpoint, rules))


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `patch` into `target` as RFC 7396 says."""
    result = dict(target)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, Mapping):
            inner = result.get(name)
            result[name] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            result[name] = value
    return result


def _check(endpoint: EndpointInput, rules: Rules) -> Iterator[Mistake]:
    delivery = rules.config.delivery
    allow_private = allows_private(delivery, endpoint.url)
    wrong = check_url(endpoint.url, allow_http=delivery.allow_http, allow_private=allow_private)
    if wrong:
        yield Mistake("/url", wrong)
    for index, pattern in enumerate(endpoint.event_types):
        wrong = check_subscription(pattern, rules.contract.type_grammar)
        if wrong:
            yield Mistake(f"/event_types/{index}", wrong)
    yield from _check_headers(endpoint.headers)
    yield from _check_limits(endpoint, rules.config)


def _check_headers(headers: Mapping[str, str]) -> Iterator[Mistake]:
    seen: set[str] = set()
    for name, value in headers.items():
        wrong = check_header(name, value)
        if wrong is None and name.lower() in seen:
            wrong = "is given twice in different spellings; header names do not tell upper from lower case"
        if wrong:
            yield Mistake(pointer("headers", name), wrong)
        seen.add(name.lower())


def _check_limits(endpoint: EndpointInput, config: Config) -> Iterator[Mistake]:
    most = max(1, config.delivery.concurrency // 4)
    if (endpoint.concurrency or 0) > most:
        yield Mistake("/concurrency", f"one endpoint may have a quarter of delivery.concurrency, which is {most}")
    if (endpoint.max_age_ms or 0) > config.storage.retention.events_ms:
        yield Mistake("/max_age", "is longer than storage.retention.events: the event would be gone before its end")


def _mistake(found: ErrorDetails) -> Mistake:
    where = pointer(*found["loc"])
    wrong = found.get("ctx", {}).get("error")
    if isinstance(wrong, Wrong):
        return Mistake(where, f"{wrong.message}. {wrong.remedy}".strip())
    if found["type"] == "extra_forbidden":
        return Mistake(where, _UNKNOWN)
    if found["type"] == "missing":
        return Mistake(where, "is missing")
    if found["type"] == "string_type":
        return Mistake(where, "must be text")
    return Mistake(where, found["msg"].removeprefix("Value error, "))


def _member(where: str) -> str:
    return where[1:].partition("/")[0].replace("~1", "/").replace("~0", "~")


_NAMES = [field.alias or name for name, field in EndpointInput.model_fields.items()]
_UNKNOWN = f"is not a field of an endpoint; it has {', '.join(_NAMES)}"
