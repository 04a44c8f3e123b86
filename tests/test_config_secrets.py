"""Secrets by reference, and the places of files."""

from pathlib import Path

import pytest

from relay.config.listening import UNIX_PATH_BYTES_MAX, check_listen
from relay.config.places import find_config_file, socket_path, state_folder
from relay.config.secrets import SECRET_BYTES_MAX, Secrets, Wrong


def test_references_are_resolved(tmp_path: Path) -> None:
    """`env:`, `file:` and `cred:` are looked up; the line end of a file is no part of the secret."""
    (tmp_path / "token").write_text("from-file\r\n")
    secrets = Secrets({"NAME": "from-env", "CREDENTIALS_DIRECTORY": str(tmp_path)})
    for reference, expected in (
        ("env:NAME", "from-env"),
        (f"file:{tmp_path}/token", "from-file"),
        ("cred:token", "from-file"),
    ):
        secret = secrets.resolve(reference)
        assert (secret.get_secret_value(), secret.source) == (expected, reference)
    assert secrets.variables_read == {"NAME"}


@pytest.mark.parametrize("text", ["plain", "whsec_abc=", "a:b", "12:34", "vault:x"])
def test_other_text_is_the_secret_itself(text: str) -> None:
    """Text without one of the three prefixes is taken literally, and known to be literal."""
    secret = Secrets({}).resolve(text)
    assert (secret.get_secret_value(), secret.source) == (text, "")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("env:NOPE", "NOPE is not set"),
        ("env:", "is not set"),
        ("env:EMPTY", "EMPTY is empty"),
        ("ENV:NOPE", 'Did you mean "env"'),
        ("fil:/x", 'Did you mean "file"'),
        ("file:relative", "must be absolute"),
        ("file:/nonexistent/x", "no such file"),
        ("file:/", "is a directory"),
        ("cred:x", "there is no credential"),
        ("cred:../x", "plain file name"),
        ("cred:", "plain file name"),
    ],
)
def test_references_that_lead_nowhere(tmp_path: Path, reference: str, words: str) -> None:
    """A reference that cannot be resolved says why and what to do."""
    with pytest.raises(Wrong) as caught:
        Secrets({"EMPTY": "", "CREDENTIALS_DIRECTORY": str(tmp_path)}).resolve(reference)
    assert words in f"{caught.value.message} {caught.value.remedy}"
    assert caught.value.remedy


def test_credentials_need_systemd() -> None:
    """Without `$CREDENTIALS_DIRECTORY` the remedy is the line for the unit."""
    with pytest.raises(Wrong) as caught:
        Secrets({}).resolve("cred:acme")
    assert "LoadCredential=acme" in caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * (SECRET_BYTES_MAX + 1)])
def test_files_that_hold_no_secret(tmp_path: Path, content: bytes) -> None:
    """An empty, binary or huge file is no secret."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(Wrong):
        Secrets({}).resolve(f"file:{tmp_path}/token")


@pytest.mark.parametrize(
    ("env", "state", "socket"),
    [
        ({"STATE_DIRECTORY": "/var/lib/relay:/x", "RUNTIME_DIRECTORY": "/run/relay"}, "/var/lib/relay", "/run/relay/relay.sock"),
        ({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/user/7"}, "/h/.local/state/relay", "/run/user/7/relay/relay.sock"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/s"}, "/s/relay", "/s/relay/relay.sock"),
        ({}, "/var/lib/relay", "/var/lib/relay/relay.sock"),
    ],
)  # fmt: skip
def test_folders_by_custom(env: dict[str, str], state: str, socket: str) -> None:
    """systemd's folders come first, then the user's, then the host's."""
    assert state_folder(env) == Path(state)
    assert socket_path(env) == Path(socket)


def test_the_file_is_found_in_order(tmp_path: Path) -> None:
    """`--config`, `$RELAY_CONFIG`, `$XDG_CONFIG_HOME/relay/config.toml`; a named file is taken even if it is missing."""
    usual = tmp_path / "relay" / "config.toml"
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert find_config_file(None, env) != usual
    usual.parent.mkdir()
    usual.touch()
    assert find_config_file(None, env) == usual
    assert find_config_file(None, env | {"RELAY_CONFIG": "/none"}) == Path("/none")
    assert find_config_file(Path("/other"), env | {"RELAY_CONFIG": "/none"}) == Path("/other")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:8420", "localhost:1", "unix:/run/relay.sock"])
def test_addresses_to_listen_on(address: str) -> None:
    """A host with a port and an absolute socket path are taken."""
    assert check_listen(address) == address


@pytest.mark.parametrize(
    "address",
    ["systemd:", "", "8420", ":8420", "127.0.0.1", "127.0.0.1:65536", "::1:80", "[x]:80", "[1:2]:80", "unix:", "unix:x",
     "unix:/" + "x" * UNIX_PATH_BYTES_MAX, "http://127.0.0.1:80"],
)  # fmt: skip
def test_other_addresses_are_refused(address: str) -> None:
    """Everything else is refused with a remedy."""
    with pytest.raises(Wrong) as refused:
        check_listen(address)
    assert refused.value.remedy
