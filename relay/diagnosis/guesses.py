"""What people get wrong about signatures, as things to try: other readings of the secret, the body, the encoding.

Each try comes with the sentence to say if it turns out to be what happened. The empty sentence is the right way.
"""

import json
from base64 import urlsafe_b64decode
from binascii import a2b_base64, a2b_hex
from collections.abc import Callable, Iterator, Mapping

from relay.contracts.document import Kind, Signature
from relay.contracts.fields import ENCODINGS
from relay.contracts.keypairs import PAIRS, Check
from relay.contracts.keys import DECODERS, checks, is_public

BODY_ALONE = "The signature covers the body alone; the contract signs {!r}."
_ADDED = "The body has lost or gained a line end since it was signed; send and verify the exact bytes."
_REWRITTEN = "Line ends in the body were rewritten (LF and CRLF) since it was signed."
_MARKED = "A byte order mark was put before the body since it was signed."
_SERIALISED = (
    "The body was parsed and serialised again since it was signed ({how}); "
    "verify the raw bytes of the request, before any JSON parser touches them."
)
_LAYOUTS: tuple[tuple[str, tuple[str, str], int | None], ...] = (
    ("what was signed has no blanks", (",", ":"), None),
    ("what was signed has blanks after commas and colons", (", ", ": "), None),
    ("what was signed is indented by 2", (",", ": "), 2),
    ("what was signed is indented by 4", (",", ": "), 4),
)


def key_readings(kind: Kind, secret: str) -> Iterator[tuple[str, Check]]:
    """Yield wrong ways to use a secret: to turn it into a key, or with another algorithm for the same key."""
    if kind.algorithm in PAIRS:
        yield from _pair_readings(kind, secret)
        return
    stripped = secret.removeprefix(kind.key.strip)
    right = f"the contract's key is {f'what follows {kind.key.strip}' if kind.key.strip else 'the whole secret'}"
    right += ", decoded from " + kind.key.decode if kind.key.decode != "utf8" else ", as text"
    for words, text, decode in (
        ("the whole secret as text", secret, "utf8"),
        ("the secret as text, without its prefix", stripped, "utf8"),
        ("the secret with a line end after it", secret + "\n", "utf8"),
        ("the secret decoded from base64", stripped, "base64"),
        ("the secret decoded from hex", stripped, "hex"),
    ):
        try:
            check = checks(kind.algorithm, DECODERS[decode](text), public=False)
        except ValueError:
            continue
        yield f"It was signed with {words}; {right}.", check


def _pair_readings(kind: Kind, secret: str) -> Iterator[tuple[str, Check]]:
    public = is_public(secret, kind.key.public)
    text = secret.removeprefix(kind.key.public if public else kind.key.strip)
    key = DECODERS["pem" if text.startswith("-----BEGIN ") else kind.key.decode](text)
    for algorithm in PAIRS:
        try:
            check = checks(algorithm, key, public=public)
        except ValueError:  # the key is none for it
            continue
        if algorithm != kind.algorithm:
            yield f"It was signed with {algorithm}; the contract signs with {kind.algorithm}.", check


def body_readings(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield bodies that this one may have been when it was signed."""
    yield _ADDED, body.rstrip(b"\r\n")
    yield _ADDED, body + b"\n"
    yield _ADDED, body + b"\r\n"
    yield _REWRITTEN, body.replace(b"\r\n", b"\n")
    yield _REWRITTEN, body.replace(b"\n", b"\r\n")
    yield _MARKED, body.removeprefix(b"\xef\xbb\xbf")
    yield from _serialised(body)


def _serialised(body: bytes) -> Iterator[tuple[str, bytes]]:
    try:
        parsed = json.loads(body)
        for how, separators, indent in _LAYOUTS:
            for ascii_only in (False, True):
                text = json.dumps(parsed, ensure_ascii=ascii_only, separators=separators, indent=indent)
                yield _SERIALISED.format(how=how), text.encode()
    except (ValueError, RecursionError):  # no JSON, or nothing that could be written back
        return


def decoded(encoding: str, text: bytes) -> bytes | None:
    """Return what a signature is, or None if the encoding does not write it so."""
    decode, encode = _WAYS[encoding]
    try:
        raw = decode(text)
    except ValueError:
        return None
    return raw if encode(raw) == text else None


def signature_readings(entry: Signature, text: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what a received signature may be: in the entry's encoding, then in wrong ones."""
    for name in (entry.encoding, *(name for name in _WAYS if name != entry.encoding)):
        raw = decoded(name, text)
        if raw is not None:
            yield "" if name == entry.encoding else _WRITTEN.get(name, _OTHERWISE).format(name, entry.encoding), raw


_OTHERWISE = "The signature is written in {}; the contract writes {}."
_WRITTEN = {
    "HEX": "The signature is written in upper-case hex.",
    "unpadded": "The signature has lost its padding (=).",
}

_WAYS: Mapping[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "hex": (a2b_hex, ENCODINGS["hex"]),
    "base64": (a2b_base64, ENCODINGS["base64"]),
    "base64url": (urlsafe_b64decode, ENCODINGS["base64url"]),
    "HEX": (a2b_hex, lambda raw: raw.hex().upper().encode()),
    "unpadded": (lambda text: a2b_base64(text + b"==="), lambda raw: ENCODINGS["base64"](raw).rstrip(b"=")),
}
"""How a signature is read and written by each encoding, and by what people make of them."""
