"""Changes of JSON text: one value changes, every other byte stays."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.cli.json_text import NoWay, is_json, put, value_at

TEXT = '{\n "a" : 30.0, "b":[1e3, {"c":-0}], "x":{} , "a":1.00}'

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(min_size=1, max_size=4), VALUES, max_size=4)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("b.0", "2", TEXT.replace("1e3", "2")),
        ("b.1.c", '"x"', TEXT.replace("-0", '"x"')),
        ("b.2", "[]", TEXT.replace("}],", "},[]],")),
        ("x.y.z", "1", TEXT.replace("{} ", '{"y":{"z":1}} ')),
        ("x", "null", TEXT.replace("{} ", "null ")),
        ("a", "7", TEXT.replace("1.00", "7")),  # the last of two is the one that counts
        ("é", "1", TEXT[:-1] + ',"é":1}'),
    ],
)
def test_one_value_changes(path: str, value: str, expected: str) -> None:
    """The value at the path is replaced, or added at the end; numbers, blanks and order around it stay."""
    assert put(TEXT, path.split("."), value) == expected


@pytest.mark.parametrize("path", ["b.5", "b.x", "b.-1", "a.b", "b.0.c"])
def test_no_way_is_told(path: str) -> None:
    """A place that a list does not have, or inside a single value, is refused."""
    with pytest.raises(NoWay):
        put(TEXT, path.split("."), "1")


def test_an_empty_container_is_filled() -> None:
    """The first member or item needs no comma, whatever blanks are there."""
    assert put(" { } ", ["a"], "1") == ' {"a":1 } '
    assert put("[]", ["0", "a"], "1") == '[{"a":1}]'


@given(OBJECTS, st.text(min_size=1, max_size=4), VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_it_means_what_an_assignment_means(
    document: dict[str, Any], name: str, value: Any, ascii_only: bool, indent: int | None
) -> None:
    """On any object the result parses to what assigning the member gives, in the same order."""
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    changed = put(text, [name], json.dumps(value))
    document[name] = value
    assert list(json.loads(changed).items()) == list(document.items())


def test_a_member_is_read_as_it_is_written() -> None:
    """`value_at` returns the text of a member; None where there is none."""
    assert value_at(TEXT, "b") == '[1e3, {"c":-0}]'
    assert value_at(TEXT, "nothing") is None


@pytest.mark.parametrize(("text", "sound"), [("1", True), ('"a"', True), ("a", False), ("NaN", False), ("", False)])
def test_what_is_json(text: str, sound: bool) -> None:
    """JSON as RFC 8259 has it: no NaN, no bare words."""
    assert is_json(text) is sound
