"""What relay is made of: locked with hashes, listed in the SBOM, each part with its licence."""

import json
import re
import tomllib
from pathlib import Path

import relay

ROOT = Path(relay.__file__).parent.parent
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
LICENCE = re.compile(r"^\| (\S+) \| (\S+) \| (.+) \|$", re.MULTILINE)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    blocks = re.split(r"^(?=\S+==)", text, flags=re.MULTILINE)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == [], "each has hashes"
    return {canonical(package): version for package, version in PINNED.findall(text)}


def test_locks_hold_what_is_needed() -> None:
    """Every dependency is locked with hashes, and tests run with the very versions that production gets."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted, extra = project["dependencies"], project["optional-dependencies"]["dev"]
    production, development = locked("requirements.lock"), locked("requirements-dev.lock")

    def names(requirements: list[str]) -> set[str]:
        return {canonical(re.split(r"[<>=;\[ ]", requirement)[0]) for requirement in requirements}

    assert names(wanted) <= set(production)
    assert names(wanted + extra) <= set(development)
    assert production.items() <= development.items()


def test_every_part_is_in_the_sbom_with_its_licence() -> None:
    """The SBOM lists what is locked, and the table of licences what is in the SBOM; `make lock` writes all three."""
    listed = {
        canonical(part["name"]): part["version"]
        for part in json.loads((ROOT / "docs" / "sbom.cdx.json").read_text())["components"]
    }
    assert listed == locked("requirements.lock")
    rows = LICENCE.findall((ROOT / "docs" / "LICENCES.md").read_text())
    licences = {canonical(name): (version, licence) for name, version, licence in rows if name != "package"}
    assert {name: version for name, (version, _) in licences.items() if version[0].isdigit()} == listed
    assert [name for name, (_, licence) in licences.items() if licence == "not declared"] == []
