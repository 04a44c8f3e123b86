"""Reads a configuration: one code path for start, reload and `relay check-config`.

Nothing is raised for what a person wrote. Every mistake becomes a problem, all of them at once.
"""

import re
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from relay.config import layers as laying
from relay.config import mistakes, schema
from relay.config.checks import Subject, check
from relay.config.fields import Reading
from relay.config.layers import Layers
from relay.config.locate import KeyPath
from relay.config.model import Config
from relay.config.repair import repaired, rests_on, validate
from relay.config.report import Problem, Severity, did_you_mean
from relay.config.secrets import Secrets
from relay.config.show import Setting, effective
from relay.contracts import ContractCatalogue

OTHER_VARIABLES = frozenset({"RELAY_CONFIG", "RELAY_URL", "RELAY_TOKEN", "RELAY_SOCKET"})
"""Variables of the command line, which are no settings."""

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What reading a configuration came to; `config` is None if any problem is an error."""

    config: Config | None
    problems: tuple[Problem, ...]
    settings: tuple[Setting, ...]  # those in effect; empty without `config`
    path: Path | None
    contracts: ContractCatalogue  # what it was checked against

    @property
    def origins(self) -> dict[str, str]:
        """Return for every key in effect `default`, `file:LINE`, `env NAME` or `flag --name`."""
        return {setting.key: setting.origin for setting in self.settings}

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity is Severity.WARNING)


def load(
    path: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    contracts: ContractCatalogue | None = None,
) -> Loaded:
    """Read the file, lay environment and flags over it, and check the whole.

    `flags` maps dotted keys to values; the key `dev` stands for all that `serve --dev` allows. Without `contracts` they
    are read too: the built-in ones and those of the folder beside the file.
    """
    if contracts is None:
        contracts = ContractCatalogue.beside(path)
    layers = Layers(path)
    unreadable = _read_file(layers)
    if unreadable is not None:
        return Loaded(None, (unreadable, *_in_contracts(contracts)), (), path, contracts)
    laying.add_defaults(layers, env)
    unknown = laying.add_environment(layers, env)
    laying.add_flags(layers, flags)
    reading = Reading(Secrets(env))
    config, problems = _examine(layers, reading, contracts, dev=bool(flags.get(laying.DEV)))
    problems += _in_contracts(contracts)
    problems += _unknown_variables(name for name in unknown if name not in reading.references.variables_read)
    problems.sort(key=lambda problem: (problem.source != str(path), problem.source or "", problem.line or 0))
    if config is None or any(problem.severity is Severity.ERROR for problem in problems):
        return Loaded(None, tuple(problems), (), path, contracts)
    return Loaded(config, tuple(problems), effective(config, layers), path, contracts)


def _in_contracts(contracts: ContractCatalogue) -> list[Problem]:
    return [
        Problem(Severity.ERROR, issue.place, None, issue.path, None, issue.message, issue.remedy)
        for issue in contracts.issues
    ]


def _examine(
    layers: Layers, reading: Reading, contracts: ContractCatalogue, *, dev: bool
) -> tuple[Config | None, list[Problem]]:
    """Validate, repair what is wrong so that the rest can be checked too, and check."""
    problems: list[Problem] = []
    removed: list[KeyPath] = []
    config: Config | None
    try:
        config = validate(layers.document, reading)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        problems += [mistakes.from_pydantic(error, layers) for error in errors]
        config, removed = repaired(layers.document, [error["loc"] for error in errors], reading)
    if config is None:
        return None, problems
    for finding in check(Subject(config, contracts, dev)):
        if not any(rests_on(path, removed) for path in (finding.path, *finding.rests_on)):
            problems.append(mistakes.from_finding(finding, layers))
    return config, problems + _literal_secrets(config, removed, layers)


def _read_file(layers: Layers) -> Problem | None:
    if layers.file is None:
        return None
    try:
        layers.read_file(layers.file.read_bytes().decode())
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        return _file_problem(layers.file, None, f"cannot be read: {reason}", "Name another file with --config.")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return _file_problem(layers.file, line, "is not UTF-8 text", "Save the file as UTF-8.")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return _syntax_problem(layers.file, str(error))
    return None


def _syntax_problem(file: Path, message: str) -> Problem:
    match = _AT_LINE.search(message)
    line = int(match[1]) if match and match[1] else None
    text = message[: match.start()] if match else message
    if match and not match[1]:
        text += ", at the end of the file"
    text = text[:1].lower() + text[1:]
    return _file_problem(file, line, f"not TOML: {text}", "Mend this first; the rest is checked after it.")


def _file_problem(file: Path, line: int | None, message: str, remedy: str) -> Problem:
    return Problem(Severity.ERROR, str(file), line, "", None, message, remedy)


def _literal_secrets(config: Config, removed: Sequence[KeyPath], layers: Layers) -> list[Problem]:
    """One warning for all secrets that stand in the file itself."""
    written = [path for path, secret in _secrets(config) if not getattr(secret, "source", "")]
    literal = [path for path in written if not rests_on(path, removed)]
    if not literal or layers.file is None:
        return []
    keys = ", ".join(mistakes.key_text(path, layers.document) for path in literal)
    message = f"the file holds secrets: {keys}"
    remedy = 'Prefer "env:NAME", "file:/path" or "cred:name".'
    if _readable_by_others(layers.file):
        message = f"everybody on this host can read the secrets in this file: {keys}"
        remedy = f"Run: chmod o-rwx {layers.file}"
    source = layers.source(literal[0])
    line = source.line if source else None
    return [Problem(Severity.WARNING, str(layers.file), line, "", None, message, remedy)]


def _secrets(config: Config) -> Iterable[tuple[KeyPath, object]]:
    for index, token in enumerate(config.tokens):
        yield ("token", index, "secret"), token.secret
    for place, application in enumerate(config.applications):
        for index, endpoint in enumerate(application.endpoints):
            path: KeyPath = ("application", place, "endpoint", index)
            if endpoint.secret is not None:
                yield (*path, "secret"), endpoint.secret
            for number, secret in enumerate(endpoint.secrets or ()):
                yield (*path, "secrets", number), secret


def _readable_by_others(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _unknown_variables(names: Iterable[str]) -> list[Problem]:
    known = [laying.variable_of(path) for path, _ in schema.settings()]
    return [
        Problem(
            Severity.WARNING,
            f"env {name}",
            None,
            "",
            None,
            "no setting has this variable; it is ignored",
            did_you_mean(name, known) or "Unset it; settings are written RELAY_SECTION__KEY.",
        )
        for name in names
        if name not in OTHER_VARIABLES
    ]
