"""The command line: the only room that prints or exits.

Verbs live in modules, a family in each, that are imported when one of them runs, so that `relay --help` and the operator's
verbs never pay for aiohttp, pydantic or structlog. The words shown by `relay --help` therefore stand here.
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from relay import __version__
from relay.cli.output import complaints, fail
from relay.core.errors import RelayError


class Verb(NamedTuple):
    """Where a verb's command lives, and its line in `relay --help`."""

    module: str
    line: str


SECTIONS: Mapping[str, Mapping[str, Verb]] = {
    "Run it": {
        "serve": Verb("daemon", "Run the daemon."),
        "demo": Verb("daemon", "Show the whole thing in seconds, with nothing configured."),
    },
    "Set it up": {
        "init": Verb("config", "Write a commented configuration file."),
        "check-config": Verb("config", "Report every mistake in the configuration."),
        "config": Verb("config", "Show the effective configuration."),
        "app": Verb("applications", "Add, look at and change applications, and their keys."),
        "reload": Verb("status", "Let the daemon read its configuration again."),
        "rekey": Verb("rekey", "Encrypt the secrets in the database anew, or print a key."),
        "endpoint": Verb("registry", "Add, look at and change webhook endpoints."),
        "filter": Verb("filters", "Try what a filter lets through."),
    },
    "Move in": {
        "import": Verb("moving", "Make applications and endpoints of lines of JSON, all or none."),
        "export": Verb("moving", "Write applications and endpoints as lines of JSON."),
    },
    "Use it": {
        "send": Verb("send", "Send one event."),
        "trigger": Verb("send", "Send an example event, or test one endpoint with it."),
        "types": Verb("types", "List the event types that there are."),
        "status": Verb("status", "Say how the daemon is doing."),
        "explain": Verb("explain", "Say where an event went, where not, and why."),
        "events": Verb("deliveries", "Look at events."),
        "deliveries": Verb("deliveries", "Look at deliveries, and send single ones again."),
        "queue": Verb("queue", "Look at what is due; hold, release, retry or cancel it."),
        "dead": Verb("deliveries", "Look at dead letters; replay, drop, note or export them."),
        "replay": Verb("replay", "Send again what was lost, as a job."),
    },
    "Build a receiver": {
        "listen": Verb("receiving", "Receive here: verify, show and answer deliveries, or fail on purpose."),
        "check-receiver": Verb("receiving", "Send a receiver what it must accept and what it must refuse."),
        "verify": Verb("signatures", "Check a signature, and say why it is wrong."),
        "sign": Verb("signatures", "Sign a body as the relay would."),
    },
    "Other": {
        "assets": Verb("assets", "Write the unit, alert rules, a dashboard, completion and manual pages."),
        "completion": Verb("assets", "Make a shell complete verbs and options."),
        "version": Verb("daemon", "Print the versions of relay and what it stands on."),
    },
}

EXIT_CODES = """
\b
Exit codes:
  0   fine
  1   the operation failed, or the daemon is degraded, or `serve` was stopped by an error or a second signal
  2   wrong use of the command line
  65  the daemon refused the input as wrong
  69  no daemon, or no receiver, could be reached
  73  a file cannot be created
  75  try again later: busy, an address in use or not there yet, or another daemon owns the database
  77  not permitted: a token that may not do this, or a file or folder of another user
  78  wrong configuration, or a database that was moved away: starting again does not help
"""


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports the one that runs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._verbs = {name: verb for section in SECTIONS.values() for name, verb in section.items()}
        # Placeholders: click lists them and proposes them when a name is mistyped.
        self.commands = {name: click.Command(name, short_help=verb.line) for name, verb in self._verbs.items()}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        verb = self._verbs.get(cmd_name)
        return None if verb is None else _load(verb.module, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, verb.line) for name, verb in verbs.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb's name without its module."""
        found = [
            CompletionItem(name, help=verb.line) for name, verb in self._verbs.items() if name.startswith(incomplete)
        ]
        return found or click.Command.shell_complete(self, ctx, incomplete)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with complaints():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with complaints():
                return super().invoke(ctx)
        except RelayError as error:
            fail(str(error), error.exit_code)


@click.group(
    cls=LazyGroup,
    epilog=EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="relay", message="%(prog)s %(version)s")
def main() -> None:
    """A durable webhook relay for one Linux host.

    Try `relay demo` first. Then `relay init` writes a configuration, and `relay serve` runs it.
    """


def _load(module: str, name: str) -> click.Command:
    commands: list[click.Command] = importlib.import_module(f"relay.cli.{module}").COMMANDS
    return next(command for command in commands if command.name == name)
