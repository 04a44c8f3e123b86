"""JSON objects as request bodies."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import orjson
from aiohttp import web

from relay.api import body, problems
from relay.api.problems import Refused
from relay.core.issues import Issue, pointer


async def read_object(request: web.Request) -> dict[str, Any]:
    """Return the body's members; no body counts as an empty object. Refused for anything else."""
    return parse_object(await body.read(request))


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
    return [
        Issue(pointer(name), f"is not a field of this call; it has {', '.join(names) or 'none'}")
        for name in written
        if name not in names
    ]
