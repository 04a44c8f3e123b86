"""What the calls of the API work with, and exactly what they ask of it."""

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aiohttp import web

from relay.api.pace import Paces
from relay.api.query import Query
from relay.api.reloads import Reload, Reloads
from relay.api.written import Reader
from relay.config import Config
from relay.core.access import Principal, Right
from relay.core.clock import Clock, ClockWatch, Now
from relay.core.ids import IdFactory
from relay.core.model import Endpoint, Health
from relay.core.netguard import Address, Guard
from relay.dispatch.loop import Dispatch
from relay.dispatch.verifier import Verifier
from relay.housekeeping import Housekeeping
from relay.queue import LaneView
from relay.registry import Registrar
from relay.replay import Replays
from relay.store import Store
from relay.telemetry.metrics import Metrics

NO_LANE = LaneView(
    waiting=0, reserved=0, running=0, window=0, live=True, health=Health(), cool_until_ms=0, why_waiting=""
)
"""What is seen of an endpoint that nothing was ever done for."""


class Daemon(Protocol):
    """What the running process knows about itself."""

    @property
    def config(self) -> Config:
        """The configuration in force; a reload replaces it."""
        ...

    @property
    def reloads(self) -> Reloads:
        """What reloads came to since the start."""
        ...

    @property
    def config_path(self) -> Path | None: ...
    @property
    def started(self) -> Now: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def log_lines_dropped(self) -> int: ...
    @property
    def descriptors(self) -> int:
        """How many files and connections the process may have open; below zero there is no limit."""
        ...

    @property
    def clock_watch(self) -> ClockWatch: ...
    @property
    def own(self) -> Container[Address]:
        """The addresses of this host."""
        ...

    @property
    def guard(self) -> Guard:
        """What decides which addresses are dialled."""
        ...

    async def reload(self) -> Reload: ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a call may use."""

    clock: Clock
    ids: IdFactory
    store: Store
    registrar: Registrar
    dispatch: Dispatch
    verifier: Verifier
    housekeeping: Housekeeping
    replays: Replays
    metrics: Metrics
    daemon: Daemon
    paces: Paces

    def query(self, request: web.Request) -> Query:
        """Read what stands behind the `?` of a request."""
        return Query(request, self.clock.wall_ms())

    def reader(self, principal: Principal) -> Reader:
        """Return what reads a caller's definitions by the configuration and the contracts in force."""
        return Reader(
            self.daemon.config,
            self.registrar.current.contracts,
            self.clock.wall_ms(),
            self.daemon.own,
            self.daemon.guard,
            for_tenant=not principal.may(Right.SEE_NETWORK),
            brings=principal.may(Right.ADMINISTER),
        )

    def lane(self, endpoint: Endpoint) -> LaneView:
        """Show what is under way for an endpoint, and what waits."""
        return self.dispatch.lanes.snapshot(endpoint.ref, self.clock.now()) or NO_LANE
