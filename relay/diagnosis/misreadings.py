"""How receivers misread a contract: the deliveries that such a receiver would take for right.

A receiver that refuses what is right usually does one of a few things. It is sent what would be right then; what it accepts
says which of them it is.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from relay.contracts.contract import Contract
from relay.contracts.document import Key, Signature
from relay.contracts.fields import ENCODINGS
from relay.contracts.template import Template, shape
from relay.core.errors import ConfigError
from relay.diagnosis.specimen import Sent, Specimen

_LAYOUTS: tuple[tuple[str, Callable[[object], str]], ...] = (
    ("without blanks", lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))),
    ("with blanks after commas and colons", lambda value: json.dumps(value, ensure_ascii=False)),
    ("with escapes for all but ASCII", json.dumps),
)


class Misreading(NamedTuple):
    """What a receiver may be doing, and a delivery that is right to one that does."""

    says: str
    make: Callable[[int], Sent]


def misreadings(of: Specimen) -> Iterator[Misreading]:
    """Yield those that make a difference under the contract of a specimen; the commonest first."""
    right = of.delivery(0, id=of.id)
    for says, variant in _variants(of.contract):
        misread = replace(of, contract=variant)
        try:
            differs = misread.delivery(0, id=of.id) != right
        except ConfigError:  # this secret cannot be read that way
            continue
        if differs:
            yield Misreading(says, misread.delivery)
    yield from _rewritten(of, right)


def _variants(contract: Contract) -> Iterator[tuple[str, Contract]]:
    """Yield what receivers take the contract for, as contracts."""
    for number, entry in enumerate(contract.document.signature):
        for says, changed in _readings(entry):
            entries = list(contract.document.signature)
            entries[number] = changed
            document = contract.document.model_copy(update={"signature": tuple(entries)})
            yield says, Contract(contract.name, document)


def _readings(entry: Signature) -> Iterator[tuple[str, Signature]]:
    strip, what = entry.key.strip, _key_in_words(entry.key)
    for says, key in (
        ("the whole secret as text", Key(strip="", decode="utf8")),
        ("the secret as text, without its prefix", Key(strip=strip, decode="utf8")),
        ("the secret decoded from base64", Key(strip=strip, decode="base64")),
        ("the secret decoded from hex", Key(strip=strip, decode="hex")),
    ):
        yield f"It takes {says} for its key; the contract's is {what}.", entry.model_copy(update={"key": key})
    alone = entry.model_copy(update={"content": Template(("body",))})
    yield f"It verifies the body alone; the contract signs {shape(entry.content)!r}.", alone
    for encoding in ENCODINGS:
        says = f"It expects a signature in {encoding}; the contract writes {entry.encoding}."
        yield says, entry.model_copy(update={"encoding": encoding})


def _key_in_words(key: Key) -> str:
    words = f"what follows {key.strip}" if key.strip else "the whole secret"
    return f"{words}, " + ("as text" if key.decode == "utf8" else f"decoded from {key.decode}")


def _rewritten(of: Specimen, right: Sent) -> Iterator[Misreading]:
    """Yield signatures of the body as a JSON library writes it: a receiver that parses first verifies such a one."""
    try:
        parsed = json.loads(right.body)
    except ValueError:
        return
    for how, write in _LAYOUTS:
        if write(parsed).encode() != right.body:
            says = f"It verifies JSON that it has parsed and written anew ({how}): verify the bytes that arrived."
            yield Misreading(says, partial(_signed_anew, of, write))


def _signed_anew(of: Specimen, write: Callable[[object], str], now_ms: int) -> Sent:
    return of.delivery(now_ms, signed=lambda body: write(json.loads(body)).encode())
