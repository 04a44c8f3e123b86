"""Secrets at rest: texts of the database encrypted with AES-256-GCM, each bound to the place where it stands.

A sealed text is `sealed:KEY:BASE64`: the id of its key, then nonce and ciphertext. Its place (`secrets of endpoint ep_1`)
is authenticated with it, so that a text moved to another row does not open. Without any key texts stay as they are.
"""

import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

from relay.core.errors import CannotStart, ConfigError

# `cryptography` is imported when a text is sealed or opened: it takes 16 MiB, and most relays have no key.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MARK = "sealed:"
"""How a sealed text begins; what is kept in clear is JSON or a random seed, which do not."""

KEY_ID_CHARACTERS = 8
_NONCE_BYTES = 12

_KEYS_USED = f"""
    SELECT DISTINCT substr(kept, {len(MARK) + 1}, {KEY_ID_CHARACTERS}) FROM (
      SELECT secrets AS kept FROM endpoint UNION ALL SELECT definition FROM endpoint
      UNION ALL SELECT CAST(seed AS TEXT) FROM creation_record)
    WHERE substr(kept, 1, {len(MARK)}) = '{MARK}'"""


def key_id(key: bytes) -> str:
    """Return the name of a key, which says nothing about it."""
    return sha256(b"relay secrets key " + key).hexdigest()[:KEY_ID_CHARACTERS]


class Keyring:
    """The keys of a database, newest first: the newest seals, all of them open."""

    def __init__(self, keys: Sequence[bytes] = (), random_bytes: Callable[[int], bytes] | None = None) -> None:
        """Take keys of 32 bytes each, and what nonces are drawn from, which only a ring without keys does without."""
        self._keys = {key_id(key): key for key in keys}
        self._random_bytes = random_bytes

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, newest first."""
        return tuple(self._keys)

    @property
    def seal_mark(self) -> str:
        """How every text begins that is sealed with the newest key; without keys, nothing begins so."""
        return f"{MARK}{self.ids[0]}:" if self else MARK

    def seal(self, text: str, place: str) -> str:
        """Return what the database shall keep of a text."""
        if not self:
            return text
        assert self._random_bytes is not None, "keys come with random bytes"
        nonce = self._random_bytes(_NONCE_BYTES)
        # A lone surrogate, which JSON escapes can bring, must not be refused here.
        sealed = self._ciphers[self.ids[0]].encrypt(nonce, text.encode("utf-8", "surrogatepass"), place.encode())
        return self.seal_mark + b64encode(nonce + sealed).decode()

    def open(self, kept: str, place: str) -> str:
        """Return the text that the database keeps so; CannotStart for one that was changed or moved here."""
        if not kept.startswith(MARK):
            return kept
        name, _, content = kept.removeprefix(MARK).partition(":")
        if name not in self._keys:
            self.refuse_unknown([name])
        try:
            sealed = b64decode(content)
            text = self._ciphers[name].decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], place.encode())
        except Exception as error:  # its tag is wrong, or it is no base64
            raise CannotStart(
                f"The {place} cannot be decrypted with the key {name}: the row was changed, or moved from another one.",
                remedy="Restore a backup of the database.",
            ) from error
        return text.decode("utf-8", "surrogatepass")

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Raise ConfigError for keys by id that are not in the ring."""
        missing = sorted(set(names) - self._keys.keys())
        if missing:
            have = f"it has {', '.join(self.ids)}" if self else "it is not set"
            raise ConfigError(
                f"Secrets in the database are encrypted with the key {', '.join(missing)}, which is not in "
                f"storage.secrets_key ({have})",
                remedy="Put that key back into the list, behind newer ones. Nothing was changed.",
            )

    @cached_property
    def _ciphers(self) -> "dict[str, AESGCM]":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return {name: AESGCM(key) for name, key in self._keys.items()}


NO_KEYS = Keyring()


def refuse_unreadable(connection: sqlite3.Connection, keys: Keyring) -> None:
    """Raise ConfigError when something is sealed with a key that is not there; O(endpoints + idempotency records)."""
    keys.refuse_unknown([row[0] for row in connection.execute(_KEYS_USED)])
