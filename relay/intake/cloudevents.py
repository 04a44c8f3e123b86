"""CloudEvents 1.0.2 as events of the relay: attributes become what the relay calls them, and none is lost.

`id` and `source` together are what makes a repetition one. What the relay has no word for is kept as metadata, from which the
contracts for CloudEvents send it on.
"""

import re
from binascii import Error as NotBase64
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec
import orjson

from relay.contracts import Contract
from relay.core.issues import MISTAKES_MAX, Invalid, Issue, keys_of, pointer
from relay.intake.parse import METADATA_BYTES_MAX, Form, Malformed, Moment, Posted, members_of, screen_json
from relay.intake.rules import bounded, misplaced

KEPT = ("id", "source", "subject", "time", "dataschema", "datacontenttype")
"""Attributes that become metadata of the same name; extensions become its member `extensions`."""

_REQUIRED = ("specversion", "id", "source", "type")
_DATA = ("data", "data_base64")

_NAME = re.compile(r"[a-z0-9]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_REFERENCE = re.compile(r"(?:[!#$&'()*+,./0-9:;=?@A-Z\[\]_a-z~-]|%[0-9A-Fa-f]{2})+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.")
_MEDIA_TYPE = re.compile(r"[!#$&^_.+A-Za-z0-9-]+/[!#$&^_.+A-Za-z0-9-]+\s*(?:;.*)?")
_INTEGERS = range(-(1 << 31), 1 << 31)
_MOMENT = msgspec.json.Decoder(Moment)


class CloudEvent(Posted, forbid_unknown_fields=True, gc=False):
    """A CloudEvent as an event that is posted."""

    origin: bytes | None = None  # its source and id, which no two different events share
    content_type: str | None = None
    partition: str | None = None  # what it is ordered by, where an order is kept

    @property
    def identity(self) -> bytes | None:
        return self.origin


def cloudevents(max_depth: int, application: str | None = None, found: Iterable[Issue] = ()) -> Form:
    """Return the form of CloudEvents in JSON, which are for one application; `found` is what is wrong with them already."""

    def read(body: bytes | msgspec.Raw, *, suggest: bool = True) -> tuple[Posted, list[Issue]]:
        members = members_of(body)
        if members is None:
            example = '{"specversion": "1.0", "id": "7", "source": "/renders", "type": "render.completed"}'
            raise Invalid([Issue("", f"must be a CloudEvent as a JSON object, such as {example}")])
        attributes, issues = _attributes(members, found)
        data = msgspec.Raw(_data(members, attributes.get("datacontenttype"), max_depth, issues))
        return _event(attributes, data, application, issues), issues

    return Form(read, _misplaced, place_of)


def is_json(content_type: str | None) -> bool:
    """Whether data of a content type are JSON; those that name none are."""
    essence = "" if content_type is None else content_type.partition(";")[0].strip().lower()
    return not essence or essence.endswith(("/json", "+json"))


def place_of(path: str) -> str:
    """Return the attribute that holds what a pointer into an event of the relay's own form names."""
    name, *rest = keys_of(path) or [""]
    if name == "metadata":
        return pointer(*rest[rest[:1] == ["extensions"] :])
    return _PLACES.get(name, path)


_PLACES = {
    "timestamp": "/time",
    "expires_at": "/expirytime",
    "application": "",
}


def _event(attributes: dict[str, Any], data: msgspec.Raw, application: str | None, issues: list[Issue]) -> CloudEvent:
    event_id, source = attributes.get("id"), attributes.get("source")
    extensions = {name: value for name, value in attributes.items() if name not in _FORMS or name in _EXTENSIONS}
    metadata: dict[str, Any] = {name: attributes[name] for name in KEPT if name in attributes}
    kept = orjson.dumps(metadata | {"extensions": extensions} if extensions else metadata)
    if len(kept) > METADATA_BYTES_MAX:
        message = f"has {len(kept)} bytes of attributes beside its type; there may be {METADATA_BYTES_MAX}"
        issues.append(Issue("", message))
        kept = b""
    return CloudEvent(
        type=attributes.get("type", ""),
        data=data,
        application=application,
        timestamp=_moment(attributes.get("time")),
        expires_at=_moment(attributes.get("expirytime")),
        metadata=msgspec.Raw(kept),
        origin=None if event_id is None or source is None else f"cloudevent\0{source}\0{event_id}".encode(),
        content_type=attributes.get("datacontenttype"),
        partition=attributes.get("partitionkey"),
    )


def _misplaced(contract: Contract, posted: Posted) -> Iterator[Issue]:
    """Yield what of an event its contract cannot carry; what it is partitioned by orders it where an order is kept."""
    assert isinstance(posted, CloudEvent), "it reads no others"
    if posted.partition is not None and contract.ordering != "none":
        posted.ordering_key = bounded(posted.partition)
    if contract.document.body.kind == "data" and not is_json(posted.content_type):
        sends = f'the contract "{contract.name}" sends data alone, and all of them as {contract.content_type}'
        yield Issue("/datacontenttype", f"{sends}; send JSON")
    yield from misplaced(contract, posted)


# -- attributes --------------------------------------------------------------------------------------------------------


def _attributes(
    members: Mapping[str, bytes | msgspec.Raw], found: Iterable[Issue]
) -> tuple[dict[str, Any], list[Issue]]:
    """Return the attributes that are sound, and what is wrong with the others. One that is null counts as left out."""
    attributes: dict[str, Any] = {}
    issues = list(found)
    for name, raw in members.items():
        if name in _DATA or bytes(raw).strip() == b"null":
            continue
        value = _value(raw)
        fault = _fault(name, value)
        if fault is None:
            attributes[name] = value
        elif len(issues) < MISTAKES_MAX:
            issues.append(Issue(pointer(name[:64].encode("utf-8", "backslashreplace").decode()), fault))
    wrong = {issue.path for issue in issues}
    missing = [name for name in _REQUIRED if name not in attributes and f"/{name}" not in wrong]
    issues += (Issue(f"/{name}", f"is missing: it {_FORMS[name][1]}") for name in missing)
    return attributes, issues


def _value(raw: bytes | msgspec.Raw) -> Any:
    """Return a text, whole number, true or false; the empty list for anything else."""
    try:
        value = orjson.loads(bytes(raw))
    except orjson.JSONDecodeError:  # a lone surrogate
        return []
    return value if isinstance(value, str | bool | int) else []


def _fault(name: str, value: Any) -> str | None:
    if not _NAME.fullmatch(name):
        return "is no attribute of a CloudEvent: their names are small letters and digits"
    if isinstance(value, str) and _CONTROL.search(value):
        return "holds a control character; leave it out"
    if name in _FORMS:
        fits, must = _FORMS[name]
        return None if isinstance(value, str) and value and fits(value) else must
    if isinstance(value, int) and value not in _INTEGERS:
        return "must be a whole number of 32 bits; send a larger one as text"
    return None if isinstance(value, str | int) else "must be text, true, false or a whole number of 32 bits"


def _moment(text: str | None) -> datetime | None:
    """Return a time; None for what is none."""
    try:
        return None if text is None else _MOMENT.decode(orjson.dumps(text))
    except msgspec.DecodeError:
        return None


_TEXT = "must be text that is not empty"
_TIME = 'must be a time with its zone, such as "2026-11-22T08:30:00Z"'
_FORMS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "specversion": (lambda text: text == "1.0", 'must be "1.0"'),
    "id": (bool, _TEXT),
    "source": (_REFERENCE.fullmatch, 'must be a URI reference, such as "/renders" or "https://acme.example/renders"'),
    "type": (bool, _TEXT),
    "subject": (bool, _TEXT),
    "time": (_moment, _TIME),
    "dataschema": (
        lambda text: _REFERENCE.fullmatch(text) and _SCHEME.match(text),
        'must be a whole URI, such as "https://acme.example/render.json"',
    ),
    "datacontenttype": (_MEDIA_TYPE.fullmatch, 'must be a media type, such as "application/json"'),
    "partitionkey": (bool, _TEXT),
    "expirytime": (_moment, _TIME),
}
"""What attributes must be; those that are not here are extensions."""

_EXTENSIONS = ("partitionkey", "expirytime")
"""Documented extensions that the relay acts on; receivers see them as they see any other."""


# -- data --------------------------------------------------------------------------------------------------------------


def _data(
    members: Mapping[str, bytes | msgspec.Raw], content_type: str | None, max_depth: int, issues: list[Issue]
) -> bytes:
    """Return the data as JSON: text of another type is a JSON string, as the JSON format of CloudEvents writes it."""
    given, encoded = (bytes(members.get(name, b"null")) for name in _DATA)
    if encoded.strip() == b"null":
        return given
    if given.strip() != b"null":
        issues.append(Issue("/data_base64", "is there beside data; send one of them"))
        return b"null"
    try:
        return as_json(_decoded(encoded), content_type, max_depth)
    except Malformed as error:
        issues.append(Issue("/data_base64", f"holds what no event can carry: {error.detail.removesuffix('.')}"))
    except (NotBase64, ValueError):
        issues.append(Issue("/data_base64", "must be text in base64"))
    return b"null"


def _decoded(encoded: bytes) -> bytes:
    text = _value(encoded)
    if not isinstance(text, str):
        raise NotBase64
    return a2b_base64(text, strict_mode=True)


def as_json(data: bytes, content_type: str | None, max_depth: int) -> bytes:
    """Return data of a content type as JSON; Malformed for what is neither JSON nor text in UTF-8."""
    if is_json(content_type):
        screen_json(data, max_depth)
        return data
    try:
        return orjson.dumps(data.decode())
    except UnicodeDecodeError as error:
        detail = f"Data that are no JSON must be text in UTF-8 (byte {error.start} is not)."
        raise Malformed(detail, remedy="Send a link to them.") from None
