"""Idempotency keys on calls that make something: a repeat is answered with what the first one made.

Secrets and tokens belong into that answer too, and the database keeps no second copy of them. They are drawn from a seed,
which stands in the record, and from the key itself, which does not: whoever has both draws the same again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b, shake_256
from itertools import count
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
        """What the record remembers of the call; without the key nobody can try secrets against it."""
        keyed = blake2b(self.key.encode(), person=b"fingerprint").digest()
        return blake2b(self.call, key=keyed, digest_size=DIGEST_BYTES).digest()

    def drawing(self, seed: bytes) -> Callable[[int], bytes]:
        """Return a source of random bytes that gives the same again for the same seed and key."""
        numbers = count()
        return lambda size: shake_256(seed + next(numbers).to_bytes(8) + self.key.encode()).digest(size)


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


class Making(NamedTuple):
    """How one call makes things: what it draws, and what its idempotency key stands for already."""

    maker: Maker
    record: CreationRecord | None  # None: it came without a key
    before: CreationRecord | None  # what the first call with that key made; None: this is the first

    def made(self, **ids: str) -> CreationRecord | None:
        """Return the record of what this call makes, to be kept with it."""
        return self.record and replace(self.record, made=ids)


def begin(
    claim: Claim | None, before: CreationRecord | None, random_bytes: Callable[[int], bytes], maker: Maker
) -> Making:
    """Say how a call makes things; Conflict `idempotency_conflict` for a key that came with another call or body."""
    if claim is None:
        return Making(maker, None, None)
    if before is not None and before.fingerprint != claim.fingerprint:
        raise Conflict(
            "idempotency_conflict",
            "this idempotency key came before with another call or body",
            remedy="Take a new key for a new call.",
        )
    seed = random_bytes(SEED_BYTES) if before is None else before.seed
    record = CreationRecord(claim.scope, claim.digest, claim.fingerprint, seed, {}, maker.now_ms)
    return Making(replace(maker, random_bytes=claim.drawing(seed)), record, before)


def newest(row: EndpointRow) -> str | None:
    """Return the secret that an endpoint signs with first; None if it has none."""
    return row.secrets[0].value if row.secrets else None


def endpoint_again(registry: Registry, before: CreationRecord, drawn: EndpointRow) -> MadeEndpoint:
    """Answer a repeat with the endpoint of the first call, and with the secret that was drawn for it."""
    endpoint = _still_there(registry.endpoints.get(before.made["endpoint"]), "an endpoint")
    return MadeEndpoint(endpoint, _secret_again(drawn, endpoint), repeated=True)


def key_again(owner: ApplicationEntry, before: CreationRecord, token: str) -> MadeKey:
    """Answer a repeat with the key of the first call, and its token, which was drawn for it."""
    return MadeKey(_still_there(owner.keys.get(before.made["key"]), "a key"), token, repeated=True)


def application_again(
    registry: Registry, before: CreationRecord, drawn: EndpointRow | None, token: str
) -> MadeApplication:
    """Answer a repeat with the application of the first call, and with what is left of what came with it."""
    owner = _still_there(registry.applications.get(before.made["application"]), "an application")
    endpoint = registry.endpoints.get(before.made.get("endpoint", ""))
    key = owner.keys.get(before.made.get("key", ""))
    return MadeApplication(
        owner.application,
        None
        if endpoint is None or drawn is None
        else MadeEndpoint(endpoint, _secret_again(drawn, endpoint), repeated=True),
        None if key is None else MadeKey(key, token, repeated=True),
        repeated=True,
    )


def _still_there(found: T | None, noun: str) -> T:
    """Return what the first call made; Conflict `made_before` where it was deleted since."""
    if found is None:
        raise Conflict(
            "made_before",
            f"what the first call with this idempotency key made, {noun}, was deleted since",
            remedy="Take a new key to make another.",
        )
    return found


def _secret_again(drawn: EndpointRow, present: Endpoint) -> str | None:
    """Return the secret that the first answer had; None for one that no longer signs."""
    secret = newest(drawn)
    return secret if secret in [each.value for each in present.secrets] else None
