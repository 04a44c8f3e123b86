"""What a status looks at: the endpoints of note, and of thousands of quiet ones only as many as it lists."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay.api import condition, survey
from relay.core.model import Failure, Outcome
from relay.queue import Lanes
from tests.support.api import CONFIG, Api

QUIET = 2_000


def many(quiet: int) -> dict[str, Any]:
    """A configuration with three endpoints of another application, and so many that have nothing to do."""
    names = ["busy-1", "busy-2", "busy-3"]
    return CONFIG | {
        "application": [
            {"id": "acme", "endpoint": [_endpoint(f"quiet-{number:04}", "never.comes") for number in range(quiet)]},
            {"id": "globex", "endpoint": [_endpoint(name, "render.completed") for name in names]},
        ]
    }


def _endpoint(name: str, event_type: str) -> dict[str, Any]:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    return {"id": name, "url": f"https://acme.example/{name}", "event_types": [event_type], "secret": secret}


async def fail_once(api: Api) -> None:
    """Let one attempt fail at each of the three, and wait until all is settled."""
    api.courier.script = [Outcome(0, 1, status=503)] * 3
    await api.post_event(application="globex")

    async def failed() -> bool:
        return len(api.dispatch.lanes.of_note) == 3 and not api.dispatch.lanes.in_flight

    await api.until(failed)


@pytest.mark.parametrize(("path", "most"), [("/v1/status", 250 + 3), ("/metrics", 3 + 200)])
async def test_quiet_endpoints_are_not_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, most: int
) -> None:
    """S5: with 2,000 quiet endpoints and 3 of note a status looks at those it lists, and metrics at those with labels."""
    async with Api(tmp_path, many(QUIET)) as api:
        await fail_once(api)
        looked: list[str] = []

        def look_at(services: Any, endpoint: Any) -> condition.Line:
            looked.append(endpoint.id)
            return condition.look_at(services, endpoint)

        monkeypatch.setattr(survey, "look_at", look_at)
        answer = await api.call("GET", path)
    assert answer.status == 200
    assert {"busy-1", "busy-2", "busy-3"} <= set(looked)
    assert len(looked) <= most


async def test_the_sums_are_of_all_endpoints(tmp_path: Path) -> None:
    """S5: what is not looked at is counted all the same, in the status and in the metrics."""
    async with Api(tmp_path, many(300)) as api:
        await fail_once(api)
        await api.registrar.pause("quiet-0007")
        status = await api.get("/v1/status")
        metrics = await api.call("GET", "/metrics")
    assert status["headline"] == "3 of 303 endpoints are failing; 3 deliveries wait."
    assert (status["endpoints_total"], status["due"]) == (303, 3)
    assert status["endpoint_states"] == {"enabled": 302, "paused": 1, "disabled": 0, "refusing": 0, "unverified": 0}
    listed = [line["id"] for line in status["endpoints"]]
    assert (len(listed), listed[:3]) == (250, ["busy-1", "busy-2", "busy-3"])
    assert "quiet-0007" in listed
    shown: dict[str, float] = {}
    for family in text_string_to_metric_families(metrics.text.decode()):
        for sample in family.samples:
            if sample.name == "relay_endpoint_state":
                state = sample.labels["state"]
                shown[state] = shown.get(state, 0) + sample.value
    assert shown == {"enabled": 302, "paused": 1}


async def test_an_endpoint_ceases_to_be_of_note(tmp_path: Path) -> None:
    """A success ends what a failure, a refused address or a pause made of an endpoint."""
    async with Api(tmp_path) as api:
        ref, lanes, standing = api.registry.endpoint("primary").ref, api.dispatch.lanes, api.dispatch.standing
        api.courier.script = [Outcome(0, 1, failure=Failure.BLOCKED_ADDRESS), Outcome(0, 1, status=204)]
        await api.delivery_of(await api.post_event(), "dead")
        assert ref in standing.blocked
        await api.delivery_of(await api.post_event(), "delivered")
        assert (ref in lanes.of_note, ref in standing.blocked) == (False, False)
        await api.registrar.pause("primary")
        assert ref in lanes.of_note
        await api.registrar.resume("primary")
        assert ref not in lanes.of_note


async def test_others_have_their_turn_while_many_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S5: thousands of endpoints of note are looked at in turns; deliveries and producers go on meanwhile."""
    turns: list[int] = []
    async with Api(tmp_path, many(100)) as api:
        monkeypatch.setattr(survey, "LOOKED_AT_ONCE", 10)
        monkeypatch.setattr(Lanes, "of_note", property(lambda lanes: set(lanes._lanes)))
        coroutine = survey.survey(api.relay.services)
        try:
            while True:
                coroutine.send(None)
                turns.append(1)
        except StopIteration as ended:
            seen = ended.value
    assert len(seen.noted) == 103
    assert len(turns) >= 10
