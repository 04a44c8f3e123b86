"""What people get wrong about signatures, as things to try: other readings of the secret, the body, the encoding.

Each try comes with the sentence to say if it turns out to be what happened. The empty sentence is the right way.
"""

import json
from collections.abc import Callable, Iterator

from relay.contracts.document import Kind, Signature
from relay.contracts.fields import ENCODINGS
from relay.contracts.keys import ALGORITHMS, DECODERS, Sign

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


def key_readings(kind: Kind, secret: str) -> Iterator[tuple[str, Sign]]:
    """Yield wrong ways to turn a secret into a key."""
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
            sign = ALGORITHMS[kind.algorithm](DECODERS[decode](text))
        except ValueError:
            continue
        yield f"It was signed with {words}; {right}.", sign


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


def encodings(entry: Signature) -> Iterator[tuple[str, Callable[[bytes], bytes]]]:
    """Yield the entry's way to write a signature, then wrong ones."""
    yield "", ENCODINGS[entry.encoding]
    for name in ENCODINGS:
        if name != entry.encoding:
            yield f"The signature is written in {name}; the contract writes {entry.encoding}.", ENCODINGS[name]
    yield "The signature is written in upper-case hex.", lambda raw: raw.hex().upper().encode()
    yield "The signature has lost its padding (=).", lambda raw: ENCODINGS["base64"](raw).rstrip(b"=")
