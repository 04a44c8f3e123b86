"""The lines of an import, read: applications and endpoints as the calls that make them take them, with ids and states."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from relay.api.body import unknown_members
from relay.api.secrets import without_credentials
from relay.api.written import Owner, Reader
from relay.config.admission import warn_endpoint
from relay.core.issues import Invalid, Issue, pointer
from relay.core.model import Limits
from relay.core.units import format_size
from relay.registry import ApplicationDraft, Importing, Registry, WantedEndpoint, resolve_limits

SCHEMA = 1
"""The version of the lines, which the first one names."""

LINES_MAX = 10_000
"""Lines of one import."""

KINDS = ("application", "endpoint")

_BREATH = 10
"""Lines that are read before other requests get a turn."""


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """What an import asks for."""

    lines: Sequence[Any] = field(repr=False)
    update: bool
    dry_run: bool


def read_import(written: Mapping[str, Any]) -> ImportRequest:
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
            elif (unknown := next(iter(line))) not in KINDS:
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
        wanted, issues = self._reader.imported_endpoint(self._completed(written), owner)
        issues = issues + self._too_large(written, owner)
        if owner is None and named and named not in self._owners:
            issues.append(Issue("/application", f"there is no application {named[:64]!r}, and no line that makes it"))
        return (wanted if owner is not None and not issues else None), issues

    def _owner(self, name: str) -> Owner | None:
        if name in self._owners:
            return self._owners[name]
        known = self._registry.applications.get(name)
        return known.application if known is not None and known.application.present else None

    def _completed(self, written: Mapping[str, Any]) -> Mapping[str, Any]:
        """Put the credentials of the endpoint that is there into a line without them, as exports write it.

        A client key belongs to the certificate beside it, and what else authenticates to all that stands around it.
        """
        known = self._registry.endpoints.get(str(written.get("id")))
        if known is None:
            return written
        present = self._registry.entries[known.ref].definition.to_json()
        return {**written, **_completed_tls(written, present), **_completed_auth(written, present)}

    def _too_large(self, written: Mapping[str, Any], owner: Owner | None) -> list[Issue]:
        """Say when a line has more bytes than a definition of its application may have."""
        limits = None if owner is None else owner.limits
        if not isinstance(limits, Limits):
            limits = resolve_limits(limits, self._reader.config.limits)
        size, most = len(orjson.dumps(dict(written), default=str)), limits.definition_bytes
        sentence = f"has {size} bytes; it may have {format_size(most)} (limits.definition)"
        return [Issue("", sentence)] if size > most else []

    def _warn(self, where: str, wanted: ApplicationDraft | WantedEndpoint) -> None:
        if isinstance(wanted, WantedEndpoint):
            owner, definition = self._owner(wanted.application), wanted.draft.definition
            contract = None if owner is None else self._reader.contracts.get(owner.contract)
            found = warn_endpoint(definition.url, definition.event_types, contract)
            self.warnings += (replace(issue, path=where + issue.path) for issue in found)


def _completed_tls(written: Mapping[str, Any], present: Mapping[str, Any]) -> Mapping[str, Any]:
    tls, own = written.get("tls"), present.get("tls", {})
    if not isinstance(tls, Mapping) or "client_key" in tls or "client_key" not in own:
        return {}
    is_same = tls.get("client_cert") == own["client_cert"]
    return {"tls": {**tls, "client_key": own["client_key"]}} if is_same else {}


def _completed_auth(written: Mapping[str, Any], present: Mapping[str, Any]) -> Mapping[str, Any]:
    auth, own = written.get("auth"), present.get("auth", {})
    return {"auth": own} if auth and auth == without_credentials(own) else {}
