"""`/openapi.json`, which describes every call, and `/docs`, a page to read and try them; its files come with relay.

Neither needs a token: they say what docs/API.md says, and nothing of what is stored or configured here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files

import orjson
from aiohttp import hdrs, web

from relay.api import problems
from relay.api.answer import JSON
from relay.api.calls import FILLED, OBJECT, call
from relay.api.openapi import describe
from relay.api.problems import Refused
from relay.api.query import Query
from relay.api.routing import PARAMETERS, Route
from relay.contracts import ContractCatalogue
from relay.core.errors import NotFound

DOCUMENT, PAGE = "/openapi.json", "/docs"

USUAL = "standard"
"""The contract whose webhooks the document has, unless it is asked for another."""

_HTML, _SCRIPT, _STYLE = "text/html", "text/javascript", "text/css"
_START = "index.html"
_KINDS: Mapping[str, str] = {
    _START: _HTML,
    "start.js": _SCRIPT,
    "swagger-ui-bundle.js": _SCRIPT,
    "swagger-ui.css": _STYLE,
}
"""The files of the page, with their media types."""

_HEADERS: Mapping[str, str] = {
    # Scripts and styles are those of this relay; the page calls it, and nobody else.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    hdrs.CACHE_CONTROL: "no-cache",
}


class Pages:
    """The calls that describe all calls, themselves too."""

    def __init__(self) -> None:
        self._routes: list[Route] = []
        self._written: dict[str, bytes] = {}  # by contract: the document, as it was asked for before

    def join(self, others: Sequence[Route]) -> list[Route]:
        """Return the whole table of calls: others, and those of these pages."""
        own = [
            Route("GET", DOCUMENT, None, self.document, takes_query=True),
            Route("GET", PAGE, None, self.page),
            Route("GET", PAGE + "/{file}", None, self.file),
        ]
        self._routes = [*others, *own]
        return self._routes

    @call({200: OBJECT}, query={"contract": FILLED | {"default": USUAL}})
    async def document(self, request: web.Request) -> web.StreamResponse:
        """Describe every call, and the webhooks of one contract, as OpenAPI 3.1."""
        query = Query(request, 0)
        name = query.text("contract") or USUAL
        query.check()
        if name not in self._written:  # which takes some tenths of a second, so not on the event loop
            self._written[name] = await asyncio.to_thread(self._write, name)
        return web.Response(body=self._written[name], content_type=JSON, headers=_HEADERS)

    def _write(self, name: str) -> bytes:
        """Write the document with the webhooks of a contract that comes with relay; NotFound for any other."""
        contracts = _contracts()
        contract = contracts.get(name)
        if contract is None:
            known = ", ".join(contracts.names)
            remedy = f"Take one of {known}; those of your own are described by GET /v1/event-types?format=openapi."
            raise NotFound(f"no contract {name[:64]!r} comes with relay", remedy=remedy)
        return orjson.dumps(describe(self._routes, contract))

    @call({200: _HTML})
    async def page(self, request: web.Request) -> web.StreamResponse:
        """Show the calls, to be read and tried."""
        return _file(_START)

    @call({200: _SCRIPT})
    async def file(self, request: web.Request) -> web.StreamResponse:
        """Send a file of this page."""
        name = request[PARAMETERS]["file"]
        if name == _START or name not in _KINDS:
            raise Refused(problems.nothing_here())
        return _file(name)


def _file(name: str) -> web.Response:
    return web.Response(body=_read(name), content_type=_KINDS[name], charset="utf-8", headers=_HEADERS)


@lru_cache(maxsize=1)
def _contracts() -> ContractCatalogue:
    """Load the contracts that come with relay; what others there are is nobody's business here."""
    return ContractCatalogue.load()


@lru_cache(maxsize=len(_KINDS))
def _read(name: str) -> bytes:
    return (files("relay") / "assets" / "swagger-ui" / name).read_bytes()
