"""What follows a commit: a mistake of our own there is answered, and ends the process (invariant 12)."""

import asyncio
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.support.daemon import PRODUCER_TOKEN
from tests.support.desk import Desk
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.waiting import until

EVENT = {"type": "render.completed", "data": {"n": 1}}


def broken(*_args: object) -> NoReturn:
    raise ZeroDivisionError("a mistake of our own")


@pytest.mark.parametrize(("path", "body"), [("/v1/events", EVENT), ("/v1/events/batch", [EVENT, EVENT])])
async def test_a_mistake_after_the_commit_is_answered_and_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, body: Any
) -> None:
    """H2: the producer hears 500, the process stops, and the next one sends what was stored."""
    async with Receiver() as receiver:
        stack = Stack(tmp_path, endpoints={"primary": receiver.url})
        await stack.start()
        monkeypatch.setattr(stack.relay.metrics, "accepted", broken)
        async with asyncio.timeout(20):
            status, problem = await stack.call("POST", path, body, token=PRODUCER_TOKEN)
            assert (status, problem["type"]) == (500, "internal_error")
            assert isinstance(await stack.relay.wait(), ZeroDivisionError)
        await stack.http.close()
        await stack.relay.stop()
        assert receiver.received == []

        async with Stack(tmp_path, endpoints={"primary": receiver.url}):
            await receiver.wait_for(2 if isinstance(body, list) else 1)


async def test_a_mistake_after_the_commit_is_fatal_although_the_client_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """H2: nobody waits for the answer any more, and the process ends all the same."""
    desk = Desk()
    desk.store.release = asyncio.Event()
    monkeypatch.setattr(desk.metrics, "accepted", broken)
    posting = asyncio.ensure_future(desk.post('{"type": "a.b", "data": 1}'))
    await desk.store.submitted.wait()
    posting.cancel()
    desk.store.release.set()
    await until(lambda: bool(desk.store.fatal))
    assert isinstance(desk.store.fatal[0], ZeroDivisionError)
    with pytest.raises(asyncio.CancelledError):
        await posting
