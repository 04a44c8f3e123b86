"""The one place where everything is put together, and the life of it: open → recover → listen → serve → drain → close.

Only here adapters are made, and the system's clock and randomness read. When `start` returns, the relay listens; a test
that wants less takes the steps of it one by one. Stopping is a contract
(invariant 12): stop intake, stop starting, wait for what runs, leave the rest due, close; safe twice, safe before start.
"""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Awaitable, Callable, Collection, Container, Coroutine, Mapping
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import structlog

from relay import __version__
from relay.api.auth import Authenticator
from relay.api.condition import few_descriptors
from relay.api.listen import Listeners
from relay.api.pace import Paces
from relay.api.readiness import admission
from relay.api.reloads import Reload, Reloads
from relay.api.routes import routes
from relay.api.server import FrontDoor, serve
from relay.api.services import Services
from relay.config import Config, Loaded, reload_changes
from relay.config.admission import refuse_misplaced
from relay.core.access import Token
from relay.core.clock import Clock, ClockWatch, Now, SystemClock
from relay.core.errors import ConfigError, Conflict, RelayError, StoreDamaged
from relay.core.ids import IdFactory
from relay.core.issues import InvalidConfig, Issue
from relay.core.netguard import Address, Guard, Listener
from relay.daemon.outbound import OpenCourier, Outbound, open_http_courier
from relay.dispatch.loop import Dispatch
from relay.dispatch.verifier import Verifier
from relay.housekeeping import Housekeeping
from relay.intake import Intake, IntakeLimits
from relay.queue import Lanes
from relay.registry import Registrar, TokenTable, tokens_of
from relay.registry.vanished import vanished
from relay.replay import Replays
from relay.store.sqlite import Keyring, SqliteStore, StoreSettings
from relay.telemetry import log
from relay.telemetry.metrics import Metrics

Reread = Callable[[], Loaded]
"""Reads the configuration anew, from wherever it came."""

OpenStore = Callable[[StoreSettings, Clock], Awaitable[SqliteStore]]

_BROKEN_OFF = Issue("", "a mistake of relay's own ended the reload", "The log has its traceback; please report it.")


class Relay:
    """One relay. Owner of its configuration, its background tasks and everything they work with."""

    def __init__(
        self,
        loaded: Loaded,
        *,
        reread: Reread,
        extra_tokens: tuple[Token, ...] = (),
        clock: Clock | None = None,
        rng: Random | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
        dropped_lines: Callable[[], int] = lambda: 0,
        open_store: OpenStore = SqliteStore.open,
        open_courier: OpenCourier | None = None,
        own: Container[Address] | None = None,
        passed: Mapping[str, socket.socket] | None = None,
    ) -> None:
        """Take a configuration without errors. `extra_tokens` are accepted beside those of the configuration.

        The sockets that were `passed` are listened to at their addresses, which the configuration has; whoever holds
        them too keeps those who come while no relay runs. The three before three put another store, another way to receivers, or other addresses of this host in the place of the
        real ones.
        """
        assert loaded.config is not None
        self.config: Config = loaded.config
        self.config_path: Path | None = loaded.path
        self.stopping = False
        self.reloads = Reloads()
        self.clock = clock or SystemClock()
        self.started: Now = self.clock.now()
        self.descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.metrics = Metrics(__version__, owner=self._owner_of, exists=self._has_application)
        self._contracts = loaded.contracts
        self._reread = reread
        self._extra_tokens = extra_tokens
        self._rng = rng or Random(os.urandom(32))  # noqa: S311 - jitter and ids, no secrets
        self._random_bytes = random_bytes
        self._dropped_lines = dropped_lines
        self._store_opener = open_store
        self._courier_opener = open_courier or open_http_courier
        self._tokens = TokenTable([*tokens_of(self.config), *extra_tokens], self.clock.wall_ms)
        self._ids = IdFactory(self.clock.wall_ms, self._rng.getrandbits)
        self._opened = contextlib.AsyncExitStack()
        self._listeners: Listeners | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ended: asyncio.Future[BaseException | None] | None = None
        self._stop: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._log = structlog.get_logger("relay.service")
        self._own = own
        self._passed = passed

    # -- starting --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open, recover, listen, work. Raises CannotStart, StoreDamaged or ConfigError, and then holds nothing."""
        try:
            await self.open()
            await self.listen()
        except BaseException:
            self._ended = None
            await self._opened.aclose()
            raise
        self.work()
        self._log.info(log.SERVICE_READY, version=__version__, addresses=self.addresses, due=self.store.backlog)

    async def open(self) -> None:
        """Open the database and everything that works on it; nothing runs yet, and nobody is listened to."""
        self._ended = asyncio.get_running_loop().create_future()
        few = few_descriptors(self.config, self.descriptors)
        if few is not None:
            self._log.warning(log.FEW_DESCRIPTORS, detail=few)
        self.outbound = Outbound(self.clock, self._courier_opener, self._own, self._bound)
        self._opened.push_async_callback(self.outbound.close)
        refuse_misplaced(self.config, self.own)
        await self._open_store()
        await self._open_delivery()

    async def _open_store(self) -> None:
        storage = self.config.storage
        settings = StoreSettings(
            path=storage.path,
            durability=storage.durability,
            endpoint_backlog=storage.endpoint_backlog,
            keys=Keyring(storage.keys, self._random_bytes),
        )
        self.store = await self._store_opener(settings, self.clock)
        self._opened.push_async_callback(self.store.close)
        self.store.on_fatal(self._fail)
        self._log.info(log.STORE_OPENED, **self.store.facts)
        if self.store.facts["unclean_start"]:
            self._log.warning(log.STORE_UNCLEAN, path=str(storage.path))

    async def _open_delivery(self) -> None:
        delivery = self.config.delivery
        self.clock_watch = ClockWatch(self.clock, self.store.heartbeat_ms)
        self.registrar = Registrar(self.store, self._contracts, self._tokens, self.clock, self._ids, self._random_bytes)
        self.dispatch = Dispatch(
            store=self.store,
            registrar=self.registrar,
            courier=await self.outbound.open(delivery),
            lanes=Lanes(delivery.concurrency, self._rng),
            clock=self.clock,
            clock_watch=self.clock_watch,
            rng=self._rng,
            metrics=self.metrics,
            on_fatal=self._fail,
            log_all=self.config.log.deliveries == "all",
        )
        self.verifier = Verifier(
            registrar=self.registrar,
            attempts=self.dispatch.attempts,
            clock=self.clock,
            ids=self._ids,
            random_bytes=self._random_bytes,
            rng=self._rng,
            metrics=self.metrics,
        )
        self.replays = Replays(
            store=self.store,
            registrar=self.registrar,
            dispatch=self.dispatch,
            clock=self.clock,
            ids=self._ids,
            random_bytes=self._random_bytes,
            settings=lambda: self.config.replays,
            metrics=self.metrics,
        )
        self.housekeeping = Housekeeping(
            store=self.store,
            registrar=self.registrar,
            dispatch=self.dispatch,
            clock=self.clock,
            clock_watch=self.clock_watch,
            metrics=self.metrics,
            retention=self.config.storage.retention,
            min_free_disk_bytes=self.config.storage.min_free_disk_bytes,
        )
        await self.registrar.apply(self.config)
        self._look_for_vanished()
        await self.housekeeping.watch_once()

    async def listen(self) -> None:
        """Take requests at every address of the configuration."""
        server = self.config.server
        self.intake = Intake(
            registrar=self.registrar,
            store=self.store,
            clock=self.clock,
            ids=self._ids,
            on_accepted=self.dispatch.hand_over,
            metrics=self.metrics,
            limits=IntakeLimits(
                max_depth=server.max_depth,
                max_batch=server.max_batch,
                max_backlog=self.config.storage.max_backlog,
            ),
        )
        self.services = Services(
            clock=self.clock,
            ids=self._ids,
            store=self.store,
            registrar=self.registrar,
            dispatch=self.dispatch,
            verifier=self.verifier,
            housekeeping=self.housekeeping,
            replays=self.replays,
            metrics=self.metrics,
            daemon=self,
            paces=Paces(self.clock.mono_ms),
        )
        self.routes = routes(self.services, self.intake)
        door = FrontDoor(
            self.routes,
            Authenticator(self._tokens, os.getuid()),
            partial(admission, self.services),
            server,
            self._unexpected,
            on_event_refused=lambda problem: self.metrics.rejected(problem.type),
            paces=self.services.paces,
            is_stopping=lambda: self.stopping,
        )
        self._listeners = await serve(door, server, self._unexpected, self._passed)
        self._opened.push_async_callback(self._listeners.close)

    def work(self) -> None:
        """Begin to deliver, and to keep house."""
        for loop in (
            self.dispatch.run(),
            self.verifier.run(),
            self.housekeeping.watch(),
            self.housekeeping.audit(),
            self.housekeeping.prune(),
            self.housekeeping.summarise(),
            self.replays.run(),
        ):
            self._tasks.append(self.watched(loop))

    def watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background that must not end by itself: if it does, the relay ends."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._task_ended)
        return task

    # -- serving ---------------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """Where it listens, with the ports that were bound."""
        return [] if self._listeners is None else self._listeners.addresses

    def _bound(self) -> Collection[Listener]:
        return () if self._listeners is None else self._listeners.bound

    @property
    def own(self) -> Container[Address]:
        """The addresses of this host."""
        return self.outbound.own

    @property
    def guard(self) -> Guard:
        """What decides for the present `[delivery]` which addresses are dialled."""
        return self.outbound.guard

    @property
    def log_lines_dropped(self) -> int:
        return self._dropped_lines()

    @property
    def fatal(self) -> BaseException | None:
        """What ended it, if anything did."""
        return self._ended.result() if self._ended is not None and self._ended.done() else None

    def _owner_of(self, endpoint_id: str) -> str | None:
        endpoint = self.registrar.current.endpoints.get(endpoint_id)
        return None if endpoint is None else endpoint.application.id

    def _has_application(self, name: str) -> bool:
        return name in self.registrar.current.applications

    def _unexpected(self, request: str, error: BaseException) -> None:
        self._log.error(log.REQUEST_FAILED, request=request, exc_info=error)

    async def reload(self) -> Reload:
        """Read the configuration anew and take it over whole, or change nothing and say why."""
        async with self._reloading:
            if self.stopping:
                raise Conflict("stopping", "the relay is stopping", remedy="It reads its configuration when it starts.")
            result = Reload(applied=False, issues=(_BROKEN_OFF,))
            try:
                result = await self._reload(self._reread())
            except RelayError as error:
                result = Reload(applied=False, issues=(Issue("", error.detail, error.remedy),))
                raise
            finally:
                self.metrics.reloaded(successful=result.applied)
                self.reloads = self.reloads.after(result, self.clock.wall_ms())
            return result

    async def _reload(self, loaded: Loaded) -> Reload:
        if loaded.config is None:
            return Reload(applied=False, issues=loaded.issues)
        plan = reload_changes(self.config, loaded.config)
        config = loaded.config.model_copy(
            update={
                "server": self.config.server,
                "storage": _reloadable_storage(self.config, loaded.config),
                "log": self.config.log,
            }
        )
        refuse_misplaced(config, self.own)
        tokens = [*tokens_of(config), *self._extra_tokens]
        contracts = self.registrar.current.contracts.differing(loaded.contracts)
        try:
            TokenTable(tokens)  # refuses doubled secrets before anything changes
            await self.registrar.apply(config, loaded.contracts)
        except InvalidConfig as refused:
            return Reload(applied=False, issues=tuple(map(loaded.placed, refused.issues)))
        except ConfigError as refused:
            return Reload(applied=False, issues=(Issue("", refused.detail, refused.remedy),))
        self._tokens.replace(tokens)
        await self._put_in_force(config)
        changed = (*plan.changed, *(f"contract[{name}]" for name in contracts))
        return Reload(True, changed, tuple(plan.needs_restart), (*loaded.issues, *self._look_for_vanished()))

    def _look_for_vanished(self) -> list[Issue]:
        """Log what is no longer in the file, and return it as warnings."""
        gone = vanished(self.registrar.current, self.store.due_count)
        for one in gone:
            facts = {"kind": one.kind, "id": one.id, "application": one.application}
            self._log.warning(log.CONFIG_VANISHED, **facts, due=one.due, renamed_to=one.renamed_to)
        return [one.to_issue() for one in gone]

    async def _put_in_force(self, config: Config) -> None:
        old, self.config = self.config.delivery, config
        new = config.delivery
        self.housekeeping.retention = config.storage.retention
        self.dispatch.lanes.set_concurrency(new.concurrency)
        if old.reach != new.reach:
            self.dispatch.attempts.courier = await self.outbound.reopen(new)
        if old.origin != new.origin:
            self.verifier.ask_again()
        self.dispatch.kick()

    # -- stopping --------------------------------------------------------------------------------------------------

    async def wait(self) -> BaseException | None:
        """Wait until something fatal happens; return it."""
        assert self._ended is not None, "start comes first"
        return await asyncio.shield(self._ended)

    async def stop(self) -> None:
        """Drain and close: intake first, then what runs, at most `drain_timeout`; the rest stays due.

        Safe before the start, and twice: every call returns when the one stop that there is has ended.
        """
        if self._ended is None:
            return
        if self._stop is None:
            self.stopping = True
            self._stop = asyncio.create_task(self._drain_and_close())
        await asyncio.shield(self._stop)

    async def _drain_and_close(self) -> None:
        async with self._reloading:
            pass  # one that was under way is over, and none follows
        if self._listeners is not None:
            self._listeners.hand_back()
        # What a damaged database will not record is not waited for: it stays due.
        damaged = isinstance(self.fatal, StoreDamaged)
        cut = await self.dispatch.drain(0 if damaged else self.config.delivery.drain_timeout_ms)
        if cut:
            self._log.warning(log.DRAIN_CUT, attempts=cut)
        if self._listeners is not None:
            await self._listeners.close()  # until here whoever asks elsewhere hears that the relay is stopping
        await self._end_tasks()
        await self._opened.aclose()
        self._log.info(log.SERVICE_STOPPED, due=self.store.backlog)

    async def abandon(self) -> None:
        """End as a crash would: cut everything off, write nothing more. For tests of what survives."""
        if self._stop is None:
            self.stopping = True
            self._stop = asyncio.create_task(self._cut_off())
        await asyncio.shield(self._stop)

    async def _cut_off(self) -> None:
        await self.dispatch.drain(0)
        await self._end_tasks()
        await self.store.abandon()
        await self._opened.aclose()

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _fail(self, error: BaseException) -> None:
        """End because of this: nothing more is taken in from now on, and `wait` returns."""
        if self._ended is not None and not self._ended.done():
            self.stopping = True
            self._ended.set_result(error)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """A dead background task stops the process instead of limping on (invariant 12)."""
        if task.cancelled():
            return
        error = task.exception() or RuntimeError("a background task ended by itself")
        self._log.error(log.TASK_FAILED, exc_info=error)
        self._fail(error)


def _reloadable_storage(old: Config, new: Config) -> Any:
    """Of `[storage]` only the retention follows a reload; the rest needs a restart."""
    return old.storage.model_copy(update={"retention": new.storage.retention})


def exit_code(error: BaseException | None) -> int:
    """Return the exit code that a fatal error ends the daemon with."""
    return error.exit_code if isinstance(error, RelayError) else int(error is not None)
