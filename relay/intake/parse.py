"""From the bytes of a request to an event as posted: UTF-8, depth, JSON, then member by member.

An event is decoded at once when it is right, and explained member by member when it is not. Its payload stays the exact
slice of the body.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import accumulate
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec

from relay.contracts import Contract, payload
from relay.core.errors import RelayError
from relay.core.issues import MISTAKES_MAX, Invalid, Issue, nearest, pointer
from relay.core.units import unix_ms

T = TypeVar("T")

KEY_CHARACTERS_MAX = 255
METADATA_BYTES_MAX = 16 << 10
DELIVER_AT_DAYS_MAX = 30
AIMED_MAX = 100
"""Endpoints that one event may name."""


_DAY_MS = 86_400_000
_YEAR_9999_MS = 253_370_764_800_000
_SHOWN_CHARACTERS = 64
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_VISIBLE = re.compile(rf"[!-~]{{1,{KEY_CHARACTERS_MAX}}}")

# Possessive, and with its end optional, so that it never goes back: an unfinished string costs no more than a whole one.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class Malformed(RelayError):
    """The body is no JSON in UTF-8, or is nested too deeply."""


class BatchTooLarge(RelayError):
    """A batch has more events than are taken at once."""


def screen(body: bytes, max_depth: int) -> None:
    """Raise Malformed for what is not UTF-8, or nested deeper than `max_depth` arrays and objects.

    The JSON decoder skips over strings it only passes on, and recurses without a limit of ours.
    """
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"The body is not UTF-8 (byte {error.start}).") from None
    if is_deeper(body, max_depth):
        detail = f"The body is nested too deeply; {max_depth} levels are allowed (server.max_depth)"
        raise Malformed(detail, remedy="Send flatter data.")


def is_deeper(body: bytes, max_depth: int) -> bool:
    """Whether JSON text opens more than `max_depth` arrays and objects inside one another.

    No text is deeper than the number of its opening brackets, which settles most cases. The exact count holds up to the
    first error of what is no JSON, and there the decoder stops.
    """
    if body.count(b"[") + body.count(b"{") <= max_depth:
        return False
    brackets = _STRING.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > max_depth


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


def screen_json(text: bytes, max_depth: int) -> None:
    """Raise Malformed for what `screen` refuses, and for what is no JSON."""
    screen(text, max_depth)
    try:
        _BATCH.decode(b"[" + text + b"]")
    except _NOT_DECODED as error:
        _slices(payload.items, b"[" + text + b"]", error)


class Posted(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One event as posted. `data` and `metadata` are the exact slices of the body, which must stay in memory."""

    type: str
    data: msgspec.Raw
    application: str | None = None
    id: str | None = None
    idempotency_key: str | None = None
    timestamp: Moment | None = None
    metadata: msgspec.Raw = msgspec.Raw()  # a union of Raw and None does not decode (msgspec 0.22)
    deliver_at: Moment | None = None
    expires_at: Moment | None = None
    ordering_key: str | None = None
    endpoints: list[str] | None = None

    @property
    def identity(self) -> bytes | None:
        """What no two different events share, where the producer says such a thing."""
        return None if self.id is None else b"id\0" + self.id.encode()


class Form(NamedTuple):
    """How an event is written: in the relay's own members, or as another standard has them."""

    read: Callable[..., tuple[Posted, list[Issue]]]  # of a body, and of whether to `suggest`; Malformed, Invalid
    misplaced: Callable[[Contract, Posted], Iterable[Issue]]  # what of it its contract has no place for
    place: Callable[[str], str]  # where its producer wrote what a pointer into the relay's own members names

    def refusal(self, error: RelayError) -> RelayError:
        """Return a refusal whose mistakes stand where the producer made them."""
        if isinstance(error, Invalid):
            error.issues = tuple(replace(issue, path=self.place(issue.path)) for issue in error.issues)
        return error


def read(body: bytes | msgspec.Raw, *, suggest: bool = True) -> tuple[Posted, list[Issue]]:
    """Decode one event; Malformed for what is not JSON. All other mistakes are listed, and placeholders take their place.

    Where nobody would be shown them, it does not `suggest` what was meant by unknown members.
    """
    try:
        return _EVENT.decode(body), []
    except msgspec.ValidationError:
        return _explain(members_of(body), suggest)
    except _NOT_DECODED as error:
        return _explain(_slices(payload.members, bytes(body), error), suggest)


def read_batch(body: bytes, max_items: int) -> Sequence[msgspec.Raw]:
    """Split a JSON array into its items; Malformed or Invalid for what is not one, BatchTooLarge for too many."""
    try:
        items = _BATCH.decode(body)
    except msgspec.ValidationError:
        items = None
    except _NOT_DECODED as error:
        slices = _slices(payload.items, body, error)
        items = None if slices is None else [msgspec.Raw(item) for item in slices]
    if items is None:
        raise Invalid([Issue("", "must be a JSON array of events")])
    if len(items) > max_items:
        raise BatchTooLarge(f"A batch may have {max_items} events", remedy="Send several batches.")
    return items


def check(posted: Posted, now_ms: int) -> Iterator[Issue]:
    """Yield what is wrong with values whose types are right."""
    if posted.id is not None and not _ID.fullmatch(posted.id):
        yield Issue("/id", "must be 1 to 64 of A-Z a-z 0-9 _ and -")
    if posted.idempotency_key is not None and (fault := key_fault(posted.idempotency_key)):
        yield Issue("/idempotency_key", fault)
    if posted.ordering_key is not None and (fault := key_fault(posted.ordering_key)):
        yield Issue("/ordering_key", fault)
    if posted.endpoints is not None and not 1 <= len(posted.endpoints) <= AIMED_MAX:
        yield Issue("/endpoints", f"must name 1 to {AIMED_MAX} endpoints; leave it out for all that subscribe")
    metadata = given_bytes(posted.metadata)
    if metadata is not None:
        yield from _check_metadata(metadata)
    if posted.timestamp is not None or posted.deliver_at is not None or posted.expires_at is not None:
        yield from _check_times(posted, now_ms)


def key_fault(key: str) -> str | None:
    """Return None for a lawful idempotency or ordering key, else what it must be."""
    if _VISIBLE.fullmatch(key):
        return None
    return f"must be 1 to {KEY_CHARACTERS_MAX} visible ASCII characters, without blanks"


def given_bytes(raw: msgspec.Raw) -> bytes | None:
    """Return JSON as it was posted; None when it was left out or null."""
    given = bytes(raw)
    return None if given in (b"", b"null") else given


def given_ms(moment: datetime | None) -> int | None:
    """Return unix milliseconds of a time that may have been left out."""
    return None if moment is None else unix_ms(moment)


def _check_metadata(metadata: bytes) -> Iterator[Issue]:
    if not metadata.startswith(b"{"):
        yield Issue("/metadata", _MUST["metadata"])
    if len(metadata) > METADATA_BYTES_MAX:
        yield Issue("/metadata", f"must be at most {METADATA_BYTES_MAX} bytes of JSON, not {len(metadata)}")


def _check_times(posted: Posted, now_ms: int) -> Iterator[Issue]:
    timestamp_ms, deliver_at_ms, expires_at_ms = map(given_ms, (posted.timestamp, posted.deliver_at, posted.expires_at))
    if timestamp_ms is not None and not 0 <= timestamp_ms < _YEAR_9999_MS:
        yield Issue("/timestamp", "must be between 1970 and 9998")
    if deliver_at_ms is not None and deliver_at_ms > now_ms + DELIVER_AT_DAYS_MAX * _DAY_MS:
        yield Issue("/deliver_at", f"must be at most {DELIVER_AT_DAYS_MAX} days from now")
    if expires_at_ms is None:
        return
    if expires_at_ms >= _YEAR_9999_MS:
        yield Issue("/expires_at", "must be before 9999")
    if expires_at_ms <= now_ms:
        yield Issue("/expires_at", "must be in the future; leave it out for an event that does not expire")
    elif deliver_at_ms is not None and expires_at_ms <= deliver_at_ms:
        yield Issue("/expires_at", "must be after deliver_at")


_TIME = 'must be a time with its zone, such as "2026-11-22T08:30:00Z"'
_MUST = {
    "type": 'must be text, such as "render.completed"',
    "data": "must be JSON",
    "application": "must be the id of an application, as text",
    "id": "must be text: 1 to 64 of A-Z a-z 0-9 _ and -",
    "idempotency_key": f"must be text: 1 to {KEY_CHARACTERS_MAX} visible ASCII characters",
    "timestamp": _TIME,
    "metadata": "must be a JSON object",
    "deliver_at": _TIME,
    "expires_at": _TIME,
    "ordering_key": f"must be text: 1 to {KEY_CHARACTERS_MAX} visible ASCII characters",
    "endpoints": 'must be a list of ids of endpoints, such as ["primary"]',
}
_REQUIRED = ("type", "data")
_EVENT = msgspec.json.Decoder(Posted)
_BATCH = msgspec.json.Decoder(list[msgspec.Raw])
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_DECODERS: Mapping[str, msgspec.json.Decoder[Any]] = {
    field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(Posted)
}
"""For each member what decodes it alone."""

_NOT_DECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def members_of(body: bytes | msgspec.Raw) -> Mapping[str, bytes | msgspec.Raw] | None:
    """Return the members of a JSON object as slices; None for another value, Malformed for what is no JSON."""
    try:
        return _MEMBERS.decode(body)
    except msgspec.ValidationError:
        return None
    except _NOT_DECODED as error:
        return _slices(payload.members, bytes(body), error)


def _slices(cut: Callable[[bytes], T], body: bytes, error: Exception) -> T:
    """Cut up what the decoder refused for a lone surrogate alone; Malformed for what is no JSON."""
    if payload.may_hold_surrogates(body):
        try:
            return cut(body)
        except _NOT_DECODED as another:
            error = another
    # The decoder's words name positions, never content.
    reason = str(error) if isinstance(error, msgspec.DecodeError) else "JSON is malformed"
    raise Malformed(reason, remedy="Send one JSON value, in UTF-8 without a byte order mark.") from None


def _explain(members: Mapping[str, bytes | msgspec.Raw] | None, suggest: bool) -> tuple[Posted, list[Issue]]:
    """Decode member by member, so that every mistake is found. `data` is taken as it is, whatever its strings hold."""
    if members is None:
        example = 'must be a JSON object, such as {"type": "render.completed", "data": {"id": 7}}'
        raise Invalid([Issue("", example)])
    mistakes = [Issue(f"/{name}", f"is missing: it {_MUST[name]}") for name in _REQUIRED if name not in members]
    mistakes.extend(_unknown_members([name for name in members if name not in _MUST], suggest))
    values: dict[str, Any] = {"type": "", "data": msgspec.Raw(bytes(members.get("data", b"null")))}
    for name, decoder in _DECODERS.items():
        if name not in members or name == "data":
            continue
        try:
            values[name] = decoder.decode(members[name])
        except (msgspec.DecodeError, UnicodeDecodeError):
            mistakes.append(Issue(f"/{name}", _MUST[name]))
    return Posted(**values), mistakes


def _unknown_members(names: Sequence[str], suggest: bool) -> Iterator[Issue]:
    for name in names[:MISTAKES_MAX]:
        shown = name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…"
        shown = shown.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be sent back as it is
        near = nearest(shown, _MUST) if suggest else None
        hint = f'did you mean "{near}"?' if near else f"the members are {', '.join(_MUST)}"
        yield Issue(pointer(shown), f"is not a member of an event; {hint}")
    if len(names) > MISTAKES_MAX:
        yield Issue("", f"has {len(names) - MISTAKES_MAX} more members that an event does not have")
