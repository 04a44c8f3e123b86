"""From a secret as people hold it (`whsec_…`, hex, text) to the bytes of a key, and back for new ones."""

import binascii
import hashlib
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import partial

from relay.contracts.fields import ENCODINGS

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


def _from_base64(text: str) -> bytes:
    """Take missing padding, as some of the official libraries do; take no other alphabet."""
    if not _BASE64.fullmatch(text):
        raise ValueError("is not base64 (A-Z a-z 0-9 + /, padded with =)")
    unpadded = text.rstrip("=")
    try:
        return b64decode(unpadded + "=" * (-len(unpadded) % 4))
    except binascii.Error:
        raise ValueError("is not base64: characters are missing at its end") from None


def _from_hex(text: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise ValueError("is not hexadecimal (pairs of 0-9 a-f)")
    return bytes.fromhex(text)


DECODERS: Mapping[str, Callable[[str], bytes]] = {"utf8": str.encode, "base64": _from_base64, "hex": _from_hex}


def decode_key(secret: str, prefix: str, decode: str) -> bytes:
    """Return the key's bytes; ValueError with the end of a sentence that begins "the secret …"."""
    return DECODERS[decode](secret.removeprefix(prefix))


def encode_key(key: bytes, prefix: str, decode: str) -> str:
    """Write a new key so that `decode_key` reads it; where secrets are text, the key is the text of its hex form."""
    return prefix + ENCODINGS["base64" if decode == "base64" else "hex"](key).decode()


def untidy(secret: str) -> str | None:
    """Say what makes a secret unlike anything a person meant to set, or return None."""
    if secret != secret.strip():
        return "has blanks or a line end around it; remove them"
    if not secret.isprintable():
        return "holds a control character; copy it again"
    return None


Sign = Callable[[bytes], bytes]

_SEED_BYTES = 32


def _hmac(digest: str, key: bytes) -> Sign:
    """Sign by HMAC (RFC 2104). What of it is the key's alone is hashed once here; `hmac.digest` does so for every message."""
    block_bytes = hashlib.new(digest).block_size
    short = key if len(key) <= block_bytes else hashlib.new(digest, key).digest()
    padded = short.ljust(block_bytes, b"\0")
    inside, outside = (hashlib.new(digest, bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))

    def sign(content: bytes) -> bytes:
        inner, outer = inside.copy(), outside.copy()
        inner.update(content)
        outer.update(inner.digest())
        return outer.digest()

    return sign


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
