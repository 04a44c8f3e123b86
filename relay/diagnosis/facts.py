"""What a received delivery says about itself: its id, its type, the number of its attempt.

Headers are read backwards through the contract's templates; what they do not say is looked for in the body.
"""

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from relay.contracts.contract import Contract
from relay.contracts.template import stem
from relay.diagnosis.verify import read_backwards

_FACTS = frozenset({"id", "type", "attempt"})


class Facts(NamedTuple):
    """None for what a delivery does not say, be it that the contract does not show it or that it is not of the contract."""

    id: str | None = None
    type: str | None = None
    attempt: int | None = None


def facts_of(contract: Contract, headers: Mapping[str, str], body: bytes) -> Facts:
    """Read what a delivery says, whether its signature is right or not; nothing of it is proven. O(its length)."""
    by_name = {name.lower(): value for name, value in headers.items()}
    found: dict[str, str] = {}
    for source in (_of_headers(contract, by_name), _of_body(contract, body)):
        for fact, text in source:
            found.setdefault(fact, text)
    attempt = found.get("attempt")
    return Facts(found.get("id"), found.get("type"), int(attempt) if attempt else None)


def _of_headers(contract: Contract, headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    document = contract.document
    shown = {**document.headers, **{entry.header: entry.value for entry in document.signature}}
    for name, template in shown.items():
        if _FACTS.isdisjoint(map(_fact, template.variables)):
            continue
        read = read_backwards(template, headers.get(name.lower(), ""), document.timestamp) or {}
        yield from _known(read)


def _of_body(contract: Contract, body: bytes) -> Iterator[tuple[str, str]]:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return
    if not isinstance(members, dict):
        return
    for member in contract.document.body.members:
        text = members.get(member.name)
        if isinstance(text, str) and not _FACTS.isdisjoint(map(_fact, member.value.variables)):
            yield from _known(read_backwards(member.value, json.dumps(text), contract.document.timestamp) or {})


def _known(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable, text in values.items():
        if _fact(variable) in _FACTS:
            yield _fact(variable), text


def _fact(variable: str) -> str:
    """Return what a variable is about; {event} is another word for {type}."""
    return "type" if variable == "event" else stem(variable)
