"""How the relay is, as plain judgements over what was read: ready or not, which endpoints are worst, one sentence."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from relay.config import Config
from relay.core.clock import ClockState
from relay.core.model import DisabledBy, Endpoint
from relay.core.units import format_size
from relay.queue import LaneView

WORST = 5

LOCAL_TROUBLE = (
    "It is us, not them: most active endpoints fail at DNS or connect. Look at this host's network and resolver first; "
    "no endpoint is disabled for it meanwhile."
)


class Reason(NamedTuple):
    """Why the relay takes no events."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Vitals:
    """What readiness is judged by."""

    stopping: bool
    store_healthy: bool
    disk_low: bool
    disk_free_bytes: int
    backlog: int


@dataclass(frozen=True, slots=True)
class Line:
    """One endpoint with what is under way and what waits."""

    endpoint: Endpoint
    lane: LaneView
    due: int
    dead: int
    blocked: bool = False  # the latest attempt was refused by our own guard

    @property
    def failing(self) -> bool:
        """Whether it needs somebody to look: it fails, is blocked or suspended, or was disabled for failing."""
        automatic = self.endpoint.disabled_by not in (None, DisabledBy.MANUAL)
        return self.lane.health.failures > 0 or automatic or self.blocked or self.lane.suspension is not None


def reasons_not_ready(vitals: Vitals, config: Config) -> tuple[Reason, ...]:
    """Say why intake is closed; nothing when it is open. Receivers never are a reason."""
    return tuple(_reasons(vitals, config))


def worst(lines: Iterable[Line]) -> list[Line]:
    """Return the endpoints that need somebody most, worst first: before all those that a mistake of our own holds up."""
    failing = [line for line in lines if line.failing]
    return sorted(failing, key=_badness)[:WORST]


def headline(lines: Sequence[Line], reasons: Sequence[Reason], due: int, *, local_trouble: bool) -> str:
    """Say how the relay is in one sentence, the most urgent matter first."""
    if reasons:
        return f"Intake is closed: {reasons[0].detail}."
    suspended = [line.endpoint.id for line in lines if line.lane.suspension is not None]
    if suspended:
        return _suspended(suspended)
    if local_trouble:
        return LOCAL_TROUBLE
    failing = sum(line.failing for line in lines)
    if failing:
        verb = "is" if failing == 1 else "are"
        return f"{failing} of {_counted(len(lines), 'endpoint')} {verb} failing; {_waiting(due)}."
    held = sum(line.endpoint.held and line.due > 0 for line in lines)
    if held:
        return f"{_counted(held, 'endpoint')} with held deliveries; {_waiting(due)}."
    if not lines:
        return "There is no endpoint yet: add one with `relay endpoint add URL`."
    dead = sum(line.dead for line in lines)
    first = f"{_counted(dead, 'dead letter')} (`relay dead list`), otherwise all" if dead else "All"
    return f"{first} is well: {_counted(len(lines), 'endpoint')}, {_waiting(due)}."


CLOCK_WARNINGS: Mapping[ClockState, str] = {
    ClockState.STEPPED: "The clock was stepped: expiry, retention and disabling rest for 15 minutes. Look at NTP.",
    ClockState.DISTRUSTED: "The clock jumped while relay was down, and nobody has synchronised it: expiry, retention "
    "and disabling rest until NTP does, 24 hours at most.",
}


def warnings(config: Config, clock: ClockState = ClockState.TRUSTED) -> list[str]:
    """Name the settings in force that give up a protection, and say when the clock ends nothing."""
    found = [CLOCK_WARNINGS[clock]] if clock in CLOCK_WARNINGS else []
    if config.storage.durability != "full":
        found.append('storage.durability is "normal": a power cut may lose events that were acknowledged.')
    if config.delivery.allow_http:
        found.append("delivery.allow_http is set: payloads may be sent unprotected.")
    if config.delivery.allow_networks:
        networks = ", ".join(str(network) for network in config.delivery.allow_networks)
        found.append(f"delivery.allow_networks lets endpoints be inside {networks}.")
    return found


def _reasons(vitals: Vitals, config: Config) -> Iterator[Reason]:
    if vitals.stopping:
        yield Reason("draining", "the relay is stopping")
    if not vitals.store_healthy:
        yield Reason("store_failing", "the database takes no writes; look at the log and the disk")
    if vitals.disk_low:
        free, least = _free(vitals.disk_free_bytes), format_size(config.storage.min_free_disk_bytes)
        yield Reason("disk_low", f"{free} of disk are free and storage.min_free_disk is {least}")
    if vitals.backlog >= config.storage.max_backlog:
        yield Reason("backlog_full", f"{vitals.backlog} deliveries wait, as many as storage.max_backlog allows")


def _badness(line: Line) -> tuple[object, ...]:
    return line.lane.suspension is None, -line.lane.health.failures, -line.due, line.endpoint.id


def _suspended(ids: Sequence[str]) -> str:
    others = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    verb = "are" if len(ids) > 1 else "is"
    return (
        f"{ids[0]}{others} {verb} suspended: a mistake of relay's own ended an attempt there. The traceback is in the log "
        "(endpoint.suspended); please report it. Nothing is lost, and the others are served."
    )


def _free(size_bytes: int) -> str:
    return format_size(size_bytes >> 20 << 20)


def _waiting(due: int) -> str:
    if due == 0:
        return "nothing waits"
    return f"{due:,} {'delivery waits' if due == 1 else 'deliveries wait'}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
