"""Moving in and out: applications and endpoints as lines of JSON, written by an export and read by an import."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import orjson
import structlog
from aiohttp import web

from relay.api import problems, render
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import read_object, unknown_members
from relay.api.problems import Refused
from relay.api.query import application_of, page_of, page_response
from relay.api.render import Json
from relay.api.secrets import lasting, write_secrets
from relay.api.services import Services
from relay.api.written import Owner, Reader
from relay.config.admission import warn_endpoint
from relay.core.errors import Conflict
from relay.core.issues import Invalid, Issue, pointer
from relay.core.model import Limits
from relay.core.units import format_size
from relay.registry import ApplicationEntry, Done, Importing, Plan, Registry, WantedEndpoint, resolve_limits
from relay.registry.making import ApplicationDraft, Maker
from relay.registry.registry import EndpointEntry
from relay.telemetry import log

SCHEMA = 1
"""The version of the lines, which the first one names."""

LINES_MAX = 10_000
"""Lines of one import."""

MISTAKES_MAX = 1_000
"""Mistakes of an import that its answer lists; the rest are counted."""

_BREATH = 20
"""Lines that are read before other requests get a turn."""

_KINDS = ("application", "endpoint")


class Secrets(StrEnum):
    """Whether an export has secrets in it."""

    WITH = "true"
    WITHOUT = "false"


class Line(NamedTuple):
    """One line of an export, and its place: by application, and by endpoint within it; 0 for the line before them."""

    place: tuple[int, int]
    written: Json


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What an import asks for."""

    lines: Sequence[Any]
    update: bool
    dry_run: bool


class Moving:
    """The calls /v1/export and /v1/import."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._registrar = services.registrar
        self._log = structlog.get_logger("relay.api")

    async def export(self, request: web.Request) -> web.StreamResponse:
        """Write a page of lines, oldest first: each application before its endpoints. O(all that stand before the page)"""
        principal, registry = request[PRINCIPAL], self._registrar.current
        query = self._services.query(request)
        named, secrets = query.text("application"), query.word("secrets", Secrets)
        limit, cursor = query.limit(), query.text("cursor")
        query.check()
        after, only = _place(cursor), application_of(named, principal, registry)
        with_secrets, now_ms = secrets is Secrets.WITH, self._services.clock.wall_ms()
        lines = (line for line in _lines(registry, only, now_ms, with_secrets=with_secrets) if line.place > after)
        page = page_of(lines, limit, lambda line: "{}-{}".format(*line.place))
        self._log.info(log.EXPORTED, by=principal.name, lines=len(page.data), secrets=with_secrets)
        return await page_response(request, page, lambda line: line.written)

    async def import_(self, request: web.Request) -> web.StreamResponse:
        """Make all that the lines say, or nothing, and say what became of them."""
        principal = request[PRINCIPAL]
        wanted = _request(await read_object(request))
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
        counted = {f"{kind}s": _count(planned, kind) for kind in _KINDS}
        if not wanted.dry_run and not planned.is_empty:
            self._log.info(log.IMPORTED, by=principal.name, **counted)
        report = {"dry_run": wanted.dry_run, "changed": not planned.is_empty} | counted
        return Answer(report | {"secrets_made": planned.secrets_made} | render.warnings(warnings))


# -- out ----------------------------------------------------------------------------------------------------------------


def _lines(registry: Registry, only: str | None, now_ms: int, *, with_secrets: bool) -> Iterator[Line]:
    """Walk through what is there; what vanished from the file is no longer defined anywhere."""
    yield Line((0, 0), {"relay": {"schema": SCHEMA, "exported_at": render.moment(now_ms), "secrets": with_secrets}})
    for name, owner in registry.applications.items():
        if only in (None, name) and owner.application.present:
            yield Line((owner.row.ref, 0), {"application": _application(owner)})
            for ref, endpoint in owner.endpoints.items():
                if endpoint.present:
                    secrets = write_secrets(lasting(endpoint.secrets, now_ms)) if with_secrets else None
                    yield Line((owner.row.ref, ref), {"endpoint": _endpoint(registry.entries[ref], secrets)})


def _application(owner: ApplicationEntry) -> Json:
    return {"id": owner.row.id} | owner.definition.to_json()


def _endpoint(entry: EndpointEntry, secrets: list[Json] | None) -> Json:
    written = entry.definition.to_json()
    if secrets is None and "tls" in written:
        written["tls"] = {name: text for name, text in written["tls"].items() if name != "client_key"}
    row = entry.row
    state = {"state": row.state} | ({"disabled_by": row.disabled_by} if row.disabled_by else {})
    brought = {} if secrets is None else {"secrets": secrets}
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


# -- in -----------------------------------------------------------------------------------------------------------------


def _request(written: Mapping[str, Any]) -> ImportRequest:
    """Read the members of an import; Invalid with every mistake."""
    issues = unknown_members(written, ["lines", "update", "dry_run"])
    lines = written.get("lines")
    if not isinstance(lines, list) or not lines:
        issues.append(Issue("/lines", "must be a list of lines, as an export writes them"))
    elif len(lines) > LINES_MAX:
        issues.append(Issue("/lines", f"has {len(lines):,} lines; there may be {LINES_MAX:,}: import them in parts"))
    elif fault := _header_fault(lines[0]):
        issues.append(Issue("/lines/0", fault))
    for name in ("update", "dry_run"):
        if not isinstance(written.get(name, False), bool):
            issues.append(Issue(pointer(name), "must be true or false"))
    if issues:
        raise Invalid(issues)
    return ImportRequest(lines or (), written.get("update", False), written.get("dry_run", False))


def _header_fault(line: Any) -> str | None:
    header = line.get("relay") if isinstance(line, Mapping) else None
    schema = header.get("schema") if isinstance(header, Mapping) else None
    if schema is None:
        return f'the first line says how the others are to be read; it is {{"relay": {{"schema": {SCHEMA}}}}}'
    if schema != SCHEMA or isinstance(schema, bool):
        return f"this relay reads lines of schema {SCHEMA}, and these are of another; export them with this version"
    return None


class Lines:
    """Reads the lines of one import. Owner of whose application each endpoint is."""

    def __init__(self, reader: Reader, registry: Registry) -> None:
        self.warnings: list[Issue] = []
        self._reader = reader
        self._registry = registry
        self._owners: dict[str, Owner | None] = {}  # applications of this import; None: what its line says is wrong

    async def add_all(self, lines: Sequence[Any], importing: Importing) -> None:
        """Read applications, then endpoints, and hand them to a plan."""
        issues = importing.plan.issues
        for index, line in enumerate(lines[1:], start=1):
            if not (isinstance(line, Mapping) and len(line) == 1 and isinstance(next(iter(line.values())), Mapping)):
                issues.append(Issue(pointer("lines", index), 'must be {"application": {…}} or {"endpoint": {…}}'))
            elif (unknown := next(iter(line))) not in _KINDS:
                issues.append(Issue(pointer("lines", index, unknown[:64]), "is neither an application nor an endpoint"))
        for kind, read in (("application", self._application), ("endpoint", self._endpoint)):
            for index, line in enumerate(lines):
                written = line.get(kind) if isinstance(line, Mapping) and len(line) == 1 else None
                if isinstance(written, Mapping):
                    where = pointer("lines", index, kind)
                    wanted, wrong = read(written)
                    issues += (replace(issue, path=where + issue.path) for issue in wrong)
                    if wanted is not None:
                        importing.add(where, wanted)
                        self._warn(where, wanted)
                if index % _BREATH == 0:
                    await asyncio.sleep(0)

    def _application(self, written: Mapping[str, Any]) -> tuple[ApplicationDraft | None, list[Issue]]:
        draft, issues = self._reader.imported_application(written)
        if isinstance(written.get("id"), str):
            self._owners[written["id"]] = None if draft is None else draft.definition
        return draft, issues + self._too_large(written, None if draft is None else draft.definition)

    def _endpoint(self, written: Mapping[str, Any]) -> tuple[WantedEndpoint | None, list[Issue]]:
        name = written.get("application")
        named = name if isinstance(name, str) else ""
        owner = self._owner(named)
        wanted, issues = self._reader.imported_endpoint(self._with_key(written), owner)
        issues = issues + self._too_large(written, owner)
        if owner is None and named and named not in self._owners:
            issues.append(Issue("/application", f"there is no application {named[:64]!r}, and no line that makes it"))
        return (wanted if owner is not None and not issues else None), issues

    def _owner(self, name: str) -> Owner | None:
        if name in self._owners:
            return self._owners[name]
        known = self._registry.applications.get(name)
        return known.application if known is not None and known.application.present else None

    def _with_key(self, written: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put the client key of the endpoint that is there into a line that has its certificate alone, as exports write it."""
        tls, known = written.get("tls"), self._registry.endpoints.get(str(written.get("id")))
        if not isinstance(tls, Mapping) or "client_key" in tls or known is None:
            return written
        present = self._registry.entries[known.ref].definition.to_json().get("tls", {})
        if "client_cert" not in tls or tls["client_cert"] != present.get("client_cert"):
            return written
        return {**written, "tls": {**tls, "client_key": present["client_key"]}}

    def _too_large(self, written: Mapping[str, Any], owner: Owner | None) -> list[Issue]:
        """Say when a line has more bytes than a definition of its application may have."""
        limits = None if owner is None else owner.limits
        shared = self._reader.config.limits
        resolved = (
            limits.definition_bytes if isinstance(limits, Limits) else resolve_limits(limits, shared).definition_bytes
        )
        size = len(orjson.dumps(dict(written)))
        return (
            [Issue("", f"has {size} bytes; it may have {format_size(resolved)} (limits.definition)")]
            if size > resolved
            else []
        )

    def _warn(self, where: str, wanted: ApplicationDraft | WantedEndpoint) -> None:
        if isinstance(wanted, WantedEndpoint):
            owner, definition = self._owner(wanted.application), wanted.draft.definition
            contract = None if owner is None else self._reader.contracts.get(owner.contract)
            found = warn_endpoint(definition.url, definition.event_types, contract)
            self.warnings += (replace(issue, path=where + issue.path) for issue in found)


def _count(plan: Plan, kind: str) -> dict[str, int]:
    wanted = ApplicationDraft if kind == "application" else WantedEndpoint
    done = [what for one, what in plan.done if isinstance(one, wanted)]
    return {word.value: done.count(word) for word in Done}
