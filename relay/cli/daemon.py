"""`relay serve`, `relay demo` and `relay version`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay import __version__
from relay.cli.output import Exit, echo, json_option, say, show

if TYPE_CHECKING:
    from relay.daemon.signals import Signals


@click.command("serve")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, readable=False, path_type=Path),  # the loader says it better
    help="Configuration file; else $RELAY_CONFIG, $XDG_CONFIG_HOME/relay/config.toml, /etc/relay/config.toml, or none.",
)
@click.option("--dev", is_flag=True, help="Also deliver to http and loopback receivers; only with loopback listeners.")
@click.pass_obj
def serve(signals: "Signals | None", config: Path | None, dev: bool) -> None:
    """Run the daemon.

    Without any configuration it takes events at 127.0.0.1:8420 for the application `default`, writes an admin token into
    its state folder, and prints a `curl` line to begin with. SIGHUP reloads, SIGTERM drains and ends; a second SIGTERM
    ends at once.
    """
    from relay.daemon import process
    from relay.daemon.signals import Signals

    sys.exit(process.run(config, {"dev": True} if dev else {}, os.environ, say, signals or Signals()))


@click.command("demo")
@click.option("--once", is_flag=True, help="End when all has been shown, with 0 if all went as it should.")
def demo(once: bool) -> None:
    """Show the whole thing in seconds, with nothing configured.

    Starts a relay and a receiver in a temporary folder and on free ports, and shows a verified delivery, one that fails
    and is then delivered, and one that dies and is replayed. Stays until Ctrl-C; nothing is left behind.
    """
    import asyncio
    import tempfile

    from relay.cli.demo import run

    with tempfile.TemporaryDirectory(prefix="relay-demo-") as folder:
        shown = asyncio.run(run(Path(folder), once))
    if not shown:
        echo("The demo did not show what it should.", err=True)
        sys.exit(Exit.FAILED)


@click.command("version")
@json_option
def version(as_json: bool) -> None:
    """Print the versions of relay and what it stands on."""
    import platform
    from importlib.metadata import version as installed

    versions = {"relay": __version__, "python": platform.python_version(), "aiohttp": installed("aiohttp")}
    show(versions, as_json, lambda: f"relay {__version__} (Python {versions['python']}, aiohttp {versions['aiohttp']})")


COMMANDS = [serve, demo, version]
