"""What can be wrong with a contract file, in words: single keys, and what the keys ask of each other.

Whatever is written down must act, and must be able to. The path of an issue is the key as TOML names it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from relay.contracts import as_json
from relay.contracts.body import facts_of, gaps_of
from relay.contracts.document import TYPE_CHARACTERS, ContractDocument, EventType
from relay.contracts.envelope import Envelope
from relay.contracts.facts import INNER, Fact, Unrenderable
from relay.contracts.fields import Rendering
from relay.contracts.keypairs import PAIRS
from relay.contracts.payload import Payload
from relay.contracts.signing import header_variables, inner_variables
from relay.contracts.template import Lookup
from relay.core import grammars
from relay.core.errors import ConfigError
from relay.core.issues import Issue, did_you_mean

KeyPath = tuple[int | str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED = re.compile(r"'([^']*)'")
_FEATURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_SAMPLE_FACTS = {"endpoint_id": "ep_1", "application_id": "app_1"}


class ContractError(ConfigError):
    """Contract files cannot be used; `issues` lists every mistake in every file."""

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(map(line, self.issues)))


def line(issue: Issue) -> str:
    """Write an issue as the command line shows it."""
    where = f"{issue.place}: {issue.path}" if issue.path else issue.place
    return f"{where}: {issue.message}. {issue.remedy}".strip()


def issue_at(key: KeyPath, message: str, remedy: str) -> Issue:
    """Make the issue about one key of a file."""
    return Issue(key_path(key), message, remedy)


def key_path(location: KeyPath) -> str:
    """Write a place in a file as TOML would name it."""
    path = ""
    for step in location:
        if step == "[key]":  # pydantic's mark for "the key itself, not its value"
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step if _BARE.fullmatch(step) else json.dumps(step)}"
    return path.removeprefix(".")


def issues_of(invalid: ValidationError) -> Iterator[Issue]:
    """Say what the model found, in our words."""
    for error in invalid.errors(include_url=False):
        yield issue_at(error["loc"], *_words(error))


_WORDS = {
    "missing": ("is missing", "Add it."),
    "tuple_type": ("must be a list", "Write [ … ], or [[ … ]] around the name of a table."),
    "model_type": ("must be a table", "Write { … }, or [ … ] around its name."),
    "dict_type": ("must be a table", "Write { … }, or [ … ] around its name."),
    "string_type": ("must be text", "Write it in quotes."),
    "too_short": ("is empty", "Put something in it, or remove it."),
}
"""What pydantic's own kinds of mistakes are called here, and what to do about them."""


def _words(error: Any) -> tuple[str, str]:
    """Return what is wrong and what to do."""
    kind = error["type"]
    if kind == "contract":
        return error["msg"], error["ctx"]["remedy"]
    if kind == "extra_forbidden":
        return "unknown key", _known_keys(error["loc"])
    if kind == "literal_error":
        return (
            f"{error['input']!r} is not supported",
            f"Use one of: {', '.join(_QUOTED.findall(error['ctx']['expected']))}.",
        )
    return _WORDS.get(kind, (error["msg"][:1].lower() + error["msg"][1:], "Change the value."))


def _known_keys(location: KeyPath) -> str:
    known = list(_keys_of(_model_at(location[:-1])))
    return did_you_mean(str(location[-1]), known) or f"Remove it; known here: {', '.join(known)}."


def _model_at(location: KeyPath) -> type[BaseModel]:
    annotation: Any = ContractDocument
    for step in location:
        if isinstance(step, int):
            continue
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            continue
        annotation = _keys_of(_model_in(annotation))[step]
    return _model_in(annotation)


def _keys_of(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel]:
    """Find the model in `Model`, `Model | None`, `tuple[Model, ...]` or `dict[str, Model]`."""
    candidates = (annotation, *get_args(annotation))
    return next(found for found in candidates if isinstance(found, type) and issubclass(found, BaseModel))


# -- what the keys ask of each other ------------------------------------------------------------------------------------


def inconsistencies(document: ContractDocument) -> Iterator[Issue]:
    """Yield every mistake that shows only when several keys are seen together."""
    for rule in _RULES:
        yield from rule(document)


def _names(document: ContractDocument) -> Iterator[Issue]:
    if document.types.catalogue == "closed" and not document.type:
        yield issue_at(("type",), "a closed catalogue lists its event types", 'Add tables such as [type."order.paid"].')
    for name in document.type:
        wrong = grammars.check_type(name, document.types.grammar, document.types.description)
        if wrong or not TYPE_CHARACTERS.fullmatch(name):
            remedy = f"Rename it, or change types.grammar ({document.types.description})."
            yield issue_at(("type", name), "is no event type", remedy)


def _succession(document: ContractDocument) -> Iterator[Issue]:
    for name, listed in document.type.items():
        if listed.replaced_by is None:
            continue
        key = ("type", name, "replaced_by")
        if not listed.deprecated:
            yield issue_at(key, "only a deprecated type is replaced", "Add deprecated = true, or remove it.")
        if listed.replaced_by not in document.type:
            yield issue_at(key, f"there is no type {listed.replaced_by!r}", "Name one that the contract lists.")


def _tests(document: ContractDocument) -> Iterator[Issue]:
    tests = [name for name, listed in document.type.items() if listed.test is not None]
    for name in tests[1:]:
        remedy = "Keep one type with `test`."
        yield issue_at(("type", name, "test"), f"{tests[0]!r} is the contract's test event already", remedy)


def _links(document: ContractDocument) -> Iterator[Issue]:
    linked = [name for name, listed in document.type.items() if listed.links]
    age = document.delivery.link_age
    if linked and age is None:
        remedy = 'Set delivery.link_age, such as "23h".'
        yield issue_at(("type", linked[0], "links"), "nothing says how long the links work", remedy)
    if not linked and age is not None:
        yield issue_at(("delivery", "link_age"), "no event type has links", "Add links = true to those, or remove it.")


def _features(document: ContractDocument) -> Iterator[Issue]:
    for name in document.features:
        if not _FEATURE.fullmatch(name):
            yield issue_at(("features", name), "is no name of a feature", "Use letters, digits, - and _.")
        if not any(listed.feature == name for listed in document.type.values()):
            remedy = f'Add feature = "{name}" to those types, or remove it.'
            yield issue_at(("features", name), "no event type asks for this feature", remedy)
    for name, listed in document.type.items():
        if listed.feature is not None and listed.feature not in document.features:
            remedy = f'Add {listed.feature} = "what it is" to [features].'
            yield issue_at(("type", name, "feature"), f"there is no feature {listed.feature!r}", remedy)


def _memories(document: ContractDocument) -> Iterator[Issue]:
    recalling = [name for name, listed in document.type.items() if listed.recalls]
    if document.memory is None:
        for name in recalling:
            yield issue_at(("type", name, "needs"), "{memory} is empty for ever", "Add [memory].")
        return
    if not recalling:
        yield issue_at(("memory",), "no event type needs it", 'Put "{memory}" in the `needs` of one, or remove it.')
    for index, name in enumerate(document.memory.types):
        if name not in document.type:
            yield issue_at(
                ("memory", "types", index), f"there is no type {name!r}", "Name one that the contract lists."
            )


def _keys(document: ContractDocument) -> Iterator[Issue]:
    if document.ordering.mode == "none" and document.ordering.key is not None:
        remedy = 'Set ordering.mode to "first-attempt" or "strict", or remove it.'
        yield issue_at(("ordering", "key"), 'with mode "none" nothing is ordered', remedy)
    shared = document.idempotency.key
    own = [listed.idempotency_key for listed in document.type.values()]
    if "differs" in document.idempotency.model_fields_set and shared is None and not any(own):
        yield issue_at(("idempotency", "differs"), "there is no key that events could share", "Set key, or remove it.")
    for name, listed in document.type.items():
        if listed.idempotency_key is False and shared is None and document.extends is None:
            key = ("type", name, "idempotency_key")
            yield issue_at(key, "there is no key to switch off", "Remove it, or set idempotency.key.")


def _lookups(document: ContractDocument) -> Iterator[Issue]:
    """Yield what is looked up in data that can never hold it, as their schemas say."""
    if document.types.extra_members == "allow":
        return
    remedy = "Name a member that its schema has."
    for name, listed in document.type.items():
        if listed.idempotency_key:
            yield from _missing(listed, listed.idempotency_key, ("type", name, "idempotency_key"), name, remedy)
        for index, need in enumerate(listed.needs):
            yield from _missing(listed, need, ("type", name, "needs", index), name, remedy)
    for key, lookup, names, other in _shared_lookups(document):
        for name in names:
            yield from _missing(document.type[name], lookup, key, name, other or remedy)
    ordering = document.ordering.key
    closed = document.types.catalogue == "closed"
    if ordering is not None and closed and all(_lacks(listed, ordering) for listed in document.type.values()):
        yield issue_at(("ordering", "key"), f"no event type has {ordering} in its data", "Name a member that one has.")


def _searchable(document: ContractDocument) -> Iterator[Issue]:
    """Yield places to search by that stand there twice, or that no event can have."""
    closed = document.types.catalogue == "closed" and document.types.extra_members == "refuse"
    for index, place in enumerate(document.searchable):
        if place in document.searchable[:index]:
            yield issue_at(("searchable", index), f"{place!r} stands here twice", "Remove one of them.")
        elif closed and not any(
            _has(listed, Fact("data", tuple(place.split(".")))) for listed in document.type.values()
        ):
            message = f"no event type has {place} in its data"
            yield issue_at(("searchable", index), message, "Name a member that a schema has.")


def _optional_members(document: ContractDocument) -> Iterator[Issue]:
    """Yield members that would always be left out; what a member needs in any case, its examples show."""
    if document.types.extra_members == "allow" or document.types.catalogue == "open":
        return
    for index, member in enumerate(document.body.members):
        for fact in facts_of(member.node):
            if (
                member.optional
                and fact.room == "data"
                and not any(_has(listed, fact) for listed in document.type.values())
            ):
                message = f"the data of no event type hold {{{'.'.join(('data', *fact.steps))}}}"
                yield issue_at(("body", "members", index), message, "Name a member that a schema has.")


def _has(listed: EventType, fact: Fact) -> bool:
    return listed.data_schema is None or listed.data_schema.may_have(fact.steps)


def _shared_lookups(document: ContractDocument) -> Iterator[tuple[KeyPath, Lookup, Iterable[str], str]]:
    """Yield the lookups that several types share: their keys, the types, and the remedy where it is another."""
    shared, memory = document.idempotency.key, document.memory
    if shared is not None:
        names = [
            name for name, listed in document.type.items() if listed.idempotency_key is None and not listed.test_only
        ]
        other = "Name a member that its schema has, or set idempotency_key = false for that type."
        yield ("idempotency", "key"), shared, names, other
    if memory is not None:
        said = [name for name in memory.types if name in document.type]
        yield ("memory", "key"), memory.key, [*said, *(n for n, listed in document.type.items() if listed.recalls)], ""
        yield ("memory", "value"), memory.value, said, ""


def _missing(listed: EventType, lookup: Lookup, key: KeyPath, name: str, remedy: str) -> Iterator[Issue]:
    if _lacks(listed, lookup):
        yield issue_at(key, f"the data of {name!r} never hold {lookup}", remedy)


def _lacks(listed: EventType, lookup: Lookup) -> bool:
    """Whether the data of a type can never hold all that is looked up in them."""
    if listed.data_schema is None:
        return False
    paths = (variable.split(".")[1:] for variable in lookup.variables if variable.startswith("data."))
    return not all(listed.data_schema.may_hold(path) for path in paths)


def _inner_signatures(document: ContractDocument) -> Iterator[Issue]:
    """Yield signatures that stand nowhere, places without a signature, and what goes with neither."""
    named = {f"{INNER}{entry.name}": index for index, entry in enumerate(document.signature) if entry.name is not None}
    used = {
        (variable, index) for index, member in enumerate(document.body.members) for variable in gaps_of(member.node)
    }
    for variable, index in sorted(used):
        if variable.startswith(INNER) and variable not in named:
            remedy = f'Add [[signature]] with name = "{variable.removeprefix(INNER)}".'
            yield issue_at(("body", "members", index), f"there is no signature for {{{variable}}}", remedy)
    for variable in sorted(set(named) - {variable for variable, _ in used}):
        remedy = f'Put "{{{variable}}}" into a member of the body.'
        yield issue_at(("signature", named[variable], "name"), "it stands nowhere in the body", remedy)
    if used and document.body.mode == "js":
        variable, index = min(used)
        remedy = 'Remove mode = "js", or the variable.'
        yield issue_at(("body", "members", index), f'with mode = "js" no attempt can write {{{variable}}}', remedy)


def _digests(document: ContractDocument) -> Iterator[Issue]:
    for index, entry in enumerate(document.signature):
        if "sorted_fields" in entry.content.variables and document.body.kind != "form":
            remedy = 'Set kind = "form" in [body], or sign {body}.'
            yield issue_at(("signature", index, "content"), "only forms have {sorted_fields}", remedy)


def _private_keys(document: ContractDocument) -> Iterator[Issue]:
    """Yield what would show a private key, or sign what receivers do not have."""
    paired = any(kind.algorithm in PAIRS for entry in document.signature for kind in entry.kinds)
    for name, template in document.headers.items():
        if paired and "secret" in template.variables:
            yield issue_at(("headers", name), "it would send the private key", "Remove {secret}.")
    for index, entry in enumerate(document.signature):
        if "secret" in entry.content.variables and any(kind.algorithm in PAIRS for kind in entry.kinds):
            key = ("signature", index, "content")
            yield issue_at(key, "receivers do not have the private key", "Remove {secret}.")


def _retries(document: ContractDocument) -> Iterator[Issue]:
    shown = any("retry_reason" in template.variables for template in document.retry_headers.values())
    if document.retry_reasons and not shown:
        remedy = 'Put "{retry_reason}" into one of [retry_headers], or remove it.'
        yield issue_at(("retry_reasons",), "no header tells a reason", remedy)


def _metadata(document: ContractDocument) -> Iterator[Issue]:
    """Yield defaults of metadata that nothing of a delivery shows."""
    variables = header_variables(document) | inner_variables(document)
    shown = {fact for variable in variables if (fact := Fact.of(variable)) is not None}
    shown |= {*document.spread_headers.values(), *(fact for of in document.body.members for fact in facts_of(of.node))}
    for name in document.metadata:
        if not any(fact.room == "metadata" and fact.steps[:1] in ((), (name,)) for fact in shown):
            remedy = f'Put "{{metadata.{name}}}" into the body or a header, or remove it.'
            yield issue_at(("metadata", name), "nothing shows it to receivers", remedy)


def _extra_members(document: ContractDocument) -> Iterator[Issue]:
    checked = any(listed.data_schema is not None for listed in document.type.values())
    if "extra_members" in document.types.model_fields_set and not checked:
        yield issue_at(("types", "extra_members"), "no event type has a schema", "Add schemas, or remove it.")


def _examples(document: ContractDocument) -> Iterator[Issue]:
    for name, listed in document.type.items():
        yield from _samples(document, name, "example", listed.example)
        if listed.test is not None:
            yield from _samples(document, name, "test", as_json.filled(listed.test, _SAMPLE_FACTS))


def _samples(document: ContractDocument, name: str, key: str, text: bytes) -> Iterator[Issue]:
    data = Payload(text)
    found = document.type[name].issues(data, document.types.extra_members)
    try:
        Envelope(document.body).render(Rendering("evt_1", name, 0, 0, data))
    except Unrenderable as error:
        found += error.issues if error.room == "data" else ()
    for issue in found:
        message = f"at {issue.path}: {issue.message}" if issue.path else issue.message
        yield issue_at(("type", name, key), message, "Mend it, or the schema.")


_RULES: tuple[Callable[[ContractDocument], Iterator[Issue]], ...] = (
    _names,
    _succession,
    _tests,
    _links,
    _features,
    _memories,
    _keys,
    _lookups,
    _searchable,
    _optional_members,
    _inner_signatures,
    _digests,
    _private_keys,
    _retries,
    _metadata,
    _extra_members,
    _examples,
)
