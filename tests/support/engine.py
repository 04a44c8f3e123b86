"""The rooms behind the API of one relay: real store and registry, a played courier, and a clock that stands still."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from relay.core.clock import ClockWatch
from relay.core.ids import IdFactory
from relay.core.model import Accepted, Application, Endpoint, Failure, NewEvent, Outcome
from relay.delivery.courier import Request
from relay.dispatch.loop import Dispatch
from relay.housekeeping import Housekeeping
from relay.queue import Lanes
from relay.registry import Registrar, Registry, TokenTable
from relay.store.sqlite import SqliteStore, StoreSettings
from relay.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.config import CONTRACTS, WHSEC, read, sound
from tests.support.stores import Gate, gated

Reply = int | Failure | Awaitable[int | Failure]


def config(*endpoints: str, extra: str = "", settings: str = "", **urls: str) -> str:
    """Write an application `acme` with endpoints by name, each with the lines of `settings`; `extra` goes before it."""
    blocks = [
        f'[[application.endpoint]]\nid = "{name}"\nurl = "{urls.get(name, f"https://{name}.example/")}"\n'
        f'secret = "{WHSEC}"\n{settings}\n'
        for name in endpoints
    ]
    return f'{extra}\n[[application]]\nid = "acme"\n' + "".join(blocks)


class PlayedCourier:
    """Answers each attempt from `script`, and with 204 when it has ended. An awaitable holds its attempt open."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.script: list[Reply | Exception] = []
        self.requests: list[Request] = []

    async def attempt(self, request: Request) -> Outcome:
        self.requests.append(request)
        reply = self.script.pop(0) if self.script else 204
        if isinstance(reply, Exception):
            raise reply
        answer = reply if isinstance(reply, int | Failure) else await reply
        outcome = Outcome(started_at_ms=self._clock.wall_ms(), duration_ms=7)
        return replace(outcome, status=answer) if isinstance(answer, int) else replace(outcome, failure=answer)


class Engine:
    """Everything of a relay that an accepted event meets. `fatal` holds what would have stopped the process."""

    def __init__(self, folder: Path, store: SqliteStore, clock: FakeClock, gate: Gate, **options: Any) -> None:
        self.folder, self.store, self.clock, self.gate = folder, store, clock, gate
        self.metrics = Metrics("test")
        self.courier = PlayedCourier(clock)
        self.fatal: list[BaseException] = []
        rng = Random(1)
        self.ids = IdFactory(clock.wall_ms, rng.getrandbits)
        self.registrar = Registrar(store, CONTRACTS, TokenTable(), clock, self.ids, rng.randbytes)
        self.clock_watch = ClockWatch(clock, store.heartbeat_ms)
        self.dispatch = options.pop("dispatch_type", Dispatch)(
            store=store,
            registrar=self.registrar,
            courier=self.courier,
            lanes=Lanes(256, rng),
            clock=clock,
            clock_watch=self.clock_watch,
            rng=rng,
            metrics=self.metrics,
            on_fatal=self.fatal.append,
            **options,
        )
        self.housekeeping = Housekeeping(
            store=store,
            registrar=self.registrar,
            dispatch=self.dispatch,
            clock=clock,
            clock_watch=self.clock_watch,
            metrics=self.metrics,
            retention=sound(read(folder, "")).storage.retention,
            min_free_disk_bytes=1 << 20,
        )
        self._running: list[asyncio.Task[None]] = []

    async def apply(self, text: str) -> None:
        """Take over a configuration, as start and reload do."""
        await self.registrar.apply(sound(read(self.folder, text)))

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
            id=self.ids.new("evt"),
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
        accepted = (await self.store.accept([event]))[0]
        assert isinstance(accepted, Accepted)
        self.dispatch.hand_over(accepted)
        return accepted

    async def states(self, accepted: Accepted) -> dict[str, str]:
        """Tell, for each endpoint of an event, the state of the delivery, and of what it died."""
        found = await self.store.deliveries_of(accepted.event.id)
        return {view.endpoint: f"{view.state}" + (f" {view.reason}" if view.reason else "") for view in found}

    async def close(self) -> None:
        """End everything; what a loop died of is raised here."""
        for task in self._running:
            task.cancel()
        ends = await asyncio.gather(*self._running, return_exceptions=True)
        await self.dispatch.drain(0)
        for end in ends:
            if isinstance(end, Exception):
                raise end


@asynccontextmanager
async def engine(folder: Path, text: str, *, clock: FakeClock | None = None, **options: Any) -> AsyncIterator[Engine]:
    """Open an engine with a configuration, and close it."""
    clock, gate = clock or FakeClock(), Gate()
    store = await SqliteStore.open(StoreSettings(path=folder / "relay.db"), clock, gated(gate))
    made = Engine(folder, store, clock, gate, **options)
    try:
        await made.apply(text)
        yield made
    finally:
        gate.error = None
        gate.let_go()
        await made.close()
        with contextlib.suppress(Exception):
            await store.close()


async def passing(clock: FakeClock, fact: Callable[[], bool], step_ms: int = 1_000) -> None:
    """Let time pass, a step at a time, until `fact` holds; for what is tried again and again."""
    while not fact():
        clock.advance(step_ms)
        await turns()


async def turns(count: int = 50) -> None:
    """Let everything that can go on without time or news go on."""
    for _ in range(count):
        await asyncio.sleep(0)
