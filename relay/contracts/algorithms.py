"""Signature algorithms by name. Each makes, from a key, the function that signs."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from functools import partial

Sign = Callable[[bytes], bytes]

_SEED_BYTES = 32


def _hmac(digest: str, key: bytes) -> Sign:
    return lambda content: hmac.digest(key, content, digest)


def _plain(digest: str, _key: bytes) -> Sign:
    return lambda content: hashlib.new(digest, content).digest()


def _ed25519(key: bytes) -> Sign:
    """Take a seed, or a seed and the public key that belongs to it (the form of `whsk_`)."""
    # Few contracts sign this way, and the import takes longer than all others of this package together.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(key) not in (_SEED_BYTES, 2 * _SEED_BYTES):
        raise ValueError(f"has {len(key)} bytes; an ed25519 key has 32, or 64 with its public half")
    private = Ed25519PrivateKey.from_private_bytes(key[:_SEED_BYTES])
    if key[_SEED_BYTES:] not in (b"", private.public_key().public_bytes_raw()):
        raise ValueError("is no ed25519 pair: its public half does not belong to its private half")
    return private.sign


def new_key(algorithm: str, random_bytes: Callable[[int], bytes], size_bytes: int) -> bytes:
    """Make a key of `size_bytes`; an ed25519 key is always a seed and its public half."""
    if algorithm != "ed25519":
        return random_bytes(size_bytes)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = random_bytes(_SEED_BYTES)
    return seed + Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


PLAIN_DIGESTS = frozenset({"sha1", "sha256", "sha512"})

ALGORITHMS: Mapping[str, Callable[[bytes], Sign]] = {
    **{f"hmac-{digest}": partial(_hmac, digest) for digest in ("md5", "sha1", "sha256", "sha384", "sha512")},
    **{digest: partial(_plain, digest) for digest in sorted(PLAIN_DIGESTS)},
    "ed25519": _ed25519,
}
"""name → key → function that signs. ValueError if the key does not fit."""
