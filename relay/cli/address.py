"""Where the daemon is: said by flag or environment, read from the configuration, or found where daemons usually are."""

import http.client
import socket
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from relay.cli.output import Exit, fail

TIMEOUT_S = 60.0
"""Longer than any answer takes; a test of an endpoint waits for the receiver."""

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # read from the configuration, never bound


class Address(NamedTuple):
    """Where a daemon may listen: a Unix socket, or a host and a port."""

    socket: str | None = None
    host: str = "localhost"
    port: int = 0
    tls: bool = False

    def __str__(self) -> str:
        if self.socket is not None:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        """Make a connection that is not open yet."""
        if self.socket is not None:
            return _UnixConnection(self.socket)
        kind = http.client.HTTPSConnection if self.tls else http.client.HTTPConnection
        return kind(self.host, self.port, timeout=TIMEOUT_S)


_HOST_SOCKETS = (Path("/run/relay/relay.sock"), Path("/var/lib/relay/relay.sock"))
_DEFAULT_TCP = Address(host="127.0.0.1", port=8420)


def find(url: str | None, socket_path: str | None, config: str | None, env: Mapping[str, str]) -> list[Address]:
    """Return where to look for the daemon, the most specific source alone: flags, `$RELAY_URL`, the file, habit."""
    if not url and (socket_path or env.get("RELAY_SOCKET")):
        return [Address(socket=socket_path or env["RELAY_SOCKET"])]
    if url or env.get("RELAY_URL"):
        return [_parse_url(url or env["RELAY_URL"])]
    return _configured(config, env) or _habitual(env)


def reason(error: Exception) -> str:
    """Say in a few words why something could not be reached or read."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _parse_url(url: str) -> Address:
    if url.startswith("unix:"):
        return Address(socket=url.removeprefix("unix:").removeprefix("//"))
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.path.strip("/"):
        fail(f"{url!r} is not an address. Write http://127.0.0.1:8420 or unix:/run/relay/relay.sock.", Exit.USAGE)
    tls = parts.scheme == "https"
    return Address(host=parts.hostname, port=port or (443 if tls else 80), tls=tls)


def _configured(config: str | None, env: Mapping[str, str]) -> list[Address]:
    """Read `server.listen` and nothing else: an operator need not be able to read the secrets that the file names."""
    from relay.config.places import find_config_file

    path = find_config_file(Path(config) if config else None, env)
    if path is None:
        return []
    try:
        listen = tomllib.loads(path.read_text("utf-8")).get("server", {}).get("listen", [])
    except PermissionError:
        return []
    except (OSError, ValueError) as error:
        fail(f"{path} cannot be read ({reason(error)}). `relay check-config` says more.", Exit.CONFIGURATION)
    listed = [listen] if isinstance(listen, str) else listen
    found = [address for entry in listed if (address := _parse_listen(str(entry))) is not None]
    return sorted(found, key=lambda address: address.socket is None)


def _parse_listen(entry: str) -> Address | None:
    if entry.startswith("unix:"):
        return Address(socket=entry.removeprefix("unix:"))
    host, _, port = entry.rpartition(":")
    host = host.strip("[]")
    if not port.isdigit() or int(port) == 0:
        return None
    return Address(host=_WILDCARDS.get(host, host), port=int(port))


def _habitual(env: Mapping[str, str]) -> list[Address]:
    """List the places where a daemon listens by default: the one of this user first, then the host's."""
    from relay.config.places import socket_path

    own = socket_path(env)
    paths = dict.fromkeys([own, *_HOST_SOCKETS])
    return [*(Address(socket=str(path)) for path in paths), _DEFAULT_TCP]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        try:
            self.sock.connect(self._path)
        except OSError:
            self.close()
            raise
