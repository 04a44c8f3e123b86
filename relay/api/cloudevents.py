"""CloudEvents over HTTP: which of its three modes a request is in, and a request in binary mode as the JSON that it stands for."""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from urllib.parse import unquote_to_bytes

import orjson
from aiohttp import hdrs, web
from multidict import CIMultiDictProxy

from relay.api import problems
from relay.api.problems import Refused
from relay.core.issues import Issue, pointer
from relay.intake import Form, as_json, cloudevents

PREFIX = "ce-"
"""How the headers of binary mode begin."""

_MEDIA_TYPE = "application/cloudevents"
_APPLICATION = "application"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class Mode(StrEnum):
    """How a request carries CloudEvents."""

    STRUCTURED = "structured"
    BATCH = "batch"
    BINARY = "binary"


STRUCTURED = f"{_MEDIA_TYPE}+json"
STRUCTURED_BATCH = f"{_MEDIA_TYPE}-batch+json"
_MODES: Mapping[str, Mode] = {STRUCTURED: Mode.STRUCTURED, STRUCTURED_BATCH: Mode.BATCH}


def mode_of(headers: CIMultiDictProxy[str]) -> Mode | None:
    """Return the mode that a head announces; None for what is no CloudEvent, or one in another format than JSON."""
    media_type = headers.get(hdrs.CONTENT_TYPE, "")
    if media_type[: len(_MEDIA_TYPE)].lower() == _MEDIA_TYPE:
        essence, _, parameters = media_type.lower().partition(";")
        taken = parameters.replace('"', "").strip() in ("", "charset=utf-8")
        return _MODES.get(essence.strip()) if taken else None
    return Mode.BINARY if "ce-specversion" in headers or "ce-id" in headers else None


def form_of(request: web.Request, max_depth: int, found: Iterable[Issue] = ()) -> Form:
    """Return how the CloudEvents of a request are written; the parameter `application` names whose they are."""
    refuse_parameters(request, but=_APPLICATION)
    return cloudevents(max_depth, request.query.get(_APPLICATION), found)


def refuse_parameters(request: web.Request, but: str = "") -> None:
    """Raise Refused for parameters of a request, one excepted that may be there once."""
    if not request.query_string:
        return
    wrong = [Issue("", f'the parameter "{name[:64]}" is not taken here') for name in request.query if name != but]
    if len(request.query.getall(but, ())) > 1:
        wrong.append(Issue("", f'the parameter "{but}" is given more than once'))
    if wrong:
        raise Refused(problems.invalid(wrong))


def structured(headers: CIMultiDictProxy[str], body: bytes, max_depth: int) -> tuple[bytes, list[Issue]]:
    """Write a CloudEvent in binary mode as the JSON that it stands for; also what is wrong with its headers.

    Malformed for data that are neither JSON nor text in UTF-8.
    """
    attributes: dict[str, str] = {}
    issues: list[Issue] = []
    content_type = headers.get(hdrs.CONTENT_TYPE) if body else None  # HTTP clients set it themselves, data or not
    for header, value in headers.items():
        name = header.lower().removeprefix(PREFIX)
        if name == header.lower():
            continue
        text = _text(value)
        if fault := _fault(name, text, attributes):
            issues.append(Issue(pointer(name[:64]), fault))
        elif text is not None:
            attributes[name] = text
    if content_type is not None:
        attributes["datacontenttype"] = content_type
    written = b"".join(b"%b:%b," % (orjson.dumps(name), orjson.dumps(text)) for name, text in attributes.items())
    return b'{%b"data":%b}' % (written, as_json(body, content_type, max_depth) if body else b"null"), issues


def _fault(name: str, text: str | None, attributes: Mapping[str, str]) -> str | None:
    if name in ("data", "data_base64"):
        return f"is the body of the request; leave out the header {PREFIX}{name}"
    if name == "datacontenttype":
        return f"is the header Content-Type; leave out {PREFIX}{name}"
    if name in attributes:
        return f"the header {PREFIX}{name} is there more than once; send one"
    if text is None:
        return f"the header {PREFIX}{name} is not text in UTF-8 that is percent-encoded where it is not ASCII"
    return None


def _text(value: str) -> str | None:
    """Read the value of a header: without its quotes, and with what is percent-encoded decoded once; None for what is no text."""
    quoted = _QUOTED.fullmatch(value)
    plain = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if _BROKEN_ESCAPE.search(plain):
        return None
    try:
        return unquote_to_bytes(plain.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        return None
