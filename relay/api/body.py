"""Request bodies: what is refused by looking at the head, reading the rest in bounds, and the JSON object it is."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any

import msgspec
import orjson
from aiohttp import StreamReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from relay.api import problems
from relay.api.answer import JSON
from relay.api.auth import name_of
from relay.api.cloudevents import mode_of
from relay.api.problems import Problem, Refused
from relay.api.turns import TURNS
from relay.config import ServerConfig
from relay.core.conditions import exact
from relay.core.issues import MISTAKES_MAX, Issue, pointer
from relay.core.model import Limits

_MANY_DIGITS = re.compile(rb"[0-9][0-9.]{15}|[eE]-[0-9]{3}")
"""What may be a number that the decoder does not keep as it is written."""

MERGE_PATCH = "application/merge-patch+json"

CONFIG: web.RequestKey[ServerConfig] = web.RequestKey("server_config", ServerConfig)
"""Set for every request: how large a body may be, and how long it may take."""

ARRIVING_BYTES_MAX = 64 << 20
"""Bytes of all bodies that are still arriving, each with the length it announces, else with `max_body`; eight fit always."""


LARGE_BYTES = 64 << 10
"""A body beyond this waits for its turn before it is looked at."""


_PLAIN = "JSON in UTF-8, with the header `Content-Type: application/json`"
_EVENTS = (
    f"Send {_PLAIN}; CloudEvents as application/cloudevents+json or application/cloudevents-batch+json, or in binary mode "
    "with the header ce-specversion."
)


class Arriving:
    """Owner of which bodies are still arriving. Beyond so many bytes those that began first are cut off."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_bytes = max(ARRIVING_BYTES_MAX, 8 * max_body_bytes)
        self._waiting: dict[asyncio.Timeout, int] = {}  # bytes each may have, the oldest first
        self._bytes = 0

    @asynccontextmanager
    async def within(self, timeout_s: float, size_bytes: int) -> AsyncIterator[None]:
        """Read a body that may be so large; TimeoutError when its time is over, Refused (503) when it is cut off."""
        async with asyncio.timeout(timeout_s) as deadline:
            self._waiting[deadline] = size_bytes
            self._bytes += size_bytes
            try:
                self._cut_off_oldest()
                yield
            except asyncio.CancelledError:
                if deadline not in self._waiting:
                    raise Refused(problems.too_many_bodies(self._max_bytes)) from None
                raise
            finally:
                self._forget(deadline)

    def _cut_off_oldest(self) -> None:
        while self._bytes > self._max_bytes and len(self._waiting) > 1:
            oldest = next(iter(self._waiting))
            self._forget(oldest)
            oldest.reschedule(0)

    def _forget(self, deadline: asyncio.Timeout) -> None:
        self._bytes -= self._waiting.pop(deadline, 0)


ARRIVING: web.RequestKey[Arriving] = web.RequestKey("arriving", Arriving)
"""Set for every request: the bodies of all of them."""


def examine_head(request: web.Request, config: ServerConfig, *, takes_events: bool = False) -> Problem | None:
    """Say why the body that this head announces will not be read; None when it may be. Events may be CloudEvents."""
    if not request.body_exists:
        return None
    headers = request.headers
    if hdrs.CONTENT_ENCODING in headers:
        return problems.unsupported_media("Send the body without Content-Encoding: it is taken as it is.")
    length = request.content_length
    if length is not None and length > config.max_body_bytes:
        return problems.body_too_large(config.max_body_bytes)
    media_type = headers.get(hdrs.CONTENT_TYPE, "")
    if media_type == JSON or _is_json(media_type, request.method):
        return None
    if takes_events:
        return problems.unsupported_media(_EVENTS) if mode_of(headers) is None else None
    return problems.unsupported_media(f"Send {_PLAIN}.")


async def read(request: web.Request) -> bytes:
    """Return the body; Refused when it comes too slowly (408), is too large (413) or breaks HTTP's framing (400).

    Whoever looks at a large one takes milliseconds for it, so they are returned in turns.
    """
    text = await _received(request)
    if len(text) > LARGE_BYTES:
        await request[TURNS].turn(name_of(request))
    else:
        request[TURNS].other()
    return text


async def _received(request: web.Request) -> bytes:
    config, content = request[CONFIG], request.content
    try:
        if content.is_eof():  # it came with the head, as most do: no deadline is needed
            return _bounded(content.read_nowait(), config)
        size_bytes = request.content_length or config.max_body_bytes
        async with request[ARRIVING].within(config.body_timeout_ms / 1000, size_bytes):
            return await _collected(content, config)
    except TimeoutError:
        raise Refused(problems.body_timeout(config.body_timeout_ms)) from None
    except (web.RequestPayloadError, HttpProcessingError):  # the second one is the pure Python parser's
        raise Refused(problems.bad_request("The body breaks off or is not framed as HTTP/1.1 asks.")) from None


async def _collected(content: StreamReader, config: ServerConfig) -> bytes:
    """Put a body together once: aiohttp's own `read` makes a copy, and keeps it until the request is answered."""
    text = BytesIO()
    while chunk := await content.readany():
        text.write(chunk)
        if text.tell() > config.max_body_bytes:
            raise Refused(problems.body_too_large(config.max_body_bytes))
    return text.getvalue()


def _bounded(text: bytes, config: ServerConfig) -> bytes:
    if len(text) > config.max_body_bytes:
        raise Refused(problems.body_too_large(config.max_body_bytes))
    return text


async def read_object(request: web.Request) -> dict[str, Any]:
    """Return the body's members; no body counts as an empty object. Refused for anything else."""
    return parse_object(await read(request))


def parse_object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; Refused (400) says where it is malformed, (422) that it is something else."""
    if not text.strip():
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Refused(problems.malformed_json(f"{error}. Send a JSON object in UTF-8.")) from None
    if not isinstance(value, dict):
        raise Refused(problems.invalid([Issue("", "must be a JSON object")]))
    return value


def parse_definition(text: bytes) -> dict[str, Any]:
    """Parse a JSON object that is going to be kept: a number that neither 64 bits nor a double hold is a Decimal."""
    value = parse_object(text)
    return json.loads(text, parse_int=exact, parse_float=exact) if _MANY_DIGITS.search(text) else value


def refuse_large(text: bytes, limits: Limits) -> None:
    """Refuse (413) what somebody writes about an application or an endpoint, when it is too long to be looked at."""
    if len(text) > limits.definition_bytes:
        raise Refused(problems.definition_too_large(limits.definition_bytes))


async def read_nothing(request: web.Request) -> None:
    """Take an empty body or an empty object; Refused for members, since this call has none."""
    if written := await read_object(request):
        raise Refused(problems.invalid(unknown_members(written, ())))


def raw_member(text: bytes, name: str) -> bytes | None:
    """Return the exact bytes of one member of a body that `parse_object` took; None when it is not there."""
    if not text.strip():
        return None
    member = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get(name)
    return None if member is None else bytes(member)


def unknown_members(written: Mapping[str, Any], known: Iterable[str]) -> list[Issue]:
    """Return a mistake for each member that a call does not have."""
    names = sorted(known)
    return foreign(
        [name for name in written if name not in names],
        f"is not a field of this call; it has {', '.join(names) or 'none'}",
    )


def foreign(names: Sequence[str], message: str) -> list[Issue]:
    """Return a mistake for each name; of very many, those that no answer lists are one and the same.

    O(what an answer lists), and a reference for each of the others, which are only counted.
    """
    listed = [Issue(pointer(name), message) for name in names[:MISTAKES_MAX]]
    return listed + listed[-1:] * (len(names) - len(listed))


def _is_json(media_type: str, method: str) -> bool:
    essence, _, parameters = media_type.lower().partition(";")
    taken = (JSON, MERGE_PATCH) if method == hdrs.METH_PATCH else (JSON,)
    return essence.strip() in taken and parameters.replace('"', "").strip() in ("", "charset=utf-8")
