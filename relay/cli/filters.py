"""The options that lists and bulk verbs share, so that one set of words selects deliveries everywhere."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from relay.cli.output import echo_json, say

F = TypeVar("F", bound=Callable[..., Any])

PAGE_MAX = 250
_MOMENT = "this time, such as 2026-11-22T09:30:00Z, or this age, such as 2h"


def list_options(command: F) -> F:
    """Add `--limit` and `--cursor`."""
    for option in (
        click.option("--cursor", help="Where to go on, as the last page said."),
        click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True),
    ):
        command = option(command)
    return command


def time_options(command: F) -> F:
    """Add `--since` and `--until`."""
    for option in (
        click.option("--until", help=f"Only those created before {_MOMENT}."),
        click.option("--since", help=f"Only those created since {_MOMENT}."),
    ):
        command = option(command)
    return command


def delivery_filters(command: F) -> F:
    """Add the options that select deliveries; a command passes them on as query values."""
    for option in (
        click.option("--type", "type", help="Only of this event type."),
        click.option("--reason", help="Only dead ones with this reason, such as exhausted."),
        click.option("--endpoint", help="Only of this endpoint."),
        click.option("--application", help="Only of this application."),
    ):
        command = option(command)
    return time_options(command)


def force_option(command: F) -> F:
    """Add `--force`."""
    return click.option("--force", is_flag=True, help="Expired ones too: their next attempt is made all the same.")(
        command
    )


def shown(page: dict[str, Any], as_json: bool, text: str) -> None:
    """Print one page of a list, and how to come to the next."""
    if as_json:
        echo_json(page)
        return
    click.echo(text if page["data"] else "none")
    if page["next"]:
        say(f"There are more: --cursor {page['next']}")
