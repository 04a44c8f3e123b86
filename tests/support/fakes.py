"""What stands beside intake in its tests: a real registry without a database, and a store that notes what it is given."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from relay.config import Config
from relay.contracts import ContractCatalogue
from relay.core.frozen import FrozenEvent
from relay.core.model import Accepted, DueDelivery, NewEvent, Origin, Secret
from relay.registry import Registry
from relay.registry.planning import new_endpoint
from relay.registry.resolving import InFile
from relay.store import AcceptResult, ApplicationRow, EndpointRow, RegistryRows, Store, Usage
from tests.support.config import CONTRACTS, WHSEC


class FixedRegistrar:
    """Holds a registry that only a test changes."""

    def __init__(self, current: Registry) -> None:
        self.current = current

    def delete_endpoint(self, name: str) -> None:
        """Let nothing match an endpoint any more."""
        self.current = self.current.without_endpoint(self.current.endpoint(name))


def registry_of(
    *ids: str, endpoints: Iterable[EndpointRow] = (), catalogue: ContractCatalogue = CONTRACTS, **settings: Any
) -> Registry:
    """Make a registry of applications with these settings; each has one endpoint, `to-` and its name, unless some are given."""
    config = Config.model_validate({"application": [{"id": name, **settings} for name in ids]})
    applications = [
        ApplicationRow(ref, application.id, Origin.FILE, None, application.contract, 0, 0)
        for ref, application in enumerate(config.applications, 1)
    ]
    rows = list(endpoints) or [endpoint_of(application) for application in applications]
    empty = Registry(config, catalogue, InFile.of(config))
    return empty.including(RegistryRows(applications, rows))


def endpoint_of(application: ApplicationRow) -> EndpointRow:
    """Make an endpoint that takes every type of an application."""
    url = f"https://{application.id}.example/"
    row = new_endpoint(f"to-{application.id}", application.id, Origin.API, url, 0)
    return replace(row, ref=10 * application.ref, definition={"url": url}, secrets=(Secret(WHSEC),))


class NotingStore:
    """Notes what it is given; a commit may be held or made to fail. A real store behind it decides what is a repetition."""

    def __init__(self, behind: Store | None = None) -> None:
        self.events: list[NewEvent] = []
        self.transactions: list[list[NewEvent]] = []
        self.submitted = asyncio.Event()  # a write has come in
        self.release: asyncio.Event | None = None  # set it to hold commits until it is set
        self.failure: Exception | None = None
        self.fatal: list[BaseException] = []
        self._behind = behind

    backlog = 0

    def usage(self, application: int) -> Usage:
        """Nothing is ever due here."""
        return Usage(0, 0)

    def accept(self, events: Sequence[NewEvent], follow: Callable[[list[AcceptResult]], Any]) -> Awaitable[Any]:
        """Do what a store promises: `follow` is called for every commit, whoever still waits, and an error in it is fatal."""
        return asyncio.shield(asyncio.ensure_future(self.accept_and_follow(events, follow)))

    async def accept_and_follow(self, events: Sequence[NewEvent], follow: Callable[[list[AcceptResult]], Any]) -> Any:
        results = await self._write(events)
        try:
            return follow(list(results))
        except Exception as mistake:
            self.fatal.append(mistake)
            raise

    async def _write(self, events: Sequence[NewEvent]) -> Sequence[AcceptResult]:
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
