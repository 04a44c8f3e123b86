"""What people are shown of a configuration: its mistakes, the settings in effect, and what a reload changes.

An issue here names a place (`config.toml:12`), a key as people read it (`application[acme].endpoint[primary].url`) and
the value as it was written, secrets masked.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

from relay.config import model as schema
from relay.config.auth import SECRET_MEMBERS
from relay.config.checks import Finding, one_of
from relay.config.layers import Layers, leaves
from relay.config.model import Config
from relay.config.secrets import Wrong
from relay.core.issues import Issue, did_you_mean
from relay.core.locate import KeyPath
from relay.core.urls import masked

VALUE_CHARACTERS_MAX = 80
MASK = "********"

_LABEL = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REFERENCE = re.compile(r"(?:env|file|cred):.*")
_SECRET_KEYS = frozenset({"secret", "secrets", "secrets_key", "headers", "client_key"})
_URLS = frozenset({"url", "token_url"})
_LABELS = ("id", "name")
_PLACE = re.compile(r"(.+?)(?::(\d+))?")

Words = tuple[str, str]  # what is wrong, what to do


def render_issues(issues: Sequence[Issue]) -> str:
    """Write issues as text, a line for what is wrong and one for what to do."""
    return "\n".join(_render(issue) for issue in issues)


def source_and_line(issue: Issue) -> tuple[str | None, int | None]:
    """Return the file, `env NAME` or `flag --name` that an issue comes from, and its line."""
    match = _PLACE.fullmatch(issue.place)
    return (None, None) if match is None else (match[1], int(match[2]) if match[2] else None)


def severity(issue: Issue) -> str:
    """Name what an issue is: an error keeps the configuration from being used."""
    return "warning" if issue.warning else "error"


def _render(issue: Issue) -> str:
    subject = issue.path if issue.value is None else f"{issue.path} = {issue.value}"
    head = ": ".join(part for part in (issue.place, severity(issue), subject, issue.message) if part)
    return f"{head}\n    {issue.remedy}" if issue.remedy else head


# -- mistakes ----------------------------------------------------------------------------------------------------------


def from_finding(finding: Finding, layers: Layers) -> Issue:
    """Make the issue that a check's finding is."""
    return issue_at(finding.path, (finding.message, finding.remedy), layers, warning=finding.warning)


def from_pydantic(error: ErrorDetails, layers: Layers) -> Issue:
    """Make the issue that pydantic's error is."""
    message, remedy = _WORDS.get(error["type"], _other)(error)
    words = message, remedy or _default(error["loc"])
    return issue_at(error["loc"], words, layers, shown=error["type"] not in ("extra_forbidden", "missing"))


def issue_at(path: KeyPath, words: Words, layers: Layers, *, warning: bool = False, shown: bool = True) -> Issue:
    """Make an issue about what stands at a path; what nobody knows the meaning of is not shown."""
    source = layers.source(path)
    return Issue(
        path=key_text(path, layers.document),
        message=words[0],
        remedy=words[1],
        place=str(source or ""),
        value=_value(path, layers.document) if shown else None,
        warning=warning,
    )


def key_text(path: KeyPath, document: Any) -> str:
    """Write a path as people read it; tables of a list go by their id: `application[acme].endpoint[0].url`."""
    text = ""
    for key in path:
        document = _below(document, key)
        if isinstance(key, int):
            text += f"[{_label(document) or key}]"
        else:
            text += f".{key}" if _LABEL.fullmatch(key) else f".{json.dumps(key)}"
    return text.removeprefix(".")


def hidden(path: KeyPath, value: Any) -> Any:
    """Mask what must not be shown: secrets that are no references, header values, credentials in URLs."""
    if path[-1] in _URLS:
        return masked(value) if isinstance(value, str) and "://" in value else MASK
    if (_SECRET_KEYS.isdisjoint(path) and not (path[-2:-1] == ("auth",) and path[-1] in SECRET_MEMBERS)) or value == "":
        return value
    if isinstance(value, list | tuple):
        return [hidden(path, inner) for inner in value]
    is_reference = "headers" not in path and isinstance(value, str) and _REFERENCE.fullmatch(value)
    return value if is_reference else MASK


def _value(path: KeyPath, document: Any) -> str | None:
    value = document
    for key in path:
        value = _below(value, key)
    # A value in the place of a table may be anything, a secret too.
    if value is None or isinstance(value, dict) or schema.table_at(path) is not None:
        return None
    return _written(hidden(path, value))


def _default(path: KeyPath) -> str:
    """What to write when nothing better can be said."""
    document: Any = Config().model_dump(
        mode="json", by_alias=True, include={"server", "storage", "delivery", "limits", "log"}
    )
    for key in path:
        document = _below(document, key)
    return "Change it, or remove the key." if document is None else f"The default is {_written(document)}."


def _written(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[: VALUE_CHARACTERS_MAX - 1]}…"


def _below(value: Any, key: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _label(table: Any) -> str | None:
    names = (table.get(key) for key in _LABELS) if isinstance(table, dict) else ()
    return next((name for name in names if isinstance(name, str) and _LABEL.fullmatch(name)), None)


# -- the words for pydantic's errors -----------------------------------------------------------------------------------


def _unknown_key(error: ErrorDetails) -> Words:
    *path, key = error["loc"]
    table = schema.table_at(tuple(path))
    known = list(schema.fields(table)) if table else []
    hint = did_you_mean(str(key), known)
    elsewhere = [home for home in schema.homes(str(key)) if not hint]
    if elsewhere:
        return "unknown key here", f"It belongs in {' or '.join(elsewhere)}."
    return "unknown key", hint or f"Remove it; the keys here are {', '.join(sorted(known))}."


def _missing(error: ErrorDetails) -> Words:
    key = str(error["loc"][-1])
    return "is missing", f"Add {key} = {_EXAMPLES.get(key, '…')}"


def _wrong(error: ErrorDetails) -> Words:
    cause = error["ctx"]["error"]
    return (cause.message, cause.remedy) if isinstance(cause, Wrong) else (str(cause), "")


def _choice(error: ErrorDetails) -> Words:
    table = schema.table_at(error["loc"][:-1])
    field = schema.fields(table)[str(error["loc"][-1])] if table else None
    words = schema.choices(field.annotation) if field else ()
    given = error["input"]
    hint = did_you_mean(str(given), words) if isinstance(given, str | float) else ""
    return f"must be one of {one_of(words)}", hint


def _must_be(what: str, remedy: str = "") -> Callable[[ErrorDetails], Words]:
    return lambda error: (f"must be {what}", remedy)


def _bound(phrase: str, name: str) -> Callable[[ErrorDetails], Words]:
    return lambda error: (f"must be {phrase} {error['ctx'][name]:g}", "")


def _too_many(error: ErrorDetails) -> Words:
    return f"has more than {error['ctx']['max_length']} entries or characters", "Shorten it."


def _other(error: ErrorDetails) -> Words:
    return error["msg"][:1].lower() + error["msg"][1:], ""


_table = _must_be("a table", "Write the keys of this table below a header, or between { and }.")
_list = _must_be("a list", 'Put it between [ and ], such as ["a", "b"].')

_WORDS: Mapping[str, Callable[[ErrorDetails], Words]] = {
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "value_error": _wrong,
    "literal_error": _choice,
    "int_type": _must_be("a whole number", "Write it without quotes, such as 100."),
    "float_type": _must_be("a number", "Write it without quotes, such as 0.2."),
    "finite_number": _must_be("a finite number"),
    "bool_type": _must_be("true or false", "Write it without quotes."),
    "string_type": _must_be("text", "Put it in quotes."),
    "path_type": _must_be("text", "Put it in quotes."),
    "tuple_type": _list,
    "mapping_type": _table,
    "model_type": _table,
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
    "too_long": _too_many,
    "string_too_long": _too_many,
}

_EXAMPLES: Mapping[str, str] = {
    "id": '"acme"',
    "name": '"render-api"',
    "role": '"producer", "application", "reader", "operator" or "admin"',
    "secret": '"env:NAME", "file:/path" or "cred:name"',
    "url": '"https://example.com/hooks"',
}


# -- settings ----------------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """One setting in effect; secrets in `value` are masked."""

    key: str
    value: Any
    origin: str  # `default`, `file:LINE`, `env NAME`, `flag --name`


class ReloadPlan(NamedTuple):
    """What differs between two configurations, by key, or by id for tokens, applications and endpoints."""

    changed: list[str]
    needs_restart: list[str]


def effective(config: Config, layers: Layers) -> tuple[Setting, ...]:
    """List every setting that has a value, in the order of the models."""
    document = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    return tuple(
        Setting(key_text(path, document), hidden(path, value), layers.origin(path)) for path, value in leaves(document)
    )


def reload_changes(old: Config, new: Config) -> ReloadPlan:
    """Say which parts differ, and which of them only a restart puts in force."""
    before, after = _parts(old), _parts(new)
    differing = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    needs_restart = [key for key in differing if _is_fixed(key)]
    return ReloadPlan([key for key in differing if key not in needs_restart], needs_restart)


def _is_fixed(key: str) -> bool:
    """Whether a setting is taken over at start only."""
    return key.startswith(("server.", "storage.", "log.")) and not key.startswith("storage.retention.")


def _parts(config: Config) -> Mapping[str, Any]:
    """Split a configuration into what a person would name: single settings, tokens, applications, endpoints."""
    single = config.model_dump(by_alias=True, include={"server", "storage", "delivery", "log"})
    parts: dict[str, Any] = {key_text(path, single): value for path, value in leaves(single)}
    parts |= {f"token[{token.name}]": token for token in config.tokens}
    for application in config.applications:
        name = f"application[{application.id}]"
        parts[name] = application.model_copy(update={"endpoints": ()})
        parts |= {f"{name}.endpoint[{endpoint.id}]": endpoint for endpoint in application.endpoints}
    return parts
