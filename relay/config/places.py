"""Where files are by custom: systemd's folders, else the XDG ones of the user."""

from collections.abc import Mapping
from pathlib import Path

SYSTEM_FILE = Path("/etc/relay/config.toml")
SYSTEM_STATE = Path("/var/lib/relay")

Env = Mapping[str, str]


def find_config_file(flag: Path | None, env: Env) -> Path | None:
    """Return the file that `--config`, `$RELAY_CONFIG` or custom names; None when there is none to be found.

    A file that was named is returned even if it does not exist: that is a mistake to report, not to pass over.
    """
    if flag is not None:
        return flag
    if env.get("RELAY_CONFIG"):
        return Path(env["RELAY_CONFIG"])
    return next((path for path in usual_files(env) if _is_there(path)), None)


def usual_files(env: Env) -> list[Path]:
    """List where a configuration file is looked for when none was named."""
    folder = _home_folder(env, "XDG_CONFIG_HOME", ".config")
    return [SYSTEM_FILE] if folder is None else [folder / "relay" / "config.toml", SYSTEM_FILE]


def state_folder(env: Env) -> Path:
    """Return where the daemon keeps what it must not lose."""
    given = _systemd_folder(env, "STATE_DIRECTORY")
    if given is not None:
        return given
    folder = _home_folder(env, "XDG_STATE_HOME", ".local/state")
    return SYSTEM_STATE if folder is None else folder / "relay"


def socket_path(env: Env) -> Path:
    """Return where the Unix socket is by default."""
    given = _systemd_folder(env, "RUNTIME_DIRECTORY")
    if given is not None:
        return given / "relay.sock"
    if env.get("XDG_RUNTIME_DIR"):
        return Path(env["XDG_RUNTIME_DIR"]) / "relay" / "relay.sock"
    return state_folder(env) / "relay.sock"


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # whether it is there cannot be known; opening it will say why
        return True


def _systemd_folder(env: Env, name: str) -> Path | None:
    first = env.get(name, "").split(":")[0]  # a unit may list several
    return Path(first) if first else None


def _home_folder(env: Env, name: str, below_home: str) -> Path | None:
    if env.get(name):
        return Path(env[name])
    return Path(env["HOME"]) / below_home if env.get("HOME") else None
