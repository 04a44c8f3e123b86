"""Reads a configuration: one code path for start, reload and `relay check-config`.

Nothing is raised for what a person wrote. Every mistake becomes an issue, all of them at once.
"""

import copy
import itertools
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from relay.config import layers as laying
from relay.config import model as schema
from relay.config.auth import secrets_of
from relay.config.checks import Circumstances, Subject, check
from relay.config.explain import (
    Setting,
    effective,
    from_finding,
    from_pydantic,
    issue_at,
    key_text,
    render_issues,
    source_and_line,
)
from relay.config.layers import Document, Layers, Source
from relay.config.listening import Passed, taken_over
from relay.config.model import Config
from relay.config.secrets import Secrets
from relay.contracts import ContractCatalogue
from relay.core.errors import ConfigError, NotPermitted, RelayError, hand_over
from relay.core.issues import Issue, did_you_mean, keys_of
from relay.core.locate import KeyPath

OTHER_VARIABLES = frozenset({"RELAY_CONFIG", "RELAY_URL", "RELAY_TOKEN", "RELAY_SOCKET"})
"""Variables of the command line, which are no settings."""

SECRETS_NAMED = 20
"""Secrets in the file that the warning about them names."""

ROUNDS_MAX = 4
"""A repaired document may show an error that another one hid; more than this has never been needed."""

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What reading a configuration came to; `config` is None if any issue is an error."""

    config: Config | None
    issues: tuple[Issue, ...]
    layers: Layers  # what it was made of: where each setting stands
    path: Path | None
    contracts: ContractCatalogue  # what it was checked against

    def placed(self, issue: Issue) -> Issue:
        """Return an issue that points into the configuration with its key as people write it, and where it stands."""
        if not issue.path:
            return issue
        path = tuple(int(key) if key.isdigit() else key for key in keys_of(issue.path))
        return issue_at(path, (issue.message, issue.remedy), self.layers, warning=issue.warning, shown=False)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """List the settings in effect, none without `config`; O(all of them): for people, not for a start."""
        return () if self.config is None else effective(self.config, self.layers)

    @property
    def origins(self) -> dict[str, str]:
        """Return for every key in effect `default`, `file:LINE`, `env NAME` or `flag --name`."""
        return {setting.key: setting.origin for setting in self.settings}

    @property
    def errors(self) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if not issue.warning)

    @property
    def warnings(self) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if issue.warning)

    def refusal(self) -> RelayError:
        """Return why nothing can run with it: this user may not read the file, or it has mistakes."""
        if self.path is not None and _is_closed(self.path):
            return NotPermitted(f"{self.path} cannot be read: permission denied.", self.path)
        return ConfigError(render_issues(self.issues))


def load(
    path: Path | None,
    env: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    contracts: ContractCatalogue | None = None,
    now_ms: int | None = None,
    passed: Sequence[Passed] | None = None,
) -> Loaded:
    """Read the file, lay environment and flags over it, and check the whole.

    `flags` maps dotted keys to values; the key `dev` stands for all that `serve --dev` allows. Without `contracts` they
    are read too: the built-in ones and those of the folder beside the file. Without `now_ms` nothing is judged by the
    time: no certificate ends. `passed` are the sockets that systemd holds for this process; None where there is no
    telling, and then `systemd` stays as it is written.
    """
    if contracts is None:
        contracts = ContractCatalogue.beside(path)
    layers = Layers(path)
    unreadable = _read_file(layers)
    if unreadable is not None:
        return Loaded(None, (unreadable, *contracts.issues), layers, path, contracts)
    laying.add_defaults(layers, env)
    unknown = laying.add_environment(layers, env)
    laying.add_flags(layers, flags)
    secrets = Secrets(env)
    given = Circumstances(bool(flags.get(laying.DEV)), now_ms, passed)
    config, issues = _examine(layers, secrets, contracts, given)
    issues += contracts.issues
    issues += _unknown_variables(name for name in unknown if name not in secrets.variables_read)
    issues.sort(key=lambda issue: _order(issue, str(path)))
    if config is None or any(not issue.warning for issue in issues):
        return Loaded(None, tuple(issues), layers, path, contracts)
    return Loaded(config, tuple(issues), layers, path, contracts)


def _order(issue: Issue, file: str) -> tuple[bool, str, int]:
    """Sort the file first, by line."""
    source, line = source_and_line(issue)
    return source != file, source or "", line or 0


def _examine(
    layers: Layers, secrets: Secrets, contracts: ContractCatalogue, given: Circumstances
) -> tuple[Config | None, list[Issue]]:
    """Validate, repair what is wrong so that the rest can be checked too, and check."""
    issues: list[Issue] = []
    removed: list[KeyPath] = []
    config: Config | None
    try:
        config = validate(layers.document, secrets)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
        issues += [from_pydantic(error, layers) for error in errors]
        config, removed = repaired(layers.document, [error["loc"] for error in errors], secrets)
    if config is None:
        return None, issues
    config = _with_passed(config, given.passed or ())
    for finding in check(Subject(config, contracts, given)):
        if not any(rests_on(path, removed) for path in (finding.path, *finding.rests_on)):
            issues.append(from_finding(finding, layers))
    return config, issues + _literal_secrets(config, removed, layers)


def _with_passed(config: Config, passed: Sequence[Passed]) -> Config:
    server = config.server.model_copy(update={"listen": taken_over(config.server.listen, passed)})
    return config.model_copy(update={"server": server})


def _read_file(layers: Layers) -> Issue | None:
    if layers.file is None:
        return None
    try:
        layers.read_file(layers.file.read_bytes().decode())
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        remedy = hand_over(layers.file) if _is_closed(layers.file) else "Name another file with --config."
        return _file_issue(layers.file, None, f"cannot be read: {reason}", remedy)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        return _file_issue(layers.file, line, "is not UTF-8 text", "Save the file as UTF-8.")
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return _syntax_issue(layers.file, str(error))
    return None


def _is_closed(path: Path) -> bool:
    return os.path.lexists(path) and not os.access(path, os.R_OK)


def _syntax_issue(file: Path, message: str) -> Issue:
    match = _AT_LINE.search(message)
    line = int(match[1]) if match and match[1] else None
    text = message[: match.start()] if match else message
    if match and not match[1]:
        text += ", at the end of the file"
    text = text[:1].lower() + text[1:]
    return _file_issue(file, line, f"not TOML: {text}", "Mend this first; the rest is checked after it.")


def _file_issue(file: Path, line: int | None, message: str, remedy: str) -> Issue:
    return Issue("", message, remedy, str(Source(str(file), line)))


def _literal_secrets(config: Config, removed: Sequence[KeyPath], layers: Layers) -> list[Issue]:
    """One warning for all secrets that stand in the file itself."""
    written = [path for path, secret in _secrets(config) if not getattr(secret, "source", "")]
    literal = [path for path in written if not rests_on(path, removed)]
    if not literal or layers.file is None:
        return []
    keys = ", ".join(key_text(path, layers.document) for path in literal[:SECRETS_NAMED])
    keys += f" and {len(literal) - SECRETS_NAMED} more" if len(literal) > SECRETS_NAMED else ""
    message = f"the file holds secrets: {keys}"
    remedy = 'Prefer "env:NAME", "file:/path" or "cred:name".'
    if _readable_by_others(layers.file):
        message = f"everybody on this host can read the secrets in this file: {keys}"
        remedy = f"Run: chmod o-rwx {layers.file}"
    source = layers.source(literal[0])
    place = Source(str(layers.file), source.line if source else None)
    return [Issue("", message, remedy, str(place), warning=True)]


def _secrets(config: Config) -> Iterable[tuple[KeyPath, object]]:
    for index, token in enumerate(config.tokens):
        yield ("token", index, "secret"), token.secret
    for index, key in enumerate(config.storage.secrets_key):
        yield ("storage", "secrets_key", index), key
    if config.delivery.tls.client_key:
        yield ("delivery", "tls", "client_key"), config.delivery.tls.client_key
    for place, application in enumerate(config.applications):
        for index, endpoint in enumerate(application.endpoints):
            path: KeyPath = ("application", place, "endpoint", index)
            if endpoint.secret is not None:
                yield (*path, "secret"), endpoint.secret
            for number, secret in enumerate(endpoint.secrets or ()):
                yield (*path, "secrets", number), secret
            if endpoint.tls is not None and endpoint.tls.client_key is not None:
                yield (*path, "tls", "client_key"), endpoint.tls.client_key
            if endpoint.auth is not None:
                yield from (((*path, "auth", name), secret) for name, secret in secrets_of(endpoint.auth))


def _readable_by_others(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _unknown_variables(names: Iterable[str]) -> list[Issue]:
    known = [laying.variable_of(path) for path, _ in schema.settings()]
    return [
        Issue(
            "",
            "no setting has this variable; it is ignored",
            did_you_mean(name, known) or "Unset it; settings are written RELAY_SECTION__KEY.",
            f"env {name}",
            warning=True,
        )
        for name in names
        if name not in OTHER_VARIABLES
    ]


# -- one mistake does not hide the others ------------------------------------------------------------------------------
#
# What pydantic refused is taken out, or replaced where it is required; the checks then look at the rest. Nothing that was
# repaired is ever used: a document with an error yields no configuration.


def validate(document: Document, secrets: Secrets) -> Config:
    """Make the configuration a document describes; ValidationError lists everything that is wrong with it."""
    return Config.model_validate(document, by_name=False, context=secrets)


def repaired(document: Document, errors: Iterable[KeyPath], secrets: Secrets) -> tuple[Config | None, list[KeyPath]]:
    """Return what the sound parts of a document describe, and the paths that were taken out of it."""
    document = copy.deepcopy(document)
    serial = itertools.count()
    removed: list[KeyPath] = []
    wrong = list(errors)
    for _ in range(ROUNDS_MAX):
        removed += [_take_out(document, path, next(serial)) for path in wrong]
        try:
            return validate(document, secrets), removed
        except ValidationError as invalid:
            wrong = [error["loc"] for error in invalid.errors(include_url=False)]
    return None, removed


def _take_out(document: Document, path: KeyPath, serial: int) -> KeyPath:
    """Take the wrong thing out of its table and return its path; lists of values go whole, for places are in paths."""
    table, place = _innermost(document, path)
    key: Any = place[-1]
    if isinstance(table, list):  # something else than a table among tables
        table[key] = {}
        return place
    table.pop(key, None)
    model = schema.table_at(place[:-1])
    field = schema.fields(model).get(key) if model else None
    if field is not None and field.is_required():
        table[key] = _placeholder(key, serial)
    return place


def _innermost(document: Any, path: KeyPath) -> tuple[Any, KeyPath]:
    """Walk down a path as long as it leads through tables; return the last one, and the path of what it holds."""
    table = document
    for depth, key in enumerate(path[:-1], start=1):
        inner = table.get(key) if isinstance(key, str) else table[key]
        if not _holds_tables(inner):
            return table, path[:depth]
        table = inner
    return table, path


def _holds_tables(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(inner, dict) for inner in value))


def _placeholder(key: str, serial: int) -> str:
    """Return what the checks will find nothing wrong with."""
    unique = f"placeholder-{serial:08}"
    return {"url": "https://example.com/", "role": "producer"}.get(key, unique)


def rests_on(path: KeyPath, others: Sequence[KeyPath]) -> bool:
    """Whether a path lies within, or around, one of the others."""
    return any(path[: len(other)] == other or other[: len(path)] == path for other in others)
