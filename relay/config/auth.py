"""What relay authenticates with at a receiver: which credentials are sound, and what is sent of them.

A message is a sentence with what to do after its last semicolon, and never repeats a credential.
"""

import re
from collections.abc import Iterable, Iterator, Mapping

from pydantic import SecretStr

from relay.config.definitions import EndpointAuth
from relay.core.auth import AUTHORIZATION, Auth, Grant, basic, bearer
from relay.core.grammars import check_header_name, check_header_value

MASK = "***"

KEY_HEADER = "X-API-Key"
"""The header of an API key, unless `header` names another."""

Fault = tuple[str, str]  # key of the setting, sentence

_MEMBERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "basic": (("username", "password"), ()),
    "bearer": (("token",), ()),
    "api_key": (("key",), ("header",)),
    "oauth2": (("token_url", "client_id", "client_secret"), ("scope", "audience", "client_auth")),
}
"""By type: the members that it needs, and those that it may have."""

SECRET_MEMBERS = ("password", "token", "key", "client_secret")
"""What nobody may see of it."""

_UNPRINTED = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_VISIBLE = re.compile(r"[!-~]+")
_PRINTED = re.compile(r"[ -~]*")
_SCOPE = re.compile(r"(?:[!#-\[\]-~]+(?: [!#-\[\]-~]+)*)?")  # RFC 6749 §3.3


def faults_of(auth: EndpointAuth) -> Iterator[Fault]:
    """Yield everything that is wrong with credentials but the address of a token server. O(their length)"""
    if auth.type is None:
        yield "type", f"is missing; write {_either(_MEMBERS)}"
        return
    needed, optional = _MEMBERS[auth.type]
    given = [name for name in auth.model_fields_set if getattr(auth, name) is not None and name != "type"]
    for name in needed:
        if getattr(auth, name) is None or not (_text(getattr(auth, name)) or name == "password"):
            yield name, f"is missing: {auth.type} needs it; add it"
    for name in sorted(given):
        if name not in (*needed, *optional):
            yield name, f"is no part of {auth.type}, which has {', '.join((*needed, *optional))}; remove it"
    yield from _faults_of_texts(auth)


def header_name(auth: EndpointAuth) -> str:
    """Return the name of the header that carries what authenticates."""
    return auth.header or KEY_HEADER if auth.type == "api_key" else AUTHORIZATION


def resolve_auth(auth: EndpointAuth) -> Auth:
    """Return what sound credentials are sent as, and shown as."""
    shown = auth.model_dump(mode="json", exclude_none=True) | dict.fromkeys(dict(secrets_of(auth)), MASK)
    grant = _grant(auth) if auth.type == "oauth2" else None
    return Auth(shown, header_name(auth), "" if grant else _value(auth), grant)


def secrets_of(auth: EndpointAuth) -> Iterator[tuple[str, SecretStr]]:
    """Yield the credentials that are there, by name."""
    for name in SECRET_MEMBERS:
        value = getattr(auth, name)
        if value is not None:
            yield name, value


def _value(auth: EndpointAuth) -> str:
    if auth.type == "basic":
        return basic(auth.username or "", _text(auth.password))
    return bearer(_text(auth.token)) if auth.type == "bearer" else _text(auth.key)


def _grant(auth: EndpointAuth) -> Grant:
    return Grant(
        token_url=auth.token_url or "",
        client_id=auth.client_id or "",
        client_secret=_text(auth.client_secret),
        scope=auth.scope or "",
        audience=auth.audience or "",
        in_body=auth.client_auth == "body",
    )


def _faults_of_texts(auth: EndpointAuth) -> Iterator[Fault]:
    if auth.username and (":" in auth.username or _UNPRINTED.search(auth.username)):
        yield "username", "holds a colon or a control character, which a user name cannot; correct it"
    if _UNPRINTED.search(_text(auth.password)):
        yield "password", "holds a control character, which a password cannot; correct it"
    if auth.token and not _VISIBLE.fullmatch(_text(auth.token)):
        yield "token", "a token is visible ASCII without blanks; give it without `Bearer`"
    if auth.header is not None and (wrong := check_header_name(auth.header)):
        yield "header", wrong
    if auth.key and (wrong := check_header_value(_text(auth.key))):
        yield "key", wrong
    if not _PRINTED.fullmatch(auth.client_id or ""):
        yield "client_id", "holds something other than printable ASCII; correct it"
    if not _PRINTED.fullmatch(_text(auth.client_secret)):
        yield "client_secret", "holds something other than printable ASCII; correct it"
    if not _SCOPE.fullmatch(auth.scope or ""):
        yield "scope", "is no list of scopes; write names of visible ASCII, joined by one blank each"
    if not _PRINTED.fullmatch(auth.audience or ""):
        yield "audience", "holds something other than printable ASCII; percent-encode it"


def _text(value: str | SecretStr | None) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value or ""


def _either(words: Iterable[str]) -> str:
    *first, last = (f'"{word}"' for word in words)
    return f"{', '.join(first)} or {last}"
