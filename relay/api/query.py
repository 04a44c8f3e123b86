"""What a list is asked for, what of it its caller may see, and the page that answers.

Things of other applications do not exist for a caller.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from enum import StrEnum
from itertools import dropwhile, islice
from typing import TypeVar

import orjson
from aiohttp import web

from relay.api import problems
from relay.api.answer import Answer
from relay.api.auth import name_of
from relay.api.problems import Refused
from relay.api.render import Json
from relay.api.turns import TURNS
from relay.core.access import Principal
from relay.core.errors import Conflict, NotFound
from relay.core.issues import Issue
from relay.core.model import DeadReason, DeliveryState, NoDelivery
from relay.core.units import parse_duration_ms, parse_time_ms
from relay.core.views import DeliveryView, EventView, Page
from relay.registry import Registry
from relay.store import DeliveryFilter, EventFilter

LIMIT = 50
LIMIT_MAX = 250

PAGE_BYTES_MAX = 256 << 10
"""Bytes of the entries of one page, unless a single one is larger."""

_LISTS = {"event": "/v1/events", "delivery": "/v1/deliveries"}

MOMENT = 'must be a time like "2026-11-22T09:30:00Z" or an age like "2h"'

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")
View = TypeVar("View", EventView, DeliveryView)
Filter = TypeVar("Filter", EventFilter, DeliveryFilter)


class Query:
    """Reads parameters one by one; `check` then refuses with every mistake at once, unknown parameters included."""

    def __init__(self, request: web.Request, now_ms: int) -> None:
        self._given = request.query
        self._now_ms = now_ms
        self._read: set[str] = set()
        self._mistakes: list[Issue] = []

    def text(self, name: str) -> str | None:
        """Read a parameter; None if it was not given."""
        self._read.add(name)
        values = self._given.getall(name, [])
        if len(values) > 1:
            self._wrong(name, "is given more than once")
        if values and not values[0]:
            self._wrong(name, "is empty; leave it out, or give it a value")
        return values[0] if values else None

    def word(self, name: str, words: type[E]) -> E | None:
        """Read one of a few words."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return words(value)
        except ValueError:
            self._wrong(name, f"must be one of {', '.join(words)}")
            return None

    def moment_ms(self, name: str) -> int | None:
        """Read a time: RFC 3339 with an offset, or how long ago (`2h`)."""
        value = self.text(name)
        if value is None:
            return None
        moment_ms = moment_of(value, self._now_ms)
        if moment_ms is None:
            self._wrong(name, MOMENT)
        return moment_ms

    def number(self, name: str) -> int | None:
        """Read a whole number from 0 on."""
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal() and len(value) <= 18):
            self._wrong(name, "is not one that this relay gave out")
            return None
        return int(value)

    def limit(self) -> int:
        """Read how many entries a page may have."""
        value = self.text("limit")
        if value is None:
            return LIMIT
        if not (value.isascii() and value.isdecimal() and 1 <= int(value[:9]) <= LIMIT_MAX):
            self._wrong("limit", f"must be a whole number from 1 to {LIMIT_MAX}")
            return LIMIT
        return int(value)

    def check(self) -> None:
        """Refuse the request if anything was wrong with its query string."""
        for name in sorted(set(self._given) - self._read):
            known = ", ".join(sorted(self._read))
            self._wrong(name, f"is not a parameter of this call; it has {known}" if known else "is not taken here")
        if self._mistakes:
            raise Refused(problems.invalid(self._mistakes))

    def _wrong(self, name: str, message: str) -> None:
        self._mistakes.append(Issue("", f'the parameter "{name[:64]}" {message}'))


def event_filter(query: Query) -> EventFilter:
    """Read the filters of a list of events."""
    return EventFilter(
        application=query.text("application"),
        type=query.text("type"),
        since_ms=query.moment_ms("since"),
        until_ms=query.moment_ms("until"),
        reason=query.word("reason", NoDelivery),
    )


def delivery_filter(query: Query) -> DeliveryFilter:
    """Read the filters of a list of deliveries."""
    return DeliveryFilter(
        application=query.text("application"),
        endpoint=query.text("endpoint"),
        state=query.word("state", DeliveryState),
        reason=query.word("reason", DeadReason),
        type=query.text("type"),
        since_ms=query.moment_ms("since"),
        until_ms=query.moment_ms("until"),
    )


def application_of(named: str | None, principal: Principal, registry: Registry) -> str | None:
    """Return the application a list is limited to, None for all; NotFound for an unknown or foreign one."""
    if named is None:
        return principal.application
    if named not in registry.applications or not principal.sees(named):
        raise NotFound(f"no application {named!r}", remedy='Leave "application" out to see all that you may see.')
    return named


def within(wanted: Filter, principal: Principal, registry: Registry) -> Filter:
    """Narrow a filter to what the caller may see; NotFound for an unknown or foreign application."""
    return replace(wanted, application=application_of(wanted.application, principal, registry))


def seen(view: View | None, principal: Principal, noun: str, view_id: str) -> View:
    """Return what was found if the caller may see it; NotFound otherwise."""
    if view is None or not principal.sees(view.application):
        raise NotFound(f"no {noun} {view_id[:64]!r}", remedy=f"Look for it with GET {_LISTS[noun]}.")
    return view


def behind(cursor: str | None, entries: Iterable[T], cursor_of: Callable[[T], str]) -> Iterable[T]:
    """Skip a short list up to the entry that a cursor names; Conflict `invalid_cursor` when it is there no more."""
    if cursor is None:
        return entries
    rest = list(dropwhile(lambda entry: cursor_of(entry) != cursor, entries))
    if not rest:
        raise Conflict("invalid_cursor", "what this cursor names is gone", remedy="Start again without it.")
    return rest[1:]


def page_of(newest_first: Iterable[T], limit: int, cursor_of: Callable[[T], str]) -> Page[T]:
    """Take one page; the next one starts behind the cursor of the last entry."""
    found = tuple(islice(newest_first, limit + 1))
    cursors = [cursor_of(entry) for entry in found]
    return Page(found[:limit], cursors[limit - 1] if len(found) > limit else None, cursors)


async def page_response(
    request: web.Request, page: Page[T], write: Callable[[T], Json], head: Json | None = None
) -> web.StreamResponse:
    """Answer with one page, what its list is about (`head`), and where the next one is (RFC 8288)."""
    await request[TURNS].turn(name_of(request))
    written, following = _within_bytes(page, write)
    headers = {}
    if following is not None:
        headers["Link"] = f'<{request.rel_url.update_query(cursor=following)}>; rel="next"'
    return Answer((head or {}) | {"data": written, "next": following}, headers=headers)


def _within_bytes(page: Page[T], write: Callable[[T], Json]) -> tuple[list[orjson.Fragment], str | None]:
    """Write the entries of a page; it ends where it would grow beyond `PAGE_BYTES_MAX`, but one entry is always there."""
    written: list[orjson.Fragment] = []
    length = 0
    for entry in page.data:
        text = orjson.dumps(write(entry))
        length += len(text)
        if written and length > PAGE_BYTES_MAX:
            return written, page.cursors[len(written) - 1]
        written.append(orjson.Fragment(text))
    return written, page.next


def moment_of(text: str, now_ms: int) -> int | None:
    """Read a time: RFC 3339 with an offset, or how long ago; None for neither."""
    try:
        return max(0, now_ms - parse_duration_ms(text))
    except OverflowError:
        return None
    except ValueError:
        pass  # not an age: it may be a time
    try:
        # A `+` that was not percent-encoded arrives as a blank; no time has one before its offset.
        return parse_time_ms(text.replace(" ", "+") if "T" in text else text)
    except ValueError:
        return None
