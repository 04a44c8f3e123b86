"""Problems: what clients are told, and what they are not."""

import json

import pytest
from aiohttp import web

from relay.api import problems
from relay.api.problems import Problem
from relay.core.errors import (
    CommitUnknown,
    ConfigError,
    Conflict,
    NotFound,
    RelayError,
    StoreDamaged,
    StoreUnavailable,
    spoken,
)
from relay.core.issues import Issue


def test_a_problem_is_an_rfc_9457_document() -> None:
    """The answer has the media type and the members of RFC 9457; `type` is the slug."""
    response = problems.not_found("no endpoint 'x'").response()
    assert (response.status, response.content_type) == (404, "application/problem+json")
    assert isinstance(response.body, bytes)
    assert json.loads(response.body) == {
        "type": "not_found",
        "title": "There is no such thing",
        "status": 404,
        "detail": "no endpoint 'x'",
    }


def test_every_mistake_is_listed_with_its_pointer() -> None:
    """A validation problem lists all mistakes; its detail is the first one and how many follow."""
    problem = problems.invalid([Issue("/type", "is missing"), Issue("/id", "is too long")])
    assert problem.detail == "/type: is missing (1 more in `errors`)"
    assert problem.to_json()["errors"] == [
        {"pointer": "/type", "message": "is missing"},
        {"pointer": "/id", "message": "is too long"},
    ]


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (NotFound("no event 'x'"), 404, "not_found"),
        (Conflict("managed_by_file", "it is in the file"), 409, "managed_by_file"),
        (StoreUnavailable("the disk is full"), 503, "store_unavailable"),
        (CommitUnknown("commit failed"), 503, "outcome_unknown"),
        (StoreDamaged("database disk image is malformed"), 503, "outcome_unknown"),
        (ConfigError("no such key"), 400, "bad_request"),
    ],
)
def test_every_own_error_has_its_problem(error: RelayError, status: int, slug: str) -> None:
    """Errors from below become a status and a slug that clients can act on."""
    problem = problems.from_error(error)
    assert (problem.status, problem.type) == (status, slug)


def test_an_error_is_spoken_as_sentences() -> None:
    """What is wrong and what to do are joined as two sentences."""
    assert spoken(NotFound("no event 'x'", remedy="List them.")) == "No event 'x'. List them."


def test_an_unknown_outcome_asks_for_a_repetition_with_the_same_key() -> None:
    """A failed commit is "unknown": repeat with the same key (invariant 5, reliability §7.7); its cause stays inside."""
    problem = problems.from_error(CommitUnknown("SQLITE_IOERR_FSYNC at /var/lib/relay"))
    assert "same idempotency key" in problem.detail
    assert "/var/lib" not in problem.detail
    assert problem.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("problem", "status", "slug"),
    [
        (problems.backlog_full(10_000_000, 10_000_000), 503, "backlog_full"),
        (problems.disk_low(300 << 20, 512 << 20), 507, "disk_low"),
        (problems.draining(), 503, "draining"),
        (problems.store_unavailable("the last commit failed"), 503, "store_unavailable"),
        (problems.too_many_connections(1000), 503, "too_many_connections"),
        (problems.too_many_bodies(1 << 26), 503, "too_many_bodies"),
    ],
)
def test_back_pressure_says_when_to_come_again(problem: Problem, status: int, slug: str) -> None:
    """Every refusal for lack of room has Retry-After (Q10)."""
    assert (problem.status, problem.type) == (status, slug)
    assert int(problem.headers["Retry-After"]) > 0


def test_the_disk_problem_names_both_sizes() -> None:
    """Whoever reads it knows what is free and what must be."""
    assert problems.disk_low((300 << 20) + 77, 512 << 20).detail.startswith("300MiB of disk are free, 512MiB must be")


def test_aiohttps_refusals_become_problems_without_input() -> None:
    """404, 405, 417 and others of aiohttp's own keep status and `Allow`, and lose the text that repeats input."""
    assert problems.from_http(web.HTTPNotFound(text="/secret/path")).type == "not_found"
    method = problems.from_http(web.HTTPMethodNotAllowed("BREW", ["POST", "GET"]))
    assert method.headers == {"Allow": "GET, POST"}
    assert problems.from_http(web.HTTPExpectationFailed(text="Unknown Expect: <x>")).type == "expectation_failed"
    other = problems.from_http(web.HTTPRequestURITooLong(text="<script>"))
    assert (other.type, other.status) == ("http_414", 414)
    assert "<script>" not in json.dumps(other.to_json())
