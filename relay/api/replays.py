"""Replays: jobs that send deliveries again, made, looked at and cancelled."""

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from aiohttp import web

from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import read_nothing, read_object
from relay.api.calls import (
    BY_APPLICATION,
    COUNT,
    FILLED,
    FLAG,
    NOTHING,
    PAGED,
    TEXT,
    TIME,
    call,
    maybe,
    members,
    named,
    only,
    page,
    several,
    shape,
    word,
)
from relay.api.idempotency import claim_of, replayed
from relay.api.picking import PICKED, Members, read_picked
from relay.api.query import application_of, page_response
from relay.api.render import Json, moment
from relay.api.routing import PARAMETERS
from relay.api.services import Services
from relay.core.access import Principal
from relay.core.errors import NotFound
from relay.core.model import DeadReason, DeliveryKey, DeliveryState, ReplayMode
from relay.core.units import Rate, format_rate, parse_rate
from relay.replay import Preview, ReplayDraft
from relay.store import delivery_id
from relay.store.replays import Replay, ReplayState, Wanted
from relay.telemetry import log

PATH = "/v1/replays"


ASKED = only(
    {"mode": word(ReplayMode)},
    {
        **PICKED,
        "rate": maybe(FILLED),
        "force": maybe(FLAG),
        "dry_run": maybe(FLAG),
    },
)
"""What a replay is asked for: filters or ids, and how."""


REPLAY = shape(
    "Replay",
    {
        "id": TEXT,
        "mode": word(ReplayMode),
        "state": word(ReplayState),
        "application": maybe(TEXT),
        "filters": members(
            {
                "endpoint": maybe(TEXT),
                "type": maybe(TEXT),
                "state": maybe(word(DeliveryState)),
                "reason": maybe(word(DeadReason)),
                "since": maybe(TIME),
                "until": maybe(TIME),
            }
        ),
        "rate": TEXT,
        "force": FLAG,
        "created_by": TEXT,
        "created_at": TIME,
        "finished_at": maybe(TIME),
        "cancelled_by": maybe(TEXT),
        "selected": COUNT,
        "cut": FLAG,
        "replayed": COUNT,
        "skipped": named(COUNT),
        "left": COUNT,
        "waits_for": maybe(TEXT),
    },
)
_SAMPLE = members({"delivery": maybe(TEXT), "event_id": TEXT, "event_type": TEXT, "endpoint": TEXT, "created_at": TIME})
PREVIEW = shape(
    "ReplayPreview",
    {
        "dry_run": FLAG,
        "mode": word(ReplayMode),
        "count": COUNT,
        "complete": FLAG,
        "skipped": named(COUNT),
        "sample": several(_SAMPLE),
    },
)


class Replays:
    """The calls under /v1/replays."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._log = structlog.get_logger("relay.api")

    @call({200: PREVIEW, 201: REPLAY}, body=ASKED, keyed=True, refuses={409: ("too_many_replays",)})
    async def create(self, request: web.Request) -> web.StreamResponse:
        """Make a replay; with `dry_run` only say what it would be about."""
        principal = request[PRINCIPAL]
        written = await read_object(request)
        claim = claim_of(request, written)
        members = Members(written, self._services.clock.wall_ms())
        is_dry = members.flag("dry_run")
        draft = self._draft(members, principal)
        if is_dry:
            return Answer(await self._previewed(await self._services.replays.preview(draft), draft))
        made = await self._services.replays.create(draft, claim)
        if not made.repeated:
            facts = {"replay": made.replay.id, "mode": draft.mode.value, "by": principal.name}
            self._log.info(log.REPLAY_CREATED, application=draft.application, **facts)
        headers = {"Location": f"{PATH}/{made.replay.id}", **replayed(made.repeated)}
        return Answer(self._write(made.replay), 201, headers)

    @call({200: page(REPLAY)}, query={**BY_APPLICATION, **PAGED})
    async def search(self, request: web.Request) -> web.StreamResponse:
        """List replays, newest first."""
        principal = request[PRINCIPAL]
        query = self._services.query(request)
        named, limit, cursor = query.text("application"), query.limit(), query.number("cursor")
        query.check()
        application = application_of(named, principal, self._services.registrar.current)
        return await page_response(
            request, await self._services.store.replays.list(application, cursor, limit), self._write
        )

    @call({200: REPLAY})
    async def show(self, request: web.Request) -> web.StreamResponse:
        """Show how far a replay came."""
        return Answer(self._write(await self._find(request)))

    @call({200: REPLAY}, body=NOTHING, refuses={409: ("replay_over",)})
    async def cancel(self, request: web.Request) -> web.StreamResponse:
        """Cancel a replay; what it made due stays due."""
        principal = request[PRINCIPAL]
        found = await self._find(request)
        await read_nothing(request)
        cancelled = await self._services.replays.cancel(found.id, principal.name)
        self._log.info(log.REPLAY_CANCELLED, replay=found.id, by=principal.name, replayed=cancelled.replayed)
        return Answer(self._write(cancelled))

    async def _find(self, request: web.Request) -> Replay:
        replay_id, own = request[PARAMETERS]["id"], request[PRINCIPAL].application
        found = await self._services.store.replays.find(replay_id)
        if found is None or own not in (None, found.application):
            raise NotFound(f"no replay {replay_id[:64]!r}", remedy=f"List them with GET {PATH}.")
        return found

    def _draft(self, members: Members, principal: Principal) -> ReplayDraft:
        settings, registry = self._services.daemon.config.replays, self._services.registrar.current
        picked = read_picked(members, settings.ids)
        mode = members.word("mode", ReplayMode)
        rate, force = _read_rate(members, settings.rate), members.flag("force")
        if mode is None and not any(issue.path == "/mode" for issue in members.mistakes):
            members.wrong("mode", f"is missing: one of {', '.join(ReplayMode)}")
        _refuse_unfit(members, mode, picked.wanted)
        members.check()
        assert mode is not None, "else it was refused"
        application = application_of(picked.application, principal, registry)
        name = picked.wanted.endpoint
        if name is not None:
            endpoint = registry.endpoint(name) if name in registry.endpoints else None
            if endpoint is None or application not in (None, endpoint.application.id):
                raise NotFound(f"no endpoint {name[:64]!r}", remedy="List them with GET /v1/webhook-endpoints.")
        is_own = principal.application is not None
        return ReplayDraft(application, mode, picked.wanted, picked.ids, rate, force, principal.name, is_own)

    async def _previewed(self, found: Preview, draft: ReplayDraft) -> Json:
        return {
            "dry_run": True,
            "mode": draft.mode,
            "count": found.count,
            "complete": found.is_complete,
            "skipped": dict(found.skipped),
            "sample": [one for key in found.sample if (one := await self._sampled(key, draft.mode)) is not None],
        }

    async def _sampled(self, key: DeliveryKey, mode: ReplayMode) -> Json | None:
        event = await self._services.store.read_event(key.event)
        endpoint = self._services.registrar.current.endpoint_by_ref(key.endpoint)
        if event is None or endpoint is None:
            return None
        known = None if mode is ReplayMode.MISSING else delivery_id(key)
        return {
            "delivery": known,
            "event_id": event.id,
            "event_type": event.type,
            "endpoint": endpoint.id,
            "created_at": moment(event.created_at_ms),
        }

    def _write(self, one: Replay) -> Json:
        wanted = one.wanted
        return {
            "id": one.id,
            "mode": one.mode,
            "state": one.state,
            "application": one.application,
            "filters": {
                "endpoint": wanted.endpoint,
                "type": wanted.type,
                "state": wanted.state,
                "reason": wanted.reason,
                "since": moment(wanted.since_ms),
                "until": moment(wanted.until_ms),
            },
            "rate": format_rate(one.rate),
            "force": one.force,
            "created_by": one.created_by,
            "created_at": moment(one.created_at_ms),
            "finished_at": moment(one.finished_at_ms),
            "cancelled_by": one.cancelled_by,
            "selected": one.selected,
            "cut": one.is_cut,
            "replayed": one.replayed,
            "skipped": dict(one.skipped),
            "left": one.left,
            "waits_for": self._services.replays.waits_for(one) or None,
        }


def write_unfinished(services: Services) -> Json:
    """Write how much the replays that are not over have before them."""
    unfinished: Sequence[Replay] = services.replays.unfinished
    return {"unfinished": len(unfinished), "left": sum(one.left for one in unfinished)}


def _read_rate(members: Members, default: Rate) -> Rate:
    text = members.text("rate")
    if text is None:
        return default
    try:
        return parse_rate(text)
    except ValueError as error:
        members.wrong("rate", str(error))
        return default


def _refuse_unfit(members: Members, mode: ReplayMode | None, wanted: Wanted) -> None:
    """Note filters that select nothing in a mode."""
    unfit: Mapping[str, Any] = {"state": wanted.state, "reason": wanted.reason}
    if mode is ReplayMode.MISSING:
        for name in [name for name, value in unfit.items() if value is not None]:
            members.wrong(name, 'is of deliveries; mode "missing" is about what has none')
    elif mode is ReplayMode.FAILED and wanted.state not in (None, DeliveryState.DEAD):
        members.wrong("state", 'must be "dead", or left out, in mode "failed"', 'Take mode "all".')
    elif wanted.state is DeliveryState.DUE:
        members.wrong("state", "must not be due: what is due is sent anyway")
