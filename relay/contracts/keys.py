"""From a secret as people hold it (`whsec_…`, hex, text) to the bytes of a key, and back for new ones."""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Mapping

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
