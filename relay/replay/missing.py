"""What endpoints were never owed: events that match them now, by their types, their filters, and whom the producer named.

An endpoint that was added later, was disabled, or did not subscribe when the event came, gets it so, as its own contract
writes it. What a contract keeps back stays back.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from relay.contracts import Contract, Payload, Rendering, Unrenderable
from relay.core.frozen import Variant
from relay.core.model import DeliveryKey, Endpoint, EndpointState
from relay.core.views import EventView
from relay.registry import EventFacts, Registry, data_of
from relay.store import Store
from relay.store.replays import Candidate, Replay, Selected, Skip

KEYS_A_PAGE = 5_000
"""When a page has so many, what it has left is for the next one."""


class _Owed(NamedTuple):
    """To which endpoints an event goes, and what is frozen for those whose contract is not their application's."""

    endpoints: Sequence[Endpoint]
    variants: Sequence[Variant] = ()
    skipped: Skip | None = None  # why it goes to none, or not to all


async def select_missing(store: Store, registry: Registry, replay: Replay, ids: Sequence[str] | None) -> Selected:
    """Select the next page of a replay of what is missing.

    O(the page * endpoints that subscribe), and a read for each event whose data have to be known.
    """
    page = await store.replays.candidates(replay, ids)
    keys: list[DeliveryKey] = []
    variants: list[tuple[int, Variant]] = []
    skipped: dict[str, int] = {Skip.UNKNOWN: page.unknown}
    place = page.place
    for event in page.events:
        subscribed = {one.ref: one for one in _subscribed(registry, event, replay.wanted.endpoint)}
        missing = await store.replays.never_owed([DeliveryKey(event.ordinal, ref) for ref in subscribed])
        owed = await _owed(store, registry, event, [subscribed[key.endpoint] for key in missing])
        keys += [DeliveryKey(event.ordinal, endpoint.ref) for endpoint in owed.endpoints]
        variants += [(event.ordinal, variant) for variant in owed.variants]
        if owed.skipped is not None:
            skipped[owed.skipped] = skipped.get(owed.skipped, 0) + 1
        if len(keys) >= KEYS_A_PAGE and event.place is not None:
            place = event.place
            break
    return Selected(keys, place, skipped, len(page.events), variants)


def _subscribed(registry: Registry, event: Candidate, named: str | None) -> Iterator[Endpoint]:
    """Yield the endpoints that take events of this type now, of those that the event and the replay are for."""
    entry = registry.applications.get(event.application)
    if entry is None:
        return
    for endpoint, _ in registry.match(entry.application, event.type).subscribed:
        is_meant = (event.aimed is None or endpoint.ref in event.aimed) and named in (None, endpoint.id)
        if is_meant and endpoint.state is not EndpointState.DISABLED:
            yield endpoint


async def _owed(store: Store, registry: Registry, event: Candidate, endpoints: Sequence[Endpoint]) -> _Owed:
    """Say which of the endpoints that an event is missing at get it: those whose filter lets it through."""
    contract = registry.contract(registry.application(event.application).application)
    contracts = {one.ref: registry.entries[one.ref].contract for one in endpoints}
    others = {ref: other for ref, other in contracts.items() if other.name != contract.name}
    if not others and all(endpoint.filter is None for endpoint in endpoints):
        return _Owed(endpoints)
    view = await store.find_event(event.id)
    if view is None:
        return _Owed(())
    data = data_of(view, contract)
    if data is None:
        return _Owed((), skipped=Skip.UNDECIDED)
    facts = EventFacts(event.type, data, view.metadata)
    passed = [endpoint for endpoint in endpoints if endpoint.filter is None or endpoint.filter.passes(facts)]
    own = [endpoint for endpoint in passed if endpoint.ref not in others]
    return _rendered(view, data, own, [(one, others[one.ref]) for one in passed if one.ref in others])


def _rendered(
    view: EventView, data: bytes, own: Sequence[Endpoint], others: Sequence[tuple[Endpoint, Contract]]
) -> _Owed:
    """Add the endpoints whose own contract can write the event, with what it writes."""
    metadata = None if view.metadata is None else Payload(view.metadata)
    rendering = Rendering(view.id, view.type, view.timestamp_ms, view.created_at_ms, Payload(data), metadata=metadata)
    endpoints, variants = list(own), []
    skipped = None
    for endpoint, contract in others:
        try:
            variants.append(Variant(contract.name, (endpoint.ref,), contract.render(rendering)))
        except Unrenderable:
            skipped = Skip.UNRENDERABLE
        else:
            endpoints.append(endpoint)
    return _Owed(endpoints, variants, skipped)
