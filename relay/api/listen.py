"""Listening: on TCP and on Unix sockets, and leaving no stale path behind."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

from relay.api.accept import BACKLOG, Acceptor
from relay.api.connections import Connections
from relay.core.errors import Busy, CannotStart, NoRoom, NotPermitted
from relay.core.netguard import Listener, as_dialled

UNIX_PREFIX = "unix:"
PORT_MAX = 65_535
UNIX_MODE = 0o660
FOLDER_MODE = 0o750
PROBE_TIMEOUT_S = 1.0
FIRST_REQUEST_S = 1.0
"""How long, at the end, those who have just connected are waited for to send their request."""


class Listeners:
    """What the daemon listens on. Owner of the sockets, their paths, and the connections made through them."""

    def __init__(self, runner: web.ServerRunner, passed: Mapping[str, socket.socket]) -> None:
        """Take over the sockets that were `passed`, by address, instead of binding there."""
        self._runner = runner
        self._passed = passed
        self._acceptors: list[Acceptor] = []
        self._held: list[tuple[Acceptor, Connections]] = []  # those of sockets that outlive this process
        self._paths: list[_UnixPath] = []
        self.addresses: list[str] = []
        """Where it listens, as `listen` in the configuration writes it, with the port that was bound."""
        self.bound: set[Listener] = set()
        """The same for TCP, as the guard of deliveries asks for it."""

    async def open(self, address: str, connections: Connections) -> None:
        """Listen on one more address, `host:port` or `unix:/path`; CannotStart says why not."""
        if (sock := self._passed.get(address)) is not None:
            self._note([sock])
            self._held.append((Acceptor(sock, connections), connections))
            return
        if address.startswith(UNIX_PREFIX):
            socks = self._bind_unix(Path(address.removeprefix(UNIX_PREFIX)))
        else:
            socks = await self._bind_tcp(address)
        self._note(socks)
        self._acceptors += [Acceptor(sock, connections) for sock in socks]

    def hand_back(self) -> None:
        """Take no more connections from sockets that systemd holds: they wait for the next process. Safe twice."""
        for acceptor, _ in self._held:
            acceptor.close()

    async def close(self) -> None:
        """Stop listening, let requests under way end within the shutdown time-out, and close. Safe twice.

        Who was taken from a socket that systemd holds, and not from its queue, first hears that the relay is stopping.
        """
        self.hand_back()
        for _, connections in self._held:
            await connections.no_newcomers(FIRST_REQUEST_S)
        for acceptor in self._acceptors:
            acceptor.close()
        for path in self._paths:
            path.remove()
        self._paths.clear()
        if self._runner.server is not None:
            await self._runner.cleanup()

    async def _bind_tcp(self, address: str) -> list[socket.socket]:
        host, port = split_address(address)
        try:
            return await bind_tcp(host, port)
        except (OSError, OverflowError) as error:
            raise _tcp_refusal(address, error) from None

    def _bind_unix(self, path: Path) -> list[socket.socket]:
        sock = bind_unix(path)
        self._paths.append(_UnixPath(path))
        return [sock]

    def _note(self, socks: Iterable[socket.socket]) -> None:
        for sock in socks:
            self.addresses.append(written(sock))
            if sock.family != socket.AF_UNIX:
                host, port = sock.getsockname()[:2]
                self.bound.add((as_dialled(ip_address(host.partition("%")[0])), port))


def written(sock: socket.socket) -> str:
    """Return the address of a bound socket as `listen` in the configuration writes it; an abstract name begins with @."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = name if isinstance(name, str) else f"@{name[1:].decode(errors='replace')}"
        return f"{UNIX_PREFIX}{path}"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`; CannotStart for anything else."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit():
        remedy = 'Write "127.0.0.1:8420", "[::1]:8420" or "unix:/run/relay/relay.sock".'
        raise CannotStart(f'"{address}" is no address to listen on.', remedy=remedy)
    return host.removeprefix("[").removesuffix("]"), int(port)


async def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Bind a TCP socket to each address of a host; OSError or OverflowError where one cannot be had."""
    if port > PORT_MAX:
        raise OverflowError(f"ports end at {PORT_MAX}")
    looked_up = await asyncio.get_running_loop().getaddrinfo(
        host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with ExitStack() as bound:
        socks = [
            bound.enter_context(socket.create_server((address[0], port, *address[2:]), family=family, backlog=BACKLOG))
            for family, _, _, _, address in dict.fromkeys(looked_up)
        ]
        bound.pop_all()
    return socks


def bind_unix(path: Path) -> socket.socket:
    """Bind a Unix socket, not listening yet, that owner and group may connect to (0660).

    A path left behind by a daemon that died is replaced; one that somebody listens on, or that is no socket, is refused
    (CannotStart).
    """
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
        sock.bind(str(path))
        path.chmod(UNIX_MODE)  # before it listens: until then nobody can connect
    except OSError as error:
        sock.close()
        said = f"Cannot listen on {UNIX_PREFIX}{path}: {_reason(error)}."
        if isinstance(error, PermissionError):
            raise NotPermitted(said, path.parent) from None
        if error.errno in NoRoom.ERRNOS:
            raise NoRoom(path) from None
        raise CannotStart(said, remedy=_UNIX_REMEDY) from None
    return sock


_UNIX_REMEDY = "Create its folder, writable for the daemon's user, or choose a shorter or other path in server.listen."


class _UnixPath:
    """A path this process bound; removed only while it still is ours."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode = path.lstat().st_ino

    def remove(self) -> None:
        try:
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        except OSError:
            pass  # somebody tidied up before us


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing there, or bind says it better
    if not stat.S_ISSOCK(mode):
        raise CannotStart(f"{path} is not a socket.", remedy="Move it away or choose another path in server.listen.")
    if _answers(path):
        remedy = "Stop the process that listens there (`ss -xlp` names it) or choose another path in server.listen."
        raise Busy(f"Another process listens on {UNIX_PREFIX}{path}.", remedy=remedy)
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Whether somebody listens; a full queue of connections or a closed mode counts as somebody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, socket.gaierror) or number is None:
        return str(error.args[-1] if error.args else error)
    return os.strerror(number).lower()


def _tcp_refusal(address: str, error: Exception) -> CannotStart:
    """Separate what passes, an address that is taken or not there yet, from what only another configuration mends."""
    said = f"Cannot listen on {address}: {_reason(error)}."
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            remedy = "Stop the process that has it (`ss -ltnp` names it) or choose another port in server.listen."
            return Busy(said, remedy=remedy)
        case errno.EADDRNOTAVAIL:
            remedy = "Bring the address up (`ip address` lists those of this host) or choose one in server.listen."
            return Busy(said, remedy=remedy)
        case errno.EACCES:
            remedy = "Ports below 1024 need CAP_NET_BIND_SERVICE; choose another port in server.listen."
            return NotPermitted(said, remedy=remedy)
        case _:
            return CannotStart(said, remedy="Choose an address of this host in server.listen, such as 127.0.0.1:8420.")
