"""`config.example.toml` stays in step with the models."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from relay.config import ApplicationConfig, Config, EndpointConfig, TokenConfig
from relay.config import model as schema
from relay.config.layers import leaves
from tests.support.config import HOME, WHSEC, read, sound

EXAMPLE = (Path(__file__).parent.parent / "config.example.toml").read_text()
ENV = {
    **HOME,
    "RENDER_API_TOKEN": "x" * 16,
    "ACME_PASSWORD": "p",
    "ACME_SECRET": WHSEC,
    "ACME_SECRET_NEW": WHSEC.replace("M", "N"),
}


def uncommented() -> str:
    """The example with every setting switched on: `#key = …` and `#[[table]]`, in contrast to `# prose`."""
    return re.sub(r"(?m)^#(?=[a-z_]+ = |\[)", "", EXAMPLE)


def test_the_example_is_sound_and_changes_nothing(tmp_path: Path) -> None:
    """Taken as it is, the example gives exactly the defaults, and no warning."""
    loaded = read(tmp_path, EXAMPLE)
    assert loaded.issues == ()
    assert sound(loaded) == Config()


def test_the_example_lists_every_setting_with_its_default() -> None:
    """Each key of the four sections stands in the example, and no other."""
    shown = dict(leaves(tomllib.loads(EXAMPLE)))
    assert set(shown) == {path for path, _ in schema.settings()} - {("token",), ("application",)}


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (TokenConfig, ["token", 0]),
        (ApplicationConfig, ["application", 0]),
        (EndpointConfig, ["application", 0, "endpoint", 0]),
    ],
)
def test_the_example_lists_every_key_of_tables(model: type[BaseModel], path: list[Any]) -> None:
    """Each key of tokens, applications and endpoints stands in the example behind a `#`, and no other."""
    table: Any = tomllib.loads(uncommented())
    for key in path:
        table = table[key]
    assert set(table) == set(schema.fields(model))


def test_the_example_works_when_switched_on(tmp_path: Path) -> None:
    """With all settings switched on only the choice between `secret` and `secrets` is left to make."""
    assert len(read(tmp_path, uncommented(), ENV).errors) == 1
    chosen = re.sub(r"(?m)^secrets = .*$", "", uncommented())
    assert sound(read(tmp_path, chosen, ENV)).applications[0].endpoints[0].id == "primary"


def test_each_setting_is_explained() -> None:
    """A line of prose stands above every setting, or above the group it belongs to."""
    lines = EXAMPLE.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#?[a-z_]+ = ", line):
            assert re.match(r"# |#?[a-z_]+ = ", lines[number - 1]), line
