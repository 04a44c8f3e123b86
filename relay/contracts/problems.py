"""Mistakes in contract files, with their place and what to do about them."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from relay.contracts.document import ContractDocument
from relay.core.errors import ConfigError

KeyPath = tuple[int | str, ...]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class ContractProblem:
    """One mistake in a contract file."""

    file: str
    key: str  # path in the file such as `signature[0].content`; empty when it is about the whole file
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.message}. {self.remedy}".strip()


class ContractError(ConfigError):
    """Contract files cannot be used; `problems` lists every mistake in every file."""

    def __init__(self, problems: Iterable[ContractProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def key_path(location: KeyPath) -> str:
    """Write a place in a file as TOML would name it."""
    path = ""
    for step in location:
        if step == "[key]":  # pydantic's mark for "the key itself, not its value"
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step if _BARE.fullmatch(step) else json.dumps(step)}"
    return path.removeprefix(".")


def problems_of(file: str, invalid: ValidationError) -> Iterator[ContractProblem]:
    """Say what the model found, in our words."""
    for error in invalid.errors(include_url=False):
        yield ContractProblem(file, key_path(error["loc"]), *_words(error))


_WORDS = {
    "missing": ("is missing", "Add it."),
    "tuple_type": ("must be a list", "Write [ … ], or [[ … ]] around the name of a table."),
    "model_type": ("must be a table", "Write { … }, or [ … ] around its name."),
    "dict_type": ("must be a table", "Write { … }, or [ … ] around its name."),
    "string_type": ("must be text", "Write it in quotes."),
    "too_short": ("is empty", "Put something in it, or remove it."),
}
"""What pydantic's own kinds of mistakes are called here, and what to do about them."""


def _words(error: Any) -> tuple[str, str]:
    """Return what is wrong and what to do."""
    kind = error["type"]
    if kind == "contract":
        return error["msg"], error["ctx"]["remedy"]
    if kind == "extra_forbidden":
        return "unknown key", _did_you_mean(error["loc"])
    return _WORDS.get(kind, (error["msg"][:1].lower() + error["msg"][1:], "Change the value."))


def _did_you_mean(location: KeyPath) -> str:
    known = list(_keys_of(_model_at(location[:-1])))
    near = get_close_matches(str(location[-1]), known, n=1)
    return f"Did you mean {near[0]}?" if near else f"Remove it; known here: {', '.join(known)}."


def _model_at(location: KeyPath) -> type[BaseModel]:
    annotation: Any = ContractDocument
    for step in location:
        if isinstance(step, int):
            continue
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            continue
        annotation = _keys_of(_model_in(annotation))[step]
    return _model_in(annotation)


def _keys_of(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel]:
    """Find the model in `Model`, `Model | None`, `tuple[Model, ...]` or `dict[str, Model]`."""
    candidates = (annotation, *get_args(annotation))
    return next(found for found in candidates if isinstance(found, type) and issubclass(found, BaseModel))
