"""Makes JSON documents in every lexical form that a producer might send, and some that are no longer JSON."""

import json
import random
import struct
from collections.abc import Iterator
from functools import partial
from typing import Any

PLAIN_KEYS = ("id", "name", "fps", "line1", "url", "createdAt", "h264", "a b", "x/y", "m~n")
ODD_KEYS = ("", " ", "__proto__", "constructor", "toJSON", "length", "\u2028", "é", "😀", '"', "\\", "\x00", "\x7f")
INDEX_LIKE = ("0", "1", "2", "10", "7", "00", "01", "-1", "1.0", "+1", "1e3", " 1", "1 ", "-0", "9", "٣", "²")
INDEX_BORDERS = ("4294967293", "4294967294", "4294967295", "4294967296", "9999999999", "10000000000", "999999999")
ODD_CHARACTERS = "\"\\/\b\f\n\r\t\x00\x01\x1f\x7f\x80\x9f\xa0é\u2028\u2029\ufeff\ufffd\ufffe\uffff😀𝕏\U0010ffff<>&'"
FIXED_NUMBERS = (
    *(
        "0",
        "-0",
        "0.0",
        "-0.0",
        "0e0",
        "-0e-5",
        "0e999999999999999999999",
        "1.0",
        "30.0",
        "8.0",
        "29.97",
        "1e0",
        "1E+0",
    ),
    *(
        "1e15",
        "1e16",
        "1e20",
        "1e21",
        "1e22",
        "1e23",
        "123e-20",
        "0.001",
        "0.0001",
        "0.00001",
        "1e-6",
        "1e-7",
        "9.5e-7",
    ),
    *("9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993", "18446744073709551615"),
    *("18446744073709551616", "-9223372036854775809", "123456789012345678901", "1000000000000000000000"),
    *("1e400", "-1e400", "1e-400", "5e-324", "2.5e-324", "1.7976931348623157e308", "1.7976931348623159e308"),
    *("0.1000000000000000055511151231257827", "0.30000000000000004", "999999999999999.9", "1000000000000000.5"),
    *(
        "4.35",
        "0.000001",
        "0.0000001",
        "1.0000000000000001",
        "99999999999999990000000",
        "1e308",
        "2.2250738585072014e-308",
    ),
)
MUTATIONS = b"{}[],:\"\\0123456789eE+-. \t\n\runtrfalsINy\x00\x1f\x0b\x7f\x80\xc3\xa9\xed\xa0\xef\xbb\xbf\xff/*'"


class Documents:
    """A source of documents that `rng` decides. Owner of nothing but its place in the random numbers."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def take(self, count: int) -> Iterator[bytes]:
        """Yield `count` documents; about one in twenty is mutilated."""
        for _ in range(count):
            document = self.document()
            yield self._mutilated(document) if self._rng.random() < 0.05 else document

    def document(self) -> bytes:
        """Return one well-formed document: half of them such as most producers send, half as odd as JSON allows."""
        if self._rng.random() < 0.5:
            return self._everyday()
        depth = self._rng.choice((0, 1, 2, 3, 3, 4, 5, 30))
        return (self._blank() + self._value(depth) + self._blank()).encode()

    def _everyday(self) -> bytes:
        """What a usual library writes of a usual object, without anything that JavaScript writes differently."""
        separators = self._rng.choice(((",", ":"), (", ", ": ")))
        value = {key: self._everyday_value(3) for key in self._rng.sample(PLAIN_KEYS, self._rng.randrange(1, 8))}
        return json.dumps(value, ensure_ascii=self._rng.random() < 0.3, separators=separators).encode()

    def _everyday_value(self, depth: int) -> Any:
        rng = self._rng
        kind = rng.randrange(10 if depth else 8)
        if kind == 8:
            return [self._everyday_value(depth - 1) for _ in range(rng.randrange(4))]
        if kind == 9:
            return {key: self._everyday_value(depth - 1) for key in rng.sample(PLAIN_KEYS, rng.randrange(4))}
        return (
            partial(rng.randrange, 10_000),
            partial(rng.randrange, -(2**53), 2**53),
            lambda: round(rng.uniform(-1000, 1000), rng.randrange(4)),
            rng.random,
            lambda: rng.choice((True, False, None)),
            lambda: f"{rng.getrandbits(128):032x}",
            lambda: f"https://example.com/{rng.getrandbits(32)}?at=2024-03-20T10:30:00Z",
            lambda: "".join(rng.choices("abc äöü\n'\"😀\u2028", k=rng.randrange(20))),
        )[kind]()

    def _value(self, depth: int) -> str:
        rng = self._rng
        if depth > 6:
            return (
                f"[{self._value(depth - 1)}]" if rng.random() < 0.5 else f"{{{self._key()}:{self._value(depth - 1)}}}"
            )
        if depth and rng.random() < 0.6:
            return self._object(depth) if rng.random() < 0.6 else self._array(depth)
        kind = rng.random()
        if kind < 0.5:
            return self.number()
        return self._string() if kind < 0.85 else rng.choice(("true", "false", "null"))

    def _object(self, depth: int) -> str:
        members = [
            f"{self._blank()}{self._key()}{self._blank()}:{self._blank()}{self._value(depth - 1)}{self._blank()}"
            for _ in range(self._rng.randrange(7))
        ]
        if members and self._rng.random() < 0.2:
            members.append(f"{members[0].partition(':')[0]}:{self.number()}")
        return "{" + (",".join(members) or self._blank()) + "}"

    def _array(self, depth: int) -> str:
        items = [self._blank() + self._value(depth - 1) + self._blank() for _ in range(self._rng.randrange(6))]
        return f"[{','.join(items) or self._blank()}]"

    def _key(self) -> str:
        rng = self._rng
        names = rng.choice((PLAIN_KEYS, ODD_KEYS, INDEX_LIKE, INDEX_LIKE, INDEX_BORDERS, ()))
        if not names:
            return self._string()
        return '"' + "".join(map(self._spelled, rng.choice(names))) + '"'

    def _string(self) -> str:
        rng = self._rng
        pieces = [self._piece() for _ in range(rng.randrange(8))]
        return '"' + "".join(pieces) + '"'

    def _piece(self) -> str:
        rng = self._rng
        kind = rng.random()
        if kind < 0.4:
            return "".join(
                map(self._spelled, rng.choice(("abc", "1e5", "}:{", "e-", "x,1.0]", '"0":', "[-0", "http://")))
            )
        if kind < 0.75:
            return self._spelled(rng.choice(ODD_CHARACTERS))
        if kind < 0.9:
            return self._spelled(chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))))
        return self._unit(rng.choice((0xD800, 0xD83D, 0xDBFF, 0xDC00, 0xDE00, 0xDFFF, rng.randrange(0xD800, 0xE000))))

    def _spelled(self, character: str) -> str:
        """Write a character as itself where JSON lets it stand, or as an escape."""
        rng = self._rng
        if rng.random() < 0.85 and character >= " " and character not in '"\\':
            return character
        short = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}.get(character)
        if short is not None and rng.random() < 0.7:
            return f"\\{short}"
        return "".join(self._unit(unit) for (unit,) in struct.iter_unpack(">H", character.encode("utf-16-be")))

    def _unit(self, unit: int) -> str:
        return self._rng.choice((f"\\u{unit:04x}", f"\\u{unit:04X}"))

    def number(self) -> str:
        """Return a number in some lexical form: written out, with a point, with an exponent, much too long."""
        rng = self._rng
        kind = rng.randrange(6)
        if kind == 0:
            return rng.choice(FIXED_NUMBERS)
        if kind == 1:
            return str(rng.randrange(-(10 ** rng.randrange(1, 26)), 10 ** rng.randrange(1, 26)))
        if kind == 2:
            return self._respelled(struct.unpack(">d", rng.randbytes(8))[0])
        if kind == 3:
            return self._respelled(rng.choice((0.0, rng.uniform(-100, 100), 10.0 ** rng.randrange(-12, 30))))
        return self._lexical()

    def _respelled(self, value: float) -> str:
        if value != value or value in (float("inf"), float("-inf")):
            return "0.5"
        return self._rng.choice((repr(value), f"{value:.17e}", f"{value:.20g}", f"{value:.3E}", f"{value:.15g}"))

    def _lexical(self) -> str:
        """Put a number together from the grammar of RFC 8259."""
        rng = self._rng
        whole = rng.choice(("0", str(rng.randrange(1, 10)) + self._digits(rng.choice((0, 1, 2, 15, 16, 21, 40)))))
        fraction = f".{self._digits(rng.choice((1, 2, 6, 15, 17, 30)))}" if rng.random() < 0.6 else ""
        exponent = ""
        if rng.random() < 0.4:
            exponent = rng.choice("eE") + rng.choice(("", "+", "-")) + str(rng.randrange(rng.choice((5, 25, 400))))
        return rng.choice(("", "-")) + whole + fraction + exponent

    def _digits(self, count: int) -> str:
        return "".join(self._rng.choices("0123456789" if self._rng.random() < 0.7 else "09", k=count))

    def _blank(self) -> str:
        return "".join(self._rng.choices(" \t\n\r", k=self._rng.randrange(3))) if self._rng.random() < 0.2 else ""

    def _mutilated(self, document: bytes) -> bytes:
        """Cut, drop, double or change bytes; now and then the result is still JSON."""
        rng = self._rng
        at = rng.randrange(len(document))
        end = min(len(document), at + rng.randrange(1, 4))
        insert = bytes(rng.choices(MUTATIONS, k=rng.randrange(1, 3)))
        return rng.choice(
            (
                document[:at],
                document[at:],
                document[:at] + document[end:],
                document[:end] + document[at:],
                document[:at] + insert + document[at:],
                document[:at] + insert + document[end:],
                b"\xef\xbb\xbf" + document,
                document + insert,
            )
        )
