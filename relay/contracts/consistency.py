"""What the keys of a contract ask of each other: whatever is written down must act, and must be able to."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from relay.contracts.document import ContractDocument, ListedType
from relay.contracts.envelope import Envelope, Unrenderable
from relay.contracts.event_type import TYPE_CHARACTERS, test_data
from relay.contracts.fields import Rendering
from relay.contracts.payload import Payload
from relay.contracts.problems import KeyPath
from relay.core import grammars

_FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SAMPLE_FACTS = {"endpoint_id": "ep_1", "application_id": "app_1"}


class Finding(NamedTuple):
    """One mistake in an otherwise sound document."""

    key: KeyPath
    message: str
    remedy: str


def findings(document: ContractDocument) -> Iterator[Finding]:
    """Yield every mistake that shows only when several keys are seen together."""
    for rule in _RULES:
        yield from rule(document)


def _names(document: ContractDocument) -> Iterator[Finding]:
    if document.types.catalogue == "closed" and not document.type:
        yield Finding(("type",), "a closed catalogue lists its event types", 'Add tables such as [type."order.paid"].')
    for name in document.type:
        wrong = grammars.check_type(name, document.types.grammar, document.types.description)
        if wrong or not TYPE_CHARACTERS.fullmatch(name):
            remedy = f"Rename it, or change types.grammar ({document.types.description})."
            yield Finding(("type", name), "is no event type", remedy)


def _succession(document: ContractDocument) -> Iterator[Finding]:
    for name, listed in document.type.items():
        if listed.replaced_by is None:
            continue
        key = ("type", name, "replaced_by")
        if not listed.deprecated:
            yield Finding(key, "only a deprecated type is replaced", "Add deprecated = true, or remove it.")
        if listed.replaced_by not in document.type:
            yield Finding(key, f"there is no type {listed.replaced_by!r}", "Name one that the contract lists.")


def _tests(document: ContractDocument) -> Iterator[Finding]:
    tests = [name for name, listed in document.type.items() if listed.test is not None]
    for name in tests[1:]:
        remedy = "Keep one type with `test`."
        yield Finding(("type", name, "test"), f"{tests[0]!r} is the contract's test event already", remedy)


def _links(document: ContractDocument) -> Iterator[Finding]:
    linked = [name for name, listed in document.type.items() if listed.links]
    age = document.delivery.link_age
    if linked and age is None:
        remedy = 'Set delivery.link_age, such as "23h".'
        yield Finding(("type", linked[0], "links"), "nothing says how long the links work", remedy)
    if not linked and age is not None:
        yield Finding(("delivery", "link_age"), "no event type has links", "Add links = true to those, or remove it.")


def _features(document: ContractDocument) -> Iterator[Finding]:
    for name in document.features:
        if not _FEATURE.fullmatch(name):
            yield Finding(("features", name), "is no name of a feature", "Use letters, digits, - and _.")
        if not any(listed.feature == name for listed in document.type.values()):
            remedy = f'Add feature = "{name}" to those types, or remove it.'
            yield Finding(("features", name), "no event type asks for this feature", remedy)
    for name, listed in document.type.items():
        if listed.feature is not None and listed.feature not in document.features:
            remedy = f'Add {listed.feature} = "what it is" to [features].'
            yield Finding(("type", name, "feature"), f"there is no feature {listed.feature!r}", remedy)


def _memories(document: ContractDocument) -> Iterator[Finding]:
    recalling = [name for name, listed in document.type.items() if _recalls(listed)]
    if document.memory is None:
        for name in recalling:
            yield Finding(("type", name, "needs"), "{memory} is empty for ever", "Add [memory].")
        return
    if not recalling:
        yield Finding(("memory",), "no event type needs it", 'Put "{memory}" in the `needs` of one, or remove it.')
    for index, name in enumerate(document.memory.types):
        if name not in document.type:
            yield Finding(("memory", "types", index), f"there is no type {name!r}", "Name one that the contract lists.")


def _recalls(listed: ListedType) -> bool:
    return any("memory" in need.variables for need in listed.needs)


def _keys(document: ContractDocument) -> Iterator[Finding]:
    if document.ordering.mode == "none" and document.ordering.key is not None:
        remedy = 'Set ordering.mode to "first-attempt" or "strict", or remove it.'
        yield Finding(("ordering", "key"), 'with mode "none" nothing is ordered', remedy)
    shared = document.idempotency.key
    own = [listed.idempotency_key for listed in document.type.values()]
    if "differs" in document.idempotency.model_fields_set and shared is None and not any(own):
        yield Finding(("idempotency", "differs"), "there is no key that events could share", "Set key, or remove it.")
    for name, listed in document.type.items():
        if listed.idempotency_key is False and shared is None:
            key = ("type", name, "idempotency_key")
            yield Finding(key, "there is no key to switch off", "Remove it, or set idempotency.key.")


def _extra_members(document: ContractDocument) -> Iterator[Finding]:
    checked = any(listed.data_schema is not None for listed in document.type.values())
    if "extra_members" in document.types.model_fields_set and not checked:
        yield Finding(("types", "extra_members"), "no event type has a schema", "Add schemas, or remove it.")


def _examples(document: ContractDocument) -> Iterator[Finding]:
    for name, listed in document.type.items():
        yield from _samples(document, name, "example", listed.example)
        if listed.test is not None:
            yield from _samples(document, name, "test", test_data(listed.test, _SAMPLE_FACTS))


def _samples(document: ContractDocument, name: str, key: str, text: bytes) -> Iterator[Finding]:
    data = Payload(text)
    place: KeyPath = ("type", name, key)
    allow_extra = document.types.extra_members == "allow"
    faults = listed_faults(document.type[name], data, allow_extra=allow_extra)
    try:
        Envelope(document.body).render(Rendering("evt_1", name, 0, 0, data))
    except Unrenderable as error:
        faults += [(issue.path, issue.message) for issue in error.issues]
    for pointer, sentence in faults:
        yield Finding(place, f"at {pointer}: {sentence}" if pointer else sentence, "Mend it, or the schema.")


def listed_faults(listed: ListedType, data: Payload, *, allow_extra: bool) -> list[tuple[str, str]]:
    if listed.data_schema is None:
        return []
    return [(fault.pointer, fault.sentence) for fault in listed.data_schema.faults(data, allow_extra=allow_extra)]


_RULES: tuple[Callable[[ContractDocument], Iterator[Finding]], ...] = (
    _names,
    _succession,
    _tests,
    _links,
    _features,
    _memories,
    _keys,
    _extra_members,
    _examples,
)
