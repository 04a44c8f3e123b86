"""Limits of a relay that runs: a thousand test calls over real sockets, and reloads that change what is allowed (Q10)."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.api import endpoints
from tests.support.api import CONFIG, Api
from tests.support.daemon import SECRET, TOKEN
from tests.support.receiver import Receiver
from tests.support.stack import Stack
from tests.support.waiting import until

CALLS = 1_000
SILENT = """
[[application.endpoint]]
id = "silent"
url = "{}"
secret = "{}"
timeout = "10m"
event_types = ["never.sent"]
"""

# -- test calls ---------------------------------------------------------------------------------------------------------


class Silence:
    """A receiver that takes connections and never answers; `open` counts those that are there."""

    def __init__(self) -> None:
        self.open = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await reader.read(1 << 16):
                pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def besieged(folder: Path) -> AsyncIterator[tuple[Stack, Silence]]:
    """A relay with an endpoint that never answers within its ten minutes, and one that answers at once."""
    silence = Silence()
    server = await asyncio.start_server(silence.take, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, Receiver() as receiver:
        silent = SILENT.format(f"http://{host}:{port}/", SECRET)
        stack = Stack(folder, endpoints={"primary": receiver.url}, extra=silent)
        text = stack.config_path.read_text()
        stack.write(text.replace("[server]\n", f"[server]\nmax_connections = {2 * CALLS}\n"))
        async with stack:
            yield stack, silence


async def call_test(stack: Stack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a test of the silent endpoint on a connection of its own."""
    host, port = stack.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/webhook-endpoints/silent/test HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    return reader, writer


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def siege(stack: Stack, silence: Silence, calls: int) -> tuple[list[bytes], list[asyncio.StreamWriter]]:
    """Make so many calls at once; the answers, which come while four attempts go on, and the connections."""
    connections = [await call_test(stack) for _ in range(calls)]
    heads = [asyncio.ensure_future(reader.readuntil(b"\r\n\r\n")) for reader, _ in connections]
    await until(lambda: sum(head.done() for head in heads) >= calls - 4 and silence.open >= 4)
    answers = [head.result() for head in heads if head.done()]
    for head in heads:
        head.cancel()
    await asyncio.gather(*heads, return_exceptions=True)
    return answers, [writer for _, writer in connections]


async def hang_up(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


@pytest.mark.timeout(120)
async def test_a_thousand_tests_of_a_silent_endpoint(tmp_path: Path) -> None:
    """I4: all beyond `tests.at_once` are refused at once, others are served meanwhile, and no descriptor stays behind."""
    async with besieged(tmp_path) as (stack, silence):
        await stack.settled((await stack.post())["id"], "delivered")
        before = descriptors()
        answers, writers = await siege(stack, silence, CALLS)
        assert len(answers) == CALLS - 4
        assert {answer.split(b"\r\n", 1)[0] for answer in answers} == {b"HTTP/1.1 429 Too Many Requests"}
        assert all(b"Retry-After: 1\r\n" in answer for answer in answers)
        assert silence.open == 4
        await stack.settled((await stack.post())["id"], "delivered")
        await hang_up(writers)
        await until(lambda: silence.open == 0 and descriptors() <= before)
        answers, writers = await siege(stack, silence, 5)  # there is room again for four, and for no more
        assert len(answers) == 1
        await hang_up(writers)


@pytest.mark.timeout(60)
async def test_an_attempt_that_outlives_its_client_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of I4: without an end at the hang-up, attempts of clients that have gone stay open."""

    async def regardless(request: object, work: Any) -> Any:
        return await work

    monkeypatch.setattr(endpoints, "for_client", regardless)
    async with besieged(tmp_path) as (stack, silence):
        _, writers = await siege(stack, silence, 5)
        await hang_up(writers)
        await stack.settled((await stack.post())["id"], "delivered")
        assert silence.open == 4
        await stack.relay.dispatch.drain(0)


# -- reloads ------------------------------------------------------------------------------------------------------------

SLOW = {"name": "slow", "role": "producer", "secret": "slow-token-0123456789abcdef"}


def configured(api: Api, limits: dict[str, Any], own: dict[str, Any] | None = None, **token: str) -> None:
    """Write other limits into the file of a relay: for all, of `acme`, and of a token."""
    acme = {**CONFIG["application"][0], **({} if own is None else {"limits": own})}
    written = {
        **CONFIG,
        "application": [acme, CONFIG["application"][1]],
        "limits": limits,
        "token": [{**SLOW, **token}],
    }
    kept = api.config.model_dump(include={"server", "storage"}, by_alias=True)
    api.config = type(api.config).model_validate({**kept, **written})


async def post(api: Api, by: str = "root") -> int:
    event = {"type": "a.b", "data": {}, "application": "acme"}
    return (await api.call("POST", "/v1/events", orjson.dumps(event), by=by)).status


async def reload(api: Api) -> None:
    answer = await api.call("POST", "/v1/reload")
    assert answer.status == 200, answer.text


async def test_a_reload_of_limits_acts_at_once(tmp_path: Path) -> None:
    """I8: `[limits]` and an application's own, raised, lowered and taken away by a reload, hold for the next post."""
    async with Api(tmp_path / "a", {**CONFIG, "limits": {"backlog": 1}}) as api:
        await api.call("POST", "/v1/webhook-endpoints/primary/pause")
        assert [await post(api) for _ in range(2)] == [202, 503]
        configured(api, {"backlog": 2})
        assert await post(api) == 503  # nothing has changed before the reload
        await reload(api)
        assert [await post(api) for _ in range(2)] == [202, 503]
        configured(api, {"backlog": 2}, {"backlog": 3})
        await reload(api)
        assert [await post(api) for _ in range(2)] == [202, 503]
        configured(api, {"backlog": 100}, {"bytes": "1KiB"})
        await reload(api)
        assert await post(api) == 202
        configured(api, {"backlog": 1})
        await reload(api)
        assert await post(api) == 503
        assert (await api.get("/v1/applications/acme"))["limits"]["backlog"] == 1


async def test_a_reload_of_tests_and_endpoints_acts_at_once(tmp_path: Path) -> None:
    """I4, I8: so do the limits of tests and of endpoints; a limit below what is there takes nothing away."""
    async with Api(tmp_path / "a") as api:
        made = {"url": "https://hook.example/", "application": "acme"}
        path = "/v1/webhook-endpoints"
        assert (await api.call("POST", path, made)).status == 201
        assert (await api.call("POST", f"{path}/primary/test", {})).status == 200
        configured(api, {"endpoints": 1, "tests": {"per_minute": 1}})
        await reload(api)
        assert (await api.call("POST", path, made)).status == 409
        assert (await api.call("POST", f"{path}/primary/test", {})).status == 429
        assert (await api.get("/v1/applications/acme"))["endpoints"] == 2


async def test_a_reload_of_a_rate_acts_at_once(tmp_path: Path) -> None:
    """Rates: a rate that a reload gives to a token, or to all, holds for its next request; one taken away frees it."""
    async with Api(tmp_path / "a") as api:
        configured(api, {})
        await reload(api)
        assert [await post(api, SLOW["secret"]) for _ in range(3)] == [202] * 3
        configured(api, {}, rate="1/s")
        await reload(api)
        assert [await post(api, SLOW["secret"]) for _ in range(2)] == [202, 429]
        configured(api, {}, rate="3/s")
        await reload(api)
        assert await post(api, SLOW["secret"]) == 202
        configured(api, {})
        await reload(api)
        assert [await post(api, SLOW["secret"]) for _ in range(5)] == [202] * 5
        configured(api, {"rate": "2/s"})
        await reload(api)
        assert [await post(api, SLOW["secret"]) for _ in range(3)] == [202, 202, 429]
