"""What verbs share: data on stdout, messages on stderr, one way to fail, and the options that mean the same everywhere."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, NoReturn, TypeVar

import click

from relay.core.terminal import one_line, visible

F = TypeVar("F", bound=Callable[..., Any])

Json = dict[str, Any]

Columns = Mapping[str, str | Callable[[Json], Any]]
"""A table's headings, each with the member that is shown below it, or what makes a cell of the whole."""


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
        echo(self.message, err=True)


def echo(text: str, *, err: bool = False, paint: Callable[[str], str] = str, color: bool | None = None) -> None:
    """Write text to stdout, or to stderr: the one way out of the command line, on which nothing commands a terminal.

    `paint` colours what is left; `color` is False for none, None for colours on a terminal.
    """
    click.echo(paint(visible(text)), err=err, color=color)


@contextlib.contextmanager
def complaints() -> Iterator[None]:
    """Let what click says about a command line repeat nothing of it that commands a terminal."""
    try:
        yield
    except click.ClickException as error:
        error.message = visible(error.message)  # type: ignore[misc]  # click reads it when it shows the error
        raise


def fail(message: str, exit_code: int = Exit.FAILED) -> NoReturn:
    """End the command: `message` on stderr, then `exit_code`."""
    raise Failure(message, exit_code)


def echo_json(data: Any) -> None:
    """Write data to stdout as indented JSON."""
    echo(json.dumps(data, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """Write a message for people to stderr."""
    echo(message, err=True)


def show(data: Any, as_json: bool, text: Callable[[], str]) -> None:
    """Write data to stdout: as JSON if that was asked for, else as text for people."""
    if as_json:
        echo_json(data)
    else:
        echo(text())


def show_page(page: Json, as_json: bool, columns: Columns) -> None:
    """Write one page of a list, and how to come to the next."""
    show(page, as_json, lambda: table(columns, page["data"]) or "none")
    if page["next"] and not as_json:
        say(f"There are more: --cursor {page['next']}")


def confirm(yes: bool, statement: str, question: str) -> None:
    """Ask before something that cannot be taken back, unless `--yes` was given; without a terminal it is needed."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{statement}. Say --yes to do it.", Exit.USAGE)
    click.confirm(one_line(question), abort=True, err=True)


def table(columns: Columns, data: Iterable[Json]) -> str:
    """Lay out one line for each of `data` under headings; None is shown as a dash. Empty if there are no data."""
    cells = [[_cell(read(one) if callable(read) else one[read]) for read in columns.values()] for one in data]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (list(columns), *cells)]
    return "\n".join(lines) if cells else ""


def facts(pairs: Mapping[str, Any]) -> str:
    """Lay out names and values one to a line; None is left out."""
    shown = {name: value for name, value in pairs.items() if value is not None}
    width = max(map(len, shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in shown.items())


def moment(time: str | None) -> str | None:
    """Show an RFC 3339 time of the API to the second."""
    return None if time is None else time.replace("T", " ")[:19] + "Z"


def at(name: str) -> Callable[[Json], str | None]:
    """Make a column of a table that shows a time of the API."""
    return lambda one: moment(one[name])


def say_warnings(answer: Json) -> None:
    """Write what the daemon has against something that it took all the same."""
    for warning in answer.get("warnings", ()):
        say(f"Warning: {warning['pointer']}: {warning['message']}")


def state(one: Json) -> str:
    """Say an endpoint's state: who disabled it, or that its receiver refuses everything or has not agreed to take events."""
    if one["disabled_by"]:
        return f"{one['state']} ({one['disabled_by']})"
    if one["refusing"]:
        return "refusing"
    return "unverified" if one["unverified"] and one["state"] == "enabled" else str(one["state"])


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
        return one_line(", ".join(map(str, value))) or "–"
    return one_line(str(value))


# -- options ------------------------------------------------------------------------------------------------------------

PAGE_MAX = 250
_MOMENT = "this time, such as 2026-11-22T09:30:00Z, or this age, such as 2h"


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Make one decorator of several, whose options the help shows in this order."""

    def add(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


json_option = click.option("--json", "as_json", is_flag=True, help="Print data as JSON on stdout.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
force_option = click.option("--force", is_flag=True, help="Expired ones too: their next attempt is made all the same.")

list_options = options(
    click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True),
    click.option("--cursor", help="Where to go on, as the last page said."),
)
time_options = options(
    click.option("--since", help=f"Only those created since {_MOMENT}."),
    click.option("--until", help=f"Only those created before {_MOMENT}."),
)
search_options = options(
    click.option("--ordering-key", metavar="KEY", help="Only with this ordering key."),
    click.option("--idempotency-key", metavar="KEY", help="Only with this idempotency key."),
    click.option(
        "--data", metavar="PLACE=VALUE", help="Only with this value in the data, where a contract declares it."
    ),
)
"""What finds events, and what is owed of them."""

delivery_filters = options(
    time_options,
    click.option("--application", help="Only of this application."),
    click.option("--endpoint", help="Only of this endpoint."),
    click.option("--reason", help="Only dead ones with this reason, such as exhausted."),
    click.option("--type", "type", help="Only of this event type."),
    click.option("--status", help="Only where the last attempt got this, such as 503 or 5xx; none for no answer."),
    click.option("--event", metavar="ID", help="Only of this event."),
    search_options,
)
"""What selects deliveries, everywhere; a command passes them on as query values."""
