"""Idempotency keys on calls that make something: a repeat is answered with what the first one made.

Secrets and tokens belong into that answer too, and the database keeps no second copy of them. A secret is found again among
those of its endpoint, by a mark that nobody can try secrets against without the key. A token, which is kept nowhere, is
drawn from a seed, which stands in the record, and from the key itself, which does not.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b, shake_256
from typing import NamedTuple, TypeVar

from relay.core.errors import Conflict
from relay.core.model import Application, Endpoint, shown_without
from relay.registry.making import Maker
from relay.registry.registry import ApplicationEntry, Registry
from relay.store import CreationRecord, EndpointRow, KeyRow

T = TypeVar("T")

SEED_BYTES = 32
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class Claim:
    """An idempotency key that came with a call."""

    scope: str  # whose key it is: an application's, or a token's that is bound to none
    key: str = field(repr=False)
    call: bytes = field(repr=False)  # what was called, and with which body

    @property
    def digest(self) -> bytes:
        """What the record remembers of the key."""
        return blake2b(self.key.encode(), digest_size=DIGEST_BYTES).digest()

    @property
    def fingerprint(self) -> bytes:
        """What the record remembers of the call."""
        return self._keyed(self.call, b"call")

    def mark(self, secret: str) -> str:
        """Return by what a secret is found again."""
        return self._keyed(secret.encode("utf-8", "surrogatepass"), b"secret").hex()

    def token_bytes(self, seed: bytes) -> Callable[[int], bytes]:
        """Return what a token is made of: the same again for the same seed and key."""
        return lambda size: shake_256(seed + self.key.encode()).digest(size)

    def _keyed(self, text: bytes, purpose: bytes) -> bytes:
        """Digest what nobody can guess without the key."""
        return blake2b(text, key=blake2b(self.key.encode()).digest(), person=purpose, digest_size=DIGEST_BYTES).digest()


class MadeEndpoint(NamedTuple):
    """An endpoint that was made, or whose secret was, with its newest secret."""

    endpoint: Endpoint
    secret: str | None  # None: it has none, or a repeat came after that secret had ended
    repeated: bool = False  # it was made before, by the same idempotency key

    def __repr__(self) -> str:
        return shown_without(self, "secret")


class MadeKey(NamedTuple):
    """A key that was made, with its token, which is kept nowhere."""

    key: KeyRow
    token: str
    repeated: bool = False

    def __repr__(self) -> str:
        return shown_without(self, "token")


class MadeApplication(NamedTuple):
    """An application that was made, with what came with it."""

    application: Application
    endpoint: MadeEndpoint | None
    key: MadeKey | None
    repeated: bool = False


class Repeat(NamedTuple):
    """A call whose key came before, and what the first call made."""

    claim: Claim
    first: CreationRecord


class Making(NamedTuple):
    """How one call makes things, and what its idempotency key will stand for, or stands for already."""

    maker: Maker
    claim: Claim | None = None  # None: it came without a key
    record: CreationRecord | None = None
    repeat: Repeat | None = None

    def made(self, secret: str | None = None, **ids: str) -> CreationRecord | None:
        """Return the record of what this call makes, to be kept with it."""
        if self.claim is None or self.record is None:
            return None
        return replace(self.record, made=ids if secret is None else ids | {"secret": self.claim.mark(secret)})


def begin(claim: Claim | None, before: CreationRecord | None, maker: Maker) -> Making:
    """Say how a call makes things; Conflict `idempotency_conflict` for a key that came with another call or body."""
    if claim is None:
        return Making(maker)
    if before is not None and before.fingerprint != claim.fingerprint:
        raise Conflict(
            "idempotency_conflict",
            "this idempotency key came before with another call or body",
            remedy="Take a new key for a new call.",
        )
    seed = maker.random_bytes(SEED_BYTES) if before is None else before.seed
    record = CreationRecord(claim.scope, claim.digest, claim.fingerprint, seed, {}, maker.now_ms)
    repeat = None if before is None else Repeat(claim, before)
    return Making(replace(maker, token_bytes=claim.token_bytes(seed)), claim, record, repeat)


def newest(row: EndpointRow) -> str | None:
    """Return the secret that an endpoint signs with first; None if it has none."""
    return row.secrets[0].value if row.secrets else None


def endpoint_again(registry: Registry, repeat: Repeat) -> MadeEndpoint:
    """Answer a repeat with the endpoint of the first call, and with the secret that was made then, while it signs."""
    made = repeat.first.made
    endpoint = _still_there(registry.endpoints.get(made["endpoint"]), "an endpoint")
    values = (secret.value for secret in endpoint.secrets)
    secret = next((value for value in values if repeat.claim.mark(value) == made.get("secret")), None)
    return MadeEndpoint(endpoint, secret, repeated=True)


def key_again(owner: ApplicationEntry, repeat: Repeat, token: str) -> MadeKey:
    """Answer a repeat with the key of the first call, and its token, which was drawn again."""
    return MadeKey(_still_there(owner.keys.get(repeat.first.made["key"]), "a key"), token, repeated=True)


def application_again(registry: Registry, repeat: Repeat, token: str) -> MadeApplication:
    """Answer a repeat with the application of the first call, and with what is left of what came with it."""
    made = repeat.first.made
    owner = _still_there(registry.applications.get(made["application"]), "an application")
    endpoint = endpoint_again(registry, repeat) if made.get("endpoint") in registry.endpoints else None
    key = key_again(owner, repeat, token) if made.get("key") in owner.keys else None
    return MadeApplication(owner.application, endpoint, key, repeated=True)


def _still_there(found: T | None, noun: str) -> T:
    """Return what the first call made; Conflict `made_before` where it was deleted since."""
    if found is None:
        raise Conflict(
            "made_before",
            f"what the first call with this idempotency key made, {noun}, was deleted since",
            remedy="Take a new key to make another.",
        )
    return found
