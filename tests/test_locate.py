"""Lines of values: the locator against `tomllib` and against a writer that knows where it wrote."""

import datetime
import random
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from relay.core.locate import locate, nearest_line
from tests.support.toml_writer import TomlWriter

texts = st.text("ab1.é #\"'\\[]{}=,\n", max_size=8)
keys = st.text("ab-_1.é #\"'=[]", max_size=4)
scalars = (
    st.integers(-9, 99) | st.booleans() | texts | st.just(datetime.datetime(2026, 11, 22, 7, 32))  # noqa: DTZ001  # a local date-time has a blank inside
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)
documents = st.dictionaries(keys, values, max_size=5)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Every path in what `tomllib` read."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    below = set().union(*(paths(element, (*path, key)) for key, element in inner))
    return below | ({path} if path else set())


@given(documents, st.randoms(use_true_random=False))
def test_every_value_is_found_on_its_line(document: dict[str, Any], style: random.Random) -> None:
    """The locator finds exactly the paths that `tomllib` reads, each on the line where it was written."""
    written = TomlWriter(document, style)
    assert tomllib.loads(written.text) == document, "the writer itself is wrong"
    found = locate(written.text)
    assert set(found) == paths(document)
    assert found == written.lines


def test_array_of_tables_means_its_last_element() -> None:
    """A header below `[[a]]` belongs to the element that was opened last."""
    text = "[[a]]\nx = 1\n[a.b]\ny = 2\n[[a]]\n[a.b]\ny = 3\n[[a.c]]\nz = 4\n"
    lines = locate(text)
    assert lines["a", 0, "b", "y"] == 4
    assert lines["a", 1, "b", "y"] == 7
    assert lines["a", 1, "c", 0, "z"] == 9


def test_multi_line_strings_hide_what_looks_like_toml() -> None:
    """Text inside a string is never taken for a key, whatever it looks like."""
    text = 'a = """\n[x]\nb = 1 \\""" # no\n"""""\nc = \'\'\'\n"""\n\'\'\'\'\nd = 1\n'
    assert set(tomllib.loads(text)) == {"a", "c", "d"}
    assert locate(text) == {("a",): 1, ("c",): 5, ("d",): 8}


def test_what_is_missing_is_placed_at_the_nearest_table() -> None:
    """A key that was never written is placed at the table it belongs to; without one there is no line."""
    lines = locate("\n[delivery]\ntimeout = '5s'\n")
    assert nearest_line(lines, ("delivery", "retry", "jitter")) == 2
    assert nearest_line(lines, ("server", "listen")) is None
