"""Calls that act on many deliveries: cancel and retry what is due, drop what is dead; with a dry run, a bounded number each."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import structlog
from aiohttp import web

from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import read_object
from relay.api.calls import COUNT, FILLED, FLAG, LOST_CURSOR, TEXT, call, maybe, only, several, shape
from relay.api.deliveries import write_delivery
from relay.api.picking import PICKED, Members, Picked, read_picked
from relay.api.query import application_of
from relay.api.render import Json
from relay.api.services import Services
from relay.api.shapes import DELIVERY
from relay.core.access import Principal
from relay.core.errors import Conflict, NotFound
from relay.core.model import DeliveryState
from relay.core.views import DeliveryView
from relay.store import DeliveryFilter
from relay.telemetry import log

BULK_MAX = 1_000
"""Deliveries that one call acts on, and ids that it takes; its answer says where the next goes on."""

TOGETHER = 100
"""Deliveries that are acted on at once: their writes share a commit."""

PAGE = 250

PAGES_MAX = 40
"""Pages that one call looks at; when few deliveries pass the filters it ends early, and says where to go on."""

SAMPLE = 5

ASKED = only({}, {**PICKED, "cursor": maybe(FILLED), "dry_run": maybe(FLAG)})
ACTED = shape(
    "Acted",
    {
        "dry_run": FLAG,
        "matched": COUNT,
        "done": COUNT,
        "unknown": COUNT,
        "next": maybe(TEXT),
        "sample": several(DELIVERY),
    },
)

Act = Callable[[DeliveryView, str], Awaitable[object]]


class _Found(NamedTuple):
    """What a call is about, and where the next one goes on."""

    deliveries: list[DeliveryView]
    unknown: int = 0  # ids of none, or of another state
    next: str | None = None


class Bulk:
    """The calls that act on many deliveries."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log = structlog.get_logger("relay.api")

    @call({200: ACTED}, body=ASKED, refuses=LOST_CURSOR)
    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Cancel due deliveries; attempts under way may still deliver them (Q7)."""
        return await self._act(request, DeliveryState.DUE, self._cancel, log.DELIVERY_CANCELLED)

    @call({200: ACTED}, body=ASKED, refuses=LOST_CURSOR)
    async def retry(self, request: web.Request) -> web.StreamResponse:
        """Make due deliveries due now (Q13)."""
        return await self._act(request, DeliveryState.DUE, self._retry, log.DELIVERY_RETRIED)

    @call({200: ACTED}, body=ASKED, refuses=LOST_CURSOR)
    async def drop(self, request: web.Request) -> web.StreamResponse:
        """Cancel dead letters, so that they count as none any more."""
        return await self._act(request, DeliveryState.DEAD, self._drop, log.DEAD_DROPPED)

    async def _cancel(self, view: DeliveryView, by: str) -> None:
        await self._services.dispatch.cancel(view.id, by)
        self._services.metrics.cancelled(view.endpoint)

    async def _retry(self, view: DeliveryView, by: str) -> None:
        await self._services.dispatch.retry(view.id)

    async def _drop(self, view: DeliveryView, by: str) -> None:
        await self._services.store.drop_dead(view.id, by)

    async def _act(self, request: web.Request, state: DeliveryState, act: Act, event: str) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        members = Members(await read_object(request), self._services.clock.wall_ms())
        is_dry = members.flag("dry_run")
        picked, cursor = read_picked(members, BULK_MAX), members.text("cursor")
        if picked.wanted.state not in (None, state):
            members.wrong("state", f'must be "{state}", or left out: this call is about no others')
        members.check()
        found = await self._find(picked, state, principal, cursor)
        done = 0
        if not is_dry:
            for start in range(0, len(found.deliveries), TOGETHER):
                some = found.deliveries[start : start + TOGETHER]
                results = await asyncio.gather(*(self._try(act, view, principal.name) for view in some))
                done += sum(results)
            self._log.info(event, deliveries=done, by=principal.name, application=picked.application)
        sample = [write_delivery(self._services, view) for view in found.deliveries[:SAMPLE]] if is_dry else []
        return Answer(_written(found, done, dry_run=is_dry) | {"sample": sample})

    async def _try(self, act: Act, view: DeliveryView, by: str) -> bool:
        """Act on one; False where it has moved on since it was found."""
        try:
            await act(view, by)
        except (Conflict, NotFound):
            return False
        return True

    async def _find(self, picked: Picked, state: DeliveryState, principal: Principal, cursor: str | None) -> _Found:
        application = application_of(picked.application, principal, self._services.registrar.current)
        if picked.ids:
            return await self._named(picked.ids, state, principal, cursor)
        asked = picked.wanted
        wanted = DeliveryFilter(
            application, asked.endpoint, state, asked.reason, asked.type, asked.since_ms, asked.until_ms
        )
        found: list[DeliveryView] = []
        for _ in range(PAGES_MAX):
            page = await self._services.store.list_deliveries(wanted, cursor, min(PAGE, BULK_MAX - len(found)))
            found += page.data
            cursor = page.next
            if cursor is None or len(found) >= BULK_MAX:
                break
        return _Found(found, next=cursor)

    async def _named(
        self, ids: tuple[str, ...], state: DeliveryState, principal: Principal, cursor: str | None
    ) -> _Found:
        """Look up ids of deliveries, and of events with all their deliveries, page by page."""
        found: dict[str, DeliveryView] = {}
        index, after = _place(cursor, len(ids))
        looked = unknown = 0
        fits = after is not None  # of the id that is looked up: what an earlier call saw may have
        while index < len(ids) and len(found) < BULK_MAX and looked < PAGES_MAX * PAGE:
            page, following = await self._page(ids[index], after, min(PAGE, BULK_MAX - len(found)), principal)
            fit = [view for view in page if view.state is state]
            found |= {view.id: view for view in fit}
            looked, fits, after = looked + len(page), fits or bool(fit), following
            if following is None:
                index, unknown, fits = index + 1, unknown + (not fits), False
        return _Found(list(found.values()), unknown, f"{index}.{after or ''}" if index < len(ids) else None)

    async def _page(
        self, one: str, after: str | None, most: int, principal: Principal
    ) -> tuple[list[DeliveryView], str | None]:
        """Read the delivery of an id, or some of an event's; and the last of these when more may follow it.

        What the caller may not see is not there.
        """
        view = await self._services.store.find_delivery(one) if after is None else None
        views = [view] if view is not None else await self._services.store.deliveries_of(one, after, most)
        page = [each for each in views if principal.sees(each.application)]
        return page, page[-1].id if view is None and len(page) == most else None


def _place(cursor: str | None, ids: int) -> tuple[int, str | None]:
    """Return at which of so many ids a call goes on, and behind which delivery of it; Conflict for no cursor of ours."""
    if cursor is None:
        return 0, None
    index, _, after = cursor.partition(".")
    if not (index.isascii() and index.isdecimal() and len(index) < 9 and int(index) < ids):
        raise Conflict("invalid_cursor", "this cursor is none of ours", remedy="Start again without it.")
    return int(index), after or None


def _written(found: _Found, done: int, *, dry_run: bool) -> Json:
    counts: Mapping[str, Any] = {"matched": len(found.deliveries), "done": done, "unknown": found.unknown}
    return {"dry_run": dry_run, **counts, "next": found.next}
