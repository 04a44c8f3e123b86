"""What the API answers is bounded: mistakes are counted where they are very many, lists end a page by its bytes."""

import json
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest

from relay.api.body import unknown_members
from relay.api.problems import TEXT_CHARACTERS_MAX
from relay.api.query import PAGE_BYTES_MAX
from relay.api.written import Read, _repaired
from relay.contracts import Payload
from relay.contracts.schema import VALUES_MAX, Schema
from relay.core.issues import CANDIDATES_MAX, MISTAKES_MAX, WORD_MAX, Issue, nearest
from relay.core.model import Validation
from tests.support.api import CONFIG as RELAY_CONFIG
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


class Counted(str):
    """Text that counts how often it is compared with other text."""

    __slots__ = ()
    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


@pytest.mark.parametrize("table", ["retry", "tls", "headers"])
def test_very_many_mistakes_of_a_table_are_taken_out_at_once(table: str) -> None:
    """I7: what is left of a table with very many mistakes is found by looking at each member, not at all for each mistake."""
    Counted.comparisons = 0
    names = [Counted(f"u{number}") for number in range(500)]
    repaired = _repaired({"url": URL, table: dict.fromkeys(names) | {"good": 1}}, [(table, name) for name in names])
    assert repaired == {"url": URL, table: {"good": 1}}
    assert Counted.comparisons <= 4 * len(names)


def test_very_many_mistakes_are_held_against_each_other_once() -> None:
    """I7: which mistakes rest on which is found by their places, not by comparing each with each."""
    Counted.comparisons = 0
    form = [Issue(Counted(f"/retry/u{number}"), "is wrong") for number in range(500)] + [Issue("/url", "is missing")]
    others = [Issue(Counted(f"/event_types/{number}"), "is none") for number in range(500)]
    resting = [Issue("/retry", "rests on one"), Issue("/url/host", "rests on another"), Issue("", "rests on all")]
    assert Read(None, form).including([*others, *resting]) == [*form, *others]
    assert Counted.comparisons <= 4 * len(form) + 4 * len(others)


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


# -- what was meant ----------------------------------------------------------------------------------------------------


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every comparison of a mistyped word with a known one, by the length of the mistyped one."""
    made: list[int] = []
    ask = SequenceMatcher.real_quick_ratio

    def compare(self: SequenceMatcher[str]) -> float:
        made.append(len(self.b))
        return ask(self)

    monkeypatch.setattr(SequenceMatcher, "real_quick_ratio", compare)
    return made


NEAR_MISSES = ["typ", "dat", "aplication", "timestmp", "metdata", "deliver_a", "expires_a", "odering_key", "idd", "ke"]
SUGGESTED_MAX = 2 * MISTAKES_MAX
"""An item of a batch is looked through whole before its mistakes are counted."""


@pytest.mark.parametrize(
    ("item", "known"),
    [
        ({"type": "cut.completed", "data": {}} | dict.fromkeys(NEAR_MISSES), 10),
        ({"type": "cut.complete", "data": {}}, 8),
        ({"type": "cut.complete" * 20, "data": {}}, 8),
    ],
)
@pytest.mark.parametrize("validation", [Validation.STRICT, Validation.WARN])
async def test_a_batch_of_near_misses_is_compared_for_what_is_listed(
    comparisons: list[int], item: dict[str, Any], known: int, validation: Validation
) -> None:
    """I7: of 1,000 events with mistyped members or types, what was meant is sought for the mistakes that are listed."""
    results = await Desk(contract="roughy", validation=validation).batch([item] * 1_000)
    assert len(results) == 1_000
    assert 0 < len(comparisons) <= SUGGESTED_MAX * known
    assert max(comparisons) <= WORD_MAX


async def test_the_listed_mistakes_of_a_batch_say_what_was_meant() -> None:
    """The control: the first events of a batch get their suggestion, and those behind them what there is."""
    results = await Desk(contract="roughy").batch([{"type": "cut.complete", "data": {}}] * (MISTAKES_MAX + 1))
    said = [result["problem"]["errors"][0]["message"] for result in results]
    assert ["did you mean 'cut.completed'?" in one for one in said] == [*[True] * MISTAKES_MAX, False]
    assert "use one of: asset.failed, " in said[-1]


async def test_an_endpoint_of_near_misses_is_compared_for_what_is_listed(
    comparisons: list[int], tmp_path: Path
) -> None:
    """I7: of 1,000 mistyped subscriptions, at creation and in a patch, what was meant is sought for those that are listed."""
    async with Api(tmp_path, RELAY_CONFIG | {"application": [{"id": "acme", "contract": "roughy"}]}) as api:
        body = {"application": "acme", "url": URL, "event_types": ["cut.complete"] * 1_000}
        assert (await api.call("POST", "/v1/webhook-endpoints", body)).status == 422
        assert 0 < len(comparisons) <= MISTAKES_MAX * 8
        made = await api.call("POST", "/v1/webhook-endpoints", body | {"event_types": ["cut.completed"]})
        comparisons.clear()
        patched = await api.call(
            "PATCH", f"/v1/webhook-endpoints/{made.json['id']}", {"event_types": ["cut.x"] * 1_000}
        )
        assert patched.status == 422
        assert 0 < len(comparisons) <= MISTAKES_MAX * 8


def test_of_very_many_known_words_some_are_compared(comparisons: list[int]) -> None:
    """I7: a word is compared with 100 of 10,000, those that begin as it does; what is meant is still found among them."""
    known = [f"{letter}-{number:04}" for letter in "abcd" for number in range(2_500)]
    assert nearest("c-001", known) in known
    assert len(comparisons) <= CANDIDATES_MAX
    assert nearest("acm", ["acme"] * 3) == "acme"


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


@pytest.mark.parametrize("allow_extra", [False, True])
def test_very_many_unknown_members_are_not_looked_through(allow_extra: bool) -> None:
    """I7: what is wrong with the first of 70,000 unknown members, or missing, is mistake enough.

    What tells of all of them costs 200 ms and is not asked, whether a contract takes members that it does not know or not.
    """

    class Asked:
        def __init__(self, schema: Schema) -> None:
            self.is_valid, self.iter_errors = schema._validator.is_valid, schema._validator.iter_errors

        def validate(self, instance: Any) -> None:
            raise AssertionError("the whole payload was looked through")

    closed = Schema.compile(ITEM)
    closed._validator = Asked(closed)  # type: ignore[assignment]
    issues = closed.issues(Payload(json.dumps({f"u{n}": 1 for n in range(70_000)}).encode()), allow_extra=allow_extra)
    unknown = [issue for issue in issues if issue.path.startswith("/u")]
    assert bool(unknown) is not allow_extra
    assert set(issues) - set(unknown) <= {Issue("/a", "is missing")}
    assert issues


def test_a_mistake_behind_the_beginning_is_found() -> None:
    """I7: a payload whose only mistake comes late is refused with it, and nothing that is right is called wrong."""
    right = [b'{"a":"x"}'] * (2 * VALUES_MAX)
    found = LIST.issues(Payload(b'{"list":[' + b",".join([*right, b'{"a":1}']) + b"]}"), allow_extra=False)
    assert [(issue.path, issue.message) for issue in found] == [(f"/list/{2 * VALUES_MAX}/a", "must be a string")]
    assert LIST.issues(Payload(b'{"list":[' + b",".join(right) + b"]}"), allow_extra=False) == []


def test_what_stands_behind_the_beginning_is_not_missing() -> None:
    """I7: a member that must be there and comes after very many others is there; one that is nowhere is missing."""
    schema = Schema.compile(
        {"type": "object", "required": ["last", "none"], "properties": {"first": {"type": "string"}}}
    )
    written = {"first": 1} | {f"u{number}": 1 for number in range(2 * VALUES_MAX)} | {"last": 1}
    found = schema.issues(Payload(json.dumps(written).encode()), allow_extra=False)
    assert {(issue.path, issue.message) for issue in found} == {("/first", "must be a string"), ("/none", "is missing")}


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
