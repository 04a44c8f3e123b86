"""The JSON Schema of the configuration, for editors: in step with the models, and with the example."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jsonschema_rs import Draft202012Validator

from relay.cli import main
from relay.config import Config
from relay.config import model as settings
from relay.config.json_schema import config_schema
from tests.support.config import read
from tests.test_config_example import EXAMPLE, uncommented

SCHEMA = config_schema(EXAMPLE)


def faults(text: str) -> list[str]:
    return [str(fault) for fault in Draft202012Validator(SCHEMA).iter_errors(tomllib.loads(text))]


def test_the_schema_takes_the_example() -> None:
    """As it is, and with every setting switched on."""
    Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"}).validate(SCHEMA)
    assert faults(EXAMPLE) == faults(uncommented()) == []


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("[server]\nmax_bodi = '1MiB'", "[server]\nmax_body = '1MiB'"),
        ("[delivery]\ntimeout = 15", "[delivery]\ntimeout = '15s'"),
        ("[delivery]\ntimeout = '15 sec'", "[delivery]\ntimeout = '1m30s'"),
        ("[server]\nmax_depth = 0", "[server]\nmax_depth = 1"),
        ("[storage]\ndurability = 'fast'", "[storage]\ndurability = 'normal'"),
        ("[storage]\npath = 'relay.db'", "[storage]\npath = '/relay.db'"),
        ("[replays]\nrate = '50'", "[replays]\nrate = '50/s'"),
        ("[server]\nlisten = 8420", "[server]\nlisten = '127.0.0.1:8420'"),
        ("[[application]]\nid = 'a b'", "[[application]]\nid = 'a_b'"),
        ("[[application]]\nname = 'A'", "[[application]]\nid = 'a'"),
    ],
)
def test_the_schema_refuses_what_the_relay_refuses(tmp_path: Path, wrong: str, right: str) -> None:
    """An unknown key, another kind of value, one out of bounds, a missing one; and it takes what the relay takes."""
    assert faults(wrong)
    assert read(tmp_path, wrong).errors
    assert faults(right) == []
    assert not read(tmp_path, right).errors


def described(schema: Any, path: tuple[str, ...]) -> Any:
    """What the schema says of a setting."""
    for key in path:
        schema = schema["properties"][key]
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def test_the_schema_has_every_setting_with_its_default_and_what_it_means() -> None:
    """The defaults are those of the models, in the words of the file; the explanations those of the example."""
    defaults = Config().model_dump(mode="json", by_alias=True)
    for path, field in settings.settings():
        if settings.is_list(field) and settings.nested(field.annotation):
            continue
        value: Any = defaults
        for key in path:
            value = value[key]
        assert described(SCHEMA, path)["default"] == value, path
    assert "DNS" in described(SCHEMA, ("delivery", "timeout"))["description"]


def test_the_command_prints_it() -> None:
    """`relay config schema`; the first line of the example names its file, which `relay assets export` writes beside it."""
    result = CliRunner().invoke(main, ["config", "schema"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == SCHEMA
    named = re.match(r"#:schema \./(\S+)\n", EXAMPLE)
    assert named is not None
    assert named[1] == "config.schema.json"


def test_the_export_writes_it_beside_the_example(tmp_path: Path) -> None:
    """The name in the first line of the exported example leads to the exported schema."""
    result = CliRunner().invoke(main, ["assets", "export", str(tmp_path), "--only", "config"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "config" / "config.schema.json").read_text()) == SCHEMA
