"""What came of a test, as it is printed."""

from typing import Any

import click

from relay.cli.deliveries import detail
from relay.cli.output import Exit, echo_json

Json = dict[str, Any]


def report_test(outcome: Json, as_json: bool) -> None:
    """Print the outcome of a test and the headers of its answer; ends with exit code 1 if it was not delivered."""
    if as_json:
        echo_json(outcome)
    else:
        click.echo(in_words(outcome, delivered=outcome["delivered"]))
        for name, value in (outcome.get("response") or {}).get("headers", []):
            click.echo(f"  {name}: {value}")
    if not outcome["delivered"]:
        raise click.exceptions.Exit(Exit.FAILED)


def in_words(attempt: Json, *, delivered: bool) -> str:
    """Say in one line what came of an attempt: result, duration, and what was said about it."""
    result = attempt["status"] or attempt["failure"]
    word, said = "delivered" if delivered else "not delivered", detail(attempt)
    return f"{word}: {result} in {attempt['duration_ms']} ms" + (f" ({said})" if said else "")
