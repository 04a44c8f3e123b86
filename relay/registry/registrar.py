"""The owner of the registry: reads the present one, plans a change, has it committed, and puts the next in its place.

A change that is refused changes nothing, in memory or in the database. A deletion stops matching before it is submitted,
a creation matches after its commit (Q11). One edit goes on at a time; events go on matching meanwhile. Whoever has to
follow an endpoint's settings registers with `on_change`.
"""

import asyncio
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from relay.config import ApplicationDefinition, Config, EndpointDefinition
from relay.contracts import Contract, ContractCatalogue
from relay.core.access import Pace, Principal, Role
from relay.core.clock import Clock
from relay.core.errors import CommitUnknown, Conflict, NotFound, StoreUnavailable
from relay.core.ids import IdFactory
from relay.core.issues import InvalidConfig
from relay.core.model import Application, DisabledBy, Endpoint, EndpointState, Health, Origin, Secret
from relay.registry.planning import (
    contract_for,
    editable,
    moved_to,
    new_endpoint,
    overlapping,
    refuse_disabled,
    refuse_in_file,
    refuse_in_use,
    refuse_more,
    refuse_taken,
)
from relay.registry.registry import Registry
from relay.registry.reloading import Replacement
from relay.registry.resolving import InFile
from relay.registry.tokens import TokenTable, digest_of
from relay.store import ApplicationRow, EndpointRow, KeyRow, RegistryChange, RegistryRows, StillOwed, Store

KEY_BYTES = 32
KEY_PREFIX = "rk_"
SHOWN_CHARACTERS = 9
"""How much of a key is remembered, to tell one from another: 36 of its 256 bits."""

KEYS_MAX = 100
"""Keys of one application."""


class Change(NamedTuple):
    """One endpoint before and after; None where it does not exist."""

    before: Endpoint | None
    after: Endpoint | None
    health: Health | None  # set when health starts from here: at start, after enable, after a changed url


class KeyDraft(NamedTuple):
    """A key to be made."""

    name: str = ""
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ApplicationDraft:
    """An application to be made, with the first endpoint and key that it shall have."""

    definition: ApplicationDefinition
    id: str | None = None  # None: one is generated
    endpoint: EndpointDefinition | None = None
    key: KeyDraft | None = None


class Made(NamedTuple):
    """What was made. `secret` and `token` can be shown this once."""

    application: Application
    endpoint: Endpoint | None
    secret: str | None
    key: KeyRow | None
    token: str | None


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
        self, application: Application, definition: EndpointDefinition
    ) -> tuple[Endpoint, str | None]:
        """Make an endpoint; the second value is its secret, shown this once, or None if the contract signs nothing."""
        async with self._edit() as registry:
            owner = registry.application(application.id)  # an edit or a reload may have gone first
            contract = registry.contract(owner.application)
            refuse_more(owner, contract)
            row, secret = self._new_endpoint(application.id, contract, definition)
            return await self._save_endpoint(row), secret

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
            row = replace(row, definition=definition.to_json(), updated_at_ms=now_ms)
            row = moved_to(row, definition.url, now_ms) if changed_url else row
            return await self._save_endpoint(row, fresh=changed_url)

    async def delete_endpoint(self, endpoint_id: str) -> None:
        """Delete an endpoint; its due deliveries are cancelled. Conflict `managed_by_file` for one in the file."""
        async with self._edit() as registry:
            endpoint = registry.endpoint(endpoint_id)
            if endpoint.present:
                editable(registry, endpoint_id)
            await self._delete(registry.without_endpoint(endpoint), RegistryChange(deleted_endpoints=[endpoint_id]))

    async def rotate_secret(self, endpoint_id: str, overlap_ms: int) -> tuple[Endpoint, str]:
        """Give an endpoint a new secret; the old ones sign along for `overlap_ms` where the contract can carry several."""
        async with self._edit() as registry:
            row, now_ms = editable(registry, endpoint_id), self._clock.wall_ms()
            contract = registry.entries[row.ref].contract
            if not contract.signs:
                raise Conflict("unsigned_contract", f"the contract {contract.name!r} signs nothing")
            secret = contract.new_secret(self._random_bytes)
            kept = overlapping(row.secrets, now_ms, now_ms + overlap_ms if contract.overlaps else now_ms)
            row = replace(row, secrets=(Secret(secret), *kept), updated_at_ms=now_ms)
            return await self._save_endpoint(row), secret

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

    async def create_application(self, draft: ApplicationDraft) -> Made:
        """Make an application with its first endpoint and key, in one transaction; Conflict for an id that was used."""
        async with self._edit() as registry:
            now_ms, definition = self._clock.wall_ms(), draft.definition
            contract = contract_for(registry, definition)
            name = draft.id or self._ids.new("app")
            refuse_taken(registry, name)
            row = ApplicationRow(0, name, Origin.API, definition.to_json(), definition.contract, now_ms, now_ms)
            endpoint, secret = (
                (None, None) if draft.endpoint is None else self._new_endpoint(name, contract, draft.endpoint)
            )
            key, token = (None, None) if draft.key is None else self._new_key(name, draft.key)
            await self._save(
                RegistryChange(
                    applications=[row],
                    endpoints=[] if endpoint is None else [endpoint],
                    keys=[] if key is None else [key],
                )
            )
            made = None if endpoint is None else self.current.endpoint(endpoint.id)
            return Made(self.current.application(name).application, made, secret, key, token)

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
            contract_for(registry, definition)
            row = replace(
                owner.row,
                definition=definition.to_json(),
                contract_seen=definition.contract,
                updated_at_ms=self._clock.wall_ms(),
            )
            await self._save(RegistryChange(applications=[row]))
            return self.current.application(application_id).application

    async def delete_application(self, application_id: str) -> None:
        """Delete an application: its keys end at once, its endpoints go, and what is due to them is cancelled.

        Conflict `managed_by_file` for one in the file; one that vanished from there may be deleted.
        """
        async with self._edit() as registry:
            owner = registry.application(application_id)
            if owner.application.present:
                refuse_in_file(owner)
            change = RegistryChange(
                deleted_applications=[application_id],
                deleted_endpoints=[endpoint.id for endpoint in owner.endpoints.values()],
                deleted_keys=list(owner.keys),
            )
            await self._delete(registry.without_application(owner), change, owner.keys.values())

    async def create_key(self, application_id: str, draft: KeyDraft) -> tuple[KeyRow, str]:
        """Make a key; the second value is the token, shown this once. Those of the file may have keys too."""
        async with self._edit() as registry:
            if len(registry.application(application_id).keys) >= KEYS_MAX:
                raise Conflict(
                    "too_many_keys",
                    f"application {application_id!r} has {KEYS_MAX} keys already",
                    remedy="Revoke those that nobody uses.",
                )
            key, token = self._new_key(application_id, draft)
            await self._save(RegistryChange(keys=[key]))
            return key, token

    async def revoke_key(self, application_id: str, key_id: str) -> None:
        """Revoke a key: from here on nobody gets in with it. NotFound for one of another application."""
        async with self._edit() as registry:
            key = registry.application(application_id).keys.get(key_id)
            if key is None:
                raise NotFound(f"no key {key_id[:64]!r}", remedy="List them with `relay app key list`.")
            await self._delete(registry.without_key(key), RegistryChange(deleted_keys=[key_id]), [key])

    # -- making rows -----------------------------------------------------------------------------------------------

    def _new_endpoint(
        self, application_id: str, contract: Contract, definition: EndpointDefinition
    ) -> tuple[EndpointRow, str | None]:
        """Make the row of a new endpoint, with a fresh secret if the contract signs."""
        secret = contract.new_secret(self._random_bytes) if contract.signs else None
        now_ms = self._clock.wall_ms()
        row = new_endpoint(self._ids.new("ep"), application_id, Origin.API, definition.url, now_ms)
        secrets = () if secret is None else (Secret(secret),)
        return replace(row, definition=definition.to_json(), secrets=secrets), secret

    def _new_key(self, application_id: str, draft: KeyDraft) -> tuple[KeyRow, str]:
        """Make a key: a token of 256 random bits, of which only the digest is kept."""
        token = KEY_PREFIX + urlsafe_b64encode(self._random_bytes(KEY_BYTES)).decode().rstrip("=")
        key = KeyRow(
            id=self._ids.new("key"),
            application=application_id,
            name=draft.name,
            prefix=token[:SHOWN_CHARACTERS],
            digest=digest_of(token),
            created_at_ms=self._clock.wall_ms(),
            expires_at_ms=draft.expires_at_ms,
        )
        return key, token

    # -- committing ------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _edit(self) -> AsyncIterator[Registry]:
        """Wait for the edit before, and yield what it left; after a commit that nobody knows of, what the database has."""
        async with self._editing:
            if self._unsure:
                rows, known = await self._store.load_registry(), self.current
                self._install(Registry(known.config, known.contracts, known.in_file).including(rows))
            yield self.current

    async def _save_endpoint(self, row: EndpointRow, *, fresh: bool = False) -> Endpoint:
        await self._save(RegistryChange(endpoints=[row], fresh=frozenset([row.id] if fresh else ())))
        return self.current.endpoint(row.id)

    async def _save(self, change: RegistryChange) -> None:
        written = await self._commit(change)
        registry = self.current.including(written)
        touched = [row.ref for row in written.endpoints]
        for row in written.applications:
            touched += registry.applications[row.id].endpoints
        self._swap(registry, dict.fromkeys(touched), change.fresh)
        self._admit(written.keys)

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
