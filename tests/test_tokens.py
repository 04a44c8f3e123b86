"""Tokens, roles and rights."""

import pytest

from relay.core.access import RIGHTS, Principal, Right, Role, Token
from relay.core.errors import ConfigError
from relay.registry import TokenTable

PRODUCER = Token("render-api", Role.PRODUCER, "acme", "producer-secret-0123")
ADMIN = Token("ops", Role.ADMIN, None, "admin-secret-0123456")


def test_a_token_is_found_by_its_secret() -> None:
    """The principal behind a secret has the token's name, role and application."""
    assert TokenTable([PRODUCER, ADMIN]).find(PRODUCER.secret) == Principal("render-api", Role.PRODUCER, "acme")


@pytest.mark.parametrize("secret", ["", "producer-secret-0124", "producer-secret-012", "\udcff", "ü" * 20])
def test_any_other_secret_finds_nobody(secret: str) -> None:
    """Missing, wrong, cut and undecodable secrets all find nobody, by the same path (reliability §3.3)."""
    assert TokenTable([PRODUCER]).find(secret) is None


def test_only_digests_are_kept() -> None:
    """No token can be read back from the table or seen in a repr (invariant 13, reliability §7.26)."""
    table = TokenTable([PRODUCER])
    assert PRODUCER.secret not in repr(vars(table))
    assert PRODUCER.secret not in repr(PRODUCER)


def test_two_tokens_with_one_secret_are_refused() -> None:
    """A secret names one principal; the message names both tokens and not the secret."""
    with pytest.raises(ConfigError) as caught:
        TokenTable([PRODUCER, Token("other", Role.READER, None, PRODUCER.secret)])
    assert '"render-api" and "other"' in str(caught.value)
    assert PRODUCER.secret not in str(caught.value)


def test_an_empty_secret_is_refused() -> None:
    """An empty secret would let everybody in."""
    with pytest.raises(ConfigError, match='"nobody" is empty'):
        TokenTable([Token("nobody", Role.ADMIN, None, "")])


def test_a_reload_replaces_all_tokens_or_none() -> None:
    """After a good replacement only the new tokens work; after a bad one the old ones still do."""
    table = TokenTable([PRODUCER])
    with pytest.raises(ConfigError):
        table.replace([ADMIN, ADMIN])
    assert table.find(PRODUCER.secret) is not None
    table.replace([ADMIN])
    assert table.find(PRODUCER.secret) is None
    assert table.find(ADMIN.secret) is not None


@pytest.mark.parametrize(
    ("role", "rights"),
    [
        (Role.PRODUCER, {Right.POST_EVENTS, Right.READ_EVENTS}),
        (Role.APPLICATION, {Right.READ_EVENTS, Right.READ, Right.OPERATE, Right.CHANGE, Right.SEE_CREDENTIALS}),
        (Role.READER, {Right.READ_EVENTS, Right.READ, Right.READ_STATUS, Right.SEE_NETWORK}),
        (Role.OPERATOR, {Right.READ_EVENTS, Right.READ, Right.READ_STATUS, Right.OPERATE, Right.SEE_NETWORK}),
        (Role.ADMIN, set(Right)),
    ],
)
def test_each_role_has_its_rights(role: Role, rights: set[Right]) -> None:
    """The roles may do what the design says and nothing else; an application never posts events."""
    assert {right for right in Right if Principal("x", role).may(right)} == rights
    assert set(RIGHTS) == set(Role)


def test_a_bound_principal_sees_its_application_only() -> None:
    """Things of another application do not exist for a bound token."""
    assert Principal("x", Role.READER, "acme").sees("acme")
    assert not Principal("x", Role.READER, "acme").sees("beta")
    assert Principal("x", Role.READER).sees("beta")
