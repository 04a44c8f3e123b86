"""The owner of the registry: reads the present one, plans a change, has it committed, and puts the next in its place.

A change that is refused changes nothing, in memory or in the database. A deletion stops matching before it is submitted,
a creation matches after its commit (Q11). One edit goes on at a time; events go on matching meanwhile. Whoever has to
follow an endpoint's settings registers with `on_change`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from relay.config import ApplicationDefinition, Config, EndpointDefinition
from relay.contracts import ContractCatalogue
from relay.core.access import Pace, Principal, Role
from relay.core.clock import Clock
from relay.core.errors import CommitUnknown, Conflict, NotFound, StoreUnavailable
from relay.core.ids import IdFactory
from relay.core.issues import Invalid, InvalidConfig
from relay.core.model import Application, DisabledBy, Endpoint, EndpointState, Health
from relay.core.verification import Proof
from relay.registry.claims import (
    Claim,
    MadeApplication,
    MadeEndpoint,
    MadeKey,
    Making,
    application_again,
    begin,
    endpoint_again,
    key_again,
    newest,
)
from relay.registry.importing import Plan
from relay.registry.making import ApplicationDraft, EndpointDraft, KeyDraft, Maker
from relay.registry.planning import (
    ROTATE_IN_FILE,
    contract_for,
    editable,
    in_place_of,
    moved_to,
    refuse_disabled,
    refuse_in_file,
    refuse_in_use,
    refuse_more,
    refuse_secret,
    refuse_taken,
    renewed,
    signing_under,
)
from relay.registry.registry import Registry
from relay.registry.reloading import Replacement
from relay.registry.resolving import InFile
from relay.registry.tokens import TokenTable
from relay.store import CreationRecord, EndpointRow, KeyRow, RegistryChange, RegistryRows, StillOwed, Store

AT_ONCE = 20
"""Endpoints that are put into a registry between two turns of others."""

KEYS_MAX = 100
"""Keys of one application."""


class Change(NamedTuple):
    """One endpoint before and after; None where it does not exist."""

    before: Endpoint | None
    after: Endpoint | None
    health: Health | None  # set when health starts from here: at start, after enable, after a changed url


def _let_pass() -> None:
    """Have nothing against an edit."""


class Registrar:
    """Owner of the registry. Every edit costs what `Registry` says of its copies, and O(log n) in the database."""

    def __init__(
        self,
        store: Store,
        contracts: ContractCatalogue,
        tokens: TokenTable,
        clock: Clock,
        ids: IdFactory,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes
        self._editing = asyncio.Lock()
        self._unsure = False  # a commit failed: only the database knows what it kept
        self._listeners: list[Callable[[Change], None]] = []
        self.current = Registry(Config(), contracts, InFile.of(Config()))

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` with every later change of an endpoint, once the registry has it, in order."""
        self._listeners.append(listener)

    # -- the configuration -----------------------------------------------------------------------------------------

    async def apply(self, config: Config, contracts: ContractCatalogue | None = None) -> None:
        """Put a configuration in force with the contracts it was checked against, whole; InvalidConfig changes nothing.

        O(endpoints + applications + keys): it reads the database anew.
        """
        async with self._editing:
            before, rows = self.current, await self._store.load_registry()
            in_file, contracts = InFile.of(config), contracts or before.contracts
            replacement = Replacement(config, contracts, in_file, rows, self._clock.wall_ms())
            change = replacement.change(self._store.due_count)
            # Events of these are refused until it is over: one frozen under the old contract must not come after it.
            self.current = replace(before, moving=frozenset(change.unowed))
            try:
                written = await self._commit(change)
            except BaseException as error:
                self.current = before
                if isinstance(error, StillOwed):
                    raise InvalidConfig(replacement.owed(error.due)) from None
                raise
            self._install(Registry(config, contracts, in_file).including(rows).including(written), change.fresh)

    def _install(self, registry: Registry, fresh: frozenset[str] = frozenset()) -> None:
        """Put a registry in place that was made from all rows."""
        before = self.current
        self._swap(registry, dict.fromkeys([*before.entries, *registry.entries]), fresh)
        self._tokens.dismiss_all()
        for entry in registry.applications.values():
            self._admit(entry.keys.values())
        self._unsure = False

    # -- endpoints -------------------------------------------------------------------------------------------------

    async def create_endpoint(
        self, application: Application, draft: EndpointDraft, claim: Claim | None = None
    ) -> MadeEndpoint:
        """Make an endpoint; one that left the file is taken over by its id.

        Conflict `endpoint_exists`, `too_many_endpoints`, or what `begin` says of the claim.
        """
        async with self._edit() as registry:
            owner = registry.application(application.id)  # an edit or a reload may have gone first
            contract = registry.contract(owner.application)
            making = await self._begin(claim)
            if making.repeat is not None:
                return endpoint_again(registry, making.repeat)
            refuse_more(owner, contract)
            contract = contract_for(registry, draft.definition.contract or contract.name)
            row = in_place_of(registry, making.maker.endpoint(application.id, contract, draft), making.maker.now_ms)
            record = making.made(newest(row), endpoint=row.id)
            return MadeEndpoint(await self._save_endpoint(row, record=record), newest(row))

    async def update_endpoint(
        self, endpoint_id: str, revise: Callable[[EndpointDefinition], EndpointDefinition]
    ) -> Endpoint:
        """Replace an endpoint's definition by what `revise` makes of the present one.

        Conflict `managed_by_file` for one from the file; what `revise` raises changes nothing.
        """
        async with self._edit() as registry:
            row, now_ms = editable(registry, endpoint_id), self._clock.wall_ms()
            present = registry.entries[row.ref].definition
            definition = revise(present)
            changed_url = definition.url != present.url
            row = replace(row, definition=definition.to_json(), updated_at_ms=max(now_ms, row.updated_at_ms + 1))
            row = moved_to(row, definition.url, now_ms) if changed_url else row
            owner = registry.application(row.application)
            contract = contract_for(registry, definition.contract or owner.application.contract)
            if contract is not registry.entries[row.ref].contract:
                row = signing_under(row, contract, partial(contract.new_secret, self._random_bytes), now_ms)
            return await self._save_endpoint(row, fresh=changed_url)

    async def delete_endpoint(self, endpoint_id: str, examine: Callable[[], None] = _let_pass) -> None:
        """Delete an endpoint; its due deliveries are cancelled. Conflict `managed_by_file` for one in the file.

        What `examine` raises, once no other edit can come between, changes nothing.
        """
        async with self._edit() as registry:
            endpoint = registry.endpoint(endpoint_id)
            if endpoint.present:
                editable(registry, endpoint_id)
            examine()
            await self._delete(registry.without_endpoint(endpoint), RegistryChange(deleted_endpoints=[endpoint_id]))

    async def rotate_secret(
        self, endpoint_id: str, overlap_ms: int, given: str | None = None, claim: Claim | None = None
    ) -> MadeEndpoint:
        """Give an endpoint a new secret, or the one given.

        The old ones sign along for `overlap_ms` where the contract can carry several. Invalid for one that cannot sign.
        """
        async with self._edit() as registry:
            row, making = editable(registry, endpoint_id, ROTATE_IN_FILE), await self._begin(claim)
            if making.repeat is not None:
                return endpoint_again(registry, making.repeat)
            contract, now_ms = registry.entries[row.ref].contract, making.maker.now_ms
            refuse_secret(contract, given)
            secret = given or contract.new_secret(making.maker.random_bytes, newest(row) or "")
            until_ms = now_ms + overlap_ms if contract.overlaps else now_ms
            rotated = replace(row, secrets=renewed(row.secrets, secret, now_ms, until_ms), updated_at_ms=now_ms)
            return MadeEndpoint(await self._save_endpoint(rotated, record=making.made(secret, endpoint=row.id)), secret)

    async def verified(self, asked: Endpoint, proof: Proof) -> bool:
        """Keep that a receiver agreed; False for one that was asked for another URL than the endpoint has by now.

        NotFound for an endpoint that was deleted meanwhile.
        """
        async with self._edit() as registry:
            present = registry.endpoint(asked.id)
            if (present.ref, present.url) != (asked.ref, asked.url):
                return False
            await self._save_endpoint(replace(registry.entries[present.ref].row, proof=proof))
            return True

    async def pause(self, endpoint_id: str) -> bool:
        """Hold what is due and what comes; return whether that is new. Conflict for a disabled endpoint."""
        async with self._edit() as registry:
            refuse_disabled(registry.endpoint(endpoint_id))
            return await self._move(endpoint_id, EndpointState.PAUSED, None)

    async def resume(self, endpoint_id: str) -> bool:
        """End a pause; return whether there was one. Conflict for a disabled endpoint."""
        async with self._edit() as registry:
            refuse_disabled(registry.endpoint(endpoint_id))
            return await self._move(endpoint_id, EndpointState.ENABLED, None)

    async def enable(self, endpoint_id: str) -> bool:
        """End a disable, with clean health; return whether there was one. A paused endpoint stays paused."""
        async with self._edit() as registry:
            if registry.endpoint(endpoint_id).state is not EndpointState.DISABLED:
                return False
            return await self._move(endpoint_id, EndpointState.ENABLED, None)

    async def disable(self, endpoint_id: str, by: DisabledBy = DisabledBy.MANUAL) -> bool:
        """Take no more events for an endpoint and hold what is due; return whether that is new.

        A manual disable is never overwritten.
        """
        async with self._edit() as registry:
            if registry.endpoint(endpoint_id).state is EndpointState.DISABLED and by is not DisabledBy.MANUAL:
                return False
            return await self._move(endpoint_id, EndpointState.DISABLED, by)

    async def _move(self, endpoint_id: str, state: EndpointState, by: DisabledBy | None) -> bool:
        row = self.current.entries[self.current.endpoint(endpoint_id).ref].row
        if row.state is state and row.disabled_by is by:
            return False
        enabled_again = row.state is EndpointState.DISABLED and state is not EndpointState.DISABLED
        row = replace(row, state=state, disabled_by=by, state_since_ms=self._clock.wall_ms())
        if enabled_again:
            row = replace(row, health=Health())
        await self._save_endpoint(row, fresh=enabled_again)
        return True

    # -- applications ----------------------------------------------------------------------------------------------

    async def create_application(self, draft: ApplicationDraft, claim: Claim | None = None) -> MadeApplication:
        """Make an application with its first endpoint and key, in one transaction; Conflict for an id that was used."""
        async with self._edit() as registry:
            contract, making = contract_for(registry, draft.definition.contract), await self._begin(claim)
            if draft.endpoint is not None and draft.endpoint.definition.contract is not None:
                contract = contract_for(registry, draft.endpoint.definition.contract)
            maker = making.maker
            row = maker.application(draft)
            key, token = (None, "") if draft.key is None else maker.key(row.id, draft.key)
            if making.repeat is not None:
                return application_again(registry, making.repeat, token)
            refuse_taken(registry, row.id)
            endpoint = None if draft.endpoint is None else maker.endpoint(row.id, contract, draft.endpoint)
            secret = None if endpoint is None else newest(endpoint)
            ids = {"application": row.id} | ({} if endpoint is None else {"endpoint": endpoint.id})
            await self._save(
                RegistryChange(
                    applications=[row],
                    endpoints=[] if endpoint is None else [in_place_of(registry, endpoint, maker.now_ms)],
                    keys=[] if key is None else [key],
                    record=making.made(secret, **ids, **({} if key is None else {"key": key.id})),
                )
            )
            made = None if endpoint is None else MadeEndpoint(self.current.endpoint(endpoint.id), secret)
            made_key = None if key is None else MadeKey(key, token)
            return MadeApplication(self.current.application(row.id).application, made, made_key)

    async def update_application(
        self, application_id: str, revise: Callable[[ApplicationDefinition], ApplicationDefinition]
    ) -> Application:
        """Replace an application's definition by what `revise` makes of the present one.

        Conflict `managed_by_file` for one in the file, `contract_in_use` for a changed contract while there are
        endpoints: their receivers were promised the present one. What `revise` raises changes nothing.
        """
        async with self._edit() as registry:
            owner = registry.application(application_id)
            refuse_in_file(owner)
            definition = revise(owner.definition)
            if definition.contract != owner.definition.contract:
                refuse_in_use(owner)
            contract_for(registry, definition.contract)
            row = replace(
                owner.row,
                definition=definition.to_json(),
                contract_seen=definition.contract,
                updated_at_ms=max(self._clock.wall_ms(), owner.row.updated_at_ms + 1),
            )
            await self._save(RegistryChange(applications=[row]))
            return self.current.application(application_id).application

    async def delete_application(self, application_id: str, examine: Callable[[], None] = _let_pass) -> None:
        """Delete an application: its keys end at once, its endpoints go, and what is due to them is cancelled.

        Conflict `managed_by_file` for one in the file; one that vanished from there may be deleted. What `examine` raises,
        once no other edit can come between, changes nothing.
        """
        async with self._edit() as registry:
            owner = registry.application(application_id)
            if owner.application.present:
                refuse_in_file(owner)
            examine()
            change = RegistryChange(
                deleted_applications=[application_id],
                deleted_endpoints=[endpoint.id for endpoint in owner.endpoints.values()],
                deleted_keys=list(owner.keys),
            )
            await self._delete(registry.without_application(owner), change, owner.keys.values())

    async def create_key(self, application_id: str, draft: KeyDraft, claim: Claim | None = None) -> MadeKey:
        """Make a key, whose token is shown this once. Applications of the file may have keys too."""
        async with self._edit() as registry:
            owner, making = registry.application(application_id), await self._begin(claim)
            key, token = making.maker.key(application_id, draft)
            if making.repeat is not None:
                return key_again(owner, making.repeat, token)
            if len(owner.keys) >= KEYS_MAX:
                raise Conflict(
                    "too_many_keys",
                    f"application {application_id!r} has {KEYS_MAX} keys already",
                    remedy="Revoke those that nobody uses.",
                )
            await self._save(RegistryChange(keys=[key], record=making.made(key=key.id)))
            return MadeKey(key, token)

    async def revoke_key(self, application_id: str, key_id: str) -> None:
        """Revoke a key: from here on nobody gets in with it. NotFound for one of another application."""
        async with self._edit() as registry:
            key = registry.application(application_id).keys.get(key_id)
            if key is None:
                raise NotFound(f"no key {key_id[:64]!r}", remedy="List them with `relay app key list`.")
            await self._delete(registry.without_key(key), RegistryChange(deleted_keys=[key_id]), [key])

    # -- imports ---------------------------------------------------------------------------------------------------

    async def import_all(self, plan: Callable[[Registry, Maker], Awaitable[Plan]], *, dry_run: bool) -> Plan:
        """Do all that `plan` makes of the present registry in one transaction; nothing with `dry_run`.

        Invalid with every issue of the plan changes nothing. O(rows), with a turn for others now and then.
        """
        async with self._edit() as registry:
            planned = await plan(registry, self._maker())
            if planned.issues:
                raise Invalid(planned.issues)
            if not dry_run and not planned.is_empty:
                await self._save(planned.change())
            return planned

    # -- committing ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _edit(self) -> AsyncIterator[Registry]:
        """Wait for the edit before, and yield what it left; after a commit that nobody knows of, what the database has."""
        async with self._editing:
            if self._unsure:
                rows, known = await self._store.load_registry(), self.current
                self._install(Registry(known.config, known.contracts, known.in_file).including(rows))
            yield self.current

    async def _begin(self, claim: Claim | None) -> Making:
        before = None if claim is None else await self._store.find_creation(claim.scope, claim.digest)
        return begin(claim, before, self._maker())

    def _maker(self) -> Maker:
        return Maker(self._ids.new, self._random_bytes, self._random_bytes, self._clock.wall_ms())

    async def _save_endpoint(
        self, row: EndpointRow, *, fresh: bool = False, record: CreationRecord | None = None
    ) -> Endpoint:
        await self._save(RegistryChange(endpoints=[row], fresh=frozenset([row.id] if fresh else ()), record=record))
        return self.current.endpoint(row.id)

    async def _save(self, change: RegistryChange) -> None:
        written = await self._commit(change)
        registry = await self._including(written)
        touched = [row.ref for row in written.endpoints]
        for row in written.applications:
            touched += registry.applications[row.id].endpoints
        self._swap(registry, dict.fromkeys(touched), change.fresh)
        self._admit(written.keys)

    async def _including(self, written: RegistryRows) -> Registry:
        """Put in what a commit wrote: of very much some at a time, so that others get their turn."""
        self._unsure = True  # until all of it is in
        registry = self.current.including(written._replace(endpoints=written.endpoints[:AT_ONCE]))
        for begin_at in range(AT_ONCE, len(written.endpoints), AT_ONCE):
            await asyncio.sleep(0)
            registry = registry.including(RegistryRows(endpoints=written.endpoints[begin_at : begin_at + AT_ONCE]))
        self._unsure = False
        return registry

    async def _delete(self, registry: Registry, change: RegistryChange, keys: Iterable[KeyRow] = ()) -> None:
        before, keys = self.current, list(keys)
        refs = [before.endpoints[endpoint_id].ref for endpoint_id in change.deleted_endpoints]
        self._swap(registry, refs)
        for key in keys:
            self._tokens.dismiss(key.digest)
        try:
            await self._commit(change)
        except StoreUnavailable:  # it may still be there: better that it is seen than that it comes back by itself
            self._swap(before, refs)
            self._admit(keys)
            raise

    async def _commit(self, change: RegistryChange) -> RegistryRows:
        try:
            return await self._store.change_registry(change)
        except (CommitUnknown, asyncio.CancelledError):
            self._unsure = True
            raise

    def _swap(self, registry: Registry, refs: Iterable[int], fresh: frozenset[str] = frozenset()) -> None:
        """Put a registry in the place of the present one, and report each of these endpoints that differs."""
        old, self.current = self.current, registry
        for ref in refs:
            before, after = old.endpoint_by_ref(ref), registry.endpoint_by_ref(ref)
            starts = after is not None and (before is None or after.id in fresh)
            if after != before or starts:
                change = Change(before, after, registry.entries[ref].row.health if starts else None)
                for listener in self._listeners:
                    listener(change)

    def _admit(self, keys: Iterable[KeyRow]) -> None:
        limits = self.current.config.limits
        pace = Pace.of(limits.rate, limits.bytes_rate)
        for key in keys:
            holder = Principal(key.id, Role.APPLICATION, key.application, pace)
            self._tokens.admit(key.digest, holder, key.expires_at_ms)
