"""A real `relay serve` in a process of its own, on free ports and in a folder of its own.

Readiness is a fact, not a guess: the daemon says READY=1 to the service manager, and this file plays that part. Its TCP
port is read from the kernel, so that configurations can ask for port 0.
"""

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from relay.cli.address import Address
from relay.cli.client import Daemon as Api
from tests.support.warm import ROOT, Forked, Warm

TOKEN = "test-admin-token-0123456789"
PRODUCER_TOKEN = "test-producer-token-0123456789"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
START_TIMEOUT_S = 30.0

_numbers = itertools.count(1)


def config_text(
    folder: Path,
    *,
    endpoints: Mapping[str, str] | None = None,
    endpoint_settings: str = "",
    contract: str = "standard",
    secret: str | None = SECRET,
    application: str = "",
    delivery: str = "",
    storage: str = "",
    extra: str = "",
) -> str:
    """Write a configuration for loopback receivers: application `acme`, two tokens, `endpoints` (id → URL).

    A contract that signs nothing takes no `secret`. The other keyword texts are TOML lines added to every endpoint, to the
    application, to `[delivery]`, to `[storage]`, and at the end.
    """
    signing = "" if secret is None else f'secret = "{secret}"\n'
    written = "\n".join(
        f'[[application.endpoint]]\nid = "{name}"\nurl = "{url}"\n{signing}{endpoint_settings}'
        for name, url in (endpoints or {}).items()
    )
    return f"""
[server]
listen = ["127.0.0.1:0", "unix:{folder}/relay.sock"]

[storage]
path = "{folder}/relay.db"
min_free_disk = "1MiB"
{storage}

[delivery]
allow_http = true
allow_networks = ["127.0.0.0/8", "::1/128"]
{delivery}

[[token]]
name = "admin"
role = "admin"
secret = "{TOKEN}"

[[token]]
name = "producer"
role = "producer"
application = "acme"
secret = "{PRODUCER_TOKEN}"

[[application]]
id = "acme"
contract = "{contract}"
{application}

{written}
{extra}
"""


class Daemon:
    """One run of `relay serve`. Leaving the context kills whatever still runs; the folder stays for the next run."""

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        flags: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        module: str = "relay",
        warm: Warm | None = None,
        descriptors: Sequence[int] = (),
        tree: Path = ROOT,
        wrapper: Sequence[str] = (),
    ):
        """Write `config` to the folder; `start` runs `python -m MODULE serve` on it, with `warm` as a fork.

        The process inherits `descriptors`, under the same numbers. It runs what stands in `tree`. `wrapper` begins its
        command line; it must become the daemon itself.
        """
        self.folder = folder
        self.config_path = folder / "config.toml"
        self.config_path.write_text(config, "utf-8")
        self.config_path.chmod(0o600)
        self.socket_path = folder / "relay.sock"
        self.log_path = folder / "daemon.log"
        self.notifications: list[str] = []  # what the service manager was told, oldest first
        self._flags = tuple(flags)
        self._env = dict(env or {})
        self._module = module
        self._warm = warm
        self._descriptors = tuple(descriptors)
        self._tree = tree
        self._wrapper = tuple(wrapper)
        self._process: subprocess.Popen[bytes] | Forked | None = None
        self._manager: socket.socket | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> Self:
        """Start the daemon and return when it has said READY=1; AssertionError with its log when it ends instead."""
        self.launch()
        self.wait_for_notification("READY=1")
        return self

    def launch(self) -> None:
        """Start the daemon and return at once."""
        name = f"relay-test-{os.getpid()}-{next(_numbers)}"
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind("\0" + name)
        self.notifications.clear()
        arguments = ("serve", "--config", str(self.config_path), *self._flags)
        env = self._environment() | {"NOTIFY_SOCKET": "@" + name}
        if self._warm is not None:
            self._process = self._warm.start(self._module, arguments, env, self.log_path)
            return
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._wrapper, sys.executable, "-m", self._module, *arguments],
                cwd=self._tree,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._descriptors,
            )

    @property
    def process(self) -> subprocess.Popen[bytes] | Forked:
        assert self._process is not None, "the daemon was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        """The TCP port that the process listens on."""
        ports = _listening_ports(self.pid)
        assert len(ports) == 1, f"expected one listening port, found {ports}"
        return ports[0]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> Api:
        """The API through the Unix socket; admin, because the peer is the daemon's own user."""
        return Api([Address(socket=str(self.socket_path))])

    def api_as(self, token: str) -> Api:
        """The API through TCP with a token."""
        return Api([Address(host="127.0.0.1", port=self.port)], token)

    def wait_for_notification(self, line: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Return when the daemon has sent `line`; AssertionError with its log when it ends or says nothing."""
        manager, process = self._manager, self.process
        assert manager is not None
        exited = os.pidfd_open(process.pid)
        try:
            while not any(line in message.split("\n") for message in self.notifications):
                ready, _, _ = select.select([manager.fileno(), exited], [], [], timeout_s)
                if manager.fileno() not in ready:
                    what = f"ended with {process.wait()}" if ready else f"did not say {line} within {timeout_s} s"
                    raise AssertionError(f"relay serve {what}. Its log:\n{self.log()}")
                self.notifications.append(manager.recv(4096).decode())
        finally:
            os.close(exited)

    def stop(self, timeout_s: float = 30.0) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def reload(self) -> None:
        """Send SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(timeout_s)
        self._close()
        return code

    def kill(self) -> None:
        """Send SIGKILL, as a power cut would; safe when it has ended, or never began."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._close()

    def log(self) -> str:
        """Everything the daemon wrote, over all its runs."""
        return self.log_path.read_text("utf-8", "replace")

    def log_records(self) -> list[dict[str, Any]]:
        """The log's JSON lines, without one that is just being written."""
        written = self.log().rpartition("\n")[0]
        return [json.loads(line) for line in written.splitlines() if line.startswith("{")]

    def _close(self) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "XDG_"))}
        return clean | {"XDG_STATE_HOME": str(self.folder), "PYTHONFAULTHANDLER": "1"} | self._env


def refused(folder: Path, config: str, *, code: int, **options: Any) -> str:
    """Try to start, in vain; return the one line for people. The rest of the log are JSON lines; no traceback anywhere."""
    daemon = Daemon(folder, config, **options)
    before = len(daemon.log()) if daemon.log_path.exists() else 0
    daemon.launch()
    try:
        assert daemon.wait() == code, daemon.log()
    finally:
        daemon.kill()
    said = daemon.log()[before:]
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, said
    return lines[0]


def _listening_ports(pid: int) -> list[int]:
    own = {_target(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for table in ("tcp", "tcp6") for line in _rows(Path(f"/proc/{pid}/net/{table}"))]
    return sorted(int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in own)


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:  # it was closed meanwhile
        return ""


def _rows(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:] if path.exists() else []
