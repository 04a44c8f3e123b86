"""`relay rekey`: the keys that secrets in the database are encrypted with."""

import secrets
from base64 import b64encode

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.output import Exit, Json, counted, echo, echo_json, say, show

KEY_BYTES = 32


@click.command("rekey")
@click.option("--generate", is_flag=True, help="Print a new key, and ask no daemon for anything.")
@asks_daemon
def rekey(daemon: Daemon, generate: bool, as_json: bool) -> None:
    """Encrypt all secrets in the database anew, with the newest key of `storage.secrets_key`.

    Secrets that stand in clear are encrypted as well, and nothing of what was overwritten is left in the file: for that it is
    written anew, and events wait until it is. What an interruption leaves undone, the next run does. Exits 1 when traces are left.
    """
    if generate:
        _print_key(as_json)
        return
    done = daemon.post("/v1/rekey", patient=True)
    show(done, as_json, lambda: _summary(done))
    if not as_json:
        _say_rest(done)
    if not done["traces_removed"]:
        raise click.exceptions.Exit(Exit.FAILED)


def _print_key(as_json: bool) -> None:
    key = b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    if as_json:
        echo_json({"key": key})
    else:
        echo(key)


def _summary(done: Json) -> str:
    made = f"{counted(done['endpoints'], 'endpoint')} and {counted(done['idempotency_records'], 'idempotency record')}"
    clear = f"; {done['were_clear']:,} stood in clear" if done["were_clear"] else ""
    return f"Encrypted anew with the key {done['key']}: {made}{clear}."


def _say_rest(done: Json) -> None:
    if done["traces_removed"]:
        say("Nothing in the database needs an older key any more: take them out of storage.secrets_key.")
    else:
        say(f"What stood there before may still be found in the file: {done['hindered']}. Then run this again.")
    if done["backups"]:
        say(f"These copies keep secrets as they were; remove what you no longer need: {', '.join(done['backups'])}")


COMMANDS = [rekey]
