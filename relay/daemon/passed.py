"""The sockets that systemd opened and passes to this process, as sd_listen_fds(3) has it.

systemd keeps them open: while no relay runs, whoever connects waits in the kernel for the next one.
"""

import os
import socket
from collections.abc import Mapping

from relay.api.listen import written
from relay.core.errors import CannotStart

FIRST_DESCRIPTOR = 3
NAMELESS = "unknown"
"""What systemd calls a socket without a `FileDescriptorName=`."""

PassedSockets = dict[str, tuple[str, socket.socket]]
"""Address, as `listen` writes it → the socket and its `FileDescriptorName=`."""


def passed_sockets(env: Mapping[str, str], pid: int) -> PassedSockets:
    """Take what `LISTEN_FDS` passes to this very process; CannotStart for what is no listening stream socket."""
    count = env.get("LISTEN_FDS", "")
    if env.get("LISTEN_PID") != str(pid) or not (count.isascii() and count.isdigit()):
        return {}
    names = env.get("LISTEN_FDNAMES", "").split(":")
    found: PassedSockets = {}
    for index in range(int(count)):
        name = (names[index] if index < len(names) else "") or NAMELESS
        sock = _opened(FIRST_DESCRIPTOR + index, name)
        address = written(sock)
        if address in found:
            raise _unfit(name, f"listens on {address} like another one", "Pass it once, without ReusePort=.")
        found[address] = (name, sock)
    return found


def _opened(descriptor: int, name: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        raise _unfit(name, "is no socket", "Use ListenStream=.") from None
    os.set_inheritable(descriptor, False)
    if sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise _unfit(name, "is no stream socket of TCP or Unix", "Use ListenStream= with an address or a path.")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise _unfit(name, "does not listen", "Use Accept=no, the default.")
    return sock


def _unfit(name: str, fault: str, remedy: str) -> CannotStart:
    return CannotStart(f"A socket that systemd passed ({name}) {fault}.", remedy=f"{remedy} See systemd.socket(5).")
