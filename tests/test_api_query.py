"""Query strings, request objects and times, as the API reads and writes them."""

from typing import Any

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from relay.api.body import parse_object, pointer, raw_member
from relay.api.problems import Refused
from relay.api.query import Query, delivery_filter, event_filter
from relay.api.render import event_detail, moment
from relay.core.access import Principal, Role
from relay.core.model import DeadReason, DeliveryState, NoDelivery
from relay.core.views import EventView
from relay.store import DeliveryFilter, EventFilter

NOW_MS = 1_800_000_000_000
READER = Principal("auditor", Role.READER)


def query(text: str = "") -> Query:
    return Query(make_mocked_request("GET", f"/v1/events?{text}"), NOW_MS)


def mistakes(read: Any) -> list[str]:
    """What `read` is refused for."""
    with pytest.raises(Refused) as refusal:
        read()
    assert refusal.value.problem.status == 422
    return [mistake.message for mistake in refusal.value.problem.errors]


def test_filters_of_events() -> None:
    """Every filter of the events list reaches the store."""
    wanted = event_filter(
        query("type=a.b&since=2h&until=2027-01-15T08:00:00Z&reason=skipped&application=acme"), READER, list
    )
    assert wanted == EventFilter("acme", "a.b", NOW_MS - 7_200_000, NOW_MS, NoDelivery.SKIPPED)


def test_filters_of_deliveries() -> None:
    """Every filter of the deliveries list reaches the store."""
    wanted = delivery_filter(query("endpoint=primary&state=dead&reason=gone&type=a.b&since=1d"), list)
    assert wanted == DeliveryFilter(
        endpoint="primary",
        state=DeliveryState.DEAD,
        reason=DeadReason.GONE,
        type="a.b",
        since_ms=NOW_MS - 86_400_000,
    )


@pytest.mark.parametrize(
    ("text", "unix_ms"),
    [
        ("2027-01-15T08:00:00Z", NOW_MS),
        ("2027-01-15T08:00:00.250Z", NOW_MS + 250),
        ("2027-01-15T10:00:00%2B02:00", NOW_MS),
        ("2027-01-15T10:00:00+02:00", NOW_MS),  # a plus that was not encoded arrives as a blank
        ("90s", NOW_MS - 90_000),
        ("99999999d", 0),
    ],
)
def test_moments_are_read(text: str, unix_ms: int) -> None:
    """A time is RFC 3339 with an offset, or an age."""
    assert query(f"since={text}").moment_ms("since") == unix_ms


@pytest.mark.parametrize("text", ["yesterday", "2027-01-15T08:00:00", "2027-13-01T00:00:00Z", "2", "9" * 400 + "d"])
def test_other_moments_are_refused(text: str) -> None:
    """A time without offset could mean two things, so it is refused, as is anything else."""
    asked = query(f"since={text}")
    asked.moment_ms("since")
    assert mistakes(asked.check) == [
        'the parameter "since" must be a time like "2026-11-22T09:30:00Z" or an age like "2h"'
    ]


@pytest.mark.parametrize(("text", "limit"), [("", 50), ("limit=1", 1), ("limit=250", 250)])
def test_limits_are_read(text: str, limit: int) -> None:
    """A page has 50 entries unless asked otherwise, up to 250."""
    assert query(text).limit() == limit


@pytest.mark.parametrize("text", ["0", "251", "-1", "1.5", "ten", "٣", "9" * 50])
def test_other_limits_are_refused(text: str) -> None:
    """A limit outside 1 to 250 is refused instead of being bent."""
    asked = query(f"limit={text}")
    asked.limit()
    assert mistakes(asked.check) == ['the parameter "limit" must be a whole number from 1 to 250']


def test_every_mistake_is_told_at_once() -> None:
    """Wrong values, doubled, empty and unknown parameters are all named in one answer."""
    asked = query("state=lost&type=&endpoint=a&endpoint=b&colour=red&limit=0")
    asked.limit()
    delivery_filter(asked, list)
    told = mistakes(asked.check)
    assert [message.split('"')[1] for message in told] == ["limit", "endpoint", "state", "type", "colour"]
    assert any("one of due, delivered, dead, cancelled" in message for message in told)


def test_a_sound_query_passes() -> None:
    """`check` has nothing to say about a query whose parameters were all read."""
    asked = query("limit=5")
    asked.limit()
    asked.check()


@pytest.mark.parametrize(
    ("unix_ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (NOW_MS + 7, "2027-01-15T08:00:00.007Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (None, None),
    ],
)
def test_times_are_written_in_one_form(unix_ms: int | None, text: str | None) -> None:
    """Times are RFC 3339 in UTC with `Z` and exactly three digits of milliseconds."""
    assert moment(unix_ms) == text


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_a_written_time_is_read_back(unix_ms: int) -> None:
    """What the API writes as a time it takes as a filter, to the millisecond."""
    assert query(f"since={moment(unix_ms)}").moment_ms("since") == unix_ms


@pytest.mark.parametrize("body", [b"", b"plain text", b'{"a": \xff}', b"[1,"])
def test_a_payload_that_is_no_json_is_shown_as_text(body: bytes) -> None:
    """A body that is not JSON, or was damaged, does not damage the answer that shows it."""
    view = EventView("evt_1", "a.b", "acme", 0, 0, None, None, None, None, None, "", body=body)
    written = orjson.loads(orjson.dumps(event_detail(view)))
    assert written["payload"] == body.decode("utf-8", "replace")


def test_no_body_is_an_empty_object() -> None:
    """Calls whose members are all optional need no body."""
    assert parse_object(b"") == parse_object(b" \n") == parse_object(b"{}") == {}


@pytest.mark.parametrize(
    ("text", "status"), [(b"{", 400), (b"\xff", 400), (b"[]", 422), (b'"x"', 422), (b"NaN", 400), (b"null", 422)]
)
def test_what_is_no_object_is_refused(text: bytes, status: int) -> None:
    """Malformed JSON is 400, another JSON value 422."""
    with pytest.raises(Refused) as refusal:
        parse_object(text)
    assert refusal.value.problem.status == status


def test_a_member_keeps_its_bytes() -> None:
    """The data of a test event is sent as it was written."""
    assert raw_member(b'{"type":"a", "data": {"n":1e5,  "big":18446744073709551616}}', "data") == (
        b'{"n":1e5,  "big":18446744073709551616}'
    )
    assert raw_member(b'{"type":"a"}', "data") is None
    assert raw_member(b"", "data") is None


def test_pointers_escape_what_they_must() -> None:
    """`~` and `/` in member names are escaped (RFC 6901)."""
    assert pointer("headers", "a/b~c", 0) == "/headers/a~1b~0c/0"
