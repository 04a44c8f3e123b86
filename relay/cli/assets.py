"""`relay assets` and `relay completion`: files for the programs around relay: systemd, Prometheus, Grafana, shells, man."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import click
from click.shell_completion import get_completion_class

from relay.cli import main
from relay.cli.config import shipped
from relay.cli.manual import manual_pages
from relay.cli.output import Exit, counted, echo, fail, json_option, say, show, table

SHELLS = {"bash": "relay.bash", "zsh": "_relay", "fish": "relay.fish"}
"""Shells that completion is made for, each with the file name that it looks for."""


class Asset(NamedTuple):
    """A set of files: what they are for, and what makes them: texts by path below the folder of the set."""

    purpose: str
    made: Callable[[], Mapping[str, str]]


def _shipped(*names: str) -> Callable[[], Mapping[str, str]]:
    """Read files that come with relay."""
    return lambda: {Path(name).name: shipped(name) for name in names}


def _configuration() -> Mapping[str, str]:
    """Read the example, and write the schema that its first line names."""
    from relay.config.json_schema import config_schema

    example = shipped("config.example.toml")
    schema = json.dumps(config_schema(example), indent=2, ensure_ascii=False)
    return {"config.example.toml": example, "config.schema.json": f"{schema}\n"}


def _completion(shell: str) -> str:
    complete = get_completion_class(shell)
    assert complete is not None
    return complete(main, {}, "relay", "_RELAY_COMPLETE").source()


ASSETS: Mapping[str, Asset] = {
    "config": Asset("The configuration with every setting explained, and its JSON Schema for editors.", _configuration),
    "systemd": Asset(
        "The unit, its socket, its user.",
        _shipped("systemd/relay.service", "systemd/relay.socket", "systemd/relay.sysusers"),
    ),
    "prometheus": Asset(
        "Alert rules, and tests of them for promtool.",
        _shipped("prometheus/alerts.yml", "prometheus/alerts.test.yml"),
    ),
    "grafana": Asset("A dashboard to import.", _shipped("grafana/relay.json")),
    "completion": Asset(
        "Completion for bash, zsh and fish.", lambda: {name: _completion(shell) for shell, name in SHELLS.items()}
    ),
    "man": Asset("A manual page for each verb.", lambda: dict(manual_pages(main))),
}


@click.group()
def assets() -> None:
    """Write out what comes with relay for the programs around it."""


@assets.command("list")
@json_option
def list_assets(as_json: bool) -> None:
    """List the sets of files that there are."""
    rows = [{"name": name, "for": asset.purpose} for name, asset in ASSETS.items()]
    show(rows, as_json, lambda: table({"NAME": "name", "FOR": "for"}, rows))


@assets.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", "names", multiple=True, type=click.Choice(list(ASSETS)), help="A set. Again for others.")
@click.option("--force", is_flag=True, help="Replace files that are there and say something else.")
def export(folder: Path, names: tuple[str, ...], force: bool) -> None:
    """Write sets of files below FOLDER, each set into a folder of its name: all, or those of --only.

    If a file is there and says something else, nothing is written, unless --force is given.

    \b
      relay assets export ./relay-assets
      relay assets export /tmp/rules --only prometheus
    """
    texts = {folder / name / path: text for name in names or ASSETS for path, text in ASSETS[name].made().items()}
    try:
        other = [str(path) for path, text in texts.items() if path.exists() and path.read_text("utf-8") != text]
        if other and not force:
            fail(f"not written, for these say something else (--force replaces them): {', '.join(other)}", Exit.FAILED)
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    except OSError as error:
        fail(f"cannot write {error.filename}: {error.strerror}", Exit.CANNOT_CREATE)
    say(f"{counted(len(texts), 'file')} written below {folder}")


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print what makes SHELL complete the verbs and options of relay.

    \b
      relay completion bash > ~/.local/share/bash-completion/completions/relay
      relay completion zsh > ~/.zfunc/_relay        # with ~/.zfunc in $fpath
      relay completion fish > ~/.config/fish/completions/relay.fish
    """
    echo(_completion(shell))


COMMANDS = [assets, completion]
