"""The table of calls: each asks for the right that stands beside it, and for nothing before that."""

from pathlib import Path

import pytest

from relay.core.access import Principal, Role
from tests.support.api import TOKENS, Api

BY = {token.role: token for token in TOKENS}


@pytest.mark.parametrize("role", list(Role))
async def test_every_call_asks_for_its_right(tmp_path: Path, role: Role) -> None:
    """A caller is refused with 403 by exactly those calls whose right its role lacks; without a token it is 401."""
    async with Api(tmp_path) as api:
        for route in api.relay.routes:
            path = route.path.replace("{name:.+}", "x").replace("{id}", "none").replace("{key}", "none")
            answer = await api.call(route.method, path, by=BY[role].name)
            allowed = route.right is None or Principal("", role).may(route.right)
            assert (answer.status != 403) is allowed, (route.method, route.path, answer.text)
            stranger = await api.call(route.method, path, by=None)
            assert (stranger.status != 401) is (route.right is None), (route.method, route.path, stranger.text)


async def test_a_call_stands_in_the_table_once(tmp_path: Path) -> None:
    """No method and path twice, and no handler under two rights."""
    async with Api(tmp_path) as api:
        calls = [(route.method, route.path) for route in api.relay.routes]
        assert len(calls) == len(set(calls))
        rights = {(route.handler, route.right) for route in api.relay.routes}
        assert len(rights) == len({handler for handler, _ in rights})
