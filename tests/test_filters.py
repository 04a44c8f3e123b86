"""Filters: what may be written, what each condition means, where their limits are, and that they are decided rightly."""

import json
import os
import random
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from relay.core.conditions import exact
from relay.core.filters import (
    CONDITIONS_MAX,
    FILTER_BYTES_MAX,
    FOUND_CHARACTERS_MAX,
    FOUND_MAX,
    NESTING_MAX,
    STEPS_MAX,
    read,
)
from relay.core.issues import Invalid, Issue
from relay.registry.facts import LOOKS_MAX, EventFacts
from tests.support.plain_filters import passes as plainly_passes

DOCUMENTS = int(os.environ.get("FILTER_DOCUMENTS", "5000"))
"""Random filters and documents; the figure in docs/DECISIONS.md is of 100,000."""


def facts(data: str, metadata: str | None = None, event_type: str = "order.paid") -> EventFacts:
    return EventFacts(event_type, data.encode(), None if metadata is None else metadata.encode())


def passes(written: Mapping[str, Any], data: str, metadata: str | None = None) -> bool:
    return read(written).passes(facts(data, metadata))


def mistakes(written: Any) -> list[Issue]:
    with pytest.raises(Invalid) as caught:
        read(written)
    assert all(issue.remedy for issue in caught.value.issues), "every mistake says what to do"
    return list(caught.value.issues)


def at(written: Any) -> list[str]:
    return [issue.path for issue in mistakes(written)]


# -- what conditions mean ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "data", "expected"),
    [
        ({"$eq": 5}, "5", True),
        ({"$eq": 5}, "5.0", True),
        ({"$eq": 5}, '"5"', False),
        ({"$eq": 1}, "true", False),
        ({"$eq": True}, "1", False),
        ({"$eq": True}, "true", True),
        ({"$eq": False}, "0", False),
        ({"$eq": None}, "null", True),
        ({"$eq": None}, "false", False),
        ({"$ne": None}, "null", False),
        ({"$eq": 0.1}, "0.10", True),
        ({"$eq": 0.1}, "0.1000000000000000055511151231257827", False),
        ({"$gt": 0.1}, "0.1000000000000000055511151231257827", True),
        ({"$eq": 9007199254740993}, "9007199254740992", False),
        ({"$eq": 9007199254740993}, "9007199254740993.0", True),
        ({"$lt": 1 << 63}, "9223372036854775808123456789", False),
        ({"$gt": 1 << 63}, "9223372036854775808123456789", True),
        ({"$eq": 1e23}, "100000000000000000000000", True),
        ({"$gt": 5}, "1" * 5000, True),
        ({"$lt": 5}, "-" + "1" * 5000, True),
        ({"$gt": 5}, "1e400", True),
        ({"$gt": 0}, "1e-400", True),
        ({"$gt": 5}, "1e9999999999999999999", True),
        ({"$lt": -5}, "-1e9999999999999999999", True),
        ({"$eq": 0}, "1e-9999999999999999999", True),
        ({"$eq": 0}, "0e9999999999999999999", True),
        ({"$eq": 0}, "-0", True),
        ({"$gt": 5}, '"6"', False),
        ({"$lt": "b"}, '"a"', True),
        ({"$lt": "a"}, '"B"', True),
        ({"$gte": "2026-01-01"}, '"2026-03-01T00:00:00Z"', True),
        ({"$gt": "a"}, "5", False),
        ({"$lte": 5}, "null", False),
        ({"$gt": 0}, "true", False),
        ({"$gte": 5, "$lte": 5}, "5", True),
        ({"$in": [1, "a", None, True]}, "true", True),
        ({"$in": [1, "a"]}, "true", False),
        ({"$in": [[1], {"a": 1}]}, '{"a":1.0}', True),
        ({"$in": [[1], {"a": 1}]}, '{"a":true}', False),
        ({"$nin": ["a"]}, '"b"', True),
        ({"$nin": ["a"]}, '"a"', False),
        ({"$exists": True}, "null", True),
        ({"$exists": False}, "null", False),
        ({"$prefix": "caf\u00e9"}, '"caf\\u00e9 noir"', True),
        ({"$eq": "caf\u00e9"}, '"cafe\\u0301"', False),
        ({"$suffix": ".mp4"}, '"a.mp4"', True),
        ({"$suffix": ".mp4"}, '"a.MP4"', False),
        ({"$contains": "b"}, '"abc"', True),
        ({"$contains": "1"}, "123", False),
        ({"$eq": "?"}, '"\\ud83d"', False),
        ({"$prefix": "a"}, '"a\\ud83d"', True),
        ({"$eq": {"a": [1, {"b": None}]}}, '{"a": [1.0, {"b": null}]}', True),
        ({"$eq": {"a": 1}}, '{"a": 1, "b": 2}', False),
        ({"$eq": {}}, "{}", True),
        ({"$eq": {}}, "[]", False),
        ({"$eq": []}, "{}", False),
        ({"$not": {"$prefix": "a"}}, '"b"', True),
        ({"$or": [{"$lt": 1}, {"$gt": 9}]}, "10", True),
        ({"$or": [{"$lt": 1}, 5]}, "5", True),
        ({"$and": [{"$gt": 1}, {"$lt": 9}]}, "9", False),
    ],
)
def test_what_a_condition_asks_of_one_value(condition: dict[str, Any], data: str, expected: bool) -> None:
    """Numbers are compared as exactly as they are written, text by code points, and nothing becomes something else."""
    written = {"data": {"x": condition}} if "$eq" not in condition else {"data.x": condition}
    document = f'{{"x" : {data} }}'
    assert passes(written, document) is expected
    if len(data) < 1000 and "e9999" not in data and "e-9999" not in data:  # else `json` and `decimal` give up
        assert plainly_passes(written, "order.paid", document, None) is expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"data.tags": "b"}, True),
        ({"data.tags": {"$eq": ["a", "b"]}}, True),
        ({"data.tags": {"$eq": ["b", "a"]}}, False),
        ({"data.tags": {"$ne": "b"}}, False),
        ({"data.tags": {"$ne": "c"}}, True),
        ({"data.tags": {"$nin": ["c", "d"]}}, True),
        ({"data.tags.0": "b"}, False),
        ({"data.tags.1": "b"}, True),
        ({"data.tags.2": {"$exists": False}}, True),
        ({"data.tags.01": {"$exists": False}}, True),
        ({"data.items.sku": "s2"}, True),
        ({"data.items.1.sku": "s2"}, True),
        ({"data.items.0.sku": "s2"}, False),
        ({"data.items.sku": "s1", "data.items.qty": 9}, True),
        ({"data.items.qty": {"$gt": 5, "$lt": 3}}, True),
        ({"data.grid": 4}, True),
        ({"data.grid.1": {"$eq": [3, 4]}}, True),
        ({"data.grid.1.0": 3}, True),
        ({"data.empty": {"$exists": True}}, True),
        ({"data.empty": 1}, False),
        ({"data.empty.x": {"$exists": True}}, False),
        ({"data.items.none": {"$ne": 1}}, True),
        ({"data.text.0": {"$exists": True}}, False),
        ({"data.numbered.0": "zero"}, True),
        ({"data.items": {"qty": 9, "sku": {"$prefix": "s"}}}, True),
    ],
)
def test_a_list_stands_for_its_elements(written: dict[str, Any], expected: bool) -> None:
    """Any element will do, of nested lists too; each condition looks for its own; a whole number takes one element."""
    data = (
        '{"tags":["a","b"],"items":[{"sku":"s1","qty":1},{"sku":"s2","qty":9}],"grid":[[1,2],[3,4]],'
        '"empty":[],"text":"abc","numbered":{"0":"zero"}}'
    )
    assert passes(written, data) is expected
    assert plainly_passes(written, "order.paid", data, None) is expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"data.a.b": {"$exists": False}}, True),
        ({"data.a.b": None}, False),
        ({"data.a.b": {"$ne": None}}, True),
        ({"data.a.b": {"$lt": 5}}, False),
        ({"data.a.b": {"$not": {"$lt": 5}}}, True),
        ({"metadata": {"$exists": True}}, False),
        ({"metadata.x": {"$ne": 1}}, True),
        ({"data": 7}, True),
        ({"type": "order.paid"}, True),
        ({"type": {"$suffix": ".failed"}}, False),
    ],
)
def test_what_is_missing_is_no_null(written: dict[str, Any], expected: bool) -> None:
    """A path that leads nowhere has no value: only `$exists`, `$ne`, `$nin` and `$not` speak of it."""
    assert passes(written, "7") is expected
    assert plainly_passes(written, "order.paid", "7", None) is expected


def test_names_with_dots_and_dollars_can_be_written() -> None:
    """A backslash takes a dot, a backslash or a `$` as it is."""
    data = r'{"a.b": {"c\\d": 1}, "$ref": 2, "e": {"$in": 3, "in": 4}}'
    assert passes({r"data.a\.b.c\\d": 1}, data)
    assert passes({"data.$ref": 2}, data)
    assert passes({"data": {r"\$ref": 2}}, data)
    assert passes({"data.e": {r"\$in": 3}}, data)
    assert passes({"data.e.in": 4}, data)
    (failure,) = read({r"data.a\.b.c\\d": 2}).failures(facts(data))
    assert failure.path == r"data.a\.b.c\\d"


def test_the_last_of_two_members_of_one_name_counts() -> None:
    """As every decoder here has it."""
    assert passes({"data.a": 2}, '{"a": 1, "a": 2}')
    assert not passes({"data.a": 1}, '{"a": 1, "a": 2}')


# -- what may be written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "where"),
    [
        ([], ""),
        ("data.a", ""),
        ({}, ""),
        ({"amount": 5}, "/amount"),
        ({"dat.amount": 5}, "/dat.amount"),
        ({"": 5}, "/"),
        ({"data.": 5}, "/data."),
        ({"data..a": 5}, "/data..a"),
        ({"data.a\\": 5}, "/data.a\\"),
        ({"data.a\\b": 5}, "/data.a\\b"),
        ({"type.x": 5}, "/type.x"),
        ({"$eq": 5}, "/$eq"),
        ({"$nor": []}, "/$nor"),
        ({"$and": {}}, "/$and"),
        ({"$or": []}, "/$or"),
        ({"$or": [{"data.a": 1}, 5]}, "/$or/1"),
        ({"$not": {}}, "/$not"),
        ({"data.a": []}, "/data.a"),
        ({"data.a": {}}, "/data.a"),
        ({"data.a": {"$eqq": 5}}, "/data.a/$eqq"),
        ({"data.a": {"gte": 5}}, "/data.a/gte"),
        ({"data.a": {"$gt": None}}, "/data.a/$gt"),
        ({"data.a": {"$gte": True}}, "/data.a/$gte"),
        ({"data.a": {"$lt": [1]}}, "/data.a/$lt"),
        ({"data.a": {"$in": "a"}}, "/data.a/$in"),
        ({"data.a": {"$nin": []}}, "/data.a/$nin"),
        ({"data.a": {"$exists": 1}}, "/data.a/$exists"),
        ({"data.a": {"$exists": None}}, "/data.a/$exists"),
        ({"data.a": {"$prefix": ""}}, "/data.a/$prefix"),
        ({"data.a": {"$suffix": 5}}, "/data.a/$suffix"),
        ({"data.a": {"$contains": ["a"]}}, "/data.a/$contains"),
        ({"data.a": {"$not": []}}, "/data.a/$not"),
        ({"data.a": float("inf")}, "/data.a"),
        ({"data.a": float("nan")}, "/data.a"),
        ({"data.a": 1 << 64}, "/data.a"),
        ({"data.a": {"$eq": [{"b": exact("0.12345678901234567891")}]}}, "/data.a/$eq"),
        ({"data.a": {"$in": [1, exact("123456789012345678901")]}}, "/data.a/$in"),
        ({"data.a": b"bytes"}, "/data.a"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(written: Any, where: str) -> None:
    """Each mistake has a pointer into the filter and says what to do."""
    assert at(written) == [where]


def test_all_mistakes_are_named_at_once() -> None:
    """One does not hide another, wherever it stands."""
    assert at({"amount": 1, "data.a": {"$gt": None, "$foo": 1}, "$or": [{"data.b": []}, {"$not": {"type.x": 1}}]}) == [
        "/amount",
        "/data.a/$gt",
        "/data.a/$foo",
        "/$or/0/data.b",
        "/$or/1/$not/type.x",
    ]


def test_near_misses_are_proposed() -> None:
    """A mistyped operator or root names the one that was meant; a forgotten `$` is no member."""
    assert "$contains" in mistakes({"data.a": {"$contain": "x"}})[0].remedy
    assert "metadata" in mistakes({"metdata.a": 1})[0].remedy
    assert '"data.amount"' in mistakes({"amount": 1})[0].remedy
    assert '"$gte"' in mistakes({"data.a": {"gte": 5}})[0].remedy
    assert "$in" in mistakes({"data.a": [1, 2]})[0].remedy


def nested(levels: int) -> dict[str, Any]:
    written: dict[str, Any] = {"data.a": 1}
    for _ in range(levels - 1):
        written = {"$not": written}
    return written


def test_the_limits_of_a_filter() -> None:
    """As much as each limit says is taken, and one more is refused with what to do."""
    assert read(nested(NESTING_MAX))
    assert "nested" in mistakes(nested(NESTING_MAX + 1))[0].message
    assert read({f"data.a{number}": number for number in range(CONDITIONS_MAX)})
    (many,) = mistakes({f"data.a{number}": number for number in range(CONDITIONS_MAX + 1)})
    assert f"{CONDITIONS_MAX + 1} conditions" in many.message
    assert read({".".join(["data"] * STEPS_MAX): 1})
    assert f"{STEPS_MAX + 1} names" in mistakes({".".join(["data"] * (STEPS_MAX + 1)): 1})[0].message
    frame = len('{"data.a":""}')
    assert read({"data.a": "x" * (FILTER_BYTES_MAX - frame)})
    (large,) = mistakes({"data.a": "x" * (FILTER_BYTES_MAX - frame + 1)})
    assert f"{FILTER_BYTES_MAX + 1} bytes" in large.message
    assert f"{FILTER_BYTES_MAX}" in mistakes({"data.a": "\u00e9" * (FILTER_BYTES_MAX // 2)})[0].message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5", 5),
        ("-9223372036854775808", -(1 << 63)),
        ("18446744073709551615", (1 << 64) - 1),
        ("18446744073709551616", Decimal(1 << 64)),
        ("0.1", 0.1),
        ("0.30000000000000004", 0.30000000000000004),
        ("0.30000000000000001", Decimal("0.30000000000000001")),
        ("1e23", 1e23),
        ("1e400", Decimal("1e400")),
        ("1_000.5", 1000.5),
    ],
)
def test_a_number_that_cannot_be_kept_is_marked(text: str, expected: Any) -> None:
    """What neither 64 bits nor a double hold comes as a Decimal, which no setting takes."""
    found = exact(text)
    assert (found, type(found)) == (expected, type(expected))


def test_two_filters_are_equal_where_they_are_written_the_same() -> None:
    """A reload asks whether an endpoint changed: 1 and true are no less than a change."""
    assert read({"data.a": 1}) == read({"data.a": 1})
    assert read({"data.a": 1}) != read({"data.a": True})


# -- how much is looked at --------------------------------------------------------------------------------------------------


def test_what_is_too_much_to_look_at_passes() -> None:
    """Lists are looked at up to a limit, all filters of an event together; what is undecided then lets it through."""
    fits = facts(json.dumps([0] * (LOOKS_MAX // 2 - 100)))
    assert not read({"data": 1}).passes(fits)
    assert not fits.is_exhausted
    beyond = facts(json.dumps([0] * (LOOKS_MAX + 1)))
    assert read({"data": 1}).passes(beyond)
    assert beyond.is_exhausted
    assert read({"data": 1}).failures(beyond) == []


def test_every_filter_spends_of_the_same_looks() -> None:
    """Many filters over one list end as one over a long list does; conditions without lists go on to be decided."""
    event = facts(f'{{"list": {json.dumps([0] * 1000)}, "a": 1}}')
    asked = read({"data.list": 1})
    answers = [asked.passes(event) for _ in range(LOOKS_MAX // 1000 + 5)]
    assert answers[0] is False
    assert answers[-1] is True
    assert not read({"data.a": 2}).passes(event)


@pytest.mark.parametrize(
    ("written", "data"),
    [
        ({"data": {"$contains": "b"}}, json.dumps("a" * 1_000_000)),
        ({"data": {"$eq": [1] * 100}}, json.dumps([[1] * 99 + [2]] * 1000)),
        ({"data.0.0": 1}, "[[" + ",".join(["0"] * 400_000) + "]]"),
    ],
)
def test_everything_that_takes_long_is_counted(written: dict[str, Any], data: str) -> None:
    """Searching long texts, comparing whole lists and going into large ones use up the looks too."""
    event, asked = facts(data), read(written)
    for _ in range(LOOKS_MAX):
        if asked.passes(event):
            break
    assert event.is_exhausted


def test_large_objects_in_a_list_count_by_their_size() -> None:
    """Each path opens them anew, so many paths end as one over a long list does."""
    event = facts(json.dumps([{"y": "z" * 100_000}] * 8))
    assert not read({"data.x": 1}).passes(event)
    assert any(read({f"data.x{number}": 1}).passes(event) for number in range(50))


# -- why an event does not pass ---------------------------------------------------------------------------------------------


def explained(written: dict[str, Any], data: str) -> list[tuple[str, str]]:
    return [(failure.pointer, failure.message) for failure in read(written).failures(facts(data))]


def test_each_condition_that_fails_is_named_with_what_was_found() -> None:
    """Path, value and what was wanted; those that hold are not named."""
    written = {"data.amount": {"$gte": 100, "$lt": 1000}, "data.country": "DE", "type": "order.paid"}
    assert explained(written, '{"amount": 40.50}') == [
        ("/data.amount/$gte", "data.amount is 40.50; wanted: $gte 100"),
        ("/data.country", 'data.country is missing; wanted: $eq "DE"'),
    ]
    assert explained(written, '{"amount": 100, "country": "DE"}') == []


def test_alternatives_fail_together_and_a_not_fails_by_what_holds() -> None:
    """Of `$or` all are named, unless one holds; below `$not` what holds is."""
    written = {"$or": [{"data.a": 1}, {"data.b": 2}], "$not": {"data.c": 3, "data.d": {"$in": [4, 5]}}}
    assert explained(written, '{"a": 9, "c": 3, "d": 4}') == [
        ("/$or/0/data.a", "data.a is 9; wanted: $eq 1"),
        ("/$or/1/data.b", "data.b is missing; wanted: $eq 2"),
        ("/$not/data.c", "data.c is 3; wanted: not $eq 3"),
        ("/$not/data.d/$in", "data.d is 4; wanted: not $in [4, 5]"),
    ]
    assert explained(written, '{"a": 1, "c": 3}') == []


def test_what_was_found_is_shown_in_bounds() -> None:
    """Of many values the first, of a long one its beginning, and of what no UTF-8 holds its escape."""
    (failure,) = read({"data": "x"}).failures(facts(json.dumps([*range(50)])))
    assert (len(failure.found), failure.total) == (FOUND_MAX, 51)
    assert failure.message.endswith('and 41 more; wanted: $eq "x"')
    (failure,) = read({"data": "x"}).failures(facts(json.dumps("y" * 1000)))
    assert len(failure.found[0]) == FOUND_CHARACTERS_MAX + 1
    (failure,) = read({"data": "x"}).failures(facts('"\\ud83d"'))
    assert failure.found == ['"\\ud83d"']
    (failure,) = read({"data": "x"}).failures(facts("null"))
    assert failure.found == ["null"]


# -- compiled and plain ------------------------------------------------------------------------------------------------------

NAMES = ("a", "a", "a", "b", "a.b", "0", "1", "$x", "\\")
TEXTS = ("", "a", "ab", "b", "\u00e9", "e\u0301", "\ud83d", "10")
NUMBERS = (
    "0",
    "-0",
    "1",
    "1.0",
    "10",
    "0.1",
    "0.10",
    "0.3",
    "0.30000000000000001",
    "1e1",
    "9007199254740993",
    "1e400",
    "-3.5",
)


def a_value(rng: random.Random, levels: int) -> str:
    """Make JSON text."""
    kind = rng.random() * (0.6 if levels > 2 else 1)
    if levels and kind < 0.3:
        members = [(rng.choice(NAMES), a_value(rng, levels - 1)) for _ in range(rng.randrange(4))]
        return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in members) + "}"
    if levels and kind < 0.55:
        return "[" + " ,".join(a_value(rng, levels - 1) for _ in range(rng.randrange(4))) + "]"
    if kind < 0.75:
        return rng.choice(NUMBERS)
    return json.dumps(rng.choice(TEXTS)) if kind < 0.9 else rng.choice(("true", "false", "null"))


def a_name(rng: random.Random) -> str:
    name = rng.choice(NAMES).replace("\\", "\\\\").replace(".", "\\.")
    return f"\\{name}" if name.startswith("$") else name


def a_path(rng: random.Random) -> str:
    root = rng.choice(("data", "data", "data", "metadata", "type"))
    return root if root == "type" else ".".join([root, *(a_name(rng) for _ in range(rng.randrange(4)))])


def a_literal(rng: random.Random) -> Any:
    value = json.loads(a_value(rng, 2).replace("\\ud83d", "?"), parse_int=exact, parse_float=exact)
    return value if is_kept(value) else 1


def is_kept(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return all(map(is_kept, inner)) if inner is not None else not isinstance(value, Decimal)


def a_condition(rng: random.Random, levels: int) -> Any:
    match rng.randrange(9 if levels else 6):
        case 0:
            literal = a_literal(rng)
            return {"$eq": literal} if isinstance(literal, list | dict) else literal
        case 1:
            return {rng.choice(("$eq", "$ne")): a_literal(rng)}
        case 2:
            return {rng.choice(("$in", "$nin")): [a_literal(rng) for _ in range(rng.randrange(1, 4))]}
        case 3:
            bounds = (0, 1, 0.1, 0.3, 10, -3.5, "a", "b", "\u00e9", 9007199254740992)
            operators = rng.sample(("$gt", "$gte", "$lt", "$lte"), rng.randrange(1, 3))
            return {operator: rng.choice(bounds) for operator in operators}
        case 4:
            return {"$exists": rng.random() < 0.5}
        case 5:
            return {rng.choice(("$prefix", "$suffix", "$contains")): rng.choice(("a", "b", "1", "\u0301", "."))}
        case 6:
            return {"$not": a_condition(rng, levels - 1)}
        case 7:
            operator = rng.choice(("$and", "$or"))
            return {operator: [a_condition(rng, levels - 1) for _ in range(rng.randrange(1, 3))]}
        case _:
            return {a_name(rng): a_condition(rng, levels - 1), "$exists": True}


def a_filter(rng: random.Random, levels: int = 2) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for _ in range(rng.randrange(1, 3)):
        if levels and rng.random() < 0.3:
            operator = rng.choice(("$and", "$or", "$not"))
            several = [a_filter(rng, levels - 1) for _ in range(rng.randrange(1, 3))]
            written[operator] = several[0] if operator == "$not" else several
        else:
            path = a_path(rng)
            written[path] = a_condition(rng, 0 if path == "type" else levels)
    return written


def disagreement(seed: int) -> str | None:
    """Compare the compiled filter with the plain one on a random pair; None where they agree."""
    rng = random.Random(seed)
    written, data = a_filter(rng), a_value(rng, 4)
    metadata = "{" + f'"a": {a_value(rng, 2)}' + "}" if rng.random() < 0.7 else None
    event = facts(data, metadata, "order.paid")
    compiled = read(written)
    expected = plainly_passes(written, "order.paid", data, metadata)
    if compiled.passes(event) is expected and bool(compiled.failures(event)) is not expected:
        return None
    return f"seed {seed}: {json.dumps(written)} on {data} and {metadata}: the plain one says {expected}"


@pytest.mark.timeout(900)
def test_compiled_filters_agree_with_plain_ones() -> None:
    """Random filters and documents are decided the same both ways, and what does not pass has a reason."""
    answers = [disagreement(seed) for seed in range(DOCUMENTS)]
    assert [wrong for wrong in answers if wrong] == []


def test_the_random_pairs_would_show_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without places in lists, and with doubles for numbers, some of them are decided otherwise."""
    with monkeypatch.context() as patched:
        patched.setattr("relay.registry.facts._is_place", lambda name: False)
        assert any(disagreement(seed) for seed in range(DOCUMENTS))
    monkeypatch.setattr("relay.registry.facts._SCALAR", msgspec.json.Decoder())
    assert any(disagreement(seed) for seed in range(DOCUMENTS))


# -- what is the same is there once ------------------------------------------------------------------------------------


def test_equal_filters_are_one() -> None:
    """A thousand endpoints that ask the same share one filter, and others with a condition in common share that."""
    first, again = read({"data.a": {"$gte": 7}}), read({"data.a": {"$gte": 7}})
    other = read({"data.a": {"$gte": 7}, "type": "a.b"})
    assert first is again
    assert other.root.parts[0].holds is first.root.holds


def test_what_only_looks_equal_is_not() -> None:
    """true is not 1, text is not a number, and a refused value stays refused beside a text that is written like it."""
    written = [1, True, "1", "true", 1.5, "1.5"]
    kept = [read({"data.a": value}) for value in written]
    assert len({id(one.root.holds) for one in kept}) == len(written)
    with pytest.raises(Invalid):
        read({"data.a": Decimal("1.5")})
