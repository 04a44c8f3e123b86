"""File descriptors run out: that is our trouble, and no receiver's."""

import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from relay.api.condition import few_descriptors, warnings
from relay.core.model import Failure, Health
from relay.delivery.dial import NotConnected
from relay.delivery.failures import explain
from relay.delivery.trail import Stage
from relay.dispatch.attempt import DESCRIPTORS_QUIET_MS, DESCRIPTORS_RETRY_MS
from tests.support.config import read, sound
from tests.support.couriers import post, running_courier
from tests.support.engine import config, engine
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.waiting import until


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let no file and no socket be opened in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # these three are open
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_courier_without_descriptors_blames_itself() -> None:
    """H22: the outcome of a real attempt for which no socket could be opened is a class of its own."""
    async with Receiver() as receiver, running_courier() as courier:
        with no_descriptor_left():
            outcome = await courier.attempt(post(receiver.url))
        assert (outcome.status, outcome.failure) == (None, Failure.NO_DESCRIPTORS)
        assert "LimitNOFILE" in outcome.detail
        assert (await courier.attempt(post(receiver.url))).status == 204


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_it_is_ours_at_every_stage(stage: Stage, number: int) -> None:
    """H22: a name lookup needs descriptors too. A name that does not resolve has a number of another kind."""
    error = NotConnected(stage, literal=False)
    error.__cause__ = OSError(number, "Too many open files")
    assert explain(error)[0] is Failure.NO_DESCRIPTORS
    error.__cause__ = socket.gaierror(socket.EAI_NONAME, "unknown")
    assert explain(error)[0] is Failure.DNS


async def test_a_delivery_without_descriptors_stays_due(tmp_path: Path) -> None:
    """H22: no attempt is counted and no health changes; it goes out when a descriptor is free, and the log says both."""
    with capture_logs() as lines:
        async with engine(tmp_path, config("e")) as house:
            house.courier.script = [Failure.NO_DESCRIPTORS] * 3
            house.run()
            accepted = await house.post()
            for attempt in (1, 2, 3):
                await until(lambda attempt=attempt: len(house.courier.requests) == attempt)  # type: ignore[misc]
                await house.quiet()
                assert house.dispatch.attempts.descriptors_missing
                assert len(house.courier.requests) == attempt  # not again and again
                house.clock.advance(DESCRIPTORS_RETRY_MS)
            await until(lambda: house.store.backlog == 0)
            (view,) = await house.store.deliveries_of(accepted.event.id)
            lane = house.dispatch.lanes.snapshot(house.endpoint("e").ref, house.clock.now())
            assert lane is not None
            assert (view.attempts, lane.health) == (1, Health(answered=True))

            house.clock.advance(DESCRIPTORS_QUIET_MS)
            await house.post()
            await until(lambda: house.store.backlog == 0)
            assert not house.dispatch.attempts.descriptors_missing
    said = [line["event"] for line in lines if "descriptors" in line["event"]]
    assert said == ["delivery.no_descriptors", "delivery.descriptors_free"]


def test_the_limit_is_compared_with_what_may_be_open(tmp_path: Path) -> None:
    """H22: attempts, connections kept for the next ones, clients of each listener that are served or wait for it, and a reserve."""
    settings = sound(read(tmp_path, "[delivery]\nconcurrency = 16\n[server]\nmax_connections = 100\n"))
    needed = 8 * 16 + len(settings.server.listen) * 2 * 100 + 256
    assert few_descriptors(settings, needed) is None
    assert few_descriptors(settings, -1) is None
    few = few_descriptors(settings, needed - 1)
    assert few is not None
    assert f"could need {needed}" in few
    assert few in warnings(settings, descriptors=needed - 1)


async def test_a_start_with_few_descriptors_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """H22: in the log and in the status."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1_024, 1_024))
    with capture_logs() as lines:
        async with Stack(tmp_path) as stack:
            status, answer = await stack.call("GET", "/v1/status")
    assert status == 200
    assert any("may open 1024 files" in warning for warning in answer["warnings"])
    assert [line["event"] for line in lines if line["event"] == "service.few_descriptors"]
