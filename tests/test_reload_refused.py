"""A reload that the database speaks against changes nothing: not in memory, and not on the disk (H4)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.telemetry import log
from tests.support.config import WHSEC
from tests.support.stack import Stack
from tests.support.stores import look

ENDPOINTS = "/v1/webhook-endpoints"
APPLICATIONS = "/v1/applications"
STATEMENTS = (
    "SELECT id, origin, contract_seen, deleted_at FROM application ORDER BY ref",
    "SELECT id, application, origin, definition, state, url_seen, health, updated_at FROM endpoint ORDER BY ref",
)


def application(name: str, *lines: str, **endpoints: str) -> str:
    """Write an application with endpoints, name → URL."""
    hooks = "".join(
        f'[[application.endpoint]]\nid = "{id}"\nurl = "{url}"\nsecret = "{WHSEC}"\nevent_types = ["*"]\n'
        for id, url in endpoints.items()
    )
    return "\n".join([f'[[application]]\nid = "{name}"', *lines, hooks])


def kept(stack: Stack) -> list[Any]:
    """What the file of the database holds about applications and endpoints, read with other eyes."""
    return [look(stack.folder, statement) for statement in STATEMENTS]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A relay with an application `tenant`, whose endpoint `hook` is paused and is owed a delivery."""
    async with Stack(tmp_path, extra=application("tenant", hook="https://hook.example/")) as running:
        await running.call("POST", f"{ENDPOINTS}/hook/pause")
        posted = {"type": "a.b", "data": {"n": 1}, "application": "tenant"}
        assert (await running.call("POST", "/v1/events", posted))[0] == 202
        yield running


ELSEWHERE = "https://elsewhere.example/"
WITHOUT_SECRET = application("loose", 'contract = "rotor"')
NEW = application("fresh", young="https://young.example/")


async def test_a_late_refusal_leaves_no_trace(stack: Stack) -> None:
    """H4: a contract in use stops the whole file: no new application or endpoint, no changed URL, nothing in memory."""
    before, registry = kept(stack), stack.relay.registrar.current
    moved = application("tenant", 'contract = "roughy"', hook=ELSEWHERE)
    stack.write_config(extra=moved + NEW)
    status, answer = await stack.call("POST", "/v1/reload")
    assert (status, "made under the contract 'standard'" in answer["errors"][0]["message"]) == (422, True)
    assert kept(stack) == before
    assert stack.relay.registrar.current is registry
    assert (await stack.call("GET", f"{ENDPOINTS}/hook"))[1]["url"] == "https://hook.example/"
    assert (await stack.call("GET", f"{APPLICATIONS}/fresh"))[0] == 404
    assert (await stack.call("POST", APPLICATIONS, {"id": "fresh"}))[0] == 201  # its id was not used up


async def test_a_refusal_of_the_database_is_logged(stack: Stack) -> None:
    """H4: whoever reads the log learns that a reload was asked for and refused, by whatever it was."""
    stack.write_config(extra=application("tenant", 'contract = "roughy"', hook=ELSEWHERE))
    with capture_logs() as lines:
        await stack.call("POST", "/v1/reload")
    assert [(line["by"], line["applied"]) for line in lines if line["event"] == log.RELOAD_ASKED] == [("admin", False)]


async def test_without_the_mistake_the_same_file_is_taken(stack: Stack) -> None:
    """Negative control: the same new application, endpoint and URL are written when nothing is against them."""
    before = kept(stack)
    stack.write_config(extra=application("tenant", hook=ELSEWHERE) + NEW)
    assert (await stack.call("POST", "/v1/reload"))[0] == 200
    assert kept(stack) != before
    assert [row[0] for row in kept(stack)[0]] == ["acme", "tenant", "fresh"]
    assert [(row[0], row[5]) for row in kept(stack)[1]] == [("hook", ELSEWHERE), ("young", "https://young.example/")]


async def test_everything_that_is_against_a_file_is_said_at_once(stack: Stack) -> None:
    """H4: taken ids, secrets that a contract cannot use and a contract in use come in one answer, and leave no trace."""
    stack.write_config(extra=application("tenant", hook="https://hook.example/") + WITHOUT_SECRET)
    assert (await stack.call("POST", "/v1/reload"))[0] == 200
    made = {"url": "https://made.example/", "event_types": ["*"], "application": "loose"}
    assert (await stack.call("POST", ENDPOINTS, made))[0] == 201
    assert (await stack.call("POST", APPLICATIONS, {"id": "taken"}))[0] == 201
    assert (await stack.call("POST", APPLICATIONS, {"id": "gone"}))[0] == 201
    assert (await stack.call("DELETE", f"{APPLICATIONS}/gone"))[0] == 204
    before = kept(stack)
    moved = application("tenant", 'contract = "roughy"', hook="https://hook.example/")
    stack.write_config(extra=moved + application("loose") + application("taken") + application("gone") + NEW)
    status, answer = await stack.call("POST", "/v1/reload")
    told = "\n".join(error["message"] for error in answer["errors"])
    assert status == 422
    assert len(answer["errors"]) == 4
    for words in (
        "'taken' was made through the API",
        "'gone' was deleted",
        "it has no secret",
        "has deliveries due (1)",
    ):
        assert words in told
    assert kept(stack) == before
