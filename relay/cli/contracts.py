"""The contract and the secrets that a verb works with, as they are named on a command line."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from relay.cli.output import Exit, fail, options, say
from relay.core.issues import nearest
from relay.core.model import Secret
from relay.core.units import parse_duration_ms

if TYPE_CHECKING:
    from relay.contracts import Contract, ContractCatalogue

F = TypeVar("F", bound=Callable[..., Any])

FOLDER_HELP = "Folder with contract files of your own.  [default: contracts/ beside the configuration file]"

contract_options = options(
    click.option(
        "--contract", "contract_name", default="standard", show_default=True, help="Name of a contract, or its file."
    ),
    click.option("--contracts", type=click.Path(path_type=Path), help=FOLDER_HELP),
)
"""Which contract: `find_contract` takes both values."""


def secrets_option(what: str, *, required: bool = True) -> Callable[[F], F]:
    """Make the option `--secret`; `read_secrets` takes its values."""
    return click.option(
        "--secret",
        "secrets",
        multiple=True,
        required=required,
        help=f"{what}, env:NAME or file:PATH (the last two stay out of the process list). Again for older ones.",
    )


# -- contracts ---------------------------------------------------------------------------------------------------------


def find_contract(name: str, folder: Path | None, config: Path | None = None) -> "Contract":
    """Return the contract of a name, or that of a file `NAME.toml`; ends the command, with what there is, without one.

    Contracts of one's own are looked for in `folder`, else beside the configuration file, which `config` may name.
    """
    from relay.contracts import ContractError

    if name.endswith(".toml"):
        return _contract_of_file(Path(name))
    catalogue = _catalogue(folder, config)
    contract = catalogue.get(name)
    if contract is None and catalogue.issues:  # it may be in a file that cannot be read
        raise ContractError(catalogue.issues)
    if contract is None:
        fail(f"There is no contract {name!r}. {_instead(name, catalogue.names)}", Exit.USAGE)
    return contract


def _contract_of_file(file: Path) -> "Contract":
    from relay.contracts import ContractCatalogue, ContractError

    if not file.is_file():
        fail(f"There is no contract file {file}. Name one, or a contract that comes with relay.", Exit.USAGE)
    catalogue = ContractCatalogue.read(file.parent)
    contract = catalogue.get(file.stem)
    issues = [issue for issue in catalogue.issues if issue.place.partition(":")[0] == str(file)]
    if issues or contract is None:
        raise ContractError(issues or catalogue.issues)
    return contract


def _catalogue(folder: Path | None, config: Path | None) -> "ContractCatalogue":
    from relay.config.places import find_config_file
    from relay.contracts import ContractCatalogue

    if folder is not None:
        return ContractCatalogue.load(folder)
    return ContractCatalogue.beside(find_config_file(config, os.environ))


def _instead(wrong: str, names: Sequence[str]) -> str:
    near = nearest(wrong, names)
    return f"Did you mean {near}?" if near else f"There are: {', '.join(names)}."


# -- secrets -----------------------------------------------------------------------------------------------------------


def read_secrets(given: Iterable[str]) -> tuple[Secret, ...]:
    """Read secrets as the configuration does, the newest first: as text, from `env:NAME` or from `file:PATH`."""
    return tuple(Secret(_resolve(text)) for text in given)


def warn_of_secrets(contract: "Contract", secrets: Iterable[Secret]) -> None:
    """Say what the contract has against secrets that are used all the same."""
    for secret in secrets:
        fault = contract.check_secret(secret.value)
        if fault is not None:
            say(f"Warning: {fault}")


def _resolve(text: str) -> str:
    """Read one; a line end after it in a file does not count."""
    scheme, _, rest = text.partition(":")
    if scheme == "env":
        if not os.environ.get(rest):
            fail(f"The environment has no {rest}. Set it, or use file:PATH.", Exit.BAD_INPUT)
        return os.environ[rest]
    if scheme != "file":
        return text
    try:
        return Path(rest).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"The secret file {rest} cannot be read: {error}.", Exit.BAD_INPUT)


def read_duration_ms(option: str, text: str) -> int:
    """Read the value of an option such as `--tolerance`, in milliseconds."""
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        fail(f"{option} {text!r}: {error}.", Exit.BAD_INPUT)
