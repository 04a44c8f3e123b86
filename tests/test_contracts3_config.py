"""Contracts of an operator's own: a folder beside the configuration file, checked together with it."""

import json
from pathlib import Path

from click.testing import CliRunner

from relay.cli import main
from relay.config import Loaded, load, source_and_line
from relay.contracts import ContractCatalogue
from tests.support.config import HOME, WHSEC, endpoint, errors, sound

SIXTH = """
description = "sixth"
[types]
catalogue = "closed"
[type."order.paid"]
description = "Paid."
example = "{}"
feature = "money"
[features]
money = "Tell about money"
[body]
members = [{ name = "data", value = "{data}" }]
[[signature]]
header = "X-Sixth"
"""


def read(folder: Path, text: str) -> Loaded:
    file = folder / "config.toml"
    file.write_text(text)
    file.chmod(0o600)
    return load(file, HOME, {}, contracts=ContractCatalogue.beside(file))


def with_contract(name: str, **settings: str) -> str:
    return endpoint(**settings).replace('id = "acme"\n', f'id = "acme"\ncontract = "{name}"\nFEATURES\n', 1)


def test_a_contract_beside_the_configuration_can_be_used(tmp_path: Path) -> None:
    """The folder `contracts` is found by itself; its features and types are known to the configuration."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "sixth.toml").write_text(SIXTH)
    text = with_contract("sixth", event_types='["order.paid"]', secret='"long enough, surely"')

    config = sound(read(tmp_path, text.replace("FEATURES", "features = { money = true }")))

    assert config.applications[0].contract == "sixth"
    assert ContractCatalogue.beside(None).names == ContractCatalogue.load().names
    assert ContractCatalogue.beside(tmp_path / "contracts" / "x.toml").names == ContractCatalogue.load().names


def test_mistakes_in_contracts_and_configuration_come_together(tmp_path: Path) -> None:
    """One report, and a contract with mistakes of its own is not called unknown."""
    (tmp_path / "contracts").mkdir()
    file = tmp_path / "contracts" / "sixth.toml"
    file.write_text(SIXTH.replace("[types]", "[typs]"))

    loaded = read(tmp_path, with_contract("sixth").replace("FEATURES", "") + "\n[log]\nlevel = 'loud'\n")

    assert loaded.config is None
    assert set(errors(loaded)) == {"typs", "log.level"}
    assert {source_and_line(problem)[0] for problem in loaded.errors} == {str(file), str(tmp_path / "config.toml")}


def test_check_config_reports_contracts_too(tmp_path: Path) -> None:
    """`relay check-config` names the contract's file and key, and exits with 78."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "sixth.toml").write_text('extends = "roughly"\n')
    (tmp_path / "config.toml").write_text("")

    result = CliRunner().invoke(main, ["check-config", "--json", "--config", str(tmp_path / "config.toml")])

    assert result.exit_code == 78
    (problem,) = [found for found in json.loads(result.stdout)["problems"] if found["severity"] == "error"]
    assert (problem["key"], problem["remedy"]) == ("extends", 'Did you mean "roughy"?')
    assert problem["source"].endswith("contracts/sixth.toml")


def test_subscriptions_in_the_file_follow_the_catalogue(tmp_path: Path) -> None:
    """An unknown type is refused with the nearest one, a test type too; a deprecated one is a warning (EDF-9, ROT-6)."""
    types = '["render.complete", "webhook.test", "unprocessed_file.created", "file.*"]'
    text = with_contract("editframe", event_types=types, secret=f'"{WHSEC}"').replace("FEATURES", "")

    loaded = read(tmp_path, text)

    place = "application[acme].endpoint[e].event_types"
    assert {key: errors(loaded)[key] for key in errors(loaded) if key.startswith(place)} == {
        f"{place}[0]": "'render.complete' covers no event type",
        f"{place}[1]": "'webhook.test' is sent by a test only, to one endpoint at a time",
    }
    warnings = {problem.path: problem.remedy for problem in loaded.issues if problem.warning}
    assert warnings[f"{place}[2]"] == "Use 'file.created'"
