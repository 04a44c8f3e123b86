"""Who is calling, and what each role may do. Tokens are remembered as SHA-256 digests only."""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from hashlib import sha256

from relay.errors import ConfigError


class Role(StrEnum):
    """What a token is for."""

    PRODUCER = "producer"
    APPLICATION = "application"
    READER = "reader"
    ADMIN = "admin"


class Right(Enum):
    """One kind of call."""

    POST_EVENTS = auto()
    READ_EVENTS = auto()
    READ = auto()  # endpoints, deliveries, dead letters
    CHANGE = auto()  # endpoints, retries, cancels, tests
    READ_STATUS = auto()  # the whole daemon: status, metrics
    ADMINISTER = auto()  # reload


RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.PRODUCER: frozenset({Right.POST_EVENTS, Right.READ_EVENTS}),
    Role.APPLICATION: frozenset({Right.READ_EVENTS, Right.READ, Right.CHANGE}),
    Role.READER: frozenset({Right.READ_EVENTS, Right.READ, Right.READ_STATUS}),
    Role.ADMIN: frozenset(Right),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose identity is established."""

    name: str
    role: Role
    application: str | None = None  # id of the one application it is bound to; None: not bound

    def may(self, right: Right) -> bool:
        """Whether its role includes `right`."""
        return right in RIGHTS[self.role]

    def sees(self, application: str) -> bool:
        """Whether things of this application exist for it (for others they are 404)."""
        return self.application is None or self.application == application


@dataclass(frozen=True, slots=True)
class Token:
    """One token as configured."""

    name: str
    role: Role
    application: str | None
    secret: str = field(repr=False)


class TokenTable:
    """Finds the principal behind a token. Owner of the digests; a reload replaces all of them at once."""

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self._principals = _by_digest(tokens)

    def replace(self, tokens: Iterable[Token]) -> None:
        """Take `tokens` instead of all earlier ones, or raise ConfigError and change nothing."""
        self._principals = _by_digest(tokens)

    def find(self, secret: str) -> Principal | None:
        """Return whose token this is; a missing token (`""`) takes the same path as a wrong one.

        What an attacker could learn from the time of the dictionary's lookup is about the digest, which they cannot steer.
        """
        digest = sha256(secret.encode("utf-8", "surrogateescape")).digest()
        expected, principal = self._principals.get(digest, _NOBODY)
        return principal if hmac.compare_digest(digest, expected) else None


_NOBODY: tuple[bytes, Principal | None] = (bytes(32), None)


def _by_digest(tokens: Iterable[Token]) -> dict[bytes, tuple[bytes, Principal | None]]:
    found: dict[bytes, tuple[bytes, Principal | None]] = {}
    for token in tokens:
        if not token.secret:
            raise ConfigError(f'Token "{token.name}" is empty.', remedy="Give it at least 16 random characters.")
        digest = sha256(token.secret.encode("utf-8", "surrogateescape")).digest()
        _, other = found.get(digest, _NOBODY)
        if other is not None:
            raise ConfigError(
                f'Tokens "{other.name}" and "{token.name}" have the same secret.', remedy="Give each its own."
            )
        found[digest] = (digest, Principal(token.name, token.role, token.application))
    return found
