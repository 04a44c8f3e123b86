"""What an answer other than 2xx means to whoever has to mend it, and what to do: one line for the timeline."""

from collections.abc import Iterable, Mapping
from urllib.parse import urljoin, urlsplit

from relay.core.terminal import printable
from relay.delivery.answer import Field

HOST_CHARACTERS = 253

_CREDENTIALS = "the receiver does not accept the signature or credentials; compare the secret on both sides, and the endpoint's headers and auth"
_REMEDIES: Mapping[int, str] = {
    400: "the receiver cannot read the request; compare what it expects with the contract of the application",
    401: _CREDENTIALS,
    402: "the receiver wants to be paid first; ask its operator",
    403: _CREDENTIALS,
    404: "there is nothing at this path; correct the URL of the endpoint",
    405: "this path does not take POST; correct the URL of the endpoint",
    406: "the receiver offers no answer in a form that relay accepts; ask its operator",
    407: "a proxy on the way wants credentials; register an address that is reached without one",
    409: "the receiver says that this conflicts with what it has; ask its operator",
    410: "the receiver is gone for good; relay disabled the endpoint. Enable it when the receiver is back",
    411: "the receiver misses the length of the body, which relay sends; look at the proxy before it",
    413: "the body is too large for the receiver; raise its limit",
    414: "the URL is too long for the receiver; register a shorter one",
    415: "the receiver does not take this content type; let it take application/json",
    421: "the receiver does not serve this host name; correct the URL of the endpoint",
    422: "the receiver does not accept the content of the event; compare what it expects with the contract",
    426: "the receiver wants another protocol; register an https address that takes HTTP/1.1",
    429: "the receiver asks for less; give the endpoint a rate_limit, or raise the receiver's",
    431: "the headers are too large for the receiver; give the endpoint fewer of them",
    451: "the receiver may not take this for legal reasons; ask its operator",
}
_OTHER = "the receiver refuses the request; ask its operator"
_NOT_FOLLOWED = "redirects are not followed"


def explain_status(status: int, fields: Iterable[Field], url: str) -> str:
    """Say what an answer to a POST to `url` means, and what to do; "" where the status says it all (2xx, 5xx).

    Of a redirect's target only scheme and host are named: the rest may be a credential.
    """
    if 300 <= status <= 399:
        return _explain_redirect(fields, url)
    if 400 <= status <= 499:
        return _REMEDIES.get(status, _OTHER)
    return ""


def _explain_redirect(fields: Iterable[Field], url: str) -> str:
    location = next((value for name, value in fields if name.lower() == b"location"), b"")
    target = _target(location.decode("latin-1"), url)
    if target is None:
        return f"{_NOT_FOLLOWED}, and this one names no target; register the address that answers itself"
    scheme, host, is_same_place = target
    if is_same_place:
        return f"{_NOT_FOLLOWED}; register the new URL, another path at {host}: the answer's Location header has it"
    return f"{_NOT_FOLLOWED}; register the new URL, at {scheme}://{host}: the answer's Location header has it"


def _target(location: str, url: str) -> tuple[str, str, bool] | None:
    """Return scheme and host, with a port, of where a redirect leads, and whether these are the same as before."""
    try:
        before, after = urlsplit(url), urlsplit(urljoin(url, location.strip()))
        _ = after.port
    except ValueError:
        return None
    if not location.strip() or after.scheme not in ("http", "https") or not after.hostname:
        return None
    host = printable(after.netloc.rpartition("@")[2])[:HOST_CHARACTERS]
    return after.scheme, host, (before.scheme, before.netloc) == (after.scheme, after.netloc)
