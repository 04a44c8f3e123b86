"""Rate limits where they are promised: at the requests that go out (Q4). The real dispatch, a played courier."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from relay.core.clock import Now
from relay.core.frozen import FrozenEvent
from relay.core.model import Outcome
from relay.delivery.courier import Request
from relay.queue import Lanes, Start
from relay.queue.lane import RateLimit
from tests.support.engine import Engine, config, engine


class Wire:
    """Notes when requests go out, and holds back the events that dispatch reads for them."""

    def __init__(self, house: Engine) -> None:
        self._house = house
        self._read = house.store.read_event
        self._attempt = house.courier.attempt
        self.delay_ms = 0
        self._held_back = 0
        self.sent: list[float] = []
        replaced: Any = house
        replaced.store.read_event = self.read
        replaced.courier.attempt = self.attempt
        replaced.dispatch.hand_over = lambda accepted: house.dispatch.offer(accepted.due)  # the body is not cached

    async def read(self, ordinal: int) -> FrozenEvent | None:
        self._held_back += 1
        if self.delay_ms:
            await self._house.clock.wait(asyncio.Event(), self.delay_ms)
        self._held_back -= 1
        return await self._read(ordinal)

    async def attempt(self, request: Request) -> Outcome:
        self.sent.append(self._house.clock.mono_ms())
        return await self._attempt(request)

    async def send(self, count: int, delay_ms: int, ms: int) -> None:
        """Post events whose attempts need `delay_ms` from their choice to the wire, and let time pass."""
        for _ in range(count):
            await self._house.post()
        self.delay_ms = delay_ms
        for _ in range(0, ms, 100):
            await self._settle_down()
            self._house.clock.advance(100)
        await self._settle_down()

    async def _settle_down(self) -> None:
        """Let everything go on that can without time: then only what is held back is in flight."""
        await self._house.quiet()
        assert self._house.dispatch.lanes.in_flight == self._held_back

    @property
    def most_in_a_second(self) -> int:
        return max(sum(at_ms <= other < at_ms + 1_000 for other in self.sent) for at_ms in self.sent)


async def busy_wire(tmp_path: Path) -> Wire:
    """Send a dozen events under `4/s`: four need 900 ms from their choice to the wire, those after them none."""
    async with engine(tmp_path, config("first", settings='rate_limit = "4/s"\nconcurrency = 8')) as house:
        wire = Wire(house)
        house.run()
        for _ in range(8):  # so that the window has room for eight
            await wire.send(1, 0, 1_000)
        await wire.send(4, 900, 100)
        await wire.send(8, 0, 8_000)
        assert len(wire.sent) == 20
        return wire


async def test_a_rate_holds_on_the_wire(tmp_path: Path) -> None:
    """H21: attempts that need long from their choice to the wire do not meet those of the next second there."""
    assert (await busy_wire(tmp_path)).most_in_a_second <= 4


async def test_a_rate_counted_at_the_choice_would_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: with every attempt counted as sent when it is chosen, too many requests meet in a second."""
    send, take = RateLimit.send, Lanes.take

    def take_and_send(self: Lanes, now: Now, most: float) -> list[Start]:
        starts = take(self, now, most)
        for start in starts:
            rate = self._lanes[start.delivery.endpoint].rate
            assert rate is not None
            send(rate, start.delivery.event, now.mono_ms)
        return starts

    monkeypatch.setattr(Lanes, "take", take_and_send)
    monkeypatch.setattr(RateLimit, "send", lambda self, event, mono_ms: None)
    assert (await busy_wire(tmp_path)).most_in_a_second > 4
