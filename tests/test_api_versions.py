"""`ETag` and `If-Match`: an edit of what somebody else changed meanwhile is refused, and changes nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import hdrs

from tests.support.api import Answer, Api

NEW = [
    ("/v1/webhook-endpoints", {"application": "globex", "url": "https://globex.example/", "description": "a"}),
    ("/v1/applications", {"id": "initech", "name": "a"}),
]
KINDS = pytest.mark.parametrize(("path", "body"), NEW, ids=["endpoint", "application"])


def words(path: str, text: str) -> dict[str, str]:
    return {"description" if "endpoints" in path else "name": text}


async def made(api: Api, path: str, body: Any) -> tuple[str, str]:
    """Make one, and return its own path and its version."""
    answer = await api.call("POST", path, body)
    assert answer.status == 201, answer.text
    return answer.headers["Location"], answer.headers[hdrs.ETAG]


async def edit(api: Api, place: str, text: str, tag: str | None) -> Answer:
    headers = {} if tag is None else {"If-Match": tag}
    return await api.call("PATCH", place, words(place, text), headers=headers)


@KINDS
async def test_an_edit_of_an_older_version_is_refused(tmp_path: Path, path: str, body: Any) -> None:
    """Each edit makes another version, also within one millisecond; the older one is 412, and nothing was changed."""
    async with Api(tmp_path) as api:
        place, first = await made(api, path, body)
        shown = await api.call("GET", place)
        second = await edit(api, place, "b", first)
        late = await edit(api, place, "c", first)
        kept = await api.call("GET", place)
        third = await edit(api, place, "d", f'"other", {second.headers[hdrs.ETAG]}')
    assert shown.headers[hdrs.ETAG] == first
    assert (second.status, late.status, third.status) == (200, 412, 200)
    assert late.json["type"] == "edited_since"
    assert words(place, "b").items() <= kept.json.items()
    assert kept.headers[hdrs.ETAG] == second.headers[hdrs.ETAG] != first
    assert third.headers[hdrs.ETAG] not in (first, second.headers[hdrs.ETAG])


@KINDS
async def test_without_the_header_the_last_edit_wins(tmp_path: Path, path: str, body: Any) -> None:
    """Negative control: without `If-Match`, or with `*`, nobody hears of the other edit."""
    async with Api(tmp_path) as api:
        place, _ = await made(api, path, body)
        answers = [await edit(api, place, "b", None), await edit(api, place, "c", "*")]
        kept = await api.get(place)
    assert [answer.status for answer in answers] == [200, 200]
    assert words(place, "c").items() <= kept.items()


@KINDS
async def test_of_edits_at_once_one_wins(tmp_path: Path, path: str, body: Any) -> None:
    """Ten edits of the same version come together: one is made, nine are refused."""
    async with Api(tmp_path) as api:
        place, tag = await made(api, path, body)
        answers = await asyncio.gather(*(edit(api, place, f"edit {number}", tag) for number in range(10)))
        kept = await api.get(place)
    statuses = [answer.status for answer in answers]
    assert sorted(statuses) == [200, *[412] * 9]
    assert words(place, f"edit {statuses.index(200)}").items() <= kept.items()


@KINDS
async def test_what_was_edited_is_not_deleted(tmp_path: Path, path: str, body: Any) -> None:
    """A deletion of an older version is 412, and it is still there; of the present one it is made."""
    async with Api(tmp_path) as api:
        place, first = await made(api, path, body)
        second = (await edit(api, place, "b", first)).headers[hdrs.ETAG]
        late = await api.call("DELETE", place, headers={"If-Match": first})
        there = await api.call("GET", place)
        gone = await api.call("DELETE", place, headers={"If-Match": second})
        after = await api.call("GET", place)
    assert [answer.status for answer in (late, there, gone, after)] == [412, 200, 204, 404]


@KINDS
@pytest.mark.parametrize("tag", ["1", '"1', '""', 'W/"1"', ""])
async def test_a_header_that_names_no_version_is_a_mistake(tmp_path: Path, path: str, body: Any, tag: str) -> None:
    """It is 422, and says what to send; weak tags are none to edit by."""
    async with Api(tmp_path) as api:
        place, _ = await made(api, path, body)
        answer = await edit(api, place, "b", tag)
        kept = await api.get(place)
    assert answer.status == 422
    assert b"If-Match" in answer.text
    assert words(place, "a").items() <= kept.items()


async def test_a_version_says_nothing_of_what_is_in_it(tmp_path: Path) -> None:
    """Who may not see header values learns nothing of them by comparing versions: other values, the same version."""
    tags = []
    for value in ("one", "two"):
        async with Api(tmp_path / value) as api:
            body = {**NEW[0][1], "headers": {"X-Token": value}}
            tags.append((await made(api, NEW[0][0], body))[1])
    assert tags[0] == tags[1]
