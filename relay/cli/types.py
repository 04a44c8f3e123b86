"""`relay types`: the event types that a contract lists."""

import json
from pathlib import Path

import click

from relay.cli.client import Daemon, asks_daemon
from relay.cli.contracts import FOLDER_HELP, find_contract
from relay.cli.output import Columns, Exit, Json, echo, echo_json, facts, fail, say, table

PATH = "/v1/event-types"


@click.command("types")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--application", help="Whose contract, where there are several applications.")
@click.option("--endpoint", help="The types in the contract of this endpoint, which may have one of its own.")
@click.option(
    "--contract", help="Show this contract without a daemon: a built-in one, or one of your own, by name or file."
)
@click.option(
    "--contracts",
    type=click.Path(path_type=Path),
    help=FOLDER_HELP,
)
@click.option("--openapi", "as_openapi", is_flag=True, help="Write the whole catalogue as an OpenAPI 3.1 document.")
@asks_daemon
def types(
    daemon: Daemon,
    name: str | None,
    application: str | None,
    endpoint: str | None,
    contract: str | None,
    contracts: Path | None,
    as_openapi: bool,
    as_json: bool,
) -> None:
    """List the event types of a contract; with NAME show one, with its example and its JSON Schema.

    \b
      relay types                              # of the daemon's application
      relay types render.completed
      relay types --contract editframe         # works without a daemon
      relay types --contract editframe --openapi > webhooks.json     # to generate a receiver's code from
    """
    if as_openapi and name is not None:
        fail("--openapi writes the whole catalogue: leave NAME out.", Exit.USAGE)
    if contract is None:
        _refuse_without_contract(contracts)
        form = "openapi" if as_openapi else None
        whose = {"application": application, "endpoint": endpoint}
        shown = daemon.get(PATH if name is None else f"{PATH}/{name}", **whose, format=form)
    else:
        if application is not None or endpoint is not None:
            named = "--endpoint" if application is None else "--application"
            fail(f"Give {named} or --contract, not both: applications and endpoints have their contract.", Exit.USAGE)
        shown = _offline(contract, contracts, name, as_openapi=as_openapi)
    if as_json or as_openapi:
        echo_json(shown)
    elif name is None:
        _list(shown)
    else:
        _show(shown)


def notes(listed: Json) -> str | None:
    """Say in a few words what is special about a type."""
    replaced = f"deprecated, use {listed['replaced_by']}" if listed["replaced_by"] else "deprecated"
    said = [
        replaced if listed["deprecated"] else "",
        "sent by a test only" if listed["test_only"] else "",
        "links expire" if listed["links"] else "",
        f"needs the feature {listed['feature']}" if listed["feature"] else "",
    ]
    return "; ".join(filter(None, said)) or None


def _refuse_without_contract(contracts: Path | None) -> None:
    if contracts is not None:
        fail("--contracts goes with --contract NAME: without it the daemon is asked.", Exit.USAGE)


def _offline(contract_name: str, folder: Path | None, name: str | None, *, as_openapi: bool) -> Json:
    import orjson

    from relay.contracts import describe_catalogue, describe_type, openapi, why_unlisted

    flag = click.get_current_context().params.get("daemon_config")
    contract = find_contract(contract_name, folder, Path(flag) if flag else None)
    if name is None:
        return _plain(orjson.dumps(openapi(contract) if as_openapi else describe_catalogue(contract)))
    listed = contract.types.get(name)
    if listed is None:
        fail(f"No such event type: {why_unlisted(contract, name)}")
    return _plain(orjson.dumps(describe_type(name, listed)))


def _plain(text: bytes) -> Json:
    parsed: Json = json.loads(text)
    return parsed


def _list(shown: Json) -> None:
    columns: Columns = {"EVENT TYPE": "name", "NOTE": notes, "DESCRIPTION": "description"}
    echo(table(columns, shown["data"]) or "none")
    if shown["open"]:
        say(f"The contract {shown['contract']} is open: other event types are taken as they are.")


def _show(listed: Json) -> None:
    echo(facts({"event type": listed["name"], "description": listed["description"], "note": notes(listed)}))
    for title in ("example", "schema"):
        if listed[title] is not None:
            echo(f"\n{title}:\n{json.dumps(listed[title], indent=2, ensure_ascii=False)}")


COMMANDS = [types]
