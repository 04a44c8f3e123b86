"""What an HTTP client reads when something is wrong: RFC 9457 problems with stable `type` slugs.

Each kind of problem has one constructor, so that a slug has one title and one status. No text here repeats what a
client sent except names it needs to find its mistake.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from relay.contracts import Unrenderable
from relay.core.errors import CommitUnknown, Conflict, NotFound, RelayError, StoreDamaged, StoreUnavailable, spoken
from relay.core.issues import MISTAKES_MAX, Invalid, Issue
from relay.core.units import format_size
from relay.intake import ApplicationFull, BatchTooLarge, Malformed

CONTENT_TYPE = "application/problem+json"

TEXT_CHARACTERS_MAX = 500
"""Characters of a pointer or sentence in an answer; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request was not done; `detail` ends with what to do."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Issue, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    listed: int = MISTAKES_MAX  # mistakes that are listed; the rest are counted

    def to_json(self, listed: int | None = None) -> dict[str, Any]:
        """Return the members of the problem document, with so many of its mistakes at most."""
        listed = self.listed if listed is None else listed
        document: dict[str, Any] = {
            "type": self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = [_shown(mistake) for mistake in self.errors[:listed]]
        if len(self.errors) > listed:
            document["errors_omitted"] = len(self.errors) - listed
        return document

    def body(self) -> bytes:
        """Return the problem document."""
        return orjson.dumps(self.to_json())

    def response(self) -> web.Response:
        """Return the answer that carries this problem."""
        return web.Response(status=self.status, body=self.body(), content_type=CONTENT_TYPE, headers=self.headers)


def _shown(mistake: Issue) -> dict[str, str]:
    """Write a mistake in bounds: what a client names may be as long as its request."""
    return {name: _cut(text) for name, text in mistake.to_json().items()}


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS_MAX else f"{text[:TEXT_CHARACTERS_MAX]}…"


class Refused(Exception):
    """Ends a request with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def malformed_json(detail: str) -> Problem:
    return Problem("malformed_json", "The body is not JSON", 400, detail)


def bad_request(detail: str) -> Problem:
    return Problem("bad_request", "The request cannot be read", 400, detail)


def unknown_version() -> Problem:
    return Problem(
        "http_505", "Another HTTP version", 505, "This server speaks HTTP/1.1 and HTTP/1.0. Use one of them."
    )


def invalid(mistakes: Iterable[Issue], listed: int = MISTAKES_MAX) -> Problem:
    """Every mistake at once; the detail is the first one, so that a reader of one line learns something."""
    errors = tuple(mistakes)
    first = f"{errors[0].path}: {errors[0].message}" if errors[0].path else errors[0].message
    more = f" ({len(errors) - 1} more{_where(len(errors), listed)})" if len(errors) > 1 else ""
    return Problem("invalid_request", "The request has mistakes", 422, _cut(first) + more, errors, listed=listed)


def _where(count: int, listed: int) -> str:
    return " in `errors`" if count <= listed else f"; `errors` has the first {listed}"


def lossy_number(mistake: Issue) -> Problem:
    """A number that receivers would read as another one."""
    detail = f"{mistake.path}: {mistake.message}"
    return Problem("lossy_number", "A number would become another one", 422, detail, (mistake,))


def unauthorized(detail: str) -> Problem:
    headers = {"WWW-Authenticate": 'Bearer realm="relay"'}
    return Problem("unauthorized", "A token is needed", 401, detail, headers=headers)


def forbidden(detail: str) -> Problem:
    return Problem("forbidden", "The token does not allow this", 403, detail)


def operator_only(contract: str) -> Problem:
    """The contract has the operator register endpoints, on request."""
    detail = f"Under the contract {contract} the operator makes, changes and deletes endpoints. Ask them to do it."
    return Problem("operator_only", "Endpoints are the operator's business here", 403, detail)


def not_found(detail: str) -> Problem:
    return Problem("not_found", "There is no such thing", 404, detail)


def nothing_here() -> Problem:
    return not_found("There is nothing at this path. docs/API.md lists every call.")


def method_not_allowed(methods: Iterable[str]) -> Problem:
    allowed = ", ".join(sorted(methods))
    detail = f"This path takes {allowed}."
    return Problem("method_not_allowed", "The path has no such method", 405, detail, headers={"Allow": allowed})


def body_timeout(timeout_ms: int) -> Problem:
    detail = f"The body did not arrive within {timeout_ms / 1000:g} s. Send it faster or in smaller pieces."
    return Problem("request_timeout", "The body came too slowly", 408, detail)


def edited_since() -> Problem:
    """What the request is about is of another version than its If-Match names."""
    detail = "It was changed since it was read, and this edit changed nothing. Read it again, and send its new ETag."
    return Problem("edited_since", "It was changed since it was read", 412, detail)


def conflict(code: str, detail: str) -> Problem:
    return Problem(code, code.replace("_", " ").capitalize(), 409, detail)


def body_too_large(max_bytes: int) -> Problem:
    detail = f"A body may have {format_size(max_bytes)} (server.max_body). Send less, or a link to the data."
    return Problem("body_too_large", "The body is too large", 413, detail)


def unsupported_media(detail: str) -> Problem:
    return Problem("unsupported_media_type", "The body's form is not taken", 415, detail)


def expectation_failed() -> Problem:
    detail = 'The only expectation known is "100-continue". Leave the Expect header out.'
    return Problem("expectation_failed", "The Expect header is not understood", 417, detail)


def unexpected() -> Problem:
    detail = "The relay made a mistake, which its log describes. Repeat with the same idempotency key."
    return Problem("internal_error", "Something went wrong here", 500, detail)


def backlog_full(backlog: int, max_backlog: int) -> Problem:
    detail = f"{backlog} deliveries wait, {max_backlog} may (storage.max_backlog). Repeat later; deliveries go on."
    return _unavailable("backlog_full", "The backlog is full", detail, retry_after_s=30)


def application_backlog_full(detail: str) -> Problem:
    """One application has as much due as it may have; the others go on (Q10)."""
    return _unavailable("application_backlog_full", "The application's backlog is full", detail, retry_after_s=30)


def rate_limited(wait_s: int) -> Problem:
    """A token is used faster than its rate allows."""
    detail = f"This token is used faster than it may be (rate, bytes_rate). Go on in {wait_s} s, and more slowly."
    return Problem("rate_limited", "Too many requests", 429, detail, headers={"Retry-After": str(wait_s)})


def too_many_tests(said: str, wait_s: int) -> Problem:
    """An application has as many tests as it may have."""
    detail = f"An application may have {said} tests made. Try again in {wait_s} s."
    return Problem("too_many_tests", "Too many tests", 429, detail, headers={"Retry-After": str(wait_s)})


def definition_too_large(max_bytes: int) -> Problem:
    detail = f"A definition may have {format_size(max_bytes)} (limits.definition). Leave out what it does not need."
    return Problem("definition_too_large", "The definition is too large", 413, detail)


def disk_low(free_bytes: int, min_free_bytes: int) -> Problem:
    """The disk has less free space than `storage.min_free_disk` (Q10)."""
    detail = (
        f"{format_size(free_bytes >> 20 << 20)} of disk are free, {format_size(min_free_bytes)} must be "
        "(storage.min_free_disk). Repeat later; deliveries go on."
    )
    return _unavailable("disk_low", "The disk is nearly full", detail, retry_after_s=30, status=507)


def draining() -> Problem:
    return _unavailable("draining", "The relay is stopping", "Repeat in a few seconds.", retry_after_s=5)


def store_unavailable(detail: str) -> Problem:
    return _unavailable("store_unavailable", "The database takes no writes", detail, retry_after_s=5)


def outcome_unknown() -> Problem:
    """A commit failed, so the write may be there or not (invariant 5)."""
    detail = "Nobody knows whether this was stored. Repeat it with the same idempotency key: it will count once."
    return _unavailable("outcome_unknown", "The outcome is unknown", detail, retry_after_s=1)


def too_many_bodies(max_bytes: int) -> Problem:
    detail = (
        f"The {format_size(max_bytes)} that arriving bodies may have go to newer ones. Send this one again, faster."
    )
    return _unavailable("too_many_bodies", "Too many bodies are arriving", detail, retry_after_s=1)


def too_many_connections(max_connections: int) -> Problem:
    detail = f"{max_connections} connections are open (server.max_connections). Keep connections and reuse them."
    return _unavailable("too_many_connections", "Too many connections", detail, retry_after_s=1)


def too_many_of_one_caller(share: int) -> Problem:
    """One caller holds its share of a listener's connections."""
    detail = (
        f"This token has {share} connections open, three quarters of what may be (server.max_connections). "
        "Keep connections and reuse them."
    )
    return _unavailable("too_many_connections", "Too many connections", detail, retry_after_s=1)


def foreseen(error: Exception) -> Problem | None:
    """Say an error over HTTP; None for one that nobody foresaw."""
    match error:
        case Refused():
            return error.problem
        case web.HTTPException():
            return from_http(error)
        case RelayError():
            return from_error(error)
    return None


def from_error(error: RelayError) -> Problem:
    """Say one of our own errors over HTTP."""
    match error:
        case Unrenderable(lossy=True):
            return lossy_number(error.issues[0])
        case Invalid():
            return invalid(error.issues)
        case ApplicationFull():
            return application_backlog_full(spoken(error))
        case Malformed():
            return malformed_json(spoken(error))
        case BatchTooLarge():
            return Problem("batch_too_large", "The batch has too many events", 413, spoken(error))
        case NotFound():
            return not_found(spoken(error))
        case Conflict():
            return conflict(error.code, spoken(error))
        case CommitUnknown() | StoreDamaged():
            return outcome_unknown()
        case StoreUnavailable():
            return store_unavailable(spoken(error))
        case _:
            return bad_request(spoken(error))


def from_http(error: web.HTTPException) -> Problem:
    """Say one of aiohttp's own refusals as a problem, without the input that it may repeat."""
    match error:
        case web.HTTPNotFound():
            return nothing_here()
        case web.HTTPMethodNotAllowed():
            return method_not_allowed(error.allowed_methods)
        case web.HTTPExpectationFailed():
            return expectation_failed()
        case _:
            return Problem(f"http_{error.status}", error.reason, error.status, f"{error.reason}.")


def _unavailable(slug: str, title: str, detail: str, *, retry_after_s: int, status: int = 503) -> Problem:
    return Problem(slug, title, status, detail, headers={"Retry-After": str(retry_after_s)})
