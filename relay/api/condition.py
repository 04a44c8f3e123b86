"""How things are, as plain judgements over what was read: the relay, its endpoints, and what a delivery waits for."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from relay.api import render
from relay.api.render import Json
from relay.api.services import Services
from relay.config import Config
from relay.core.clock import ClockState
from relay.core.model import Application, DeliveryState, DisabledBy, Endpoint, EndpointState
from relay.core.views import DeliveryView
from relay.dispatch.verifier import NOT_ASKED, Trial
from relay.queue import LaneView, Suspension
from relay.queue.health import is_refusing
from relay.queue.slots import IN_FLIGHT
from relay.store import AtRest

WORST = 5

OPENED_NAMED = 5
"""Applications with networks of their own that a warning names."""


class Word(StrEnum):
    """The one word for how an endpoint stands: the state it was set to, or what its receiver makes of it.

    That one may refuse everything (Q9), or has not agreed yet to take events.
    """

    ENABLED = "enabled"
    PAUSED = "paused"
    DISABLED = "disabled"
    REFUSING = "refusing"
    UNVERIFIED = "unverified"


DESCRIPTORS_RESERVE = 256
"""File descriptors for everything but connections: the database, name lookups, streams."""


@dataclass(frozen=True, slots=True)
class Line:
    """One endpoint with what is under way and what waits."""

    endpoint: Endpoint
    lane: LaneView
    due: int
    dead: int
    blocked: bool = False  # the latest attempt was refused by our own guard
    refusing: bool = False  # it takes deliveries, and its receiver refuses them all
    trial: Trial | None = None  # its receiver was asked whether it wants events, and did not agree

    @property
    def word(self) -> Word:
        """The one word for how it stands."""
        if self.endpoint.unverified and self.endpoint.state is EndpointState.ENABLED:
            return Word.UNVERIFIED
        return Word.REFUSING if self.refusing else Word(self.endpoint.state)

    @property
    def failing(self) -> bool:
        """Whether it needs somebody to look.

        It fails, refuses, did not agree when it was asked, is blocked or suspended, or was disabled for failing.
        """
        automatic = self.endpoint.disabled_by not in (None, DisabledBy.MANUAL)
        suspended = self.lane.suspension is not None
        is_stuck = self.blocked or suspended or self.refusing or self.trial is not None
        return self.lane.health.failures > 0 or automatic or is_stuck


def look_at(services: Services, endpoint: Endpoint) -> Line:
    """Put together what is known of an endpoint at this moment. O(1)"""
    store, blocked = services.store, endpoint.ref in services.dispatch.standing.blocked
    due, dead = store.due_count(endpoint.ref), store.dead_count(endpoint.ref)
    lane = services.lane(endpoint)
    refusing = not endpoint.held and is_refusing(lane.health, services.clock.wall_ms())
    return Line(endpoint, lane, due, dead, blocked, refusing, services.verifier.trial(endpoint.ref))


def write_work(line: Line) -> Json:
    """Write what an endpoint has before it, and what stands in its way."""
    return {
        "due": line.due,
        "dead": line.dead,
        "waits_for": why_endpoint_waits(line.endpoint, line.lane) or None,
        "health": render.health(line.lane.health),
        "refusing": render.refusing(line.lane.health) if line.refusing else None,
        "suspended": render.suspension(line.lane.suspension),
        "unverified": _write_trial(line),
    }


def _write_trial(line: Line) -> Json | None:
    """Write what came of asking a receiver that has not agreed; nothing came of it yet where it was not asked."""
    if not line.endpoint.unverified:
        return None
    trial = line.trial or NOT_ASKED
    return {
        "tries": trial.tries,
        "tried_at": render.moment(trial.at_ms or None),
        "failure": trial.failure,
        "detail": trial.detail or None,
        "next_try_at": render.moment(trial.next_ms),
    }


def what_hinders(line: Line, last_failure: str, now_ms: int) -> str | None:
    """Say what still stands between an endpoint and its deliveries, and what would help; None when nothing does.

    `last_failure` is the word for it that the caller may see.
    """
    endpoint, health = line.endpoint, line.lane.health
    if endpoint.held:
        answer = f": {line.trial.detail}" if line.trial and not endpoint.stopped else ""
        return f"{_capital(why_held(endpoint))}{answer}; {_helps_held(endpoint)}."
    if line.lane.suspension is not None:
        return f"{_capital(why_suspended(line.lane.suspension))}."
    probe = f"`relay endpoint probe {endpoint.id}` tries one delivery at once"
    if line.due == 0:
        probe = f"`relay endpoint test {endpoint.id}` sends it a test event"
    if health.cool_until_ms > now_ms:
        until, why = render.moment(health.cool_until_ms), f"{health.failures} failed attempts ({last_failure})"
        return f"It cools down until {until} after {why}; {probe}, and a new URL begins anew."
    if health.not_before_ms > now_ms:
        return f"It asked to be left alone until {render.moment(health.not_before_ms)}; {probe}."
    if line.refusing:
        remedy = health.last_answer or "mend the receiver, or correct the endpoint's URL"
        return f"Its receiver refuses every delivery ({health.last_failure}): {remedy}; then {probe}."
    if line.blocked:
        return "Its address may not be dialled: correct its URL."
    return None


def _helps_held(endpoint: Endpoint) -> str:
    if not (endpoint.present and endpoint.application.present):
        return "put it back there and reload, or delete it here"
    if endpoint.state is EndpointState.PAUSED:
        return f"`relay endpoint resume {endpoint.id}` takes them up again"
    if endpoint.state is EndpointState.ENABLED:
        return f"`relay endpoint verify {endpoint.id}` asks it now"
    return f"`relay endpoint enable {endpoint.id}` takes them up again"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def worst(lines: Iterable[Line]) -> list[Line]:
    """Return the endpoints that need somebody most, worst first: before all those that a mistake of our own holds up."""
    failing = [line for line in lines if line.failing]
    return heapq.nsmallest(WORST, failing, key=_badness)


CLOCK_WARNINGS: Mapping[ClockState, str] = {
    ClockState.STEPPED: "The clock was stepped: expiry, retention and disabling rest for 15 minutes. Look at NTP.",
    ClockState.DISTRUSTED: "The clock jumped while relay was down, and nobody has synchronised it: expiry, retention "
    "and disabling rest until NTP does, 24 hours at most.",
}


def few_descriptors(config: Config, descriptors: int) -> str | None:
    """Say when so many file descriptors do not suffice for all that may be open at once under a configuration."""
    deliveries = 2 * IN_FLIGHT * config.delivery.concurrency  # under way, and kept for the next ones
    connections = 2 * len(config.server.listen) * config.server.max_connections  # served, and waiting for that
    needed = deliveries + connections + DESCRIPTORS_RESERVE
    if descriptors < 0 or descriptors >= needed:  # below zero: no limit at all
        return None
    return (
        f"relay may open {descriptors} files and could need {needed}: raise the limit (LimitNOFILE in the unit, "
        "ulimit -n), or lower delivery.concurrency or server.max_connections."
    )


def warnings(
    config: Config,
    clock: ClockState = ClockState.TRUSTED,
    *,
    descriptors: int = -1,
    applications: Iterable[Application] = (),
) -> list[str]:
    """Name the settings in force that give up a protection, and say when the clock ends nothing or descriptors are few."""
    found = [CLOCK_WARNINGS[clock]] if clock in CLOCK_WARNINGS else []
    few = few_descriptors(config, descriptors)
    if few is not None:
        found.append(few)
    if config.storage.durability != "full":
        found.append('storage.durability is "normal": a power cut may lose events that were acknowledged.')
    if config.delivery.allow_http:
        found.append("delivery.allow_http is set: payloads may be sent unprotected.")
    if config.delivery.allow_networks:
        networks = ", ".join(str(network) for network in config.delivery.allow_networks)
        found.append(f"delivery.allow_networks lets endpoints be inside {networks}.")
    inside = [application.id for application in applications if application.allow_networks]
    if inside:
        more = f" and {len(inside) - OPENED_NAMED} more" if len(inside) > OPENED_NAMED else ""
        found.append(
            f"allow_networks of {', '.join(inside[:OPENED_NAMED])}{more} lets their endpoints be inside networks."
        )
    return found


AT_REST_WARNINGS = {
    AtRest.CLEAR: "Secrets of endpoints stand in the database in clear: set storage.secrets_key (a key is printed by "
    "`relay rekey --generate`), restart relay, then run `relay rekey`.",
    AtRest.MIXED: "Secrets in the database stand in clear or under an older key, or traces of them do: run `relay rekey`.",
}
"""What to say of how secrets are kept, where there is something to do."""


def at_rest_warnings(at_rest: AtRest) -> list[str]:
    """Say what is to be done about secrets in the database."""
    return [AT_REST_WARNINGS[at_rest]] if at_rest in AT_REST_WARNINGS else []


def _badness(line: Line) -> tuple[object, ...]:
    health = line.lane.health
    return line.lane.suspension is None, not line.refusing, -health.failures, -line.due, line.endpoint.id


# -- what a delivery waits for --------------------------------------------------------------------------------------------

_DISABLED = {
    DisabledBy.MANUAL: "by hand",
    DisabledBy.GONE: "because it answered 410",
    DisabledBy.RECEIVER: "because it asked for it",
    DisabledBy.FAILING: "because it kept failing",
}


UNVERIFIED = "the endpoint is not verified: its receiver has not agreed yet to take events"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The earliest start of the next attempt; None when no time is known, and a word and a sentence why."""

    at_ms: int | None
    why: str  # "held", "unverified", "predecessor", "scheduled", "cool_down", "retry_after", "suspended", "turn"
    detail: str


def why_delivery_waits(
    view: DeliveryView, endpoint: Endpoint | None, lane: LaneView | None, now_ms: int
) -> Waiting | None:
    """Say what a delivery waits for; None when it waits for nothing, because it ended."""
    if view.state is not DeliveryState.DUE:
        return None
    if endpoint is None or lane is None:
        return Waiting(None, "held", "its endpoint was deleted; it will be cancelled")
    if endpoint.held:
        return Waiting(None, "held" if endpoint.stopped else "unverified", why_held(endpoint))
    if view.due_ms is None:
        return Waiting(None, "predecessor", "an earlier delivery of the same ordering key goes first")
    return _next_start(view.due_ms, lane, now_ms)


def why_endpoint_waits(endpoint: Endpoint, lane: LaneView) -> str:
    """Say in words what the due deliveries of an endpoint wait for; empty when for nothing."""
    return why_held(endpoint) or lane.why_waiting


def why_held(endpoint: Endpoint) -> str:
    """Say in words why an endpoint's deliveries are held; empty when they are not."""
    if not endpoint.application.present:
        return f"the application {endpoint.application.id} is no longer in the configuration file"
    if not endpoint.present:
        return "the endpoint is no longer in the configuration file"
    if endpoint.state is EndpointState.PAUSED:
        return "the endpoint is paused"
    if endpoint.state is EndpointState.DISABLED:
        return f"the endpoint was disabled {_DISABLED[endpoint.disabled_by or DisabledBy.MANUAL]}"
    return UNVERIFIED if endpoint.unverified else ""


def why_suspended(suspension: Suspension) -> str:
    """Say in words what keeps a suspended endpoint from its deliveries, and what may be done."""
    return (
        f"a mistake of relay's own ({suspension.cause}) ended its last attempt; the traceback is in the log "
        "(endpoint.suspended). It is tried again by itself, and after an edit of the endpoint at once"
    )


def _next_start(due_ms: int, lane: LaneView, now_ms: int) -> Waiting:
    """The latest of its due time and what its endpoint waits for (Q5)."""
    failures = lane.health.failures
    reasons = [
        Waiting(due_ms, "scheduled", "its next attempt is not due yet"),
        Waiting(lane.health.not_before_ms, "retry_after", "the endpoint asked for a pause (Retry-After)"),
        Waiting(lane.health.cool_until_ms, "cool_down", f"the endpoint cools down after {failures} failed attempts"),
    ]
    if lane.suspension is not None:
        until_ms = max(lane.suspension.until_ms, now_ms)  # then this delivery, or another, is the probe
        reasons.append(Waiting(until_ms, "suspended", why_suspended(lane.suspension)))
    latest = max(reasons, key=lambda reason: reason.at_ms or 0)
    if (latest.at_ms or 0) > now_ms:
        return latest
    if latest.why == "suspended":
        return latest
    return Waiting(now_ms, "turn", lane.why_waiting or "it is about to start, or under way")
