"""Secrets as the file names them: `env:NAME`, `file:/path`, `cred:name`, or the text itself."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from relay.core.issues import did_you_mean

SECRET_BYTES_MAX = 4096

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

    def resolve(self, text: str) -> SecretText:
        """Return the secret that `text` names or is; Wrong says why it cannot be had."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            return SecretText(text)
        readers: dict[str, Callable[[str], str]] = {"env": self._env, "file": self._file, "cred": self._credential}
        reader = readers.get(match[1])
        if reader is None:
            _refuse_mistyped(match[1], readers)
            return SecretText(text)
        return SecretText(reader(match[2]), text)

    def _env(self, name: str) -> str:
        self.variables_read.add(name)
        value = self.env.get(name)
        if not value:
            raise Wrong(
                f"the environment variable {name or '(no name)'} is {'not set' if value is None else 'empty'}",
                "Set it for the daemon, in its unit with Environment= or EnvironmentFile=.",
            )
        return value

    def _file(self, name: str) -> str:
        if not name.startswith("/"):
            raise Wrong("the path of a secret's file must be absolute", 'Write it like "file:/etc/relay/token".')
        return _read(Path(name))

    def _credential(self, name: str) -> str:
        folder = self.env.get("CREDENTIALS_DIRECTORY")
        if not folder:
            raise Wrong(
                "there are no credentials: $CREDENTIALS_DIRECTORY is not set",
                f"systemd sets it; add LoadCredential={name}:/path/of/the/secret to the unit.",
            )
        if not name or "/" in name:
            raise Wrong("the name of a credential is a plain file name", 'Write it like "cred:acme-token".')
        return _read(Path(folder) / name)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise Wrong(f"{path}: {reason}", "Create the file, readable by the daemon's user only.") from None
    except UnicodeDecodeError:
        raise Wrong(f"{path} does not hold text", "Put the secret into it as one line of text.") from None
    if not text or len(content) > SECRET_BYTES_MAX:
        size = "empty" if not text else f"larger than {SECRET_BYTES_MAX} bytes"
        raise Wrong(f"{path} is {size}", "Put the secret into it as one line of text.")
    return text


def _refuse_mistyped(scheme: str, known: Mapping[str, object]) -> None:
    hint = did_you_mean(scheme.lower(), known)
    if hint:
        raise Wrong(f'"{scheme}:" is not a place that secrets come from', f"{hint} There are env:, file: and cred:.")
