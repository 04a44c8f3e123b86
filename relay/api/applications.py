"""Applications and their keys: the operator's calls."""

from functools import partial
from typing import Any

import structlog
from aiohttp import web

from relay.api import render
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import parse_definition, read, read_object, refuse_large
from relay.api.calls import LOST_CURSOR, PAGED, Definition, call, page
from relay.api.idempotency import claim_of, replayed
from relay.api.query import behind, page_of, page_response
from relay.api.render import Json
from relay.api.routing import PARAMETERS
from relay.api.services import Services
from relay.api.shapes import APPLICATION, APPLICATION_MADE, KEY, KEY_MADE
from relay.api.versions import expected, tagged
from relay.api.written import NewApplication, NewKey
from relay.config import ApplicationDefinition
from relay.config.admission import warn_endpoint, warn_tls
from relay.core.model import Application
from relay.registry import MadeApplication, resolve_limits
from relay.store import ApplicationRow, KeyRow
from relay.telemetry import log

PATH = "/v1/applications"


class Applications:
    """The calls under /v1/applications."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._registrar = services.registrar
        self._log = structlog.get_logger("relay.api")

    @call(
        {201: APPLICATION_MADE},
        body=Definition(NewApplication),
        keyed=True,
        refuses={409: ("application_exists", "endpoint_exists"), 413: ("definition_too_large",)},
    )
    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make an application, with its first endpoint and key if they are given; secret and token are in the answer."""
        principal = request[PRINCIPAL]
        text = await read(request)
        refuse_large(text, resolve_limits(None, self._services.daemon.config.limits))
        written = parse_definition(text)
        draft = self._services.reader(principal).application(written)
        made = await self._registrar.create_application(draft, claim_of(request, written))
        if not made.repeated:
            self._said_made(made, principal.name)
        row = self._row(made.application)
        headers = {"Location": f"{PATH}/{made.application.id}", **tagged(row), **replayed(made.repeated)}
        return Answer(self._detail(made.application) | self._extras(made), 201, headers)

    @call({200: page(APPLICATION)}, query=PAGED)
    async def search(self, request: web.Request) -> web.StreamResponse:
        """List applications, newest first. O(those that are newer than the cursor, and the page)"""
        query = self._services.query(request)
        limit, cursor = query.limit(), query.number("cursor")
        query.check()
        known = (entry.application for entry in reversed(tuple(self._registrar.current.applications.values())))
        wanted = (application for application in known if cursor is None or application.ref < cursor)
        return await page_response(request, page_of(wanted, limit, lambda one: str(one.ref)), self._detail)

    @call({200: APPLICATION})
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show one application."""
        application = self._find(request)
        return Answer(self._detail(application), headers=tagged(self._row(application)))

    @call(
        {200: APPLICATION},
        body=Definition(ApplicationDefinition, is_patch=True),
        refuses={409: ("managed_by_file", "contract_in_use", "no_such_contract"), 413: ("definition_too_large",)},
        is_edit=True,
    )
    async def update(self, request: web.Request) -> web.StreamResponse:
        """Change an application by a JSON merge patch (RFC 7396)."""
        principal = request[PRINCIPAL]
        text, reader = await read(request), self._services.reader(principal)
        found = self._find(request)
        check = expected(request, partial(self._row, found))
        refuse_large(text, found.limits)
        patch = parse_definition(text)

        def revise(present: ApplicationDefinition) -> ApplicationDefinition:
            check()
            return reader.revised_application(present, patch, found.limits)

        application = await self._registrar.update_application(found.id, revise)
        self._said(log.APPLICATION_UPDATED, principal.name, application, fields=sorted(patch))
        return Answer(self._detail(application), headers=tagged(self._row(application)))

    @call({204: None}, refuses={409: ("managed_by_file",)}, is_edit=True)
    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete an application with its endpoints and keys; what was due is cancelled."""
        principal = request[PRINCIPAL]
        application = self._find(request)
        await self._registrar.delete_application(application.id, expected(request, partial(self._row, application)))
        self._said(log.APPLICATION_DELETED, principal.name, application)
        return web.Response(status=204)

    @call({200: page(KEY)}, query=PAGED, refuses=LOST_CURSOR)
    async def list_keys(self, request: web.Request) -> web.StreamResponse:
        """List the keys of an application, newest first; never their tokens."""
        query = self._services.query(request)
        limit, cursor = query.limit(), query.text("cursor")
        query.check()
        keys = reversed(tuple(self._registrar.current.application(self._find(request).id).keys.values()))
        page = page_of(behind(cursor, keys, _cursor), limit, _cursor)
        return await page_response(request, page, self._key)

    @call({201: KEY_MADE}, body=Definition(NewKey), keyed=True, refuses={409: ("too_many_keys",)})
    async def create_key(self, request: web.Request) -> web.StreamResponse:
        """Make a key; the token is in this answer only."""
        principal = request[PRINCIPAL]
        application = self._find(request)
        written = await read_object(request)
        draft = self._services.reader(principal).key(written)
        key, token, repeated = await self._registrar.create_key(application.id, draft, claim_of(request, written))
        if not repeated:
            self._said(log.KEY_CREATED, principal.name, application, key=key.id)
        return Answer(self._key(key) | {"token": token}, 201, replayed(repeated))

    @call({204: None})
    async def revoke_key(self, request: web.Request) -> web.StreamResponse:
        """Revoke a key: from now on nobody gets in with it."""
        principal = request[PRINCIPAL]
        application, key_id = self._find(request), request[PARAMETERS]["key"]
        await self._registrar.revoke_key(application.id, key_id)
        self._said(log.KEY_REVOKED, principal.name, application, key=key_id)
        return web.Response(status=204)

    def _find(self, request: web.Request) -> Application:
        return self._registrar.current.application(request[PARAMETERS]["id"]).application

    def _row(self, application: Application) -> ApplicationRow:
        return self._registrar.current.application(application.id).row

    def _detail(self, application: Application) -> Json:
        entry = self._registrar.current.application(application.id)
        promised = self._registrar.current.contract(application).features
        usage = self._services.store.usage(application.ref)._asdict()
        counts = {"endpoints": len(entry.endpoints), "keys": len(entry.keys), "usage": usage}
        return render.application(entry, promised) | counts

    def _key(self, key: KeyRow) -> Json:
        return render.key(key, self._services.clock.wall_ms())

    def _extras(self, made: MadeApplication) -> dict[str, Any]:
        """Write what came with a new application. A token is shown here and never again."""
        extras: dict[str, Any] = {}
        if made.endpoint is not None:
            contract, endpoint = self._registrar.current.contract(made.application), made.endpoint.endpoint
            extras["endpoint"] = render.endpoint(endpoint, plain=True) | {"secret": made.endpoint.secret}
            tls = self._registrar.current.entries[endpoint.ref].definition.tls
            found = [
                *warn_endpoint(endpoint.url, endpoint.event_types, contract),
                *warn_tls(tls, self._services.clock.wall_ms()),
            ]
            extras |= render.warnings(found, where="/endpoint")
        if made.key is not None:
            extras["key"] = self._key(made.key.key) | {"token": made.key.token}
        return extras

    def _said_made(self, made: MadeApplication, by: str) -> None:
        self._said(log.APPLICATION_CREATED, by, made.application)
        if made.endpoint is not None:
            self._log.info(log.ENDPOINT_CREATED, endpoint=made.endpoint.endpoint.id, by=by)
        if made.key is not None:
            self._said(log.KEY_CREATED, by, made.application, key=made.key.key.id)

    def _said(self, event: str, by: str, application: Application, **facts: Any) -> None:
        self._log.info(event, application=application.id, by=by, **facts)


def _cursor(key: KeyRow) -> str:
    return key.id
