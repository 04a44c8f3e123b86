"""What the variables of templates stand for, and the forms in which times are written."""

import hashlib
import re
import zlib
from binascii import b2a_base64, hexlify
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

from relay.contracts.payload import Payload
from relay.core import units
from relay.core.urls import request_path

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Message(NamedTuple):
    """One attempt, as far as headers and signatures are concerned."""

    id: str
    type: str
    timestamp_ms: int  # wall clock of the attempt
    body: bytes
    attempt: int = 1


class Rendering(NamedTuple):
    """One event, as far as its body is concerned."""

    id: str
    type: str
    timestamp_ms: int  # when it happened, as the producer says
    created_at_ms: int  # when it was accepted
    data: Payload
    timestamp_us: int | None = None  # `timestamp_ms` to the microsecond, where the producer said so
    metadata: Payload | None = None


def stem(variable: str) -> str:
    """Return a variable's name without its format."""
    return variable.partition(":")[0]


def _base64(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False)


def _base64url(raw: bytes) -> bytes:
    return _base64(raw).translate(bytes.maketrans(b"+/", b"-_"))


ENCODINGS: Mapping[str, Callable[[bytes], bytes]] = {"hex": hexlify, "base64": _base64, "base64url": _base64url}


DIGESTS = ("md5", "sha1", "sha256", "sha512")


@lru_cache(maxsize=64)
def _second(unix_s: int) -> bytes:
    """Write a second in UTC, without its zone. Cached: the events of one second share it."""
    return (_EPOCH + timedelta(seconds=unix_s)).isoformat(timespec="seconds").encode()[:-6]


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _http_date(time_ms: int) -> bytes:
    """Write a time as HTTP does (RFC 9110, IMF-fixdate), in whatever language the host speaks."""
    at = _EPOCH + timedelta(seconds=time_ms // 1000)
    return f"{_DAYS[at.weekday()]}, {at:%d} {_MONTHS[at.month - 1]} {at:%Y %H:%M:%S} GMT".encode()


TIME_FORMATS: Mapping[str, Callable[[int], bytes]] = {
    "unix": lambda time_ms: b"%d" % (time_ms // 1000),
    "unix_ms": lambda time_ms: b"%d" % time_ms,
    "iso": lambda time_ms: _second(time_ms // 1000) + b"Z",
    "iso_ms": lambda time_ms: _second(time_ms // 1000) + b".%03dZ" % (time_ms % 1000),
    "rfc3339": lambda time_ms: _second(time_ms // 1000) + b"+00:00",
    "http": _http_date,
}
"""`unix` and `unix_ms` count from 1970; `iso` ends in Z, `iso_ms` has three digits more, `rfc3339` ends in +00:00;
`http` is `Sun, 06 Nov 1994 08:49:37 GMT`."""


def parse_time_ms(text: str, time_format: str) -> int:
    """Read a time that was written in one of `TIME_FORMATS`; ValueError for anything else."""
    if time_format in ("unix", "unix_ms"):
        return int(text) * (1000 if time_format == "unix" else 1)
    if time_format == "http":
        return int(parsedate_to_datetime(text).timestamp()) * 1000
    return units.parse_time_ms(text)


_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def _uuid(event_id: str) -> bytes:
    """Return an id that is a UUID as it is, and for any other always the same one, of the form of version 4."""
    if _UUID.fullmatch(event_id):
        return event_id.lower().encode()
    digest = hashlib.blake2b(event_id.encode(), digest_size=16, person=b"event id").digest()
    return str(UUID(bytes=digest, version=4)).encode()


def _digest(message: Message, name: str, encode: Callable[[bytes], bytes]) -> bytes:
    return encode(hashlib.new(name, message.body, usedforsecurity=False).digest())


def _sorted_fields(message: Message) -> bytes:
    """Write the fields of a form as Twilio signs them: sorted by name and text, each once, with nothing between them."""
    fields = parse_qsl(message.body.decode(), keep_blank_values=True, max_num_fields=None)
    return "".join(name + value for name, value in sorted(set(fields))).encode()


def _sent_at(message: Message, write: Callable[[int], bytes]) -> bytes:
    return write(message.timestamp_ms)


MESSAGE_READERS: Mapping[str, Callable[[Message], bytes]] = {
    "body": lambda message: message.body,
    "id": lambda message: message.id.encode(),
    "event": lambda message: message.type.encode(),
    "type": lambda message: message.type.encode(),
    "attempt": lambda message: b"%d" % message.attempt,
    "crc32": lambda message: b"%d" % zlib.crc32(message.body),
    "id:uuid": lambda message: _uuid(message.id),
    "sha256": partial(_digest, name="sha256", encode=hexlify),
    **{
        f"{digest}:{name}": partial(_digest, name=digest, encode=encode)
        for digest in DIGESTS
        for name, encode in {**ENCODINGS, "raw": bytes}.items()
    },
    "sorted_fields": _sorted_fields,
    **{
        f"{time}:{name}": partial(_sent_at, write=write)
        for time in ("timestamp", "sent_at")
        for name, write in TIME_FORMATS.items()
    },
}
"""Variables that differ from attempt to attempt. `{timestamp}` alone takes the contract's own format."""


def message_readers(
    timestamp_format: str, variables: Iterable[str]
) -> tuple[tuple[str, Callable[[Message], bytes]], ...]:
    """Pick the readers for those of `variables` that come from the message."""
    readers = {**MESSAGE_READERS, "timestamp": MESSAGE_READERS[f"timestamp:{timestamp_format}"]}
    return tuple((name, readers[name]) for name in sorted(set(variables)) if name in readers)


def endpoint_values(url: str, endpoint_id: str) -> dict[str, bytes]:
    """Return the variables that are the same for every attempt to one endpoint; `{path}` has the query with it."""
    path = request_path(url).encode()
    return {"url": url.encode(), "method": b"POST", "path": path, "endpoint_id": endpoint_id.encode()}


def _naive_us(time_us: int) -> bytes:
    seconds, us = divmod(time_us, 1_000_000)
    return _second(seconds).replace(b"T", b" ") + b".%06d" % us


def _happened_at(event: Rendering, write: Callable[[int], bytes]) -> bytes:
    return write(event.timestamp_ms)


def _created_at(event: Rendering, write: Callable[[int], bytes]) -> bytes:
    return write(event.created_at_ms)


def _happened_us(event: Rendering) -> bytes:
    return _naive_us(event.timestamp_ms * 1000 if event.timestamp_us is None else event.timestamp_us)


RENDERING_READERS: Mapping[str, Callable[[Rendering], bytes]] = {
    "id": lambda event: event.id.encode(),
    "id:uuid": lambda event: _uuid(event.id),
    "type": lambda event: event.type.encode(),
    "event": lambda event: event.type.encode(),
    **{
        f"{time}:{name}": partial(_happened_at, write=write)
        for time in ("timestamp", "occurred_at")
        for name, write in TIME_FORMATS.items()
    },
    **{f"created_at:{name}": partial(_created_at, write=write) for name, write in TIME_FORMATS.items()},
    "timestamp:naive_us": _happened_us,
    "occurred_at:naive_us": _happened_us,
    "created_at:naive_us": lambda event: _naive_us(event.created_at_ms * 1000),
}
"""Variables of the body. `naive_us` is `2023-02-13 13:09:42.654463`: UTC without its zone, always six digits."""

_ENDPOINT = frozenset({"url", "method", "path", "endpoint_id"})

GAP_VARIABLES = frozenset(f"sent_at:{form}" for form in TIME_FORMATS) | {"attempt", "url", "endpoint_id"}
"""Variables of the body that only an attempt knows, as it does the signatures inside the body."""

COUNTED = frozenset(
    f"{time}:{form}" for time in ("timestamp", "occurred_at", "created_at", "sent_at") for form in ("unix", "unix_ms")
) | {"attempt"}
"""Variables that are a number where they stand alone; the others of these are text."""

EVENT_TIMES = frozenset(name for name in RENDERING_READERS if name.startswith(("occurred_at:", "created_at:")))
"""Variables that are frozen with the body for headers and signatures, as parts of data and metadata are."""

_MESSAGE = frozenset(MESSAGE_READERS) | _ENDPOINT | {"timestamp"}
OF_BODY = frozenset(name for name in MESSAGE_READERS if stem(name) in {"body", "crc32", "sorted_fields", *DIGESTS})
"""Variables that are made of the body: no signature inside it can cover them."""

_UNSHOWN = {"body", "sorted_fields", *(f"{digest}:raw" for digest in DIGESTS)}  # what does not fit in a header
_SHOWN = _MESSAGE - _UNSHOWN
_RETRY = frozenset({"retry", "retry_reason"})

CONTENT_VARIABLES = _MESSAGE | EVENT_TIMES | {"secret", "n", "data", "metadata"}
EACH_VARIABLES = _SHOWN | {"sig", "n"}
VALUE_VARIABLES = _SHOWN | {"sigs"}
HEADER_VARIABLES = _SHOWN | EVENT_TIMES | {"secret"}
RETRY_HEADER_VARIABLES = HEADER_VARIABLES - {"secret"} | _RETRY
BODY_VARIABLES = frozenset(RENDERING_READERS) | GAP_VARIABLES | {"data", "metadata"}
TEST_VARIABLES = frozenset({"endpoint_id", "application_id"})
CHALLENGE_VARIABLES = frozenset({"challenge"})
