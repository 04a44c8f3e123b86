"""What a receiver answered, and what of it is kept. A complete head is an answer, whatever becomes of the body."""

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import islice

from relay.core.model import HeaderPair
from relay.core.terminal import printable

EXCERPT_BYTES = 16 * 1024
"""How much of a body is kept."""
READ_BYTES = 64 * 1024
"""How much of it is read so that the connection can be used again."""
HEAD_BYTES = 64 * 1024
KEPT_HEADERS = 64
KEPT_VALUE = 1024
SECONDS_DIGITS = 10
SECONDS_MAX = 10**SECONDS_DIGITS  # three centuries: whoever reads it has a limit of an hour or so

Field = tuple[bytes, bytes]

_CONTROL = b"webhook-delivery"
_CONTROLS = frozenset({"abort-message", "disable"})


class NotHTTP(Exception):
    """What came is no answer, or one whose head has no end."""


@dataclass(slots=True, eq=False)
class Answer:
    """One answer while it is read. Owned by its connection; its reader sees it from the end of the head on."""

    status: int = 0  # 0: the head is not complete
    fields: list[Field] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray, repr=False)
    size: int = 0  # of the body, as far as it came
    ended: bool = False  # no more of it is read
    rest: "asyncio.Future[None] | None" = None  # done at `ended`, for whoever waits

    def add(self, data: bytes) -> None:
        """Take a piece of the body, and keep what still belongs to the excerpt."""
        if self.size < EXCERPT_BYTES:
            self.body += data[: EXCERPT_BYTES - self.size]
        self.size += len(data)

    @property
    def is_success(self) -> bool:
        """Whether the receiver has taken the message."""
        return 200 <= self.status < 300


_BLANK = rb"[ \t\v\f\r\x1c-\x1f\x85\xa0]"  # what C and Python take for one
_STATUS_LINE = re.compile(rb"HTTP/[0-9.]+%b+([0-9]{3})(?:%b[^\n]*)?\n" % (_BLANK, _BLANK))
_END_OF_HEAD = re.compile(rb"\n\r*\n")
_FIELD = re.compile(rb"^([^:\r\n]+?)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r*$", re.MULTILINE)
_LENGTH = re.compile(rb"[0-9]{1,9}")


def read_odd_head(raw: bytes, *, final: bool = False) -> tuple[Answer, bytes] | None:
    """Read an answer whose head a strict parser refuses, as curl and Python's `http.client` do.

    A status line is all that counts: bare line feeds, blanks before a colon, lines without one, lengths that contradict
    each other are read past. Returns the answer and what follows its head; None while the head has no end. `final` says
    that nothing more comes, which ends a head of whole lines as well. `NotHTTP` when there is no status line.
    """
    while True:
        raw = raw.lstrip(b"\r\n")  # empty lines first
        status = _STATUS_LINE.match(raw)
        if not status and (b"\n" in raw or raw[:5] != b"HTTP/"[: len(raw)]):
            raise NotHTTP
        if final and raw.endswith(b"\n"):
            raw += b"\r\n"
        end = _END_OF_HEAD.search(raw)
        if not status or not end:
            return None
        code = int(status[1])
        if not 100 <= code < 200 or code == 101:
            return Answer(code, _FIELD.findall(raw, status.end(), end.end())), raw[end.end() :]
        raw = raw[end.end() :]  # an interim answer


def announced_length(fields: Iterable[Field]) -> int:
    """Return what the first `Content-Length` says; a great number when there is none that can be read."""
    for name, value in fields:
        length = _LENGTH.match(value)
        if name.lower() == b"content-length" and length:
            return int(length[0])
    return READ_BYTES


def control(fields: Iterable[Field]) -> str | None:
    """Return what the receiver asks for with `webhook-delivery`; None when it is no word that is known."""
    for name, value in fields:
        if len(name) == len(_CONTROL) and name.lower() == _CONTROL:
            word = value.decode("latin-1").strip().lower()
            return word if word in _CONTROLS else None
    return None


def retry_after(fields: Iterable[Field], now_ms: int) -> int | None:
    """Return the milliseconds that the receiver asks to be left alone for; None when it does not."""
    for name, value in fields:
        if len(name) == len(b"retry-after") and name.lower() == b"retry-after":
            return parse_retry_after(value.decode("latin-1"), now_ms)
    return None


def parse_retry_after(value: str, now_ms: int) -> int | None:
    """Read a `Retry-After` header, seconds or a date (RFC 9110 §10.2.3), as milliseconds from now; None for nonsense."""
    text = value.strip()
    if text.isascii() and text.isdigit():
        digits = text.lstrip("0")
        return 1000 * (int(digits or "0") if len(digits) <= SECONDS_DIGITS else SECONDS_MAX)
    try:
        date = parsedate_to_datetime(text)
        at_ms = date.replace(tzinfo=date.tzinfo or UTC).timestamp() * 1000
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return max(0, round(at_ms) - now_ms)


def kept_headers(fields: Iterable[Field]) -> tuple[HeaderPair, ...]:
    """Return the headers that are stored: bounded in number and length, as text."""
    pairs = islice(fields, KEPT_HEADERS)
    return tuple([HeaderPair(_text(name[:KEPT_VALUE]), _text(value[:KEPT_VALUE])) for name, value in pairs])


def _text(raw: bytes) -> str:
    return raw.decode() if raw.isascii() else printable(raw.decode("utf-8", "replace"))
