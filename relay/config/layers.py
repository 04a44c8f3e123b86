"""The layers of a configuration, laid over each other: defaults, the file, the environment, flags.

The result is one document, shaped like the file, and for every value in it where it came from.
"""

import copy
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from relay.config import model as schema
from relay.config import places
from relay.core.conditions import exact
from relay.core.locate import KeyPath, locate, nearest_line

Document = dict[str, Any]

ENV_PREFIX = "RELAY_"
DEV = "dev"
"""The flag that also allows http and receivers on this host."""

LOOPBACK = ("127.0.0.0/8", "::1/128")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value was written: a file with a line, `env NAME`, `flag --name`."""

    name: str
    line: int | None = None

    def __str__(self) -> str:
        """Return `file:line` as editors and terminals read it."""
        return self.name if self.line is None else f"{self.name}:{self.line}"


@dataclass
class Layers:
    """The document so far and the sources of what it holds. Owner of both; made for one reading."""

    file: Path | None = None
    document: Document = field(default_factory=dict)
    text: str = ""  # of the file
    overlaid: dict[KeyPath, Source] = field(default_factory=dict)

    def read_file(self, text: str) -> None:
        """Lay down the file; TOMLDecodeError if it is not TOML."""
        self.document = tomllib.loads(text, parse_float=exact)
        self.text = text

    @cached_property
    def lines(self) -> Mapping[KeyPath, int]:
        """Where each value of the file stands; found when it is first asked for, as it is of a mistake. O(text)"""
        return locate(self.text)

    def set(self, path: tuple[str, ...], value: Any, source: Source) -> None:
        """Lay one value over what is there."""
        table = self.document
        for key in path[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                return  # the file has something else in its place, which is reported anyway
        table[path[-1]] = value
        self.overlaid[path] = source

    def source(self, path: KeyPath) -> Source | None:
        """Return where a value comes from, or where it would have to be written; None for neither."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overlaid:
                return self.overlaid[path[:length]]
        if self.file is None:
            return None
        return Source(str(self.file), nearest_line(self.lines, path))

    def origin(self, path: KeyPath) -> str:
        """Say for a setting in effect: `default`, `file:LINE`, `env NAME` or `flag --name`."""
        overlaid = next((source for above, source in self.overlaid.items() if path[: len(above)] == above), None)
        if overlaid is not None:
            return overlaid.name
        return f"file:{self.lines[path]}" if path in self.lines else "default"


def add_defaults(layers: Layers, env: Mapping[str, str]) -> None:
    """Fill in the two defaults that depend on where the daemon runs."""
    listen = ["127.0.0.1:8420", f"unix:{places.socket_path(env)}"]
    path = str(places.state_folder(env) / "relay.db")
    for key, value in ((("server", "listen"), listen), (("storage", "path"), path)):
        table = layers.document.setdefault(key[0], {})
        if isinstance(table, dict) and key[1] not in table:
            layers.set(key, value, Source("default"))


def add_environment(layers: Layers, env: Mapping[str, str]) -> list[str]:
    """Lay `RELAY_SECTION__KEY` variables over the document; return the names of those that are no settings."""
    known = {variable_of(path): (path, field) for path, field in schema.settings()}
    unknown = []
    for name in sorted(name for name in env if name.startswith(ENV_PREFIX)):
        if name in known:
            path, setting = known[name]
            layers.set(path, _value(env[name], schema.is_list(setting)), Source(f"env {name}"))
        else:
            unknown.append(name)
    return unknown


def variable_of(path: tuple[str, ...]) -> str:
    """Return the environment variable that overrides a setting."""
    return ENV_PREFIX + "__".join(path).upper()


def add_flags(layers: Layers, flags: Mapping[str, object]) -> None:
    """Lay flags, by dotted key, over the document; `dev` stands for what `serve --dev` allows."""
    for name, value in flags.items():
        if name != DEV:
            path = tuple(name.split("."))
            layers.set(path, copy.deepcopy(value), Source(f"flag --{path[-1].replace('_', '-')}"))
    if flags.get(DEV):
        _allow_this_host(layers)


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """List the settings in a document; a list of plain values is one setting."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list | tuple) and value and all(isinstance(inner, dict) for inner in value):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def _allow_this_host(layers: Layers) -> None:
    delivery = layers.document.get("delivery")
    given = delivery.get("allow_networks", []) if isinstance(delivery, dict) else []
    networks = [*given, *LOOPBACK] if isinstance(given, list) else given
    layers.set(("delivery", "allow_networks"), networks, Source("flag --dev"))
    layers.set(("delivery", "allow_http"), True, Source("flag --dev"))


def _value(text: str, is_list: bool) -> Any:
    """Read a variable as the TOML value it looks like; else it is text, or for a list texts between commas."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if isinstance(value, bool | int | list) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return [part.strip() for part in text.split(",") if part.strip()] if is_list else text
