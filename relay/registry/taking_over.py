"""A configuration that is about to hold, and what the database has to say against it. Plain functions."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from relay.config import Config
from relay.contracts import Contract, ContractCatalogue
from relay.core.errors import ConfigError
from relay.core.model import Origin
from relay.registry.resolving import Owner, Written, definitions_in, owner_of
from relay.store import ApplicationRow, EndpointRow


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration together with what the database remembers."""

    config: Config
    contracts: ContractCatalogue
    owners: Mapping[int, Owner]  # by ref of the application
    written: Mapping[str, Written]  # the file's endpoints by id
    rows: list[EndpointRow]

    def contracts_seen(self) -> dict[int, str]:
        """Return, by ref, the contracts that have to be remembered: of the applications that now have another."""
        return {
            owner.row.ref: owner.application.contract
            for owner in self.owners.values()
            if owner.application.present and owner.row.contract_seen != owner.application.contract
        }


def planned(
    config: Config,
    contracts: ContractCatalogue,
    written: Mapping[str, Written],
    applications: Iterable[ApplicationRow],
    rows: list[EndpointRow],
) -> Plan:
    """Put together what the file says and what the database remembers."""
    in_file = definitions_in(config)
    owners = {row.ref: owner_of(row, in_file.get(row.id)) for row in applications}
    return Plan(config, contracts, owners, written, rows)


def refuse_taken_ids(written: Mapping[str, Written], owners: Mapping[int, Owner], rows: Iterable[EndpointRow]) -> None:
    """Raise ConfigError for an endpoint of the file whose id means another one."""
    for row in rows:
        entry = written.get(row.id)
        if entry is None:
            continue
        if row.origin is Origin.API:
            raise ConfigError(
                f"endpoint {row.id!r} was made through the API",
                remedy="Give the one in the file another id, or delete the other with `relay endpoint delete`.",
            )
        if entry.application != owners[row.application].row.id:
            raise ConfigError(
                f"endpoint {row.id!r} belonged to another application before",
                remedy="Give it a new id: its history stays with the application that owned it.",
            )


def refuse_misfits(plan: Plan) -> None:
    """Raise ConfigError where what was made through the API cannot go on under the plan's contracts."""
    for owner in plan.owners.values():
        if not owner.application.present:
            continue
        contract = plan.contracts.get(owner.application.contract)
        if contract is None:
            raise ConfigError(
                f"application {owner.row.id!r}, made through the API, has the contract {owner.application.contract!r}, "
                "which there is not",
                remedy="Put its file back into the folder contracts/ beside the configuration file.",
            )
        made = [row for row in plan.rows if row.application == owner.row.ref and row.origin is Origin.API]
        _refuse_too_many(owner, contract, plan.written, len(made))
        for row in made:
            _refuse_secrets(row, contract)


def refuse_moves(plan: Plan, due_count: Callable[[int], int]) -> None:
    """Raise ConfigError for an application whose contract would change while it has deliveries due.

    Their bodies were frozen in the old contract's form, and would go out with the new one's headers and signature.
    """
    for ref in plan.contracts_seen():
        row = plan.owners[ref].row
        due = sum(due_count(endpoint.ref) for endpoint in plan.rows if endpoint.application == ref)
        if row.contract_seen is not None and due:
            raise ConfigError(
                f"application {row.id!r} has deliveries due ({due}) that were made under the contract "
                f"{row.contract_seen!r}",
                remedy=f'Keep contract = "{row.contract_seen}" until they have ended or were cancelled, or make a new '
                "application for the new contract.",
            )


def _refuse_too_many(owner: Owner, contract: Contract, written: Mapping[str, Written], made: int) -> None:
    most = contract.registration.max_endpoints
    in_file = sum(entry.application == owner.row.id for entry in written.values())
    if most is not None and in_file and in_file + made > most:
        raise ConfigError(
            f"application {owner.row.id!r} may have {most} endpoints under the contract {contract.name!r}; the file has "
            f"{in_file}, and {made} were made through the API",
            remedy="Delete some with `relay endpoint delete`.",
        )


def _refuse_secrets(row: EndpointRow, contract: Contract) -> None:
    if not contract.signs:
        return
    missing = "it has no secret" if contract.needs_secret and not row.secrets else None
    fault = missing or next(filter(None, (contract.check_secret(secret.value) for secret in row.secrets)), None)
    if fault is not None:
        raise ConfigError(
            f"endpoint {row.id!r}, made through the API, cannot be signed for under the contract {contract.name!r}: "
            f"{fault.partition(';')[0]}",
            remedy="Keep the contract as it was, or delete the endpoint with `relay endpoint delete` first.",
        )
