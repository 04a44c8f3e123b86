"""Who is calling: a bearer token, or the kernel's word about the peer of a Unix socket."""

import socket
import struct
from typing import NamedTuple

from aiohttp import hdrs, web

from relay.api import problems
from relay.api.problems import Problem
from relay.core.access import Principal, Right, Role
from relay.registry import TokenTable

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
"""Set for every request that a handler sees, except for calls that need no token."""

_CREDENTIALS = struct.Struct("3i")
_ROOT = 0

_NONE_SENT = "Send the header `Authorization: Bearer TOKEN` with a token of this relay."
_NOT_OURS = (
    "This is no token of this relay, or it was revoked or has expired. Tokens stand in the configuration ([[token]]); "
    "keys of applications are made with `relay app key add`."
)


class Peer(NamedTuple):
    """The process at the other end of a Unix socket when it connected."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer | None:
    """Return the peer's credentials (SO_PEERCRED); None for a socket of another family."""
    if sock.family != socket.AF_UNIX:
        return None
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Peer(*_CREDENTIALS.unpack(credentials))


class Authenticator:
    """Establishes who is calling. A token that is sent decides, whoever the peer is."""

    def __init__(self, tokens: TokenTable, own_uid: int) -> None:
        self._tokens = tokens
        self._trusted_uids = frozenset({_ROOT, own_uid})

    def identify(self, request: web.Request) -> Principal | Problem:
        """Return the caller of `request`, or why nobody may be assumed (401)."""
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        peer: Peer | None = getattr(request.protocol, "peer", None)
        if authorization is None and peer is not None:
            return self._neighbour(peer)
        scheme, _, token = (authorization or "").partition(" ")
        bearer = scheme.lower() == "bearer"
        principal = self._tokens.find(token.strip() if bearer else "")
        if principal is not None:
            return principal
        return problems.unauthorized(_NOT_OURS if bearer else _NONE_SENT)

    def _neighbour(self, peer: Peer) -> Principal:
        role = Role.ADMIN if peer.uid in self._trusted_uids else Role.PRODUCER
        return Principal(f"uid:{peer.uid}", role)


def refusal(principal: Principal, right: Right) -> Problem | None:
    """Say why a caller may not do this (403); None if it may."""
    if principal.may(right):
        return None
    roles = " or ".join(role for role in Role if Principal("", role).may(right))
    return problems.forbidden(
        f'"{principal.name}" has the role {principal.role}; this takes a token with the role {roles}.'
    )
