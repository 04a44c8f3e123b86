"""What authenticates a request: headers that are made once, and grants for which a token server gives tokens that end."""

from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote_plus, urlencode

AUTHORIZATION = "Authorization"


class Grant(NamedTuple):
    """Client credentials of OAuth 2.0 (RFC 6749 §4.4), and who gives access tokens for them."""

    token_url: str
    client_id: str
    client_secret: str
    scope: str = ""  # names joined by blanks; empty: what the token server gives of itself
    audience: str = ""  # for token servers that ask for one
    in_body: bool = False  # id and secret stand in the form rather than in a header

    def __repr__(self) -> str:
        return f"Grant(client_id={self.client_id!r}, …)"  # the URL may hold a credential, too

    def headers(self) -> dict[str, str]:
        """Return the headers of a request for a token."""
        fixed = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        if self.in_body:
            return fixed
        pair = quote_plus(self.client_id), quote_plus(self.client_secret)  # RFC 6749 §2.3.1
        return fixed | {AUTHORIZATION: basic(*pair)}

    def form(self) -> bytes:
        """Return the body of a request for a token."""
        client = {"client_id": self.client_id, "client_secret": self.client_secret} if self.in_body else {}
        wanted = {"scope": self.scope, "audience": self.audience}
        return urlencode({"grant_type": "client_credentials", **client} | _filled(wanted)).encode()


class Auth(NamedTuple):
    """What authenticates at a receiver, whether always the same or a token."""

    shown: Mapping[str, str]  # what is seen of it: credentials are masked
    header: str  # the header that carries it
    value: str = ""  # what stands in that; empty where each request needs a token
    grant: Grant | None = None

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The header that goes out with every request, if it is always the same."""
        return () if self.grant else ((self.header, self.value),)

    def __repr__(self) -> str:
        return f"Auth(header={self.header!r}, …)"


def basic(username: str, password: str) -> str:
    """Return the value of `Authorization` for a user and a password (RFC 7617)."""
    return f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"


def bearer(token: str) -> str:
    """Return the value of `Authorization` for a token (RFC 6750)."""
    return f"Bearer {token}"


def _filled(members: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in members.items() if text}
