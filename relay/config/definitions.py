"""What a person may write about an application or an endpoint: in the file, through the API, in an import.

What they leave out is None and comes from the application, the contract, or `[delivery]`, in that order (Q6). The
database keeps a definition as its JSON, in the API's own words. Attributes end in their unit (`timeout_ms`); what is
written does not (`timeout`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from relay.config.fields import (
    KEPT,
    Credential,
    Filled,
    FilterField,
    HostAddress,
    Id,
    Network,
    Pem,
    RateLimit,
    SecretField,
    TlsVersion,
    at_most,
    duration,
    size,
    whole,
)

SECRETS_MAX = 10
"""Secrets that may sign for one endpoint at a time (Standard Webhooks)."""

SOURCES_MAX = 100
"""Addresses of this host that deliveries may come from."""

NETWORKS_MAX = 100
"""Networks that may be open to one application beside those of `[delivery]`."""

Delays = Annotated[tuple[Annotated[int, duration("0s")], ...], at_most(100)]
Jitter = Annotated[float, Field(strict=True, ge=0.0, le=1.0, allow_inf_nan=False)]
Timeout = Annotated[int, duration("1ms", "10m")]
Age = Annotated[int, duration("1s")]


Endpoints = Annotated[int, whole(0, 1_000_000)]
Backlog = Annotated[int, whole(1, 10**12)]
OwedBytes = Annotated[int, size("1KiB", "1000000GB")]
DefinitionBytes = Annotated[int, size("1KiB", "1MiB")]
TestsAtOnce = Annotated[int, whole(0, 1_000)]
TestsPerMinute = Annotated[int, whole(0, 10_000)]


class Section(BaseModel):
    """One table of the file, or one object of the API."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # secrets are among the input
    )


class RetryOverride(Section):
    """The parts of a retry policy that an application or an endpoint sets for itself."""

    schedule_ms: Delays | None = Field(None, alias="schedule")
    jitter: Jitter | None = None


class TestsOverride(Section):
    """The limits of tests that an application sets for itself."""

    at_once: TestsAtOnce | None = None
    per_minute: TestsPerMinute | None = None


class LimitsOverride(Section):
    """The limits that an application sets for itself, in place of those of `[limits]`."""

    endpoints: Endpoints | None = None
    backlog: Backlog | None = None
    bytes_max: OwedBytes | None = Field(None, alias="bytes")
    tests: TestsOverride = TestsOverride()
    definition_bytes: DefinitionBytes | None = Field(None, alias="definition")


_BESIDE = {"id", "application", "secret", "secrets", "state", "disabled_by", "verified", "endpoints", "endpoint", "key"}
"""What stands beside a definition where it is written, and is no part of it."""


class Definition(Section):
    """What applications and endpoints may both set for themselves; None passes the question on (Q6)."""

    timeout_ms: Timeout | None = Field(None, alias="timeout")
    retry: RetryOverride | None = None
    max_age_ms: Age | None = Field(None, alias="max_age")

    @property
    def schedule_ms(self) -> tuple[int, ...] | None:
        return None if self.retry is None else self.retry.schedule_ms

    @property
    def jitter(self) -> float | None:
        return None if self.retry is None else self.retry.jitter

    def to_json(self) -> dict[str, Any]:
        """Return what the database keeps: everything that is not left to the levels above, with units."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, context=KEPT, exclude=_BESIDE)

    @classmethod
    def from_json(cls, written: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned."""
        return cls.model_validate(written, by_alias=True, by_name=False, context="written")


class EndpointTls(Section):
    """How TLS is spoken to one endpoint; what is left out is as `[delivery.tls]` says."""

    ca: Pem | None = None
    client_cert: Pem | None = None
    client_key: Pem | None = None
    min_version: TlsVersion | None = None


class EndpointAuth(Section):
    """What relay authenticates with at one endpoint; which members stand here depends on the type."""

    type: Literal["basic", "bearer", "api_key", "oauth2"] | None = None
    username: Annotated[str, Field(max_length=256)] | None = None
    password: Credential | None = None
    token: Credential | None = None
    header: str | None = None
    key: Credential | None = None
    token_url: str | None = None
    client_id: Annotated[str, Field(max_length=1000)] | None = None
    client_secret: Credential | None = None
    scope: Annotated[str, Field(max_length=2000)] | None = None
    audience: Annotated[str, Field(max_length=1000)] | None = None
    client_auth: Literal["basic", "body"] | None = None


class EndpointDefinition(Definition):
    """A receiver."""

    url: str
    description: Annotated[str, Field(max_length=1000)] = ""
    event_types: Annotated[tuple[str, ...], Filled, at_most(1000)] = ("*",)
    filter: FilterField | None = None
    headers: Annotated[Mapping[str, str], at_most(50)] = Field(default_factory=dict)
    concurrency: Annotated[int, whole(1, 10_000)] | None = None
    rate: RateLimit | None = Field(None, alias="rate_limit")
    tls: EndpointTls | None = None
    auth: EndpointAuth | None = None
    verification: Literal["none", "challenge", "options", "ping"] | None = None
    contract: str | None = None


class ApplicationDefinition(Definition):
    """Whoever owns endpoints."""

    name: Annotated[str, Field(max_length=200)] = ""
    contract: str = "standard"
    features: Annotated[Mapping[str, Annotated[bool, Field(strict=True)]], at_most(100)] = Field(default_factory=dict)
    validation: Literal["strict", "warn", "off"] = "strict"
    allow_networks: Annotated[tuple[Network, ...], at_most(NETWORKS_MAX)] = ()
    source_addresses: Annotated[tuple[HostAddress, ...], at_most(SOURCES_MAX)] | None = None
    limits: LimitsOverride | None = None


class Identified(Section):
    """What has an id in the file; the API makes one up."""

    id: Id


class EndpointConfig(EndpointDefinition, Identified):
    """An endpoint of the file: its definition, with the secrets that the API makes itself."""

    secret: SecretField | None = None
    secrets: Annotated[tuple[SecretField, ...], Filled, at_most(SECRETS_MAX)] | None = None

    @property
    def secret_values(self) -> tuple[str, ...]:
        """Return the secrets, newest first, in clear."""
        secrets = self.secrets or (() if self.secret is None else (self.secret,))
        return tuple(secret.get_secret_value() for secret in secrets)


class ApplicationConfig(ApplicationDefinition, Identified):
    """An application of the file, with its endpoints."""

    endpoints: tuple[EndpointConfig, ...] = Field((), alias="endpoint")
