"""What a list is asked for, what of it its caller may see, and the page that answers.

Things of other applications do not exist for a caller.
"""

import re
from collections.abc import Callable, Collection, Iterable
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
from relay.contracts import search_digest
from relay.core.access import Principal, Right
from relay.core.errors import Conflict, NotFound
from relay.core.issues import Issue
from relay.core.model import DeadReason, DeliveryState, NoDelivery
from relay.core.units import parse_duration_ms, parse_time_ms
from relay.core.views import DeliveryView, EventView, Page
from relay.intake import keys_of
from relay.registry import Registry
from relay.store import DeliveryFilter, EventFilter

LIMIT = 50
LIMIT_MAX = 250

PAGE_BYTES_MAX = 256 << 10
"""Bytes of the entries of one page, unless a single one is larger."""

_LISTS = {"event": "/v1/events", "delivery": "/v1/deliveries"}

MOMENT = 'must be a time like "2026-11-22T09:30:00Z" or an age like "2h"'

_STATUS = re.compile(r"[1-5](xx|[0-9]{2})|none")

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")
View = TypeVar("View", EventView, DeliveryView)
Filter = TypeVar("Filter", EventFilter, DeliveryFilter)


Declared = Callable[[], Collection[str]]
"""Lists the places in the data that may be searched; asked for only where one is named."""


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
            self.wrong(name, "is given more than once")
        if values and not values[0]:
            self.wrong(name, "is empty; leave it out, or give it a value")
        return values[0] if values else None

    def word(self, name: str, words: type[E]) -> E | None:
        """Read one of a few words."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return words(value)
        except ValueError:
            self.wrong(name, f"must be one of {', '.join(words)}")
            return None

    def moment_ms(self, name: str) -> int | None:
        """Read a time: RFC 3339 with an offset, or how long ago (`2h`)."""
        value = self.text(name)
        if value is None:
            return None
        moment_ms = moment_of(value, self._now_ms)
        if moment_ms is None:
            self.wrong(name, MOMENT)
        return moment_ms

    def number(self, name: str) -> int | None:
        """Read a whole number from 0 on."""
        value = self.text(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal() and len(value) <= 18):
            self.wrong(name, "is not one that this relay gave out")
            return None
        return int(value)

    def limit(self) -> int:
        """Read how many entries a page may have."""
        value = self.text("limit")
        if value is None:
            return LIMIT
        if not (value.isascii() and value.isdecimal() and 1 <= int(value[:9]) <= LIMIT_MAX):
            self.wrong("limit", f"must be a whole number from 1 to {LIMIT_MAX}")
            return LIMIT
        return int(value)

    def check(self) -> None:
        """Refuse the request if anything was wrong with its query string."""
        for name in sorted(set(self._given) - self._read):
            known = ", ".join(sorted(self._read))
            self.wrong(name, f"is not a parameter of this call; it has {known}" if known else "is not taken here")
        if self._mistakes:
            raise Refused(problems.invalid(self._mistakes))

    def wrong(self, name: str, message: str) -> None:
        """Note what is wrong with a parameter."""
        self._mistakes.append(Issue("", f'the parameter "{name[:64]}" {message}'))


def event_filter(query: Query, principal: Principal, declared: Declared) -> EventFilter:
    """Read the filters of a list of events."""
    return EventFilter(
        application=query.text("application"),
        type=query.text("type"),
        since_ms=query.moment_ms("since"),
        until_ms=query.moment_ms("until"),
        reason=query.word("reason", NoDelivery),
        endpoint=query.text("endpoint") if principal.may(Right.READ) else None,  # producers know of no endpoint
        event=query.text("id"),
        ordering_key=query.text("ordering_key"),
        keys=_keys(query),
        value=_value(query, declared),
    )


def delivery_filter(query: Query, declared: Declared) -> DeliveryFilter:
    """Read the filters of a list of deliveries."""
    return DeliveryFilter(
        application=query.text("application"),
        endpoint=query.text("endpoint"),
        state=query.word("state", DeliveryState),
        reason=query.word("reason", DeadReason),
        type=query.text("type"),
        since_ms=query.moment_ms("since"),
        until_ms=query.moment_ms("until"),
        status=_status(query),
        event=query.text("event"),
        ordering_key=query.text("ordering_key"),
        keys=_keys(query),
        value=_value(query, declared),
    )


def _keys(query: Query) -> tuple[bytes, bytes] | None:
    key = query.text("idempotency_key")
    return None if key is None else keys_of(key)


def _status(query: Query) -> str | None:
    """Read what the latest attempt was answered with."""
    status = query.text("status")
    if status is not None and not _STATUS.fullmatch(status):
        query.wrong("status", "must be a status such as 503, a class such as 5xx, or none for no answer")
    return status


def _value(query: Query, declared: Declared) -> bytes | None:
    """Read a value of the data, PLACE=VALUE, whose place a contract of the caller's applications declares searchable."""
    given = query.text("data")
    if given is None:
        return None
    place, equals, value = given.partition("=")
    places = declared()
    if not equals:
        query.wrong("data", "must be a place and its value, such as render.id=17")
    elif place not in places:
        listed = f"declared are {', '.join(sorted(places))}" if places else "none declares any (`searchable`)"
        query.wrong("data", f"names {place[:64]!r}, which is not searchable: {listed}")
    return search_digest(place, value)


def searchable_places(principal: Principal, registry: Registry) -> set[str]:
    """List the places that the contracts of a caller's applications declare. O(applications)"""
    owners = [owner.application for owner in registry.applications.values() if principal.sees(owner.application.id)]
    contracts = {owner.contract: registry.contract(owner) for owner in owners}
    return {place for one in contracts.values() if one.searchable is not None for place in one.searchable.places}


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
