"""The settings of the relay: every key, its default, its bounds (DESIGN §9).

Attributes end in their unit (`timeout_ms`, `max_body_bytes`); the names in the file do not (`timeout`, `max_body`). Both
build a model; a file is read by its own names only. What one setting asks of another is checked in `checks`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from relay.config.fields import AbsolutePath, Filled, Id, Listen, Network, RateLimit, SecretField, duration, size, whole
from relay.core.units import parse_duration_ms as ms
from relay.core.units import parse_size_bytes as nbytes

SECRETS_MAX = 10
"""Secrets that may sign for one endpoint at a time (Standard Webhooks)."""

Delays = Annotated[tuple[Annotated[int, duration("0s")], ...], Field(max_length=100)]
Jitter = Annotated[float, Field(strict=True, ge=0.0, le=1.0, allow_inf_nan=False)]
Timeout = Annotated[int, duration("1ms", "10m")]
Age = Annotated[int, duration("1s")]


class Section(BaseModel):
    """One table of the file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # secrets are among the input
    )


class ServerConfig(Section):
    """Where the relay listens, and what it takes."""

    listen: Listen = ("127.0.0.1:8420", "unix:/run/relay/relay.sock")
    max_body_bytes: Annotated[int, size("1KiB", "64MiB")] = Field(nbytes("1MiB"), alias="max_body")
    max_depth: Annotated[int, whole(1, 1000)] = 200
    max_batch: Annotated[int, whole(1, 1000)] = 1000
    max_connections: Annotated[int, whole(1, 100_000)] = 1000
    head_timeout_ms: Annotated[int, duration("100ms", "10m")] = Field(ms("10s"), alias="head_timeout")
    body_timeout_ms: Annotated[int, duration("100ms", "10m")] = Field(ms("30s"), alias="body_timeout")


class RetentionConfig(Section):
    """How long finished work is kept (Q14)."""

    events_ms: Age = Field(ms("30d"), alias="events")
    attempts_ms: Age = Field(ms("14d"), alias="attempts")
    idempotency_ms: Age = Field(ms("90d"), alias="idempotency")
    memory_ms: Age = Field(ms("365d"), alias="memory")


class StorageConfig(Section):
    """The database, and how full it may become."""

    path: AbsolutePath = Path("/var/lib/relay/relay.db")
    durability: Literal["full", "normal"] = "full"
    min_free_disk_bytes: Annotated[int, size("0B", "1000000GB")] = Field(nbytes("512MiB"), alias="min_free_disk")
    max_backlog: Annotated[int, whole(1, 10**12)] = 10_000_000
    endpoint_backlog: Annotated[int, whole(1, 10**12)] = 1_000_000
    retention: RetentionConfig = RetentionConfig()


class RetryConfig(Section):
    """When a failed attempt is repeated: n delays are n + 1 attempts (Q6)."""

    schedule_ms: Delays = Field(
        tuple(map(ms, ("5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"))), alias="schedule"
    )
    jitter: Jitter = 0.2


class RetryOverride(Section):
    """The parts of a retry policy that an application or an endpoint sets for itself."""

    schedule_ms: Delays | None = Field(None, alias="schedule")
    jitter: Jitter | None = None


class HealthConfig(Section):
    """When a failing endpoint cools down, and when it is disabled (Q5, Q9)."""

    failures: Annotated[int, whole(1, 10_000)] = 10
    cool_down_ms: Annotated[int, duration("100ms", "1d")] = Field(ms("5s"), alias="cool_down")
    cool_down_max_ms: Annotated[int, duration("100ms", "1d")] = Field(ms("15m"), alias="cool_down_max")
    disable_after_ms: Age = Field(ms("5d"), alias="disable_after")


class DeliveryConfig(Section):
    """How deliveries are made, unless an application or an endpoint says otherwise."""

    concurrency: Annotated[int, whole(4, 10_000)] = 256
    timeout_ms: Timeout = Field(ms("15s"), alias="timeout")
    connect_timeout_ms: Timeout = Field(ms("5s"), alias="connect_timeout")
    drain_timeout_ms: Annotated[int, duration("0s", "1h")] = Field(ms("25s"), alias="drain_timeout")
    retry: RetryConfig = RetryConfig()
    max_age_ms: Age = Field(ms("5d"), alias="max_age")
    health: HealthConfig = HealthConfig()
    allow_networks: tuple[Network, ...] = ()
    allow_http: Annotated[bool, Field(strict=True)] = False

    @property
    def schedule_ms(self) -> tuple[int, ...]:
        return self.retry.schedule_ms

    @property
    def jitter(self) -> float:
        return self.retry.jitter


class LogConfig(Section):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    deliveries: Literal["failures", "all"] = "failures"


class TokenConfig(Section):
    """Who may call the API, and as what (DESIGN §8)."""

    name: Id
    role: Literal["producer", "application", "reader", "admin"]
    application: Id | None = None
    secret: SecretField


class Overrides(Section):
    """What an application or an endpoint may set for itself; None passes the question on (Q6)."""

    timeout_ms: Timeout | None = Field(None, alias="timeout")
    retry: RetryOverride | None = None
    max_age_ms: Age | None = Field(None, alias="max_age")

    @property
    def schedule_ms(self) -> tuple[int, ...] | None:
        return None if self.retry is None else self.retry.schedule_ms

    @property
    def jitter(self) -> float | None:
        return None if self.retry is None else self.retry.jitter


class EndpointConfig(Overrides):
    """A receiver."""

    id: Id
    url: str
    description: Annotated[str, Field(max_length=1000)] = ""
    event_types: Annotated[tuple[str, ...], Filled, Field(max_length=1000)] | None = None
    secret: SecretField | None = None
    secrets: Annotated[tuple[SecretField, ...], Filled, Field(max_length=SECRETS_MAX)] | None = None
    headers: Annotated[Mapping[str, str], Field(max_length=50)] = Field(default_factory=dict)
    concurrency: Annotated[int, whole(1, 10_000)] | None = None
    rate: RateLimit | None = Field(None, alias="rate_limit")

    @property
    def secret_values(self) -> tuple[str, ...]:
        """Return the secrets, newest first, in clear."""
        secrets = self.secrets or (() if self.secret is None else (self.secret,))
        return tuple(secret.get_secret_value() for secret in secrets)


class ApplicationConfig(Overrides):
    """Whoever owns endpoints."""

    id: Id
    contract: str = "standard"
    features: Mapping[str, Annotated[bool, Field(strict=True)]] = Field(default_factory=dict)
    validation: Literal["strict", "warn", "off"] = "strict"
    endpoints: tuple[EndpointConfig, ...] = Field((), alias="endpoint")


class Config(Section):
    """Everything that can be set. Without any application there is one, `default`."""

    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    log: LogConfig = LogConfig()
    tokens: tuple[TokenConfig, ...] = Field((), alias="token")
    applications: Annotated[tuple[ApplicationConfig, ...], Filled] = Field(
        (ApplicationConfig(id="default"),), alias="application"
    )
