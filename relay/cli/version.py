"""`relay version`: what this is and what it runs on."""

import platform
from importlib.metadata import version as installed

import click

from relay import __version__
from relay.cli.output import echo_json, json_option


@click.command("version")
@json_option
def version(as_json: bool) -> None:
    """Print the versions of relay and what it stands on."""
    versions = {"relay": __version__, "python": platform.python_version(), "aiohttp": installed("aiohttp")}
    if as_json:
        echo_json(versions)
    else:
        click.echo(f"relay {__version__} (Python {versions['python']}, aiohttp {versions['aiohttp']})")


COMMANDS = [version]
