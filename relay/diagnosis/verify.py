"""The receiver's side: is this request what a contract would have sent, and if not, why not.

The headers are read backwards through the contract's templates to learn id, time and signatures; then the body is signed
again with each secret and compared. When nothing fits, the usual mistakes are tried one by one (`guesses`).
"""

import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from urllib.parse import unquote

from relay.contracts.contract import Contract
from relay.contracts.document import Kind, Signature
from relay.contracts.facts import INNER, Fact
from relay.contracts.fields import Message, endpoint_values, message_readers, parse_time_ms, stem
from relay.contracts.keypairs import Check
from relay.contracts.keys import checks, decode_key, is_public
from relay.contracts.signing import is_fact
from relay.contracts.template import Template, shape
from relay.core.errors import ConfigError
from relay.core.model import Secret
from relay.core.units import format_duration
from relay.diagnosis import guesses
from relay.diagnosis.backwards import read_backwards
from relay.diagnosis.facts import said_by_body, said_of_event, subject

TOLERANCE_MS = 300_000
"""How far a timestamp may be from now, both ways: what all official Standard Webhooks libraries take."""

_MESSAGE_FACTS = frozenset({"id", "type", "attempt", "timestamp"})  # what headers say, or the body
_TIMES = ("timestamp", "sent_at")
_SECOND_MS = 1000


class Verdict(StrEnum):
    """Stable words for what `verify` found."""

    VERIFIED = "verified"
    MISSING_HEADER = "missing_header"
    MALFORMED_HEADER = "malformed_header"
    WRONG_SIGNATURE = "wrong_signature"
    EXPIRED_SECRET = "expired_secret"  # noqa: S105 - a verdict, no secret
    STALE = "stale"
    CANNOT_TELL = "cannot_tell"


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found, and a sentence that says why or why not."""

    verdict: Verdict
    reason: str

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.VERIFIED


@dataclass(frozen=True, slots=True)
class _Request:
    contract: Contract
    secrets: tuple[Secret, ...] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)  # by lower-case name
    body: bytes = field(repr=False)
    now_ms: int
    tolerance_ms: int
    constants: Mapping[str, bytes]
    given: Mapping[str, str] = field(default_factory=dict, repr=False)  # what the caller knows of the event
    said: Mapping[str, str] = field(default_factory=dict, repr=False)  # what the body says

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return self.contract.document.signature

    @property
    def time_format(self) -> str:
        return self.contract.document.timestamp


@dataclass(frozen=True, slots=True)
class _Claim:
    """One signature as received, and what the headers say about the message."""

    kind: Kind
    sig: bytes
    facts: Mapping[str, str]
    time_ms: int | None


@dataclass(frozen=True, slots=True)
class _Key:
    """A secret, or the public half of one, as what one signature was made with."""

    secret: Secret
    kind: Kind
    content: Template
    check: Check = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A received signature and a key that could have made it."""

    claim: _Claim
    key: _Key


class _Refused(Exception):
    def __init__(self, verdict: Verdict, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.reason = reason


def verify(
    contract: Contract,
    secrets: Sequence[Secret],
    headers: Mapping[str, str],
    body: bytes,
    now_ms: int,
    tolerance_ms: int = TOLERANCE_MS,
    *,
    url: str = "",
    endpoint_id: str = "",
    facts: Mapping[str, str] | None = None,
) -> Verification:
    """Check a request as its receiver should; `url` and `endpoint_id` are needed where the contract signs them.

    `secrets` may be public keys. `facts` are what a signature covers of the event and neither headers nor body say, such
    as `data.id`. One right signature, under a secret that is active at `now_ms`, suffices. ConfigError if a secret
    cannot be a key.
    """
    by_name = {name.lower(): value for name, value in headers.items()}
    constants = _constants(url, endpoint_id)
    said = dict(said_by_body(contract, body))
    request = _Request(contract, tuple(secrets), by_name, body, now_ms, tolerance_ms, constants, facts or {}, said)
    for entry in request.signatures:
        list(_keys(request, entry))  # an impossible secret is the caller's mistake, whatever was received
    try:
        return Verification(Verdict.VERIFIED, _examine(request))
    except _Refused as refused:
        return Verification(refused.verdict, refused.reason)


def _keys(request: _Request, entry: Signature) -> Iterator[_Key]:
    """Prepare the given secrets, newest first; ConfigError if one cannot be a key."""
    for n, secret in enumerate(request.secrets, start=1):
        kind = entry.kind_of(secret.value)
        public = is_public(secret.value, kind.key.public)
        prefix, decode = (kind.key.public if public else kind.key.strip), kind.key.decode
        try:
            key = decode_key(secret.value, prefix, "pem" if secret.value.startswith("-----BEGIN ") else decode)
            check = checks(kind.algorithm, key, public=public)
        except ValueError as error:
            raise ConfigError(f"secret {n} {error}, so it cannot verify {entry.title}") from None
        known = {**request.constants, "n": b"%d" % n, "secret": secret.value.encode()}
        yield _Key(secret, kind, entry.content.bind(known), check)


def _constants(url: str, endpoint_id: str) -> dict[str, bytes]:
    """Return what is known about the endpoint; a variable that was not given stays one."""
    values = endpoint_values(url, endpoint_id)
    unknown = ({"url", "path"} if not url else set()) | ({"endpoint_id"} if not endpoint_id else set())
    return {name: value for name, value in values.items() if name not in unknown}


def _examine(request: _Request) -> str:
    """Return why the request is right; _Refused says why it is not."""
    if not request.contract.signs:
        raise _Refused(Verdict.CANNOT_TELL, f"The contract {request.contract.name!r} signs nothing.")
    if not request.secrets:
        raise _Refused(Verdict.CANNOT_TELL, "Without a secret nothing can be verified.")
    _check_shown_secret(request)
    facts = _facts_of_headers(request)
    refusals = []
    for entry in request.signatures:
        try:
            return _check_signature(request, entry, facts)
        except _Refused as refused:
            refusals.append(refused)
    if refusals:
        raise refusals[0]
    return "The secret is the right one. This contract does not sign the body."


def _check_shown_secret(request: _Request) -> None:
    for name, template in request.contract.document.headers.items():
        if "secret" not in template.variables:
            continue
        shown = _read_header(request, name, template)["secret"].encode("utf-8", "replace")
        active = [secret for secret in request.secrets if not _expired(secret.expires_at_ms, request.now_ms)]
        if not any(hmac.compare_digest(secret.value.encode(), shown) for secret in active):
            raise _Refused(Verdict.WRONG_SIGNATURE, f"{name} shows another secret than the one given.")


def _facts_of_headers(request: _Request) -> dict[str, str]:
    """Read the plain headers that say something a signature covers."""
    facts: dict[str, str] = {}
    signed = {name for entry in request.signatures for name in _subjects(entry.content.variables)} & _MESSAGE_FACTS
    for name, template in request.contract.document.headers.items():
        if any(map(is_fact, template.variables)):
            facts |= _read_if_there(request, name, template)
        elif signed & _subjects(template.variables):
            facts |= _read_header(request, name, template)
    return {**{name: text for name, text in request.said.items() if not is_fact(name)}, **facts}


def _read_if_there(request: _Request, name: str, template: Template) -> dict[str, str]:
    """Read a header that is left out where the event lacks what it shows."""
    values = _read(request, template, request.headers.get(name.lower(), "")) or {}
    return {variable: unquote(text) if Fact.of(variable) else text for variable, text in values.items()}


def _subjects(variables: Iterable[str]) -> set[str]:
    return {"timestamp" if stem(variable) in _TIMES else subject(variable) for variable in variables}


def _read_header(request: _Request, name: str, template: Template) -> dict[str, str]:
    text = request.headers.get(name.lower())
    if text is None:
        raise _Refused(Verdict.MISSING_HEADER, f"The header {name} is missing.{_alike(name, request.headers)}")
    values = _read(request, template, text)
    if values is None:
        reason = f"{name} is {text[:200]!r}, which is not of the form {shape(template)!r}."
        raise _Refused(Verdict.MALFORMED_HEADER, reason)
    return values


def _alike(name: str, received: Iterable[str]) -> str:
    ending = name.lower().rpartition("-")[2]
    alike = sorted(other for other in received if other.endswith(ending))
    return f" There is {', '.join(alike)}: another contract?" if alike else ""


def _read(request: _Request, template: Template, text: str) -> dict[str, str] | None:
    return read_backwards(template.bind(request.constants), text, request.time_format)


def _check_signature(request: _Request, entry: Signature, facts: Mapping[str, str]) -> str:
    pairs = _pairs(request, entry, _claims(request, entry, facts))
    for pair in pairs:
        _check_known(request, pair, entry)
        if _is_right(request, entry, pair):
            return _check_circumstances(request, pair)
    raise _Refused(Verdict.WRONG_SIGNATURE, _why(request, entry, pairs) + _besides(request, pairs[0].claim))


def _claims(request: _Request, entry: Signature, facts: Mapping[str, str]) -> list[_Claim]:
    """Take a signature header apart."""
    whole = {**facts, **_read_signature(request, entry)}
    pieces = whole["sigs"].split(entry.join) if entry.join else [whole["sigs"]]
    claims = []
    for kind, piece in product(entry.kinds, pieces):
        seen = _read(request, kind.each, piece)
        if seen is not None:
            claims.append(_claim(request, kind, {**whole, **seen}))
    if not claims:
        raise _Refused(Verdict.MALFORMED_HEADER, _no_claim(entry))
    return claims


def _read_signature(request: _Request, entry: Signature) -> dict[str, str]:
    """Read a signature in its header, or where it stands in the body."""
    if entry.header is not None:
        if entry.unsigned is not None and request.headers.get(entry.header.lower()) == entry.unsigned:
            raise _Refused(Verdict.MISSING_HEADER, f"{entry.header} says that the sender had no secret.")
        return _read_header(request, entry.header, entry.value)
    text = request.said.get(f"{INNER}{entry.name}", "")
    if text in ("", entry.unsigned):
        raise _Refused(Verdict.MISSING_HEADER, f"The body holds no {entry.title} where the contract has it.")
    values = _read(request, entry.value, text)
    if values is None:
        reason = f"{entry.title} is {text[:200]!r}, which is not of the form {shape(entry.value)!r}."
        raise _Refused(Verdict.MALFORMED_HEADER, reason)
    return values


def _no_claim(entry: Signature) -> str:
    forms = " or ".join(repr(shape(kind.each)) for kind in entry.kinds)
    return f"{entry.title} holds no signature of the form {forms} (with {entry.join!r} between several)."


def _claim(request: _Request, kind: Kind, facts: Mapping[str, str]) -> _Claim:
    time_ms = None
    for variable, text in facts.items():
        if stem(variable) in _TIMES:
            time_ms = _time_ms(text, variable.partition(":")[2] or request.time_format)
    return _Claim(kind, facts["sig"].encode("utf-8", "replace"), facts, time_ms)


def _time_ms(text: str, time_format: str) -> int:
    try:
        return parse_time_ms(text, time_format)
    except ValueError:
        raise _Refused(Verdict.MALFORMED_HEADER, f"The timestamp {text!r} is not of the form {time_format}.") from None


def _pairs(request: _Request, entry: Signature, claims: Iterable[_Claim]) -> list[_Pair]:
    pairs = [_Pair(claim, key) for claim, key in product(claims, _keys(request, entry)) if key.kind is claim.kind]
    if not pairs:
        reason = f"{entry.title} holds no signature of the kind that the given secret makes."
        raise _Refused(Verdict.WRONG_SIGNATURE, reason)
    return pairs


def _check_known(request: _Request, pair: _Pair, entry: Signature) -> None:
    covered = _subjects(pair.key.content.variables) & (_MESSAGE_FACTS | {"url", "path", "endpoint_id"})
    unknown = covered - _subjects(pair.claim.facts)
    unknown |= {name for name in pair.key.content.variables if is_fact(name) and _fact(request, pair, name) is None}
    if unknown:
        listed = ", ".join(sorted(unknown))
        raise _Refused(Verdict.CANNOT_TELL, f"{entry.title} covers the {listed}, which no header tells; give it.")


def _fact(request: _Request, pair: _Pair, variable: str) -> str | None:
    """Find what an event said: as it was given, or as headers or body say it."""
    known = request.given.get(variable, pair.claim.facts.get(variable))
    fact = Fact.of(variable)
    if known is not None or fact is None:
        return request.said.get(variable) if known is None else known
    return said_of_event(request.contract, request.body, fact)


def _is_right(request: _Request, entry: Signature, pair: _Pair) -> bool:
    content = _signed(request, pair, pair.key.content, request.body)
    signature = guesses.decoded(entry.encoding, pair.claim.sig)
    return signature is not None and pair.key.check(content, signature)


def _signed(request: _Request, pair: _Pair, content: Template, body: bytes) -> bytes:
    """Return what the sender signed if `body` is what it sent; the headers' own text stands as it is."""
    facts = pair.claim.facts
    kind_of_event = facts.get("event", facts.get("type", ""))
    attempt = int(facts.get("attempt", "1"))
    message = Message(facts.get("id", ""), kind_of_event, pair.claim.time_ms or 0, body, attempt)
    values = {name: read(message) for name, read in message_readers(request.time_format, content.variables)}
    verbatim = {name: text for name, text in facts.items() if subject(name) in _MESSAGE_FACTS or stem(name) in _TIMES}
    verbatim |= {name: _fact(request, pair, name) or "" for name in content.variables if is_fact(name)}
    return content.render({**values, **{name: text.encode("utf-8", "replace") for name, text in verbatim.items()}})


def _check_circumstances(request: _Request, pair: _Pair) -> str:
    """Look at the time of a signature that is right."""
    if _expired(pair.key.secret.expires_at_ms, request.now_ms):
        raise _Refused(Verdict.EXPIRED_SECRET, "The signature is right, but its secret was rotated out.")
    timed = any(stem(variable) in _TIMES for variable in pair.key.content.variables)
    stale = _staleness(request, pair.claim) if timed else ""
    if stale:
        raise _Refused(Verdict.STALE, f"The signature is right, but {stale}")
    return "The signature is right."


def _expired(expires_at_ms: int | None, now_ms: int) -> bool:
    return expires_at_ms is not None and expires_at_ms <= now_ms


def _staleness(request: _Request, claim: _Claim) -> str:
    age_ms = request.now_ms - (request.now_ms if claim.time_ms is None else claim.time_ms)
    if abs(age_ms) <= request.tolerance_ms:
        return ""
    distance = format_duration(abs(age_ms) // _SECOND_MS * _SECOND_MS)
    limit = format_duration(request.tolerance_ms)
    if age_ms < 0:
        return f"its timestamp is {distance} in the future (limit {limit}): one of the two clocks is wrong."
    return f"its timestamp is {distance} old (limit {limit}): a replayed or stored request, or a wrong clock."


def _besides(request: _Request, claim: _Claim) -> str:
    stale = _staleness(request, claim)
    return f" Besides, {stale}" if stale else ""


def _why(request: _Request, entry: Signature, pairs: Iterable[_Pair]) -> str:
    """Try what usually goes wrong, until the received signature comes out."""
    for pair in pairs:
        keys: list[tuple[str, Check]] = [("", pair.key.check)]
        keys += guesses.key_readings(pair.claim.kind, pair.key.secret.value)
        contents = [("", pair.key.content), (guesses.BODY_ALONE.format(shape(entry.content)), Template(("body",)))]
        bodies = [("", request.body), *guesses.body_readings(request.body)]
        signatures = list(guesses.signature_readings(entry, pair.claim.sig))
        for (content_words, content), (body_words, body) in product(contents, bodies):
            signed = _signed(request, pair, content, body)
            for (key_words, check), (encoding_words, signature) in product(keys, signatures):
                if check(signed, signature):
                    return " ".join(filter(None, (key_words, content_words, body_words, encoding_words)))
    return _no_idea(request.contract, request.body)


def _no_idea(contract: Contract, body: bytes) -> str:
    if contract.may_have_rendered(body):
        return "No given secret makes this signature: it is another endpoint's or an old one, or the body was changed."
    return (
        f"No given secret makes this signature, and the body has not the form of the contract {contract.name!r}: "
        "it was probably changed after it was signed; if not, the secret is another one."
    )
