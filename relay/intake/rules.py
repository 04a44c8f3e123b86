"""What a contract says about an event: what is wrong with it, what is added to it, and the body that is frozen."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

from relay.contracts import Contract, Payload, Rendering, Unrenderable
from relay.core.frozen import Variant
from relay.core.issues import Issue
from relay.core.model import Application, Idempotency, KeyKind, Recall, Remembered, Validation
from relay.core.units import unix_ms
from relay.intake.parse import KEY_CHARACTERS_MAX, Posted

_DIGEST_BYTES = 16


def enforce(
    contract: Contract, validation: Validation, event_type: str, data: Payload, *, suggest: bool = True
) -> Sequence[Issue]:
    """Hold an event against the catalogue: a type of it, and data as that type's schema says.

    How strictly is the application's choice: what `strict` refuses, `warn` accepts with a warning, and `off` does not
    look at. A type of unlawful form is refused in any case. It may `suggest` which type was meant.
    """
    warns = validation is Validation.WARN
    fault = contract.check_type(event_type, suggest=suggest)
    if fault is not None:
        lawful = contract.check_form(event_type) is None
        if lawful and validation is Validation.OFF:
            return ()
        return (Issue("/type", fault, warning=lawful and warns),)
    if validation is Validation.OFF or event_type not in contract.types:
        return ()
    found = contract.check_data(event_type, data)
    return [replace(issue, path=in_data(issue.path), warning=warns) for issue in found]


def in_data(pointer: str) -> str:
    """Return the pointer into the request of a pointer into its `data`."""
    return "/data" + pointer.encode("utf-8", "backslashreplace").decode()  # no UTF-8 holds a lone surrogate


def misplaced(contract: Contract, posted: Posted) -> Iterator[Issue]:
    """Yield what of an event in the relay's own form its contract has no place for."""
    if posted.ordering_key is not None and contract.ordering == "none":
        yield Issue("/ordering_key", f'the contract "{contract.name}" keeps no order; leave ordering_key out')
    listed = contract.types.get(posted.type)
    if listed is not None and listed.test_only:
        sentence = f'"{posted.type}" is sent by tests only, to one endpoint: POST /v1/webhook-endpoints/{{id}}/test'
        yield Issue("/type", f"{sentence}, or relay endpoint test")


def freeze(contract: Contract, event: Rendering) -> bytes:
    """Make the body, whose bytes do not change from here on (invariant 6); Unrenderable for what it cannot carry."""
    try:
        return contract.render(event)
    except Unrenderable as error:
        (issue,) = error.issues
        path = in_data(issue.path) if error.room == "data" else f"/{error.room}{issue.path}"
        raise Unrenderable(replace(issue, path=path), lossy=error.lossy) from None


FAULT_CHARACTERS_MAX = 1_000
"""How much is kept of why a contract cannot write an event."""


def variants(others: Sequence[tuple[Contract, tuple[int, ...]]], event: Rendering) -> tuple[Variant, ...]:
    """Make the bodies for endpoints that have contracts of their own, and freeze them; one that cannot be made has a fault.

    What one endpoint's contract cannot write is no reason to refuse an event that others are owed.
    """
    return tuple(_variant(contract, targets, event) for contract, targets in others)


def variants_under(
    others: Sequence[tuple[Contract, tuple[int, ...]]], event: Rendering, event_id: str
) -> tuple[Variant, ...]:
    """Make them under another id."""
    return variants(others, event._replace(id=event_id))


def _variant(contract: Contract, targets: tuple[int, ...], event: Rendering) -> Variant:
    try:
        return Variant(contract.name, targets, freeze(contract, event))
    except Unrenderable as error:
        (issue,) = error.issues
        return Variant(contract.name, targets, b"", f"{issue.path} {issue.message}"[:FAULT_CHARACTERS_MAX])


def faults(frozen: Sequence[Variant]) -> list[Issue]:
    """Warn the producer of what some endpoints will not get."""
    return [
        Issue(
            "/data",
            f"the contract {variant.contract!r} of some endpoints cannot write it: {variant.fault}",
            warning=True,
        )
        for variant in frozen
        if variant.fault
    ]


class Rules(NamedTuple):
    """What holds for one event by its contract."""

    expires_at_ms: int | None = None  # when its links expire
    ordering_key: str | None = None
    order_strictly: bool = True
    filtered: str | None = None  # why it is not sent, whatever is remembered
    recall: Recall | None = None  # why it is not sent unless something is remembered
    remember: Remembered | None = None
    searchable: tuple[bytes, ...] = ()  # digests of the values by which it is found


NO_RULES = Rules()


def rules_for(
    contract: Contract, application: Application, posted: Posted, data: Payload, metadata: Payload | None, now_ms: int
) -> Rules:
    """Look up what the contract says about an event. What the producer says itself goes before all of it."""
    searchable = () if contract.searchable is None else contract.searchable.digests(data)
    if posted.type not in contract.types and contract.ordering == "none":
        return Rules(searchable=searchable) if searchable else NO_RULES
    filtered, recall = _condition(contract, application, posted.type, data, metadata)
    remembers = contract.remembers(posted.type, data, metadata)
    link_age_ms = contract.link_age_ms(posted.type)
    made_ms = now_ms if posted.timestamp is None else min(unix_ms(posted.timestamp), now_ms)
    return Rules(
        expires_at_ms=None if link_age_ms is None else made_ms + link_age_ms,
        ordering_key=_ordering_key(contract, posted, data),
        order_strictly=contract.ordering == "strict",
        filtered=filtered,
        recall=recall,
        remember=None if remembers is None else Remembered(bounded(remembers[0]), remembers[1]),
        searchable=searchable,
    )


def idempotency(contract: Contract, application: Application, posted: Posted, data: Payload) -> Idempotency | None:
    """Return what makes a repetition of this event one (Q8).

    That is the key that the producer gave, else what it says identifies the event, else what the contract's template makes.
    """
    may_differ = False
    if posted.idempotency_key is not None:
        kind, key = KeyKind.GIVEN, b"key\0" + posted.idempotency_key.encode()
    elif (identity := posted.identity) is not None:
        kind, key = KeyKind.ID, identity
    else:
        made = contract.idempotency_key(posted.type, data)
        if made is None:
            return None
        kind, key = KeyKind.DERIVED, b"derived\0" + made.encode()
        may_differ = contract.idempotency_differs == "duplicate"
    aimed = (name.encode() for name in sorted({*posted.endpoints})) if posted.endpoints else ()
    fingerprint = b"\0".join((application.id.encode(), posted.type.encode(), contract.normalised(data), *aimed))
    return Idempotency(_digest(key), _digest(fingerprint), kind, may_differ)


def keys_of(text: str) -> tuple[bytes, bytes]:
    """Return what a key is kept as, whether a producer gave it or a contract's template made it."""
    return _digest(b"key\0" + text.encode()), _digest(b"derived\0" + text.encode())


def bounded(key: str) -> str:
    """Return a key that is not longer than a producer's own may be: a digest stands for a longer one."""
    return key if len(key) <= KEY_CHARACTERS_MAX else f"blake2b:{_digest(key.encode()).hex()}"


def _condition(
    contract: Contract, application: Application, event_type: str, data: Payload, metadata: Payload | None
) -> tuple[str | None, Recall | None]:
    """Decide what can be decided here; what hangs on the memory alone is decided when the event is stored."""
    filtered = contract.condition(event_type, data, metadata, application.features, {})
    key = None if filtered is None else contract.recalls(event_type, data)
    if filtered is None or key is None:
        return filtered, None
    if contract.condition(event_type, data, metadata, application.features, {key: "something"}) is not None:
        return filtered, None
    return None, Recall(bounded(key), filtered)


def _ordering_key(contract: Contract, posted: Posted, data: Payload) -> str | None:
    if posted.ordering_key is not None or contract.ordering == "none":
        return posted.ordering_key
    key = contract.ordering_key(posted.type, data)
    return None if key is None else bounded(key)


def _digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=_DIGEST_BYTES).digest()
