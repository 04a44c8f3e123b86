"""Plays the service manager for the notify protocol: a datagram socket, and what was said to it."""

import select
import socket


class Manager:
    """A datagram socket at a path, or at an abstract name that begins with `@`. Owner of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self._socket.settimeout(5)

    def heard(self) -> list[str]:
        """Wait for the next message and return its lines."""
        return self._socket.recv(4096).decode().split("\n")

    def all_heard(self) -> list[str]:
        """Return the lines of every message that has come, without waiting."""
        lines = []
        while select.select([self._socket], [], [], 0)[0]:
            lines += self.heard()
        return lines

    def close(self) -> None:
        self._socket.close()
