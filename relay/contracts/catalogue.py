"""All contracts there are: the files that come with the relay, and those of an operator's folder.

A file is read with the schemas that it names in their place, put on top of what it extends, and checked.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from relay.contracts.contract import Contract
from relay.contracts.document import ContractDocument, repeated_headers
from relay.contracts.mistakes import ContractError, inconsistencies, issues_of, key_path
from relay.contracts.schema import SchemaError
from relay.contracts.tree import Spelled
from relay.core.issues import Issue, did_you_mean
from relay.core.locate import locate

FOLDER = "contracts"
"""Where contracts of an operator's own are, beside the configuration file."""

_WHOLE = frozenset({"schema", "test"})
"""Tables that an extending contract replaces rather than adds to."""

_BUILTIN = files("relay.contracts") / "builtin"
_SUFFIX = ".toml"
_LAST_STEP = re.compile(r'(?:\.?(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*")|\[[0-9]+\])\Z')
_DEFINITION = "#/$defs/"


@dataclass(slots=True)
class Source:
    """One contract file. `raw` is None when nothing of it can be read."""

    name: str
    file: str
    comes_with_relay: bool = False
    raw: dict[str, Any] | None = None
    lines: Mapping[str, int] = field(default_factory=dict)  # key as TOML names it → where it stands
    issues: list[Issue] = field(default_factory=list)

    def blame(self, key: str, message: str, remedy: str) -> None:
        self.add(Issue(key, message, remedy))

    def add(self, issue: Issue) -> None:
        """Take an issue, with the line of its key, or of the nearest thing around it that this file has."""
        key = issue.path
        while key and key not in self.lines:
            key = _LAST_STEP.sub("", key)
        self.issues.append(replace(issue, place=f"{self.file}:{self.lines[key]}" if key else self.file))


class ContractCatalogue:
    """Contracts by name. Nothing of it changes, but that a contract of relay's own is made when it is first asked for.

    They are many, most relays serve one or two, and their models and compiled schemas take megabytes.
    """

    def __init__(
        self,
        contracts: Mapping[str, Contract],
        written: Mapping[str, Any] | None = None,
        issues: Iterable[Issue] = (),
        unmade: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """`unmade` has whole documents that are sound, by name."""
        self._contracts = dict(contracts)
        self._unmade = dict(unmade or {})
        self._written = dict(written or {})  # whole documents by name; None for those with mistakes
        self.issues = tuple(issues)

    @classmethod
    def load(cls, directory: Path | None = None) -> "ContractCatalogue":
        """Read the built-in files and those in `directory`; the file's name is the contract's. ContractError."""
        catalogue = cls.read(directory)
        if catalogue.issues:
            raise ContractError(catalogue.issues)
        return catalogue

    @classmethod
    def beside(cls, config_file: Path | None) -> "ContractCatalogue":
        """Read the built-in files and those of the folder `contracts` beside a configuration file, if there is one."""
        folder = None if config_file is None else config_file.parent / FOLDER
        # What may not even be looked at is no folder: that the configuration cannot be read is reported anyway.
        return cls.read(folder if folder is not None and os.path.isdir(folder) else None)

    @classmethod
    def read(cls, directory: Path | None = None) -> "ContractCatalogue":
        """Read what is sound, and keep in `issues` what is wrong with the rest."""
        sources = _sources(directory)
        loading = _Loading(sources)
        for source in sources:
            loading.load(source)
        written = {source.name: None for source in sources if source.name} | loading.written
        issues = (issue for source in sources for issue in source.issues)
        return cls(loading.contracts, written, issues, loading.unmade)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({*self._contracts, *self._unmade}))

    def get(self, name: str) -> Contract | None:
        if name in self._unmade:
            self._contracts[name] = Contract(name, ContractDocument.model_validate(self._unmade.pop(name)))
        return self._contracts.get(name)

    def is_faulty(self, name: str) -> bool:
        """Whether there is a file for this contract, with mistakes."""
        return name not in self.names and name in self._written

    def differing(self, other: "ContractCatalogue") -> list[str]:
        """Name the contracts that only one of two catalogues has, or that are written differently."""
        names = sorted({*self.names, *other.names})
        return [name for name in names if self._written.get(name) != other._written.get(name)]


class _Loading:
    """Turns sources into contracts, each after the one that it extends. Mistakes end up in the sources."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.contracts: dict[str, Contract] = {}
        self.unmade: dict[str, dict[str, Any]] = {}  # whole documents of relay's own contracts, which are sound
        self._sources = {source.name: source for source in sources if source.raw is not None}
        self.written: dict[str, dict[str, Any] | None] = {}  # whole documents by name; None: not to be built on

    def load(self, source: Source) -> None:
        """Make a contract of a source, unless that was done before."""
        if source.raw is None or source.name in self.written:
            return
        self.written[source.name] = None  # whoever extends it from here on goes round in a circle
        whole = self._extended(source, source.raw)
        if source.comes_with_relay and whole is not None:
            self.written[source.name] = self.unmade[source.name] = whole
            return
        document = None if whole is None else _check(source, whole)
        if document is not None:
            self.written[source.name] = whole
            self.contracts[source.name] = Contract(source.name, document)

    def _extended(self, source: Source, own: dict[str, Any]) -> dict[str, Any] | None:
        """Put what a file says on top of what it extends; None if that cannot be built on."""
        name = own.get("extends")
        if not isinstance(name, str):
            return own  # a value that is no text is the document's mistake
        base = self._sources.get(name)
        if base is None:
            remedy = did_you_mean(name, self._sources) or f"There are: {', '.join(sorted(self._sources))}."
            source.blame("extends", f"there is no contract {name!r}", remedy)
            return None
        self.load(base)
        written = self.written[name]
        if written is None:
            remedy = "Mend that first; contracts cannot extend each other in a circle."
            source.blame("extends", f"{name!r} cannot be built on", remedy)
            return None
        return _merged(written, own)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Add tables to tables, key by key; lists and single values are replaced."""
    merged = dict(base)
    for key, value in own.items():
        below = base.get(key)
        adds = isinstance(value, dict) and isinstance(below, dict) and key not in _WHOLE
        merged[key] = _merged(below, value) if adds and below is not None else value
    return merged


def _check(source: Source, raw: dict[str, Any]) -> ContractDocument | None:
    for name in repeated_headers(raw):
        source.blame("", f"the header {name} is set twice", "Remove one.")
    try:
        document = ContractDocument.model_validate(raw)
    except ValidationError as invalid:
        for issue in issues_of(invalid):
            source.add(issue)
        return None
    for issue in inconsistencies(document):
        source.add(issue)
    return None if source.issues else document


def _sources(directory: Path | None) -> list[Source]:
    """Read the built-in files and those in `directory`, in that order; the file's name is the contract's."""
    sources: list[Source] = []
    for folder in (_BUILTIN, directory):
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
    source = Source(name, str(file), comes_with_relay=folder is _BUILTIN)
    source.raw = _parse(file, source)
    if source.raw is not None:
        _fetch_schemas(folder, source, source.raw)
    return source


def _parse(file: Traversable, source: Source) -> dict[str, Any] | None:
    try:
        text = file.read_bytes().decode()
        raw = tomllib.loads(text, parse_float=Spelled)
        source.lines = {key_path(path): line for path, line in locate(text).items()}
        return raw
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
        except SchemaError as error:
            source.blame(key_path(("type", name, "schema")), error.detail, error.remedy)
            del entry["schema"]


def _schema(folder: Traversable, place: str) -> dict[str, Any]:
    """Load `folder/file.json`, or one definition `folder/file.json#/$defs/name` with those that it refers to.

    What is not beside the contract is looked for among the files that come with the relay: whoever extends one of its
    contracts names the schemas as that one does.
    """
    path, mark, definition = place.partition(_DEFINITION)
    document = _load(folder if (folder / path).is_file() or not (_BUILTIN / path).is_file() else _BUILTIN, path)
    if not mark:
        return document
    definitions = document.get("$defs")
    if not isinstance(definitions, dict) or not isinstance(definitions.get(definition), dict):
        raise SchemaError(f"{path} defines no {definition!r}", remedy="Add it under $defs, or correct the name.")
    return _with_definitions(definitions[definition], definitions)


def _load(folder: Traversable, path: str) -> dict[str, Any]:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or ":" in path:
        raise SchemaError(
            f"{path!r} is not beside the contract", remedy="Name a file in this folder or in one within it."
        )
    try:
        document = json.loads((folder / path).read_bytes().decode())
    except OSError as error:
        raise SchemaError(f"{path} cannot be read: {error.strerror}", remedy="Correct the name.") from None
    except ValueError as error:
        raise SchemaError(f"{path} is not JSON: {error}", remedy="Mend it.") from None
    if not isinstance(document, dict):
        raise SchemaError(f"{path} is no JSON Schema: it is not an object", remedy="Mend it.")
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
