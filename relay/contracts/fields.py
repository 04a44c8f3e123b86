"""What the variables of templates stand for, and the forms in which times are written."""

import hashlib
import re
import zlib
from binascii import b2a_base64, hexlify
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from typing import NamedTuple
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


def _base64(raw: bytes) -> bytes:
    return b2a_base64(raw, newline=False)


def _base64url(raw: bytes) -> bytes:
    return _base64(raw).translate(bytes.maketrans(b"+/", b"-_"))


ENCODINGS: Mapping[str, Callable[[bytes], bytes]] = {"hex": hexlify, "base64": _base64, "base64url": _base64url}


@lru_cache(maxsize=64)
def _second(unix_s: int) -> bytes:
    """Write a second in UTC, without its zone. Cached: the events of one second share it."""
    return (_EPOCH + timedelta(seconds=unix_s)).isoformat(timespec="seconds").encode()[:-6]


TIME_FORMATS: Mapping[str, Callable[[int], bytes]] = {
    "unix": lambda time_ms: b"%d" % (time_ms // 1000),
    "unix_ms": lambda time_ms: b"%d" % time_ms,
    "iso": lambda time_ms: _second(time_ms // 1000) + b"Z",
    "iso_ms": lambda time_ms: _second(time_ms // 1000) + b".%03dZ" % (time_ms % 1000),
    "rfc3339": lambda time_ms: _second(time_ms // 1000) + b"+00:00",
}
"""`unix` and `unix_ms` count from 1970; `iso` ends in Z, `iso_ms` has three digits more, `rfc3339` ends in +00:00."""


def parse_time_ms(text: str, time_format: str) -> int:
    """Read a time that was written in one of `TIME_FORMATS`; ValueError for anything else."""
    if time_format in ("unix", "unix_ms"):
        return int(text) * (1000 if time_format == "unix" else 1)
    return units.parse_time_ms(text)


def _sha256(message: Message, encode: Callable[[bytes], bytes]) -> bytes:
    return encode(hashlib.sha256(message.body).digest())


def _sent_at(message: Message, write: Callable[[int], bytes]) -> bytes:
    return write(message.timestamp_ms)


MESSAGE_READERS: Mapping[str, Callable[[Message], bytes]] = {
    "body": lambda message: message.body,
    "id": lambda message: message.id.encode(),
    "event": lambda message: message.type.encode(),
    "type": lambda message: message.type.encode(),
    "attempt": lambda message: b"%d" % message.attempt,
    "crc32": lambda message: b"%d" % zlib.crc32(message.body),
    "sha256": lambda message: _sha256(message, hexlify),
    **{f"sha256:{name}": partial(_sha256, encode=encode) for name, encode in ENCODINGS.items()},
    **{f"timestamp:{name}": partial(_sent_at, write=write) for name, write in TIME_FORMATS.items()},
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


_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def _uuid(event_id: str) -> bytes:
    """Return an id that is a UUID as it is, and for any other always the same one, of the form of version 4."""
    if _UUID.fullmatch(event_id):
        return event_id.lower().encode()
    digest = hashlib.blake2b(event_id.encode(), digest_size=16, person=b"event id").digest()
    return str(UUID(bytes=digest, version=4)).encode()


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
    "data": lambda event: event.data.raw,
    **{f"timestamp:{name}": partial(_happened_at, write=write) for name, write in TIME_FORMATS.items()},
    **{f"created_at:{name}": partial(_created_at, write=write) for name, write in TIME_FORMATS.items()},
    "timestamp:naive_us": _happened_us,
    "created_at:naive_us": lambda event: _naive_us(event.created_at_ms * 1000),
}
"""Variables of the body. `naive_us` is `2023-02-13 13:09:42.654463`: UTC without its zone, always six digits."""

JSON_VALUES = frozenset(
    {"data"} | {f"{name}:{form}" for name in ("timestamp", "created_at") for form in ("unix", "unix_ms")}
)
"""Variables that are a JSON value by themselves; all others are text and stand in quotes."""

_MESSAGE = frozenset(MESSAGE_READERS) | {"timestamp", "url", "method", "path", "endpoint_id"}
_SHOWN = _MESSAGE - {"body"}  # a body does not fit in a header

CONTENT_VARIABLES = _MESSAGE | {"secret", "n"}
EACH_VARIABLES = _SHOWN | {"sig", "n"}
VALUE_VARIABLES = _SHOWN | {"sigs"}
HEADER_VARIABLES = _SHOWN | {"secret"}
BODY_VARIABLES = frozenset(RENDERING_READERS)
TEST_VARIABLES = frozenset({"endpoint_id", "application_id"})
