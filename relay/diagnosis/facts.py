"""What a received delivery says about itself: its id, its type, the number of its attempt, its data.

Headers are read backwards through the contract's templates; what they do not say is looked for in the body, where the contract
has its places.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import msgspec

from relay.contracts import as_xml
from relay.contracts.body import Body
from relay.contracts.contract import Contract
from relay.contracts.facts import Fact
from relay.contracts.fields import stem
from relay.contracts.payload import Payload, as_text
from relay.contracts.template import Template
from relay.contracts.tree import Items, Members, Node, Text
from relay.diagnosis.backwards import read_backwards

_FACTS = frozenset({"id", "type", "attempt"})

_READ_CHARACTERS_MAX = 1_024
"""Longer texts are read only through templates of a single variable: others would be tried in too many ways."""

Steps = tuple[str, ...]


class Facts(NamedTuple):
    """None for what a delivery does not say, be it that the contract does not show it or that it is not of the contract."""

    id: str | None = None
    type: str | None = None
    attempt: int | None = None


def facts_of(contract: Contract, headers: Mapping[str, str], body: bytes) -> Facts:
    """Read what a delivery says, whether its signature is right or not; nothing of it is proven. O(its length)."""
    by_name = {name.lower(): value for name, value in headers.items()}
    found: dict[str, str] = {}
    for source in (_of_headers(contract, by_name), said_by_body(contract, body)):
        for variable, text in source:
            found.setdefault(subject(contract.document.otherwise(variable) or variable), text)
    attempt = found.get("attempt")
    return Facts(found.get("id"), found.get("type"), int(attempt) if attempt and attempt.isdecimal() else None)


def subject(variable: str) -> str:
    """Return what a variable is about, whatever its format; {event} is another word for {type}."""
    return "type" if variable == "event" else stem(variable)


def _of_headers(contract: Contract, headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    document = contract.document
    signed = {entry.header: entry.value for entry in document.signature if entry.header is not None}
    for name, template in {**document.headers, **document.retry_headers, **signed}.items():
        stands = {variable: subject(document.otherwise(variable) or variable) for variable in template.variables}
        if not _FACTS.isdisjoint(stands.values()):
            read = read_backwards(template, headers.get(name.lower(), ""), document.timestamp) or {}
            yield from ((stands[variable], text) for variable, text in read.items() if stands[variable] in _FACTS)


# -- bodies ------------------------------------------------------------------------------------------------------------


def said_by_body(contract: Contract, body: bytes) -> Iterator[tuple[str, str]]:
    """Yield the variables whose places in a body hold something, with what they hold."""
    find = _FINDERS[contract.document.body.kind](body)
    for steps, template in places(contract.document.body):
        text = find(steps)
        if text is not None and (len(template.parts) == 1 or len(text) <= _READ_CHARACTERS_MAX):
            yield from (read_backwards(template, text, contract.document.timestamp) or {}).items()


def said_of_event(contract: Contract, body: bytes, wanted: Fact) -> str | None:
    """Return a part of the event's data or metadata, if some member of the body is it or holds it."""
    kind = contract.document.body.kind
    find = _FINDERS[kind](body)
    for steps, template in places(contract.document.body):
        (only, *others) = template.parts or (b"",)
        held = Fact.of(only) if isinstance(only, str) and not others else None
        if held is None or held.room != wanted.room or wanted.steps[: len(held.steps)] != held.steps:
            continue
        rest = wanted.steps[len(held.steps) :]
        text = find((*steps, *rest)) if kind in ("object", "array", "data") else find(steps) if not rest else None
        if text is not None:
            return text
    return None


def places(body: Body) -> Iterator[tuple[Steps, Template]]:
    """Yield where texts stand in a body, by names and numbers; data that are spread stand at the top."""
    if body.kind == "data":
        yield (), Template(("data",))
    for number, member in enumerate(body.members):
        if member.is_spread:
            yield (), _whole(member.spread_fact)
        else:
            yield from _places(member.node, (str(number) if body.kind == "array" else member.name,))


def _whole(fact: Fact) -> Template:
    return Template((".".join((fact.room, *fact.steps)),))


def _places(node: Node, steps: Steps) -> Iterator[tuple[Steps, Template]]:
    match node:
        case Text(template):
            yield steps, template
        case Members(of):
            for name, inner in of:
                yield from _places(inner, (*steps, name))
        case Items(of):
            for number, inner in enumerate(of):
                yield from _places(inner, (*steps, str(number)))


Find = Callable[[Steps], str | None]


def _in_json(body: bytes) -> Find:
    payload = Payload(body.strip())

    def find(steps: Steps) -> str | None:
        try:
            found = payload.at(steps)
            return None if found is None or found == b"null" else as_text(found)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError):  # it is no JSON
            return None

    return find


def _in_form(body: bytes) -> Find:
    fields = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    return lambda steps: fields.get("".join([*steps[:1], *(f"[{step}]" for step in steps[1:])]))


def _in_xml(body: bytes) -> Find:
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - expat resolves nothing outside, and bounds what entities become
    except ElementTree.ParseError:
        return lambda _: None
    return lambda steps: _at(root, steps)


def _at(element: ElementTree.Element, steps: Steps) -> str | None:
    for step in steps:
        if step == as_xml.TEXT:
            break
        if as_xml.is_attribute(step):
            return element.get(step.removeprefix("@"))
        below = next((child for child in element if child.tag == step), None)
        if below is None:
            return None
        element = below
    return element.text


_FINDERS: Mapping[str, Callable[[bytes], Find]] = {
    "object": _in_json,
    "array": _in_json,
    "data": _in_json,
    "form": _in_form,
    "xml": _in_xml,
}
