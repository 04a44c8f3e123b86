"""Canonical JSON against Node, number by number and document by document (VAI-7, VAI-8, EDF-4)."""

import hashlib
import hmac
import json
import os
import random
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.contracts import js
from relay.contracts.js import DEPTH_MAX, LossyNumber, NotJson, Numbers, canonical
from tests.support.json_documents import FIXED_NUMBERS, Documents

NODE = Path(__file__).parent / "node"
DOCUMENTS = int(os.environ.get("JS_DOCUMENTS", "2000"))
SEED = int(os.environ.get("JS_SEED", "1"))
AT_ONCE = 10_000

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node: it is the other half of this test")

VAI_BODY = (
    b'{"event":"render.completed","data":{"_id":"render-id","status":"completed","outputUrl":"https://cdn.example.com/'
    b'video.mp4","error":"","videoId":"video-id","videoVersion":1,"videoData":{},"createdAt":"2024-03-20T10:30:00Z",'
    b'"updatedAt":"2024-03-20T10:31:00Z"}}'
)
VAI_PRODUCER = (
    rb'{ "event": "render.completed", "data": { "_id": "render-id", "status": "completed", "outputUrl": '
    rb'"https://cdn.example.com/video.mp4", "error": "", "videoId": "video-id", "videoVersion": 1.0, "videoData": '
    rb'{ "10": "ten", "2": "two", "name": "caf\u00e9 \u2028 \ud83d", "fps": 30.0, "t": 1e-7, "big": 9007199254740993, '
    rb'"neg": -0.0, "x": 1e21, "a": 1, "a": 2 }, "createdAt": "2024-03-20T10:30:00Z", '
    rb'"updatedAt": "2024-03-20T10:31:00Z" } }'
)
VAI_DATA = '{"2":"two","10":"ten","name":"café \u2028 \\ud83d","fps":30,"t":1e-7,"big":9007199254740992,"neg":0,"x":1e+21,"a":2}'

RULE_3 = (
    *(("1.0", "1"), ("30.0", "30"), ("1e0", "1"), ("-0", "0"), ("-0.0", "0")),
    *(("1e16", "10000000000000000"), ("1e20", "100000000000000000000")),
    *(("1e21", "1e+21"), ("1000000000000000000000", "1e+21")),
    *(("0.00001", "0.00001"), ("1e-6", "0.000001"), ("1e-7", "1e-7")),
    *(("9007199254740993", "9007199254740992"), ("18446744073709551615", "18446744073709552000")),
    *(("123456789012345678901", "123456789012345680000"), ("1e400", "null")),
    ("0.1000000000000000055511151231257827", "0.1"),
)
"""Number as sent → number as JavaScript writes it."""

LOSSY: tuple[str, ...] = (
    "18446744073709551615",
    "123456789012345678901",
    "1e400",
    "-1e400",
    "0.1000000000000000055511151231257827",
)
LOSSY += ("1.00000000000000000001", "123456789012345678e-400", "9007199254740993.00000000000000000001")
LOSSY_WHOLE: tuple[str, ...] = ("10215678901234567", "9007199254740993", "-9007199254740993", "12345678901234567")
LOSSY_WHOLE += ("9007199254740993.0", "9007199254740993e0", "900719925474099.3e1", "0.9007199254740993e16")
LOSSY_SMALL: tuple[str, ...] = ("1e-400", "-1E-400", "1e-99999999999999999999", "4e-324", "1.7e-323")
HARMLESS: tuple[str, ...] = (
    "18446744073709551616",
    "1000000000000000000000000",
    "0.10000000000000000000000",
)
HARMLESS += ("0.30000000000000004", "0e99999999999999999999", "-0.00000000000000000000", "9007199254740992", "1e23")
HARMLESS += (
    "0.12345678901234567",
    "1234567890123.4567",
    "5e-324",
    "2.2250738585072011e-308",
    "1e308",
    "90071992547409920",
)


def stringified(documents: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Return Node's verdict on each document (see js_stringify.js), and what it wrote."""
    asked = b"".join(struct.pack(">I", len(document)) + document for document in documents)
    told = subprocess.run(["node", "js_stringify.js"], cwd=NODE, input=asked, capture_output=True)
    assert told.returncode == 0, told.stderr.decode()
    return list(answers(told.stdout))


def answers(output: bytes) -> Iterator[tuple[str, bytes]]:
    start = 0
    while start < len(output):
        letter, length = struct.unpack_from(">cI", output, start)
        yield letter.decode(), output[start + 5 : start + 5 + length]
        start += 5 + length


def ours(document: bytes, numbers: Numbers = "round") -> bytes | None:
    try:
        return canonical(document, numbers=numbers)
    except NotJson:
        return None


def complaint(document: bytes) -> LossyNumber | None:
    try:
        ours(document, "refuse")
    except LossyNumber as lossy:
        return lossy
    return None


def slowly(document: bytes) -> bytes | None:
    try:
        return js._write_any(document, "round")
    except NotJson:
        return None


@needs_node
@pytest.mark.timeout(60 + DOCUMENTS // 500)
def test_every_document_is_written_as_node_writes_it() -> None:
    """Generated documents come out as `JSON.stringify(JSON.parse(…))` writes them; what Node refuses is refused (VAI-8).

    JS_DOCUMENTS says how many, JS_SEED which.
    """
    source = Documents(random.Random(SEED)).take(DOCUMENTS)
    verdicts: Counter[str] = Counter()
    while batch := list(islice(source, AT_ONCE)):
        for document, (letter, written) in zip(batch, stringified(batch), strict=True):
            assert ours(document) == (written if letter == "w" else None), document
            verdicts[letter] += 1
            verdicts["fast"] += js._write_plain(document) is not None
    assert verdicts["w"] + verdicts["r"] + verdicts["u"] == DOCUMENTS
    assert verdicts["r"] > DOCUMENTS // 100
    assert verdicts["u"] > DOCUMENTS // 1000
    assert DOCUMENTS // 4 < verdicts["fast"] < DOCUMENTS * 3 // 4, "both ways must be walked"


def test_the_documents_tell_python_and_javascript_apart() -> None:
    """Negative control: Python's own compact writer differs from the canon in every fourth generated document."""
    documents = [document for document in Documents(random.Random(SEED)).take(2000) if ours(document)]
    differ = sum(
        json.dumps(json.loads(document), ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
        != ours(document)
        for document in documents
    )
    assert differ > len(documents) // 4


def test_both_ways_agree_on_every_document() -> None:
    """The fast path says nothing, or what the slow path says; the canon is its own canon."""
    for document in Documents(random.Random(SEED + 1)).take(2000):
        written = slowly(document)
        assert js._write_plain(document) in (None, written), document
        assert written is None or ours(written) == written, document


def test_what_is_not_refused_was_not_changed_by_rounding() -> None:
    """Refusing lossy numbers and rounding them write the same bytes, and a refusal names a number of the document."""
    refused = 0
    for document in Documents(random.Random(SEED + 2)).take(2000):
        lossy = complaint(document)
        refused += lossy is not None
        if lossy is None:
            assert ours(document, "refuse") == ours(document), document
        else:
            assert lossy.literal.encode() in document
    assert refused > 100


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0).map(str), inner),
)


@given(JSON_VALUES, st.booleans(), st.sampled_from((None, 1)))
@settings(max_examples=100, deadline=None)
def test_both_ways_agree_on_anything(value: object, ascii_only: bool, indent: int | None) -> None:
    """Whatever Python writes, the fast path says nothing or what the slow path says."""
    document = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    assert js._write_plain(document) in (None, js._write_any(document, "round"))


@given(st.lists(st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)))
@settings(max_examples=200, deadline=None)
def test_both_ways_agree_on_every_form_of_a_number(literals: list[str]) -> None:
    """The fast path never writes a number that the slow path writes differently or would call lossy."""
    document = f"[{','.join(literals)}]".encode()
    plain = js._write_plain(document)
    assert plain is None or plain == js._write_any(document, "refuse")


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=200, deadline=None)
def test_numbers_keep_their_double(value: float) -> None:
    """What is written of a double reads as the same double."""
    written = canonical(json.dumps([value]).encode())
    assert json.loads(written, parse_int=float) == [value]


@needs_node
def test_numbers_are_written_as_node_writes_them() -> None:
    """5,000 numbers in all lexical forms, and all powers of ten, come out as Node writes them."""
    source = Documents(random.Random(SEED + 3))
    literals = [*FIXED_NUMBERS, *(source.number() for _ in range(5_000))]
    literals += [
        f"{sign}{digits}e{power}" for power in range(-330, 330) for digits in ("1", "9.5") for sign in ("", "-")
    ]
    documents = [literal.encode() for literal in literals]
    for document, (letter, written) in zip(documents, stringified(documents), strict=True):
        assert letter == "w"
        assert ours(document) == written, document


@pytest.mark.parametrize(("literal", "written"), RULE_3)
def test_number_table(literal: str, written: str) -> None:
    """Each number that Python and JavaScript write differently is written as JavaScript does (VAI-8)."""
    assert canonical(f'{{"n": {literal}}}'.encode(), numbers="round") == f'{{"n":{written}}}'.encode()
    assert canonical(literal.encode(), numbers="round") == written.encode()


@pytest.mark.parametrize("literal", [*LOSSY, *LOSSY_WHOLE, *LOSSY_SMALL])
def test_lossy_number_is_refused(literal: str) -> None:
    """K1: a number that would silently become another is refused with its place and how it was written.

    A whole number keeps its value exactly, however few its digits; what is too large or too small is refused.
    """
    with pytest.raises(LossyNumber, match="would become") as raised:
        canonical(f'{{"a/b":[0,{{"~":{literal}}}],"later":1e999}}'.encode())
    assert (raised.value.pointer, raised.value.literal) == ("/a~1b/1/~0", literal)
    assert 'numbers = "round"' in raised.value.remedy


def test_lossy_number_at_the_top() -> None:
    """A document that is one lossy number has the empty pointer, and the sentence does not print all its digits."""
    with pytest.raises(LossyNumber, match="at the top") as raised:
        canonical(b"9" * 5000)
    assert raised.value.pointer == ""
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize("literal", HARMLESS)
def test_harmless_number_is_not_refused(literal: str) -> None:
    """K1: a fraction of at most 17 digits, and any number that is exactly a double, is written as Node does."""
    assert canonical(literal.encode()) == canonical(literal.encode(), numbers="round")


def test_a_number_that_javascript_drops_is_not_lossy() -> None:
    """Of a key that is there twice only the last value counts, for lossy numbers too."""
    assert canonical(b'{"a":1e999,"b":1,"a":1}') == b'{"a":1,"b":1}'


def test_long_numbers_are_cheap() -> None:
    """A number of a million digits is judged at once, though Python would not make an integer of it."""
    assert canonical(b"[" + b"9" * 1_000_000 + b"]", numbers="round") == b"[null]"
    assert canonical(b"0." + b"0" * 1_000_000 + b"1", numbers="round") == b"0"
    with pytest.raises(LossyNumber):
        canonical(b"0." + b"1" * 1_000_000)


@pytest.mark.parametrize(
    ("document", "written"),
    [
        ('{"b":1,"10":2,"2":3,"a":4,"0":5}', '{"0":5,"2":3,"10":2,"b":1,"a":4}'),
        ('{"4294967295":1,"4294967294":2}', '{"4294967294":2,"4294967295":1}'),
        ('{"01":1,"-1":2,"1.0":3,"+1":4,"1e3":5," 1":6,"":7,"1":8}', None),
        ('{"٣":1,"²":2,"1":3}', '{"1":3,"٣":1,"²":2}'),
        (r'{"x":{"\u0031":1,"\u0030":2}}', '{"x":{"0":2,"1":1}}'),
        ('{"a":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        (r'{"\u0061":1,"b":2,"a":3}', '{"a":3,"b":2}'),
        ('{"__proto__":1,"constructor":2,"toJSON":3}', '{"__proto__":1,"constructor":2,"toJSON":3}'),
    ],
)
def test_keys_come_in_the_order_of_javascript(document: str, written: str | None) -> None:
    """Array indices come first by number, then all others as they came; twice: last value, first place (VAI-8)."""
    expected = written or '{"1":8,"01":1,"-1":2,"1.0":3,"+1":4,"1e3":5," 1":6,"":7}'
    assert canonical(document.encode()) == expected.encode()


@pytest.mark.parametrize(
    ("document", "written"),
    [
        (
            r'"\/\u002f\u003c&\u0027\u007f\u0080\u009f\u2028\u2029\ufeff\uffff"',
            '"//<&\'\x7f\x80\x9f\u2028\u2029\ufeff\uffff"',
        ),
        (r'"\u0022\u005C\u0008\u000C\u000A\u000D\u0009\u0000\u001F"', r'"\"\\\b\f\n\r\t\u0000\u001f"'),
        (r'"\uD83D\uDE00 \uDE00\uD83D \uDBFF"', r'"😀 \ude00\ud83d \udbff"'),
        (r'{"\uD800":"caf\u00e9 \ud83d"}', r'{"\ud800":"café \ud83d"}'),
        (' {\t"a" :\r[ ] ,\n"b": { } , "c" : [ true , false , null ] } ', '{"a":[],"b":{},"c":[true,false,null]}'),
        (r'["\ud83d",true,false,null,{},[]]', r'["\ud83d",true,false,null,{},[]]'),
        ('"e\u0301"', '"e\u0301"'),
    ],
)
def test_strings_and_blanks(document: str, written: str) -> None:
    """Only what JavaScript escapes is escaped, lone surrogates in lower case; no blank is left, nothing normalised."""
    assert canonical(document.encode()) == written.encode()


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        (b"\xff", "not UTF-8 (byte 0)"),
        (b'"\xed\xa0\xbd"', "not UTF-8 (byte 1)"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"", "no JSON"),
        (b'{"a":1', "no JSON"),
        (b"{'a':1}", "no JSON"),
        (b"[1,]", "no JSON"),
        (b"[01]", "no JSON"),
        (b'"\t"', "no JSON"),
        (b"{} {}", "no JSON"),
        (b"\xc2\xa01", "no JSON"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"-Infinity", "-Infinity is not a JSON number"),
    ],
)
def test_what_is_no_json_is_refused(document: bytes, detail: str) -> None:
    """What `JSON.parse` refuses is refused, and so is a byte order mark, or what is not UTF-8 (VAI-8, VAI-9)."""
    with pytest.raises(NotJson) as raised:
        canonical(document)
    assert detail in raised.value.detail
    assert raised.value.remedy


@pytest.mark.parametrize("inner", [b"1", b"1e21"], ids=["fast", "slow"])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
def test_depth_is_limited(opening: bytes, closing: bytes, inner: bytes) -> None:
    """200 levels are written, one more is refused with the limit, and any number of them does no harm."""
    deepest = opening * DEPTH_MAX + inner + closing * DEPTH_MAX
    assert canonical(deepest).startswith(opening * DEPTH_MAX + b"1")
    for levels in (DEPTH_MAX + 1, 300, 100_000):
        with pytest.raises(NotJson, match="200"):
            canonical(opening * levels + inner + closing * levels)


def test_many_brackets_are_not_depth() -> None:
    """A long flat list takes the fast path, and brackets inside strings do not count."""
    document = b"[" + b",".join([b'{"a":["[[[{{{"]}'] * 500) + b"]"
    assert js._write_plain(document) == document


def test_golden_vector() -> None:
    """The documented VideoAiditor body is its own canon, and its signature is the published one (VAI-7)."""
    assert canonical(VAI_BODY) == VAI_BODY
    assert signature(VAI_BODY) == "41e344754fff06274ef8a24f9207fa8b73307b88a810c7df1b95ef4ea9945f5d"


def test_golden_vector_of_canonicalisation() -> None:
    """A producer's lax JSON becomes the 369 bytes that the documented verifier signs (VAI-8)."""
    written = canonical(VAI_PRODUCER, numbers="round")
    assert len(written) == 369
    assert VAI_DATA.encode() in written
    assert signature(written) == "a527d7cae2ba6c69c4fe3368c5c480823297d28cbe635c04aad0ae771a9b508b"
    assert canonical(written) == written


def signature(body: bytes) -> str:
    return hmac.digest(b"your-webhook-secret", body, hashlib.sha256).hex()


@pytest.mark.parametrize(
    "document",
    [
        VAI_BODY,
        b'{"a": 1, "caf\\u00e9": [29.97, 30.0, -0.0, 0.5, 1e3, 0.30000000000000004, 9007199254740991]}',
        b'{"id":"550e8400-e29b-41d4-a716-446655440000","line1":"1e5,1.0]","at":"10:30:00.000Z","1e3":{}}',
    ],
    ids=["documented", "blanks and floats", "false friends"],
)
def test_the_common_payload_is_fast(document: bytes) -> None:
    """Blanks, escapes, plain floats and digits in strings do not send a document the slow way."""
    assert js._write_plain(document) == js._write_any(document, "refuse")


@pytest.mark.parametrize(
    "document", [b'{"7":1}', b"9007199254740992", b"1e15", b"0.0001", b"1.00000000000000000001", b'"\\ud83d"', b"{"]
)
def test_the_fast_way_leaves_every_doubt_to_the_slow_one(document: bytes) -> None:
    """Array indices, integers beyond 53 bits, large, tiny and long floats, lone surrogates and mistakes are not plain."""
    assert js._write_plain(document) is None
