"""What an edit of the registry makes of a row, and what it is refused for. Plain functions."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from relay.config import SECRETS_MAX
from relay.contracts import Contract
from relay.core.errors import Conflict
from relay.core.issues import Invalid, Issue
from relay.core.model import DisabledBy, Endpoint, EndpointState, Health, Origin, Secret
from relay.registry.registry import ApplicationEntry, Registry
from relay.store import EndpointRow

# -- rows --------------------------------------------------------------------------------------------------------------


def new_endpoint(endpoint_id: str, application_id: str, origin: Origin, url: str, now_ms: int) -> EndpointRow:
    """Make the row of a new endpoint."""
    return EndpointRow(
        ref=0,
        id=endpoint_id,
        application=application_id,
        origin=origin,
        definition=None,
        secrets=(),
        state=EndpointState.ENABLED,
        disabled_by=None,
        state_since_ms=now_ms,
        health=Health(),
        url_seen=url,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
    )


def moved_to(row: EndpointRow, url: str, now_ms: int) -> EndpointRow:
    """Give an endpoint another URL: that clears health, whether it is verified, and an automatic disable, never a manual one."""
    fresh = replace(row, url_seen=url, health=Health(), proof=None, updated_at_ms=now_ms)
    if row.state is EndpointState.DISABLED and row.disabled_by is not DisabledBy.MANUAL:
        return replace(fresh, state=EndpointState.ENABLED, disabled_by=None, state_since_ms=now_ms)
    return fresh


def overlapping(secrets: Iterable[Secret], now_ms: int, until_ms: int) -> list[Secret]:
    """Return the old secrets that go on signing, each until the earlier of its own end and `until_ms`."""
    kept = [
        replace(secret, expires_at_ms=until_ms if secret.expires_at_ms is None else min(secret.expires_at_ms, until_ms))
        for secret in secrets
    ]
    return [secret for secret in kept if (secret.expires_at_ms or 0) > now_ms][: SECRETS_MAX - 1]


def renewed(secrets: Iterable[Secret], secret: str, now_ms: int, until_ms: int) -> tuple[Secret, ...]:
    """Return an endpoint's secrets after a rotation to `secret`, which may be one of the old ones."""
    return (Secret(secret), *overlapping((old for old in secrets if old.value != secret), now_ms, until_ms))


def in_place_of(registry: Registry, row: EndpointRow, now_ms: int) -> EndpointRow:
    """Return the row of a new endpoint: one that left the file is taken over by its id, with its history and what is due.

    Conflict for an id that another endpoint has.
    """
    known = registry.endpoints.get(row.id)
    if known is None:
        return row
    if known.present or known.application.id != row.application:
        raise Conflict(
            "endpoint_exists",
            f"there is an endpoint {row.id!r} already",
            remedy="Choose another id, or change the one there is.",
        )
    before = registry.entries[known.ref].row
    taken = replace(before, origin=row.origin, definition=row.definition, secrets=row.secrets, updated_at_ms=now_ms)
    return taken if before.url_seen == row.url_seen else moved_to(taken, row.url_seen or "", now_ms)


def signing_under(row: EndpointRow, contract: Contract, new_secret: Callable[[], str], now_ms: int) -> EndpointRow:
    """Return the row of an endpoint that goes on under another contract: one that has no secret and needs one gets it.

    Invalid for secrets that this contract cannot sign with.
    """
    lasting = [secret for secret in row.secrets if secret.expires_at_ms is None or secret.expires_at_ms > now_ms]
    if not contract.signs:
        return row
    if not lasting:
        return replace(row, secrets=(Secret(new_secret()),))
    wrong = next(filter(None, (contract.check_secret(secret.value) for secret in lasting)), None)
    if wrong:
        sentence = f"the contract {contract.name!r} cannot sign with the secrets that endpoint {row.id!r} has: {wrong}"
        raise Invalid([Issue("/contract", sentence, "Make another endpoint for this contract.")])
    return row


# -- refusals ----------------------------------------------------------------------------------------------------------


_IN_FILE = "Change it there and reload, with `systemctl reload relay` or `POST /v1/reload`."
ROTATE_IN_FILE = (
    "Write secrets = [new, old] there and reload: both sign, where the contract can carry several, until you take the old "
    "one out."
)


def editable(registry: Registry, endpoint_id: str, remedy: str = _IN_FILE) -> EndpointRow:
    """Return the row of an endpoint that may be edited here; Conflict for one of the file, NotFound for none."""
    endpoint = registry.endpoint(endpoint_id)
    if endpoint.origin is Origin.FILE:
        raise _managed_by_file("endpoint", endpoint_id, remedy)
    return registry.entries[endpoint.ref].row


def refuse_in_file(owner: ApplicationEntry) -> None:
    """Raise Conflict for an application of the file."""
    if owner.row.origin is Origin.FILE:
        raise _managed_by_file("application", owner.row.id)


def refuse_taken(registry: Registry, application_id: str) -> None:
    """Raise Conflict for an id that an application has, or had."""
    if application_id in registry.applications or application_id in registry.retired:
        raise Conflict(
            "application_exists",
            f"there is, or was, an application {application_id!r}",
            remedy="Choose another id: one is never given twice.",
        )


def refuse_in_use(owner: ApplicationEntry) -> None:
    """Raise Conflict for an application whose contract was promised to endpoints."""
    count = len(owner.endpoints)
    if count:
        raise Conflict(
            "contract_in_use",
            f"application {owner.row.id!r} has endpoints ({count}) that were promised {owner.definition.contract!r}",
            remedy="Make a new application for the new contract, or delete these endpoints first.",
        )


def refuse_more(owner: ApplicationEntry, contract: Contract) -> None:
    """Raise Conflict for an application that has all the endpoints its contract or its limits allow."""
    made = sum(endpoint.origin is Origin.API for endpoint in owner.endpoints.values())
    most = owner.application.limits.endpoints
    if made >= most:
        raise Conflict(
            "too_many_endpoints",
            f"application {owner.row.id!r} has {made} endpoints made through the API, and may have {most}",
            remedy="Delete those that nobody needs, or ask the operator for more (limits.endpoints).",
        )
    present = sum(endpoint.present for endpoint in owner.endpoints.values())
    if not contract.registration.allows(present + 1):
        raise Conflict(
            "too_many_endpoints",
            f"an application may have {contract.registration.max_endpoints} under the contract {contract.name!r}",
            remedy="Change or delete the one there is.",
        )


def refuse_disabled(endpoint: Endpoint) -> None:
    """Raise Conflict for a disabled endpoint."""
    if endpoint.state is EndpointState.DISABLED:
        raise Conflict(
            "endpoint_disabled",
            f"endpoint {endpoint.id!r} is disabled",
            remedy=f"Enable it first: `relay endpoint enable {endpoint.id}`.",
        )


def refuse_secret(contract: Contract, secret: str | None) -> None:
    """Raise Conflict for a contract that signs nothing, Invalid for a secret that it cannot sign with."""
    if not contract.signs:
        raise Conflict("unsigned_contract", f"the contract {contract.name!r} signs nothing")
    wrong = None if secret is None else contract.check_secret(secret)
    if wrong:
        raise Invalid([Issue("/secret", wrong)])


def contract_for(registry: Registry, name: str) -> Contract:
    """Return the contract of a name that was there; Conflict when a reload that went first has taken it away."""
    contract = registry.contracts.get(name)
    if contract is None:
        raise Conflict("no_such_contract", f"there is no contract {name!r} any more")
    return contract


def _managed_by_file(noun: str, name: str, remedy: str = _IN_FILE) -> Conflict:
    return Conflict("managed_by_file", f"{noun} {name!r} is defined in the configuration file", remedy=remedy)
