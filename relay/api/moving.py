"""Moving in and out: applications and endpoints as lines of JSON, written by an export and read by an import."""

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import structlog
from aiohttp import web

from relay.api import problems, render
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import parse_definition, read
from relay.api.calls import BY_APPLICATION, FLAG, LOST_CURSOR, PAGED, call, only, page, several, word
from relay.api.lines import KINDS, LINES_MAX, SCHEMA, Lines, read_import
from relay.api.problems import Refused
from relay.api.query import application_of, page_of, page_response
from relay.api.render import Json
from relay.api.secrets import lasting, without_credentials, write_secrets
from relay.api.services import Services
from relay.api.shapes import IMPORTED, LINE
from relay.core.errors import Conflict
from relay.core.issues import Invalid, Issue
from relay.registry import (
    ApplicationDraft,
    ApplicationEntry,
    Done,
    EndpointEntry,
    Importing,
    Maker,
    Plan,
    Registry,
    WantedEndpoint,
)
from relay.telemetry import log

MISTAKES_MAX = 1_000
"""Mistakes of an import that its answer lists; the rest are counted."""


class Secrets(StrEnum):
    """Whether an export has secrets in it."""

    WITH = "true"
    WITHOUT = "false"


class Line(NamedTuple):
    """One line of an export, and its place: by application, and by endpoint within it; (0, 0) for the line before them."""

    place: tuple[int, int]
    of: ApplicationEntry | EndpointEntry | None


class Moving:
    """The calls /v1/export and /v1/import."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._registrar = services.registrar
        self._log = structlog.get_logger("relay.api")

    @call({200: page(LINE)}, query={**BY_APPLICATION, "secrets": word(Secrets), **PAGED}, refuses=LOST_CURSOR)
    async def export(self, request: web.Request) -> web.StreamResponse:
        """Write a page of lines, oldest first: each application before its endpoints. O(all that stand before the page)"""
        principal, registry = request[PRINCIPAL], self._registrar.current
        query = self._services.query(request)
        named, secrets = query.text("application"), query.word("secrets", Secrets)
        limit, cursor = query.limit(), query.text("cursor")
        query.check()
        after, only = _place(cursor), application_of(named, principal, registry)
        with_secrets, now_ms = secrets is Secrets.WITH, self._services.clock.wall_ms()
        lines = (line for line in _lines(registry, only) if line.place > after)
        page = page_of(lines, limit, lambda line: "{}-{}".format(*line.place))
        self._log.info(log.EXPORTED, by=principal.name, lines=len(page.data), secrets=with_secrets)
        return await page_response(request, page, lambda line: _written(line, now_ms, with_secrets=with_secrets))

    @call(
        {200: IMPORTED},
        body=only({"lines": several(LINE) | {"minItems": 1, "maxItems": LINES_MAX}}, {"update": FLAG, "dry_run": FLAG}),
    )
    async def import_(self, request: web.Request) -> web.StreamResponse:
        """Make all that the lines say, or nothing, and say what became of them."""
        principal = request[PRINCIPAL]
        wanted = read_import(parse_definition(await read(request)))
        reader, warnings = self._services.reader(principal), list[Issue]()

        async def plan(registry: Registry, maker: Maker) -> Plan:
            lines = Lines(reader, registry)
            importing = Importing(registry, maker, update=wanted.update)
            await lines.add_all(wanted.lines, importing)
            warnings.extend(lines.warnings)
            return importing.plan

        try:
            planned = await self._registrar.import_all(plan, dry_run=wanted.dry_run)
        except Invalid as invalid:
            raise Refused(problems.invalid(invalid.issues, MISTAKES_MAX)) from None
        counted = {f"{kind}s": _count(planned, kind) for kind in KINDS}
        if not wanted.dry_run and not planned.is_empty:
            self._log.info(log.IMPORTED, by=principal.name, **counted)
        report = {"dry_run": wanted.dry_run, "changed": not planned.is_empty} | counted
        return Answer(report | {"secrets_made": planned.secrets_made} | render.warnings(warnings))


def _lines(registry: Registry, only: str | None) -> Iterator[Line]:
    """Walk through what is there; what vanished from the file is no longer defined anywhere."""
    yield Line((0, 0), None)
    for name, owner in registry.applications.items():
        if only in (None, name) and owner.application.present:
            yield Line((owner.row.ref, 0), owner)
            yield from (
                Line((owner.row.ref, ref), registry.entries[ref])
                for ref, endpoint in owner.endpoints.items()
                if endpoint.present
            )


def _written(line: Line, now_ms: int, *, with_secrets: bool) -> Json:
    match line.of:
        case None:
            return {"relay": {"schema": SCHEMA, "exported_at": render.moment(now_ms), "secrets": with_secrets}}
        case ApplicationEntry(row=row, definition=definition):
            return {"application": {"id": row.id} | definition.to_json()}
        case EndpointEntry(endpoint=endpoint):
            secrets = write_secrets(lasting(endpoint.secrets, now_ms)) if with_secrets else None
            return {"endpoint": _endpoint(line.of, secrets)}


def _endpoint(entry: EndpointEntry, secrets: list[Json] | None) -> Json:
    row, written = entry.row, entry.definition.to_json()
    if secrets is None:
        written |= {name: without_credentials(written[name]) for name in ("tls", "auth") if name in written}
    state: Json = {"state": row.state} | ({"disabled_by": row.disabled_by} if row.disabled_by else {})
    brought = {} if secrets is None else {"secrets": secrets}
    if row.proof is not None and not row.proof.origin and not entry.endpoint.unverified:
        state["verified"] = True  # an origin was allowed to this relay, not to another one
    return {"id": row.id, "application": row.application} | written | state | brought


def _place(cursor: str | None) -> tuple[int, int]:
    """Read where a page goes on; Conflict for what is no cursor of an export."""
    if cursor is None:
        return -1, 0
    application, separator, endpoint = cursor.partition("-")
    if not separator or not all(
        part.isascii() and part.isdecimal() and len(part) <= 18 for part in (application, endpoint)
    ):
        raise Conflict("invalid_cursor", "this is no cursor of an export", remedy="Start again without it.")
    return int(application), int(endpoint)


def _count(plan: Plan, kind: str) -> dict[str, int]:
    wanted = ApplicationDraft if kind == "application" else WantedEndpoint
    done = [what for one, what in plan.done if isinstance(one, wanted)]
    return {word.value: done.count(word) for word in Done}
