"""Finds who is behind a token. Tokens are remembered as SHA-256 digests only."""

import hmac
import sys
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import NamedTuple

from relay.config import Config
from relay.core.access import Pace, Principal, Role, Token
from relay.core.errors import ConfigError


class Known(NamedTuple):
    """What is remembered of one token."""

    digest: bytes
    principal: Principal | None
    expires_at_ms: int | None = None


class TokenTable:
    """Finds the principal behind a token. Owner of the digests.

    Two kinds are told apart: those of the configuration, which a reload replaces all at once, and the keys of
    applications, which come and go one by one. Without `wall_ms` every key that expires counts as expired.
    """

    def __init__(self, tokens: Iterable[Token] = (), wall_ms: Callable[[], int] = lambda: sys.maxsize) -> None:
        self._wall_ms = wall_ms
        self._configured = _by_digest(tokens)
        self._keys: dict[bytes, Known] = {}

    def replace(self, tokens: Iterable[Token]) -> None:
        """Take `tokens` instead of all earlier ones, or raise ConfigError and change nothing. Keys stay."""
        self._configured = _by_digest(tokens)

    def admit(self, digest: bytes, principal: Principal, expires_at_ms: int | None) -> None:
        """Take a key from now on, until it expires."""
        self._keys[digest] = Known(digest, principal, expires_at_ms)

    def dismiss(self, digest: bytes) -> None:
        """Take a key no longer."""
        self._keys.pop(digest, None)

    def dismiss_all(self) -> None:
        """Take no key any longer."""
        self._keys.clear()

    def find(self, secret: str) -> Principal | None:
        """Return whose token this is; a missing token (`""`) takes the same path as a wrong one.

        What an attacker could learn from the time of the dictionary's lookup is about the digest, which they cannot steer.
        """
        digest = digest_of(secret)
        known = self._configured.get(digest) or self._keys.get(digest) or _NOBODY
        if not hmac.compare_digest(digest, known.digest):
            return None
        expired = known.expires_at_ms is not None and known.expires_at_ms <= self._wall_ms()
        return None if expired else known.principal


def tokens_of(config: Config) -> list[Token]:
    """Return the tokens of a configuration, each with the rates that hold for it."""
    return [
        Token(
            token.name,
            Role(token.role),
            token.application,
            token.secret.get_secret_value(),
            Pace.of(*token.paces(config.limits)),
        )
        for token in config.tokens
    ]


def digest_of(secret: str) -> bytes:
    """Return what is remembered of a token: its SHA-256. Tokens are long and random, so nothing slower is needed."""
    return sha256(secret.encode("utf-8", "surrogateescape")).digest()


_NOBODY = Known(bytes(32), None)


def _by_digest(tokens: Iterable[Token]) -> dict[bytes, Known]:
    found: dict[bytes, Known] = {}
    for token in tokens:
        if not token.secret:
            raise ConfigError(f'Token "{token.name}" is empty.', remedy="Give it at least 16 random characters.")
        digest = digest_of(token.secret)
        other = found.get(digest, _NOBODY).principal
        if other is not None:
            raise ConfigError(
                f'Tokens "{other.name}" and "{token.name}" have the same secret.', remedy="Give each its own."
            )
        found[digest] = Known(digest, Principal(token.name, token.role, token.application, token.pace))
    return found
