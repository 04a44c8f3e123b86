"""The two doors for events: `POST /v1/events` and `POST /v1/events/batch`."""

import orjson
from aiohttp import web

from relay.api import body, problems
from relay.api.auth import require
from relay.api.problems import Refused
from relay.core.access import Right
from relay.intake import Answer, Intake

IDEMPOTENCY_KEY = "Idempotency-Key"


def routes(intake: Intake) -> list[web.RouteDef]:
    """Return the routes that bring events in."""

    async def post_event(request: web.Request) -> web.Response:
        principal = require(request, Right.POST_EVENTS)
        key = request.headers.get(IDEMPOTENCY_KEY)
        return _response(await intake.accept_one(principal, await body.read(request), key))

    async def post_batch(request: web.Request) -> web.Response:
        principal = require(request, Right.POST_EVENTS)
        if IDEMPOTENCY_KEY in request.headers:
            detail = 'A batch takes no Idempotency-Key header. Give each event its own "idempotency_key".'
            raise Refused(problems.bad_request(detail))
        return _response(await intake.accept_batch(principal, await body.read(request)))

    return [web.post("/v1/events", post_event), web.post("/v1/events/batch", post_batch)]


def _response(answer: Answer) -> web.Response:
    headers = None if answer.location is None else {"Location": answer.location}
    return web.Response(status=answer.status, body=orjson.dumps(answer.body), content_type=body.JSON, headers=headers)
