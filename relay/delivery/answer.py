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
FRAMED_BYTES = 2 * READ_BYTES
"""How much is read of a body with what frames it: sizes of chunks, their extensions, trailers."""
HEAD_BYTES = 64 * 1024
FIELDS_MAX = 200
"""How many fields of a head count; what comes after them is read past."""
KEPT_HEADERS = 64
KEPT_VALUE = 1024
SECONDS_DIGITS = 10
SECONDS_MAX = 10**SECONDS_DIGITS  # three centuries: whoever reads it has a limit of an hour or so

Field = tuple[bytes, bytes]
Bytes = bytes | bytearray

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
    framed_size: int = 0  # of all that came since the head
    ended: bool = False  # no more of it is read
    rest: "asyncio.Future[None] | None" = None  # done at `ended`, for whoever waits

    def add(self, data: Bytes) -> None:
        """Take a piece of the body, and keep what still belongs to the excerpt."""
        if self.size < EXCERPT_BYTES:
            self.body += data[: EXCERPT_BYTES - self.size]
        self.size += len(data)

    @property
    def is_enough(self) -> bool:
        """Whether no more of the body is worth reading."""
        return self.size > READ_BYTES or self.framed_size > FRAMED_BYTES

    @property
    def is_success(self) -> bool:
        """Whether the receiver has taken the message."""
        return 200 <= self.status < 300


_BLANK = rb"[ \t\v\f\r\x1c-\x1f\x85\xa0]"  # what C and Python take for one
_STATUS_LINE = re.compile(rb"[\r\n]*HTTP/[0-9.]+%b+([0-9]{3})(?:%b[^\n]*)?\n" % (_BLANK, _BLANK))
_END_OF_HEAD = re.compile(rb"\n\r*\n")
_FIELD = re.compile(rb"^([^:\r\n]+?)[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r*$", re.MULTILINE)
_LENGTH = re.compile(rb"[0-9]{1,9}")


def end_of_head(raw: Bytes, known: int = 0) -> int:
    """Return where the first head ends, sound or odd; 0 while it has no end. `known`: bytes that hold no end, as was seen.

    O(what is new and the line before it).
    """
    if raw.find(b"\n", known) < 0:
        return 0
    match = _END_OF_HEAD.search(raw, max(0, raw.rfind(b"\n", 0, known)))
    return match.end() if match else 0


def check_begun(raw: Bytes) -> None:
    """Raise `NotHTTP` for what cannot become a head, as it has no status line. O(the first line)."""
    if not _STATUS_LINE.match(raw):
        begun = raw.lstrip(b"\r\n")
        if b"\n" in begun or begun[:5] != b"HTTP/"[: len(begun)]:
            raise NotHTTP


def read_odd_head(raw: Bytes) -> Answer | None:
    """Read a head, perhaps an interim one, that a strict parser refuses, as curl and Python's `http.client` do.

    A status line is all that counts: bare line feeds, blanks before a colon, lines without one, lengths that contradict
    each other are read past. None while the head has no end; `NotHTTP` when there is no status line.
    """
    check_begun(raw)
    status = _STATUS_LINE.match(raw)
    if not status or not end_of_head(raw):
        return None
    return Answer(int(status[1]), _FIELD.findall(raw, status.end())[:FIELDS_MAX])


def is_interim(status: int) -> bool:
    """Whether another answer follows one of this status on the same request."""
    return 100 <= status < 200 and status != 101


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
