"""Request bodies: what is refused by looking at the head, and reading the rest within a deadline and a limit."""

import asyncio
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from relay.api import problems
from relay.api.problems import Problem, Refused

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """How large a body may be and how long it may take."""

    max_bytes: int = 1 << 20
    timeout_ms: int = 30_000


LIMITS = web.AppKey("body_limits", BodyLimits)


def examine_head(request: web.Request, limits: BodyLimits) -> Problem | None:
    """Say why the body that this head announces will not be read; None when it may be."""
    if not request.body_exists:
        return None
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers:
        return problems.unsupported_media("Send the body without Content-Encoding: it is taken as it is.")
    length = request.content_length
    if length is not None and length > limits.max_bytes:
        return problems.body_too_large(limits.max_bytes)
    media_type = headers.get(hdrs.CONTENT_TYPE, "")
    if media_type != JSON and not _is_json(media_type, request.method):
        return problems.unsupported_media("Send JSON in UTF-8, with the header `Content-Type: application/json`.")
    return None


async def read(request: web.Request) -> bytes:
    """Return the body; Refused when it comes too slowly (408), is too large (413) or breaks HTTP's framing (400)."""
    try:
        if request.content.is_eof():  # it came with the head, as most do: no deadline is needed
            return await request.read()
        async with asyncio.timeout(request.app[LIMITS].timeout_ms / 1000):
            return await request.read()
    except TimeoutError:
        raise Refused(problems.body_timeout(request.app[LIMITS].timeout_ms)) from None
    except web.HTTPRequestEntityTooLarge:
        raise Refused(problems.body_too_large(request.app[LIMITS].max_bytes)) from None
    except (web.RequestPayloadError, HttpProcessingError):  # the second one is the pure Python parser's
        raise Refused(problems.bad_request("The body breaks off or is not framed as HTTP/1.1 asks.")) from None


def _is_json(media_type: str, method: str) -> bool:
    essence, _, parameters = media_type.lower().partition(";")
    taken = (JSON, MERGE_PATCH) if method == hdrs.METH_PATCH else (JSON,)
    return essence.strip() in taken and parameters.replace('"', "").strip() in ("", "charset=utf-8")
