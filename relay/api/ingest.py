"""The two doors for events, `POST /v1/events` and `POST /v1/events/batch`, and how their answers are written."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from relay.api import body, problems, render
from relay.api.answer import Answer
from relay.api.auth import PRINCIPAL
from relay.api.calls import ANY, BY_APPLICATION, OBJECT, TEXT, TIME, Schema, call, maybe, several, shape
from relay.api.cloudevents import STRUCTURED, STRUCTURED_BATCH, Mode, form_of, mode_of, refuse_parameters, structured
from relay.api.idempotency import HEADER
from relay.api.pace import Paces
from relay.api.problems import Refused
from relay.api.shapes import RECEIPT, RESULTS
from relay.core.errors import RelayError
from relay.core.issues import MISTAKES_MAX, Issue
from relay.core.units import format_time
from relay.intake import OWN, Form, Intake, Receipt

POSTED: Schema = shape(
    "Posted",
    {"type": TEXT, "data": ANY},
    {
        **{name: maybe(TEXT) for name in ("application", "id", "idempotency_key", "ordering_key")},
        **{name: maybe(TIME) for name in ("timestamp", "deliver_at", "expires_at")},
        "metadata": maybe(OBJECT),
        "endpoints": maybe(several(TEXT)),
    },
) | {"additionalProperties": False}
"""One event, as it is posted."""

_CLOUDEVENT = shape("CloudEvent", {"specversion": {"const": "1.0"}, "id": TEXT, "source": TEXT, "type": TEXT})
_BATCH = {STRUCTURED_BATCH: several(_CLOUDEVENT)}
_REFUSED: Mapping[int, tuple[str, ...]] = {
    409: ("event_id_taken",),
    422: ("lossy_number",),
    503: ("backlog_full", "application_backlog_full"),
    507: ("disk_low",),
}


class Ingest:
    """The calls that bring events in."""

    def __init__(self, intake: Intake, paces: Paces) -> None:
        self._intake = intake
        self._paces = paces

    @call(
        {200: {"anyOf": [RECEIPT, RESULTS]}, 202: RECEIPT},
        query=BY_APPLICATION,
        body=POSTED,
        also_takes={STRUCTURED: _CLOUDEVENT, **_BATCH},
        keyed=True,
        refuses=_REFUSED,
    )
    async def post_event(self, request: web.Request) -> Answer:
        """Take one event; 202 when it and its deliveries are on the disk, 200 for one that was there."""
        mode = mode_of(request.headers)
        if mode is Mode.BATCH:
            return await self.post_batch(request)
        key = request.headers.get(HEADER)
        if mode is None:
            refuse_parameters(request)
            receipt = await self._intake.accept_one(request[PRINCIPAL], await body.read(request), key)
        else:
            receipt = await self._post_cloudevent(request, mode, key)
        return Answer(describe(receipt), status_of(receipt), {"Location": f"/v1/events/{receipt.event_id}"})

    async def _post_cloudevent(self, request: web.Request, mode: Mode, key: str | None) -> Receipt:
        max_depth = self._intake.limits.max_depth
        text, issues = await body.read(request), list[Issue]()
        if mode is Mode.BINARY:
            text, issues = structured(request.headers, text, max_depth)
        return await self._intake.accept_one(request[PRINCIPAL], text, key, form_of(request, max_depth, issues))

    @call(
        {200: RESULTS},
        query=BY_APPLICATION,
        body=several(POSTED),
        also_takes=_BATCH,
        refuses={413: ("batch_too_large",), 507: ("disk_low",)},
    )
    async def post_batch(self, request: web.Request) -> Answer:
        """Take several events, each with an answer of its own."""
        if HEADER in request.headers:
            detail = 'A batch takes no Idempotency-Key header. Give each event its own "idempotency_key".'
            raise Refused(problems.bad_request(detail))
        form = self._form_of_batch(request)
        items = await self._intake.accept_batch(request[PRINCIPAL], await body.read(request), form)
        self._paces.spend(request[PRINCIPAL], len(items) - 1, 0)
        return Answer({"results": results(items)})

    def _form_of_batch(self, request: web.Request) -> Form:
        mode = mode_of(request.headers)
        if mode is None:
            refuse_parameters(request)
            return OWN
        if mode is not Mode.BATCH:
            detail = "A batch of CloudEvents is a JSON array of them: send it as application/cloudevents-batch+json."
            raise Refused(problems.unsupported_media(detail))
        return form_of(request, self._intake.limits.max_depth)


def status_of(receipt: Receipt) -> int:
    """Say 202 for an event that was stored now, and 200 for a repetition."""
    return 200 if receipt.duplicate else 202


def describe(receipt: Receipt, listed: int = MISTAKES_MAX) -> dict[str, Any]:
    """Write the answer for an event that was taken, with so many of its warnings at most."""
    described: dict[str, Any] = {
        "id": receipt.event_id,
        "type": receipt.type,
        "application": receipt.application,
        "created_at": format_time(receipt.created_at_ms),
        "deliveries": receipt.deliveries,
        "duplicate": receipt.duplicate,
    }
    if receipt.warnings:
        described |= render.warnings(receipt.warnings, listed=listed)
    if receipt.differs:
        described["differs"] = True
    if receipt.reason is not None:
        described |= {"reason": receipt.reason, "reason_detail": receipt.reason_detail}
    return described


def results(items: Iterable[Receipt | RelayError]) -> list[dict[str, Any]]:
    """Write the answers for a batch: together they list what one answer may, but of each event the first mistake."""
    written, left = [], MISTAKES_MAX
    for item in items:
        one, mistakes = _result(item, max(1, left))
        written.append(one)
        left -= mistakes
    return written


def _result(of: Receipt | RelayError, listed: int) -> tuple[dict[str, Any], int]:
    """Write the answer for one event of a batch; also how many mistakes or warnings there are."""
    if isinstance(of, RelayError):
        problem = problems.from_error(of)
        return {"status": problem.status, "problem": problem.to_json(listed)}, len(problem.errors)
    return {"status": status_of(of), "body": describe(of, listed)}, len(of.warnings)
