"""A whole relay in this process: real SQLite file, real sockets on port 0, and a clock that a test may move."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from relay.config import load
from relay.core.clock import Clock, SystemClock
from relay.daemon.service import Relay
from tests.support.clock import FakeClock
from tests.support.daemon import PRODUCER_TOKEN, TOKEN, config_text

PATIENCE_S = 45.0
"""How long a fact may take; a test that waits in vain must end here, for its own time-out may hit another task's step."""


async def until(fact: Callable[[], Awaitable[bool] | bool], patience_s: float = PATIENCE_S) -> None:
    """Return as soon as `fact` holds; never sleeps. AssertionError when it does not come true."""
    deadline = time.monotonic() + patience_s
    while True:
        held = fact()
        if held if isinstance(held, bool) else await held:
            return
        assert time.monotonic() < deadline, f"this never came true: {inspect.getsource(fact).strip()}"
        await asyncio.sleep(0)


class Stack:
    """One relay with its client. `config` is text for its file; leaving the context stops it."""

    def __init__(self, folder: Path, *, clock: Clock | None = None, seed: int = 1, **config: Any) -> None:
        self.folder = folder
        self.clock = clock or SystemClock()
        self.env = {"XDG_STATE_HOME": str(folder)}  # what the next start or reload sees
        self._seed = seed
        self.write_config(**config)

    def write_config(self, **config: Any) -> None:
        """Write the file anew; a running relay sees it at its next reload."""
        self.config_path = self.folder / "config.toml"
        self.config_path.write_text(config_text(self.folder, **config))
        self.config_path.chmod(0o600)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start a relay on the folder."""

        def reread() -> Any:
            return load(self.config_path, self.env, {})

        self.relay = Relay(reread(), reread=reread, clock=self.clock, rng=Random(self._seed))
        await self.relay.start()
        self.http = aiohttp.ClientSession()
        address = next(address for address in self.relay.addresses if not address.startswith("unix:"))
        self.url = f"http://{address}"

    async def stop(self) -> None:
        """Stop it, as SIGTERM would; a test in which a background task died has failed."""
        await self.http.close()
        await self.relay.stop()
        assert self.relay.fatal is None, self.relay.fatal

    async def crash(self) -> None:
        """End it as SIGKILL would: nothing more reaches the database."""
        await self.http.close()
        await self.relay.abandon()

    @property
    def fake(self) -> FakeClock:
        assert isinstance(self.clock, FakeClock)
        return self.clock

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str = TOKEN,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Call the API; return the status and the decoded body."""
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **(headers or {})}
        async with self.http.request(method, self.url + path, data=data, headers=sent) as response:
            text = await response.read()
            decoded = orjson.loads(text) if text and "json" in response.content_type else text.decode()
            return response.status, decoded

    async def post(self, event_type: str = "render.completed", data: Any = None, **fields: Any) -> dict[str, Any]:
        """Post an event as the producer; it must be accepted."""
        body = {"type": event_type, "data": {"n": 1} if data is None else data, **fields}
        status, answer = await self.call("POST", "/v1/events", body, token=PRODUCER_TOKEN)
        assert status in (200, 202), answer
        assert isinstance(answer, dict)
        return answer

    async def deliveries(self, event_id: str) -> list[dict[str, Any]]:
        """The deliveries of an event."""
        status, answer = await self.call("GET", f"/v1/events/{event_id}/deliveries")
        assert status == 200, answer
        found: list[dict[str, Any]] = answer["data"]
        return found

    async def delivery(self, delivery_id: str) -> dict[str, Any]:
        """One delivery with its timeline."""
        status, answer = await self.call("GET", f"/v1/deliveries/{delivery_id}")
        assert status == 200, answer
        assert isinstance(answer, dict)
        return answer

    async def settled(self, event_id: str, state: str) -> dict[str, Any]:
        """Wait until the only delivery of an event is in `state`; return it with its timeline."""
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            found[:] = await self.deliveries(event_id)
            return len(found) == 1 and found[0]["state"] == state

        await until(there)
        return await self.delivery(found[0]["id"])

    async def attempted(self, event_id: str, count: int) -> dict[str, Any]:
        """Wait until the only delivery of an event has `count` recorded attempts; return it with its timeline."""
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            found[:] = await self.deliveries(event_id)
            return len(found) == 1 and found[0]["attempts"] == count

        await until(there)
        return await self.delivery(found[0]["id"])
