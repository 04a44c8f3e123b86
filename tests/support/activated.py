"""Plays systemd for sockets: holds them, and starts relays that take them over. Never part of the program.

`Holder` keeps the sockets open from one run to the next. `python -m tests.support.activated serve …` is the step between
fork and exec: it moves the inherited descriptors to where sd_listen_fds(3) expects them, says so in the environment, and
becomes `python -m relay serve …`. `ACTIVATED` in the environment is JSON: the descriptors, each with its name.
"""

import fcntl
import json
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.daemon import Daemon

FIRST = 3
ASIDE = 200


class Holder:
    """Owner of listening sockets, by name: TCP on a free port of loopback for `tcp…`, a path in `folder` for others."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.sockets: dict[str, socket.socket] = {}
        for name in names:
            self.sockets[name] = (
                socket.create_server(("127.0.0.1", 0)) if name.startswith("tcp") else _unix(folder / name)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in self.sockets.values():
            sock.close()

    def daemon(self, folder: Path, config: str) -> Daemon:
        """A daemon that is passed all of them."""
        passed = [(sock.fileno(), name) for name, sock in self.sockets.items()]
        env = {"ACTIVATED": json.dumps(passed)}
        return Daemon(folder, config, module=__name__, env=env, descriptors=[number for number, _ in passed])


def _unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(1024)
    return sock


def become(arguments: list[str], env: Mapping[str, str]) -> None:
    """Go on as the relay, with the descriptors in their places."""
    passed = json.loads(env["ACTIVATED"])
    aside = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, ASIDE) for number, _ in passed]
    for place, number in enumerate(aside, FIRST):
        os.dup2(number, place)
    for number, _ in passed:
        if number >= FIRST + len(passed):
            os.close(number)
    names = ":".join(name for _, name in passed)
    listen = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(passed)), "LISTEN_FDNAMES": names}
    os.execve(sys.executable, [sys.executable, "-m", "relay", *arguments], {**env, **listen})


if __name__ == "__main__":
    become(sys.argv[1:], os.environ)
