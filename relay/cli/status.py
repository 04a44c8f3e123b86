"""`relay status`, is it us or them, on one screen; and `relay reload`, after which it may say something else."""

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.output import Columns, Exit, Json, counted, facts, say, show, state, table
from relay.core.units import format_duration, format_size


@click.command("status")
@asks_daemon
def status(daemon: Daemon, as_json: bool) -> None:
    """Say how the daemon is doing.

    Exits 1 when somebody has to act: it takes no events, or none of an application that has too much due, the trouble is
    on this host, a mistake of relay's own suspended an endpoint, or a receiver refuses everything. Receivers that fail, and may come back, leave it at 0.
    """
    now = daemon.get("/v1/status")
    show(now, as_json, lambda: "\n\n".join(filter(None, (now["headline"], _facts(now), _worst(now), _notes(now)))))
    if now["troubles"]:
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
            "replays": _replays(now["replays"]),
            "endpoints": ", ".join(f"{count:,} {word}" for word, count in now["endpoint_states"].items() if count) or 0,
            "database": f"{storage['path']}, {size}, {_size(storage['disk_free_bytes'])} of disk free",
            "durability": f"{storage['durability']} (SQLite {storage['sqlite_version']}, {storage['journal_mode']})",
        }
    )


def _replays(replays: Json) -> str | None:
    """Say what replays have before them; None where there is none."""
    if not replays["unfinished"]:
        return None
    return f"{replays['unfinished']} under way, {replays['left']:,} deliveries before them (`relay replay list`)"


def _worst(now: Json) -> str:
    columns: Columns = {
        "WORST": "id",
        "STATE": state,
        "DUE": "due",
        "DEAD": "dead",
        "TROUBLE": _trouble,
        "WAITS FOR": "waits_for",
    }
    return table(columns, now["worst"])


def _trouble(one: Json) -> str:
    if one["suspended"]:
        return f"suspended by a mistake of relay's own: {one['suspended']['cause']}"
    if one["refusing"]:
        return f"refuses every delivery: {one['refusing']['status']}"
    if one["unverified"]:
        return f"did not agree to take events: {one['unverified']['detail']}"
    if one["blocked"]:
        return "blocked: its address may not be dialled"
    return f"{counted(one['health']['failures'], 'failure')}, last: {one['health']['last_failure'] or '–'}"


def _notes(now: Json) -> str:
    others = [f"also: {trouble['detail']}" for trouble in now["troubles"][1:]]  # the first one is the headline
    return "\n".join(others + [f"warning: {warning}" for warning in now["warnings"]])


def _size(size_bytes: int) -> str:
    """Round to what a person wants to know."""
    unit = 1 << 30 if size_bytes >= 10 << 30 else 1 << 20
    return format_size(-(-size_bytes // unit) * unit)


@click.command("reload")
@asks_daemon
def reload(daemon: Daemon, as_json: bool) -> None:
    """Let the daemon read its configuration again: it takes it over whole, or changes nothing.

    Exits 0 when it was applied, 78 when it was refused, with every mistake. Settings that wait for a restart, and what is
    no longer in the file, are said on stderr.
    """
    done = daemon.post("/v1/reload")
    show(done, as_json, lambda: _in_force(done))
    if not as_json:
        _say_rest(done)


def _in_force(done: Json) -> str:
    changed, more = done["changed"], done.get("changed_omitted", 0)
    others = f" and {more} more" if more else ""
    return f"Reloaded. In force now: {', '.join(changed)}{others}." if changed else "Reloaded. Nothing differs."


def _say_rest(done: Json) -> None:
    if done["needs_restart"]:
        say(f"These wait for a restart: {', '.join(done['needs_restart'])}.")
    for warning in done["warnings"]:
        where = "".join(f"{part}: " for part in (warning["where"], warning["key"]) if part)
        say(f"Warning: {where}{warning['message']}. {warning['remedy']}".rstrip())
    if more := done.get("warnings_omitted"):
        say(f"{more} more warnings: `relay check-config` has those of the file.")


COMMANDS = [status, reload]
