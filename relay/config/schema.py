"""What keys the file may have, asked of the models."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from relay.config.locate import KeyPath
from relay.config.model import Config


def fields(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """Return a table's keys as they are written in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def table_at(path: KeyPath) -> type[BaseModel] | None:
    """Return the model of the table at a path; None where there is none."""
    model: type[BaseModel] | None = Config
    for key in path:
        if isinstance(key, int):
            continue
        field = fields(model).get(key) if model else None
        model = None if field is None else nested(field.annotation)
    return model


def settings(
    model: type[BaseModel] = Config, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """List the settings that exist once, with their paths: all but those of tokens, applications and endpoints."""
    for key, field in fields(model).items():
        below = nested(field.annotation)
        if below is None:
            yield (*path, key), field
        elif not is_list(field):
            yield from settings(below, (*path, key))


def homes(key: str) -> list[str]:
    """Return the tables that have a key of this name, as they are written in the file."""
    return [table for table, model in _tables(Config, "", is_array=False) if key in fields(model)]


def is_list(field: FieldInfo) -> bool:
    """Whether a setting holds several values."""
    return get_origin(field.annotation) is tuple


def nested(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside an annotation such as `tuple[Model, ...]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := nested(inner))), None)


def _tables(model: type[BaseModel], name: str, *, is_array: bool) -> Iterator[tuple[str, type[BaseModel]]]:
    if name:
        yield (f"[[{name}]]" if is_array else f"[{name}]"), model
    for key, field in fields(model).items():
        below = nested(field.annotation)
        if below is not None:
            yield from _tables(below, f"{name}.{key}" if name else key, is_array=is_list(field))


def choices(annotation: Any) -> tuple[str, ...]:
    """Return the words of a `Literal`."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()
