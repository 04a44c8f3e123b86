"""Events, as they can be searched and looked at."""

from aiohttp import web

from relay.api import render
from relay.api.auth import PRINCIPAL
from relay.api.deliveries import write_delivery
from relay.api.query import Query, event_filter, page_response
from relay.api.render import json_response
from relay.api.scope import seen, within
from relay.api.services import Services
from relay.core.access import Principal
from relay.core.model import EventView


class Events:
    """The calls under /v1/events that read."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def search(self, request: web.Request) -> web.Response:
        """List events, newest first."""
        principal = request[PRINCIPAL]
        query = Query(request, self._services.clock.wall_ms())
        application, limit, cursor = query.text("application"), query.limit(), query.text("cursor")
        found = event_filter(query, application)
        query.check()
        found = within(found, principal, self._services.registrar.current)
        return page_response(request, await self._services.store.list_events(found, cursor, limit), render.event)

    async def show(self, request: web.Request) -> web.Response:
        """Show one event with its payload as it is sent."""
        return json_response(render.event_detail(await self._find(request, request[PRINCIPAL])))

    async def deliveries(self, request: web.Request) -> web.Response:
        """List the deliveries of one event; there is one for each endpoint, so there are no pages."""
        view = await self._find(request, request[PRINCIPAL])
        deliveries = await self._services.store.deliveries_of(view.id)
        return json_response(
            {"data": [write_delivery(self._services, delivery) for delivery in deliveries], "next": None}
        )

    async def _find(self, request: web.Request, principal: Principal) -> EventView:
        event_id = request.match_info["id"]
        view = await self._services.store.find_event(event_id)
        return seen(view, principal, "event", event_id)
