"""Reads configurations that tests write down as text."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from relay.config import Config, Loaded, load
from relay.contracts import ContractCatalogue

CONTRACTS = ContractCatalogue.load()
HOME: Mapping[str, str] = MappingProxyType({"HOME": "/home/x"})
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def read(
    folder: Path, text: str, env: Mapping[str, str] = HOME, flags: Mapping[str, object] | None = None, mode: int = 0o600
) -> Loaded:
    """Write `text` into a file and load it."""
    file = folder / "config.toml"
    file.write_text(text)
    file.chmod(mode)
    return load(file, env, flags or {}, contracts=CONTRACTS)


def sound(loaded: Loaded) -> Config:
    """Return the configuration of a reading without errors."""
    assert loaded.config is not None, loaded.issues
    return loaded.config


def errors(loaded: Loaded) -> dict[str, str]:
    """Return the messages of a reading's errors by key."""
    return {problem.path: problem.message for problem in loaded.errors}


def endpoint(**settings: str) -> str:
    """Write an application with one endpoint; settings are TOML values."""
    written = {"id": '"e"', "url": '"https://example.com/"', "secret": f'"{WHSEC}"'} | settings
    lines = "\n".join(f"{key} = {value}" for key, value in written.items() if value)
    return f'[[application]]\nid = "acme"\n[[application.endpoint]]\n{lines}\n'
