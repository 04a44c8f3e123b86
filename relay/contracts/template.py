"""Templates such as `{id}.{timestamp}.{body}`, and lookups in an event such as `{type}:{data.entity_id}`.

Compiled once, rendered by joining bytes. Values are inserted as they are and never looked at again, so a `{` in a body
stays a `{`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from relay.contracts.fields import stem
from relay.contracts.payload import Payload
from relay.core.errors import RelayError
from relay.core.issues import nearest

Part = bytes | str
"""A literal (bytes) or the name of a variable (str)."""

_PLACE = re.compile(r"\{((data|metadata|signature)(?:\.[A-Za-z0-9_-]+)+)\}")
_TOKEN = re.compile(r"\{\{|\}\}|\{[a-z0-9_:]+(?:\.[A-Za-z0-9_-]+)*\}|[{}]|[^{}]+")


class TemplateError(RelayError):
    """The text is no template."""


@dataclass(frozen=True, slots=True)
class Template:
    """Literals and variables in order."""

    parts: tuple[Part, ...]

    @classmethod
    def compile(cls, text: str, known: Collection[str], rooms: Collection[str] = ()) -> "Template":
        """Read `{name}` and `{name:format}`; `{{` and `}}` are braces.

        TemplateError for anything that is not in `known` and no path into one of `rooms`, such as `{data.order.id}`.
        """
        known = {*known, *(path for path, room in _PLACE.findall(text) if room in rooms)} if rooms else known
        return cls.of(_part(token, known) for token in _TOKEN.findall(text))

    @classmethod
    def of(cls, parts: Iterable[Part]) -> "Template":
        """Join neighbouring literals, so that rendering touches as few parts as possible."""
        merged: list[Part] = []
        for part in parts:
            if isinstance(part, bytes) and merged and isinstance(merged[-1], bytes):
                merged[-1] += part
            else:
                merged.append(part)
        return cls(tuple(merged))

    @property
    def variables(self) -> frozenset[str]:
        return frozenset(part for part in self.parts if isinstance(part, str))

    def bind(self, values: Mapping[str, bytes]) -> "Template":
        """Replace the variables in `values` by what they stand for; the others stay."""
        return Template.of(values.get(part, part) if isinstance(part, str) else part for part in self.parts)

    def render(self, values: Mapping[str, bytes]) -> bytes:
        """Return the bytes; KeyError if a variable has no value."""
        parts = self.parts
        if len(parts) == 1:  # as most headers have it: nothing is to be joined
            return parts[0] if isinstance(parts[0], bytes) else values[parts[0]]
        return b"".join([part if isinstance(part, bytes) else values[part] for part in parts])


def shape(template: Template) -> str:
    """Write a template as its file does."""
    return "".join(part.decode() if isinstance(part, bytes) else f"{{{part}}}" for part in template.parts)


def _part(token: str, known: Collection[str]) -> Part:
    if token in ("{{", "}}"):
        return token[0].encode()
    if token in ("{", "}"):
        raise TemplateError(f"a single {token!r} is no variable", remedy=f'Write "{token}{token}" for a brace.')
    if not token.startswith("{"):
        return token.encode()
    name = token[1:-1]
    if name not in known:
        raise TemplateError(f"unknown variable {token}", remedy=_suggestion(name, known))
    return name


def _suggestion(name: str, known: Collection[str]) -> str:
    near = sorted(other for other in known if stem(other) == stem(name)) or filter(None, [nearest(name, known)])
    if listed := _listed(near):
        return f"Did you mean {listed}?"
    return f"Known here: {_listed(sorted({_short(other, known) for other in known}))}."


def _short(name: str, known: Collection[str]) -> str:
    """Return the name without its format, if it may have none, and a sign for more than two formats."""
    if ":" not in name or stem(name) in known:
        return stem(name)
    forms = sum(stem(other) == stem(name) for other in known)
    return f"{stem(name)}:…" if forms > 2 else name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Text made of an event's own facts."""

    template: Template

    @classmethod
    def compile(cls, text: str, rooms: Collection[str]) -> "Lookup":
        """Read a template of `{type}`, `{memory}`, `{data.…}` and `{metadata.…}`, as far as `rooms` names them."""
        plain = {room for room in rooms if room in ("type", "memory")}
        template = Template.compile(text, plain | _examples(rooms), rooms)
        if not template.variables:
            raise TemplateError("it is the same for every event", remedy="Put a variable in it, such as {data.id}.")
        return cls(template)

    @property
    def variables(self) -> frozenset[str]:
        return self.template.variables

    def read(self, type: str, data: Payload, metadata: Payload | None = None, memory: str | None = None) -> str | None:
        """Return the text; None where a part of it is missing, null, empty, or an object or array."""
        parts: list[str] = []
        for part in self.template.parts:
            found = part.decode() if isinstance(part, bytes) else _fact(part, type, data, metadata, memory)
            if not found:
                return None
            parts.append(found)
        return "".join(parts)

    def __str__(self) -> str:
        """Name what is looked up, for a message about one fact."""
        return " and ".join(sorted(self.variables))


def _examples(rooms: Collection[str]) -> set[str]:
    """Return variables that a message about an unknown one shows."""
    return {f"{room}.name" for room in rooms if room in ("data", "metadata")}


def _fact(variable: str, type: str, data: Payload, metadata: Payload | None, memory: str | None) -> str | None:
    room, *steps = variable.split(".")
    if room == "type":
        return type
    if room == "memory":
        return memory
    if room == "data":
        return data.text(steps)
    return None if metadata is None else metadata.text(steps)
