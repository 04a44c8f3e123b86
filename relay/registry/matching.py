"""Matching: which endpoints an event goes to. Happens once, when the event is accepted (Q11)."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from relay.core.model import Endpoint, EndpointState, NoDelivery


class Match(NamedTuple):
    """Where an event goes, or why it goes nowhere."""

    targets: tuple[int, ...]  # endpoint refs
    reason: NoDelivery | None
    detail: str


def match(endpoints: Iterable[Endpoint], event_type: str, covers: Callable[[str, str], bool]) -> Match:
    """Choose the endpoints that subscribe; what only disabled ones subscribe to is `skipped` (Q9).

    `covers` says of a subscription and a type whether the one stands for the other; it is the contract's word.
    """
    subscribed = [
        endpoint
        for endpoint in endpoints
        if endpoint.present and any(covers(pattern, event_type) for pattern in endpoint.event_types)
    ]
    targets = tuple(endpoint.ref for endpoint in subscribed if endpoint.state is not EndpointState.DISABLED)
    if targets:
        return Match(targets, None, "")
    if subscribed:
        names = ", ".join(endpoint.id for endpoint in subscribed)
        return Match((), NoDelivery.SKIPPED, f"only disabled endpoints subscribe to it: {names}")
    return Match((), NoDelivery.NO_MATCH, f"no endpoint subscribes to {event_type}")
