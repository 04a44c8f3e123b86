"""H1: a mistake of relay's own in one attempt suspends that endpoint, and nobody else notices; seen through a real daemon."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.contracts.signing import Signer
from relay.delivery.exchange import Connection
from relay.delivery.pool import Pool
from relay.delivery.request import Layout
from relay.dispatch.attempt import Attempts
from relay.queue.health import SUSPENSION_MS
from relay.telemetry import log
from tests.support.clock import FakeClock
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.waiting import until

SICK, WELL = "sick", "well"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The endpoints for which signing raises."""
    make, sign, names = Signer.__init__, Signer.headers, {SICK}

    def make_with_id(signer: Any, *arguments: Any) -> None:
        make(signer, *arguments)
        signer.endpoint_id = arguments[-1]

    def sign_or_fail(signer: Any, **values: Any) -> dict[str, str]:
        if signer.endpoint_id in names:
            raise KeyError("a mistake in signing")
        return sign(signer, **values)

    monkeypatch.setattr(Signer, "__init__", make_with_id)
    monkeypatch.setattr(Signer, "headers", sign_or_fail)
    return names


def stack(folder: Path, receiver: Receiver) -> Stack:
    return Stack(folder, clock=FakeClock(), endpoints={name: f"{receiver.url}/{name}" for name in (SICK, WELL)})


def due(stack: Stack, name: str) -> int:
    return stack.relay.store.due_count(stack.relay.registrar.current.endpoint(name).ref)


async def suspended(stack: Stack) -> list[str]:
    status, answer = await stack.call("GET", "/v1/status")
    assert status == 200
    found: list[str] = answer["suspended"]
    return found


async def test_a_mistake_stays_with_its_endpoint(tmp_path: Path, broken: set[str]) -> None:
    """H1: the healthy endpoint gets everything, the process goes on, and the delivery is due without an attempt counted."""
    async with Receiver() as receiver, stack(tmp_path, receiver) as house:
        with capture_logs() as lines:
            event = await house.post()
            await house.post()
            await until(lambda: due(house, WELL) == 0 and house.relay.dispatch.lanes.in_flight == 0)
        assert house.relay.fatal is None
        assert {request.path for request in receiver.received} == {"/hook/well"}
        (line,) = [line for line in lines if line["event"] == log.ENDPOINT_SUSPENDED]
        assert (line["endpoint"], str(line["exc_info"])) == (SICK, "'a mistake in signing'")
        assert due(house, SICK) == 2

        await shown_everywhere(house, event["id"])

        broken.clear()
        house.fake.advance(SUSPENSION_MS)
        await until(lambda: due(house, SICK) == 0)
        assert await suspended(house) == []
        (view,) = [view for view in await house.deliveries(event["id"]) if view["endpoint"] == SICK]
        assert (view["state"], view["attempts"]) == ("delivered", 1)


@pytest.mark.parametrize(("owner", "name"), [(Layout, "fill"), (Connection, "_advance"), (Pool, "keep")])
async def test_a_mistake_in_the_courier_stays_with_its_endpoint(
    tmp_path: Path, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H1: one in making the request, reading the answer or keeping the connection is no fault of the receiver's."""
    right = getattr(owner, name)

    def mistaken(self: Any, *arguments: Any) -> Any:
        target = self.target if isinstance(self, Layout) else (arguments[0] if owner is Pool else self)
        if str(sick.port) in f"{getattr(target, 'port', '')}{_peer(target)}":
            raise KeyError("a mistake in the courier")
        return right(self, *arguments)

    async with Receiver(default=200) as sick, Receiver(default=200) as well:
        house = Stack(tmp_path, clock=FakeClock(), endpoints={SICK: f"{sick.url}/a", WELL: f"{well.url}/b"})
        async with house:
            with monkeypatch.context() as broken:
                broken.setattr(owner, name, mistaken)
                event = await house.post()
                await until(lambda: due(house, WELL) == 0 and house.relay.metrics._attempt_errors > 0)
                await until(lambda: house.relay.dispatch.lanes.in_flight == 0)
                await shown_everywhere(house, event["id"])
            assert house.relay.fatal is None
            house.fake.advance(SUSPENSION_MS)
            await until(lambda: due(house, SICK) == 0)
            (view,) = [view for view in await house.deliveries(event["id"]) if view["endpoint"] == SICK]
            assert (view["state"], view["attempts"]) == ("delivered", 1)


def _peer(connection: Any) -> str:
    transport = getattr(connection, "_transport", None)
    return "" if transport is None else str(transport.get_extra_info("peername"))


async def shown_everywhere(house: Stack, event_id: str) -> None:
    """The delivery, the endpoint, the status and the metrics say that the endpoint is suspended, and since when."""
    (view,) = [view for view in await house.deliveries(event_id) if view["endpoint"] == SICK]
    detail = await house.delivery(view["id"])
    assert (detail["state"], detail["attempts"], detail["next_attempt"]["why"]) == ("due", 0, "suspended")
    _, endpoint = await house.call("GET", f"/v1/webhook-endpoints/{SICK}")
    assert endpoint["suspended"]["cause"] == "KeyError"
    assert endpoint["waits_for"] == "suspended by a mistake of relay's own"
    assert await suspended(house) == [SICK]
    _, status = await house.call("GET", "/v1/status")
    assert status["headline"].startswith(f"{SICK} is suspended: a mistake of relay's own")
    assert status["worst"][0]["suspended"] == endpoint["suspended"]
    _, metrics = await house.call("GET", "/metrics")
    count = house.relay.metrics._attempt_errors
    assert count > 0
    assert f"\nrelay_attempt_errors_total {count}.0\n" in metrics


async def test_a_start_with_the_same_mistake_serves_the_others(tmp_path: Path, broken: set[str]) -> None:
    """H1: what is due for the suspended endpoint does not end every start again; the others are served each time."""
    async with Receiver() as receiver, stack(tmp_path, receiver) as house:
        for count in (1, 2, 3):
            await house.post()
            await until(lambda: due(house, WELL) == 0)
            assert len(receiver.received) == count
            await until(lambda: house.relay.metrics._attempt_errors > 0)
            await house.stop()
            house.fake.advance(1_000)  # ids are made of the time
            await house.start()
        assert due(house, SICK) == 3


async def test_the_test_finds_a_mistake_that_spreads(
    tmp_path: Path, broken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: an attempt without its boundary stops the process."""

    def spread(attempts: Attempts, delivery: object, error: Exception) -> None:
        raise error

    monkeypatch.setattr(Attempts, "_suspend", spread)
    async with Receiver() as receiver:
        house = stack(tmp_path, receiver)
        await house.start()
        await house.post()
        assert isinstance(await house.relay.wait(), KeyError)
        await house.crash()


async def test_an_edit_ends_a_suspension(tmp_path: Path, broken: set[str]) -> None:
    """H1: a reload that changes the endpoint lets it start at once; the clock stands still."""
    async with Receiver() as receiver, stack(tmp_path, receiver) as house:
        await house.post()
        await until(lambda: due(house, WELL) == 0 and house.relay.metrics._attempt_errors > 0)
        broken.clear()
        urls = {name: f"{receiver.url}/{name}" for name in (SICK, WELL)}
        house.write_config(endpoints=urls, endpoint_settings='timeout = "3s"')
        assert (await house.call("POST", "/v1/reload"))[0] == 200
        await until(lambda: due(house, SICK) == 0)
        assert await suspended(house) == []


async def test_a_test_call_with_the_same_mistake_is_a_500(tmp_path: Path, broken: set[str]) -> None:
    """H1: `POST …/test` answers a problem; the process goes on, and the endpoint is not suspended for it."""
    async with Receiver() as receiver, stack(tmp_path, receiver) as house:
        body = {"type": "render.completed", "data": {"n": 1}}
        status, problem = await house.call("POST", f"/v1/webhook-endpoints/{SICK}/test", body)
        assert (status, problem["type"]) == (500, "internal_error")
        assert (await house.call("POST", f"/v1/webhook-endpoints/{WELL}/test", body))[0] == 200
        assert await suspended(house) == []
        assert house.relay.fatal is None
