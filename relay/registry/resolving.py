"""From what was written to what holds: applications and endpoints with every setting resolved (Q6). Plain functions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from relay.config import (
    ApplicationConfig,
    ApplicationDefinition,
    Config,
    DeliveryConfig,
    EndpointConfig,
    EndpointDefinition,
    EndpointTls,
    LimitsConfig,
    LimitsOverride,
)
from relay.config.auth import resolve_auth
from relay.core.model import Application, Endpoint, HealthPolicy, Limits, Origin, RetryPolicy, Secret, Validation
from relay.core.netguard import Reach
from relay.core.tls import TlsIdentity
from relay.core.verification import Method, slower
from relay.store import ApplicationRow, EndpointRow

V = TypeVar("V")

CONCURRENCY = 16
"""Attempts at once to one endpoint, unless it says otherwise (Q4)."""


class InFile(NamedTuple):
    """What the file defines, by id."""

    applications: Mapping[str, ApplicationConfig]
    endpoints: Mapping[str, tuple[str, EndpointConfig]]  # each with the id of its application

    @classmethod
    def of(cls, config: Config) -> "InFile":
        return cls(
            {application.id: application for application in config.applications},
            {
                endpoint.id: (application.id, endpoint)
                for application in config.applications
                for endpoint in application.endpoints
            },
        )

    def definition_of(self, row: EndpointRow) -> EndpointDefinition:
        """Return what was written about an endpoint, in the file or through the API."""
        if row.definition is not None:
            return EndpointDefinition.from_json(row.definition)
        if row.id in self.endpoints:
            return self.endpoints[row.id][1]
        # It vanished from the file: it is held, so nothing but its name, its address and its history is needed.
        return EndpointDefinition.model_construct(url=row.url_seen or "", event_types=())

    def secrets_of(self, row: EndpointRow) -> tuple[Secret, ...]:
        """Return what signs for an endpoint: those of the file stay there, the others are kept by the database."""
        if row.origin is Origin.API:
            return row.secrets
        return tuple(map(Secret, self.endpoints[row.id][1].secret_values)) if row.id in self.endpoints else ()


class Level(Protocol):
    """One level of settings: endpoint, application, contract, `[delivery]`. None passes the question on."""

    @property
    def timeout_ms(self) -> int | None: ...
    @property
    def schedule_ms(self) -> tuple[int, ...] | None: ...
    @property
    def jitter(self) -> float | None: ...
    @property
    def max_age_ms(self) -> int | None: ...


def resolve_limits(written: LimitsOverride | None, shared: LimitsConfig) -> Limits:
    """Return the limits of an application: its own, and `[limits]` for what it leaves open."""
    own = written or LimitsOverride()
    return Limits(
        endpoints=_first(own.endpoints, shared.endpoints),
        backlog=_first(own.backlog, shared.backlog),
        bytes=_first(own.bytes_max, shared.bytes_max),
        own_backlog=own.backlog,
        own_bytes=own.bytes_max,
        tests_at_once=_first(own.tests.at_once, shared.tests.at_once),
        tests_per_minute=_first(own.tests.per_minute, shared.tests.per_minute),
        definition_bytes=_first(own.definition_bytes, shared.definition_bytes),
    )


def resolve_application(
    row: ApplicationRow, in_file: InFile, shared: LimitsConfig
) -> tuple[ApplicationDefinition, Application]:
    """Return what was written about an application, and what that makes it; what vanished from the file is held."""
    written = in_file.applications.get(row.id) if row.definition is None else None
    present = row.definition is not None or written is not None
    definition = written or ApplicationDefinition.from_json(row.definition or {})
    return definition, Application(
        ref=row.ref,
        id=row.id,
        contract=definition.contract,
        origin=row.origin,
        present=present,
        features=definition.features,
        validation=Validation(definition.validation),
        name=definition.name,
        reach=Reach(definition.allow_networks, definition.source_addresses),
        limits=resolve_limits(definition.limits, shared),
    )


def resolve_endpoint(
    row: EndpointRow,
    definition: EndpointDefinition,
    application: Application,
    in_file: InFile,
    config: Config,
    above: Sequence[Level],
    asked: Method,
) -> Endpoint:
    """Return an endpoint; what its definition leaves open comes from the levels above, of which the last says all."""
    levels, auth = (definition, *above), None if definition.auth is None else resolve_auth(definition.auth)
    health = config.delivery.health
    return Endpoint(
        ref=row.ref,
        id=row.id,
        application=application,
        origin=row.origin,
        url=definition.url,
        contract=None if definition.contract == application.contract else definition.contract,
        event_types=tuple(dict.fromkeys(definition.event_types)),
        filter=definition.filter,
        description=definition.description,
        headers=(
            *definition.headers.items(),
            *(() if auth is None else auth.headers),
            *(() if row.proof is None else row.proof.headers),
        ),
        auth=auth,
        secrets=in_file.secrets_of(row),
        verification=asked,
        proof=row.proof,
        concurrency=min(definition.concurrency or CONCURRENCY, max(1, config.delivery.concurrency // 4)),
        rate=slower(definition.rate, row.proof.rate if row.proof else None),
        tls=resolve_tls(definition.tls, config.delivery),
        timeout_ms=_first(*(level.timeout_ms for level in levels)),
        retry=RetryPolicy(
            schedule_ms=_first(*(level.schedule_ms for level in levels)),
            jitter=_first(*(level.jitter for level in levels)),
            max_age_ms=_first(*(level.max_age_ms for level in levels)),
        ),
        health=HealthPolicy(
            failures=health.failures,
            cool_down_ms=health.cool_down_ms,
            cool_down_max_ms=health.cool_down_max_ms,
            disable_after_ms=health.disable_after_ms,
        ),
        state=row.state,
        disabled_by=row.disabled_by,
        state_since_ms=row.state_since_ms,
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
        present=row.origin is Origin.API or row.id in in_file.endpoints,
    )


def default_tls(delivery: DeliveryConfig) -> TlsIdentity:
    """Return how TLS is spoken to endpoints that say nothing of it: the authorities of the file beside this host's."""
    tls = delivery.tls
    return TlsIdentity(
        ca=tls.ca_file.get_secret_value(),
        client_cert=tls.client_cert.get_secret_value(),
        client_key=tls.client_key.get_secret_value(),
        min_version=tls.min_version,
    )


def resolve_tls(own: EndpointTls | None, delivery: DeliveryConfig) -> TlsIdentity | None:
    """Return how TLS is spoken to an endpoint, None for the default; its own authorities are trusted instead of all others."""
    if own is None:
        return None
    identity = default_tls(delivery)
    if own.ca is not None:
        identity = identity._replace(ca=own.ca.get_secret_value(), system=False)
    if own.client_cert is not None and own.client_key is not None:
        pair = own.client_cert.get_secret_value(), own.client_key.get_secret_value()
        identity = identity._replace(client_cert=pair[0], client_key=pair[1])
    return identity._replace(min_version=own.min_version or identity.min_version)


def _first(*values: V | None) -> V:
    for value in values:
        if value is not None:
            return value
    raise AssertionError("the last level of settings leaves nothing open")
