"""Contracts for tests, from a few lines of TOML."""

import tomllib

from relay.contracts import Contract, ContractCatalogue
from relay.contracts.document import ContractDocument

_BODY = '\n[body]\nmembers = [{ name = "data", value = "{data}" }]\n'


def contract(text: str, *, body: str = _BODY) -> Contract:
    """Make a contract of one's own; `text` may begin with top-level keys and goes on with tables."""
    return Contract("own", ContractDocument.model_validate(tomllib.loads('description = "a test"\n' + text + body)))


def standard() -> Contract:
    found = ContractCatalogue.load().get("standard")
    assert found is not None
    return found
