"""CloudEvents as producers send them, in all three modes: the official SDK writes them, and reads what receivers get."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_http_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent

from tests.support.api import Api
from tests.support.contract_files import built_in
from tests.support.daemon import TOKEN
from tests.support.receiver import Receiver
from tests.support.stack import Stack

WHEN = datetime(2026, 11, 22, 8, 30, 0, 123_456, UTC)
ATTRIBUTES = {
    "id": "A234-1234-1234",
    "source": "https://acme.example/renders?x=1",
    "type": "com.acme.render.completed",
    "subject": 'Grüße 100 % "a"',
    "dataschema": "https://acme.example/render.json",
    "datacontenttype": "application/json",
    "time": WHEN,
    "tenant": "t-7",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
DATA = {"render": "r_42", "frames": 1e5, "name": "ü"}
BATCH = "application/cloudevents-batch+json"
STRUCTURED = "application/cloudevents+json"


def event(data: Any = DATA, **attributes: Any) -> CloudEvent:
    """An event of the SDK's; an attribute of None is left out."""
    named = {name: value for name, value in (ATTRIBUTES | attributes).items() if value is not None}
    return CloudEvent(named, data)


async def send(stack: Stack, message: HTTPMessage, path: str = "/v1/events") -> tuple[int, Any]:
    """Post what the SDK wrote."""
    headers = {**message.headers, "Authorization": f"Bearer {TOKEN}"}
    async with stack.http.post(stack.url + path, data=message.body, headers=headers) as answer:
        return answer.status, orjson.loads(await answer.read())


@pytest.mark.parametrize("write", [to_binary_event, to_structured_event])
@pytest.mark.parametrize("contract", ["cloudevents", "cloudevents-binary"])
async def test_an_event_comes_out_as_it_went_in(
    tmp_path: Path, contract: str, write: Callable[[BaseCloudEvent], HTTPMessage]
) -> None:
    """Whatever the SDK sends, in either mode, it reads again at the receiver: every attribute, every extension, the data."""
    async with Receiver() as receiver:
        async with Stack(tmp_path, contract=contract, secret=None, endpoints={"primary": receiver.url}) as stack:
            status, answer = await send(stack, write(event()))
            assert status == 202, answer
            await stack.settled(answer["id"], "delivered")
        (got,) = receiver.received

    read = from_http_event(HTTPMessage(dict(got.headers), got.body))
    assert {name: read.get_attributes()[name] for name in ATTRIBUTES} == ATTRIBUTES
    assert read.get_data() == DATA


async def test_data_of_other_types_are_text(tmp_path: Path) -> None:
    """Text of any type becomes a JSON string, in base64 or not, and receivers learn its type; JSON in base64 is JSON."""
    async with Receiver() as receiver:
        endpoints = {"primary": receiver.url}
        async with Stack(tmp_path, contract="cloudevents", secret=None, endpoints=endpoints) as stack:
            for number, (write, data, content_type) in enumerate(
                [
                    (to_binary_event, "<a>ü</a>", "application/xml"),
                    (to_structured_event, "plain", "text/plain; charset=utf-8"),
                    (to_structured_event, "über".encode(), "text/csv"),
                    (to_structured_event, b'{"n": 1.50}', "application/vnd.acme+json"),
                    (to_binary_event, None, None),
                ]
            ):
                message = write(event(data, id=str(number), datacontenttype=content_type))
                status, answer = await send(stack, message)
                assert status == 202, answer
                await stack.settled(answer["id"], "delivered")
    bodies = [json.loads(request.body) for request in receiver.received]
    assert [body["data"] for body in bodies] == ["<a>ü</a>", "plain", "über", {"n": 1.5}, None]
    assert [body["datacontenttype"] for body in bodies] == [
        "application/xml",
        "text/plain; charset=utf-8",
        "text/csv",
        "application/vnd.acme+json",
        "application/json",
    ]
    assert b'"data":{"n": 1.50}' in receiver.received[3].body


async def test_id_and_source_are_the_identity(tmp_path: Path) -> None:
    """The same id of the same source is a repetition, in another mode too; with other data a conflict, of another source another event."""
    async with Stack(tmp_path, contract="cloudevents") as stack:
        first = await send(stack, to_binary_event(event()))
        again = await send(stack, to_structured_event(event()))
        other_source = await send(stack, to_binary_event(event(source="/other")))
        other_data = await send(stack, to_binary_event(event({"render": "r_43"})))
        message = to_binary_event(event({"render": "r_43"}))
        keyed = await send(stack, HTTPMessage({**message.headers, "Idempotency-Key": "k-1"}, message.body))
    assert (first[0], again[0], other_source[0], other_data[0], keyed[0]) == (202, 200, 202, 409, 202)
    assert again[1]["id"] == first[1]["id"]
    assert other_source[1]["id"] != first[1]["id"]
    assert (other_data[1]["type"], first[1]["id"] in other_data[1]["detail"]) == ("idempotency_conflict", True)


@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
async def test_a_batch_is_answered_event_by_event(tmp_path: Path, path: str) -> None:
    """A JSON array of CloudEvents is a batch at either call; a mistake in one names its attribute, and the others are stored."""
    items = [json.loads(to_structured_event(event(id=str(number))).body) for number in range(3)]
    del items[1]["source"]
    async with Api(tmp_path) as api:
        answer = await cloud(api, orjson.dumps(items), BATCH, path)
        empty = await cloud(api, b"[]", BATCH, path)
        found = [await api.get(f"/v1/events/{one['body']['id']}") for one in answer[1]["results"] if "body" in one]
    assert answer[0] == 200
    assert [one["status"] for one in answer[1]["results"]] == [202, 422, 202]
    assert [mistake["pointer"] for mistake in answer[1]["results"][1]["problem"]["errors"]] == ["/source"]
    assert [one["metadata"]["id"] for one in found] == ["0", "2"]
    assert empty == (200, {"results": []})


async def test_what_an_event_says_is_kept(tmp_path: Path) -> None:
    """Type, time, expiry and order become the event's own; the rest is metadata, and a filter sees it."""
    expiry = WHEN.replace(year=2027) + timedelta(days=90)
    async with Api(tmp_path) as api:
        written = to_structured_event(event(expirytime=expiry.isoformat(), partitionkey="p 1", sampledrate=30)).body
        status, answer = await cloud(api, written)
        shown = await api.get(f"/v1/events/{answer['id']}")
    assert status == 202, answer
    assert (shown["type"], shown["timestamp"]) == ("com.acme.render.completed", "2026-11-22T08:30:00.123Z")
    assert shown["expires_at"] == "2028-02-20T08:30:00.123Z"
    assert shown["ordering_key"] is None  # `standard` keeps no order
    assert shown["metadata"] == {
        "id": "A234-1234-1234",
        "source": "https://acme.example/renders?x=1",
        "subject": 'Grüße 100 % "a"',
        "time": "2026-11-22T08:30:00.123456Z",
        "dataschema": "https://acme.example/render.json",
        "datacontenttype": "application/json",
        "extensions": {
            "tenant": "t-7",
            "traceparent": ATTRIBUTES["traceparent"],
            "expirytime": expiry.isoformat(),
            "partitionkey": "p 1",
            "sampledrate": 30,
        },
    }


async def test_a_partition_key_orders_where_an_order_is_kept(tmp_path: Path) -> None:
    """Under a contract that keeps an order, events of one partition key follow each other."""
    name, listed = next(iter(built_in("editframe").types.items()))
    written = event(orjson.loads(listed.example), type=name, partitionkey="p 1")
    async with Api(tmp_path, {"application": [{"id": "acme", "contract": "editframe"}]}) as api:
        status, answer = await cloud(api, to_structured_event(written).body)
        shown = await api.get(f"/v1/events/{answer['id']}")
    assert (status, shown["ordering_key"]) == (202, "p 1")


# -- what is refused ---------------------------------------------------------------------------------------------------


def structured(**members: Any) -> bytes:
    """A CloudEvent with a mistake that the SDK would not make; a member of None is left out."""
    whole = {"specversion": "1.0", "id": "1", "source": "/a", "type": "a.b", "data": {}} | members
    return orjson.dumps({name: value for name, value in whole.items() if value is not None})


def pointers(problem: Any) -> list[str]:
    return sorted(mistake["pointer"] for mistake in problem["errors"])


async def test_every_mistake_is_named_by_its_attribute(tmp_path: Path) -> None:
    """Attributes that lack, that are of another form, that are none, and data that the contract refuses: all at once."""
    wrong = {
        "specversion": "0.3",
        "id": "",
        "source": "a b",
        "subject": 7,
        "time": "yesterday",
        "dataschema": "/relative",
        "datacontenttype": "json",
        "expirytime": "2020-01-01T00:00:00Z",
        "big": 1 << 31,
        "nested": {"a": 1},
        "half": 0.5,
        "control": "a\u0000",
        "Upper": "x",
        "idempotency_key": "k",
        "data_base64": "aGk=",
    }
    async with Api(tmp_path) as api:
        status, problem = await cloud(api, structured(**wrong))
        bare = await cloud(api, b"{}")
        unknown_type = await cloud(api, structured(type="no type"))
        missing_type = await cloud(api, structured(type=None, time="1969-01-01T00:00:00Z"))
    assert (status, pointers(problem)) == (422, sorted(f"/{name}" for name in wrong))
    assert pointers(bare[1]) == ["/id", "/source", "/specversion", "/type"]
    assert pointers(unknown_type[1]) == ["/type"]
    assert pointers(missing_type[1]) == ["/time", "/type"]


async def test_data_in_base64_that_no_event_can_carry_are_refused(tmp_path: Path) -> None:
    """Bytes that are no text, JSON that is none, and what is no base64 are said of data_base64; depth counts there, too."""
    bodies = [
        (b"\xff\xfe", "application/octet-stream"),
        (b"{", "application/json"),
        (b"[" * 300 + b"]" * 300, None),
    ]
    written = [
        structured(data=None, data_base64=base64.b64encode(body).decode(), datacontenttype=of) for body, of in bodies
    ]
    written += [structured(data=None, data_base64=text) for text in ("a", "!!", 7, "aGk")]
    async with Api(tmp_path) as api:
        answers = [await cloud(api, body) for body in written]
    assert [(status, pointers(problem)) for status, problem in answers] == [(422, ["/data_base64"])] * len(written)


async def test_headers_of_binary_mode_are_read_strictly(tmp_path: Path) -> None:
    """Quotes and percent signs are undone once; what is no UTF-8, there twice, or the body's own is refused by its name."""
    sound = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "a.b"}
    media_type = "application/json"
    async with Api(tmp_path) as api:
        quoted = await cloud(api, b"{}", media_type, **{**sound, "ce-subject": '"a \\"b\\" %C3%BC%2541"'})
        shown = await api.get(f"/v1/events/{quoted[1]['id']}")
        overlong = await cloud(api, b"{}", media_type, **{**sound, "ce-subject": "%C0%A0", "ce-x": "100%"})
        own = {"ce-datacontenttype": "a/b", "ce-data": "1", "ce-data_base64": "aGk="}
        bodies = await cloud(api, b"{}", media_type, **{**sound, **own})
        lacking = await cloud(api, b"{}", media_type, **{"ce-id": "1"})
        twice = await cloud_twice(api, sound)
        smuggled = await cloud(api, b'{},"id":"2"', media_type, **sound)
    assert shown["metadata"]["subject"] == 'a "b" ü%41'
    assert pointers(overlong[1]) == ["/subject", "/x"]
    assert pointers(bodies[1]) == ["/data", "/data_base64", "/datacontenttype"]
    assert pointers(lacking[1]) == ["/source", "/specversion", "/type"]
    assert pointers(twice) == ["/subject"]
    assert (smuggled[0], smuggled[1]["type"]) == (400, "malformed_json")


async def test_bodies_of_binary_mode(tmp_path: Path) -> None:
    """Any media type is taken as text; bytes that are none, and JSON that is none, are 400."""
    sound = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "a.b"}
    async with Api(tmp_path) as api:
        nested = await cloud(api, b"[" * 300, "text/plain", **sound)
        shown = await api.get(f"/v1/events/{nested[1]['id']}")
        no_text = await cloud(api, b"\xff", "image/png", **sound)
        no_json = await cloud(api, b"{", "application/json", **sound)
        deep = await cloud(api, b"[" * 300 + b"]" * 300, "application/json", **sound)
    assert (nested[0], shown["payload"]["data"]) == (202, "[" * 300)
    assert [(status, problem["type"]) for status, problem in (no_text, no_json, deep)] == [(400, "malformed_json")] * 3


async def test_other_media_types_are_refused(tmp_path: Path) -> None:
    """Formats but JSON, other charsets, CloudEvents at other calls, and single ones at the call for batches are 415."""
    sound = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/a", "ce-type": "a.b"}
    async with Api(tmp_path) as api:
        answers = [
            await cloud(api, structured(), "application/cloudevents+xml"),
            await cloud(api, structured(), f"{STRUCTURED}; charset=utf-16"),
            await cloud(api, b"x", "text/plain"),
            await cloud(api, structured(), path="/v1/events/batch"),
            await cloud(api, b"{}", "application/json", "/v1/events/batch", **sound),
            await cloud(api, structured(), path="/v1/webhook-endpoints"),
        ]
        charset = await cloud(api, structured(), f"{STRUCTURED}; charset=UTF-8")
    assert [(status, problem["type"]) for status, problem in answers] == [(415, "unsupported_media_type")] * 6
    assert charset[0] == 202


async def test_the_application_is_a_parameter(tmp_path: Path) -> None:
    """Who has several applications names one in the query; other parameters, and one of the own form, are refused."""
    async with Api(tmp_path) as api:
        headers = {"Authorization": "Bearer admin-token-0123456789", "Content-Type": STRUCTURED}
        answers = []
        for query in ("", "?application=nobody", "?application=acme&application=globex", "?deliver_at=x"):
            async with api.http.post(f"{api.url}/v1/events{query}", data=structured(), headers=headers) as answer:
                answers.append(
                    (answer.status, [mistake["pointer"] for mistake in orjson.loads(await answer.read())["errors"]])
                )
        own = await api.call("POST", "/v1/events?application=acme", {"type": "a.b", "data": {}})
    assert answers == [(422, [""])] * 4
    assert own.status == 422


async def test_what_a_contract_cannot_carry_is_refused(tmp_path: Path) -> None:
    """A contract whose body is the data alone sends them as JSON; attributes have the bounds of metadata; nothing is an extension and a member."""
    binary = {"application": [{"id": "acme", "contract": "cloudevents-binary"}]}
    async with Api(tmp_path, binary) as api:
        text = await cloud(api, structured(data="x", datacontenttype="text/plain"))
        long = await cloud(api, structured(subject="x" * 20_000))
        wide = await cloud(api, structured(note="x" * 2_000))
        name = await cloud(api, structured(**{"x" * 62: "y"}))
    assert [(one[0], pointers(one[1])) for one in (text, long, wide, name)] == [
        (422, ["/datacontenttype"]),
        (422, [""]),
        (422, [""]),
        (422, ["/" + "x" * 62]),
    ]


async def cloud_twice(api: Api, sound: dict[str, str]) -> Any:
    """Post in binary mode with one attribute twice."""
    headers = [*sound.items(), ("ce-subject", "a"), ("ce-subject", "b")]
    named = [*headers, ("Authorization", "Bearer admin-token-0123456789"), ("Content-Type", "application/json")]
    async with api.http.post(f"{api.url}/v1/events?application=acme", data=b"{}", headers=named) as answer:
        return orjson.loads(await answer.read())


async def cloud(
    api: Api, body: bytes, media_type: str = STRUCTURED, path: str = "/v1/events", **headers: str
) -> tuple[int, Any]:
    """Post bytes as CloudEvents for the application acme."""
    target = f"{api.url}{path}?application=acme"
    sent = {"Authorization": "Bearer admin-token-0123456789", "Content-Type": media_type, **headers}
    async with api.http.post(target, data=body, headers=sent) as answer:
        return answer.status, orjson.loads(await answer.read())
