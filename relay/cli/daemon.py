"""`relay serve`, `relay demo`, `relay status` and `relay version`: the daemon itself."""

import asyncio
import os
import platform
import sys
import tempfile
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import click

from relay import __version__
from relay.cli.client import Daemon, daemon_options
from relay.cli.output import Exit, counted, facts, json_option, say, show, table
from relay.core.units import format_duration, format_size


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


@click.command("demo")
@click.option("--once", is_flag=True, help="End when all has been shown, with 0 if all went as it should.")
def demo(once: bool) -> None:
    """Show the whole thing in seconds, with nothing configured.

    Starts a relay and a receiver in a temporary folder and on free ports, and shows a verified delivery, one that fails
    and is then delivered, and one that dies and is replayed. Stays until Ctrl-C; nothing is left behind.
    """
    from relay.cli.demo import run

    with tempfile.TemporaryDirectory(prefix="relay-demo-") as folder:
        shown = asyncio.run(run(Path(folder), once))
    if not shown:
        click.echo("The demo did not show what it should.", err=True)
        sys.exit(Exit.FAILED)


@click.command("version")
@json_option
def version(as_json: bool) -> None:
    """Print the versions of relay and what it stands on."""
    versions = {"relay": __version__, "python": platform.python_version(), "aiohttp": installed("aiohttp")}
    show(versions, as_json, lambda: f"relay {__version__} (Python {versions['python']}, aiohttp {versions['aiohttp']})")


@click.command("status")
@json_option
@daemon_options
def status(daemon: Daemon, as_json: bool) -> None:
    """Say how the daemon is doing.

    Exits 1 when it takes no events, when the trouble is on this host, or when a mistake of relay's own suspended an
    endpoint; failing receivers alone leave it at 0.
    """
    now = daemon.get("/v1/status")
    show(now, as_json, lambda: "\n\n".join(filter(None, (now["headline"], _facts(now), _worst(now), _notes(now)))))
    if not now["ready"] or now["local_trouble"] or now["suspended"]:
        raise click.exceptions.Exit(Exit.FAILED)


def _facts(now: dict[str, Any]) -> str:
    storage = now["storage"]
    oldest_s = now["oldest_due_s"]
    size = f"{_size(storage['database_bytes'])} + {_size(storage['wal_bytes'])} WAL"
    return facts(
        {
            "version": f"{now['version']}, up {format_duration(round(now['uptime_s']) * 1000)}",
            "configuration": now["config_path"] or "none: defaults",
            "deliveries": f"{now['due']:,} due, {now['in_flight']:,} in flight, {now['dead']:,} dead",
            "oldest due": f"for {format_duration(round(oldest_s) * 1000)}" if oldest_s >= 1 else None,
            "endpoints": now["endpoints_total"],
            "database": f"{storage['path']}, {size}, {_size(storage['disk_free_bytes'])} of disk free",
            "durability": f"{storage['durability']} (SQLite {storage['sqlite_version']}, {storage['journal_mode']})",
        }
    )


def _worst(now: dict[str, Any]) -> str:
    rows = [[one["id"], one["state"], one["due"], one["dead"], _trouble(one), one["waits_for"]] for one in now["worst"]]
    return table(["WORST", "STATE", "DUE", "DEAD", "TROUBLE", "WAITS FOR"], rows) if rows else ""


def _trouble(one: dict[str, Any]) -> str:
    if one["suspended"]:
        return f"suspended by a mistake of relay's own: {one['suspended']['cause']}"
    if one["blocked"]:
        return "blocked: its address may not be dialled"
    return f"{counted(one['health']['failures'], 'failure')}, last: {one['health']['last_failure'] or '–'}"


def _notes(now: dict[str, Any]) -> str:
    closed = [f"intake is closed: {reason['detail']}" for reason in now["reasons"]]
    return "\n".join(closed + [f"warning: {warning}" for warning in now["warnings"]])


def _size(size_bytes: int) -> str:
    """Round to what a person wants to know."""
    unit = 1 << 30 if size_bytes >= 10 << 30 else 1 << 20
    return format_size(-(-size_bytes // unit) * unit)


COMMANDS = [serve, demo, version, status]
