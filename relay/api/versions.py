"""Versions of what can be edited: `ETag` says which one was read, `If-Match` that an edit is of that one and no later."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from aiohttp import hdrs, web

from relay.api import problems
from relay.api.problems import Refused
from relay.core.issues import Invalid, Issue
from relay.store import ApplicationRow, EndpointRow

D = TypeVar("D")

_ANY = "*"


def tag_of(row: EndpointRow | ApplicationRow) -> str:
    """Return the version of a definition; every change makes another. It tells nothing of what is in it."""
    return f'"{row.ref}-{row.updated_at_ms}"'


def tagged(row: EndpointRow | ApplicationRow) -> Mapping[str, str]:
    """Return the header that an answer says the version with."""
    return {hdrs.ETAG: tag_of(row)}


def expected(request: web.Request, present: Callable[[], EndpointRow | ApplicationRow]) -> Callable[[], None]:
    """Return what refuses (412) an edit of another version than the request names; without the header nothing does.

    It is called where no other edit can come between: it asks for what is `present` then. Invalid for a header that
    names no versions.
    """
    given = request.headers.getall(hdrs.IF_MATCH, [])
    wanted = [one.strip() for text in given for one in text.split(",")]
    if any(one != _ANY and not (len(one) > 2 and one[0] == one[-1] == '"') for one in wanted):
        raise Invalid([Issue("", 'the header If-Match must be the ETag of an answer, quotes included, or "*"')])

    def check() -> None:
        if wanted and _ANY not in wanted and tag_of(present()) not in wanted:
            raise Refused(problems.edited_since())

    return check
