"""An intake between fakes: what producers post, what would be stored, and what they are told."""

import json
import random
from typing import Any

import pytest

from relay.api.problems import Problem, Refused
from relay.core.access import Principal, Role
from relay.core.ids import IdFactory
from relay.core.model import Accepted, Validation
from relay.intake import Answer, Intake, IntakeLimits
from relay.telemetry.metrics import Metrics
from tests.support.clock import FakeClock
from tests.support.fakes import FakeDirectory, FakeStore

ACME = Principal("render-api", Role.PRODUCER, "acme")


class Desk:
    """An intake for the applications `acme` and `beta`."""

    def __init__(
        self,
        limits: IntakeLimits | None = None,
        *,
        contract: str = "standard",
        validation: Validation = Validation.STRICT,
        features: dict[str, bool] | None = None,
    ) -> None:
        self.clock = FakeClock(1_800_000_000_000)  # 2027-01-15T08:00:00Z
        self.store = FakeStore()
        self.directory = FakeDirectory.of(
            "acme", "beta", contract=contract, validation=validation, features=features or {}
        )
        self.handed_over: list[Accepted] = []
        self.metrics = Metrics("test")
        self.intake = Intake(
            directory=self.directory,
            store=self.store,
            clock=self.clock,
            ids=IdFactory(self.clock.wall_ms, random.Random(7).getrandbits),
            on_accepted=self.handed_over.append,
            metrics=self.metrics,
            limits=limits,
        )

    async def post(self, body: str | bytes, principal: Principal = ACME, key: str | None = None) -> Answer:
        return await self.intake.accept_one(principal, body.encode() if isinstance(body, str) else body, key)

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
        answer = await self.intake.accept_batch(ACME, json.dumps(items).encode())
        assert answer.status == 200
        results: list[dict[str, Any]] = answer.body["results"]
        return results


def pointers(problem: Problem) -> list[str]:
    return [mistake.path for mistake in problem.errors]
