"""The event types that an application's contract lists."""

from enum import StrEnum

from aiohttp import web

from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.query import Query
from relay.api.routing import PARAMETERS
from relay.api.services import Services
from relay.contracts import describe_catalogue, describe_type, openapi, why_unlisted
from relay.core.errors import NotFound
from relay.core.model import Application

PATH = "/v1/event-types"


class Form(StrEnum):
    """How a catalogue is written."""

    LIST = "list"
    OPENAPI = "openapi"


class EventTypes:
    """The calls under /v1/event-types. Every role may make them: producers post by them, receivers subscribe by them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """List the catalogue in the order of its contract, on one page; or write it as an OpenAPI document."""
        query = self._services.query(request)
        form = query.word("format", Form) or Form.LIST
        application = self._application(request, query)
        contract = self._services.registrar.current.contract(application)
        if form is Form.OPENAPI:
            return Answer(openapi(contract))
        return Answer({"application": application.id} | describe_catalogue(contract))

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show one event type; 404 names the nearest."""
        application = self._application(request, self._services.query(request))
        contract = self._services.registrar.current.contract(application)
        name = request[PARAMETERS]["name"]
        listed = contract.types.get(name)
        if listed is None:
            raise NotFound(why_unlisted(contract, name))
        return Answer(describe_type(name, listed))

    def _application(self, request: web.Request, query: Query) -> Application:
        """Return whose catalogue is asked for: the token's own, the one that is named, or the only one."""
        principal = request[PRINCIPAL]
        named = query.text("application")
        query.check()
        return self._services.registrar.current.application_for(principal, named)
