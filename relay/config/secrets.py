"""Secrets and PEM texts as the file names them: `env:NAME`, `file:/path`, `cred:name`, or the text itself."""

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import SecretStr

from relay.core.issues import did_you_mean

SECRET_BYTES_MAX = 4096
KEY_BYTES = 32


class Kind(NamedTuple):
    """What a reference leads to."""

    bytes_max: int
    remedy: str  # what to put there


SECRET = Kind(SECRET_BYTES_MAX, "Put the secret into it as one line of text.")
PEM = Kind(64 * 1024, "Put only the PEM blocks into it that are needed here.")
AUTHORITIES = Kind(
    512 * 1024, "Put only the authorities into it that receivers need; those of this host are trusted too."
)

REFERENCES = ("env:", "file:", "cred:")
"""How a reference begins: to a variable, a file or a systemd credential."""

_URL_SAFE = str.maketrans("-_", "+/")
_REFERENCE = re.compile(r"([A-Za-z]+):(.*)", re.DOTALL)


class Wrong(ValueError):
    """A value that cannot be used: what is wrong with it, and what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class SecretText(SecretStr):
    """A secret that knows where it came from; `source` is empty for one written down literally."""

    def __init__(self, value: str, source: str = "") -> None:
        super().__init__(value)
        self.source = source


@dataclass(frozen=True, slots=True)
class Secrets:
    """Resolves references against an environment and the file system. Owner of the list of variables it read.

    It is the context in which what a person wrote, in a file or the environment, is validated.
    """

    env: Mapping[str, str]
    variables_read: set[str] = field(default_factory=set)

    def resolve(self, text: str, kind: Kind = SECRET) -> SecretText:
        """Return the secret, or what else of its kind, that `text` names or is; Wrong says why it cannot be had."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return SecretText(text)
        readers: dict[str, Callable[[str, Kind], str]] = {
            "env": self._env,
            "file": self._file,
            "cred": self._credential,
        }
        reader = readers.get(match[1])
        if reader is None:
            _refuse_mistyped(match[1], readers)
            return SecretText(text)
        return SecretText(reader(match[2], kind), text)

    def _env(self, name: str, kind: Kind) -> str:
        self.variables_read.add(name)
        value = self.env.get(name)
        if not value:
            raise Wrong(
                f"the environment variable {name or '(no name)'} is {'not set' if value is None else 'empty'}",
                "Set it for the daemon, in its unit with Environment= or EnvironmentFile=.",
            )
        return value

    def _file(self, name: str, kind: Kind) -> str:
        if not name.startswith("/"):
            raise Wrong("the path of a file must be absolute", 'Write it like "file:/etc/relay/token".')
        return read_text(Path(name), kind)

    def _credential(self, name: str, kind: Kind) -> str:
        folder = self.env.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise Wrong(
                "there are no credentials: $CREDENTIALS_DIRECTORY is not set",
                f"systemd sets it: {_load(name)}",
            )
        if not name or "/" in name:
            raise Wrong("the name of a credential is a plain file name", 'Write it like "cred:acme-token".')
        if not (Path(folder) / name).exists():
            raise Wrong(f'there is no credential "{name}"', f"systemd passes it: {_load(name)}")
        return read_text(Path(folder) / name, kind)


def refuse_reference(text: str, remedy: str) -> None:
    """Raise Wrong for a reference that somebody writes over the API: what this host holds is for its file to name."""
    if text.startswith(REFERENCES):
        raise Wrong("files and variables of this host are for the configuration file", remedy)


def _load(name: str) -> str:
    return f"put the secret into /etc/credstore/{name}, and LoadCredential={name} into the unit."


def read_key(text: str) -> bytes:
    """Return the 32 bytes of a key that is written in base64, or as 64 hexadecimal digits; Wrong for anything else."""
    try:
        key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else b64decode(text.translate(_URL_SAFE), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise Wrong(f"a key is {KEY_BYTES} random bytes, written in base64", "Make one with: relay rekey --generate")
    return key


def read_text(path: Path, kind: Kind) -> str:
    """Return what a file holds, without the line ends behind it; Wrong when it cannot be had, is empty or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(kind.bytes_max + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise Wrong(f"{path}: {reason}", "Create the file, readable by the daemon's user only.") from None
    except UnicodeDecodeError:
        raise Wrong(f"{path} does not hold text", kind.remedy) from None
    if not text or len(content) > kind.bytes_max:
        size = "empty" if not text else f"larger than {kind.bytes_max} bytes"
        raise Wrong(f"{path} is {size}", kind.remedy)
    return text


def _refuse_mistyped(scheme: str, known: Mapping[str, object]) -> None:
    hint = did_you_mean(scheme.lower(), known)
    if hint:
        raise Wrong(f'"{scheme}:" is not a place that secrets come from', f"{hint} There are env:, file: and cred:.")
