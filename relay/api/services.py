"""What the calls of the API work with, and exactly what they ask of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from relay.config import Config
from relay.config import Problem as ConfigProblem
from relay.contracts import Contract, ContractCatalogue
from relay.core.access import Principal
from relay.core.clock import Clock, ClockWatch, Now
from relay.core.ids import IdFactory
from relay.core.model import Application, Endpoint, Health
from relay.dispatch.loop import Dispatch
from relay.queue import LaneView
from relay.registry import Applications, Owner
from relay.registry.definition import EndpointDefinition
from relay.store import Store
from relay.telemetry.metrics import Metrics

Revise = Callable[[EndpointDefinition], EndpointDefinition]
"""Makes the next definition of an endpoint from the present one, or refuses by raising."""


class Directory(Protocol):
    """The applications and endpoints, and edits of them."""

    @property
    def applications(self) -> Mapping[str, Application]: ...
    @property
    def endpoints(self) -> Mapping[str, Endpoint]: ...
    def endpoint(self, endpoint_id: str) -> Endpoint: ...
    def application_for(self, principal: Principal, named: str | None) -> Application: ...
    @property
    def contracts(self) -> ContractCatalogue: ...
    def contract(self, application: Application) -> Contract: ...
    def owner(self, application_id: str) -> Owner: ...
    def endpoints_of(self, application: Application) -> Sequence[Endpoint]: ...
    async def create_endpoint(
        self, application: Application, definition: EndpointDefinition
    ) -> tuple[Endpoint, str | None]: ...
    async def update_endpoint(self, endpoint_id: str, revise: Revise) -> Endpoint:
        """Call `revise` with the present definition, under the same lock as the write: no edit overwrites another."""
        ...

    async def delete_endpoint(self, endpoint_id: str) -> None: ...
    async def rotate_secret(self, endpoint_id: str, overlap_ms: int) -> tuple[Endpoint, str]: ...
    async def pause(self, endpoint_id: str) -> Endpoint: ...
    async def resume(self, endpoint_id: str) -> Endpoint: ...
    async def enable(self, endpoint_id: str) -> Endpoint: ...
    async def disable(self, endpoint_id: str) -> Endpoint: ...


NO_LANE = LaneView(
    waiting=0, reserved=0, running=0, window=0, live=True, health=Health(), cool_until_ms=0, why_waiting=""
)
"""What is seen of an endpoint that nothing was ever done for."""


@dataclass(frozen=True, slots=True)
class Reload:
    """What came of a reload; `applied` is False when an error kept everything as it was."""

    applied: bool
    changed: tuple[str, ...] = ()  # keys that are in force now
    needs_restart: tuple[str, ...] = ()  # keys that changed in the file and wait for a restart
    problems: tuple[ConfigProblem, ...] = ()


class Daemon(Protocol):
    """What the running process knows about itself."""

    @property
    def config(self) -> Config:
        """The configuration in force; a reload replaces it."""
        ...

    @property
    def config_path(self) -> Path | None: ...
    @property
    def started(self) -> Now: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def disk_low(self) -> bool: ...
    @property
    def disk_free_bytes(self) -> int: ...
    @property
    def log_lines_dropped(self) -> int: ...
    @property
    def loop_lag_ms(self) -> float: ...
    @property
    def clock_watch(self) -> ClockWatch: ...
    async def reload(self) -> Reload: ...


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a call may use."""

    clock: Clock
    ids: IdFactory
    store: Store
    directory: Directory
    applications: Applications
    dispatch: Dispatch
    metrics: Metrics
    daemon: Daemon

    def lane(self, endpoint: Endpoint) -> LaneView:
        """Show what is under way for an endpoint, and what waits."""
        return self.dispatch.lanes.snapshot(endpoint.ref, self.clock.now()) or NO_LANE
