"""The rooms behind the API of one relay: real store and registry, a played courier, and a clock that stands still."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relay.config import Loaded, load
from relay.core.model import Accepted, Application, Endpoint, NewEvent
from relay.registry import Registry
from relay.store import AcceptResult
from tests.support.clock import FakeClock
from tests.support.config import CONTRACTS, HOME, WHSEC, sound
from tests.support.house import House
from tests.support.played import PlayedCourier


def config(*endpoints: str, extra: str = "", settings: str = "", **urls: str) -> str:
    """Write an application `acme` with endpoints by name, each with the lines of `settings`; `extra` goes before it."""
    blocks = [
        f'[[application.endpoint]]\nid = "{name}"\nurl = "{urls.get(name, f"https://{name}.example/")}"\n'
        f'secret = "{WHSEC}"\n{settings}\n'
        for name in endpoints
    ]
    return f'{extra}\n[[application]]\nid = "acme"\n' + "".join(blocks)


class Engine(House):
    """Everything of a relay that an accepted event meets: opened, but nothing runs before `run`, and nobody listens."""

    def __init__(self, folder: Path, text: str, clock: FakeClock) -> None:
        self.courier: PlayedCourier = PlayedCourier(clock)
        super().__init__(folder, clock, text=text, courier=self.courier)
        self.clock: FakeClock = clock
        self.env = {**HOME, "RELAY_STORAGE__PATH": str(folder / "relay.db"), "RELAY_STORAGE__MIN_FREE_DISK": "1MiB"}
        self._running: list[asyncio.Task[None]] = []

    def read(self) -> Loaded:
        """Read the configuration, against the contracts that come with relay."""
        return load(self.config_path, self.env, {}, contracts=CONTRACTS)

    async def start(self) -> None:
        """Open the database and what works on it; what a refused configuration leaves open is ended."""
        self.relay = self.wire()
        try:
            await self.relay.open()
        except BaseException:
            await self.relay.abandon()
            raise
        self.store, self.registrar, self.metrics = self.relay.store, self.relay.registrar, self.relay.metrics
        self.dispatch, self.housekeeping = self.relay.dispatch, self.relay.housekeeping
        self.clock_watch = self.relay.clock_watch

    async def stop(self) -> None:
        """End everything; what a loop died of is raised here."""
        self.gate.error = None
        self.gate.let_go()
        for task in self._running:
            task.cancel()
        ends = await asyncio.gather(*self._running, return_exceptions=True)
        await self.dispatch.drain(0)
        await self.relay.stop()
        for end in ends:
            if isinstance(end, Exception):
                raise end

    @property
    def fatal(self) -> list[BaseException]:
        """What would have stopped the process."""
        return [] if self.relay.fatal is None else [self.relay.fatal]

    async def apply(self, text: str) -> None:
        """Take over a configuration, as a reload does."""
        self.write(text)
        await self.registrar.apply(sound(self.read()))

    def run(self, *loops: Callable[[], Any]) -> None:
        """Run dispatch, and the loops of housekeeping that are named; they end with the engine."""
        own = () if self._running else (self.dispatch.run,)
        self._running += [asyncio.create_task(loop()) for loop in (*own, *loops)]

    @property
    def registry(self) -> Registry:
        return self.registrar.current

    @property
    def acme(self) -> Application:
        return self.registry.application("acme").application

    def endpoint(self, name: str) -> Endpoint:
        return self.registry.endpoint(name)

    async def post(self, event_type: str = "a.b", **fields: Any) -> Accepted:
        """Accept an event as intake does: matched, stored, handed over."""
        match = self.registry.match(self.acme, event_type)
        now_ms = self.clock.wall_ms()
        event = NewEvent(
            id=self.relay._ids.new("evt"),
            id_given=False,
            application=self.acme.ref,
            type=event_type,
            body=b'{"n":1}',
            created_at_ms=now_ms,
            timestamp_ms=now_ms,
            targets=match.targets,
            reason=match.reason,
            reason_detail=match.detail,
            **fields,
        )
        return await self.store.accept([event], self._hand_over)

    def _hand_over(self, results: list[AcceptResult]) -> Accepted:
        (accepted,) = results
        assert isinstance(accepted, Accepted)
        self.dispatch.hand_over(accepted)
        return accepted

    async def states(self, accepted: Accepted) -> dict[str, str]:
        """Tell, for each endpoint of an event, the state of the delivery, and of what it died."""
        found = await self.store.deliveries_of(accepted.event.id)
        return {view.endpoint: f"{view.state}" + (f" {view.reason}" if view.reason else "") for view in found}

    async def passing(self, fact: Callable[[], bool], step_ms: int = 1_000) -> None:
        """Let time pass, a step at a time, until `fact` holds; for what is tried again and again."""
        while not fact():
            self.clock.advance(step_ms)
            await self.quiet()


def engine(folder: Path, text: str, *, clock: FakeClock | None = None) -> Engine:
    """Make an engine with a configuration; its context opens and closes it."""
    return Engine(folder, text, clock or FakeClock())
