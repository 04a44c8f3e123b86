"""Who is calling: a bearer token, or the kernel's word about the peer of a Unix socket."""

import re
import socket
import struct

from aiohttp import hdrs, web

from relay.api import problems
from relay.api.problems import Problem
from relay.core.access import Principal, Right, Role
from relay.registry import TokenTable

PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)
"""Set for every request that a handler sees, except for calls that need no token."""

NOBODY = ""
"""The name of whoever makes calls that need no token."""

_CLAIM = re.compile(rb"\r\nauthorization:[ \t]*bearer[ \t]+([^\r\n]+)\r\n", re.IGNORECASE)

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_ROOT = 0

_NONE_SENT = "Send the header `Authorization: Bearer TOKEN` with a token of this relay."
_NOT_OURS = (
    "This is no token of this relay, or it was revoked or has expired. Tokens stand in the configuration ([[token]]); "
    "keys of applications are made with `relay app key add`."
)


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user of the process that connected (SO_PEERCRED); None for a socket that is no Unix socket."""
    if sock.family != socket.AF_UNIX:
        return None
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def name_of(request: web.Request) -> str:
    """Return the name of the caller of `request`, which all that has the same token shares."""
    caller = request.get(PRINCIPAL)
    return NOBODY if caller is None else caller.name


class Authenticator:
    """Establishes who is calling. A token that is sent decides, whoever the peer is."""

    def __init__(self, tokens: TokenTable, own_uid: int) -> None:
        self._tokens = tokens
        self._trusted_uids = frozenset({_ROOT, own_uid})

    def claimant(self, head: bytes) -> str:
        """Return the name of whose token the first bytes of a request bring, NOBODY where none is seen. It grants nothing."""
        claim = _CLAIM.search(head)
        found = None if claim is None else self._tokens.find(claim[1].strip().decode("latin-1"))
        return NOBODY if found is None else found.name

    def identify(self, request: web.Request) -> Principal | Problem:
        """Return the caller of `request`, or why nobody may be assumed (401)."""
        authorization = request.headers.get(hdrs.AUTHORIZATION)
        uid: int | None = getattr(request.protocol, "peer_uid", None)
        if authorization is None and uid is not None:
            return Principal(f"uid:{uid}", Role.ADMIN if uid in self._trusted_uids else Role.PRODUCER)
        scheme, _, token = (authorization or "").partition(" ")
        bearer = scheme.lower() == "bearer"
        principal = self._tokens.find(token.strip() if bearer else "")
        if principal is not None:
            return principal
        return problems.unauthorized(_NOT_OURS if bearer else _NONE_SENT)


def refusal(principal: Principal, right: Right) -> Problem | None:
    """Say why a caller may not do this (403); None if it may."""
    if principal.may(right):
        return None
    roles = " or ".join(role for role in Role if Principal("", role).may(right))
    return problems.forbidden(
        f'"{principal.name}" has the role {principal.role}; this takes a token with the role {roles}.'
    )
