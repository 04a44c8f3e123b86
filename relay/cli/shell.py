"""Where a person at a shell may send requests to, and how a foreground verb ends.

A developer's own machine and network are open here, as they are to `curl`: loopback, private and shared addresses, over
http too. What no receiver is ever at stays closed, such as link-local addresses, where clouds keep their credentials.
"""

import asyncio
import os
import signal
import socket
from ipaddress import ip_network
from typing import Any

import aiohttp

from relay.core.netguard import ForbiddenAddress, Guard, why_refused

NETWORKS = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
"""What is open beyond public addresses."""

_GUARD = Guard([ip_network(network) for network in NETWORKS])


def client(timeout_s: float) -> aiohttp.ClientSession:
    """Make a client that reaches what a person may reach, follows nothing and adds nothing of its own but a length.

    `timeout_s` covers one exchange, from the name lookup to the last byte of the answer. The guard looks at each address
    when its socket is opened, so a request to a closed one ends in ForbiddenAddress.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=_open_socket, force_close=True),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
    )


def why_no_answer(error: Exception) -> str:
    """Say why a request of such a client brought no answer, and what to look at."""
    match error:
        case ForbiddenAddress():
            return f"not sent: {why_refused(error.reason, 'the address')}"
        case TimeoutError():
            return "no answer came in time"
        case aiohttp.ClientConnectorCertificateError():
            return f"its certificate is refused: {error.certificate_error}"
        case aiohttp.ClientConnectorDNSError():
            return "the name does not resolve"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            return f"no connection: {os.strerror(number) if number else error.os_error}"
        case aiohttp.ServerDisconnectedError() | ConnectionError():
            return "the connection ended before an answer"
        case _:
            return f"the answer is not HTTP: {error}"


async def interruption() -> None:
    """Return when Ctrl-C or SIGTERM comes."""
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    await asked.wait()


def _open_socket(place: tuple[Any, ...]) -> socket.socket:
    family, _, _, _, (address, port, *_) = place
    return _GUARD.open_socket(family, address, port)
