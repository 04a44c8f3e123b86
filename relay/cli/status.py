"""`relay status`: is it us or them, on one screen."""

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.output import Columns, Exit, Json, counted, facts, show, table
from relay.core.units import format_duration, format_size


@click.command("status")
@asks_daemon
def status(daemon: Daemon, as_json: bool) -> None:
    """Say how the daemon is doing.

    Exits 1 when it takes no events, when the trouble is on this host, or when a mistake of relay's own suspended an
    endpoint; failing receivers alone leave it at 0.
    """
    now = daemon.get("/v1/status")
    show(now, as_json, lambda: "\n\n".join(filter(None, (now["headline"], _facts(now), _worst(now), _notes(now)))))
    if not now["ready"] or now["local_trouble"] or now["suspended"]:
        raise click.exceptions.Exit(Exit.FAILED)


def _facts(now: Json) -> str:
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


def _worst(now: Json) -> str:
    columns: Columns = {
        "WORST": "id",
        "STATE": "state",
        "DUE": "due",
        "DEAD": "dead",
        "TROUBLE": _trouble,
        "WAITS FOR": "waits_for",
    }
    return table(columns, now["worst"])


def _trouble(one: Json) -> str:
    if one["suspended"]:
        return f"suspended by a mistake of relay's own: {one['suspended']['cause']}"
    if one["blocked"]:
        return "blocked: its address may not be dialled"
    return f"{counted(one['health']['failures'], 'failure')}, last: {one['health']['last_failure'] or '–'}"


def _notes(now: Json) -> str:
    closed = [f"intake is closed: {reason['detail']}" for reason in now["reasons"]]
    return "\n".join(closed + [f"warning: {warning}" for warning in now["warnings"]])


def _size(size_bytes: int) -> str:
    """Round to what a person wants to know."""
    unit = 1 << 30 if size_bytes >= 10 << 30 else 1 << 20
    return format_size(-(-size_bytes // unit) * unit)


COMMANDS = [status]
