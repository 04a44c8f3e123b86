"""Event types and subscriptions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.grammars import DEFAULT_GRAMMAR, check_subscription, check_type, matches

types = st.from_regex(DEFAULT_GRAMMAR, fullmatch=True).filter(lambda name: len(name) < 200)


@pytest.mark.parametrize("name", ["a", "render.completed", "a_b.C9", "0.1.2", "x" * 256])
def test_types_of_the_grammar_are_taken(name: str) -> None:
    """Letters, digits and `_` in parts joined by dots make a type."""
    assert check_type(name) is None


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "a b", "a-b", "é", "a\n", "*", "x" * 257])
def test_other_types_are_refused(name: str) -> None:
    """Everything else is refused, a line end at the end too."""
    assert check_type(name)


@pytest.mark.parametrize("pattern", ["*", "cut.*", "a.b.*", "render.completed"])
def test_subscriptions_are_exact_prefix_or_all(pattern: str) -> None:
    """A subscription is `*`, an exact type, or `prefix.*`."""
    assert check_subscription(pattern) is None


@pytest.mark.parametrize("pattern", ["", ".*", "**", "cut*", "*.done", "a.*.b", "a b.*", "cut.**", "a-b.*"])
def test_other_subscriptions_are_refused(pattern: str) -> None:
    """A star anywhere else, or a prefix outside the grammar, is refused."""
    assert check_subscription(pattern)


def test_a_contract_may_have_another_grammar() -> None:
    """Types and prefixes follow the contract's grammar, and the refusal says it in the contract's words."""
    grammar = re.compile(r"[a-z]+(?:-[a-z]+)*/[a-z]+")
    assert check_type("cut-list/done", grammar) is None
    assert check_subscription("cut.*", re.compile(r"[a-z]+\.[a-z]")) is None
    assert "the form [a-z]+" in str(check_type("cut.done", grammar))
    assert "kind/verb" in str(check_subscription("cut.done", grammar, "kind/verb"))


@given(types, types)
def test_matching(one: str, other: str) -> None:
    """`*` covers all, an exact type itself only, and `prefix.*` what continues after its dot."""
    assert matches("*", one)
    assert matches(one, other) == (one == other)
    assert matches(f"{one}.*", f"{one}.{other}")
    assert not matches(f"{one}.*", one)
    assert not matches(f"{one}.*", f"{one}x.{other}")
