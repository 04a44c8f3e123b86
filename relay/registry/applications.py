"""Applications and their keys, made and changed through the API.

The directory owns what holds; this owns the keys, and does every edit under the directory's lock. A key is a token of
256 random bits whose digest alone is kept: what is shown when it is made can never be shown again.
"""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from relay.contracts import Contract
from relay.core.access import Principal, Role, TokenTable, digest_of
from relay.core.clock import Clock
from relay.core.errors import Conflict, NotFound, StoreUnavailable
from relay.core.ids import IdFactory
from relay.core.model import Application, Endpoint, Origin
from relay.registry.definition import ApplicationDefinition, EndpointDefinition
from relay.registry.registry import Directory
from relay.registry.resolving import Owner
from relay.store import ApplicationRow, EndpointRow, KeyRow, Store

KEY_BYTES = 32
KEY_PREFIX = "rk_"
SHOWN_CHARACTERS = 9
"""How much of a key is remembered, to tell one from another: 36 of its 256 bits."""

KEYS_MAX = 100
"""Keys of one application."""


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


class Applications:
    """The edits of applications. Owner of their keys."""

    def __init__(
        self,
        directory: Directory,
        store: Store,
        tokens: TokenTable,
        clock: Clock,
        ids: IdFactory,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._directory = directory
        self._store = store
        self._tokens = tokens
        self._clock = clock
        self._ids = ids
        self._random_bytes = random_bytes
        self._keys: dict[str, KeyRow] = {}

    async def load_keys(self) -> None:
        """Take the keys that the database remembers; the directory has taken over a configuration before."""
        names = {application.ref: application.id for application in self._directory.applications.values()}
        for key in await self._store.applications.load_keys():
            self._admit(key, names[key.application])

    def keys(self, application: Application) -> Sequence[KeyRow]:
        """Return the keys of an application, newest first."""
        return [key for key in reversed(self._keys.values()) if key.application == application.ref]

    async def create(self, draft: ApplicationDraft) -> Made:
        """Make an application with its first endpoint and key, in one transaction; Conflict for an id that was used."""
        async with self._directory.editing:
            now_ms = self._clock.wall_ms()
            contract = self._contract(draft.definition)
            name = draft.id or self._ids.new("app")
            row = ApplicationRow(0, name, Origin.API, draft.definition.to_json(), None, now_ms, now_ms)
            endpoint, secret = self._endpoint(draft, contract)
            key, token = (None, None) if draft.key is None else self._key(0, draft.key)
            made = await self._store.applications.create(row, endpoint, key)
            application = self._directory.take_in(made.application, () if made.endpoint is None else (made.endpoint,))
            if made.key is not None:
                self._admit(made.key, application.id)
            shown = None if made.endpoint is None else self._directory.by_ref(made.endpoint.ref)
            return Made(application, shown, secret, made.key, token)

    async def update(
        self, application_id: str, revise: Callable[[ApplicationDefinition], ApplicationDefinition]
    ) -> Application:
        """Replace an application's definition by what `revise` makes of the present one.

        Conflict `managed_by_file` for one in the file, `contract_in_use` for a changed contract while there are
        endpoints: their receivers were promised the present one. What `revise` raises changes nothing.
        """
        async with self._directory.editing:
            owner = self._directory.owner(application_id)
            _refuse_in_file(owner)
            definition = revise(owner.definition)
            if definition.contract != owner.definition.contract:
                self._refuse_in_use(owner)
            self._contract(definition)
            row = replace(owner.row, definition=definition.to_json(), updated_at_ms=self._clock.wall_ms())
            await self._store.applications.save(row)
            return self._directory.take_in(row)

    async def delete(self, application_id: str) -> None:
        """Delete an application: its keys end at once, its endpoints go, and what is due to them is cancelled.

        Conflict `managed_by_file` for one in the file; one that vanished from there may be deleted.
        """
        async with self._directory.editing:
            owner = self._directory.owner(application_id)
            if owner.application.present:
                _refuse_in_file(owner)
            keys = self.keys(owner.application)
            row, endpoints = self._directory.let_go(owner.application)
            for key in keys:
                self._dismiss(key)
            try:
                await self._store.applications.delete(row.ref, self._clock.wall_ms())
            except StoreUnavailable:  # it may still be there: a repeated call finds out
                self._directory.take_in(row, endpoints)
                for key in reversed(keys):
                    self._admit(key, row.id)
                raise

    async def create_key(self, application_id: str, draft: KeyDraft) -> tuple[KeyRow, str]:
        """Make a key; the second value is the token, shown this once. Those of the file may have keys too."""
        async with self._directory.editing:
            application = self._directory.owner(application_id).application
            if len(self.keys(application)) >= KEYS_MAX:
                raise Conflict(
                    "too_many_keys",
                    f"application {application_id!r} has {KEYS_MAX} keys already",
                    remedy="Revoke those that nobody uses.",
                )
            key, token = self._key(application.ref, draft)
            await self._store.applications.create_key(key)
            self._admit(key, application_id)
            return key, token

    async def revoke_key(self, application_id: str, key_id: str) -> None:
        """Revoke a key: from here on nobody gets in with it. NotFound for one of another application."""
        async with self._directory.editing:
            application = self._directory.owner(application_id).application
            key = self._keys.get(key_id)
            if key is None or key.application != application.ref:
                raise NotFound(f"no key {key_id[:64]!r}", remedy="List them with `relay app key list`.")
            self._dismiss(key)
            try:
                await self._store.applications.delete_key(key_id)
            except StoreUnavailable:  # it would work again after a restart: better that it is seen to work now
                self._admit(key, application_id)
                raise

    # -- making ----------------------------------------------------------------------------------------------------

    def _contract(self, definition: ApplicationDefinition) -> Contract:
        contract = self._directory.contracts.get(definition.contract)
        if contract is None:  # a reload went first
            raise Conflict("no_such_contract", f"there is no contract {definition.contract!r} any more")
        return contract

    def _endpoint(self, draft: ApplicationDraft, contract: Contract) -> tuple[EndpointRow | None, str | None]:
        return (None, None) if draft.endpoint is None else self._directory.draft_endpoint(0, contract, draft.endpoint)

    def _key(self, application: int, draft: KeyDraft) -> tuple[KeyRow, str]:
        token = KEY_PREFIX + urlsafe_b64encode(self._random_bytes(KEY_BYTES)).decode().rstrip("=")
        key = KeyRow(
            id=self._ids.new("key"),
            application=application,
            name=draft.name,
            prefix=token[:SHOWN_CHARACTERS],
            digest=digest_of(token),
            created_at_ms=self._clock.wall_ms(),
            expires_at_ms=draft.expires_at_ms,
        )
        return key, token

    def _refuse_in_use(self, owner: Owner) -> None:
        count = len(self._directory.endpoints_of(owner.application))
        if count:
            raise Conflict(
                "contract_in_use",
                f"application {owner.row.id!r} has endpoints ({count}) that were promised {owner.definition.contract!r}",
                remedy="Make a new application for the new contract, or delete these endpoints first.",
            )

    # -- keys ------------------------------------------------------------------------------------------------------

    def _admit(self, key: KeyRow, application_id: str) -> None:
        self._keys[key.id] = key
        self._tokens.admit(key.digest, Principal(key.id, Role.APPLICATION, application_id), key.expires_at_ms)

    def _dismiss(self, key: KeyRow) -> None:
        del self._keys[key.id]
        self._tokens.dismiss(key.digest)


def _refuse_in_file(owner: Owner) -> None:
    if owner.row.origin is Origin.FILE:
        raise Conflict(
            "managed_by_file",
            f"application {owner.row.id!r} is defined in the configuration file",
            remedy="Change it there and reload, with `systemctl reload relay` or `POST /v1/reload`.",
        )
