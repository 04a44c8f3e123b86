"""Which call a request makes: by path and method, and what is answered where there is none."""

from collections.abc import Mapping
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from relay.api.problems import Problem, Refused
from relay.api.routing import Found, Route, Table
from relay.core.access import Right


async def handler(request: web.Request) -> web.StreamResponse:
    raise AssertionError("no test calls it")


def route(method: str, path: str, right: Right | None = Right.READ) -> Route:
    return Route(method, path, right, handler)


ROUTES = [
    route("POST", "/v1/events"),
    route("GET", "/v1/events"),
    route("POST", "/v1/events/batch"),
    route("GET", "/v1/events/{id}"),
    route("GET", "/v1/events/{id}/deliveries"),
    route("DELETE", "/v1/applications/{id}/keys/{key}"),
    route("GET", "/v1/event-types/{name:.+}"),
    route("GET", "/healthz", None),
]


def find(method: str, target: str) -> Found:
    return Table(ROUTES).find(make_mocked_request(method, target))


async def problem_of(found: Found) -> Problem:
    """What is said of a call that does not exist."""
    request: Any = None
    with pytest.raises(Refused) as refused:
        await found.route.handler(request)
    return refused.value.problem


@pytest.mark.parametrize(
    ("method", "target", "path", "parameters"),
    [
        ("POST", "/v1/events", "/v1/events", {}),
        ("GET", "/v1/events?limit=1", "/v1/events", {}),
        ("GET", "/v1/%65vents", "/v1/events", {}),
        ("POST", "http://relay.example/v1/events", "/v1/events", {}),
        ("POST", "/v1/events/batch", "/v1/events/batch", {}),
        ("GET", "/v1/events/batch", "/v1/events/{id}", {"id": "batch"}),
        ("GET", "/v1/events/evt_1", "/v1/events/{id}", {"id": "evt_1"}),
        ("GET", "/v1/events/a%2Fb%25%20c?x=1", "/v1/events/{id}", {"id": "a/b% c"}),
        ("GET", "/v1/events/a%252Fb", "/v1/events/{id}", {"id": "a%2Fb"}),
        ("GET", "/v1/events/evt_1/deliveries", "/v1/events/{id}/deliveries", {"id": "evt_1"}),
        ("DELETE", "/v1/applications/a/keys/k", "/v1/applications/{id}/keys/{key}", {"id": "a", "key": "k"}),
        ("GET", "/v1/event-types/a/b.c", "/v1/event-types/{name:.+}", {"name": "a/b.c"}),
    ],
)
def test_a_call_is_found(method: str, target: str, path: str, parameters: Mapping[str, str]) -> None:
    """A path counts as it reads when it is percent-decoded; `%2F` is part of a parameter and ends no segment."""
    found = find(method, target)
    assert (found.route.method, found.route.path, found.parameters) == (method, path, parameters)
    assert found.route.handler is handler


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/events/",
        "/V1/events",
        "//v1/events",
        "/v1/events/a/b",
        "/v1/event-types/",
        "/v1/events/%7Bid%7D",
    ],
)
async def test_there_is_nothing_at_other_paths(target: str) -> None:
    """404, for whatever method; a path in braces is no parameter."""
    for method in ("GET", "POST", "BREW"):
        found = find(method, target)
        assert (await problem_of(found)).type == "not_found"
        assert found.route.right is None


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", "/v1/events", "GET, POST"),
        ("DELETE", "/v1/events/batch", "GET, POST"),
        ("HEAD", "/v1/events/evt_1", "GET"),
        ("POST", "/healthz", "GET"),
    ],
)
async def test_another_method_hears_which_there_are(method: str, target: str, allowed: str) -> None:
    """405, with every method of the path."""
    problem = await problem_of(find(method, target))
    assert (problem.status, problem.headers["Allow"]) == (405, allowed)


def test_paths_without_a_token_are_known() -> None:
    """Only what asks for no right is public."""
    assert Table(ROUTES).public == {"/healthz"}
