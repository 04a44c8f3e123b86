"""The event types that an application's contract lists."""

from collections.abc import Mapping
from enum import StrEnum

from aiohttp import web

from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.calls import BY_APPLICATION, BY_ENDPOINT, OBJECT, call, word
from relay.api.query import Query
from relay.api.routing import PARAMETERS
from relay.api.services import Services
from relay.api.shapes import CATALOGUE, EVENT_TYPE
from relay.contracts import Contract, describe_catalogue, describe_type, openapi, why_unlisted
from relay.core.errors import NotFound
from relay.core.model import Application

PATH = "/v1/event-types"


class Form(StrEnum):
    """How a catalogue is written."""

    LIST = "list"
    OPENAPI = "openapi"


_UNNAMED: Mapping[int, tuple[str, ...]] = {409: ("application_required",)}


class EventTypes:
    """The calls under /v1/event-types. Every role may make them: producers post by them, receivers subscribe by them."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @call(
        {200: {"anyOf": [CATALOGUE, OBJECT]}},
        query={**BY_APPLICATION, **BY_ENDPOINT, "format": word(Form)},
        refuses=_UNNAMED,
    )
    async def list_all(self, request: web.Request) -> web.StreamResponse:
        """List the catalogue in the order of its contract, on one page; or write it as an OpenAPI document."""
        query = self._services.query(request)
        form = query.word("format", Form) or Form.LIST
        application, contract = self._asked(request, query)
        if form is Form.OPENAPI:
            return Answer(openapi(contract))
        return Answer({"application": application.id} | describe_catalogue(contract))

    @call({200: EVENT_TYPE}, query={**BY_APPLICATION, **BY_ENDPOINT}, refuses=_UNNAMED)
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show one event type; 404 names the nearest."""
        _, contract = self._asked(request, self._services.query(request))
        name = request[PARAMETERS]["name"]
        listed = contract.types.get(name)
        if listed is None:
            raise NotFound(why_unlisted(contract, name))
        return Answer(describe_type(name, listed))

    def _asked(self, request: web.Request, query: Query) -> tuple[Application, Contract]:
        """Return whose catalogue is asked for: the token's own application, the one that is named, or the only one.

        For an `endpoint` it is the catalogue of the contract that writes its requests.
        """
        principal, registry = request[PRINCIPAL], self._services.registrar.current
        named, endpoint_id = query.text("application"), query.text("endpoint")
        query.check()
        if endpoint_id is None:
            application = registry.application_for(principal, named)
            return application, registry.contract(application)
        endpoint = registry.endpoints.get(endpoint_id)
        if (
            endpoint is None
            or not principal.sees(endpoint.application.id)
            or named not in (None, endpoint.application.id)
        ):
            raise NotFound(f"no endpoint {endpoint_id[:64]!r}", remedy="List them with GET /v1/webhook-endpoints.")
        return endpoint.application, registry.contract_of(endpoint)
