"""The two doors for events, `POST /v1/events` and `POST /v1/events/batch`, and how their answers are written."""

from typing import Any

import orjson
from aiohttp import web

from relay.api import body, problems
from relay.api.auth import require
from relay.api.problems import Refused
from relay.core.access import Right
from relay.core.errors import RelayError
from relay.core.units import format_time
from relay.intake import Intake, Receipt

IDEMPOTENCY_KEY = "Idempotency-Key"


def routes(intake: Intake) -> list[web.RouteDef]:
    """Return the routes that bring events in."""

    async def post_event(request: web.Request) -> web.Response:
        principal = require(request, Right.POST_EVENTS)
        key = request.headers.get(IDEMPOTENCY_KEY)
        receipt = await intake.accept_one(principal, await body.read(request), key)
        return _response(status_of(receipt), describe(receipt), {"Location": f"/v1/events/{receipt.event_id}"})

    async def post_batch(request: web.Request) -> web.Response:
        principal = require(request, Right.POST_EVENTS)
        if IDEMPOTENCY_KEY in request.headers:
            detail = 'A batch takes no Idempotency-Key header. Give each event its own "idempotency_key".'
            raise Refused(problems.bad_request(detail))
        items = await intake.accept_batch(principal, await body.read(request))
        return _response(200, {"results": [result(item) for item in items]})

    return [web.post("/v1/events", post_event), web.post("/v1/events/batch", post_batch)]


def status_of(receipt: Receipt) -> int:
    """Say 202 for an event that was stored now, and 200 for a repetition."""
    return 200 if receipt.duplicate else 202


def describe(receipt: Receipt) -> dict[str, Any]:
    """Write the answer for an event that was taken."""
    described: dict[str, Any] = {
        "id": receipt.event_id,
        "type": receipt.type,
        "application": receipt.application,
        "created_at": format_time(receipt.created_at_ms),
        "deliveries": receipt.deliveries,
        "duplicate": receipt.duplicate,
    }
    if receipt.warnings:
        described["warnings"] = [issue.to_json() for issue in receipt.warnings]
    if receipt.differs:
        described["differs"] = True
    if receipt.reason is not None:
        described |= {"reason": receipt.reason, "reason_detail": receipt.reason_detail}
    return described


def result(of: Receipt | RelayError) -> dict[str, Any]:
    """Write the answer for one event of a batch."""
    if isinstance(of, RelayError):
        problem = problems.from_error(of)
        return {"status": problem.status, "problem": problem.to_json()}
    return {"status": status_of(of), "body": describe(of)}


def _response(status: int, answer: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(answer), content_type=body.JSON, headers=headers)
