"""The settings of the relay: every key, its default, its bounds.

Attributes end in their unit (`timeout_ms`, `max_body_bytes`); the names in the file do not (`timeout`, `max_body`). Both
build a model; a file is read by its own names only. What one setting asks of another is checked in `checks`.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from relay.config.definitions import (
    SOURCES_MAX,
    Age,
    ApplicationConfig,
    Backlog,
    DefinitionBytes,
    Delays,
    Endpoints,
    Jitter,
    OwedBytes,
    Section,
    TestsAtOnce,
    TestsPerMinute,
    Timeout,
)
from relay.config.fields import (
    AbsolutePath,
    Authorities,
    BytesPace,
    Filled,
    HostAddress,
    Id,
    Keys,
    Listen,
    Network,
    Origin,
    Pace,
    Pem,
    RateLimit,
    SecretField,
    TlsVersion,
    duration,
    size,
    whole,
)
from relay.config.secrets import SecretText, read_key
from relay.core.locate import KeyPath
from relay.core.units import UNLIMITED, Rate
from relay.core.units import parse_duration_ms as ms
from relay.core.units import parse_size_bytes as nbytes


class ServerConfig(Section):
    """Where the relay listens, and what it takes."""

    listen: Listen = ("127.0.0.1:8420", "unix:/run/relay/relay.sock")
    max_body_bytes: Annotated[int, size("1KiB", "64MiB")] = Field(nbytes("1MiB"), alias="max_body")
    max_depth: Annotated[int, whole(1, 1000)] = 200
    max_batch: Annotated[int, whole(1, 1000)] = 1000
    max_connections: Annotated[int, whole(1, 100_000)] = 1000
    head_timeout_ms: Annotated[int, duration("100ms", "10m")] = Field(ms("10s"), alias="head_timeout")
    body_timeout_ms: Annotated[int, duration("100ms", "10m")] = Field(ms("30s"), alias="body_timeout")
    write_timeout_ms: Annotated[int, duration("100ms", "10m")] = Field(ms("30s"), alias="write_timeout")


class RetentionConfig(Section):
    """How long finished work is kept (Q14)."""

    events_ms: Age = Field(ms("30d"), alias="events")
    attempts_ms: Age = Field(ms("14d"), alias="attempts")
    idempotency_ms: Age = Field(ms("90d"), alias="idempotency")
    memory_ms: Age = Field(ms("365d"), alias="memory")
    replays_ms: Age = Field(ms("30d"), alias="replays")


class StorageConfig(Section):
    """The database, and how full it may become."""

    path: AbsolutePath = Path("/var/lib/relay/relay.db")
    durability: Literal["full", "normal"] = "full"
    min_free_disk_bytes: Annotated[int, size("0B", "1000000GB")] = Field(nbytes("512MiB"), alias="min_free_disk")
    max_backlog: Annotated[int, whole(1, 10**12)] = 10_000_000
    endpoint_backlog: Annotated[int, whole(1, 10**12)] = 1_000_000
    secrets_key: Keys = ()
    retention: RetentionConfig = RetentionConfig()

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What secrets in the database are encrypted with, newest first."""
        return tuple(read_key(key.get_secret_value()) for key in self.secrets_key)


class RetryConfig(Section):
    """When a failed attempt is repeated: n delays are n + 1 attempts (Q6)."""

    schedule_ms: Delays = Field(
        tuple(map(ms, ("5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"))), alias="schedule"
    )
    jitter: Jitter = 0.2


class HealthConfig(Section):
    """When a failing endpoint cools down, and when it is disabled (Q5, Q9)."""

    failures: Annotated[int, whole(1, 10_000)] = 10
    cool_down_ms: Annotated[int, duration("100ms", "1d")] = Field(ms("5s"), alias="cool_down")
    cool_down_max_ms: Annotated[int, duration("100ms", "1d")] = Field(ms("15m"), alias="cool_down_max")
    disable_after_ms: Age = Field(ms("5d"), alias="disable_after")


class TlsConfig(Section):
    """How TLS is spoken to receivers, unless an endpoint says otherwise. Certificates are always verified."""

    ca_file: Authorities = SecretText("")
    client_cert: Pem = SecretText("")
    client_key: Pem = SecretText("")
    min_version: TlsVersion = "1.2"


class DeliveryConfig(Section):
    """How deliveries are made, unless an application or an endpoint says otherwise."""

    concurrency: Annotated[int, whole(4, 10_000)] = 256
    timeout_ms: Timeout = Field(ms("15s"), alias="timeout")
    connect_timeout_ms: Timeout = Field(ms("5s"), alias="connect_timeout")
    drain_timeout_ms: Annotated[int, duration("0s", "1h")] = Field(ms("25s"), alias="drain_timeout")
    retry: RetryConfig = RetryConfig()
    max_age_ms: Age = Field(ms("5d"), alias="max_age")
    health: HealthConfig = HealthConfig()
    tls: TlsConfig = TlsConfig()
    allow_networks: tuple[Network, ...] = ()
    own_addresses: tuple[HostAddress, ...] = ()
    source_addresses: Annotated[tuple[HostAddress, ...], Field(max_length=SOURCES_MAX)] = ()
    allow_http: Annotated[bool, Field(strict=True)] = False
    origin: Origin = ""

    @property
    def reach(self) -> tuple[object, ...]:
        """What a courier is made for: another one takes its place when this changes."""
        addresses = self.allow_networks, self.own_addresses, self.source_addresses
        return *addresses, self.connect_timeout_ms, self.tls

    @property
    def schedule_ms(self) -> tuple[int, ...]:
        return self.retry.schedule_ms

    @property
    def jitter(self) -> float:
        return self.retry.jitter


class TestsConfig(Section):
    """How many tests of its endpoints one application may have made."""

    at_once: TestsAtOnce = 4
    per_minute: TestsPerMinute = 60


class LimitsConfig(Section):
    """How much one application, or one token, may take, unless it was given limits of its own (Q10)."""

    endpoints: Endpoints = 1_000
    backlog: Backlog = 1_000_000
    bytes_max: OwedBytes = Field(nbytes("1GiB"), alias="bytes")
    tests: TestsConfig = TestsConfig()
    definition_bytes: DefinitionBytes = Field(nbytes("64KiB"), alias="definition")
    rate: Pace = UNLIMITED
    bytes_rate: BytesPace = UNLIMITED


class ReplaysConfig(Section):
    """How fast deliveries are sent again in bulk, and how much of that goes on at once."""

    rate: RateLimit = Rate(50, 1000)
    at_once: Annotated[int, whole(1, 1_000)] = 16
    per_application: Annotated[int, whole(1, 1_000)] = 4
    ids: Annotated[int, whole(1, 100_000)] = 10_000
    deliveries: Annotated[int, whole(1, 10**9)] = 1_000_000


class LogConfig(Section):
    """What is logged, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    deliveries: Literal["failures", "all"] = "failures"


class TokenConfig(Section):
    """Who may call the API, and as what."""

    name: Id
    role: Literal["producer", "application", "reader", "operator", "admin"]
    application: Id | None = None
    secret: SecretField
    rate: Pace | None = None
    bytes_rate: BytesPace | None = None

    def paces(self, limits: LimitsConfig) -> tuple[Rate, Rate]:
        """Return how fast it may be used: its requests and events, and their bytes."""
        rate = limits.rate if self.rate is None else self.rate
        return rate, limits.bytes_rate if self.bytes_rate is None else self.bytes_rate


class Config(Section):
    """Everything that can be set. Without any application there is one, `default`."""

    server: ServerConfig = ServerConfig()
    storage: StorageConfig = StorageConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    limits: LimitsConfig = LimitsConfig()
    replays: ReplaysConfig = ReplaysConfig()
    log: LogConfig = LogConfig()
    tokens: tuple[TokenConfig, ...] = Field((), alias="token")
    applications: Annotated[tuple[ApplicationConfig, ...], Filled] = Field(
        (ApplicationConfig(id="default"),), alias="application"
    )


# -- what keys the file may have, asked of the models ------------------------------------------------------------------


@cache
def fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return a table's keys as they are written in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def table_at(path: KeyPath) -> type[BaseModel] | None:
    """Return the model of the table at a path; None where there is none."""
    model: type[BaseModel] | None = Config
    for key in path:
        if isinstance(key, str):
            model = _inner_tables(model).get(key) if model else None
    return model


@cache
def _inner_tables(model: type[BaseModel]) -> Mapping[str, type[BaseModel]]:
    return {key: table for key, field in fields(model).items() if (table := nested(field.annotation))}


def settings(
    model: type[BaseModel] = Config, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """List the settings that exist once, with their paths: all but those of tokens, applications and endpoints."""
    for key, field in fields(model).items():
        below = nested(field.annotation)
        if below is None:
            yield (*path, key), field
        elif not is_list(field):
            yield from settings(below, (*path, key))


def homes(key: str) -> list[str]:
    """Return the tables that have a key of this name, as they are written in the file."""
    return [table for table, model in _tables(Config, "", is_array=False) if key in fields(model)]


def is_list(field: FieldInfo) -> bool:
    """Whether a setting holds several values."""
    return get_origin(field.annotation) is tuple


def nested(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := nested(inner))), None)


def _tables(model: type[BaseModel], name: str, *, is_array: bool) -> Iterator[tuple[str, type[BaseModel]]]:
    if name:
        yield (f"[[{name}]]" if is_array else f"[{name}]"), model
    for key, field in fields(model).items():
        below = nested(field.annotation)
        if below is not None:
            yield from _tables(below, f"{name}.{key}" if name else key, is_array=is_list(field))


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the words of a `Literal`, also of one that may be left out."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in choices(part))
