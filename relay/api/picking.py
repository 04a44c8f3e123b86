"""Which deliveries a call is about that acts on many: the same members for every such call, filters or ids."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from relay.api import problems
from relay.api.body import unknown_members
from relay.api.calls import FILLED, MOMENT_OR_AGE, Schema, maybe, several, word
from relay.api.problems import Refused
from relay.api.query import MOMENT, moment_of
from relay.core.issues import Issue, pointer
from relay.core.model import DeadReason, DeliveryState
from relay.store.replays import Wanted

FILTERS = ("application", "endpoint", "type", "state", "reason", "since", "until")
"""What selects deliveries; all that are given must hold."""

PICKED: Mapping[str, Schema] = {
    **{name: maybe(FILLED) for name in ("application", "endpoint", "type")},
    "state": maybe(word(DeliveryState)),
    "reason": maybe(word(DeadReason)),
    "since": maybe(MOMENT_OR_AGE),
    "until": maybe(MOMENT_OR_AGE),
    "ids": maybe(several(FILLED) | {"minItems": 1}),
}
"""The members that say which deliveries are meant."""

E = TypeVar("E", bound=StrEnum)


class Picked(NamedTuple):
    """Which deliveries are meant: those that filters select, or those that are named."""

    application: str | None  # id
    wanted: Wanted
    ids: tuple[str, ...]  # of deliveries and events; empty: whatever the filters select


class Members:
    """Reads the members of a body one by one; `check` then refuses with every mistake at once, unknown ones included."""

    def __init__(self, written: Mapping[str, Any], now_ms: int) -> None:
        self._written = written
        self._now_ms = now_ms
        self._read: list[str] = []
        self.mistakes: list[Issue] = []

    def value(self, name: str) -> Any:
        """Read a member as it is; None if it is not there."""
        self._read.append(name)
        return self._written.get(name)

    def text(self, name: str) -> str | None:
        """Read a text."""
        value = self.value(name)
        if value is None or (isinstance(value, str) and value):
            return value
        self.wrong(name, "must be text, and not empty")
        return None

    def flag(self, name: str) -> bool:
        """Read true or false; false if it is not there."""
        value = self.value(name)
        if not isinstance(value, bool | None):
            self.wrong(name, "must be true or false")
        return value is True

    def word(self, name: str, words: type[E]) -> E | None:
        """Read one of a few words."""
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, str) and value in set(words):
            return words(value)
        self.wrong(name, f"must be one of {', '.join(words)}")
        return None

    def moment_ms(self, name: str) -> int | None:
        """Read a time: RFC 3339 with an offset, or how long ago (`2h`)."""
        value = self.text(name)
        found_ms = None if value is None else moment_of(value, self._now_ms)
        if value is not None and found_ms is None:
            self.wrong(name, MOMENT)
        return found_ms

    def ids(self, name: str, most: int) -> tuple[str, ...]:
        """Read ids, each once."""
        value = self.value(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not value:
            self.wrong(name, "must be a list of ids of deliveries or events, and not empty")
            return ()
        if len(value) > most:
            self.wrong(
                name, f"has {len(value)} ids; there may be {most}", "Make several calls, each with some of them."
            )
            return ()
        self.mistakes += _id_mistakes(name, value)
        return tuple(dict.fromkeys(one for one in value if isinstance(one, str)))

    def wrong(self, name: str, message: str, remedy: str = "") -> None:
        """Note a mistake in a member."""
        self.mistakes.append(Issue(pointer(name), message, remedy))

    def check(self) -> None:
        """Refuse the request (422) if anything was wrong with its members."""
        self.mistakes += unknown_members(self._written, self._read)
        if self.mistakes:
            raise Refused(problems.invalid(self.mistakes))


def read_picked(members: Members, ids_max: int) -> Picked:
    """Read which deliveries a call is about: by filters, or by ids, not both."""
    application = members.text("application")
    wanted = Wanted(
        endpoint=members.text("endpoint"),
        type=members.text("type"),
        state=members.word("state", DeliveryState),
        reason=members.word("reason", DeadReason),
        since_ms=members.moment_ms("since"),
        until_ms=members.moment_ms("until"),
    )
    ids = members.ids("ids", ids_max)
    if ids and (application is not None or wanted != Wanted()):
        members.wrong("ids", "stands beside filters; give ids or filters, not both")
    return Picked(application, wanted, ids)


def _id_mistakes(name: str, ids: Sequence[Any]) -> Iterator[Issue]:
    for index, one in enumerate(ids):
        if not isinstance(one, str) or not one:
            yield Issue(pointer(name, index), "must be the id of a delivery or an event")
