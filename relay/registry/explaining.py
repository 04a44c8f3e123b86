"""Why an event went to an endpoint or not, as far as what is kept can tell: a word and a sentence for each.

Events are matched once, when they come, and nobody notes what did not match. So what kept an event back is found by what is
there now: when the endpoint was made, edited and disabled, what it takes, and the event itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from relay.core.filters import Failure
from relay.core.grammars import matches
from relay.core.model import DeadReason, DeliveryState, Endpoint, EndpointState, NoDelivery
from relay.core.units import format_time
from relay.core.views import DeliveryView, EventView
from relay.registry.facts import EventFacts
from relay.registry.registry import Registry, listed
from relay.registry.stored import data_of


class Why(StrEnum):
    """Why an endpoint was owed an event, or was not."""

    MATCHED = "matched"
    REPLAYED = "replayed"  # not when the event came, but by a replay of what was missing
    OVERFLOW = "overflow"  # owed, and dead at once: its backlog was full
    FILTERED = "filtered"  # the contract keeps the event back from everybody
    CREATED_LATER = "created_later"
    NOT_NAMED = "not_named"  # the producer named other endpoints
    NOT_PRESENT = "not_present"  # it vanished from the configuration file
    TYPE = "type"
    CONTRACT = "contract"  # its own contract does not have the type
    FILTER = "filter"
    UNDECIDED = "undecided"  # its filter cannot be tried any more
    DISABLED = "disabled"
    CHANGED = "changed"  # nothing that it is set to now explains it


_BY_REPLAY = "`relay replay create --mode missing {event}` sends it to every endpoint that takes it now."

REMEDIES: Mapping[Why, str] = {
    Why.OVERFLOW: "`relay replay create {event}` sends it once the backlog is shorter.",
    Why.CREATED_LATER: _BY_REPLAY,
    Why.NOT_NAMED: "Post it again, and name this endpoint too, or none.",
    Why.NOT_PRESENT: "Put the endpoint back into the file and reload.",
    Why.TYPE: "Add the type to the endpoint's event_types; then " + _BY_REPLAY,
    Why.CONTRACT: "Give the endpoint a contract that has the type; then " + _BY_REPLAY,
    Why.FILTER: "Change the endpoint's filter; then " + _BY_REPLAY,
    Why.UNDECIDED: "Try the filter on what was posted: `relay filter try --endpoint {endpoint} @EVENT`.",
    Why.DISABLED: "`relay endpoint enable {endpoint}`; then " + _BY_REPLAY,
    Why.CHANGED: _BY_REPLAY,
}
"""What may be done, where anything can be."""

_AS_IT_IS = frozenset({Why.TYPE, Why.CONTRACT, Why.FILTER, Why.UNDECIDED, Why.CHANGED})
"""Reasons that an edit of the endpoint since may have made, or unmade."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one endpoint was owed an event, or was not."""

    why: Why
    detail: str
    failures: Sequence[Failure] = ()  # the conditions of its filter that do not hold
    edited_at_ms: int | None = None  # the endpoint was edited since, where that matters: it may have been otherwise

    def remedy(self, event: str, endpoint: str) -> str | None:
        """Say what may be done; None where nothing has to be."""
        said = REMEDIES.get(self.why)
        return None if said is None else said.format(event=event, endpoint=endpoint)


def why_owed(event: EventView, endpoint: Endpoint | None, delivery: DeliveryView) -> Reason:
    """Say why an endpoint, None for a deleted one, was owed an event. O(1)"""
    if endpoint is not None and endpoint.created_at_ms > event.created_at_ms:
        return Reason(Why.REPLAYED, "it was created after the event had come; a replay of what was missing sent it")
    if delivery.reason is DeadReason.OVERFLOW:
        return Reason(Why.OVERFLOW, "it was owed the event, but its backlog was full (storage.endpoint_backlog)")
    when = " when it came, or at a replay since" if delivery.replayed and delivery.series == 1 else ""
    return Reason(Why.MATCHED, f"it took events of this type, and nothing kept this one back{when}")


_NEVER_AGAIN = frozenset({DeadReason.CORRUPT, DeadReason.UNRENDERABLE})
"""Deaths after which another attempt would meet the same."""


def remedy_of(delivery: DeliveryView, endpoint: Endpoint | None) -> str | None:
    """Say how a dead delivery is sent again; None for what is not dead, or cannot be. O(1)"""
    if delivery.state is not DeliveryState.DEAD or endpoint is None or delivery.reason in _NEVER_AGAIN:
        return None
    is_off = endpoint.state is EndpointState.DISABLED
    first = f"`relay endpoint enable {endpoint.id}`" if is_off else "Mend what its last attempt met"
    force = " --force" if delivery.reason is DeadReason.EXPIRED else ""
    return f"{first}; then `relay deliveries retry {delivery.id}{force}` sends it again."


class Explainer:
    """Says why endpoints were not owed one event. What is in the event is read once, and only if a filter asks."""

    def __init__(self, registry: Registry, event: EventView) -> None:
        self._registry = registry
        self._event = event

    def why_not_owed(self, endpoint: Endpoint) -> Reason:
        """Say it of an endpoint of the event's application. O(what it takes, and what its filter looks at)"""
        reason = self._fixed(endpoint) or self._taken(endpoint) or self._by_state(endpoint)
        if reason.why in _AS_IT_IS and endpoint.updated_at_ms > self._event.created_at_ms:
            return Reason(reason.why, reason.detail, reason.failures, endpoint.updated_at_ms)
        return reason

    def _fixed(self, endpoint: Endpoint) -> Reason | None:
        """Look for what no edit changes."""
        event = self._event
        if event.reason is NoDelivery.FILTERED:
            return Reason(Why.FILTERED, f"its contract keeps the event back from every endpoint: {event.reason_detail}")
        if endpoint.created_at_ms > event.created_at_ms:
            times = format_time(endpoint.created_at_ms), format_time(event.created_at_ms)
            return Reason(Why.CREATED_LATER, "it was created at {}, after the event had come at {}".format(*times))
        if event.endpoints and endpoint.id not in event.endpoints:
            return Reason(Why.NOT_NAMED, f"the producer named the endpoints that it is for: {listed(event.endpoints)}")
        return None

    def _taken(self, endpoint: Endpoint) -> Reason | None:
        """Look for what of its settings keeps the event back."""
        if not endpoint.present:
            return Reason(Why.NOT_PRESENT, "it is not in the configuration file any more")
        registry, type_ = self._registry, self._event.type
        covers = registry.contract(endpoint.application).covers
        if not any(covers(pattern, type_) for pattern in endpoint.event_types):
            sentence = f"it takes {listed(endpoint.event_types)}, which is not {type_}"
            if any(matches(pattern, type_) for pattern in endpoint.event_types):
                sentence = f"no wildcard stands for {type_}, which is deprecated or for tests only"
            return Reason(Why.TYPE, sentence)
        if not registry.subscribes(endpoint, type_):
            return Reason(Why.CONTRACT, f"its own contract {endpoint.contract} does not have {type_}")
        return self._filtered(endpoint)

    def _filtered(self, endpoint: Endpoint) -> Reason | None:
        if endpoint.filter is None:
            return None
        facts, others = self._facts
        if facts is None or others is None:
            return Reason(
                Why.UNDECIDED, "it has a filter, and the event's data cannot be told from the body as it is sent"
            )
        if endpoint.filter.passes(facts):
            return None
        failures = endpoint.filter.failures(others)
        said = "; ".join(failure.message for failure in failures)
        return Reason(Why.FILTER, f"its filter keeps the event back: {said}".removesuffix(": "), failures)

    def _by_state(self, endpoint: Endpoint) -> Reason:
        since_ms, was = endpoint.state_since_ms, self._event
        if endpoint.state is EndpointState.DISABLED and since_ms <= was.created_at_ms:
            return Reason(Why.DISABLED, f"it has been disabled since {format_time(since_ms)} ({endpoint.disabled_by})")
        if was.reason is NoDelivery.SKIPPED:
            return Reason(Why.DISABLED, "it was disabled when the event came")
        sentence = "nothing that it is set to now keeps the event back: it was changed since"
        if since_ms > was.created_at_ms:
            sentence += f", and is {endpoint.state} since {format_time(since_ms)}"
        return Reason(Why.CHANGED, sentence)

    @cached_property
    def _facts(self) -> tuple[EventFacts | None, EventFacts | None]:
        """Return the event as filters see it, to decide by and to say why; None where its data cannot be told."""
        event = self._event
        data = data_of(event, self._registry.contract(self._registry.application(event.application).application))
        if data is None:
            return None, None
        return EventFacts(event.type, data, event.metadata), EventFacts(event.type, data, event.metadata)
