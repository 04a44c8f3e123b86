"""The event types that a contract lists, and which of them a subscription covers."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from relay.contracts.fields import TEST_VARIABLES
from relay.contracts.template import Template
from relay.core import grammars

TYPE_CHARACTERS = re.compile(r"[A-Za-z0-9_.:/-]*")
"""The widest that any grammar may be: safe in JSON and in headers."""

_LISTED_MAX = 30


@dataclass(frozen=True, slots=True)
class EventType:
    """One event type of a catalogue."""

    name: str
    description: str
    schema: Mapping[str, Any] | None = field(repr=False)
    example: bytes = field(repr=False)  # the data that a producer would post, as JSON
    deprecated: bool = False
    replaced_by: str | None = None
    test_only: bool = False
    links: bool = False  # its data hold links that expire
    feature: str | None = None  # sent only to applications that have this feature switched on

    @property
    def is_selectable(self) -> bool:
        """Whether `*` and `prefix.*` cover it; a deprecated type is subscribed to by its name."""
        return not self.deprecated and not self.test_only


class Catalogue:
    """The listed types of one contract. Immutable."""

    def __init__(self, types: Iterable[EventType], *, is_open: bool) -> None:
        self.types: Mapping[str, EventType] = {listed.name: listed for listed in types}
        self.is_open = is_open
        self.selectable = frozenset(listed.name for listed in self.types.values() if listed.is_selectable)
        self.test_type = next((listed for listed in self.types.values() if listed.test_only), None)

    def check(self, type: str) -> str | None:
        """Return None for a type that there is, else a sentence."""
        if self.is_open or type in self.types:
            return None
        return f"{type[:80]!r} is not in the catalogue; {self._suggestion(type, self.types)}"

    def check_subscription(self, pattern: str) -> str | None:
        """Return None for a pattern that covers something, else a sentence; its form was checked before."""
        listed = self.types.get(pattern)
        if listed is not None and listed.test_only:
            return f"{pattern!r} is sent by a test only, to one endpoint at a time; leave it out"
        if self.is_open or pattern in self.types or any(self.covers(pattern, name) for name in self.selectable):
            return None
        return f"{pattern[:80]!r} covers no event type; {self._choices(pattern)}"

    def warn_subscription(self, pattern: str) -> str | None:
        """Return a sentence about a lawful subscription that somebody should think again about."""
        listed = self.types.get(pattern)
        if listed is None or not listed.deprecated:
            return None
        return f"{pattern!r} is deprecated" + (f"; use {listed.replaced_by!r}" if listed.replaced_by else "")

    def covers(self, pattern: str, type: str) -> bool:
        """Whether a subscription covers a type; only its own name covers a deprecated one, and nothing a test."""
        listed = self.types.get(type)
        if listed is None or listed.is_selectable:
            return grammars.matches(pattern, type)
        return pattern == type and not listed.test_only

    def _suggestion(self, wrong: str, names: Iterable[str]) -> str:
        known = sorted(names)
        near = get_close_matches(wrong, known, n=1)
        return f"did you mean {near[0]!r}?" if near else f"use one of: {_listed(known)}"

    def _choices(self, wrong: str) -> str:
        """Name what may be subscribed to, the nearest first (ROT-6)."""
        known = sorted(self.selectable)
        near = get_close_matches(wrong, known, n=1)
        listed = f"use one of: {_listed(known)}"
        return f"did you mean {near[0]!r}? {listed[0].upper()}{listed[1:]}" if near else listed


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED_MAX} more" if len(names) > _LISTED_MAX else ""
    return ", ".join(names[:_LISTED_MAX]) + more


def test_data(members: Mapping[str, Template], facts: Mapping[str, str]) -> bytes:
    """Return the data of a contract's test event; `facts` are what its templates ask for."""
    known = {name: json.dumps(facts.get(name, ""))[1:-1].encode() for name in TEST_VARIABLES}
    written = (json.dumps(name).encode() + b":" + value.render(known) for name, value in members.items())
    return b"{" + b",".join(written) + b"}"
