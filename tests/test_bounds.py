"""What the API answers is bounded: mistakes are counted where they are very many, lists end a page by its bytes."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from relay.api.body import ARRIVING, CONFIG, LARGE_BYTES, Arriving, read, unknown_members
from relay.api.problems import MISTAKES_MAX, TEXT_CHARACTERS_MAX
from relay.api.query import PAGE_BYTES_MAX, TURN, page_response
from relay.config import ServerConfig
from relay.contracts import Payload
from relay.contracts.schema import VALUES_MAX, Schema
from relay.core.model import Validation
from relay.core.views import Page
from tests.support.api import Api
from tests.support.desk import Desk

URL = "https://acme.example/hooks"
ANSWER_BYTES_MAX = 32 << 10
ITEM = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}, "additionalProperties": False}
LIST = Schema.compile({"type": "object", "properties": {"list": {"type": "array", "items": ITEM}}})


@pytest.mark.parametrize(
    ("written", "listed"),
    [
        ({"retry": {"schedule": ["x"] * 10_000}}, 1),
        ({"event_types": [7] * 10_000}, 1),
        ({"headers": {f"X-{number}": "" for number in range(4_000)}}, 1),
        ({"retry": {f"u{number}": 1 for number in range(4_000)}}, MISTAKES_MAX),
        ({f"unknown{number}": 1 for number in range(3_000)}, MISTAKES_MAX),
        ({"x" * 60_000: 1}, 1),
    ],
)
async def test_very_many_mistakes_are_a_short_answer(tmp_path: Path, written: dict[str, Any], listed: int) -> None:
    """I7: a definition with thousands of mistakes is 422 with the first 20 and the number of the rest."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", "/v1/webhook-endpoints", {"application": "acme", "url": URL} | written)
    assert answer.status == 422
    assert len(answer.text) < ANSWER_BYTES_MAX
    assert len(answer.json["errors"]) >= min(listed, MISTAKES_MAX)
    assert len(answer.json["errors"]) <= MISTAKES_MAX
    assert all(len(error["pointer"]) <= TEXT_CHARACTERS_MAX + 1 for error in answer.json["errors"])


async def test_what_is_not_listed_is_counted(tmp_path: Path) -> None:
    """I7: 20 mistakes are all listed; of 21 one is counted, and the detail says so."""
    async with Api(tmp_path) as api:
        for count, omitted in ((MISTAKES_MAX, None), (MISTAKES_MAX + 1, 1), (3_000, 3_000 - MISTAKES_MAX)):
            unknown = {f"u{number}": 1 for number in range(count)}
            answer = await api.call("POST", "/v1/webhook-endpoints", {"application": "acme", "url": URL} | unknown)
            assert len(answer.json["errors"]) == MISTAKES_MAX
            assert answer.json.get("errors_omitted") == omitted
            assert f"{count - 1} more" in answer.json["detail"]


async def test_a_batch_of_wrong_events_is_bounded() -> None:
    """I7: every item of a batch is answered, and none with more than its share of mistakes."""
    desk = Desk(contract="roughy")
    wrong = {"type": "cut.completed", "data": {f"u{number}": 1 for number in range(500)}}
    results = await desk.batch([wrong] * 50)
    assert [result["status"] for result in results] == [422] * 50
    assert all(len(result["problem"]["errors"]) <= MISTAKES_MAX for result in results)


async def test_a_whole_batch_lists_what_one_answer_may() -> None:
    """I7: of 1,000 wrong events each is told its first mistake and how many there are; the answer stays short."""
    desk = Desk()
    results = await desk.batch([{f"u{number}": 1 for number in range(50)}] * 1_000)
    problems = [result["problem"] for result in results]
    assert [len(problem["errors"]) for problem in problems] == [MISTAKES_MAX, *[1] * 999]
    assert all(problem["errors"][0]["pointer"] == "/type" for problem in problems)
    assert {problem["errors_omitted"] + len(problem["errors"]) for problem in problems} == {23}
    assert len(json.dumps(results)) < 1_000 * 600


async def test_a_few_wrong_events_of_a_batch_list_everything() -> None:
    """T8: as long as a batch has few mistakes, each is listed where it is."""
    results = await Desk().batch([{"type": "a b", "data": 1, "id": "x y", "typo": 1}] * 4)
    assert [len(result["problem"]["errors"]) for result in results] == [3] * 4
    assert all("errors_omitted" not in result["problem"] for result in results)


async def test_warnings_of_a_batch_are_bounded_together() -> None:
    """I7: under `warn` a batch of odd events has as few warnings as it would have errors."""
    desk = Desk(contract="roughy", validation=Validation.WARN)
    odd = {"type": "cut.completed", "data": {f"u{number}": 1 for number in range(30)}}
    bodies = [result["body"] for result in await desk.batch([odd] * 10)]
    assert [len(body["warnings"]) for body in bodies] == [MISTAKES_MAX, *[1] * 9]
    assert all(body["warnings_omitted"] > 0 for body in bodies)


@pytest.mark.parametrize("call", ["pause", "test", "rotate-secret"])
async def test_unknown_members_that_nobody_is_shown_are_only_counted(tmp_path: Path, call: str) -> None:
    """I7: of 60,000 members that a call does not have 20 are named; for the others no mistake is made."""
    written = {f"u{number}": 1 for number in range(60_000)}
    made = unknown_members(written, ["overlap"])
    assert (len(made), len({id(issue) for issue in made})) == (60_000, MISTAKES_MAX)
    async with Api(tmp_path) as api:
        answer = await api.call("POST", f"/v1/webhook-endpoints/primary/{call}", written)
    assert (answer.status, len(answer.json["errors"])) == (422, MISTAKES_MAX)
    assert answer.json["errors_omitted"] == 60_000 - MISTAKES_MAX


async def test_warnings_are_bounded_too() -> None:
    """I7: under `warn` an event with very many mistakes is taken, and its warnings are as few as errors would be."""
    desk = Desk(contract="roughy", validation=Validation.WARN)
    answer = await desk.post(json.dumps({"type": "cut.completed", "data": {f"u{number}": 1 for number in range(500)}}))
    assert answer.status == 202
    assert len(answer.body["warnings"]) <= MISTAKES_MAX


def test_mistakes_are_looked_for_in_the_beginning_of_a_large_payload() -> None:
    """I7: of 100,000 wrong items a few are named; those that are named are wrong."""
    found = LIST.issues(Payload(b'{"list":[' + b",".join([b'{"x":1}'] * 100_000) + b"]}"), allow_extra=False)
    assert {found[0].path, found[1].path} == {"/list/0/a", "/list/0/x"}
    assert {issue.message for issue in found} == {"is missing", "is not known here; leave it out"}


def test_very_many_unknown_members_are_not_looked_through() -> None:
    """I7: the first of 70,000 unknown members are mistakes enough: what tells of all of them costs 200 ms and is not asked."""

    class Asked:
        def __init__(self, schema: Schema) -> None:
            self.is_valid, self.iter_errors = schema._validator.is_valid, schema._validator.iter_errors

        def validate(self, instance: Any) -> None:
            raise AssertionError("the whole payload was looked through")

    closed = Schema.compile(ITEM)
    closed._validator = Asked(closed)  # type: ignore[assignment]
    issues = closed.issues(Payload(json.dumps({f"u{n}": 1 for n in range(70_000)}).encode()), allow_extra=False)
    assert issues
    assert all(issue.path.startswith("/u") for issue in issues)


def test_a_mistake_behind_the_beginning_is_found() -> None:
    """I7: a payload whose only mistake comes late is refused with it, and nothing that is right is called wrong."""
    right = [b'{"a":"x"}'] * (2 * VALUES_MAX)
    found = LIST.issues(Payload(b'{"list":[' + b",".join([*right, b'{"a":1}']) + b"]}"), allow_extra=False)
    assert [(issue.path, issue.message) for issue in found] == [(f"/list/{2 * VALUES_MAX}/a", "must be a string")]
    assert LIST.issues(Payload(b'{"list":[' + b",".join(right) + b"]}"), allow_extra=False) == []


async def test_a_page_ends_by_its_bytes(tmp_path: Path) -> None:
    """I6: endpoints with long headers come in pages of a bounded size, and all of them come, each once."""
    headers = {f"X-{number}": "v" * 4_000 for number in range(15)}
    async with Api(tmp_path) as api:
        for number in range(20):
            written = {"application": "acme", "url": f"{URL}/{number}", "headers": headers}
            assert (await api.call("POST", "/v1/webhook-endpoints", written)).status == 201
        seen, cursor, pages = [], "", 0
        while cursor is not None:
            answer = await api.call("GET", f"/v1/webhook-endpoints?limit=250{cursor}")
            assert len(answer.text) <= PAGE_BYTES_MAX + 1_000
            seen += [endpoint["id"] for endpoint in answer.json["data"]]
            pages += 1
            cursor = None if answer.json["next"] is None else f"&cursor={answer.json['next']}"
    assert len(seen) == len(set(seen)) == 21
    assert pages > 4


async def test_large_bodies_are_looked_at_one_by_one() -> None:
    """I7: of large bodies that are there at once one is returned in each round of the loop; a small one waits for none."""
    order: list[str] = []

    class Content:
        def __init__(self, text: bytes) -> None:
            self.text = text

        def is_eof(self) -> bool:
            return True

        def read_nowait(self) -> bytes:
            return self.text

    async def post(name: str, text: bytes) -> None:
        await read(Posted({ARRIVING: arriving, CONFIG: ServerConfig()}, Content(text)))
        order.append(name)

    class Posted(dict[Any, Any]):
        def __init__(self, state: dict[Any, Any], content: Content) -> None:
            super().__init__(state)
            self.content = content

    arriving = Arriving(1 << 20)
    large = [asyncio.create_task(post(f"large{number}", b"x" * (LARGE_BYTES + 1))) for number in range(3)]
    small = asyncio.create_task(post("small", b"x" * LARGE_BYTES))
    await asyncio.gather(*large, small)
    assert order == ["small", "large0", "large1", "large2"]


async def test_many_pages_let_others_have_their_turn_between_them() -> None:
    """I6: pages that are asked for at once are put together one in each round of the loop, and others run in between."""
    seen: list[str] = []
    request: Any = {TURN: asyncio.Lock()}

    async def other() -> None:
        while True:
            seen.append("other")
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await asyncio.gather(
        *(page_response(request, Page((1,), None, ["1"]), lambda _: seen.append("page")) for _ in range(5))
    )
    running.cancel()
    pages = [place for place, one in enumerate(seen) if one == "page"]
    assert len(pages) == 5
    assert all("other" in seen[first:second] for first, second in itertools.pairwise(pages))
