"""What a contract says of verification: how receivers are asked before their first event, with which words, and what is an answer.

What is sent is JSON under every contract, with its headers and signatures; it is no event, whatever form events have.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

import msgspec
from pydantic import Field, field_validator

from relay.contracts import as_json
from relay.contracts.template import Template
from relay.contracts.tree import Constant, Items, Members, Node, Text, texts
from relay.contracts.values import ChallengeData, PingData, Table, mistake
from relay.core.verification import Method

MEDIA_TYPE = "application/json"
"""Of what is sent."""

CHALLENGE_TYPE = "url_verification"
PING_TYPE = "ping"
"""What headers say that name the type of the event."""

_CHALLENGE = Text(Template(("challenge",)))

Form = Literal["text", "form", "json"]


class Verification(Table):
    """How an endpoint is verified, unless it says otherwise itself."""

    method: Literal["none", "challenge", "options", "ping"] = "none"
    challenge: ChallengeData = Members(
        (("type", Text(Template((CHALLENGE_TYPE.encode(),)))), ("challenge", _CHALLENGE))
    )
    ping: PingData = Members((("type", Text(Template((PING_TYPE.encode(),)))),))
    answer: Annotated[str, Field(min_length=1, max_length=100)] = "challenge"  # the member of an answer that repeats it
    answer_forms: Annotated[tuple[Form, ...], Field(min_length=1)] = ("text", "form", "json")

    @field_validator("challenge")
    @classmethod
    def _holds_it(cls, node: Node) -> Node:
        if [text for text in texts(node) if text.template.variables] != [_CHALLENGE]:
            raise mistake("nothing could be repeated", 'Give one member the whole value "{challenge}".')
        return node

    @property
    def asks(self) -> Method:
        """What endpoints are asked that say nothing themselves."""
        return Method(self.method)

    def body(self, method: Method, challenge: str) -> bytes:
        """Return what is posted. O(its length)"""
        node = self.challenge if method is Method.CHALLENGE else self.ping
        return as_json.filled(node, {"challenge": challenge})

    def is_repeated(self, challenge: str, sent: bytes, answer: bytes) -> bool:
        """Whether an answer holds the challenge, in a form that is taken; what was sent, sent back whole, is none. O(its length)"""
        text = answer.decode("utf-8", "replace").strip()
        if answer.strip() == sent:
            return False
        return challenge in self._found(text)

    def _found(self, text: str) -> Iterator[str]:
        if "text" in self.answer_forms:
            yield text
        if "form" in self.answer_forms and "=" in text:
            yield from (value for name, value in _fields(text) if name == self.answer)
        if "json" in self.answer_forms and text.startswith("{"):
            document = _read(text.encode())
            value = document.get(self.answer) if isinstance(document, dict) else None
            yield from [value] if isinstance(value, str) else []

    def is_ping(self, body: bytes) -> bool:
        """Whether what came is a ping."""
        return _matches(self.ping, _read(body)) is not None

    def challenge_in(self, body: bytes) -> str | None:
        """Return what is to be repeated of what came; None where that is no challenge."""
        return next(iter(_matches(self.challenge, _read(body)) or ()), None)


def _fields(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, max_num_fields=100)
    except ValueError:
        return []


def _read(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _matches(node: Node, value: Any) -> list[str] | None:
    """Return what stands in a value where a node has variables; None where the two do not look alike."""
    match node:
        case Text(template):
            if not isinstance(value, str):
                return None
            if template.variables:
                return [value]
            return (
                [] if value == b"".join(part for part in template.parts if isinstance(part, bytes)).decode() else None
            )
        case Constant(literal):
            return [] if value == _read(literal.encode()) and not isinstance(value, dict | list) else None
        case Members(of):
            names = [name for name, _ in of]
            same = isinstance(value, dict) and sorted(value) == sorted(names)
            return _all((inner, value[name]) for name, inner in of) if same else None
        case Items(items):
            same = isinstance(value, list) and len(value) == len(items)
            return _all(zip(items, value, strict=True)) if same else None


def _all(pairs: Iterable[tuple[Node, Any]]) -> list[str] | None:
    found: list[str] = []
    for node, value in pairs:
        inner = _matches(node, value)
        if inner is None:
            return None
        found += inner
    return found
