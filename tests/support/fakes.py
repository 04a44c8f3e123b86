"""Stand-ins for the rooms beside intake: a directory that is a dictionary, a store that notes what it is given."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay.contracts import Contract, ContractCatalogue
from relay.core.access import Principal
from relay.core.errors import Conflict, NotFound
from relay.core.model import Accepted, Application, DueDelivery, FrozenEvent, NewEvent, NoDelivery, Origin
from relay.store import AcceptResult, Store

CONTRACTS = ContractCatalogue.load()


class FakeMatch(NamedTuple):
    targets: tuple[int, ...]
    reason: NoDelivery | None = None
    detail: str = ""


@dataclass
class FakeDirectory:
    """Applications by id; every type goes to the targets of its application unless `matches` says otherwise."""

    applications: dict[str, Application] = field(default_factory=dict)
    matches: dict[str, FakeMatch] = field(default_factory=dict)
    endpoint: int | None = None  # the one that all types go to, where there is a real one

    @classmethod
    def of(cls, *ids: str, contract: str = "standard", **settings: Any) -> "FakeDirectory":
        return cls({id: Application(ref, id, contract, Origin.FILE, **settings) for ref, id in enumerate(ids, 1)})

    @property
    def current(self) -> "FakeDirectory":
        return self

    def application_for(self, principal: Principal, named: str | None) -> Application:
        name = principal.application or named
        if name is None:
            if len(self.applications) == 1:
                return next(iter(self.applications.values()))
            raise Conflict("application_required", "there are several applications", remedy='Name one: "application".')
        if name not in self.applications or named not in (None, name):
            raise NotFound(f"no application {named!r}", remedy="Look at the list.")
        return self.applications[name]

    def contract(self, application: Application) -> Contract:
        contract = CONTRACTS.get(application.contract)
        assert contract is not None
        return contract

    def match(self, application: Application, event_type: str) -> FakeMatch:
        everywhere = 10 * application.ref if self.endpoint is None else self.endpoint
        return self.matches.get(event_type, FakeMatch((everywhere,)))


class FakeStore:
    """Notes what it is given; a commit may be held or made to fail. A real store behind it decides what is a repetition."""

    def __init__(self, behind: Store | None = None) -> None:
        self.events: list[NewEvent] = []
        self.transactions: list[list[NewEvent]] = []
        self.submitted = asyncio.Event()  # a write has come in
        self.release: asyncio.Event | None = None  # set it to hold commits until it is set
        self.failure: Exception | None = None
        self._behind = behind

    async def accept(self, events: Sequence[NewEvent]) -> Sequence[AcceptResult]:
        self.submitted.set()
        self.transactions.append(list(events))
        if self.release is not None:
            await self.release.wait()
        if self.failure is not None:
            raise self.failure
        if self._behind is None:
            return [self._accept(event) for event in events]
        results = await self._behind.accept(events)
        self.events += [event for event, found in zip(events, results, strict=True) if isinstance(found, Accepted)]
        return results

    def _accept(self, event: NewEvent) -> AcceptResult:
        self.events.append(event)
        return accepted(event, len(self.events))


def accepted(event: NewEvent, ordinal: int) -> Accepted:
    """What the store answers for an event that is committed."""
    frozen = FrozenEvent(
        ordinal, event.id, event.type, event.application, event.created_at_ms, event.expires_at_ms, event.body
    )
    due = tuple(DueDelivery(ordinal, ref, event.created_at_ms, 1, 0, 0, event.created_at_ms) for ref in event.targets)
    return Accepted(frozen, due, len(due), event.reason, event.reason_detail)
