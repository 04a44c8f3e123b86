"""The daemon itself: health, readiness, status, metrics, reload."""

import asyncio
import heapq
from collections.abc import Sequence
from dataclasses import asdict

import structlog
from aiohttp import hdrs, web

from relay import __version__
from relay.api import certificates
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import read_nothing
from relay.api.calls import NOTHING, TEXT, call, members
from relay.api.condition import Line, Word, at_rest_warnings, warnings, worst, write_work
from relay.api.problems import Refused
from relay.api.readiness import Closed, why_closed
from relay.api.reloads import invalid_config, write_reload
from relay.api.render import Json, moment
from relay.api.replays import write_unfinished
from relay.api.services import Services
from relay.api.shapes import READINESS, REKEYED, RELOADED, STATUS
from relay.api.survey import Survey, Words, survey
from relay.api.troubles import drift, headline, troubles
from relay.intake import Room, say_full, tightest
from relay.registry.vanished import vanished
from relay.telemetry import log
from relay.telemetry.metrics import Readings

FULL_NAMED = 5
"""Applications near to their limits that a status names."""

LINES_MAX = 250
"""Endpoints that a status lists; those that fail or wait most come first."""


class Status:
    """The calls about the daemon."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log = structlog.get_logger("relay.api")

    @call({200: members({"status": TEXT})})
    async def healthz(self, request: web.Request) -> web.StreamResponse:
        """Answer at all: the event loop is alive."""
        return Answer({"status": "ok"})

    @call({200: READINESS, 503: READINESS})
    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """Say whether intake is open (200) or why not (503)."""
        readiness = _readiness(list(why_closed(self._services)))
        return Answer(readiness, status=200 if readiness["ready"] else 503)

    @call({200: "text/plain"})
    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer Prometheus."""
        accept = request.headers.get(hdrs.ACCEPT, "")
        readings = self._readings(await survey(self._services))
        await asyncio.sleep(0)
        text, content_type = self._services.metrics.exposition(readings, accept)
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})

    @call({200: STATUS})
    async def status(self, request: web.Request) -> web.StreamResponse:
        """Show how the relay is."""
        self._services.query(request).check()
        seen = await survey(self._services, LINES_MAX)
        summary = self._summary(seen) | self._facts()
        await asyncio.sleep(0)
        return Answer(summary | self._listed(seen))

    @call({200: REKEYED}, body=NOTHING, refuses={409: ("no_secrets_key",)})
    async def rekey(self, request: web.Request) -> web.StreamResponse:
        """Encrypt all secrets in the database with the newest key."""
        principal = request[PRINCIPAL]
        await read_nothing(request)
        done = await self._services.store.rekey()
        self._log.info(log.REKEYED, by=principal.name, key=done.key, hindered=done.hindered, **done.resealed._asdict())
        return Answer(
            {
                "key": done.key,
                "endpoints": done.resealed.endpoints,
                "idempotency_records": done.resealed.records,
                "were_clear": done.resealed.clear,
                "traces_removed": not done.hindered,
                "hindered": done.hindered or None,
                "backups": list(done.backups),
            }
        )

    @call({200: RELOADED}, body=NOTHING, refuses={409: ("stopping",), 422: ("invalid_config",)})
    async def reload(self, request: web.Request) -> web.StreamResponse:
        """Read the configuration again and take it over whole, or change nothing."""
        principal = request[PRINCIPAL]
        await read_nothing(request)
        applied = False
        try:
            reload = await self._services.daemon.reload()
            applied = reload.applied
        finally:
            self._log.info(log.RELOAD_ASKED, by=principal.name, applied=applied)
        if not reload.applied:
            raise Refused(invalid_config(reload.mistakes))
        return Answer(write_reload(reload))

    # -- reading ---------------------------------------------------------------------------------------------------

    def _summary(self, seen: Survey) -> Json:
        services, daemon, closed = self._services, self._services.daemon, list(why_closed(self._services))
        local_trouble, due = services.dispatch.standing.local_trouble(), services.store.backlog
        descriptors_missing = services.dispatch.attempts.descriptors_missing
        gone = vanished(services.registrar.current, services.store.due_count)
        refused, near = self._nearly_full(seen)
        found = troubles(
            seen,
            closed,
            local_trouble=local_trouble,
            descriptors_missing=descriptors_missing,
            refused=refused,
            reloads=daemon.reloads,
            gone=gone,
        )
        return {
            "headline": headline(seen, found, due),
            "troubles": [trouble._asdict() for trouble in found],
            "version": __version__,
            "started_at": moment(daemon.started.wall_ms),
            "uptime_s": self._uptime_s(),
            "config_path": None if daemon.config_path is None else str(daemon.config_path),
            **_readiness(closed),
            "local_trouble": local_trouble,
            "suspended": [line.endpoint.id for line in seen.noted if line.lane.suspension is not None][:LINES_MAX],
            "refusing": [line.endpoint.id for line in seen.noted if line.refusing][:LINES_MAX],
            "unverified": [line.endpoint.id for line in seen.noted if line.word is Word.UNVERIFIED][:LINES_MAX],
            "clock": daemon.clock_watch.state,
            "reload": daemon.reloads.to_json(),
            "vanished": [asdict(one) for one in gone][:LINES_MAX],
            "warnings": [*drift(daemon.reloads, gone), *self._warnings(), *near],
            "due": due,
            "oldest_due_s": self._oldest_due_s(seen),
            "in_flight": services.dispatch.lanes.in_flight,
            "dead": seen.dead,
            "replays": write_unfinished(services),
        }

    def _warnings(self) -> list[str]:
        daemon, applications = self._services.daemon, self._services.registrar.current.applications.values()
        settings = warnings(
            daemon.config,
            daemon.clock_watch.state,
            descriptors=daemon.descriptors,
            applications=[entry.application for entry in applications],
        )
        ending = certificates.warnings_of(certificates.known(self._services), self._services.clock.wall_ms())
        return settings + at_rest_warnings(self._services.store.at_rest) + ending

    def _nearly_full(self, seen: Survey) -> tuple[dict[str, str], list[str]]:
        """Say of which applications posts are refused, by id, and which are near to that. O(endpoints with due deliveries)"""
        services, registry = self._services, self._services.registrar.current
        room = Room(services.daemon.config.storage.max_backlog, services.store.backlog, len(registry.present) == 1)
        most: dict[str, tuple[int, str]] = {}  # by application: where most is due, and how much
        for ref, due in seen.due.items():
            endpoint = registry.endpoint_by_ref(ref)
            if endpoint is not None:
                name = endpoint.application.id
                most[name] = max(most.get(name, (0, "")), (due, endpoint.id))
        refused: dict[str, str] = {}
        near: list[str] = []
        for name in sorted(most):
            application = registry.applications[name].application
            limit = tightest(application, services.store.usage(application.ref), room)
            if limit is not None:
                sentence = say_full(application, limit, most[name][1])
                if limit.is_reached:
                    refused[application.id] = sentence
                else:
                    near.append(sentence)
        if len(near) > FULL_NAMED:
            near = [*near[:FULL_NAMED], f"{len(near) - FULL_NAMED} more applications are near to their limits."]
        return refused, near

    def _facts(self) -> Json:
        store, daemon = self._services.store, self._services.daemon
        return {
            "storage": {
                **store.facts,
                **store.sizes(),
                "durability": daemon.config.storage.durability,
                "secrets": store.at_rest,
                "healthy": store.healthy,
                "disk_free_bytes": self._services.housekeeping.disk_free_bytes,
                "settles_waiting": store.pending_settles,
            }
        }

    def _listed(self, seen: Survey) -> Json:
        first = heapq.nsmallest(
            LINES_MAX,
            [*seen.noted, *seen.quiet],
            key=lambda line: (line.lane.suspension is None, -line.failing, -line.due, line.endpoint.id),
        )
        return {
            "endpoints_total": seen.total,
            "endpoint_states": seen.states,
            "worst": [_written(line) for line in worst(seen.noted)],
            "endpoints": [_written(line) for line in first],
        }

    def _readings(self, seen: Survey) -> Readings:
        services, store, daemon = self._services, self._services.store, self._services.daemon
        sizes = store.sizes()
        return Readings(
            due=store.backlog,
            dead=seen.dead,
            in_flight=services.dispatch.lanes.in_flight,
            ready=next(why_closed(services), None) is None,
            database_bytes=sizes["database_bytes"],
            wal_bytes=sizes.get("wal_bytes", 0),
            disk_free_bytes=services.housekeeping.disk_free_bytes,
            disk_free_min_bytes=daemon.config.storage.min_free_disk_bytes,
            clock_trusted=daemon.clock_watch.trusted,
            uptime_s=self._uptime_s(),
            oldest_due_s=self._oldest_due_s(seen),
            loop_lag_s=services.housekeeping.loop_lag_ms / 1_000,
            log_lines_dropped=daemon.log_lines_dropped,
            replays=len(services.replays.unfinished),
            replays_left=sum(one.left for one in services.replays.unfinished),
            endpoint_states=Words(services),
            endpoints=seen.states,
            applications={
                name: services.store.usage(entry.application.ref)
                for name, entry in services.registrar.current.applications.items()
            },
            certificates_end_s=[
                (one.endpoint, one.side, one.certificate.not_after_ms / 1_000) for one in certificates.known(services)
            ],
        )

    def _oldest_due_s(self, seen: Survey) -> float:
        """How long the oldest delivery that is not held has been due; 0 when nothing is late."""
        oldest_ms = self._services.dispatch.lanes.oldest_due_ms(seen.due)
        return 0.0 if oldest_ms is None else max(self._services.clock.wall_ms() - oldest_ms, 0) / 1_000

    def _uptime_s(self) -> float:
        return round((self._services.clock.mono_ms() - self._services.daemon.started.mono_ms) / 1_000, 3)


def _readiness(closed: Sequence[Closed]) -> Json:
    return {"ready": not closed, "reasons": [{"code": one.code, "detail": one.detail} for one in closed]}


def _written(line: Line) -> Json:
    endpoint = line.endpoint
    return {
        "id": endpoint.id,
        "application": endpoint.application.id,
        "state": endpoint.state,
        "disabled_by": endpoint.disabled_by,
        "held": endpoint.held,
        "failing": line.failing,
        "blocked": line.blocked,
        "window": line.lane.window,
        "in_flight": line.lane.running,
        **write_work(line),
    }
