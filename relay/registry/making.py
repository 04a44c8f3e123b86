"""From a draft to the rows that it makes: ids are given, secrets and tokens drawn, what was brought along is taken as it is."""

from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass, replace

from relay.config import ApplicationDefinition, EndpointDefinition
from relay.contracts import Contract
from relay.core.model import Origin, Secret
from relay.registry.planning import new_endpoint
from relay.registry.tokens import digest_of
from relay.store import ApplicationRow, EndpointRow, KeyRow

KEY_BYTES = 32
KEY_PREFIX = "rk_"
SHOWN_CHARACTERS = 9
"""How much of a key is remembered, to tell one from another: 36 of its 256 bits."""


@dataclass(frozen=True, slots=True)
class EndpointDraft:
    """An endpoint to be made."""

    definition: EndpointDefinition
    id: str | None = None  # None: one is generated
    secrets: tuple[Secret, ...] | None = None  # newest first; None: one is made, if the contract signs


@dataclass(frozen=True, slots=True)
class KeyDraft:
    """A key to be made."""

    name: str = ""
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ApplicationDraft:
    """An application to be made, with the first endpoint and key that it shall have."""

    definition: ApplicationDefinition
    id: str | None = None  # None: one is generated
    endpoint: EndpointDraft | None = None
    key: KeyDraft | None = None


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the rows of one edit."""

    new_id: Callable[[str], str]
    random_bytes: Callable[[int], bytes]
    token_bytes: Callable[[int], bytes]  # of which a token is made: an idempotency key brings its own
    now_ms: int

    def application(self, draft: ApplicationDraft) -> ApplicationRow:
        """Make the row of a new application."""
        written = draft.definition
        name = draft.id or self.new_id("app")
        return ApplicationRow(0, name, Origin.API, written.to_json(), written.contract, self.now_ms, self.now_ms)

    def endpoint(self, application_id: str, contract: Contract, draft: EndpointDraft) -> EndpointRow:
        """Make the row of a new endpoint."""
        secrets = draft.secrets
        if secrets is None:
            secrets = (Secret(contract.new_secret(self.random_bytes)),) if contract.signs else ()
        name = draft.id or self.new_id("ep")
        row = new_endpoint(name, application_id, Origin.API, draft.definition.url, self.now_ms)
        return replace(row, definition=draft.definition.to_json(), secrets=secrets)

    def key(self, application_id: str, draft: KeyDraft) -> tuple[KeyRow, str]:
        """Make a key: a token of 256 random bits, of which only the digest is kept."""
        token = KEY_PREFIX + urlsafe_b64encode(self.token_bytes(KEY_BYTES)).decode().rstrip("=")
        row = KeyRow(
            id=self.new_id("key"),
            application=application_id,
            name=draft.name,
            prefix=token[:SHOWN_CHARACTERS],
            digest=digest_of(token),
            created_at_ms=self.now_ms,
            expires_at_ms=draft.expires_at_ms,
        )
        return row, token
