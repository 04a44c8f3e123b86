"""How verbs speak: data on stdout, messages on stderr, and one way to fail."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Exit(IntEnum):
    """The documented exit codes (`relay --help`)."""

    FINE = 0
    FAILED = 1
    USAGE = 2
    BAD_INPUT = 65
    UNREACHABLE = 69
    CANNOT_CREATE = 73
    TEMPORARY = 75
    NO_PERMISSION = 77
    CONFIGURATION = 78


class Failure(click.ClickException):
    """Ends the command with a message on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = int(exit_code)  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


def fail(message: str, exit_code: int = Exit.FAILED) -> NoReturn:
    """End the command: `message` on stderr, then `exit_code`."""
    raise Failure(message, exit_code)


def echo_json(data: Any) -> None:
    """Write data to stdout as indented JSON."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """Write a message for people to stderr."""
    click.echo(message, err=True)


def json_option(command: F) -> F:
    """Add `--json`; the command takes it as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print data as JSON on stdout.")(command)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Lay out rows in columns of equal width; None is shown as a dash."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = [list(headings), *cells]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def facts(pairs: Mapping[str, Any]) -> str:
    """Lay out names and values one to a line; None is left out."""
    shown = {name: value for name, value in pairs.items() if value is not None}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in shown.items())


def moment(time: str | None) -> str | None:
    """Show an RFC 3339 time of the API to the second."""
    return None if time is None else time.replace("T", " ")[:19] + "Z"


def counted(count: int, noun: str) -> str:
    """Say `1 delivery` or `3 deliveries`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "–"
    return str(value)
