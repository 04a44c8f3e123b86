"""Why a due delivery has not started yet, and when it may."""

from dataclasses import dataclass

from relay.core.model import DeliveryState, DeliveryView, DisabledBy, Endpoint, EndpointState
from relay.queue import LaneView, Suspension

_DISABLED = {
    DisabledBy.MANUAL: "by hand",
    DisabledBy.GONE: "because it answered 410",
    DisabledBy.RECEIVER: "because it asked for it",
    DisabledBy.FAILING: "because it kept failing",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """The earliest start of the next attempt; None when no time is known, and a word and a sentence why."""

    at_ms: int | None
    why: str  # "held", "predecessor", "scheduled", "cool_down", "retry_after", "suspended", "turn"
    detail: str


def waiting(view: DeliveryView, endpoint: Endpoint | None, lane: LaneView | None, now_ms: int) -> Waiting | None:
    """Say what a delivery waits for; None when it waits for nothing, because it ended."""
    if view.state is not DeliveryState.DUE:
        return None
    if endpoint is None or lane is None:
        return Waiting(None, "held", "its endpoint was deleted; it will be cancelled")
    if endpoint.held:
        return Waiting(None, "held", why_held(endpoint))
    if view.due_ms is None:
        return Waiting(None, "predecessor", "an earlier delivery of the same ordering key goes first")
    return _next_start(view.due_ms, lane, now_ms)


def why_waiting(endpoint: Endpoint, lane: LaneView) -> str:
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
    return ""


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
