"""What a configuration changes, and what the database has to say against it. Pure: nothing here waits or writes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from relay.config import ApplicationDefinition, Config
from relay.contracts import Contract, ContractCatalogue
from relay.core.issues import InvalidConfig, Issue, pointer
from relay.core.model import Origin
from relay.registry.planning import moved_to, new_endpoint
from relay.registry.resolving import InFile
from relay.store import ApplicationRow, EndpointRow, RegistryChange, RegistryRows


@dataclass(frozen=True, slots=True)
class Replacement:
    """A configuration that is about to replace the present one, together with what the database remembers."""

    config: Config
    contracts: ContractCatalogue
    in_file: InFile
    rows: RegistryRows
    now_ms: int

    def change(self, due_count: Callable[[int], int]) -> RegistryChange:
        """Return what the database has to be told; InvalidConfig with everything that is against it. O(all rows)."""
        issues = [*self._taken(), *self._misfits()]
        moved = [row.id for row in self.rows.applications if row.contract_seen not in (None, self._contract_of(row))]
        due = dict.fromkeys(moved, 0)
        for endpoint in self.rows.endpoints:
            if endpoint.application in due:
                due[endpoint.application] += due_count(endpoint.ref)
        issues += self.owed(due)
        if issues:
            raise InvalidConfig(issues)
        endpoints, fresh = self._changed_endpoints()
        return RegistryChange(
            applications=self._changed_applications(),
            endpoints=endpoints,
            fresh=fresh,
            unowed=moved,
        )

    def owed(self, due: Mapping[str, int]) -> Iterator[Issue]:
        """Refuse another contract for applications with deliveries due, counted by id.

        Their bodies were frozen in the old contract's form, and would go out with the new one's headers and signature.
        """
        for row in self.rows.applications:
            if due.get(row.id):
                yield Issue(
                    self._place(row.id, "contract"),
                    f"application {row.id!r} has deliveries due ({due[row.id]}) that were made under the contract "
                    f"{row.contract_seen!r}",
                    f'Keep contract = "{row.contract_seen}" until they have ended or were cancelled, or make a new '
                    "application for the new contract.",
                )

    # -- what is written -------------------------------------------------------------------------------------------

    def _changed_applications(self) -> list[ApplicationRow]:
        known = {row.id for row in self.rows.applications}
        moved = [
            replace(row, contract_seen=self._contract_of(row))
            for row in self.rows.applications
            if row.contract_seen != self._contract_of(row)
        ]
        made = [
            ApplicationRow(0, application.id, Origin.FILE, None, application.contract, self.now_ms, self.now_ms)
            for application in self.config.applications
            if application.id not in known
        ]
        return moved + made

    def _changed_endpoints(self) -> tuple[list[EndpointRow], frozenset[str]]:
        known = {row.id: row for row in self.rows.endpoints}
        changed = []
        for endpoint_id, (application, endpoint) in self.in_file.endpoints.items():
            row = known.get(endpoint_id)
            if row is None:
                changed.append(new_endpoint(endpoint_id, application, Origin.FILE, endpoint.url, self.now_ms))
            elif row.url_seen != endpoint.url:
                changed.append(moved_to(row, endpoint.url, self.now_ms))
        return changed, frozenset(row.id for row in changed)

    # -- what is against it ----------------------------------------------------------------------------------------

    def _taken(self) -> Iterator[Issue]:
        """Refuse ids of the file that mean something else in the database."""
        origins = {row.id: row.origin for row in self.rows.applications}
        for index, application in enumerate(self.config.applications):
            where = pointer("application", index, "id")
            if application.id in self.rows.retired:
                remedy = "Give the one in the file another id: the history stays with the application that owned it."
                yield Issue(where, f"application {application.id!r} was deleted", remedy)
            elif origins.get(application.id) is Origin.API:
                yield _made_elsewhere(where, f"application {application.id!r}", "`relay app delete`")
        for row in self.rows.endpoints:
            application_id, _ = self.in_file.endpoints.get(row.id, (None, None))
            if application_id is None:
                continue
            if row.origin is Origin.API:
                where = self._place(application_id, "endpoint")
                yield _made_elsewhere(where, f"endpoint {row.id!r}", "`relay endpoint delete`")
            elif row.application != application_id:
                message = f"endpoint {row.id!r} belonged to another application before"
                remedy = "Give it a new id: its history stays with the application that owned it."
                yield Issue(self._place(application_id, "endpoint"), message, remedy)

    def _misfits(self) -> Iterator[Issue]:
        """Refuse contracts under which what was made through the API cannot go on."""
        made: dict[str, list[EndpointRow]] = {}
        for endpoint in self.rows.endpoints:
            if endpoint.origin is Origin.API:
                made.setdefault(endpoint.application, []).append(endpoint)
        for row in self.rows.applications:
            if row.definition is None and row.id not in self.in_file.applications:
                continue  # it vanished from the file
            name = self._contract_of(row) or ""
            contract = self.contracts.get(name)
            if contract is None:
                yield Issue(
                    "",
                    f"application {row.id!r}, made through the API, has the contract {name!r}, which there is not",
                    "Put its file back into the folder contracts/ beside the configuration file.",
                )
                continue
            owned = made.get(row.id, [])
            yield from self._too_many(row, contract, len(owned))
            for endpoint in owned:
                yield from self._misfit(endpoint, contract)

    def _misfit(self, row: EndpointRow, contract: Contract) -> Iterator[Issue]:
        """Refuse to go on without the contract that an endpoint has: its own, or that of its application."""
        name = self.in_file.definition_of(row).contract
        own = contract if name is None else self.contracts.get(name)
        if own is not None:
            yield from _cannot_sign(row, own)
            return
        yield Issue(
            "",
            f"endpoint {row.id!r}, made through the API, has the contract {name!r}, which there is not",
            "Put its file back into the folder contracts/ beside the configuration file.",
        )

    def _too_many(self, row: ApplicationRow, contract: Contract, made: int) -> Iterator[Issue]:
        application = self.in_file.applications.get(row.id)
        in_file = 0 if application is None else len(application.endpoints)
        if in_file and not contract.registration.allows(in_file + made):
            yield Issue(
                self._place(row.id, "endpoint"),
                f"application {row.id!r} may have {contract.registration.max_endpoints} endpoints under the contract "
                f"{contract.name!r}; the file has {in_file}, and {made} were made through the API",
                "Delete some with `relay endpoint delete`.",
            )

    # -- looking up ------------------------------------------------------------------------------------------------

    def _contract_of(self, row: ApplicationRow) -> str | None:
        """Return the contract that an application has from now on; what vanished from the file keeps its own."""
        if row.definition is not None:
            return ApplicationDefinition.from_json(row.definition).contract
        application = self.in_file.applications.get(row.id)
        return row.contract_seen if application is None else application.contract

    def _place(self, application_id: str, key: str) -> str:
        """Return where in the file an application says something; nowhere for one that the API made."""
        ids = [application.id for application in self.config.applications]
        return pointer("application", ids.index(application_id), key) if application_id in ids else ""


def _made_elsewhere(where: str, what: str, command: str) -> Issue:
    remedy = f"Give the one in the file another id, or delete the other with {command}."
    return Issue(where, f"{what} was made through the API", remedy)


def _cannot_sign(row: EndpointRow, contract: Contract) -> Iterator[Issue]:
    if not contract.signs:
        return
    missing = "it has no secret" if contract.needs_secret and not row.secrets else None
    fault = missing or next(filter(None, (contract.check_secret(secret.value) for secret in row.secrets)), None)
    if fault is not None:
        yield Issue(
            "",
            f"endpoint {row.id!r}, made through the API, cannot be signed for under the contract {contract.name!r}: "
            f"{fault.partition(';')[0]}",
            "Keep the contract as it was, or delete the endpoint with `relay endpoint delete` first.",
        )
