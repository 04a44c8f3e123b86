"""The daemon's process: configuration, logging, the service manager, and the exit code."""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import secrets
import sys
from asyncio import sslproto
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from relay.api.reloads import Reload
from relay.config import Config, Loaded, load, render_issues
from relay.config.listening import Passed
from relay.config.places import find_config_file, state_folder
from relay.core.access import Role, Token
from relay.core.clock import SystemClock
from relay.core.errors import CannotStart, NoRoom, NotPermitted, RelayError
from relay.daemon.passed import PassedSockets, passed_sockets
from relay.daemon.service import Relay, exit_code
from relay.daemon.signals import Signals
from relay.daemon.systemd import Notifier, watchdog_interval_ms
from relay.daemon.watchdog import Watchdog, ask_for_time, work_done
from relay.telemetry import log
from relay.telemetry.log import Logging

ADMIN_TOKEN_FILE = "admin-token"  # noqa: S105 - the name of a file
ADMIN_TOKEN_BYTES = 32

WARNINGS_MAX = 20
"""Warnings about the configuration that a start logs one by one; thousands of them would take seconds."""

TLS_READ_BYTES = 16 * 1024
"""What asyncio's own loop reads of a TLS connection at once, the size of a record; it would keep 256 KiB for each."""
GC_THRESHOLDS = (5_000, 40, 100)
"""Every attempt makes a few hundred objects and hardly a cycle: the default (700) spends a sixth of the time looking."""

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BUFFER_BYTES = 128 << 10
"""What glibc begins with."""

Say = Callable[[str], None]


def run(
    config_path: Path | None, flags: Mapping[str, object], env: Mapping[str, str], say: Say, signals: Signals
) -> int:
    """Run the daemon until a signal or a fatal error; return the exit code.

    `say` shows a line to whoever started it. Raises ConfigError, CannotStart or StoreDamaged when it cannot start; each
    says what to do, and by its exit code whether trying again may help.
    """
    path = find_config_file(config_path, env)
    sockets = passed_sockets(env, os.getpid())
    passed = [Passed(name, address) for address, (name, _) in sockets.items()]

    def reread() -> Loaded:
        return load(path, env, flags, now_ms=SystemClock().wall_ms(), passed=passed)

    gc.set_threshold(*GC_THRESHOLDS)
    loaded = reread()
    if loaded.config is None:
        raise loaded.refusal()
    return_large_buffers()
    _allow_many_files()
    logging = _configure_logging(loaded.config, env)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_Process(loaded, reread, env, say, logging, signals, sockets).run())
    finally:
        logging.close()


class _Process:
    """One run of the daemon. Owner of the channel to the service manager."""

    def __init__(
        self,
        loaded: Loaded,
        reread: Callable[[], Loaded],
        env: Mapping[str, str],
        say: Say,
        logging: Logging,
        signals: Signals,
        sockets: PassedSockets,
    ) -> None:
        assert loaded.config is not None
        self._loaded = loaded
        self._env = env
        self._say = say
        self._clock = SystemClock()
        self._notifier = Notifier(env.get("NOTIFY_SOCKET"))
        self._log = structlog.get_logger("relay.daemon")
        self._token, token_path = _admin_token(loaded.config, env)
        self._token_path = token_path
        self._relay = Relay(
            loaded,
            reread=reread,
            extra_tokens=() if self._token is None else (self._token,),
            clock=self._clock,
            dropped_lines=lambda: logging.dropped,
            passed={address: sock for address, (_, sock) in sockets.items()},
        )
        interval_ms = watchdog_interval_ms(env, os.getpid())
        self._watchdog = Watchdog(self._notifier, self._relay, self._clock, interval_ms)
        self._signals = signals
        self._asked_to_stop = asyncio.Event()
        self._reloads: set[asyncio.Future[None]] = set()  # under way

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._signals.hand_over(loop, self._asked_to_stop.set)
        if self._asked_to_stop.is_set():
            return 0  # before anything was opened
        self._announce_start()
        await self._start()
        gc.freeze()  # what start-up made stays: no collection has to look at it again
        self._signals.on_hang_up(loop, self._hang_up)
        self._notifier.ready(self._watchdog.status)
        self._greet()
        beating = self._relay.watched(self._watchdog.run()) if self._notifier.enabled else None
        try:
            return await self._serve()
        finally:
            if beating is not None:
                beating.cancel()
            self._notifier.close()

    async def _start(self) -> None:
        asking = asyncio.create_task(ask_for_time(self._notifier, self._clock, work_done))
        try:
            await self._relay.start()
        finally:
            asking.cancel()

    async def _serve(self) -> int:
        stopped = asyncio.create_task(self._asked_to_stop.wait())
        failed = asyncio.create_task(self._relay.wait())
        await asyncio.wait({stopped, failed}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        failed.cancel()
        self._log.info(log.SERVICE_STOPPING)
        self._notifier.stopping()
        self._notifier.extend_timeout(self._relay.config.delivery.drain_timeout_ms + 10_000)
        await self._relay.stop()
        error = self._relay.fatal  # it may have come while the rest drained
        if error is not None:
            self._say(f"relay stops: {error}")
        return exit_code(error)

    # -- reloading -------------------------------------------------------------------------------------------------

    def _hang_up(self) -> None:
        task = asyncio.ensure_future(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        self._notifier.reloading(self._clock.mono_ms())
        try:
            result = await self._relay.reload()
        except RelayError as error:
            self._log.error(log.CONFIG_REFUSED, error=str(error))
            self._notifier.ready(f"reload refused: {error.detail}")
        except Exception as bug:  # without a last word the service manager takes the reload for under way
            self._log.error(log.TASK_FAILED, exc_info=bug)
            self._notifier.ready("reload failed: see the log")
        else:
            self._report(result)

    def _report(self, result: Reload) -> None:
        if not result.applied:
            self._log.error(log.CONFIG_REFUSED, problems=render_issues(result.issues))
            self._notifier.ready("reload refused: the configuration has mistakes")
            return
        self._log.info(log.CONFIG_RELOADED, changed=result.changed, needs_restart=result.needs_restart)
        self._notifier.ready(self._watchdog.status)

    # -- the first words -------------------------------------------------------------------------------------------

    def _announce_start(self) -> None:
        where = self._loaded.path or "none: defaults and the environment"
        self._log.info(log.CONFIG_LOADED, path=str(where))
        for issue in self._loaded.issues[:WARNINGS_MAX]:
            self._log.warning(log.CONFIG_WARNING, problem=render_issues([issue]))
        more = len(self._loaded.issues) - WARNINGS_MAX
        if more > 0:
            self._log.warning(
                log.CONFIG_WARNING, problem=f"{more} more like these; `relay check-config` lists them all"
            )

    def _greet(self) -> None:
        if self._token is None:
            return
        tcp = next((address for address in self._relay.addresses if not address.startswith("unix:")), None)
        self._say(f"No token is configured, so one for an admin was written to {self._token_path}.")
        if tcp is not None:
            self._say(
                f'Try: curl -H "Authorization: Bearer $(cat {self._token_path})" -H "Content-Type: application/json" '
                f'-d \'{{"type": "hello.world", "data": {{"n": 1}}}}\' http://{tcp}/v1/events'
            )


def _admin_token(config: Config, env: Mapping[str, str]) -> tuple[Token | None, Path]:
    """Return a token for whoever can read the state folder, made at the first start, if none is configured."""
    path = state_folder(env) / ADMIN_TOKEN_FILE
    if config.tokens:
        return None, path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() or not path.read_text().strip():
            _write_token(path)
        secret = path.read_text().strip()
    except PermissionError as error:
        place = path if os.path.lexists(path) else path.parent
        raise NotPermitted(f"The admin token {path} cannot be written or read: {error.strerror}.", place) from None
    except OSError as error:
        if error.errno in NoRoom.ERRNOS:
            raise NoRoom(path) from None
        raise CannotStart(
            f"The admin token {path} cannot be written or read: {error.strerror}.",
            remedy="Configure a [[token]], or make the state folder writable.",
        ) from None
    return Token("admin-token", Role.ADMIN, None, secret), path


def _write_token(path: Path) -> None:
    """Write a token whole or not at all: the name appears with the text in it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(ADMIN_TOKEN_BYTES) + "\n")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _configure_logging(config: Config, env: Mapping[str, str]) -> Logging:
    return log.configure(
        format=config.log.format,
        level=config.log.level,
        stream=sys.stderr,
        wall_ms=SystemClock().wall_ms,
        journal="JOURNAL_STREAM" in env,
        colors="NO_COLOR" not in env,
    )


def return_large_buffers() -> None:
    """Give large buffers back to the system when they are freed, as glibc does only until the first of them is freed.

    From then on it would take them from its heap, whose holes stay with the process: after 64 bodies of 900 kB at once
    that was 250 MB. Other libraries of C have no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BUFFER_BYTES)


def _allow_many_files() -> None:
    """Every connection is a file: take as many as the system lets us have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        sslproto.SSLProtocol.max_size = TLS_READ_BYTES
        return None
    return uvloop.new_event_loop
