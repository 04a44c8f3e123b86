"""`POST /v1/filters/try`: whether a filter lets an event through, and which of its conditions do not."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson
from aiohttp import web

from relay.api import body, render
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.body import parse_definition, parse_object, raw_member, unknown_members
from relay.api.calls import ANY, OBJECT, TEXT, call, maybe, members, only
from relay.api.query import seen
from relay.api.render import Json
from relay.api.services import Services
from relay.api.shapes import TRIED
from relay.core import filters
from relay.core.access import Principal
from relay.core.errors import NotFound
from relay.core.filters import FILTER_BYTES_MAX, Filter
from relay.core.issues import Invalid, Issue
from relay.core.model import Endpoint
from relay.intake.parse import screen
from relay.registry import EventFacts, data_of

PATH = "/v1/filters/try"


class _Tried(NamedTuple):
    """What of an event a filter looks at."""

    type: str
    data: bytes
    metadata: bytes | None


_EVENT = members({"type": TEXT, "data": ANY}, {"metadata": maybe(OBJECT)})
_ASKED = {
    **only({}, {"filter": OBJECT, "endpoint": TEXT, "event": _EVENT, "event_id": TEXT}),
    "allOf": [
        {"oneOf": [{"required": ["filter"]}, {"required": ["endpoint"]}]},
        {"oneOf": [{"required": ["event"]}, {"required": ["event_id"]}]},
    ],
}


class Filters:
    """The call that tries a filter. Nothing is stored or sent."""

    def __init__(self, services: Services) -> None:
        self._services = services

    @call({200: TRIED}, body=_ASKED)
    async def attempt(self, request: web.Request) -> web.StreamResponse:
        """Try a filter, or an endpoint's, on an event that is given or was stored; Invalid with every mistake."""
        principal = request[PRINCIPAL]
        text = await body.read(request)
        screen(text, self._services.daemon.config.server.max_depth)
        written = parse_object(text)
        mistakes = [
            *unknown_members(written, ("filter", "endpoint", "event", "event_id")),
            *_one_of(written, "filter", "endpoint"),
            *_one_of(written, "event", "event_id"),
        ]
        if "event" in written:
            mistakes += _event_mistakes(written["event"])
        asked, faults = _read_filter(text) if "filter" in written else (None, [])
        if mistakes or faults:
            raise Invalid([*mistakes, *faults])
        endpoint = self._endpoint(written["endpoint"], principal) if "endpoint" in written else None
        event = await self._stored(written["event_id"], principal) if "event_id" in written else _given(text)
        return Answer(self._describe(asked if endpoint is None else endpoint.filter, endpoint, event))

    def _endpoint(self, name: str, principal: Principal) -> Endpoint:
        endpoint = self._services.registrar.current.endpoints.get(name)
        if endpoint is None or not principal.sees(endpoint.application.id):
            raise NotFound(f"no endpoint {name[:64]!r}", remedy="List them with GET /v1/webhook-endpoints.")
        return endpoint

    async def _stored(self, event_id: str, principal: Principal) -> _Tried:
        view = seen(await self._services.store.find_event(event_id), principal, "event", event_id)
        registry = self._services.registrar.current
        contract = registry.contract(registry.application(view.application).application)
        data = data_of(view, contract)
        if data is None:
            sentence = "its data cannot be told from its body, as its contract writes it; give the event itself"
            raise Invalid([Issue("/event_id", sentence)])
        return _Tried(view.type, data, view.metadata)

    def _describe(self, asked: Filter | None, endpoint: Endpoint | None, event: _Tried) -> Json:
        facts = EventFacts(event.type, event.data, event.metadata)
        passes = asked is None or asked.passes(facts)
        is_decided = not facts.is_exhausted
        failures = [] if passes or asked is None else asked.failures(EventFacts(*event))
        return {
            "passes": passes,
            "decided": is_decided,
            "failures": [render.filter_failure(failure) for failure in failures],
            "filter": None if asked is None else asked.written,
            "endpoint": None if endpoint is None else endpoint.id,
            "subscribes": None if endpoint is None else self._subscribes(endpoint, event.type),
        }

    def _subscribes(self, endpoint: Endpoint, event_type: str) -> bool:
        return self._services.registrar.current.subscribes(endpoint, event_type)


def _one_of(written: Mapping[str, Any], first: str, second: str) -> Iterator[Issue]:
    given = [name for name in (first, second) if name in written]
    if len(given) != 1:
        yield Issue("", f'needs one of "{first}" and "{second}"')
    for name in given:
        if name in ("endpoint", "event_id") and not isinstance(written[name], str):
            yield Issue(f"/{name}", "must be an id, as text")


def _event_mistakes(event: Any) -> Iterator[Issue]:
    if not isinstance(event, Mapping):
        yield Issue("/event", 'must be an object, such as {"type": "order.paid", "data": {"amount": 5}}')
        return
    if not isinstance(event.get("type"), str):
        yield Issue("/event/type", "must be the name of an event type")
    if "data" not in event:
        yield Issue("/event/data", "is missing: it must be JSON")
    if not isinstance(event.get("metadata", {}), Mapping | type(None)):
        yield Issue("/event/metadata", "must be an object")


def _read_filter(text: bytes) -> tuple[Filter | None, list[Issue]]:
    raw = raw_member(text, "filter") or b""
    try:
        if len(raw) > 8 * FILTER_BYTES_MAX:
            raise Invalid([Issue("", f"has {len(raw)} bytes; {FILTER_BYTES_MAX} are allowed", "Shorten it.")])
        return filters.read(parse_definition(b'{"filter":' + raw + b"}")["filter"]), []
    except Invalid as invalid:
        return None, [Issue(f"/filter{issue.path}", f"{issue.message}. {issue.remedy}") for issue in invalid.issues]


def _given(text: bytes) -> _Tried:
    event = raw_member(text, "event") or b""
    event_type: str = orjson.loads(raw_member(event, "type") or b"")
    metadata = raw_member(event, "metadata")
    return _Tried(event_type, raw_member(event, "data") or b"", None if metadata == b"null" else metadata)
