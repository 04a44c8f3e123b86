"""Catalogues at intake: what `strict` refuses, `warn` accepts and tells, and `off` does not look at."""

import json
from pathlib import Path

import pytest

from relay.api.problems import Refused
from relay.core.issues import Issue
from relay.core.model import Validation
from relay.telemetry.metrics import Readings
from tests.support.daemon import PRODUCER_TOKEN
from tests.support.desk import Desk, keeping_desk, pointers
from tests.support.stack import Stack

ENTITY = {"entity_id": "3f2c5e9a-6b1d-4c8e-9f0a-1b2c3d4e5f60", "asset_id": "3f2c5e9a-6b1d-4c8e-9f0a-1b2c3d4e5f61"}
WRONG = {"entity_id": ["seven"], "more/than~asked": 1}
READINGS = Readings(0, 0, 0, True, 0, 0, 0, 0.0)


def body(event_type: str, data: object, **members: object) -> str:
    return json.dumps({"type": event_type, "data": data, **members})


def counted(desk: Desk) -> bool:
    """Whether one event was counted as accepted with mistakes."""
    text, _ = desk.metrics.exposition(READINGS, "")
    return b"relay_events_warned_total 1.0" in text


async def test_what_the_catalogue_has_is_accepted() -> None:
    """An event of a listed type, with data as its schema says, is accepted without a word (ROU-10, ROU-14)."""
    desk = Desk(contract="roughy")
    answer = await desk.post(body("cut.completed", ENTITY))
    assert (answer.status, "warnings" in answer.body) == (202, False)
    assert json.loads(desk.store.events[0].body) == {"type": "cut.completed", "data": ENTITY}


async def test_every_mistake_of_a_payload_is_reported() -> None:
    """A wrong payload is 422 with all mistakes, those of the request beside those of its data (VAI-6, EDF-6)."""
    desk = Desk(contract="roughy")
    problem = await desk.refusal(body("cut.completed", WRONG, metadata=7))
    assert problem.status == 422
    assert pointers(problem)[0] == "/metadata"
    assert set(pointers(problem)) == {"/metadata", "/data/entity_id", "/data/asset_id", "/data/more~1than~0asked"}
    assert "seven" not in json.dumps(problem.to_json())


@pytest.mark.parametrize(
    ("contract", "event_type", "says"),
    [
        ("rotor", "order.finalised", "did you mean 'order.finalized'?"),
        ("roughy", "render.canceled", "did you mean 'render.cancelled'?"),
        ("videoaiditor", "render.started", "is not in the catalogue"),
        ("editframe", "render.complete", "did you mean 'render.completed'?"),
    ],
)
async def test_an_unknown_type_is_refused(contract: str, event_type: str, says: str) -> None:
    """A closed catalogue refuses other types, and names the nearest (ROT-7, ROU-10, VAI-1, EDF-7)."""
    problem = await Desk(contract=contract).refusal(body(event_type, {}))
    assert (problem.status, pointers(problem)) == (422, ["/type"])
    assert says in problem.errors[0].message


async def test_missing_data_is_one_mistake() -> None:
    """What stands in for data that are not there is not checked as well."""
    problem = await Desk(contract="roughy").refusal('{"type": "cut.completed"}')
    assert [(mistake.path, mistake.message) for mistake in problem.errors] == [("/data", "is missing: it must be JSON")]


async def test_open_contracts_take_everything() -> None:
    """`standard` lists nothing, so nothing is held against an event but the form of its type."""
    assert (await Desk().post(body("any.thing", [1, {}]))).status == 202


async def test_warn_accepts_and_tells() -> None:
    """With `warn` a wrong payload is stored as it is; the answer names every mistake, and it is counted."""
    desk = Desk(contract="roughy", validation=Validation.WARN)
    answer = await desk.post(body("cut.completed", WRONG))
    assert (answer.status, answer.body["deliveries"]) == (202, 1)
    assert {warning["pointer"] for warning in answer.body["warnings"]} == {
        "/data/entity_id", "/data/asset_id", "/data/more~1than~0asked",
    }  # fmt: skip
    assert all(warning["message"] for warning in answer.body["warnings"])
    assert json.loads(desk.store.events[0].body)["data"] == WRONG
    assert counted(desk)


async def test_warn_takes_unknown_types_too(tmp_path: Path) -> None:
    """A type that the catalogue lacks is told like any other mistake, once for every event that is stored."""
    async with keeping_desk(tmp_path, "roughy", validation=Validation.WARN) as desk:
        answer = await desk.post(body("cut.exploded", ENTITY, idempotency_key="k"))
        again = await desk.post(body("cut.exploded", ENTITY, idempotency_key="k"))
        assert [warning["pointer"] for warning in answer.body["warnings"]] == ["/type"]
        assert again.body["warnings"] == answer.body["warnings"]
        assert counted(desk)


async def test_off_looks_at_nothing() -> None:
    """With `off` neither type nor data are held against the catalogue."""
    desk = Desk(contract="roughy", validation=Validation.OFF)
    for event_type, data in (("cut.completed", WRONG), ("cut.exploded", None)):
        answer = await desk.post(body(event_type, data))
        assert (answer.status, "warnings" in answer.body) == (202, False)
    assert not counted(desk)


@pytest.mark.parametrize("validation", Validation)
async def test_the_form_of_a_type_is_never_waived(validation: Validation) -> None:
    """A type that no contract could have is refused however lenient the application is."""
    problem = await Desk(contract="roughy", validation=validation).refusal(body("no blanks", ENTITY))
    assert pointers(problem) == ["/type"]


LOSSY = '{"videoData": {"ids": [1, 9007199254740993123]}, "_id": "r"}'


@pytest.mark.parametrize("validation", [Validation.WARN, Validation.OFF])
async def test_a_lossy_number_is_refused(validation: Validation) -> None:
    """A number that JavaScript would change cannot be signed: 422 `lossy_number` with its place (VAI-8, js 3)."""
    desk = Desk(contract="videoaiditor", validation=validation)
    with pytest.raises(Refused) as caught:
        await desk.send("render.completed", LOSSY)
    problem = caught.value.problem
    assert (problem.status, problem.type) == (422, "lossy_number")
    assert pointers(problem) == ["/data/videoData/ids/1"]


async def test_a_lossy_number_stands_beside_other_mistakes() -> None:
    """With mistakes of the payload the lossy number is one more of them."""
    desk = Desk(contract="videoaiditor")
    with pytest.raises(Refused) as caught:
        await desk.send("render.completed", LOSSY)
    assert caught.value.problem.type == "invalid_request"
    assert {"/data/status", "/data/videoData/ids/1"} <= set(pointers(caught.value.problem))


async def test_verbatim_contracts_take_any_number() -> None:
    """Rotor's and the standard's bodies keep each number as it is written, however long (ROT-16)."""
    desk = Desk()
    await desk.send("a.b", LOSSY)
    assert desk.store.events[0].body.endswith(LOSSY.encode() + b"}")


async def test_data_that_cannot_be_spread_are_refused() -> None:
    """A flat body needs an object, and one that leaves the contract's own members alone (WOC-4)."""
    desk = Desk(contract="wochit", validation=Validation.OFF)
    for data, pointer in (("[1]", "/data"), ('{"type": "mine"}', "/data/type")):
        with pytest.raises(Refused) as caught:
            await desk.send("video.delete", data)
        assert (caught.value.problem.status, pointers(caught.value.problem)) == (422, [pointer])


async def test_a_name_with_a_lone_surrogate_can_be_told() -> None:
    """A mistake at a member whose name no UTF-8 holds still makes an answer that can be sent (WOC-14)."""
    desk = Desk(contract="wochit")
    with pytest.raises(Refused) as caught:
        await desk.send("video.delete", '{"videoContext": "x", "wochitVideoId": "6", "\\ud83d": 1}')
    (mistake,) = caught.value.problem.errors
    assert isinstance(mistake, Issue)
    assert json.loads(caught.value.problem.body())["errors"][0]["pointer"] == mistake.path


async def test_the_relay_enforces_what_the_file_says(tmp_path: Path) -> None:
    """`validation` of an application decides, over HTTP, from the configuration."""
    wrong = {"type": "cut.completed", "data": WRONG}
    async with Stack(tmp_path, contract="roughy") as stack:
        status, problem = await stack.call("POST", "/v1/events", wrong, token=PRODUCER_TOKEN)
        assert (status, problem["type"], len(problem["errors"])) == (422, "invalid_request", 3)

        stack.write_config(contract="roughy", application='validation = "warn"')
        assert (await stack.call("POST", "/v1/reload"))[0] == 200
        status, answer = await stack.call("POST", "/v1/events", wrong, token=PRODUCER_TOKEN)
        assert (status, len(answer["warnings"])) == (202, 3)
        _, metrics = await stack.call("GET", "/metrics")
        assert "relay_events_warned_total 1.0" in metrics
