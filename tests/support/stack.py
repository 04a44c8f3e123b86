"""A whole relay that listens and works, and its client."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from relay.core.clock import Clock, SystemClock
from tests.support.clock import FakeClock
from tests.support.daemon import PRODUCER_TOKEN, TOKEN, config_text
from tests.support.house import House
from tests.support.waiting import until

__all__ = ["Stack", "until"]  # bench/shape.py finds both here, in older trees too


class Stack(House):
    """One relay with its client. `config` is text for its file, as `config_text` takes it."""

    def __init__(self, folder: Path, *, clock: Clock | None = None, seed: int = 1, **config: Any) -> None:
        super().__init__(folder, clock or SystemClock(), text=config_text(folder, **config), seed=seed)

    def write_config(self, **config: Any) -> None:
        """Write the file anew; a running relay sees it at its next reload."""
        self.write(config_text(self.folder, **config))

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
        return await self._only_delivery(event_id, "state", state)

    async def attempted(self, event_id: str, count: int) -> dict[str, Any]:
        """Wait until the only delivery of an event has `count` recorded attempts; return it with its timeline."""
        return await self._only_delivery(event_id, "attempts", count)

    async def _only_delivery(self, event_id: str, member: str, value: object) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            found[:] = await self.deliveries(event_id)
            return len(found) == 1 and found[0][member] == value

        await self.until(there)
        return await self.delivery(found[0]["id"])
