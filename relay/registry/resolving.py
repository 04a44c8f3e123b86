"""From what was written to what holds: endpoints with every setting resolved (Q6). Plain functions."""

from dataclasses import dataclass

from relay.config import Config, EndpointConfig
from relay.contracts import Contract
from relay.core.model import Application, Endpoint, HealthPolicy, Origin, Secret, Validation
from relay.registry.definition import (
    CONCURRENCY,
    ApplicationDefinition,
    EndpointDefinition,
    first,
    resolve_retry,
    resolve_timeout_ms,
)
from relay.store import ApplicationRow, EndpointRow


@dataclass(frozen=True, slots=True)
class Owner:
    """An application: what the database remembers of it, what was written about it, and what that makes it."""

    row: ApplicationRow
    definition: ApplicationDefinition
    application: Application


@dataclass(frozen=True, slots=True)
class Written:
    """What the file says about one endpoint."""

    application: str
    definition: EndpointDefinition
    secrets: tuple[Secret, ...]


def resolve(
    row: EndpointRow,
    owner: Owner,
    entry: Written | None,
    config: Config,
    contract: Contract,
) -> Endpoint:
    """Return the endpoint of `row`, as the file (`entry`) or the API defines it, with defaults from above."""
    definition, secrets = _definition(row, entry)
    levels = (definition, owner.definition, contract, config.delivery)
    return Endpoint(
        ref=row.ref,
        id=row.id,
        application=owner.application,
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


def definitions_in(config: Config) -> dict[str, ApplicationDefinition]:
    return {
        application.id: ApplicationDefinition(
            contract=application.contract,
            features=dict(application.features),
            validation=Validation(application.validation),
            timeout_ms=application.timeout_ms,
            schedule_ms=application.schedule_ms,
            jitter=application.jitter,
            max_age_ms=application.max_age_ms,
        )
        for application in config.applications
    }


def owner_of(row: ApplicationRow, in_file: ApplicationDefinition | None = None) -> Owner:
    """Return an application as the file (`in_file`) or the API defines it; what vanished from the file is held."""
    definition = in_file if row.definition is None else ApplicationDefinition.from_json(row.definition)
    present = definition is not None
    definition = definition or ApplicationDefinition()
    application = Application(
        ref=row.ref,
        id=row.id,
        contract=definition.contract,
        origin=row.origin,
        present=present,
        features=definition.features,
        validation=definition.validation,
        name=definition.name,
    )
    return Owner(row, definition, application)
