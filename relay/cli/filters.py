"""`relay filter`: whether a filter lets an event through, and why not."""

import json

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.json_text import put, read_json
from relay.cli.output import Exit, Json, fail, show

PATH = "/v1/filters/try"


@click.group("filter")
def filter_() -> None:
    """Look at what filters do."""


@filter_.command("try")
@click.argument("event", metavar="[EVENT]", required=False)
@click.option("--filter", "filter_text", metavar="JSON", help="The filter: JSON, @FILE or -.")
@click.option("--endpoint", metavar="ID", help="The filter of this endpoint instead.")
@click.option("--event-id", metavar="ID", help="An event that was stored, instead of EVENT.")
@asks_daemon
def try_filter(
    daemon: Daemon,
    event: str | None,
    filter_text: str | None,
    endpoint: str | None,
    event_id: str | None,
    as_json: bool,
) -> None:
    """Say whether a filter lets an event through; exits 1 if not, with each condition that fails and what it found.

    EVENT is what would be posted, as JSON: text, @FILE, or - for standard input. Nothing is stored or sent.

    \b
      relay filter try --endpoint primary @event.json
      relay filter try --filter '{"data.amount": {"$gte": 100}}' --event-id evt_01M80EZS6F9R3F3JJDSHKGHR8E
    """
    if (filter_text is None) is (endpoint is None):
        fail("Give one of --filter and --endpoint.", Exit.USAGE)
    if (event is None) is (event_id is None):
        fail("Give one of EVENT and --event-id.", Exit.USAGE)
    if event == filter_text == "-":
        fail("Only one of EVENT and --filter can come from standard input.", Exit.USAGE)
    named = {"endpoint": endpoint, "event_id": event_id}
    request = json.dumps({name: value for name, value in named.items() if value is not None})
    for name, given, what in (("filter", filter_text, "--filter"), ("event", event, "EVENT")):
        if given is not None:
            request = put(request, [name], read_json(given, what))  # numbers keep their spelling
    tried = daemon.post(PATH, request.encode())
    show(tried, as_json, lambda: _in_words(tried))
    if not tried["passes"] or tried["subscribes"] is False:
        raise click.exceptions.Exit(Exit.FAILED)


def _in_words(tried: Json) -> str:
    lines = ["passes" if tried["passes"] else "does not pass", *(f"  {one['message']}" for one in tried["failures"])]
    if not tried["decided"]:
        lines.append("  It has more list elements than filters look at, so it passes undecided.")
    if tried["endpoint"] is not None and tried["filter"] is None:
        lines.append(f"  {tried['endpoint']} has no filter.")
    if tried["subscribes"] is False:
        lines.append(f"  But {tried['endpoint']} does not subscribe to its type.")
    return "\n".join(lines)


COMMANDS = [filter_]
