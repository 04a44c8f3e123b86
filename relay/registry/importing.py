"""What an import makes of the registry: every line is compared with what is there, and all of it is done or nothing.

What is there and differs is refused unless the import is to update it: receivers may have been changed here since. What
the lines do not name stays. Plain functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Any

from relay.config import ApplicationDefinition
from relay.contracts import Contract
from relay.core.errors import Conflict, spoken
from relay.core.issues import Invalid, Issue
from relay.core.model import DisabledBy, Endpoint, EndpointState, Health, Origin, Secret
from relay.core.verification import Method, Proof
from relay.registry.making import ApplicationDraft, EndpointDraft, Maker
from relay.registry.planning import contract_for, in_place_of, moved_to, refuse_taken, signing_under
from relay.registry.registry import ApplicationEntry, Registry
from relay.registry.resolving import resolve_limits
from relay.store import ApplicationRow, EndpointRow, RegistryChange


class Done(StrEnum):
    """What became of one line."""

    CREATED = "created"
    TAKEN_OVER = "taken_over"  # it had left the file
    UPDATED = "updated"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class WantedEndpoint:
    """An endpoint as a line says it shall be; its id is in the draft."""

    application: str
    draft: EndpointDraft
    state: EndpointState | None = None  # None: as it is, a new one is enabled
    disabled_by: DisabledBy | None = None
    verified: bool = False  # where it comes from its receiver agreed to take events


Wanted = ApplicationDraft | WantedEndpoint


@dataclass(slots=True)
class Plan:
    """What an import does; nothing, if there are issues. Grows line by line."""

    done: list[tuple[Wanted, Done]] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    applications: dict[str, ApplicationRow] = field(default_factory=dict)
    endpoints: dict[str, EndpointRow] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)  # endpoints whose health begins anew
    secrets_made: list[str] = field(default_factory=list)  # ids of endpoints whose secret came from here

    def change(self) -> RegistryChange:
        """Return what one transaction does."""
        return RegistryChange(
            applications=list(self.applications.values()),
            endpoints=list(self.endpoints.values()),
            fresh=frozenset(self.moved),
        )

    @property
    def is_empty(self) -> bool:
        """Whether all is as the lines say already."""
        return not self.applications and not self.endpoints


class Importing:
    """Plans one import against a registry. Owner of its plan."""

    def __init__(self, registry: Registry, maker: Maker, *, update: bool) -> None:
        self.plan = Plan()
        self._registry = registry
        self._maker = maker
        self._update = update
        self._named: set[tuple[type[Wanted], str]] = set()  # what a line was about already
        self._counts: dict[str, tuple[int, int]] = {}  # endpoints by application: made through the API, and present
        self._definitions: dict[str, ApplicationDefinition] = {}  # of the applications that lines are about

    def add(self, where: str, wanted: Wanted) -> None:
        """Plan what one line says; `where` points at it. O(1), but for an application with endpoints: O(these)."""
        try:
            self._refuse_twice(wanted)
            done = self._application(wanted) if isinstance(wanted, ApplicationDraft) else self._endpoint(wanted)
            self.plan.done.append((wanted, done))
        except Conflict as refusal:
            self.plan.issues.append(Issue(where, spoken(refusal)))
        except Invalid as invalid:
            self.plan.issues += (replace(issue, path=where + issue.path) for issue in invalid.issues)

    def _refuse_twice(self, wanted: Wanted) -> None:
        draft = wanted if isinstance(wanted, ApplicationDraft) else wanted.draft
        named = type(wanted), draft.id or ""
        if named in self._named:
            raise refused(f"an earlier line is about {draft.id!r} too", "Remove one of the two.")
        self._named.add(named)

    # -- applications ----------------------------------------------------------------------------------------------

    def _application(self, wanted: ApplicationDraft) -> Done:
        name = wanted.id or ""
        known = self._registry.applications.get(name)
        self._definitions[name] = wanted.definition
        if known is None:
            refuse_taken(self._registry, name)
            self.plan.applications[name] = self._maker.application(wanted)
            return Done.CREATED
        row = replace(
            known.row,
            origin=Origin.API,
            definition=wanted.definition.to_json(),
            contract_seen=wanted.definition.contract,
            updated_at_ms=self._maker.now_ms,
        )
        if not known.application.present:
            _refuse_other_contract(known, wanted.definition.contract)
            self.plan.applications[name] = row
            return Done.TAKEN_OVER
        differences = _differences(known.definition.to_json(), wanted.definition.to_json())
        if not differences:
            return Done.UNCHANGED
        self._refuse_update(f"application {name!r}", known.row.origin, differences)
        if "contract" in differences and known.endpoints:
            _refuse_other_contract(known, wanted.definition.contract)
        self.plan.applications[name] = row
        return Done.UPDATED

    # -- endpoints -------------------------------------------------------------------------------------------------

    def _endpoint(self, wanted: WantedEndpoint) -> Done:
        draft, known = wanted.draft, self._registry.endpoints.get(wanted.draft.id or "")
        if known is None or not known.present:
            return self._new_endpoint(wanted)
        if known.application.id != wanted.application:
            raise refused(
                f"endpoint {known.id!r} belongs to application {known.application.id!r}",
                "Name that one, or give this endpoint another id.",
            )
        entry = self._registry.entries[known.ref]
        differences = _differences(entry.definition.to_json(), draft.definition.to_json())
        if draft.secrets is not None and _lasting(draft.secrets, self._maker) != _lasting(known.secrets, self._maker):
            differences.append("secrets")
        if differences:
            self._refuse_update(f"endpoint {known.id!r}", known.origin, differences)
            self._put(self._updated(entry.row, wanted), wanted)
            return Done.UPDATED
        if self._update and _is_moved(known, wanted):
            self._put(entry.row, wanted)
            return Done.UPDATED
        return Done.UNCHANGED

    def _new_endpoint(self, wanted: WantedEndpoint) -> Done:
        row = self._maker.endpoint(wanted.application, self._contract_of(wanted), wanted.draft)
        placed = in_place_of(self._registry, row, self._maker.now_ms)
        registration = contract_for(self._registry, self._definition_of(wanted.application).contract).registration
        self._refuse_more(wanted.application, registration.allows, registration.max_endpoints)
        if placed.ref and placed.url_seen != self._registry.entries[placed.ref].row.url_seen:
            self.plan.moved.add(placed.id)
        if wanted.draft.secrets is None and row.secrets:
            self.plan.secrets_made.append(row.id)
        self._put(placed, wanted)
        return Done.TAKEN_OVER if placed.ref else Done.CREATED

    def _updated(self, row: EndpointRow, wanted: WantedEndpoint) -> EndpointRow:
        draft, now_ms = wanted.draft, self._maker.now_ms
        secrets = row.secrets if draft.secrets is None else draft.secrets
        updated = replace(row, definition=draft.definition.to_json(), secrets=secrets, updated_at_ms=now_ms)
        contract = self._contract_of(wanted)
        if contract is not self._registry.entries[row.ref].contract:
            new_secret = partial(contract.new_secret, self._maker.random_bytes)
            updated = signing_under(updated, contract, new_secret, now_ms)
            if updated.secrets != secrets:
                self.plan.secrets_made.append(row.id)
        if row.url_seen != draft.definition.url:
            self.plan.moved.add(row.id)
            return moved_to(updated, draft.definition.url, now_ms)
        return updated

    def _put(self, row: EndpointRow, wanted: WantedEndpoint) -> None:
        """Take a row into the plan, in the state that its line names, verified if that says so."""
        if wanted.state is not None and (row.state, row.disabled_by) != (wanted.state, wanted.disabled_by):
            if row.state is EndpointState.DISABLED:
                row = replace(row, health=Health())
                self.plan.moved.add(row.id)
            row = replace(row, state=wanted.state, disabled_by=wanted.disabled_by, state_since_ms=self._maker.now_ms)
        if wanted.verified and row.proof is None:
            row = replace(row, proof=Proof(self._maker.now_ms, Method.NONE))
        self.plan.endpoints[row.id] = row

    # -- refusals --------------------------------------------------------------------------------------------------

    def _refuse_update(self, what: str, origin: Origin, differences: Sequence[str]) -> None:
        """Raise Invalid for what may not be changed here, or not without being asked for."""
        named = ", ".join(differences)
        if origin is Origin.FILE:
            raise refused(
                f"{what} is defined in the configuration file, and differs in: {named}",
                "Change it there, or remove it there and reload: then an import takes it over.",
            )
        if not self._update:
            raise refused(
                f"{what} is there already, and differs in: {named}",
                "Leave the line out to keep it as it is, or ask for an update to make it as the line says.",
            )

    def _refuse_more(self, name: str, allows: Callable[[int], bool], most_by_contract: int | None) -> None:
        """Raise Invalid for an endpoint more than the application may have."""
        made, present = (count + 1 for count in self._counts.get(name) or self._count(name))
        self._counts[name] = made, present
        most = resolve_limits(self._definition_of(name).limits, self._registry.config.limits).endpoints
        if made > most or not allows(present):
            most = most if made > most else most_by_contract or 0
            raise refused(
                f"application {name!r} may have {most} endpoints",
                "Give it a larger limits.endpoints, where the contract allows more, or leave some out.",
            )

    def _count(self, name: str) -> tuple[int, int]:
        owner = self._registry.applications.get(name)
        owned = () if owner is None else owner.endpoints.values()
        return sum(each.origin is Origin.API for each in owned), sum(each.present for each in owned)

    def _contract_of(self, wanted: WantedEndpoint) -> Contract:
        """Return what writes an endpoint's requests; whoever read the line found it."""
        own = wanted.draft.definition.contract
        return contract_for(self._registry, own or self._definition_of(wanted.application).contract)

    def _definition_of(self, name: str) -> ApplicationDefinition:
        return self._definitions.get(name) or self._registry.applications[name].definition


def _refuse_other_contract(known: ApplicationEntry, contract: str) -> None:
    """Raise Invalid where receivers were promised another contract."""
    promised = known.row.contract_seen or contract
    if promised != contract:
        raise refused(
            f"application {known.row.id!r} has endpoints that were promised {promised!r}",
            f"Keep that contract, or give the application that is to have {contract!r} another id.",
        )


def _differences(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """List the members in which two definitions differ."""
    return [name for name in sorted(present.keys() | wanted.keys()) if present.get(name) != wanted.get(name)]


def _lasting(secrets: Sequence[Secret], maker: Maker) -> list[Secret]:
    return [each for each in secrets if each.expires_at_ms is None or each.expires_at_ms > maker.now_ms]


def _is_moved(known: Endpoint, wanted: WantedEndpoint) -> bool:
    return wanted.state is not None and (known.state, known.disabled_by) != (wanted.state, wanted.disabled_by)


def refused(message: str, remedy: str) -> Invalid:
    """Say what is against a line."""
    return Invalid([Issue("", message, remedy)])
