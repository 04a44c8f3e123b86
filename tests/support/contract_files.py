"""Contracts for tests, from a few lines of TOML, and the printed documents that the built-in ones follow."""

import json
import re
import tomllib
from pathlib import Path

from relay.contracts import Contract, ContractCatalogue
from relay.contracts.document import ContractDocument

_BODY = '\n[body]\nmembers = [{ name = "data", value = "{data}" }]\n'
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"]+')


def contract(text: str, *, body: str = _BODY) -> Contract:
    """Make a contract of one's own; `text` may begin with top-level keys and goes on with tables."""
    return Contract("own", ContractDocument.model_validate(tomllib.loads('description = "a test"\n' + text + body)))


def standard() -> Contract:
    return built_in("standard")


def built_in(name: str) -> Contract:
    found = ContractCatalogue.load().get(name)
    assert found is not None
    return found


def own(folder: Path, text: str, name: str = "own") -> Contract:
    """Write a contract file into a folder and load it from there, as an operator would."""
    (folder / f"{name}.toml").write_text(text)
    found = ContractCatalogue.load(folder).get(name)
    assert found is not None
    return found


def without_line(problem: str) -> str:
    """Take the line number out of a mistake's place, for tests that are about words."""
    return re.sub(r"^([^:]+\.toml):[0-9]+: ", r"\1: ", problem)


def without_blanks(printed: str) -> bytes:
    """Take the blanks between the tokens of printed JSON away; every token stays as it is printed."""
    json.loads(printed)
    return "".join(_TOKEN.findall(printed)).encode()
