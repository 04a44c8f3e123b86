"""Static headers of endpoints (reliability §3.5)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.grammars import FORBIDDEN, FORBIDDEN_PREFIXES, check_header


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Auth", "Bearer abc"),
        ("authorization", "Basic a=="),
        ("X", ""),
        ("a!#$%&'*+-.^_`|~9", "a\tb c"),
        ("X" * 64, "v" * 4096),
    ],
)
def test_ordinary_headers_are_taken(name: str, value: str) -> None:
    """What RFC 9110 calls a token and a value of visible characters may be sent."""
    assert check_header(name, value) is None


@pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a\r\nX-Evil", "a\x00", 'a"', "X" * 65])
def test_names_outside_the_grammar_are_refused(name: str) -> None:
    """A name that is no token, or longer than 64 characters, is refused with advice."""
    assert check_header(name, "v")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "\x00", "é", " a", "a ", "\ta", "\x7f", "v" * 4097])
def test_values_that_could_smuggle_are_refused(value: str) -> None:
    """Line ends, controls, non-ASCII, edge blanks and more than 4096 bytes are refused."""
    assert check_header("X-Auth", value)


@pytest.mark.parametrize("name", [*sorted(FORBIDDEN), *(f"{prefix}thing" for prefix in FORBIDDEN_PREFIXES)])
@pytest.mark.parametrize("spell", [str.lower, str.upper, str.title])
def test_reserved_headers_are_refused_in_any_case(name: str, spell: object) -> None:
    """Framing headers, `webhook-*`, `svix-*` and cloud prefixes cannot be set, however they are spelled."""
    assert callable(spell)
    assert check_header(spell(name), "v")


@given(st.text(min_size=5))
def test_the_value_is_never_repeated(value: str) -> None:
    """A refusal does not show the value, which may be a credential (invariant 13)."""
    wrong = check_header("X-Auth", f"{value}secret-part\n")
    assert wrong is not None
    assert "secret-part" not in wrong
