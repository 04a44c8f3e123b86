"""`GET /v1/events/{id}/explain`: for each endpoint of the application whether it was owed the event, why, and what
became of it."""

from collections.abc import Iterable, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import NamedTuple

from aiohttp import web

from relay.api import render
from relay.api.auth import PRINCIPAL
from relay.api.calls import (
    BY_ENDPOINT,
    FLAG,
    LOST_CURSOR,
    PAGED,
    TEXT,
    TIME,
    call,
    maybe,
    members,
    several,
    shape,
    word,
)
from relay.api.deliveries import write_delivery, write_next_attempt
from relay.api.disclosure import sight_of
from relay.api.query import page_of, page_response, seen
from relay.api.render import Json, moment
from relay.api.routing import PARAMETERS
from relay.api.services import Services
from relay.api.shapes import ATTEMPT, DELIVERY, DELIVERY_DETAIL, EVENT, FAILED_CONDITION
from relay.core.access import Principal
from relay.core.errors import Conflict, NotFound
from relay.core.model import DeliveryKey, Endpoint
from relay.core.urls import masked
from relay.core.views import AttemptView, DeliveryView, EventView
from relay.registry import Explainer, Why, remedy_of, why_owed
from relay.store import delivery_id, delivery_key

_LATEST = {name: schema for name, schema in ATTEMPT["properties"].items() if name != "response"}
_OWED = members(
    {
        **DELIVERY["properties"],
        "next_attempt": DELIVERY_DETAIL["properties"]["next_attempt"],
        "last_attempt": maybe(members({"delivered": FLAG, **_LATEST})),
    }
)
_REASON = shape(
    "Reason",
    {
        "endpoint": TEXT,
        "url": maybe(TEXT),
        "deleted": FLAG,
        "owed": FLAG,
        "why": word(Why),
        "detail": TEXT,
        "remedy": maybe(TEXT),
        "failures": several(FAILED_CONDITION),
        "edited_at": maybe(TIME),
        "delivery": maybe(_OWED),
    },
)
EXPLAINED = members({"event": EVENT, "data": several(_REASON), "next": maybe(TEXT)})


class _Case(NamedTuple):
    """An endpoint, None if it was deleted, and what it was owed of the event, None for nothing. One of them is there."""

    ref: int
    endpoint: Endpoint | None
    delivery: DeliveryView | None


class Explain:
    """The call that explains. It reads the event, a page of its deliveries, and the latest attempt of each."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @call({200: EXPLAINED}, query={**BY_ENDPOINT, **PAGED}, refuses=LOST_CURSOR)
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Explain an event, those of the oldest endpoints first."""
        principal, event_id = request[PRINCIPAL], request[PARAMETERS]["id"]
        query = self._services.query(request)
        named, limit, cursor = query.text("endpoint"), query.limit(), query.text("cursor")
        query.check()
        event = seen(await self._services.store.find_event(event_id), principal, "event", event_id)
        cases = await self._cases(event, named, cursor, limit + 1)
        if named is not None and not cases and cursor is None:
            remedy = "List them with GET /v1/webhook-endpoints."
            raise NotFound(f"application {event.application!r} has no endpoint {named[:64]!r}", remedy=remedy)
        page = page_of(cases, limit, lambda case: delivery_id(DeliveryKey(event.ordinal, case.ref)))
        latest = await self._services.store.last_attempts([case.delivery for case in page.data if case.delivery])
        explainer = Explainer(self._services.registrar.current, event)
        head = {"event": render.event(event)}
        return await page_response(
            request, page, lambda case: self._write(principal, event, explainer, case, latest), head
        )

    async def _cases(self, event: EventView, named: str | None, cursor: str | None, limit: int) -> Sequence[_Case]:
        """Read endpoints behind a cursor, and deliveries: whatever is among the first of both has its delivery read."""
        place = DeliveryKey(0, 0) if cursor is None else delivery_key(cursor)
        if place is None:
            raise Conflict("invalid_cursor", "this cursor is none of ours", remedy="Start again without it.")
        store, registry = self._services.store, self._services.registrar.current
        if named is None:
            found = await store.deliveries_of(event.id, cursor, limit)
        else:
            found = [one for one in await store.deliveries_of(event.id, cursor) if one.endpoint == named]
        owed = {view.endpoint_ref: view for view in found}
        owner = registry.applications.get(event.application)
        endpoints: Mapping[int, Endpoint] = {} if owner is None else owner.endpoints
        known = sorted(ref for ref, one in endpoints.items() if ref > place.endpoint and named in (None, one.id))
        refs = islice(_once(merge(known, owed)), limit)
        return [_Case(ref, endpoints.get(ref), owed.get(ref)) for ref in refs]

    def _write(
        self,
        principal: Principal,
        event: EventView,
        explainer: Explainer,
        case: _Case,
        latest: Mapping[str, AttemptView],
    ) -> Json:
        endpoint, delivery, again = case.endpoint, case.delivery, None
        if delivery is not None:
            name, reason = delivery.endpoint, why_owed(event, endpoint, delivery)
            again = remedy_of(delivery, endpoint)
        else:
            assert endpoint is not None, "a case has one of them"
            name, reason = endpoint.id, explainer.why_not_owed(endpoint)
        return {
            "endpoint": name,
            "url": None if endpoint is None else masked(endpoint.url),
            "deleted": endpoint is None,
            "owed": delivery is not None,
            "why": reason.why,
            "detail": reason.detail,
            "remedy": reason.remedy(event.id, name) or again,
            "failures": [render.filter_failure(failure) for failure in reason.failures],
            "edited_at": moment(reason.edited_at_ms),
            "delivery": None
            if delivery is None
            else self._write_delivery(principal, delivery, latest.get(delivery.id)),
        }

    def _write_delivery(self, principal: Principal, view: DeliveryView, latest: AttemptView | None) -> Json:
        """Write a delivery with what it waits for and its latest attempt, of which the answer is left to its detail."""
        attempt = None
        if latest is not None:
            sight = sight_of(principal, self._services.registrar.current, view.endpoint)
            attempt = {"delivered": render.delivers(latest)} | sight.attempt(render.attempt(latest))
            del attempt["response"]
        next_attempt = write_next_attempt(self._services, view)
        return write_delivery(self._services, view) | {"next_attempt": next_attempt, "last_attempt": attempt}


def _once(refs: Iterable[int]) -> Iterable[int]:
    """Leave out what repeats what is before it."""
    before = None
    for ref in refs:
        if ref != before:
            yield ref
        before = ref
