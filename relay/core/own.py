"""Which addresses are this host's own, asked of the kernel each time: addresses come and go while a relay runs.

Own is whatever the kernel would deliver here, also what stands on no interface, such as a route of type `local`.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from relay.core.netguard import Address

_QUESTION = struct.Struct("=IHHIIBBBBBBBBIHH")  # nlmsghdr, rtmsg, and the head of one rtattr
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_HERE = frozenset({2, 4})  # RTN_LOCAL, RTN_ANYCAST: route types that end at this host
_TYPE_OFFSET = 23  # of rtm_type, in an answer
_ANSWER_MAX = 4096


class OwnAddresses:
    """The addresses of this host; `address in own` is one question to the kernel, a few microseconds, O(1).

    Owner of a netlink socket. Where there is none, an address is own when a socket can be bound to it.
    """

    def __init__(self, on_unavailable: Callable[[OSError], None] = lambda error: None) -> None:
        """`on_unavailable` hears once that the kernel's routes cannot be asked for."""
        self._on_unavailable: Callable[[OSError], None] | None = on_unavailable
        self._netlink = self._open()

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, IPv4Address | IPv6Address):
            return False
        if self._netlink is not None:
            try:
                return _route_type(self._netlink, address) in _HERE
            except OSError as error:
                self._unavailable(error)
        return _is_bindable(address)

    def close(self) -> None:
        """Close the socket. Safe twice; what is asked afterwards is answered without it."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def _open(self) -> socket.socket | None:
        try:
            opened = _netlink()
        except OSError as error:
            self._unavailable(error)
            return None
        opened.setblocking(False)  # the kernel has answered before `send` returns
        return opened

    def _unavailable(self, error: OSError) -> None:
        if self._on_unavailable is not None:
            self._on_unavailable(error)
            self._on_unavailable = None


def _netlink() -> socket.socket:
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


def _route_type(netlink: socket.socket, address: Address) -> int:
    """Return the type of the route to an address; 0 when there is no route."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed, bits = address.packed, address.max_prefixlen
    size = _QUESTION.size + len(packed)
    head = (size, _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0)
    route = (family, bits, 0, 0, 0, 0, 0, 0, 0)
    netlink.send(_QUESTION.pack(*head, *route, 4 + len(packed), _RTA_DST) + packed)
    answer = netlink.recv(_ANSWER_MAX)
    if len(answer) <= _TYPE_OFFSET:
        raise OSError(errno.EPROTO, "an answer of netlink is too short")
    (kind,) = struct.unpack_from("=H", answer, 4)
    return answer[_TYPE_OFFSET] if kind == _RTM_NEWROUTE else 0


def _is_bindable(address: Address) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True
