"""How applications and endpoints are defined, and how the definitions become settings.

A definition holds what somebody wrote, in the file or through the API; what they left out is `None` and comes from the
application, the contract, or `[delivery]`, in that order (Q6). It is stored as JSON when it came through the API.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from relay.core.model import RetryPolicy, Validation
from relay.core.units import Rate, format_duration, format_rate, parse_duration_ms, parse_rate

V = TypeVar("V")

CONCURRENCY = 16
"""Attempts at once to one endpoint, unless it says otherwise (Q4)."""


@dataclass(frozen=True, slots=True)
class EndpointDefinition:
    """What somebody wrote about an endpoint; `None` where they wrote nothing."""

    url: str
    event_types: tuple[str, ...] = ("*",)
    description: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    concurrency: int | None = None
    rate: Rate | None = None
    timeout_ms: int | None = None
    schedule_ms: tuple[int, ...] | None = None
    jitter: float | None = None
    max_age_ms: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Write the definition in the API's own words."""
        written = {
            "url": self.url,
            "event_types": list(self.event_types),
            "description": self.description,
            "headers": dict(self.headers),
            "concurrency": self.concurrency,
            "rate_limit": None if self.rate is None else format_rate(self.rate),
        }
        return {name: value for name, value in written.items() if value is not None} | _overrides(self)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "EndpointDefinition":
        """Read what `to_json` wrote."""
        return cls(
            url=written["url"],
            event_types=tuple(written.get("event_types", ("*",))),
            description=written.get("description", ""),
            headers=tuple(written.get("headers", {}).items()),
            concurrency=written.get("concurrency"),
            rate=_given(parse_rate, written.get("rate_limit")),
            **_read_overrides(written),
        )


@dataclass(frozen=True, slots=True)
class ApplicationDefinition:
    """What somebody wrote about an application."""

    contract: str = "standard"
    name: str = ""
    features: Mapping[str, bool] = field(default_factory=dict)
    validation: Validation = Validation.STRICT
    timeout_ms: int | None = None
    schedule_ms: tuple[int, ...] | None = None
    jitter: float | None = None
    max_age_ms: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Write the definition in the API's own words."""
        return {
            "contract": self.contract,
            "name": self.name,
            "features": dict(self.features),
            "validation": self.validation.value,
        } | _overrides(self)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> "ApplicationDefinition":
        """Read what `to_json` wrote."""
        return cls(
            contract=written["contract"],
            name=written.get("name", ""),
            features=dict(written.get("features", {})),
            validation=Validation(written.get("validation", Validation.STRICT)),
            **_read_overrides(written),
        )


class Defaults(Protocol):
    """One level of settings above an endpoint; `None` passes the question on."""

    @property
    def timeout_ms(self) -> int | None: ...
    @property
    def schedule_ms(self) -> tuple[int, ...] | None: ...
    @property
    def jitter(self) -> float | None: ...
    @property
    def max_age_ms(self) -> int | None: ...


def resolve_retry(*levels: Defaults) -> RetryPolicy:
    """Take each part of the retry policy from the first level that says something; the last level says all."""
    return RetryPolicy(
        schedule_ms=first(*(level.schedule_ms for level in levels)),
        jitter=first(*(level.jitter for level in levels)),
        max_age_ms=first(*(level.max_age_ms for level in levels)),
    )


def resolve_timeout_ms(*levels: Defaults) -> int:
    """Take the time-out from the first level that says something."""
    return first(*(level.timeout_ms for level in levels))


def first(*values: V | None) -> V:
    """Return the first value that was given; the last one must be."""
    for value in values:
        if value is not None:
            return value
    raise AssertionError("the last level of settings leaves nothing open")


def _overrides(level: Defaults) -> dict[str, Any]:
    """Write what a level says for itself; what it leaves to those above is left out."""
    retry: dict[str, Any] = {}
    if level.schedule_ms is not None:
        retry["schedule"] = [format_duration(delay) for delay in level.schedule_ms]
    if level.jitter is not None:
        retry["jitter"] = level.jitter
    written = {
        "timeout": None if level.timeout_ms is None else format_duration(level.timeout_ms),
        "retry": retry or None,
        "max_age": None if level.max_age_ms is None else format_duration(level.max_age_ms),
    }
    return {name: value for name, value in written.items() if value is not None}


def _read_overrides(written: Mapping[str, Any]) -> dict[str, Any]:
    retry = written.get("retry") or {}
    schedule = retry.get("schedule")
    return {
        "timeout_ms": _given(parse_duration_ms, written.get("timeout")),
        "schedule_ms": None if schedule is None else tuple(parse_duration_ms(delay) for delay in schedule),
        "jitter": retry.get("jitter"),
        "max_age_ms": _given(parse_duration_ms, written.get("max_age")),
    }


def _given(parse: Any, text: str | None) -> Any:
    return None if text is None else parse(text)
