"""Events and deliveries: search, the attempt timeline, manual retry and cancel, and dead letters."""

import heapq
from dataclasses import replace
from functools import partial
from itertools import pairwise

import structlog
from aiohttp import web

from relay.api import problems, render
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import read_nothing, read_object, unknown_members
from relay.api.calls import (
    BY_APPLICATION,
    BY_CONTENT,
    BY_ENDPOINT,
    BY_REASON,
    BY_STATE,
    BY_TIME,
    BY_TYPE,
    FILLED,
    FLAG,
    LOST_CURSOR,
    NOTHING,
    PAGED,
    TEXT,
    call,
    only,
    page,
    word,
)
from relay.api.condition import Line, look_at, why_delivery_waits, why_endpoint_waits
from relay.api.disclosure import sight_of
from relay.api.picking import Members
from relay.api.problems import Refused
from relay.api.query import (
    application_of,
    behind,
    delivery_filter,
    event_filter,
    page_of,
    page_response,
    searchable_places,
    seen,
    within,
)
from relay.api.render import Json, moment
from relay.api.routing import PARAMETERS
from relay.api.services import Services
from relay.api.shapes import DEAD_GROUP, DELIVERY, DELIVERY_DETAIL, EVENT, EVENT_DETAIL, NOTED, QUEUE
from relay.core.access import Principal
from relay.core.errors import NotFound
from relay.core.issues import Issue
from relay.core.model import DeadReason, DeliveryState, NoDelivery
from relay.core.units import format_duration, parse_duration_ms
from relay.core.views import DeadGroup, DeliveryView, EventView
from relay.store import delivery_key
from relay.telemetry import log

NOTE_MAX = 1_000
"""Characters of a note about dead letters."""

AGES_MS = tuple(map(parse_duration_ms, ("1m", "5m", "20m", "1h", "4h", "12h", "1d", "3d")))
"""Ages of events by which the shape of the queue is counted."""


class Events:
    """The calls under /v1/events that read."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @call(
        {200: page(EVENT)},
        query={
            **BY_APPLICATION,
            **BY_ENDPOINT,
            **BY_TYPE,
            **BY_TIME,
            **BY_CONTENT,
            "id": FILLED,
            "reason": word(NoDelivery),
            **PAGED,
        },
        refuses=LOST_CURSOR,
    )
    async def search(self, request: web.Request) -> web.StreamResponse:
        """List events, newest first."""
        query = self._services.query(request)
        principal, registry = request[PRINCIPAL], self._services.registrar.current
        declared = partial(searchable_places, principal, registry)
        wanted, limit, cursor = event_filter(query, principal, declared), query.limit(), query.text("cursor")
        query.check()
        wanted = within(wanted, principal, registry)
        return await page_response(request, await self._services.store.list_events(wanted, cursor, limit), render.event)

    @call({200: EVENT_DETAIL})
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show one event with its payload as it is sent."""
        return Answer(render.event_detail(await self._find(request, request[PRINCIPAL])))

    @call({200: page(DELIVERY)}, query=PAGED, refuses=LOST_CURSOR)
    async def deliveries(self, request: web.Request) -> web.StreamResponse:
        """List the deliveries of one event, by endpoint."""
        query = self._services.query(request)
        limit, cursor = query.limit(), query.text("cursor")
        query.check()
        view = await self._find(request, request[PRINCIPAL])
        deliveries = await self._services.store.deliveries_of(view.id, cursor, limit + 1)
        page = page_of(deliveries, limit, lambda delivery: delivery.id)
        return await page_response(request, page, lambda delivery: write_delivery(self._services, delivery))

    async def _find(self, request: web.Request, principal: Principal) -> EventView:
        event_id = request[PARAMETERS]["id"]
        view = await self._services.store.find_event(event_id)
        return seen(view, principal, "event", event_id)


class Deliveries:
    """The calls under /v1/deliveries, and /v1/dead-letters."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log = structlog.get_logger("relay.api")

    @call(
        {200: page(DELIVERY)},
        query={
            **BY_APPLICATION,
            **BY_ENDPOINT,
            **BY_STATE,
            **BY_REASON,
            **BY_TYPE,
            **BY_TIME,
            **BY_CONTENT,
            "event": FILLED,
            "status": FILLED | {"description": "Of the latest answer: 503, 5xx, or `none` for no answer."},
            **PAGED,
        },
        refuses=LOST_CURSOR,
    )
    async def search(self, request: web.Request) -> web.StreamResponse:
        """List deliveries, newest first."""
        query = self._services.query(request)
        principal, registry = request[PRINCIPAL], self._services.registrar.current
        declared = partial(searchable_places, principal, registry)
        wanted, limit, cursor = delivery_filter(query, declared), query.limit(), query.text("cursor")
        query.check()
        wanted = within(wanted, principal, registry)
        page = await self._services.store.list_deliveries(wanted, cursor, limit)
        return await page_response(request, page, lambda view: write_delivery(self._services, view))

    @call({200: DELIVERY_DETAIL})
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show one delivery with its attempts, and what the next one waits for."""
        view = await self._find(request, request[PRINCIPAL])
        return Answer(self._detail(view, request[PRINCIPAL]))

    @call({202: DELIVERY_DETAIL}, body=only({}, {"force": FLAG}), refuses={409: ("endpoint_deleted", "expired")})
    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Make a delivery due now (Q13): the same series if it is due already, a new one if it had ended.

        An expired one is refused, unless the body says `{"force": true}`.
        """
        principal = request[PRINCIPAL]
        view = await self._find(request, principal)
        force = await _read_force(request)
        due = await self._services.dispatch.retry(view.id, force=force)
        facts = {"delivery": view.id, "endpoint": view.endpoint, "by": principal.name}
        self._log.info(log.DELIVERY_RETRIED, **facts, forced=force)
        fresh = replace(
            view,
            state=DeliveryState.DUE,
            reason=None,
            cancelled_by=None,
            finished_at_ms=None,
            due_ms=due.due_ms,
            series=due.series,
            replayed=True,
        )
        return Answer(self._detail(fresh, principal), status=202)

    @call({200: DELIVERY_DETAIL}, body=NOTHING, refuses={409: ("not_due",)})
    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Cancel a due delivery; an attempt under way may still deliver it (Q7)."""
        principal = request[PRINCIPAL]
        view = await self._find(request, principal)
        await read_nothing(request)
        await self._services.dispatch.cancel(view.id, principal.name)
        self._services.metrics.cancelled(view.endpoint)
        self._log.info(log.DELIVERY_CANCELLED, delivery=view.id, endpoint=view.endpoint, by=principal.name)
        now_ms = self._services.clock.wall_ms()
        fresh = replace(
            view, state=DeliveryState.CANCELLED, due_ms=None, finished_at_ms=now_ms, cancelled_by=principal.name
        )
        return Answer(self._detail(fresh, principal))

    @call({200: page(DEAD_GROUP)}, query={**BY_APPLICATION, **BY_ENDPOINT, **BY_REASON, **PAGED}, refuses=LOST_CURSOR)
    async def dead_letters(self, request: web.Request) -> web.StreamResponse:
        """List dead letters grouped by endpoint and reason."""
        principal = request[PRINCIPAL]
        query = self._services.query(request)
        named, endpoint, reason = query.text("application"), query.text("endpoint"), query.word("reason", DeadReason)
        limit, cursor = query.limit(), query.text("cursor")
        query.check()
        application = application_of(named, principal, self._services.registrar.current)
        groups = (
            group
            for group in await self._services.store.dead_groups(application)
            if endpoint in (None, group.endpoint) and reason in (None, group.reason)
        )
        page = page_of(behind(cursor, groups, _place), limit, _place)
        return await page_response(request, page, render.dead_group)

    @call({200: NOTED}, body=only({"endpoint": FILLED, "reason": word(DeadReason), "note": TEXT}))
    async def note(self, request: web.Request) -> web.StreamResponse:
        """Keep a note about the dead letters of an endpoint and a reason; an empty one removes it."""
        principal = request[PRINCIPAL]
        members = Members(await read_object(request), self._services.clock.wall_ms())
        name, reason, note = members.text("endpoint"), members.word("reason", DeadReason), members.value("note")
        if not isinstance(note, str) or len(note) > NOTE_MAX:
            members.wrong("note", f"must be text of at most {NOTE_MAX} characters; an empty one removes the note")
        for member, value in (("endpoint", name), ("reason", reason)):
            if value is None:
                members.wrong(member, "is missing")
        members.check()
        endpoint = self._services.registrar.current.endpoints.get(name or "")
        if endpoint is None or reason is None or not principal.sees(endpoint.application.id):
            raise NotFound(f"no endpoint {str(name)[:64]!r}", remedy="List them with GET /v1/webhook-endpoints.")
        await self._services.store.note_dead(endpoint.ref, reason, note, principal.name)
        self._log.info(log.DEAD_NOTED, endpoint=endpoint.id, reason=reason.value, by=principal.name)
        return Answer({"endpoint": endpoint.id, "reason": reason, "note": note or None, "noted_by": principal.name})

    @call({200: QUEUE}, query={**BY_APPLICATION, "limit": PAGED["limit"]})
    async def shape(self, request: web.Request) -> web.StreamResponse:
        """Show what is due by endpoint and by the age of its events; those with most first."""
        principal = request[PRINCIPAL]
        query = self._services.query(request)
        named, limit = query.text("application"), query.limit()
        query.check()
        registry, now_ms = self._services.registrar.current, self._services.clock.wall_ms()
        application = application_of(named, principal, registry)
        owners = registry.applications.values() if application is None else [registry.applications[application]]
        endpoints = {ref: endpoint for owner in owners for ref, endpoint in owner.endpoints.items()}
        counts = await self._services.store.queue_shape(list(endpoints), [now_ms - age_ms for age_ms in AGES_MS])
        most = heapq.nsmallest(limit, counts.items(), key=lambda item: (-item[1][0], endpoints[item[0]].id))
        return Answer(
            {
                "ages": [format_duration(age_ms) for age_ms in AGES_MS],
                "endpoints": len(counts),
                "due": sum(total for total, *_ in counts.values()),
                "data": [_shape_row(look_at(self._services, endpoints[ref]), *count) for ref, count in most],
            }
        )

    async def _find(self, request: web.Request, principal: Principal) -> DeliveryView:
        delivery_id = request[PARAMETERS]["id"]
        return seen(await self._services.store.find_delivery(delivery_id), principal, "delivery", delivery_id)

    def _detail(self, view: DeliveryView, principal: Principal) -> Json:
        sight = sight_of(principal, self._services.registrar.current, view.endpoint)
        timeline = [sight.attempt(render.attempt(attempt)) for attempt in view.timeline or ()]
        return write_delivery(self._services, view) | {
            "next_attempt": write_next_attempt(self._services, view),
            "timeline": timeline,
        }


def _shape_row(line: Line, total: int, *older: int) -> Json:
    """Write how many are younger than the first age, between each two, and older than the last."""
    steps = [total, *older, 0]
    return {
        "endpoint": line.endpoint.id,
        "application": line.endpoint.application.id,
        "state": line.word,
        "held": line.endpoint.held,
        "due": total,
        "by_age": [before - after for before, after in pairwise(steps)],
        "waits_for": why_endpoint_waits(line.endpoint, line.lane) or None,
    }


def _place(group: DeadGroup) -> str:
    return f"{group.endpoint}.{group.reason}"


async def _read_force(request: web.Request) -> bool:
    written = await read_object(request)
    mistakes = unknown_members(written, ("force",))
    force = written.get("force", False)
    if not isinstance(force, bool):
        mistakes.append(Issue("/force", "must be true or false"))
    if mistakes:
        raise Refused(problems.invalid(mistakes))
    return force is True


def write_delivery(services: Services, view: DeliveryView) -> Json:
    """Write a delivery with whether it is held: due, while its endpoint takes nothing."""
    endpoint = services.registrar.current.endpoints.get(view.endpoint)
    held = view.state is DeliveryState.DUE and (endpoint is None or endpoint.held)
    key = delivery_key(view.id)
    under_way = key is not None and services.dispatch.lanes.under_way(key) is not None
    return render.delivery(view) | {"held": held, "under_way": under_way}


def write_next_attempt(services: Services, view: DeliveryView) -> Json | None:
    """Write what a delivery waits for, and until when; None when it has ended."""
    endpoint = services.registrar.current.endpoint_by_ref(view.endpoint_ref)
    lane = None if endpoint is None else services.lane(endpoint)
    wait = why_delivery_waits(view, endpoint, lane, services.clock.wall_ms())
    return None if wait is None else {"at": moment(wait.at_ms), "why": wait.why, "detail": wait.detail}
