"""From a secret as people hold it (`whsec_…`, hex, text) to the bytes of a key, and back for new ones."""

import binascii
import hashlib
import hmac
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from functools import partial
from textwrap import wrap
from typing import Protocol

from relay.contracts.fields import ENCODINGS
from relay.contracts.keypairs import PAIRS, Check, Sign

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----")


class KeyForm(Protocol):
    """How a contract writes keys."""

    @property
    def strip(self) -> str: ...
    @property
    def decode(self) -> str: ...
    @property
    def public(self) -> str: ...


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


def _from_pem(text: str) -> bytes:
    found = _PEM.fullmatch(text.strip())
    if found is None:
        raise ValueError("is no PEM file (-----BEGIN PRIVATE KEY----- …)")
    return _from_base64("".join(found[2].split()))


DECODERS: Mapping[str, Callable[[str], bytes]] = {
    "utf8": str.encode,
    "base64": _from_base64,
    "hex": _from_hex,
    "pem": _from_pem,
}


def decode_key(secret: str, prefix: str, decode: str) -> bytes:
    """Return the key's bytes; ValueError with the end of a sentence that begins "the secret …"."""
    return DECODERS[decode](secret.removeprefix(prefix))


def encode_key(key: bytes, prefix: str, decode: str, label: str = "PRIVATE KEY") -> str:
    """Write a key so that `decode_key` reads it; where secrets are text, the key is the text of its hex form."""
    if decode == "pem":
        lines = wrap(ENCODINGS["base64"](key).decode(), 64)
        return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----"])
    return prefix + ENCODINGS["base64" if decode == "base64" else "hex"](key).decode()


def is_public(secret: str, prefix: str) -> bool:
    """Whether a text is the public half of a key, as `public_half` writes it."""
    return secret.startswith("-----BEGIN PUBLIC KEY-----") or (prefix != "" and secret.startswith(prefix))


def public_half(algorithm: str, secret: str, key: "KeyForm") -> str | None:
    """Return what receivers verify with; None for an algorithm whose key both sides share."""
    pair = PAIRS.get(algorithm)
    if pair is None:
        return None
    return encode_key(
        pair.public_bytes(decode_key(secret, key.strip, key.decode)), key.public, key.decode, "PUBLIC KEY"
    )


def untidy(secret: str, *, lines: bool = False) -> str | None:
    """Say what makes a secret unlike anything a person meant to set, or return None; a file of several `lines` has ends."""
    if secret != secret.strip():
        return "has blanks or a line end around it; remove them"
    if not all(map(str.isprintable, secret.splitlines() if lines else [secret])):
        return "holds a control character; copy it again"
    return None


_HMAC_PADS = tuple(bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))


def _hmac(digest: str, key: bytes) -> Sign:
    """Sign by HMAC (RFC 2104). What of it is the key's alone is hashed once here; `hmac.digest` does so for every message."""
    block_bytes = hashlib.new(digest).block_size
    short = key if len(key) <= block_bytes else hashlib.new(digest, key).digest()
    padded = short.ljust(block_bytes, b"\0")
    inside, outside = (hashlib.new(digest, padded.translate(pad)) for pad in _HMAC_PADS)

    def sign(content: bytes) -> bytes:
        inner, outer = inside.copy(), outside.copy()
        inner.update(content)
        outer.update(inner.digest())
        return outer.digest()

    return sign


def _plain(digest: str, _key: bytes) -> Sign:
    return lambda content: hashlib.new(digest, content).digest()


def new_key(algorithm: str, random_bytes: Callable[[int], bytes], size_bytes: int) -> bytes:
    """Make a key of `size_bytes`; half of a pair has the size of its algorithm."""
    return PAIRS[algorithm].new(random_bytes) if algorithm in PAIRS else random_bytes(size_bytes)


PLAIN_DIGESTS = frozenset({"sha1", "sha256", "sha512"})

ALGORITHMS: Mapping[str, Callable[[bytes], Sign]] = {
    **{f"hmac-{digest}": partial(_hmac, digest) for digest in ("md5", "sha1", "sha256", "sha384", "sha512")},
    **{digest: partial(_plain, digest) for digest in sorted(PLAIN_DIGESTS)},
    **{name: pair.signs for name, pair in PAIRS.items()},
}
"""name → key → function that signs. ValueError if the key does not fit."""


def checks(algorithm: str, key: bytes, *, public: bool) -> Check:
    """Return what verifies signatures of a key, or of the public half of a pair; ValueError if it does not fit."""
    if algorithm in PAIRS:
        return PAIRS[algorithm].checks(key, public=public)
    if public:
        raise ValueError(f"is a public key, and {algorithm} has none")
    sign = ALGORITHMS[algorithm](key)
    return lambda content, signature: hmac.compare_digest(sign(content), signature)
