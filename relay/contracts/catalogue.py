"""All contracts there are: the files that come with the relay, and those of an operator's folder."""

import os
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from relay.contracts.consistency import findings
from relay.contracts.contract import Contract
from relay.contracts.document import ContractDocument, repeated_headers
from relay.contracts.problems import ContractError, ContractProblem, key_path, problems_of
from relay.contracts.sources import Source, read_sources

FOLDER = "contracts"
"""Where contracts of an operator's own are, beside the configuration file."""

_WHOLE = frozenset({"schema", "test"})
"""Tables that an extending contract replaces rather than adds to."""


class ContractCatalogue:
    """Contracts by name. Immutable."""

    def __init__(
        self,
        contracts: Mapping[str, Contract],
        written: Mapping[str, Any] | None = None,
        problems: Iterable[ContractProblem] = (),
    ) -> None:
        self._contracts = MappingProxyType(dict(contracts))
        self._written = dict(written or {})  # whole documents by name; None for those with mistakes
        self.problems = tuple(problems)

    @classmethod
    def load(cls, directory: Path | None = None) -> "ContractCatalogue":
        """Read the built-in files and those in `directory`; the file's name is the contract's. ContractError."""
        catalogue = cls.read(directory)
        if catalogue.problems:
            raise ContractError(catalogue.problems)
        return catalogue

    @classmethod
    def beside(cls, config_file: Path | None) -> "ContractCatalogue":
        """Read the built-in files and those of the folder `contracts` beside a configuration file, if there is one."""
        folder = None if config_file is None else config_file.parent / FOLDER
        # What may not even be looked at is no folder: that the configuration cannot be read is reported anyway.
        return cls.read(folder if folder is not None and os.path.isdir(folder) else None)

    @classmethod
    def read(cls, directory: Path | None = None) -> "ContractCatalogue":
        """Read what is sound, and keep in `problems` what is wrong with the rest."""
        sources = read_sources(directory)
        loading = _Loading(sources)
        for source in sources:
            loading.load(source)
        written = {source.name: None for source in sources if source.name} | loading.written
        return cls(loading.contracts, written, (problem for source in sources for problem in source.problems))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._contracts))

    def get(self, name: str) -> Contract | None:
        return self._contracts.get(name)

    def is_faulty(self, name: str) -> bool:
        """Whether there is a file for this contract, with mistakes."""
        return name not in self._contracts and name in self._written

    def differing(self, other: "ContractCatalogue") -> list[str]:
        """Name the contracts that only one of two catalogues has, or that are written differently."""
        names = sorted({*self._contracts, *other._contracts})
        return [name for name in names if self._written.get(name) != other._written.get(name)]


class _Loading:
    """Turns sources into contracts, each after the one that it extends. Mistakes end up in the sources."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.contracts: dict[str, Contract] = {}
        self._sources = {source.name: source for source in sources if source.raw is not None}
        self.written: dict[str, dict[str, Any] | None] = {}  # whole documents by name; None: not to be built on

    def load(self, source: Source) -> None:
        """Make a contract of a source, unless that was done before."""
        if source.raw is None or source.name in self.written:
            return
        self.written[source.name] = None  # whoever extends it from here on goes round in a circle
        whole = self._extended(source, source.raw)
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
            near = get_close_matches(name, self._sources, n=1)
            known = ", ".join(sorted(self._sources))
            source.blame("extends", f"there is no contract {name!r}", _which(near, known))
            return None
        self.load(base)
        written = self.written[name]
        if written is None:
            remedy = "Mend that first; contracts cannot extend each other in a circle."
            source.blame("extends", f"{name!r} cannot be built on", remedy)
            return None
        return _merged(written, own)


def _which(near: list[str], known: str) -> str:
    return f"Did you mean {near[0]}?" if near else f"There are: {known}."


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
        source.problems.extend(problems_of(source.file, invalid))
        return None
    found = [
        ContractProblem(source.file, key_path(key), message, remedy) for key, message, remedy in findings(document)
    ]
    source.problems.extend(found)
    return None if source.problems else document
