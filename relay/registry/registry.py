"""Which applications and endpoints exist, what they are set to, and which of them an event goes to.

The directory owns the endpoints in memory. Definitions come from the file or from the database (those made through the
API); states, secrets made here and health live in the database by endpoint id. Matching happens once, when an event is
accepted (Q11): a deletion stops matching before it is submitted, a creation matches after its commit. Whoever has to
follow an endpoint's settings registers with `on_change`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from relay.config import Config
from relay.contracts import Contract, ContractCatalogue, Signer
from relay.core.access import Principal
from relay.core.clock import Clock
from relay.core.errors import ConfigError, Conflict, NotFound, StoreUnavailable
from relay.core.ids import IdFactory
from relay.core.model import Application, DisabledBy, Endpoint, EndpointState, Health, Origin, Secret
from relay.registry.definition import EndpointDefinition
from relay.registry.matching import Match, match
from relay.registry.resolving import Owner, Written, owner_of, resolve, written_in
from relay.registry.rotation import overlapping
from relay.registry.taking_over import Plan, planned, refuse_misfits, refuse_moves, refuse_taken_ids
from relay.store import ApplicationRow, EndpointRow, Store, new_endpoint

MATCHES_MAX = 10_000
"""Remembered matches per application; beyond it the memory starts anew."""


class Change(NamedTuple):
    """One endpoint before and after; None where it does not exist."""

    before: Endpoint | None
    after: Endpoint | None
    health: Health | None  # set when health starts from here: at start, after enable, after a changed url


class Directory:
    """The endpoints and applications of this relay."""

    def __init__(
        self,
        store: Store,
        contracts: ContractCatalogue,
        clock: Clock,
        ids: IdFactory,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._contracts = contracts
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes
        self._config = Config()
        self._owners: dict[int, Owner] = {}
        self._applications: dict[str, Application] = {}
        self._rows: dict[int, EndpointRow] = {}
        self._written: Mapping[str, Written] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._by_id: dict[str, Endpoint] = {}
        self._of_application: dict[int, list[Endpoint]] = {}
        self._matches: dict[int, dict[str, Match]] = {}
        self._signers: dict[int, Signer] = {}
        self.editing = asyncio.Lock()  # one edit at a time: each reads a row, writes it, installs it
        self._listeners: list[Callable[[Change], None]] = []

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` with every later change, in order."""
        self._listeners.append(listener)

    # -- looking up ------------------------------------------------------------------------------------------------

    @property
    def applications(self) -> Mapping[str, Application]:
        return self._applications

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        return self._by_id

    def by_ref(self, ref: int) -> Endpoint | None:
        """Return an endpoint by the store's handle; None once it was deleted."""
        return self._endpoints.get(ref)

    def endpoint(self, endpoint_id: str) -> Endpoint:
        """Return an endpoint by its id; NotFound otherwise."""
        endpoint = self._by_id.get(endpoint_id)
        if endpoint is None:
            raise NotFound(f"no endpoint {endpoint_id!r}", remedy="List them with `relay endpoint list`.")
        return endpoint

    @property
    def contracts(self) -> ContractCatalogue:
        """The contracts in force; a reload may replace them."""
        return self._contracts

    def contract(self, application: Application, /) -> Contract:
        """Return the contract an application's receivers were promised."""
        contract = self._contracts.get(application.contract)
        assert contract is not None, "the configuration was checked against the same catalogue"
        return contract

    def owner(self, application_id: str) -> Owner:
        """Return an application with what was written about it; NotFound otherwise."""
        application = self._applications.get(application_id)
        if application is None:
            raise NotFound(f"no application {application_id[:64]!r}", remedy="List them with `relay app list`.")
        return self._owners[application.ref]

    def endpoints_of(self, application: Application) -> Sequence[Endpoint]:
        """Return the endpoints of an application, those too that vanished from the file."""
        return tuple(self._of_application.get(application.ref, ()))

    def signer(self, endpoint: Endpoint) -> Signer:
        """Return what signs for an endpoint; made once for each change of the endpoint."""
        endpoint = self._endpoints.get(endpoint.ref, endpoint)  # never keep a signer of what was changed meanwhile
        signer = self._signers.get(endpoint.ref)
        if signer is None:
            contract = self.contract(endpoint.application)
            signer = self._signers[endpoint.ref] = contract.signer(endpoint.secrets, endpoint.url, endpoint.id)
        return signer

    def application_for(self, principal: Principal, named: str | None, /) -> Application:
        """Return the application a request is about; NotFound for an unknown or foreign one.

        A bound token means its own application. An unbound one names it, unless there is only one.
        """
        if principal.application is not None:
            return self._bound(principal.application, named)
        present = [application for application in self._applications.values() if application.present]
        if named is None and len(present) == 1:
            return present[0]
        names = ", ".join(sorted(application.id for application in present))
        if named is None:
            raise Conflict(
                "application_required",
                "there are several applications",
                remedy=f'Name one of them with "application": {names}.',
            )
        application = self._applications.get(named)
        if application is None or not application.present:
            raise NotFound(f"no application {named!r}", remedy=f"The applications are: {names}.")
        return application

    def _bound(self, application_id: str, named: str | None) -> Application:
        application = self._applications.get(application_id)
        if application is None or not application.present:
            raise NotFound("the application of this token is not configured", remedy="Ask the operator of this relay.")
        if named is not None and named != application_id:
            raise NotFound(f"no application {named!r}", remedy='Leave "application" out: the token implies it.')
        return application

    def match(self, application: Application, event_type: str, /) -> Match:
        """Say which endpoints an event of this type goes to."""
        remembered = self._matches.setdefault(application.ref, {})
        found = remembered.get(event_type)
        if found is None:
            if len(remembered) >= MATCHES_MAX:
                remembered.clear()
            endpoints, covers = self._of_application.get(application.ref, ()), self.contract(application).covers
            found = remembered[event_type] = match(endpoints, event_type, covers)
        return found

    # -- the file --------------------------------------------------------------------------------------------------

    async def apply(self, config: Config, contracts: ContractCatalogue | None = None) -> None:
        """Take over a configuration with the contracts it was checked against, whole; ConfigError changes nothing."""
        async with self.editing:
            plan = await self._plan(config, contracts or self._contracts)
            refuse_misfits(plan)
            refuse_moves(plan, self._store.due_count)
            await self._settle_changed_urls(plan.rows, plan.written)
            await self._note_contracts(plan)
            # From here on nothing waits: an event matches against all of the old or all of the new.
            self._config, self._contracts, self._written = plan.config, plan.contracts, plan.written
            self._owners = dict(plan.owners)
            self._applications = {owner.row.id: owner.application for owner in plan.owners.values()}
            self._matches.clear()
            self._signers.clear()
            self._install_all(plan.rows)

    async def _plan(self, config: Config, contracts: ContractCatalogue) -> Plan:
        written = written_in(config)
        refuse_taken_ids(written, self._owners, self._rows.values())
        refs = await self._store.sync_applications([application.id for application in config.applications])
        await self._store.sync_file_endpoints(
            [(endpoint_id, refs[entry.application]) for endpoint_id, entry in written.items()]
        )
        applications = await self._store.applications.load()
        return planned(config, contracts, written, applications, await self._store.load_endpoints())

    async def _note_contracts(self, plan: Plan) -> None:
        """Remember which contracts hold now, unless events came in meanwhile that one of them would break."""
        seen = plan.contracts_seen()
        if not seen:
            return
        await self._store.applications.save_contracts(seen)
        try:
            refuse_moves(plan, self._store.due_count)
        except ConfigError:
            await self._store.applications.save_contracts({ref: plan.owners[ref].row.contract_seen for ref in seen})
            raise

    async def _settle_changed_urls(self, rows: list[EndpointRow], written: Mapping[str, Written]) -> None:
        """A changed `url` clears health and an automatic disable, never a manual one."""
        urls = {row.id: entry.definition.url for row in rows if (entry := written.get(row.id)) is not None}
        changed = [index for index, row in enumerate(rows) if row.url_seen != urls.get(row.id, row.url_seen)]
        saves = (self._save_url(rows[index], urls[rows[index].id]) for index in changed)
        for index, row in zip(changed, await asyncio.gather(*saves), strict=True):
            rows[index] = row

    async def _save_url(self, row: EndpointRow, url: str) -> EndpointRow:
        now_ms = self._clock.wall_ms()
        fresh = replace(row, url_seen=url, health=Health(), updated_at_ms=now_ms)
        if row.state is EndpointState.DISABLED and row.disabled_by is not DisabledBy.MANUAL:
            fresh = replace(fresh, state=EndpointState.ENABLED, disabled_by=None, state_since_ms=now_ms)
        await self._store.save_endpoint(fresh, health=fresh.health)
        return fresh

    def _install_all(self, rows: Iterable[EndpointRow]) -> None:
        for row in rows:
            known = self._rows.get(row.ref)
            fresh_health = known is None or known.url_seen != row.url_seen
            self._install(row, row.health if fresh_health else None)

    # -- edits through the API -------------------------------------------------------------------------------------

    async def create_endpoint(
        self, application: Application, definition: EndpointDefinition
    ) -> tuple[Endpoint, str | None]:
        """Make an endpoint; the second value is its secret, shown this once, or None if the contract signs nothing."""
        async with self.editing:
            application = self.owner(application.id).application  # an edit or a reload may have gone first
            self._refuse_more(application)
            row, secret = self.draft_endpoint(application.ref, self.contract(application), definition)
            row = await self._store.create_endpoint(
                endpoint_id=row.id,
                application=row.application,
                definition=definition.to_json(),
                secrets=row.secrets,
                now_ms=row.created_at_ms,
            )
            return self._install(row, Health()), secret

    def draft_endpoint(
        self, application: int, contract: Contract, definition: EndpointDefinition
    ) -> tuple[EndpointRow, str | None]:
        """Make the row of a new endpoint, with a fresh secret if the contract signs."""
        secret = contract.new_secret(self._random_bytes) if contract.signs else None
        row = new_endpoint(
            endpoint_id=self._ids.new("ep"),
            application=application,
            definition=definition.to_json(),
            secrets=() if secret is None else (Secret(secret),),
            now_ms=self._clock.wall_ms(),
        )
        return row, secret

    def _refuse_more(self, application: Application) -> None:
        contract = self.contract(application)
        most = contract.registration.max_endpoints
        if most is not None and sum(endpoint.present for endpoint in self.endpoints_of(application)) >= most:
            raise Conflict(
                "too_many_endpoints",
                f"an application may have {most} under the contract {contract.name!r}",
                remedy="Change or delete the one there is.",
            )

    async def update_endpoint(
        self, endpoint_id: str, revise: Callable[[EndpointDefinition], EndpointDefinition]
    ) -> Endpoint:
        """Replace an endpoint's definition by what `revise` makes of the present one.

        Conflict `managed_by_file` for one from the file; what `revise` raises changes nothing.
        """
        async with self.editing:
            row = self._editable(endpoint_id)
            assert row.definition is not None, "an endpoint made through the API has its definition in the database"
            definition = revise(EndpointDefinition.from_json(row.definition))
            now_ms = self._clock.wall_ms()
            changed_url = definition.url != self._endpoints[row.ref].url
            row = replace(row, definition=definition.to_json(), updated_at_ms=now_ms)
            if changed_url:
                row = await self._save_url(row, definition.url)
            else:
                await self._store.save_endpoint(row)
            return self._install(row, Health() if changed_url else None)

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint; its due deliveries are cancelled. Conflict `managed_by_file` for one in the file."""
        async with self.editing:
            endpoint = self.endpoint(endpoint_id)
            row = self._rows[endpoint.ref] if not endpoint.present else self._editable(endpoint_id)
            self._remove(row)
            try:
                await self._store.delete_endpoint(row.ref)
            except StoreUnavailable:
                self._install(row, None)  # it may still be there: a repeated call finds out
                raise

    async def rotate_secret(self, endpoint_id: str, overlap_ms: int) -> tuple[Endpoint, str]:
        """Give an endpoint a new secret; the old ones sign along for `overlap_ms` where the contract can carry several."""
        async with self.editing:
            row = self._editable(endpoint_id)
            endpoint = self._endpoints[row.ref]
            contract = self.contract(endpoint.application)
            if not contract.signs:
                raise Conflict("unsigned_contract", f"the contract {contract.name!r} signs nothing")
            secret = contract.new_secret(self._random_bytes)
            now_ms = self._clock.wall_ms()
            until_ms = now_ms + overlap_ms if contract.overlaps else now_ms
            kept = overlapping(row.secrets, now_ms, until_ms)
            row = replace(row, secrets=(Secret(secret), *kept), updated_at_ms=now_ms)
            await self._store.save_endpoint(row)
            return self._install(row, None), secret

    async def pause(self, endpoint_id: str) -> Endpoint:
        """Hold what is due and what comes; Conflict for a disabled endpoint."""
        async with self.editing:
            self._refuse_disabled(self.endpoint(endpoint_id))
            return await self._move(endpoint_id, EndpointState.PAUSED, None)

    async def resume(self, endpoint_id: str) -> Endpoint:
        """End a pause; Conflict for a disabled endpoint."""
        async with self.editing:
            self._refuse_disabled(self.endpoint(endpoint_id))
            return await self._move(endpoint_id, EndpointState.ENABLED, None)

    async def enable(self, endpoint_id: str) -> Endpoint:
        """End a disable, with clean health; a paused endpoint stays paused."""
        async with self.editing:
            endpoint = self.endpoint(endpoint_id)
            if endpoint.state is not EndpointState.DISABLED:
                return endpoint
            return await self._move(endpoint_id, EndpointState.ENABLED, None)

    async def disable(self, endpoint_id: str, by: DisabledBy = DisabledBy.MANUAL) -> Endpoint:
        """Take no more events for an endpoint and hold what is due; a manual disable is never overwritten."""
        async with self.editing:
            endpoint = self.endpoint(endpoint_id)
            if endpoint.state is EndpointState.DISABLED and by is not DisabledBy.MANUAL:
                return endpoint
            return await self._move(endpoint_id, EndpointState.DISABLED, by)

    async def _move(self, endpoint_id: str, state: EndpointState, by: DisabledBy | None) -> Endpoint:
        endpoint = self.endpoint(endpoint_id)
        row = self._rows[endpoint.ref]
        if row.state is state and row.disabled_by is by:
            return endpoint
        enabled_again = row.state is EndpointState.DISABLED and state is not EndpointState.DISABLED
        row = replace(row, state=state, disabled_by=by, state_since_ms=self._clock.wall_ms())
        health = Health() if enabled_again else None
        await self._store.save_endpoint(row, health=health)
        return self._install(row, health)

    def _refuse_disabled(self, endpoint: Endpoint) -> None:
        if endpoint.state is EndpointState.DISABLED:
            raise Conflict(
                "endpoint_disabled",
                f"endpoint {endpoint.id!r} is disabled",
                remedy=f"Enable it first: `relay endpoint enable {endpoint.id}`.",
            )

    def _editable(self, endpoint_id: str) -> EndpointRow:
        endpoint = self.endpoint(endpoint_id)
        if endpoint.origin is Origin.FILE:
            raise Conflict(
                "managed_by_file",
                f"endpoint {endpoint_id!r} is defined in the configuration file",
                remedy="Change it there and reload, with `systemctl reload relay` or `POST /v1/reload`.",
            )
        return self._rows[endpoint.ref]

    # -- installing ------------------------------------------------------------------------------------------------

    def take_in(self, row: ApplicationRow, endpoints: Iterable[EndpointRow] = ()) -> Application:
        """Install an application that was made or changed through the API, with endpoints that came with it.

        Whoever calls this, or `let_go`, holds `editing` and has the database agree.
        """
        owner = self._owners[row.ref] = owner_of(row)
        self._applications[row.id] = owner.application
        for present in self.endpoints_of(owner.application):
            self._install(self._rows[present.ref], None)
        for endpoint in endpoints:
            self._install(endpoint, endpoint.health)
        return owner.application

    def let_go(self, application: Application) -> tuple[ApplicationRow, list[EndpointRow]]:
        """Take an application out with its endpoints; nothing matches them any more. Returns what `take_in` takes."""
        rows = [self._rows[endpoint.ref] for endpoint in self.endpoints_of(application)]
        for row in rows:
            self._remove(row)
        del self._applications[application.id]
        return self._owners.pop(application.ref).row, rows

    def _install(self, row: EndpointRow, health: Health | None) -> Endpoint:
        before = self._endpoints.get(row.ref)
        owner = self._owners[row.application]
        entry = self._written.get(row.id)
        after = resolve(row, owner, entry, self._config, self.contract(owner.application))
        self._rows[row.ref] = row
        if after == before and health is None:
            return after
        if before is not None:
            self._forget(before)
        self._endpoints[row.ref] = self._by_id[row.id] = after
        self._of_application.setdefault(row.application, []).append(after)
        self._tell(Change(before, after, health))
        return after

    def _remove(self, row: EndpointRow) -> None:
        before = self._endpoints.pop(row.ref)
        del self._rows[row.ref]
        self._forget(before)
        self._tell(Change(before, None, None))

    def _forget(self, endpoint: Endpoint) -> None:
        del self._by_id[endpoint.id]
        self._of_application[endpoint.application.ref].remove(endpoint)
        self._signers.pop(endpoint.ref, None)

    def _tell(self, change: Change) -> None:
        endpoint = change.after or change.before
        assert endpoint is not None
        self._matches.pop(endpoint.application.ref, None)
        for listener in self._listeners:
            listener(change)
