"""What a contract looks up in an event: `{type}:{data.entity_id}`, `{metadata.videoContext}`, `{memory}`."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from relay.contracts.payload import Payload
from relay.contracts.template import Template, TemplateError

_PATH = re.compile(r"\{((?:data|metadata)(?:\.[A-Za-z0-9_-]+)+)\}")


@dataclass(frozen=True, slots=True)
class Lookup:
    """Text made of an event's own facts."""

    template: Template

    @classmethod
    def compile(cls, text: str, rooms: Collection[str]) -> "Lookup":
        """Read a template of `{type}`, `{memory}`, `{data.…}` and `{metadata.…}`, as far as `rooms` names them."""
        paths = {path for path in _PATH.findall(text) if path.partition(".")[0] in rooms}
        plain = {room for room in rooms if room in ("type", "memory")}
        template = Template.compile(text, plain | paths | _examples(rooms))
        if not template.variables:
            raise TemplateError("it is the same for every event", "Put a variable in it, such as {data.id}.")
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
        """Name what is looked up, for a sentence about one fact."""
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
