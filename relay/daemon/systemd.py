"""Talking to the service manager: the notify protocol of sd_notify(3), one datagram a message.

Without `NOTIFY_SOCKET` every message goes nowhere, and a message that cannot be sent is dropped: the service manager is
never a reason for the daemon to fail.
"""

import socket
from collections.abc import Mapping


class Notifier:
    """Sends notifications. Owner of its socket; use it from one thread."""

    def __init__(self, socket_path: str | None) -> None:
        """Take the value of `NOTIFY_SOCKET`: a path, an abstract name that begins with `@`, or nothing."""
        self._address = _address(socket_path)
        self._socket: socket.socket | None = None

    @property
    def enabled(self) -> bool:
        """Whether anybody listens."""
        return self._address is not None

    def ready(self, status: str = "") -> bool:
        """Say that start-up, or a reload, is complete."""
        return self._send("READY=1", *_status(status))

    def reloading(self, mono_ms: float) -> bool:
        """Say that a reload begins; `mono_ms` is CLOCK_MONOTONIC now. `ready` must follow, whatever came of it.

        Without the time stamp systemd waits for the reload until its time-out.
        """
        return self._send("RELOADING=1", f"MONOTONIC_USEC={round(mono_ms * 1000)}")

    def stopping(self, status: str = "") -> bool:
        """Say that the daemon is on its way down."""
        return self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """Set the line that `systemctl status` shows."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """Feed the watchdog: call it only when the daemon has really made progress."""
        return self._send("WATCHDOG=1")

    def extend_timeout(self, duration_ms: int) -> bool:
        """Ask for `duration_ms` more, from now, for starting or stopping."""
        return self._send(f"EXTEND_TIMEOUT_USEC={duration_ms * 1000}")

    def close(self) -> None:
        """Give the socket back; safe twice. A later message opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> bool:
        if self._address is None:
            return False
        try:
            self._open().sendto("\n".join(lines).encode(), self._address)
        except OSError:
            return False
        return True

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
        return self._socket


def watchdog_interval_ms(env: Mapping[str, str], pid: int) -> float | None:
    """Return how often to feed the watchdog: half of what systemd allows; None when it does not watch this process."""
    if env.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    allowed_usec = env.get("WATCHDOG_USEC", "")
    if not allowed_usec.isascii() or not allowed_usec.isdigit() or int(allowed_usec) == 0:
        return None
    return int(allowed_usec) / 2000


def _address(socket_path: str | None) -> str | None:
    if not socket_path or socket_path[0] not in "/@":
        return None
    return "\0" + socket_path[1:] if socket_path[0] == "@" else socket_path


def _status(text: str) -> list[str]:
    # A line break would begin another assignment.
    return [f"STATUS={' '.join(text.split())}"] if text else []
