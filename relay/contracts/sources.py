"""Contract files as they are written, with the schemas that they name put in their place."""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any

from relay.contracts.problems import ContractProblem, key_path

_SUFFIX = ".toml"
_DEFINITION = "#/$defs/"


@dataclass(frozen=True, slots=True)
class Source:
    """One contract file. `raw` is None when nothing of it can be read."""

    name: str
    file: str
    raw: dict[str, Any] | None = None
    problems: list[ContractProblem] = field(default_factory=list)

    def blame(self, key: str, message: str, remedy: str) -> None:
        self.problems.append(ContractProblem(self.file, key, message, remedy))


def read_sources(directory: Path | None) -> list[Source]:
    """Read the built-in files and those in `directory`, in that order; the file's name is the contract's."""
    sources: list[Source] = []
    for folder in (files("relay.contracts") / "builtin", directory):
        if folder is not None:
            taken = {source.name for source in sources}
            sources += [_read(folder, file, taken) for file in _contract_files(folder, sources)]
    return sources


def _contract_files(folder: Traversable, sources: list[Source]) -> Iterator[Traversable]:
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except OSError as error:
        unreadable = Source("", str(folder))
        unreadable.blame("", f"cannot be read: {error.strerror}", "Name a folder.")
        sources.append(unreadable)
        return
    yield from (entry for entry in entries if entry.name.endswith(_SUFFIX))


def _read(folder: Traversable, file: Traversable, taken: set[str]) -> Source:
    name = file.name.removesuffix(_SUFFIX)
    if name in taken:
        source = Source("", str(file))
        source.blame("", f"the name {name!r} is taken", "Rename the file.")
        return source
    source = Source(name, str(file))
    raw = _parse(file, source)
    if raw is None:
        return source
    source = Source(name, str(file), raw, source.problems)
    _fetch_schemas(folder, source, raw)
    return source


def _parse(file: Traversable, source: Source) -> dict[str, Any] | None:
    try:
        return tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        source.blame("", f"cannot be read: {error.strerror}", "Check its permissions.")
    except UnicodeDecodeError:
        source.blame("", "is not UTF-8", "Save it as UTF-8.")
    except tomllib.TOMLDecodeError as error:
        source.blame("", f"is not TOML: {error}", "Mend that line.")
    return None


def _fetch_schemas(folder: Traversable, source: Source, raw: dict[str, Any]) -> None:
    """Put each schema in the place of its file's name; what cannot be fetched is blamed and left out."""
    listed = raw.get("type")
    for name, entry in listed.items() if isinstance(listed, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("schema"), str):
            continue
        try:
            entry["schema"] = _schema(folder, entry["schema"])
        except _Unfetched as unfetched:
            source.blame(key_path(("type", name, "schema")), str(unfetched), unfetched.remedy)
            del entry["schema"]


class _Unfetched(Exception):
    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def _schema(folder: Traversable, place: str) -> dict[str, Any]:
    """Load `folder/file.json`, or one definition `folder/file.json#/$defs/name` with those that it refers to."""
    path, mark, definition = place.partition(_DEFINITION)
    document = _load(folder, path)
    if not mark:
        return document
    definitions = document.get("$defs")
    if not isinstance(definitions, dict) or not isinstance(definitions.get(definition), dict):
        raise _Unfetched(f"{path} defines no {definition!r}", "Add it under $defs, or correct the name.")
    return _with_definitions(definitions[definition], definitions)


def _load(folder: Traversable, path: str) -> dict[str, Any]:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or ":" in path:
        raise _Unfetched(f"{path!r} is not beside the contract", "Name a file in this folder or in one within it.")
    try:
        document = json.loads((folder / path).read_bytes().decode())
    except OSError as error:
        raise _Unfetched(f"{path} cannot be read: {error.strerror}", "Correct the name.") from None
    except ValueError as error:
        raise _Unfetched(f"{path} is not JSON: {error}", "Mend it.") from None
    if not isinstance(document, dict):
        raise _Unfetched(f"{path} is no JSON Schema: it is not an object", "Mend it.")
    return document


def _with_definitions(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    needed: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        for name in _references(waiting.pop()):
            if name in definitions and name not in needed:
                needed[name] = definitions[name]
                waiting.append(definitions[name])
    return {**schema, "$defs": needed} if needed else schema


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    if not isinstance(value, dict):
        return
    for key, inner in value.items():
        if key == "$ref" and isinstance(inner, str):
            yield inner.removeprefix(_DEFINITION)
        else:
            yield from _references(inner)
