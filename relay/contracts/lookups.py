"""What a contract looks up in an event: `{type}:{data.entity_id}`, `{metadata.videoContext}`, `{memory}`."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from relay.contracts.template import Template, TemplateError

_PATH = re.compile(r"\{((?:data|metadata)(?:\.[A-Za-z0-9_-]+)+)\}")
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_NO_METADATA: Mapping[str, Any] = {}


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

    def read(
        self, type: str, data: bytes, metadata: Mapping[str, Any] = _NO_METADATA, memory: str | None = None
    ) -> str | None:
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


def members_of(data: bytes) -> Mapping[str, Any] | None:
    """Return the members of a JSON object by name; None if `data` is something else."""
    try:
        return _MEMBERS.decode(data)
    except msgspec.ValidationError:
        return None
    except msgspec.DecodeError:  # a lone surrogate in some string, which msgspec takes for malformed
        found = _load_lexemes(data)
        return found if isinstance(found, dict) else None


def _examples(rooms: Collection[str]) -> set[str]:
    """Return variables that a message about an unknown one shows."""
    return {f"{room}.name" for room in rooms if room in ("data", "metadata")}


def _fact(variable: str, type: str, data: bytes, metadata: Mapping[str, Any], memory: str | None) -> str | None:
    room, *steps = variable.split(".")
    if room == "type":
        return type
    if room == "memory":
        return memory
    return _in_json(data, steps) if room == "data" else _in_mapping(metadata, steps)


def _in_json(data: bytes, steps: Sequence[str]) -> str | None:
    """Follow member names through JSON text; a number is returned as it is written."""
    raw: bytes | msgspec.Raw = data
    try:
        for step in steps:
            raw = _MEMBERS.decode(raw)[step]
    except (msgspec.ValidationError, KeyError):
        return None
    except msgspec.DecodeError:
        return _in_mapping(_load_lexemes(data), steps)
    return _as_text(bytes(raw))


def _as_text(raw: bytes) -> str | None:
    if raw[:1] in (b"{", b"[", b"n"):
        return None
    return _TEXT.decode(raw) if raw.startswith(b'"') else raw.decode()


def _in_mapping(found: Any, steps: Sequence[str]) -> str | None:
    for step in steps:
        if not isinstance(found, Mapping):
            return None
        found = found.get(step)
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int | float):
        return json.dumps(found)
    return _encodable(found) if isinstance(found, str) else None


def _encodable(text: str) -> str:
    """Write lone surrogates as escapes, so that every text can be stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def _load_lexemes(data: bytes) -> Any:
    """Load JSON with its numbers as they are written."""
    return json.loads(data, parse_int=str, parse_float=str)
