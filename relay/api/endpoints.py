"""Webhook endpoints: made, looked at, changed, paused, tested."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from relay.api import body, problems, render, sampling
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import parse_definition, read_nothing, read_object, refuse_large
from relay.api.calls import ANY, BY_APPLICATION, NOTHING, PAGED, TEXT, Definition, call, maybe, only, page, word
from relay.api.certificates import write_certificate
from relay.api.condition import Line, Word, look_at, what_hinders, write_work
from relay.api.disclosure import health_for, is_behind_a_name, next_step_ms, said_to, sight_of, trial_for
from relay.api.idempotency import claim_of, replayed
from relay.api.problems import Refused
from relay.api.query import application_of, page_of, page_response
from relay.api.render import Json
from relay.api.routing import PARAMETERS
from relay.api.secrets import lasting, read_rotation, write_secrets
from relay.api.services import Services
from relay.api.shapes import (
    ENDPOINT,
    ENDPOINT_ASKED,
    ENDPOINT_CHANGED,
    ENDPOINT_MADE,
    ENDPOINT_MOVED,
    ENDPOINT_PROBED,
    ENDPOINT_RETRIED,
    ENDPOINT_SECRETS,
    TESTED,
)
from relay.api.testing import TestCalls, for_client
from relay.api.versions import expected, tagged
from relay.api.written import NewEndpoint
from relay.config import EndpointDefinition
from relay.config.admission import warn_endpoint, warn_tls
from relay.core.access import Principal, Right, Role
from relay.core.errors import Conflict, NotFound, RelayError, spoken
from relay.core.issues import Invalid, Issue
from relay.core.model import Application, Endpoint, EndpointState
from relay.core.verification import Method, Proof
from relay.intake.parse import screen
from relay.registry import resolve_limits
from relay.store import EndpointRow, delivery_id
from relay.telemetry import log

PATH = "/v1/webhook-endpoints"
RETRIED_MAX = 10_000
"""Deliveries that one call of `retry-now` makes due, roughly; its answer says whether there are more."""

UNCACHED = {"Cache-Control": "no-store"}

ROTATION = only({}, {"overlap": TEXT, "secret": maybe(TEXT)})

_CHANGED: Mapping[int, tuple[str, ...]] = {
    403: ("operator_only",),
    409: ("managed_by_file",),
    413: ("definition_too_large",),
}
_MADE: Mapping[int, tuple[str, ...]] = {
    **_CHANGED,
    409: ("application_required", "endpoint_exists", "too_many_endpoints"),
}


class Endpoints:
    """The calls under /v1/webhook-endpoints."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._registrar = services.registrar
        self._tests = TestCalls(services.clock.mono_ms)
        self._log = structlog.get_logger("relay.api")

    @call({201: ENDPOINT_MADE}, body=Definition(NewEndpoint, beside=BY_APPLICATION), keyed=True, refuses=_MADE)
    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make an endpoint; its secret is in the answer."""
        principal = request[PRINCIPAL]
        text = await body.read(request)
        if principal.application is not None:  # else it stands in the text whose limits hold
            refuse_large(text, self._registrar.current.application(principal.application).application.limits)
        written = parse_definition(text)
        claim = claim_of(request, written)
        named = written.pop("application", None)  # whose endpoint it is, rather than how it is
        try:
            application = self._owner(principal, named)
        except RelayError as refusal:
            refuse_large(text, resolve_limits(None, self._services.daemon.config.limits))
            others = self._services.reader(principal).endpoint_mistakes(written)
            first = refusal.issues if isinstance(refusal, Invalid) else (Issue("/application", spoken(refusal)),)
            raise Invalid([*first, *others]) if others else refusal from None
        refuse_large(text, application.limits)
        self._refuse_self_service(principal, application)
        draft = self._services.reader(principal).endpoint(written, application)
        endpoint, secret, repeated = await self._registrar.create_endpoint(application, draft, claim)
        if not repeated:
            self._said(log.ENDPOINT_CREATED, endpoint, principal)
        answer = self._detail(endpoint, principal) | self._warnings(endpoint) | {"secret": secret}
        headers = {"Location": f"{PATH}/{endpoint.id}", **self._tagged(endpoint), **replayed(repeated)}
        return Answer(answer, 201, headers)

    def _owner(self, principal: Principal, named: Any) -> Application:
        """Return whose endpoint it will be; RelayError where that is not known."""
        if named is not None and not isinstance(named, str):
            raise Invalid([Issue("/application", "must be the id of an application")])
        return self._registrar.current.application_for(principal, named)

    @call({200: page(ENDPOINT)}, query={**BY_APPLICATION, "state": word(Word), **PAGED})
    async def search(self, request: web.Request) -> web.StreamResponse:
        """List endpoints, newest first. O(those of the application that are newer than the cursor, and the page)"""
        principal = request[PRINCIPAL]
        query = self._services.query(request)
        named, state = query.text("application"), query.word("state", Word)
        limit, cursor = query.limit(), query.number("cursor")
        query.check()
        owned = self._owned(application_of(named, principal, self._registrar.current))
        wanted = (one for one in owned if self._stands(one, state) and (cursor is None or one.ref < cursor))
        return await page_response(
            request, page_of(wanted, limit, lambda one: str(one.ref)), lambda one: self._detail(one, principal)
        )

    def _stands(self, endpoint: Endpoint, word: Word | None) -> bool:
        return word is None or look_at(self._services, endpoint).word == word

    def _owned(self, application: str | None) -> Iterator[Endpoint]:
        """Walk through the endpoints of an application, or of all, newest first."""
        registry = self._registrar.current
        if application is None:
            return reversed(tuple(registry.endpoints.values()))
        entry = registry.applications.get(application)
        return iter(()) if entry is None else reversed(tuple(entry.endpoints.values()))

    @call({200: ENDPOINT})
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show one endpoint."""
        principal = request[PRINCIPAL]
        endpoint = self._find(request, principal)
        return Answer(self._detail(endpoint, principal), headers=self._tagged(endpoint))

    @call({200: ENDPOINT_CHANGED}, body=Definition(EndpointDefinition, is_patch=True), refuses=_CHANGED, is_edit=True)
    async def update(self, request: web.Request) -> web.StreamResponse:
        """Change an endpoint by a JSON merge patch (RFC 7396)."""
        check = expected(request, partial(self._row, request[PARAMETERS]["id"]))
        principal = request[PRINCIPAL]
        before = self._find(request, principal)
        self._refuse_self_service(principal, before.application, before)
        text = await body.read(request)
        refuse_large(text, before.application.limits)
        patch = parse_definition(text)
        reader, owner = self._services.reader(principal), before.application

        def revise(present: EndpointDefinition) -> EndpointDefinition:
            check()
            return reader.revised_endpoint(present, patch, owner)

        endpoint = await self._registrar.update_endpoint(before.id, revise)
        self._said(log.ENDPOINT_UPDATED, endpoint, principal, fields=sorted(patch))
        # A contract that signs, after one that did not, has brought a secret along.
        made = {"secret": endpoint.secrets[0].value} if endpoint.secrets and not before.secrets else {}
        answer = self._detail(endpoint, principal) | self._warnings(endpoint) | made
        return Answer(answer, headers=self._tagged(endpoint))

    @call({204: None}, refuses={403: ("operator_only",), 409: ("managed_by_file",)}, is_edit=True)
    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Delete an endpoint; what was due for it is cancelled."""
        principal = request[PRINCIPAL]
        endpoint = self._find(request, principal)
        self._refuse_self_service(principal, endpoint.application, endpoint)
        await self._registrar.delete_endpoint(endpoint.id, expected(request, partial(self._row, endpoint.id)))
        self._said(log.ENDPOINT_DELETED, endpoint, principal)
        return web.Response(status=204)

    @call({200: ENDPOINT_MOVED}, body=NOTHING, refuses={409: ("endpoint_disabled",)})
    async def pause(self, request: web.Request) -> web.StreamResponse:
        """Hold deliveries; new events go on to create them (Q9)."""
        return await self._move(request, self._registrar.pause, log.ENDPOINT_PAUSED)

    @call({200: ENDPOINT_MOVED}, body=NOTHING, refuses={409: ("endpoint_disabled",)})
    async def resume(self, request: web.Request) -> web.StreamResponse:
        """End a pause."""
        return await self._move(request, self._registrar.resume, log.ENDPOINT_RESUMED)

    @call({200: ENDPOINT_MOVED}, body=NOTHING)
    async def enable(self, request: web.Request) -> web.StreamResponse:
        """End a disable."""
        return await self._move(request, self._registrar.enable, log.ENDPOINT_ENABLED)

    @call({200: ENDPOINT_MOVED}, body=NOTHING)
    async def disable(self, request: web.Request) -> web.StreamResponse:
        """Hold deliveries and let new events create none (Q9)."""
        return await self._move(request, self._registrar.disable, log.ENDPOINT_DISABLED)

    @call({200: ENDPOINT_MADE}, body=ROTATION, keyed=True, refuses={409: ("managed_by_file", "unsigned_contract")})
    async def rotate_secret(self, request: web.Request) -> web.StreamResponse:
        """Make a new secret, or take the one an admin brings; it is in the answer. The old ones sign along for `overlap`."""
        principal = request[PRINCIPAL]
        endpoint = self._find(request, principal)
        written = await read_object(request)
        wanted = read_rotation(written, brings=principal.may(Right.ADMINISTER))
        claim = claim_of(request, written)
        endpoint, secret, repeated = await self._registrar.rotate_secret(endpoint.id, *wanted, claim)
        if not repeated:
            self._said(log.ENDPOINT_ROTATED, endpoint, principal)
        return Answer(self._detail(endpoint, principal) | {"secret": secret}, headers=replayed(repeated))

    @call({200: ENDPOINT_SECRETS})
    async def secret(self, request: web.Request) -> web.StreamResponse:
        """Show what signs for an endpoint, in clear; the log says who asked."""
        principal = request[PRINCIPAL]
        endpoint = self._find(request, principal)
        self._said(log.ENDPOINT_DISCLOSED, endpoint, principal)
        secrets = write_secrets(lasting(endpoint.secrets, self._services.clock.wall_ms()))
        newest = secrets[0]["secret"] if secrets else None
        return Answer({"endpoint": endpoint.id, "secret": newest, "secrets": secrets}, headers=UNCACHED)

    @call(
        {200: TESTED},
        body=only({}, {"type": TEXT, "data": ANY}),
        refuses={409: ("not_configured",), 422: ("lossy_number",), 429: ("too_many_tests",)},
    )
    async def test(self, request: web.Request) -> web.StreamResponse:
        """Send one event to this endpoint alone, now, and answer with the outcome; nothing is stored or retried."""
        principal = request[PRINCIPAL]
        endpoint = self._find(request, principal)
        _refuse_vanished(endpoint)
        application, contract = endpoint.application, self._registrar.current.contract_of(endpoint)
        self._tests.refuse_more(application)  # before the work of making one
        written = await body.read(request)
        screen(written, self._services.daemon.config.server.max_depth)
        catalogue = self._registrar.current.contract(application)
        sample = sampling.read_sample(written, contract, catalogue, application, endpoint.id)
        event_id, now_ms = self._services.ids.new("evt"), self._services.clock.wall_ms()
        event = sampling.freeze(sample, contract, application, event_id, now_ms)
        sight = sight_of(principal, self._registrar.current, endpoint.id)
        with self._tests.admitted(application):
            began_ms = self._services.clock.mono_ms()
            outcome = await for_client(request, self._services.dispatch.attempts.test(endpoint, event))
            if is_behind_a_name(outcome.failure) and not sight.network:
                await for_client(request, self._wait_for_step(began_ms))
        named = {"endpoint": endpoint.id, "event_id": event.id, "event_type": event.type}
        return Answer(named | sight.attempt(render.outcome(outcome)) | render.warnings(sample.warnings))

    @call(
        {200: ENDPOINT_ASKED},
        body=NOTHING,
        refuses={409: ("nothing_to_verify", "no_origin", "not_configured"), 429: ("too_many_tests",)},
    )
    async def verify(self, request: web.Request) -> web.StreamResponse:
        """Ask a receiver now whether it wants events; what it agreed to before, no answer takes back."""
        principal = request[PRINCIPAL]
        endpoint = self._find(request, principal)
        _refuse_vanished(endpoint)
        if endpoint.verification is Method.NONE:
            raise Conflict(
                "nothing_to_verify",
                f"endpoint {endpoint.id!r} takes events without being asked",
                remedy='To have it asked, set its verification to "challenge", "options" or "ping".',
            )
        await read_nothing(request)
        sight, verifier = sight_of(principal, self._registrar.current, endpoint.id), self._services.verifier
        with self._tests.admitted(endpoint.application):
            began_ms = self._services.clock.mono_ms()
            asked = await for_client(request, verifier.put(endpoint))
            if is_behind_a_name(asked.outcome.failure) and not sight.network:
                await for_client(request, self._wait_for_step(began_ms))
        said = (await verifier.conclude(endpoint, asked)).said
        agreed = isinstance(said, Proof)
        self._said(log.ENDPOINT_ASKED, endpoint, principal, agreed=agreed)
        endpoint = self._find(request, principal)
        attempt = sight.attempt(render.outcome(asked.outcome))
        note = None if isinstance(said, Proof) else said_to(principal, said, asked.outcome.failure)
        return Answer(self._detail(endpoint, principal) | {"agreed": agreed, "note": note, "attempt": attempt})

    async def _wait_for_step(self, began_ms: float) -> None:
        """Let the time that an answer takes tell a tenant no more than the answer does."""
        took_ms = self._services.clock.mono_ms() - began_ms
        await self._services.clock.wait(asyncio.Event(), next_step_ms(took_ms) - took_ms)

    def _find(self, request: web.Request, principal: Principal) -> Endpoint:
        endpoint_id = request[PARAMETERS]["id"]
        endpoint = self._registrar.current.endpoints.get(endpoint_id)
        if endpoint is None or not principal.sees(endpoint.application.id):
            raise NotFound(f"no endpoint {endpoint_id[:64]!r}", remedy="List them with GET /v1/webhook-endpoints.")
        return endpoint

    def _row(self, endpoint_id: str) -> EndpointRow:
        registry = self._registrar.current
        return registry.entries[registry.endpoint(endpoint_id).ref].row

    def _tagged(self, endpoint: Endpoint) -> Mapping[str, str]:
        return tagged(self._row(endpoint.id))

    def _refuse_self_service(
        self, principal: Principal, application: Application, endpoint: Endpoint | None = None
    ) -> None:
        """Under some contracts, its application's or its own, an endpoint is the operator's business (ROT-4, VAI-4, WOC-2)."""
        registry = self._registrar.current
        for contract in (registry.contract(application), *((registry.contract_of(endpoint),) if endpoint else ())):
            if principal.role is Role.APPLICATION and not contract.registration.self_service:
                raise Refused(problems.operator_only(contract.name))

    def _warnings(self, endpoint: Endpoint) -> Json:
        contract = self._registrar.current.contract(endpoint.application)
        now_ms, tls = self._services.clock.wall_ms(), self._registrar.current.entries[endpoint.ref].definition.tls
        found = [*warn_endpoint(endpoint.url, endpoint.event_types, contract), *warn_tls(tls, now_ms)]
        return render.warnings(found)

    @call({200: ENDPOINT_PROBED}, body=NOTHING, refuses={409: ("not_due",)})
    async def probe(self, request: web.Request) -> web.StreamResponse:
        """Make the oldest delivery that is due go out now, past cool-down and `Retry-After`, as a retry by hand does."""
        principal = request[PRINCIPAL]
        found = self._find(request, principal)
        await read_nothing(request)
        oldest = [] if found.held else await self._services.store.audit_due(found.ref, 1)
        probed = [delivery_id((await self._services.dispatch.retry(delivery_id(row.key))).key) for row in oldest]
        self._said(log.ENDPOINT_PROBED, found, principal, delivery=next(iter(probed), None))
        endpoint = self._find(request, principal)
        idle = f"Nothing is due to it. `relay endpoint test {endpoint.id}` sends a test event."
        note = self._hindered(endpoint, principal) if endpoint.held else None if probed else idle
        answer = {"changed": bool(probed), "delivery": next(iter(probed), None), "note": note}
        return Answer(self._detail(endpoint, principal) | answer)

    @call({200: ENDPOINT_RETRIED}, body=NOTHING)
    async def retry_now(self, request: web.Request) -> web.StreamResponse:
        """Make what is due later due now, past cool-down and `Retry-After`, which end; a `deliver_at` keeps its time."""
        principal = request[PRINCIPAL]
        found = self._find(request, principal)
        await read_nothing(request)
        moved, more = await self._services.dispatch.retry_endpoint(found.ref, RETRIED_MAX)
        self._said(log.ENDPOINT_RETRIED, found, principal, moved=moved)
        endpoint = self._find(request, principal)
        note = self._hindered(endpoint, principal)
        return Answer(self._detail(endpoint, principal) | {"moved": moved, "more": more, "note": note})

    async def _move(
        self, request: web.Request, move: Callable[[str], Awaitable[bool]], event: str
    ) -> web.StreamResponse:
        principal = request[PRINCIPAL]
        found = self._find(request, principal)
        await read_nothing(request)
        changed = await move(found.id)
        endpoint = self._find(request, principal)
        if changed:
            self._said(event, endpoint, principal)
        note = self._hindered(endpoint, principal) if not changed or endpoint.state is EndpointState.ENABLED else None
        return Answer(self._detail(endpoint, principal) | {"changed": changed, "note": note})

    def _hindered(self, endpoint: Endpoint, principal: Principal) -> str | None:
        line = self._line(endpoint, principal)
        last_failure = health_for(principal, render.health(line.lane.health))["last_failure"] or ""
        return what_hinders(line, last_failure, self._services.clock.wall_ms())

    def _detail(self, endpoint: Endpoint, principal: Principal) -> Json:
        written = render.endpoint(endpoint, plain=principal.may(Right.SEE_CREDENTIALS))
        work = write_work(self._line(endpoint, principal))
        shown = write_certificate(self._services, endpoint)
        contract = self._registrar.current.contract_of(endpoint)
        keys = contract.public_keys(lasting(endpoint.secrets, self._services.clock.wall_ms()))
        return written | shown | work | {"public_keys": keys, "health": health_for(principal, work["health"])}

    def _line(self, endpoint: Endpoint, principal: Principal) -> Line:
        """Put together how an endpoint stands, as far as a caller may see it."""
        line = look_at(self._services, endpoint)
        blocked = line.blocked and principal.may(Right.SEE_NETWORK)
        return replace(line, blocked=blocked, trial=trial_for(principal, line.trial))

    def _said(self, event: str, endpoint: Endpoint, principal: Principal, **facts: Any) -> None:
        self._log.info(event, endpoint=endpoint.id, by=principal.name, **facts)


def _refuse_vanished(endpoint: Endpoint) -> None:
    """Raise Conflict for an endpoint that no request is made for, because it is no longer in the file."""
    if not (endpoint.present and endpoint.application.present):
        raise Conflict(
            "not_configured",
            f"endpoint {endpoint.id!r} is no longer in the configuration file",
            remedy="Put it back there and reload.",
        )
