"""An intake between fakes: what producers post, what would be stored, and what they are told."""

import json
import random
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from relay.api import ingest, problems
from relay.api.problems import Problem, Refused
from relay.core.access import Principal, Role
from relay.core.errors import RelayError, StoreUnavailable
from relay.core.ids import IdFactory
from relay.core.model import Accepted
from relay.intake import Intake, IntakeLimits
from relay.store import EndpointRow, Store
from relay.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.fakes import FixedRegistrar, NotingStore, registry_of
from tests.support.stores import application, opened

ACME = Principal("render-api", Role.PRODUCER, "acme")

T = TypeVar("T")


class Answer(NamedTuple):
    """What a producer reads."""

    status: int
    body: dict[str, Any]
    location: str | None = None


class Desk:
    """An intake for the applications `acme` and `beta`."""

    def __init__(
        self,
        limits: IntakeLimits | None = None,
        *,
        store: Store | None = None,
        endpoints: Iterable[EndpointRow] = (),
        **settings: Any,
    ) -> None:
        self.clock = FakeClock(1_800_000_000_000)  # 2027-01-15T08:00:00Z
        self.store = NotingStore(store)
        self.registrar = FixedRegistrar(registry_of("acme", "beta", endpoints=endpoints, **settings))
        self.handed_over: list[Accepted] = []
        self.metrics = Metrics("test")
        self.intake = Intake(
            registrar=self.registrar,
            store=self.store,
            clock=self.clock,
            ids=IdFactory(self.clock.wall_ms, random.Random(7).getrandbits),
            on_accepted=self.handed_over.append,
            metrics=self.metrics,
            limits=limits,
        )

    async def post(self, body: str | bytes, principal: Principal = ACME, key: str | None = None) -> Answer:
        text = body.encode() if isinstance(body, str) else body
        receipt = await self._refusing(self.intake.accept_one(principal, text, key))
        return Answer(ingest.status_of(receipt), ingest.describe(receipt), f"/v1/events/{receipt.event_id}")

    async def send(self, event_type: str, data: str | bytes, **members: Any) -> Answer:
        """Post one event whose data are JSON text."""
        text = data if isinstance(data, str) else data.decode()
        named = json.dumps({"type": event_type, **members})
        return await self.post(f'{named[:-1]}, "data": {text}}}')

    async def refusal(self, body: str | bytes, principal: Principal = ACME, key: str | None = None) -> Problem:
        with pytest.raises(Refused) as caught:
            await self.post(body, principal, key)
        assert self.store.transactions == []
        return caught.value.problem

    async def batch(self, items: list[Any]) -> list[dict[str, Any]]:
        return await self.post_batch(json.dumps(items).encode())

    async def post_batch(self, body: bytes) -> list[dict[str, Any]]:
        results = await self._refusing(self.intake.accept_batch(ACME, body))
        return ingest.results(results)

    async def _refusing(self, accepting: Awaitable[T]) -> T:
        """Turn what is wrong with a request into the problem that the API makes of it."""
        try:
            return await accepting
        except StoreUnavailable:
            raise
        except RelayError as error:
            raise Refused(problems.from_error(error)) from None


@asynccontextmanager
async def keeping_desk(folder: Path, contract: str = "standard", **settings: Any) -> AsyncIterator[Desk]:
    """Open an intake before a real store, for what hangs on events that came before."""
    async with opened(folder) as relay:
        assert [await application(relay.store, name) for name in ("acme", "beta")] == [1, 2]
        yield Desk(store=relay.store, endpoints=[await relay.endpoint_row()], contract=contract, **settings)


def pointers(problem: Problem) -> list[str]:
    return [mistake.path for mistake in problem.errors]
