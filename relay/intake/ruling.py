"""What a contract adds to an event: when it expires, what it follows, what makes it a repetition, whether it is sent."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from relay.core.model import Application, Idempotency, Recall, Remembered
from relay.intake.neighbours import Contract
from relay.intake.submission import KEY_CHARACTERS_MAX, Submission, given_bytes

_DIGEST_BYTES = 16


class Rules(NamedTuple):
    """What holds for one event by its contract."""

    expires_at_ms: int | None = None  # when its links expire
    ordering_key: str | None = None
    order_strictly: bool = True
    held_back: str | None = None  # why it is not sent, whatever is remembered
    recall: Recall | None = None  # why it is not sent unless something is remembered
    remember: Remembered | None = None


NO_RULES = Rules()


def rules_for(contract: Contract, application: Application, posted: Submission, data: bytes, now_ms: int) -> Rules:
    """Look up what the contract says about an event. What the producer says itself goes before all of it."""
    if posted.type not in contract.types and contract.ordering == "none":
        return NO_RULES
    metadata = _mapping(given_bytes(posted.metadata))
    held_back, recall = _condition(contract, application, posted.type, data, metadata)
    remembers = contract.remembers(posted.type, data, metadata)
    link_age_ms = contract.link_age_ms(posted.type)
    return Rules(
        expires_at_ms=None if link_age_ms is None else now_ms + link_age_ms,
        ordering_key=_ordering_key(contract, posted, data),
        order_strictly=contract.ordering == "strict",
        held_back=held_back,
        recall=recall,
        remember=None if remembers is None else Remembered(bounded(remembers[0]), remembers[1]),
    )


def claim(contract: Contract, application: Application, posted: Submission, data: bytes) -> Idempotency | None:
    """Return what makes a repetition of this event one (Q8).

    That is the key that the producer gave, else the id that it chose, else what the contract's template makes.
    """
    derived = False
    if posted.idempotency_key is not None:
        key = b"key\0" + posted.idempotency_key.encode()
    elif posted.id is not None:
        key = b"id\0" + posted.id.encode()
    else:
        made = contract.idempotency_key(posted.type, data)
        if made is None:
            return None
        key = b"derived\0" + made.encode()
        derived = contract.idempotency_differs == "duplicate"
    fingerprint = b"\0".join((application.id.encode(), posted.type.encode(), data))
    return Idempotency(_digest(key), _digest(fingerprint), derived)


def bounded(key: str) -> str:
    """Return a key that is not longer than a producer's own may be: a digest stands for a longer one."""
    return key if len(key) <= KEY_CHARACTERS_MAX else f"blake2b:{_digest(key.encode()).hex()}"


def _condition(
    contract: Contract, application: Application, event_type: str, data: bytes, metadata: Mapping[str, Any]
) -> tuple[str | None, Recall | None]:
    """Decide what can be decided here; what hangs on the memory alone is decided when the event is stored."""
    held_back = contract.condition(event_type, data, metadata, application.features, {})
    key = None if held_back is None else contract.recalls(event_type, data)
    if held_back is None or key is None:
        return held_back, None
    if contract.condition(event_type, data, metadata, application.features, {key: "something"}) is not None:
        return held_back, None
    return None, Recall(bounded(key), held_back)


def _ordering_key(contract: Contract, posted: Submission, data: bytes) -> str | None:
    if posted.ordering_key is not None or contract.ordering == "none":
        return posted.ordering_key
    key = contract.ordering_key(posted.type, data)
    return None if key is None else bounded(key)


def _mapping(metadata: bytes | None) -> Mapping[str, Any]:
    found: Mapping[str, Any] = {} if metadata is None else msgspec.json.decode(metadata)
    return found


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=_DIGEST_BYTES).digest()
