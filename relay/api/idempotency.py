"""The header `Idempotency-Key` on calls that make something; for events it stands for a member, and is the intake's."""

from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from relay.api.auth import PRINCIPAL
from relay.core.access import Principal
from relay.core.issues import Invalid, Issue
from relay.intake.parse import key_fault
from relay.registry import Claim

HEADER = "Idempotency-Key"
REPLAYED: Mapping[str, str] = {"Idempotent-Replayed": "true"}
"""A header of answers to a repeat: nothing was made."""


def claim_of(request: web.Request, written: Mapping[str, Any]) -> Claim | None:
    """Return the key that a call came with, and what it is about; Invalid for one of another form.

    The body counts as what it says: blanks and the order of members make no difference.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if fault := key_fault(key):
        raise Invalid([Issue("", f"the header {HEADER} {fault}")])
    body = orjson.dumps(written, default=str, option=orjson.OPT_SORT_KEYS)
    return Claim(_scope(request[PRINCIPAL]), key, b"\n".join([request.method.encode(), request.path.encode(), body]))


def replayed(is_repeat: bool) -> Mapping[str, str]:
    """Return the headers that tell a repeat from the first answer."""
    return REPLAYED if is_repeat else {}


def _scope(caller: Principal) -> str:
    return f"token:{caller.name}" if caller.application is None else f"application:{caller.application}"
