"""Canonical JSON: the bytes that `JSON.stringify(JSON.parse(raw))` gives in JavaScript (VAI-7, VAI-8).

Receivers that verify a signature over the parsed and re-stringified body can do so only if the body is its own canon.
Most documents need neither JavaScript's number format nor its key order: two native codecs write those. Any doubt, and
every mistake, goes to the slow path, which keeps each number as it was written.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NoReturn

import msgspec
import orjson

from relay.core.errors import RelayError
from relay.core.issues import pointer

Numbers = Literal["refuse", "round"]

DEPTH_MAX = 200
"""Arrays and objects inside one another. Node's `JSON.stringify` overflows its stack between 4,000 and 5,000."""

DIGITS_MAX = 17
"""Significant digits that tell any two doubles apart; what is longer was not meant to become a double."""

_ROUNDING = Decimal(2) ** -53
"""How far a double may be from the number it was read from, as a share of it; farther below the least normal double."""

_INDEX_MAX = 2**32 - 2
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_INDEX_KEY = re.compile(rb'"(?:0|[1-9][0-9]{0,9})":')
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS = {None: "null", True: "true", False: "false"}


class NotJson(RelayError):
    """The document is no JSON text in UTF-8, or is nested deeper than `DEPTH_MAX`."""


class LossyNumber(RelayError):
    """JavaScript would read another number than `literal`, which stands at `pointer` (RFC 6901)."""

    def __init__(self, pointer: str, literal: str) -> None:
        shown = literal if len(literal) <= 40 else f"{literal[:40]}…"
        super().__init__(
            f"The number {shown} at {pointer or 'the top'} would become {_number(float(literal))} in JavaScript.",
            remedy='Send it as a string, or set numbers = "round" in the contract.',
        )
        self.pointer = pointer
        self.literal = literal


def canonical(raw: bytes, *, numbers: Numbers = "refuse") -> bytes:
    """Return `raw` as JavaScript would write it: no blanks, its numbers, its key order, its escapes.

    Of a key that is there twice, the last value stays in the first place. A number is refused where JavaScript would
    write a whole number as another one, a fraction of more than 17 significant digits is not exactly a double, or a
    number is too large or too small for a double; `numbers="round"` writes what JavaScript would.

    Raises NotJson or LossyNumber.
    """
    plain = _write_plain(raw)
    return plain if plain is not None else _write_any(raw, numbers)


def _write_plain(raw: bytes) -> bytes | None:
    """Return the canonical bytes, or None for what the native codecs may read or write unlike JavaScript.

    Both are strict about UTF-8 and grammar, keep the order of keys and escape alike. What is left to doubt: floats
    (looked at while reading), integers beyond 53 bits (orjson refuses them), keys that are array indices, depth.
    """
    try:
        value = _PLAIN.decode(raw)
        written = orjson.dumps(value, option=orjson.OPT_STRICT_INTEGER)
    except (ValueError, TypeError, RecursionError):
        return None
    if _INDEX_KEY.search(written):
        return None
    if written.count(b"[") + written.count(b"{") > DEPTH_MAX and _is_too_deep(value):
        return None
    return written


class _NotPlain(ValueError):
    """A number that the slow path must look at."""


def _plain_float(literal: str) -> float:
    """Return a number that orjson writes as JavaScript does: decimal, no exponent, and no fraction if that is zero.

    A literal has a point or an exponent, so that one of 18 characters has at most 17 digits.
    """
    value = float(literal)
    if len(literal) > DIGITS_MAX + 1 and repr(value) != literal:
        raise _NotPlain
    if 1e-3 <= abs(value) < 1e15:
        return int(value) if value.is_integer() else value
    if value == 0 and not literal.strip("-0."):
        return 0
    raise _NotPlain


_PLAIN = msgspec.json.Decoder(float_hook=_plain_float)


def _is_too_deep(value: Any) -> bool:
    """Whether arrays and objects nest more than `DEPTH_MAX` levels; looks at one level after another."""
    level = _containers([value])
    for _ in range(DEPTH_MAX):
        level = _containers(
            child for outer in level for child in (outer.values() if isinstance(outer, dict) else outer)
        )
    return bool(level)


def _containers(values: Iterable[Any]) -> list[dict[str, Any] | list[Any]]:
    return [value for value in values if isinstance(value, dict | list)]


def _write_any(raw: bytes, numbers: Numbers) -> bytes:
    value = _parse(raw)
    if _is_too_deep(value):
        raise _too_deep()
    if numbers == "refuse":
        _refuse_lossy(value)
    return _SURROGATE.sub(_escape, _write(value)).encode()


@dataclass(frozen=True, slots=True)
class _Number:
    """A number as it was written."""

    literal: str


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode(), parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise NotJson(f"The document is not UTF-8 (byte {error.start}).", remedy="Send JSON in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"The document is no JSON: {error}.", remedy="Mend it.") from None
    except RecursionError:
        raise _too_deep() from None


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"The document is no JSON: {name} is not a JSON number.", remedy="Send null or a string instead.")


def _too_deep() -> NotJson:
    return NotJson(f"The document nests more than {DEPTH_MAX} arrays and objects.", remedy="Send flatter data.")


def _refuse_lossy(value: Any) -> None:
    for place, number in _numbers(value, ""):
        if _is_lossy(number.literal):
            raise LossyNumber(place, number.literal)


def _numbers(value: Any, place: str) -> Iterator[tuple[str, _Number]]:
    """Yield every number with its place, in the order of the document."""
    if isinstance(value, _Number):
        yield place, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _numbers(child, place + pointer(key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _numbers(child, place + pointer(index))


def _is_lossy(literal: str) -> bool:
    value = float(literal)
    digits = literal.lower().partition("e")[0].replace(".", "").strip("-0")
    if math.isinf(value) or (value == 0 and digits):
        return True
    if value == 0:
        return False
    given, double = Decimal(literal), Decimal(value)
    if given in (double, Decimal(_number(value))):
        return False
    if len(digits) > DIGITS_MAX or given == given.to_integral_value():
        return True
    return abs(double - given) > abs(given) * _ROUNDING


def _write(value: Any) -> str:
    """Write a parsed value; lone surrogates stay as they are. At most two stack frames for each level."""
    if isinstance(value, _Number):
        return _number(float(value.literal))
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{','.join(map(_write, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join([f"{_string(key)}:{_write(value[key])}" for key in _in_order(value)]) + "}"
    return _WORDS[value]


_string = json.JSONEncoder(ensure_ascii=False).encode


def _number(value: float) -> str:
    """Write a double as ECMA-262 Number::toString does; what is not finite becomes `null`.

    `digits` are the shortest that mean this double, as `repr` finds them, and `point` is the place of the decimal point
    among them.
    """
    if not math.isfinite(value):
        return "null"
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    return ("-" if value < 0 else "") + _place(digits.rstrip("0"), point)


def _place(digits: str, point: int) -> str:
    if not digits:
        return "0"
    if len(digits) <= point <= 21:
        return digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{digits[0]}{fraction}e{point - 1:+d}"


def _in_order(keys: Iterable[str]) -> list[str]:
    """Put array indices first, by number; the sort keeps all other keys in their order."""
    return sorted(keys, key=lambda key: int(key) if _is_index(key) else _INDEX_MAX + 1)


def _is_index(key: str) -> bool:
    return _INDEX.fullmatch(key) is not None and int(key) <= _INDEX_MAX


def _escape(surrogate: re.Match[str]) -> str:
    return f"\\u{ord(surrogate[0]):04x}"
