"""All contracts there are: the files that come with the relay, and those of an operator's folder."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from relay.contracts.contract import Contract
from relay.contracts.document import ContractDocument, repeated_headers
from relay.errors import ConfigError

_SUFFIX = ".toml"


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


class ContractCatalogue:
    """Contracts by name. Immutable."""

    def __init__(self, contracts: Mapping[str, Contract]) -> None:
        self._contracts = MappingProxyType(dict(contracts))

    @classmethod
    def load(cls, directory: Path | None = None) -> "ContractCatalogue":
        """Read the built-in files and those in `directory`; the file's name is the contract's. ContractError."""
        problems: list[ContractProblem] = []
        contracts: dict[str, Contract] = {}
        for file in _contract_files(directory, problems):
            name = file.name.removesuffix(_SUFFIX)
            if name in contracts:
                problems.append(ContractProblem(str(file), "", f"the name {name!r} is taken", "Rename the file."))
                continue
            document = _read(file, problems)
            if document is not None:
                contracts[name] = Contract(name, document)
        if problems:
            raise ContractError(problems)
        return cls(contracts)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._contracts))

    def get(self, name: str) -> Contract | None:
        return self._contracts.get(name)


def _contract_files(directory: Path | None, problems: list[ContractProblem]) -> Iterator[Traversable]:
    builtin = files("relay.contracts") / "builtin"
    for folder in [builtin] if directory is None else [builtin, directory]:
        try:
            entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(ContractProblem(str(folder), "", f"cannot be read: {error.strerror}", "Name a folder."))
            continue
        yield from (entry for entry in entries if entry.name.endswith(_SUFFIX))


def _read(file: Traversable, problems: list[ContractProblem]) -> ContractDocument | None:
    try:
        raw = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        problems.append(ContractProblem(str(file), "", f"cannot be read: {error.strerror}", "Check its permissions."))
        return None
    except UnicodeDecodeError:
        problems.append(ContractProblem(str(file), "", "is not UTF-8", "Save it as UTF-8."))
        return None
    except tomllib.TOMLDecodeError as error:
        problems.append(ContractProblem(str(file), "", f"is not TOML: {error}", "Mend that line."))
        return None
    return _check(str(file), raw, problems)


def _check(file: str, raw: dict[str, Any], problems: list[ContractProblem]) -> ContractDocument | None:
    twice = repeated_headers(raw)
    problems += [ContractProblem(file, "", f"the header {name} is set twice", "Remove one.") for name in twice]
    try:
        return ContractDocument.model_validate(raw)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            problems.append(ContractProblem(file, _key_path(error["loc"]), *_words(error)))
        return None


def _key_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for step in location:
        if step == "[key]":  # pydantic's mark for "the key itself, not its value"
            continue
        path += f"[{step}]" if isinstance(step, int) else f".{step}"
    return path.removeprefix(".")


_WORDS = {
    "missing": ("is missing", "Add it."),
    "tuple_type": ("must be a list", "Write [ … ], or [[ … ]] around the name of a table."),
    "model_type": ("must be a table", "Write { … }, or [ … ] around its name."),
    "dict_type": ("must be a table", "Write { … }, or [ … ] around its name."),
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


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = ContractDocument
    for step in location[:-1]:
        if isinstance(step, str):
            model = _model_in(model.model_fields[step].annotation)
    near = get_close_matches(str(location[-1]), model.model_fields, n=1)
    return f"Did you mean {near[0]}?" if near else f"Remove it; known here: {', '.join(model.model_fields)}."


def _model_in(annotation: Any) -> type[BaseModel]:
    """Find the model in `Model`, `Model | None` or `tuple[Model, ...]`."""
    candidates = (annotation, *get_args(annotation))
    return next(found for found in candidates if isinstance(found, type) and issubclass(found, BaseModel))
