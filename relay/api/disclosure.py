"""How much of what happened at a receiver a caller may see.

Tenants see their receivers' answers in clear, and hear one thing whatever lies behind a name: that it does not exist, or
leads into this host's networks, or to this host, is for whoever runs the relay. Those who only look after the relay see
that, and of answers nothing that authenticates at a receiver: receivers echo what they were sent.
"""

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from relay.api.render import MASK, Json
from relay.core.access import Principal, Right
from relay.core.model import Endpoint, Failure
from relay.core.urls import request_path
from relay.dispatch.verifier import Trial
from relay.registry import Registry
from relay.telemetry.masking import mask_text

UNREACHABLE = "unreachable"
"""What a tenant reads in the place of the failures that tell what lies behind a name."""
UNREACHABLE_DETAIL = "no receiver can be reached under the URL's host: there is no such name, or it leads to no public address; correct the URL"
STEP_MS = 1_000
"""A tenant hears of it, and reads how long it took, in whole steps of this."""

VALUE_MIN = 4
"""Shorter values of headers are not masked: they are no secrets, and stand everywhere."""

_UNREACHABLE = (UNREACHABLE, UNREACHABLE_DETAIL)
_BEHIND_A_NAME: Mapping[str, tuple[str, str]] = {
    Failure.DNS: _UNREACHABLE,
    Failure.BLOCKED_NAME: _UNREACHABLE,
    Failure.BLOCKED_ADDRESS: _UNREACHABLE,
    Failure.TOKEN_UNREACHABLE: (
        Failure.TOKEN_UNREACHABLE,
        "the host of auth.token_url leads to no token server: there is no such name, or no public address; correct it",
    ),
}
"""The failures that tell what lies behind a name, each with what a tenant reads in its place."""
_DIGEST = re.compile(r"(?<![\w+/=-])(?=[A-Za-z+/=_-]*\d)[A-Za-z0-9+/=_-]{40,}")
"""What may be a signature or a key, whichever header it stood in."""
_PLAIN_HEADERS = frozenset({"content-type"})


@dataclass(frozen=True, slots=True)
class Sight:
    """What one caller sees of one endpoint."""

    network: bool  # what lies behind names
    credentials: bool  # answers in clear
    names: frozenset[str] = frozenset()  # of headers that go to it, in lower case
    values: tuple[str, ...] = ()  # what authenticates there, in every spelling, longest first
    is_known: bool = True  # the endpoint is still there: otherwise nobody knows what its answers may repeat

    def attempt(self, written: Json) -> Json:
        """Take out of an attempt, as it is written for everybody, what this caller may not see."""
        if not self.network and written["failure"] in _BEHIND_A_NAME:
            hidden = {"address": None, "trace": None, "response": None}
            took = {"duration_ms": next_step_ms(written["duration_ms"] or 0)}
            failure, detail = _BEHIND_A_NAME[written["failure"]]
            return written | hidden | took | {"failure": failure, "detail": detail}
        if self.credentials:
            return written
        detail, response = written["detail"], written["response"]
        return written | {
            "detail": detail and mask_text(detail),
            "response": response and self._masked(response),
        }

    def _masked(self, response: Json) -> Json:
        headers = [
            [name, MASK if name.lower() in self.names else self._text(text)] for name, text in response["headers"]
        ]
        body = response["body"]
        return response | {"headers": headers, "body": body and self._text(body)}

    def _text(self, text: str) -> str:
        if not self.is_known:
            return MASK
        for value in self.values:
            text = text.replace(value, MASK)
        return _DIGEST.sub(MASK, mask_text(_named(self.names).sub(rf"\1{MASK}", text)))


def sight_of(principal: Principal, registry: Registry, endpoint_id: str) -> Sight:
    """Say what a caller sees of an endpoint. O(its headers and secrets)"""
    network, credentials = principal.may(Right.SEE_NETWORK), principal.may(Right.SEE_CREDENTIALS)
    endpoint = registry.endpoints.get(endpoint_id)
    if credentials or endpoint is None:
        return Sight(network, credentials, is_known=endpoint is not None)
    written = registry.contract_of(endpoint).header_names | {name.lower() for name, _ in endpoint.headers}
    written |= {endpoint.auth.header.lower()} if endpoint.auth else set()
    spellings = {spelling for value in _credentials(endpoint) for spelling in _spellings(value)}
    values = sorted((value for value in spellings if len(value) >= VALUE_MIN), key=len, reverse=True)
    return Sight(network, credentials, written - _PLAIN_HEADERS, tuple(values))


def health_for(principal: Principal, written: Json) -> Json:
    """Take out of what is remembered of an endpoint's failures what a caller may not see."""
    if principal.may(Right.SEE_NETWORK) or written["last_failure"] not in _BEHIND_A_NAME:
        return written
    return written | {"last_failure": _BEHIND_A_NAME[written["last_failure"]][0]}


def trial_for(principal: Principal, trial: Trial | None) -> Trial | None:
    """Take out of what came of asking a receiver what a caller may not see."""
    if trial is None or trial.failure is None or not is_hidden(principal, trial.failure):
        return trial
    failure, detail = _BEHIND_A_NAME[trial.failure]
    return trial._replace(failure=failure, detail=detail)


def said_to(principal: Principal, detail: str, failure: Failure | None) -> str:
    """Return what a caller may read about why something failed."""
    if failure is None or not is_hidden(principal, failure):
        return detail
    return _BEHIND_A_NAME[failure][1]


def is_hidden(principal: Principal, failure: str) -> bool:
    """Whether a caller reads another word for a failure."""
    return failure in _BEHIND_A_NAME and not principal.may(Right.SEE_NETWORK)


def is_behind_a_name(failure: Failure | None) -> bool:
    """Whether a failure tells what lies behind a name."""
    return failure in _BEHIND_A_NAME


def next_step_ms(duration_ms: float) -> int:
    """Return the end of the step that a duration ends in."""
    return (int(duration_ms) // STEP_MS + 1) * STEP_MS


def _credentials(endpoint: Endpoint) -> Iterator[str]:
    """List what authenticates at a receiver, whole and in its parts."""
    for _, value in endpoint.headers:
        yield value
        yield from value.split()  # a scheme, such as Bearer, and what follows it
        yield from _decoded(value.rpartition(" ")[2])
    for secret in endpoint.secrets:
        yield secret.value
        yield secret.value.rpartition("_")[2]  # without `whsec_`
    path = request_path(endpoint.url)
    if path != "/":
        yield path
        yield path.partition("?")[0].rstrip("/")
    yield from (value for _, value in parse_qsl(urlsplit(endpoint.url).query))


def _decoded(value: str) -> Iterator[str]:
    """Yield the user, the password and both of a Basic credential."""
    try:
        pair = base64.b64decode(value, validate=True).decode()
    except ValueError:
        return
    if ":" in pair:
        yield pair
        yield pair.partition(":")[2]


def _spellings(value: str) -> Iterable[str]:
    """List how a receiver may repeat a value: as it is, in JSON, in HTML, in a URL, in Base64."""
    return (
        value,
        json.dumps(value)[1:-1],
        html.escape(value),
        quote(value),
        quote_plus(value),
        base64.b64encode(value.encode()).decode().rstrip("="),
    )


def _named(names: Iterable[str]) -> re.Pattern[str]:
    """Match what follows the name of a header, as a line, in JSON, or in a list."""
    either = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or "(?!)"
    value = r"""(?:\\*"[^"\r\n]*"|\\*'[^'\r\n]*'|[^\r\n]+)"""
    return re.compile(rf"""(?<![\w-])((?:{either})\\*["']?\s{{0,8}}[:=,]\s{{0,8}}\[?){value}""", re.IGNORECASE)
