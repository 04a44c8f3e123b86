"""`relay serve`: run the daemon."""

import os
import sys
from pathlib import Path

import click

from relay.cli.output import say


@click.command("serve")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),  # the loader says it better
    help="Configuration file; else $RELAY_CONFIG, $XDG_CONFIG_HOME/relay/config.toml, /etc/relay/config.toml, or none.",
)
@click.option("--dev", is_flag=True, help="Also deliver to http and loopback receivers; only with loopback listeners.")
def serve(config: Path | None, dev: bool) -> None:
    """Run the daemon.

    Without any configuration it takes events at 127.0.0.1:8420 for the application `default`, writes an admin token into
    its state folder, and prints a `curl` line to begin with. SIGHUP reloads, SIGTERM drains and ends; a second SIGTERM
    ends at once.
    """
    from relay.daemon.signals import Signals

    signals = Signals()  # before the imports below, which take a while
    from relay.daemon import process

    sys.exit(process.run(config, {"dev": True} if dev else {}, os.environ, say, signals))


COMMANDS = [serve]
