"""JSON Schemas of what a person may write: of the whole configuration, for editors, and of single definitions.

They are made of the models, and the explanations of the settings are those of the example file.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from relay.config import model as settings
from relay.config.model import Config, fields, nested

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TABLE = re.compile(r"#?\[\[?([a-z_.]+)\]\]?")
_KEY = re.compile(r"#?([a-z_]+) = ")

Json = dict[str, Any]


def config_schema(example: str) -> Json:
    """Describe the configuration file; `example` is the text of one in which every setting is explained."""
    whole = definition_schema(Config)
    for path, said in _explanations(example):
        table = settings.table_at(path[:-1])
        if table is not None and path[-1] in fields(table):
            _table_of(whole, table)["properties"][path[-1]]["description"] = said
    title = {"$schema": DIALECT, "title": "The configuration of relay"}
    return title | whole


def definition_schema(model: type[BaseModel]) -> Json:
    """Describe what a model reads, by the names that people write; what it refers to stands under `$defs`."""
    whole: Json = _without_titles(model.model_json_schema(by_alias=True))
    for table in {model, *_models_in(model)}:
        _put_defaults(_table_of(whole, table)["properties"], table)
    return whole


def _models_in(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in fields(model).values():
        below = nested(field.annotation)
        if below is not None:
            yield below
            yield from _models_in(below)


def _table_of(whole: Json, model: type[BaseModel]) -> Json:
    """Return the part of a schema that describes a model."""
    table: Json = whole.get("$defs", {}).get(model.__name__, whole)
    return table


def _put_defaults(properties: Json, model: type[BaseModel]) -> None:
    """Write defaults with their units; what is a table of its own has those of its settings."""
    written = model.model_construct().model_dump(mode="json", by_alias=True, exclude_none=True)
    for key, field in fields(model).items():
        properties[key].pop("default", None)
        if key in written and nested(field.annotation) is None:
            properties[key]["default"] = written[key]


def _without_titles(schema: Any) -> Any:
    """Leave out the titles that pydantic makes of names. O(size of the schema)"""
    if isinstance(schema, list):
        return [_without_titles(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        name: {key: _without_titles(each) for key, each in inner.items()}
        if name in ("properties", "$defs")
        else _without_titles(inner)
        for name, inner in schema.items()
        if name != "title" or not isinstance(inner, str)
    }


def _explanations(example: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each setting of an example file with the prose above it."""
    table: tuple[str, ...] = ()
    said: list[str] = []
    for line in example.splitlines():
        if line.startswith("# "):
            said.append(line.removeprefix("# "))
        elif (named := _KEY.match(line)) is not None:
            if said:
                yield (*table, named[1]), " ".join(said)
            said = []
        else:
            header = _TABLE.fullmatch(line.strip())
            table = tuple(header[1].split(".")) if header else table
            said = []
