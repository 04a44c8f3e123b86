"""What the daemon says about itself: one line per fact, with stable keys, and never a secret.

A terminal gets readable lines, everything else JSON. Lines are written by a thread of their own: a stuck stderr delays no
delivery; what does not fit into its queue is counted and reported once there is room again.
"""

import json
import logging
import threading
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, Final, TextIO

import orjson
import structlog

from relay.core.terminal import one_line, visible
from relay.telemetry.masking import mask_secrets

# -- the names of what is logged; the first part says who speaks --------------------------------------------------------

SERVICE_READY: Final = "service.ready"
SERVICE_STOPPING: Final = "service.stopping"
SERVICE_STOPPED: Final = "service.stopped"
DRAIN_CUT: Final = "service.drain_cut"
TASK_FAILED: Final = "service.task_failed"
FEW_DESCRIPTORS: Final = "service.few_descriptors"
SUMMARY: Final = "service.summary"
WALL_CLOCK_STEPPED: Final = "service.wall_clock_stepped"
CLOCK_DISTRUSTED: Final = "service.clock_distrusted"
CLOCK_TRUSTED: Final = "service.clock_trusted"
HOUSEKEEPING_FAILED: Final = "service.housekeeping_failed"
HOUSEKEEPING_RECOVERED: Final = "service.housekeeping_recovered"
ROUTES_UNAVAILABLE: Final = "service.routes_unavailable"
CONFIG_LOADED: Final = "config.loaded"
CONFIG_WARNING: Final = "config.warning"
CONFIG_RELOADED: Final = "config.reloaded"
RELOAD_ASKED: Final = "config.reload_asked"
CONFIG_VANISHED: Final = "config.vanished"
CONFIG_REFUSED: Final = "config.refused"
STORE_OPENED: Final = "store.opened"
STORE_UNCLEAN: Final = "store.unclean"
STORE_FAILED: Final = "store.failed"
STORE_RECOVERED: Final = "store.recovered"
STORE_HINDERED: Final = "store.hindered"
SETTLE_FAILED: Final = "store.settle_failed"
SETTLE_RECOVERED: Final = "store.settle_recovered"
REFILL_FAILED: Final = "store.refill_failed"
REFILL_RECOVERED: Final = "store.refill_recovered"
READ_FAILED: Final = "store.read_failed"
READ_RECOVERED: Final = "store.read_recovered"
AUDIT_REPAIRED: Final = "store.audit_repaired"
PRUNED: Final = "store.pruned"
DISK_LOW: Final = "store.disk_low"
DISK_OK: Final = "store.disk_ok"
REQUEST_FAILED: Final = "request.failed"
EVENT_WARNED: Final = "event.warned"
EVENT_UNDECIDED: Final = "event.filters_undecided"
DELIVERED: Final = "delivery.delivered"
ATTEMPT_FAILED: Final = "delivery.attempt_failed"
NO_DESCRIPTORS: Final = "delivery.no_descriptors"
DESCRIPTORS_FREE: Final = "delivery.descriptors_free"
HELD_ENDED: Final = "delivery.held_ended"
OVERFLOWED: Final = "delivery.overflowed"
DEAD_LETTER: Final = "delivery.dead"
DELIVERY_RETRIED: Final = "delivery.retried"
DELIVERY_CANCELLED: Final = "delivery.cancelled"
DEAD_DROPPED: Final = "delivery.dropped"
DEAD_NOTED: Final = "delivery.noted"
ENDPOINT_RETRIED: Final = "endpoint.retried_now"
REPLAY_CREATED: Final = "replay.created"
REPLAY_CANCELLED: Final = "replay.cancelled"
REPLAY_FINISHED: Final = "replay.finished"
REPLAY_FAILED: Final = "replay.failed"
REPLAY_RECOVERED: Final = "replay.recovered"
ENDPOINT_CREATED: Final = "endpoint.created"
ENDPOINT_UPDATED: Final = "endpoint.updated"
ENDPOINT_DELETED: Final = "endpoint.deleted"
ENDPOINT_PAUSED: Final = "endpoint.paused"
ENDPOINT_RESUMED: Final = "endpoint.resumed"
ENDPOINT_ENABLED: Final = "endpoint.enabled"
ENDPOINT_DISABLED: Final = "endpoint.disabled"
ENDPOINT_COOLING: Final = "endpoint.cooling"
ENDPOINT_PROBED: Final = "endpoint.probed"
ENDPOINT_REFUSING: Final = "endpoint.refusing"
ENDPOINT_RECOVERED: Final = "endpoint.recovered"
ENDPOINT_SUSPENDED: Final = "endpoint.suspended"
SUSPENSION_ENDED: Final = "endpoint.suspension_ended"
ENDPOINT_ASKED: Final = "endpoint.asked"
ENDPOINT_VERIFIED: Final = "endpoint.verified"
ENDPOINT_UNVERIFIED: Final = "endpoint.unverified"
VERIFICATION_BROKEN: Final = "endpoint.verification_broken"
ENDPOINT_ROTATED: Final = "endpoint.secret_rotated"
ENDPOINT_DISCLOSED: Final = "endpoint.secret_read"
REKEYED: Final = "registry.rekeyed"
EXPORTED: Final = "registry.exported"
IMPORTED: Final = "registry.imported"
APPLICATION_CREATED: Final = "application.created"
APPLICATION_UPDATED: Final = "application.updated"
APPLICATION_DELETED: Final = "application.deleted"
KEY_CREATED: Final = "application.key_created"
KEY_REVOKED: Final = "application.key_revoked"
LOG_DROPPED: Final = "log.dropped"
LIBRARY: Final = "log.library"  # said by a library through `logging`

EVENTS: Final = frozenset(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str) and "." in value
)
"""Every name above, for documents and tests."""

LINES_MAX = 10_000
"""Lines that may wait for a stuck stream; later ones are counted and dropped."""

TEXT_MAX = 2_000
"""Characters of one logged value."""

BATCH_LINES = 500

EventDict = MutableMapping[str, Any]
Render = Callable[[EventDict], str]

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog's, for the journal


def configure(
    *,
    format: str,
    level: str,
    stream: TextIO,
    wall_ms: Callable[[], int],
    journal: bool = False,
    colors: bool = True,
) -> "Logging":
    """Send everything that is logged to `stream`, until the returned `Logging` is closed.

    `format` is `console`, `json`, or `auto` (console on a terminal). With `journal` (when $JOURNAL_STREAM is set) each
    line carries its `<priority>` and no time of its own: the journal keeps both.
    """
    console = format == "console" or (format == "auto" and stream.isatty())
    render = _console(colors and stream.isatty()) if console else _json
    finish = _for_journal(render) if journal else _timed(render, wall_ms)
    writer = LineWriter(stream, lambda count: finish({"level": "warning", "event": LOG_DROPPED, "lines": count}))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_logger,
            structlog.processors.format_exc_info,
            mask_secrets,
            lambda _logger, _method, line: finish(line),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *names: _Sink(writer, names[0] if names else None),
        cache_logger_on_first_use=True,
    )
    return Logging(writer, _LEVELS[level])


class Logging(logging.Handler):
    """What `configure` set up. As a handler it takes what libraries say through `logging`, from warnings upwards."""

    def __init__(self, writer: "LineWriter", level: int) -> None:
        super().__init__(max(level, logging.WARNING))
        self._writer = writer
        logging.getLogger().addHandler(self)

    @property
    def dropped(self) -> int:
        """Lines lost so far because the stream was stuck or gone."""
        return self._writer.dropped

    def emit(self, record: logging.LogRecord) -> None:
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        logger = structlog.get_logger(record.name)
        logger.log(level, LIBRARY, message=record.getMessage(), exc_info=record.exc_info)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, for at most `timeout_s`."""
        logging.getLogger().removeHandler(self)
        super().close()
        self._writer.close(timeout_s)


class LineWriter:
    """Writes lines in a thread of its own. `write` never waits."""

    def __init__(self, stream: TextIO, notice: Callable[[int], str], lines_max: int = LINES_MAX) -> None:
        self._overflowed = 0  # lines that found the queue full; counted by whoever writes
        self._unwritten = 0  # lines the stream refused; counted by the thread
        self._reported = 0
        self._stream = stream
        self._notice = notice
        self._lines_max = lines_max
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="relay-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost so far."""
        return self._overflowed + self._unwritten

    def write(self, line: str) -> None:
        """Queue a line, or count it as dropped when the queue is full."""
        if self._lines.qsize() >= self._lines_max:
            self._overflowed += 1
        else:
            self._lines.put(line)

    def close(self, timeout_s: float) -> None:
        """Write what waits, for at most `timeout_s`; a stuck stream keeps the rest."""
        self._lines.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        more = True
        while more:
            lines = self._waiting()
            more = lines[-1] is not None
            text = [line for line in lines if line is not None]
            if self._emit(text):
                self._report_dropped()
            else:
                self._unwritten += len(text)

    def _waiting(self) -> list[str | None]:
        """Wait for a line; return it with those behind it, up to the end mark."""
        lines = [self._lines.get()]
        try:
            while lines[-1] is not None and len(lines) < BATCH_LINES:
                lines.append(self._lines.get_nowait())
        except Empty:
            pass
        return lines

    def _report_dropped(self) -> None:
        dropped = self.dropped
        if dropped > self._reported and self._emit([self._notice(dropped - self._reported)]):
            self._reported = dropped

    def _emit(self, lines: list[str]) -> bool:
        try:
            self._stream.write("".join([line + "\n" for line in lines]))
            self._stream.flush()
        except (OSError, ValueError):  # the reader has gone, or the stream was closed
            return False
        return True


class _Sink:
    """What structlog calls at the end of its chain."""

    def __init__(self, writer: LineWriter, name: str | None) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = writer.write


# -- rendering ---------------------------------------------------------------------------------------------------------


def _add_logger(logger: Any, _method: str, line: EventDict) -> EventDict:
    if logger.name is not None:
        line.setdefault("logger", logger.name)
    return line


def _json(line: EventDict) -> str:
    first = {key: line.pop(key) for key in ("time", "level", "event") if key in line}
    ordered = first | _cut(line)
    try:
        text = orjson.dumps(ordered, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate, such as a byte of a file's name, which orjson does not write
        text = json.dumps(ordered, default=str, ensure_ascii=False, separators=(",", ":"))
    return visible(text)


def _console(colors: bool) -> Render:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )
    return lambda line: str(renderer(None, "", {one_line(key): _shown(key, value) for key, value in line.items()}))


def _shown(key: str, value: Any) -> Any:
    """Show a value so that only the renderer's own colours command a terminal; a traceback keeps its lines."""
    if isinstance(value, str):
        return visible(value) if key == "exception" else one_line(value)
    return value if value is None or isinstance(value, bool | int | float) else one_line(str(value))


def _cut(line: EventDict) -> dict[str, Any]:
    return {key: _shortened(key, value) for key, value in line.items()}


def _shortened(key: str, value: Any) -> Any:
    if key == "exception" or not isinstance(value, str) or len(value) <= TEXT_MAX:
        return value
    return value[:TEXT_MAX] + "…"


def _timed(render: Render, wall_ms: Callable[[], int]) -> Render:
    def finish(line: EventDict) -> str:
        moment = datetime.fromtimestamp(wall_ms() / 1000, UTC)
        return render({"time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"), **line})

    return finish


def _for_journal(render: Render) -> Render:
    def finish(line: EventDict) -> str:
        prefix = f"<{_PRIORITIES.get(str(line.get('level')), 6)}>"
        return "\n".join([prefix + part for part in render(line).splitlines()])

    return finish
