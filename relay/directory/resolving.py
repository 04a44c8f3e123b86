"""From what was written to what holds: endpoints with every setting resolved (Q6). Plain functions."""

from collections.abc import Mapping
from dataclasses import dataclass

from relay.config import ApplicationConfig, Config, EndpointConfig
from relay.contracts import Contract
from relay.definition import CONCURRENCY, EndpointDefinition, first, resolve_retry, resolve_timeout_ms
from relay.model import Application, Endpoint, HealthPolicy, Origin, Secret
from relay.store import EndpointRow


@dataclass(frozen=True, slots=True)
class Written:
    """What the file says about one endpoint."""

    application: str
    definition: EndpointDefinition
    secrets: tuple[Secret, ...]


def resolve(
    row: EndpointRow, application: Application, entry: Written | None, config: Config, contract: Contract
) -> Endpoint:
    """Return the endpoint of `row`, as the file (`entry`) or the API defines it, with defaults from above."""
    definition, secrets = _definition(row, entry)
    levels = (definition, _application_config(config, application), contract, config.delivery)
    return Endpoint(
        ref=row.ref,
        id=row.id,
        application=application,
        origin=row.origin,
        url=definition.url,
        event_types=definition.event_types,
        description=definition.description,
        headers=definition.headers,
        secrets=secrets,
        concurrency=min(first(definition.concurrency, CONCURRENCY), max(1, config.delivery.concurrency // 4)),
        rate=definition.rate,
        timeout_ms=resolve_timeout_ms(*levels),
        retry=resolve_retry(*levels),
        health=_health_policy(config),
        state=row.state,
        disabled_by=row.disabled_by,
        state_since_ms=row.state_since_ms,
        created_at_ms=row.created_at_ms,
        updated_at_ms=row.updated_at_ms,
        present=row.origin is Origin.API or entry is not None,
    )


def _definition(row: EndpointRow, entry: Written | None) -> tuple[EndpointDefinition, tuple[Secret, ...]]:
    if entry is not None:
        return entry.definition, entry.secrets
    if row.definition is not None:
        return EndpointDefinition.from_json(row.definition), row.secrets
    # It vanished from the file: it is held, so nothing but its name, its address and its history is needed.
    return EndpointDefinition(url=row.url_seen or "", event_types=()), ()


def _application_config(config: Config, application: Application) -> ApplicationConfig:
    for configured in config.applications:
        if configured.id == application.id:
            return configured
    return ApplicationConfig(id=application.id, contract=application.contract)


def _health_policy(config: Config) -> HealthPolicy:
    health = config.delivery.health
    return HealthPolicy(
        failures=health.failures,
        cool_down_ms=health.cool_down_ms,
        cool_down_max_ms=health.cool_down_max_ms,
        disable_after_ms=health.disable_after_ms,
    )


def written_in(config: Config) -> dict[str, Written]:
    return {
        endpoint.id: Written(application.id, _definition_of(endpoint), _secrets_of(endpoint))
        for application in config.applications
        for endpoint in application.endpoints
    }


def _definition_of(endpoint: EndpointConfig) -> EndpointDefinition:
    return EndpointDefinition(
        url=endpoint.url,
        event_types=("*",) if endpoint.event_types is None else tuple(endpoint.event_types),
        description=endpoint.description,
        headers=tuple(endpoint.headers.items()),
        concurrency=endpoint.concurrency,
        rate=endpoint.rate,
        timeout_ms=endpoint.timeout_ms,
        schedule_ms=endpoint.schedule_ms,
        jitter=endpoint.jitter,
        max_age_ms=endpoint.max_age_ms,
    )


def _secrets_of(endpoint: EndpointConfig) -> tuple[Secret, ...]:
    return tuple(Secret(value) for value in endpoint.secret_values)


def applications_of(config: Config, refs: Mapping[str, int]) -> dict[str, Application]:
    """Those of the file, and those the database remembers, which are held."""
    configured = {application.id: application for application in config.applications}
    return {
        application_id: Application(
            ref=ref,
            id=application_id,
            contract=configured[application_id].contract if application_id in configured else "standard",
            origin=Origin.FILE,
            present=application_id in configured,
        )
        for application_id, ref in refs.items()
    }
