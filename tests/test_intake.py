"""Intake: what producers may post, what becomes of it, and what they are told."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.api.problems import Refused
from relay.contracts import ContractCatalogue, payload
from relay.core.access import Principal, Role
from relay.core.errors import CommitUnknown, Conflict
from relay.core.model import NewEvent, Validation
from relay.intake import IntakeLimits
from relay.intake.parse import is_deeper, screen
from tests.support.contract_files import own
from tests.support.desk import Answer, Desk, keeping_desk, pointers
from tests.support.fakes import NotingStore

ANYBODY = Principal("ops", Role.ADMIN)
DAY_MS = 86_400_000
FIRST_KEYED = '{"type": "a.b", "data": 1, "idempotency_key": "k1"}'


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Desk]:
    async with keeping_desk(tmp_path) as desk:
        yield desk


async def test_an_event_is_answered_with_what_was_stored(desk: Desk) -> None:
    """A new event is 202 with id, type, application, time, the number of deliveries, and where to find it."""
    answer = await desk.post('{"type": "render.completed", "data": {"id": 7}}')
    event = desk.store.events[0]
    assert answer == Answer(
        202,
        {
            "id": event.id,
            "type": "render.completed",
            "application": "acme",
            "created_at": "2027-01-15T08:00:00.000Z",
            "deliveries": 1,
            "duplicate": False,
        },
        f"/v1/events/{event.id}",
    )
    assert event.id.startswith("evt_")
    assert event.targets == (10,)


async def test_the_payload_keeps_its_bytes(desk: Desk) -> None:
    """Spacing, exponents, huge integers, doubled keys and escapes reach the body as received."""
    data = '{"a" : 1e5,\t"b":[ 1180591620717411303424 ], "a":"\\u00e9\\/\\ud83d\\ude00" ,"c":null}'
    await desk.post('{"type":"a.b","data":' + data + ' ,"metadata":{ "x" :1}}')
    assert desk.store.events[0].body.endswith(b'"data":' + data.encode() + b"}")
    assert desk.store.events[0].metadata == b'{ "x" :1}'


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    ),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
)
def test_any_payload_keeps_its_bytes(value: object, indent: int | str | None, ascii_only: bool) -> None:
    """Whatever JSON a producer writes is a slice of the frozen body (invariant 6)."""
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    try:
        body = f'{{"type":"a.b","data":{data}}}'.encode()
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8
    desk = Desk()
    asyncio.run(desk.post(body))
    assert desk.store.events[0].body.endswith(b'"data":' + data.encode() + b"}")


async def test_optional_members_reach_the_store(desk: Desk) -> None:
    """Times become unix milliseconds in any zone; a given id is used and marked as given."""
    await desk.post(
        '{"type": "a.b", "data": 1, "id": "job-7_x", "timestamp": "2027-01-15T09:00:00.125+01:00",'
        ' "deliver_at": "2027-01-15T08:00:01Z", "expires_at": "2027-01-16T00:00:00-08:00"}'
    )
    event = desk.store.events[0]
    assert (event.id, event.id_given) == ("job-7_x", True)
    assert event.timestamp_ms == 1_800_000_000_125
    assert event.deliver_at_ms == 1_800_000_001_000
    assert event.expires_at_ms == 1_800_000_000_000 + DAY_MS
    assert b'"timestamp":"2027-01-15T08:00:00.125Z"' in event.body


async def test_a_null_member_is_one_that_was_left_out(desk: Desk) -> None:
    """Optional members may be null; `data` may be null and is then the payload."""
    await desk.post('{"type": "a.b", "data": null, "id": null, "metadata": null, "deliver_at": null}')
    event = desk.store.events[0]
    assert (event.id_given, event.metadata, event.deliver_at_ms) == (False, None, None)
    assert event.body.endswith(b'"data":null}')


async def test_a_deliver_at_that_has_passed_means_now(desk: Desk) -> None:
    """A due time in the past would only jump the queue."""
    await desk.post('{"type": "a.b", "data": 1, "deliver_at": "2020-01-01T00:00:00Z"}')
    assert desk.store.events[0].deliver_at_ms is None


async def test_an_event_that_goes_nowhere_says_why(desk: Desk) -> None:
    """An event that matches no endpoint is stored, and its answer has the reason (invariant 7)."""
    desk.registrar.delete_endpoint("to-acme")
    answer = await desk.post('{"type": "a.b", "data": 1}')
    assert (answer.status, answer.body["deliveries"], answer.body["reason"]) == (202, 0, "no_match")
    assert desk.store.events[0].reason_detail == "no endpoint subscribes to a.b"


async def test_every_mistake_is_reported_at_once(desk: Desk) -> None:
    """Unknown, missing, mistyped and unlawful members all appear in one answer, each with its pointer."""
    problem = await desk.refusal(
        '{"tpye": "a.b", "data": 1, "id": "no dots. no blanks", "idempotency_key": 7, "timestamp": "yesterday",'
        ' "expires_at": "2020-01-01T00:00:00Z", "metadata": [], "application": "gamma"}',
        ANYBODY,
    )
    assert (problem.status, problem.type) == (422, "invalid_request")
    assert set(pointers(problem)) == {
        "/type", "/tpye", "/id", "/idempotency_key", "/timestamp", "/expires_at", "/metadata", "/application",
    }  # fmt: skip
    assert len(problem.errors) == 8
    messages = {mistake.path: mistake.message for mistake in problem.errors}
    assert messages["/tpye"] == 'is not a member of an event; did you mean "type"?'
    assert messages["/type"].startswith("is missing")
    assert "2026-11-22T08:30:00Z" in messages["/timestamp"]


@pytest.mark.parametrize(
    ("member", "pointer", "says"),
    [
        ('"type": "no blanks"', "/type", "joined by dots"),
        (f'"type": "{"a" * 257}"', "/type", "256"),
        ('"type": 5', "/type", "must be text"),
        ('"id": ""', "/id", "1 to 64"),
        (f'"id": "{"a" * 65}"', "/id", "1 to 64"),
        ('"id": "evt.1"', "/id", "A-Z a-z 0-9 _ and -"),
        ('"id": "evt_1\\n"', "/id", "A-Z a-z 0-9 _ and -"),
        ('"idempotency_key": ""', "/idempotency_key", "1 to 255"),
        (f'"idempotency_key": "{"k" * 256}"', "/idempotency_key", "1 to 255"),
        ('"idempotency_key": "a b"', "/idempotency_key", "visible ASCII"),
        ('"idempotency_key": "é"', "/idempotency_key", "visible ASCII"),
        ('"timestamp": "2026-11-22T08:30:00"', "/timestamp", "with its zone"),
        ('"timestamp": "2026-11-22"', "/timestamp", "with its zone"),
        ('"timestamp": 1800000000', "/timestamp", "with its zone"),
        ('"timestamp": "2026-02-30T00:00:00Z"', "/timestamp", "with its zone"),
        ('"timestamp": "1969-12-31T23:59:59Z"', "/timestamp", "between 1970 and 9998"),
        ('"timestamp": "9999-12-31T23:59:59-12:00"', "/timestamp", "between 1970 and 9998"),
        ('"deliver_at": "2027-02-14T08:00:00.001Z"', "/deliver_at", "at most 30 days"),
        ('"expires_at": "2027-01-15T08:00:00Z"', "/expires_at", "in the future"),
        ('"expires_at": "9999-12-31T23:59:59Z"', "/expires_at", "before 9999"),
        ('"deliver_at": "2027-01-16T00:00:00Z", "expires_at": "2027-01-16T00:00:00Z"', "/expires_at", "after deliver_at"),
        ('"metadata": "text"', "/metadata", "JSON object"),
        (f'"metadata": {{"x": "{"y" * 16384}"}}', "/metadata", "at most 16384 bytes"),
        ('"ordering_key": "project-1"', "/ordering_key", "keeps no order"),
        ('"ordering_key": ""', "/ordering_key", "1 to 255"),
        ('"application": "beta"', "/application", "No application 'beta'"),
        ('"a/b~c": 1', "/a~1b~0c", "is not a member"),
    ],
)  # fmt: skip
async def test_each_rule_has_its_message(desk: Desk, member: str, pointer: str, says: str) -> None:
    """One broken rule is one mistake, with the pointer of its member and the rule in words."""
    type_member = "" if member.startswith('"type"') else '"type": "a.b", '
    problem = await desk.refusal("{" + type_member + '"data": 1, ' + member + "}")
    assert problem.status == 422
    assert pointers(problem) == [pointer]
    assert says in problem.errors[0].message


async def test_the_latest_deliver_at_is_thirty_days_away(desk: Desk) -> None:
    """Thirty days to the millisecond are allowed."""
    await desk.post('{"type": "a.b", "data": 1, "deliver_at": "2027-02-14T08:00:00Z"}')
    assert desk.store.events[0].deliver_at_ms == 1_800_000_000_000 + 30 * DAY_MS


async def test_an_unbound_producer_names_the_application(desk: Desk) -> None:
    """With several applications an unbound token must say which; with the name it posts there."""
    problem = await desk.refusal('{"type": "a.b", "data": 1}', ANYBODY)
    assert pointers(problem) == ["/application"]
    await desk.post('{"type": "a.b", "data": 1, "application": "beta"}', ANYBODY)
    assert desk.store.events[0].application == 2


@pytest.mark.parametrize(
    "body",
    [
        "", " ", "{", '{"type": "a.b", "data": 1', '{"type": "a.b", "data": 1} x', "nonsense", '{"data": {"a": 1,}}',
        '{"type": "a.b", "data": NaN}', '{"type": "a.b", "data": 0123}', '{"unknown": 1, "data": }',
        b'\xef\xbb\xbf{"type": "a.b", "data": 1}', "{'type': 'a.b'}",
        '{"type": "a.b", "data": "\n"}',
    ],
)  # fmt: skip
async def test_what_is_not_json_is_400(desk: Desk, body: str | bytes) -> None:
    """Broken JSON is 400 with a position and nothing of the input, also behind a member that is unknown."""
    problem = await desk.refusal(body)
    assert (problem.status, problem.type) == (400, "malformed_json")


@pytest.mark.parametrize("body", ["[]", "7", "null", '"x"'])
async def test_another_json_value_is_422(desk: Desk, body: str) -> None:
    """JSON that is no object is understood and refused, with an example of what is wanted."""
    problem = await desk.refusal(body)
    assert problem.status == 422
    assert '{"type": "render.completed"' in problem.detail


@pytest.mark.parametrize("body", [b'{"type": "a.b", "data": "\xff"}', b'{"type": "a.b", "data": "\xed\xa0\x80"}'])
async def test_what_is_not_utf_8_is_400(desk: Desk, body: bytes) -> None:
    """The decoder skips over strings it passes on, so UTF-8 is checked beside it."""
    problem = await desk.refusal(body)
    assert (problem.status, problem.detail) == (400, "The body is not UTF-8 (byte 25).")


async def test_many_unknown_members_make_a_short_answer(desk: Desk) -> None:
    """A body of ten thousand unknown members costs neither time nor a long answer."""
    members = {f"{number}{'x' * 200}": 1 for number in range(10_000)}
    problem = await desk.refusal(json.dumps({"type": "a.b", "data": 1, **members}))
    assert len(problem.errors) == 21
    assert problem.errors[-1].message == "has 9980 more members that an event does not have"
    assert max(len(mistake.path) for mistake in problem.errors) < 70


async def test_depth_is_limited_before_decoding(desk: Desk) -> None:
    """One level more than allowed is 400 and names the limit; exactly the limit passes, however many brackets."""
    nested = '{"type": "a.b", "data": ' + "[" * 200 + "]" * 200 + "}"
    problem = await desk.refusal(nested)
    assert (problem.status, "200 levels" in problem.detail) == (400, True)
    await desk.post('{"type": "a.b", "data": ' + "[" * 199 + "]" * 199 + "}")
    await desk.post('{"type": "a.b", "data": [' + "{}," * 500 + "{}]}")


async def test_a_raised_depth_limit_never_ends_in_a_crash() -> None:
    """Beyond what the decoder can recurse into, the answer is still 400."""
    desk = Desk(IntakeLimits(max_depth=1_000_000))
    problem = await desk.refusal('{"type": "a.b", "data": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert problem.status == 400


@settings(deadline=None)
@given(st.recursive(st.text('[]{}"\\'), lambda inner: st.lists(inner) | st.dictionaries(st.text('[]{}"\\'), inner)))
def test_depth_counts_no_brackets_in_strings(value: object) -> None:
    """The scan agrees with a count over the decoded value, whatever brackets, quotes and backslashes strings hold."""

    def depth(node: object) -> int:
        if isinstance(node, dict):
            node = list(node.values())
        return 1 + max(map(depth, node), default=0) if isinstance(node, list) else 0

    body, real = json.dumps(value).encode(), depth(value)
    assert not is_deeper(body, real)
    assert real == 0 or is_deeper(body, real - 1)


@pytest.mark.parametrize("body", [b'"' + b'\\"' * 400_000 + b"\\", b'"' * 800_001, b'["' * 400_000])
def test_the_depth_scan_never_goes_back(body: bytes) -> None:
    """Unfinished strings cost no more than finished ones: 800 kB are scanned well within the test's time-out."""
    assert is_deeper(body + b"[" * 201, 200) in (True, False)


def test_screening_lets_ordinary_bodies_through() -> None:
    """UTF-8 and flat JSON pass."""
    screen('{"type": "a.b", "data": "é"}'.encode(), 1)


async def test_a_repetition_is_200_with_the_first_id(keeping: Desk) -> None:
    """The same key and body again answers with the first event and stores nothing (Q8)."""
    first = await keeping.post(FIRST_KEYED)
    keeping.clock.advance(5_000)
    again = await keeping.post(FIRST_KEYED)
    assert again == Answer(200, {**first.body, "duplicate": True}, first.location)
    assert len(keeping.store.events) == 1


@pytest.mark.parametrize(
    "other", ['"type": "a.b", "data": 2', '"type": "a.c", "data": 1', '"type": "a.b", "data": 1.0']
)
async def test_the_same_key_with_another_body_is_409(keeping: Desk, other: str) -> None:
    """An explicit key with another type or other bytes of data is `idempotency_conflict` (Q8)."""
    await keeping.post(FIRST_KEYED)
    with pytest.raises(Refused) as caught:
        await keeping.post("{" + other + ', "idempotency_key": "k1"}')
    assert (caught.value.problem.status, caught.value.problem.type) == (409, "idempotency_conflict")


async def test_the_header_is_the_member(keeping: Desk) -> None:
    """`Idempotency-Key` in the head and `idempotency_key` in the body are one thing; two that differ are a mistake."""
    await keeping.post(FIRST_KEYED)
    assert (await keeping.post('{"type": "a.b", "data": 1}', key="k1")).body["duplicate"] is True
    assert (await keeping.post(FIRST_KEYED, key="k1")).body["duplicate"] is True
    keeping.store.transactions.clear()
    assert pointers(await keeping.refusal(FIRST_KEYED, key="k2")) == ["/idempotency_key"]
    assert pointers(await keeping.refusal('{"type": "a.b", "data": 1}', key="")) == ["/idempotency_key"]


async def test_a_given_id_is_a_key(keeping: Desk) -> None:
    """Without a key, the id that the producer gave makes a repetition one; it is no idempotency key of the same text."""
    body = '{"type": "a.b", "data": 1, "id": "k1"}'
    await keeping.post(body)
    assert (await keeping.post(body)).body["duplicate"] is True
    assert (await keeping.post(FIRST_KEYED)).body["duplicate"] is False


async def test_keys_are_scoped_by_application(keeping: Desk) -> None:
    """The same key in two applications is two keys (Q8)."""
    await keeping.post(FIRST_KEYED)
    answer = await keeping.post(FIRST_KEYED, Principal("b", Role.PRODUCER, "beta"))
    assert answer.status == 202


async def test_without_key_or_id_nothing_is_a_repetition(keeping: Desk) -> None:
    """Two equal events without a key are two events."""
    await keeping.post('{"type": "a.b", "data": 1}')
    await keeping.post('{"type": "a.b", "data": 1}')
    assert len({event.id for event in keeping.store.events}) == 2


async def test_deliveries_are_handed_over_after_the_commit_and_before_the_answer(desk: Desk) -> None:
    """While the commit runs nothing is handed over and nobody is answered (invariant 1)."""
    desk.store.release = asyncio.Event()
    posting = asyncio.ensure_future(desk.post('{"type": "a.b", "data": 1}'))
    await desk.store.submitted.wait()
    assert desk.handed_over == []
    assert not posting.done()
    desk.store.release.set()
    answer = await posting
    assert [accepted.event.id for accepted in desk.handed_over] == [answer.body["id"]]


async def test_a_cancelled_request_recalls_nothing(desk: Desk) -> None:
    """A write that was submitted commits and is handed over although its request was cancelled (invariant 3)."""
    desk.store.release = asyncio.Event()
    posting = asyncio.ensure_future(desk.post('{"type": "a.b", "data": 1}'))
    await desk.store.submitted.wait()
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    handed_over = asyncio.Event()
    desk.intake._on_accepted = lambda _: handed_over.set()
    desk.store.release.set()
    await handed_over.wait()
    assert len(desk.store.events) == 1


async def test_awaiting_the_store_directly_would_recall_the_write() -> None:
    """Negative control: without the shield in between, cancelling the request cancels the write."""
    store = NotingStore()
    store.release = asyncio.Event()
    writing = asyncio.ensure_future(store.accept_and_follow([], list))
    posting = asyncio.ensure_future(asyncio.wait_for(writing, None))
    await store.submitted.wait()
    posting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await posting
    assert writing.cancelled()


async def test_a_failed_commit_reaches_the_producer(desk: Desk) -> None:
    """A commit whose outcome is unknown is raised, and nothing is handed over (invariant 5)."""
    desk.store.failure = CommitUnknown("the commit failed")
    with pytest.raises(CommitUnknown):
        await desk.post('{"type": "a.b", "data": 1}')
    assert desk.handed_over == []


async def test_a_failed_commit_after_a_cancel_is_not_an_unhandled_error(desk: Desk) -> None:
    """Nobody waits for the failure any more; it is not reported as one that was never retrieved."""
    desk.store.release, desk.store.failure = asyncio.Event(), CommitUnknown("the commit failed")
    posting = asyncio.ensure_future(desk.post('{"type": "a.b", "data": 1}'))
    await desk.store.submitted.wait()
    posting.cancel()
    desk.store.release.set()
    with pytest.raises(asyncio.CancelledError):
        await posting
    assert desk.handed_over == []


async def test_a_batch_commits_its_valid_items_together(keeping: Desk) -> None:
    """Each item has its own answer in its place; the sound ones are one transaction, the others are not in it."""
    results = await keeping.batch(
        [
            {"type": "a.b", "data": 1},
            {"type": "a.b"},
            "text",
            {"type": "a.b", "data": 2, "idempotency_key": "k"},
            {"type": "a.b", "data": 2, "idempotency_key": "k"},
            {"type": "a.b", "data": 3, "idempotency_key": "k"},
        ]
    )
    assert [result["status"] for result in results] == [202, 422, 422, 202, 200, 409]
    assert [len(events) for events in keeping.store.transactions] == [4]
    assert results[1]["problem"]["errors"][0]["pointer"] == "/data"
    assert results[3]["body"]["id"] == results[4]["body"]["id"]
    assert len(keeping.handed_over) == 2


async def test_a_batch_without_valid_items_writes_nothing(desk: Desk) -> None:
    """No transaction is made for an empty or wholly wrong batch."""
    assert await desk.batch([]) == []
    assert [result["status"] for result in await desk.batch([1, None])] == [422, 422]
    assert desk.store.transactions == []


async def test_a_long_batch_keeps_its_order(desk: Desk) -> None:
    """A thousand items are answered in their order, though other requests get turns in between."""
    results = await desk.batch([{"type": "a.b", "data": number} for number in range(1000)])
    assert [result["body"]["id"] for result in results] == [event.id for event in desk.store.events]
    assert len(desk.store.transactions) == 1


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"[" + b",".join([b"1"] * 1001) + b"]", 413, "batch_too_large"),
        (b'{"type": "a.b", "data": 1}', 422, "invalid_request"),
        (b"[", 400, "malformed_json"),
        (b"[" * 300 + b"]" * 300, 400, "malformed_json"),
    ],
)
async def test_a_wrong_batch_is_refused_whole(desk: Desk, body: bytes, status: int, slug: str) -> None:
    """What is no array, too long or no JSON has one answer for all of it."""
    with pytest.raises(Refused) as caught:
        await desk.post_batch(body)
    assert (caught.value.problem.status, caught.value.problem.type) == (status, slug)


async def test_a_conflict_of_one_item_leaves_the_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that the store returns in an item's place is that item's problem alone (invariant 3)."""
    accept = desk.store._accept
    taken = Conflict("event_id_taken", "an event 'x' exists", remedy="Use another id.")
    monkeypatch.setattr(desk.store, "_accept", lambda event: taken if event.id == "x" else accept(event))
    results = await desk.batch([{"type": "a.b", "data": 1, "id": "x"}, {"type": "a.b", "data": 2}])
    assert [result["status"] for result in results] == [409, 202]
    assert results[0]["problem"]["type"] == "event_id_taken"


SURROGATE = '{"title": "half an emoji: \\ud83d", "n": 1.0, "again": ["\\uDC00", "\\ud83d\\ude00"]}'


async def test_lone_surrogates_are_taken_as_they_are(desk: Desk) -> None:
    """A string that no UTF-8 holds is JSON all the same, and its escape reaches the body verbatim (WOC-14)."""
    await desk.post(f'{{"data" : {SURROGATE} , "type": "a.b", "id": "x", "metadata": {{"k": 1}}}}')
    event = desk.store.events[0]
    assert event.body.endswith(b'"data":' + SURROGATE.encode() + b"}")
    assert (event.id, event.type, event.metadata) == ("x", "a.b", b'{"k": 1}')


async def test_lone_surrogates_in_a_batch_harm_nobody(desk: Desk) -> None:
    """One item with a lone surrogate leaves the others as they are."""
    plain = '{"type": "a.b", "data": {"n": 1e5}}'
    results = await desk.post_batch(f'[{plain}, {{"type":"a.b","data":{SURROGATE}}} ,{plain}]'.encode())
    assert [result["status"] for result in results] == [202, 202, 202]
    bodies = [event.body for event in desk.store.events]
    assert bodies[1].endswith(b'"data":' + SURROGATE.encode() + b"}")
    assert bodies[0].endswith(b'{"n": 1e5}}')


async def test_video_titles_with_lone_surrogates_are_canonical() -> None:
    """Under `js` a lone surrogate stays an escape, in lower case, and a pair becomes its character (VAI-8)."""
    desk = Desk(contract="videoaiditor", validation=Validation.OFF)
    await desk.send("render.failed", '{"title": "\\uD83D \\ud83d\\ude00", "_id": "6094"}')
    body = '{"event":"render.failed","data":{"title":"\\ud83d 😀","_id":"6094"}}'
    assert desk.store.events[0].body == body.encode()


@pytest.mark.parametrize(
    ("member", "pointer"),
    [
        ('"type": "\\ud800"', "/type"),
        ('"type": "a.b", "id": "\\ud800"', "/id"),
        ('"type": "a.b", "metadata": {"x": "\\ud800"}', "/metadata"),
        ('"type": "a.b", "\\ud800": 1', "/\\ud800"),
    ],
)
async def test_lone_surrogates_elsewhere_are_mistakes(desk: Desk, member: str, pointer: str) -> None:
    """Everything but `data` is text that the relay itself writes somewhere; the answer can be sent."""
    problem = await desk.refusal("{" + member + ', "data": "\\ud83d"}')
    assert (problem.status, pointers(problem)) == (422, [pointer])
    assert json.loads(problem.body())["errors"]


@pytest.mark.parametrize(
    "body",
    [
        '{"type": "a.b", "data": "\\ud83d"', '{"type": "a.b", "data": "\\ud83d"} x', '{"type": "a.b" "data": "\\ud83d"}',
        '{"type": "a.b", "data": ["\\ud83d", NaN]}', '{"type": "a.b", "data": ["\\ud83d", 01]}', '{7: "\\ud83d"}',
        '{"type": "a.b", "data": "\\ud83d",}', '"\\ud83d" x', '{"type", "\\ud83d"}', '{"a": "\\ud83d", 7: 1}',
        '{"type": "a.b", "data": "\\ud83d\n"}',
    ],
)  # fmt: skip
async def test_a_lone_surrogate_excuses_nothing_else(desk: Desk, body: str) -> None:
    """What is no JSON is 400, also when it holds a lone surrogate."""
    assert (await desk.refusal(body)).status == 400


@pytest.mark.parametrize("body", ['"\\ud83d"', '["\\ud83d"]'])
async def test_another_value_with_a_lone_surrogate_is_422(desk: Desk, body: str) -> None:
    """JSON of another shape is understood and refused; so is a batch that is no array."""
    assert (await desk.refusal(body)).status == 422
    with pytest.raises(Refused) as caught:
        await desk.post_batch(b'{"a": "\\ud83d"}')
    assert caught.value.problem.status == 422


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    ),
    st.sampled_from([None, 1, "\t"]),
)
def test_slices_are_exact(value: object, indent: int | str | None) -> None:
    """Beside a lone surrogate, any JSON keeps its bytes: numbers, blanks, escapes and doubled keys (invariant 6)."""
    data = json.dumps([value, "\ud83d"], indent=indent)
    desk = Desk()
    asyncio.run(desk.post(f'{{"type" : "a.b",\n"data":\t{data}\r}}'))
    assert desk.store.events[0].body.endswith(b'"data":' + data.encode() + b"}")


async def post_while_deleted(desk: Desk) -> Sequence[NewEvent]:
    """Post a batch in which others get turns; in the first of them its only endpoint is deleted."""
    asyncio.get_running_loop().call_soon(desk.registrar.delete_endpoint, "to-acme")
    await desk.batch([{"type": "a.b", "data": number} for number in range(200)])
    return desk.store.events


async def test_a_batch_matches_in_one_go(desk: Desk) -> None:
    """An endpoint that is deleted while a batch is being checked gets nothing of it (Q11)."""
    events = await post_while_deleted(desk)
    assert {event.targets for event in events} == {()}


async def test_matching_while_checking_would_reach_a_deleted_endpoint(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: matched where it is checked, the first part of the batch goes to what was deleted."""
    check, seal = desk.intake._check, desk.intake._seal
    early: dict[str, NewEvent] = {}

    def check_and_match(*request: Any, **options: Any) -> Any:
        draft = check(*request, **options)
        early[draft.event.id] = seal(draft)
        return draft

    monkeypatch.setattr(desk.intake, "_check", check_and_match)
    monkeypatch.setattr(desk.intake, "_seal", lambda draft: early[draft.event.id])
    events = await post_while_deleted(desk)
    assert {event.targets for event in events} == {(10,), ()}


ENTITY = '{"entity_id": "3f2c5e9a-6b1d-4c8e-9f0a-1b2c3d4e5f60", "asset_id": "3f2c5e9a-6b1d-4c8e-9f0a-1b2c3d4e5f61"}'


async def test_a_derived_key_makes_a_repetition(tmp_path: Path) -> None:
    """Without a key, the contract's template makes one: the same terminal event is one event (ROU-18, EDF-19, Q8)."""
    async with keeping_desk(tmp_path, "roughy") as desk:
        first = await desk.send("cut.completed", ENTITY)
        again = await desk.send("cut.completed", ENTITY)
        other_type = await desk.send("cut.failed", ENTITY)
        assert (again.status, again.body["id"], again.body["duplicate"]) == (200, first.body["id"], True)
        assert "differs" not in again.body
        assert other_type.status == 202


async def test_a_derived_key_with_another_body_is_told(tmp_path: Path) -> None:
    """A derived key with other data is 200, `duplicate` and `differs`: the first one stays (Q8)."""
    keyed = 'extends = "wochit"\n[idempotency]\nkey = "{type}:{data.wochitVideoId}"\n'
    own(tmp_path, keyed + '[type."draft.update"]\nidempotency_key = false\n')
    catalogue = ContractCatalogue.load(tmp_path)
    async with keeping_desk(tmp_path, "own", catalogue=catalogue) as desk:
        first = await desk.send("video.delete", '{"videoContext": "a", "wochitVideoId": "6094"}')
        again = await desk.send("video.delete", '{"videoContext": "b", "wochitVideoId": "6094"}')
        assert (again.status, again.body["id"]) == (200, first.body["id"])
        assert (again.body["duplicate"], again.body["differs"]) == (True, True)
        assert len(desk.store.events) == 1


async def test_a_contract_may_refuse_another_body(tmp_path: Path) -> None:
    """A terminal state of Roughy is said once, so another body under its key is 409 (ROU-18)."""
    async with keeping_desk(tmp_path, "roughy") as desk:
        await desk.send("cut.completed", ENTITY)
        with pytest.raises(Refused) as caught:
            await desk.send("cut.completed", ENTITY.replace('"asset_id": "', '"asset_id": "another-'))
        assert (caught.value.problem.status, caught.value.problem.type) == (409, "idempotency_conflict")
        assert (await desk.send("cut.completed", ENTITY)).body["duplicate"] is True


async def test_a_given_key_or_id_goes_before_the_template(tmp_path: Path) -> None:
    """The producer's own key wins, and so does an id it chose: it knows better what is one event (Q8)."""
    async with keeping_desk(tmp_path, "roughy") as desk:
        await desk.send("cut.completed", ENTITY)
        assert (await desk.send("cut.completed", ENTITY, idempotency_key="mine")).status == 202
        assert (await desk.send("cut.completed", ENTITY, id="mine")).status == 202


async def test_types_without_a_template_repeat(tmp_path: Path) -> None:
    """A save of a draft is an event each time, whatever it says (WOC-11)."""
    async with keeping_desk(tmp_path, "wochit", features={"drafts": True}) as desk:
        draft = '{"videoContext": "c", "wochitVideoId": "6094", "thumbnailUrl": "http://x.example/t", "title": "t"}'
        assert [(await desk.send("draft.update", draft)).status for _ in range(2)] == [202, 202]


async def test_times_keep_their_microseconds() -> None:
    """Rotor's envelope shows the producer's time to the microsecond (ROT-12)."""
    desk = Desk(contract="rotor", validation=Validation.OFF)
    await desk.send("order.finalized", "{}", timestamp="2023-02-13T13:09:42.654463Z")
    assert b'"created_at":"2023-02-13 13:09:42.654463"' in desk.store.events[0].body


class Counting:
    """A decoder that counts."""

    def __init__(self, decode: Callable[[bytes], Any]) -> None:
        self.count = 0
        self._decode = decode

    def decode(self, raw: bytes) -> Any:
        self.count += 1
        return self._decode(raw)


async def test_data_are_decoded_once_for_each_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schema, conditions, memory and a flat body read one decoded value and one table of members."""
    members, values = Counting(payload._MEMBERS.decode), Counting(orjson.loads)
    monkeypatch.setattr(payload, "_MEMBERS", members)
    monkeypatch.setattr(payload.orjson, "loads", values.decode)
    desk = Desk(contract="wochit", features={"drafts": True})
    await desk.send(
        "draft.update",
        '{"videoContext": "c", "wochitVideoId": "6", "thumbnailUrl": "http://x.example/t", "title": "t"}',
    )
    assert desk.store.events[0].remember is not None
    assert (members.count, values.count) == (1, 1)
