"""The headers of one attempt, and its body. Everything that can be known earlier is compiled into the `Signer` of an endpoint."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple
from urllib.parse import quote

from relay.contracts import as_form, as_xml
from relay.contracts.document import ContractDocument, Signature
from relay.contracts.facts import HEADER_FACT_BYTES_MAX, INNER, SPREAD_MARK, Fact, KeptFact, quoted
from relay.contracts.fields import ENCODINGS, EVENT_TIMES, MESSAGE_READERS, Message, endpoint_values, message_readers
from relay.contracts.frozen import MARK, NOTHING, Frozen, Gap
from relay.contracts.keypairs import Sign
from relay.contracts.keys import ALGORITHMS, decode_key
from relay.contracts.template import Template
from relay.core.errors import ConfigError
from relay.core.model import Secret

CHOSEN = {"all": slice(0, 10), "first": slice(0, 1), "second": slice(1, 2)}
"""Which active secrets sign, newest first. Svix carries ten signatures at most too."""

_SHOWN = "shown "
_SAFE = "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"


class Signed(NamedTuple):
    """What one attempt sends."""

    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One secret of an endpoint, ready to sign for one signature header."""

    content: Template
    sign: Sign = field(repr=False)
    each: Template
    expires_at_ms: int | None


def signing_keys(
    signature: Signature, secrets: Sequence[Secret], constants: Mapping[str, bytes]
) -> tuple[SigningKey, ...]:
    """Prepare secrets, newest first; ConfigError if one cannot be a key (its length is not judged here)."""
    return tuple(_signing_key(signature, secret, n, constants) for n, secret in enumerate(secrets, start=1))


def _signing_key(signature: Signature, secret: Secret, n: int, constants: Mapping[str, bytes]) -> SigningKey:
    kind = signature.kind_of(secret.value)
    try:
        sign = ALGORITHMS[kind.algorithm](decode_key(secret.value, kind.key.strip, kind.key.decode))
    except ValueError as error:
        raise ConfigError(f"secret {n} {error}, so it cannot sign {signature.title}") from None
    numbered = {**constants, "n": b"%d" % n}
    content = signature.content.bind({**numbered, "secret": secret.value.encode()})
    return SigningKey(content, sign, kind.each.bind(numbered), secret.expires_at_ms)


@dataclass(frozen=True, slots=True)
class _SignatureValue:
    """The signatures of the secrets that are active at the time; without one the header is left out, unless it says so."""

    keys: tuple[SigningKey, ...]
    chosen: slice
    encode: Callable[[bytes], bytes]
    join: bytes
    whole: Template
    unsigned: bytes | None

    def value(self, values: dict[str, bytes], now_ms: int) -> bytes | None:
        active = [key for key in self.keys if key.expires_at_ms is None or key.expires_at_ms > now_ms]
        signatures = []
        for key in active[self.chosen]:
            values["sig"] = self.encode(key.sign(key.content.render(values)))
            signatures.append(key.each.render(values))
        if not signatures:
            return self.unsigned
        values["sigs"] = self.join.join(signatures)
        return self.whole.render(values)


@dataclass(frozen=True, slots=True)
class _SecretHeader:
    """A header that shows the newest secret itself, such as `X-Gitlab-Token`."""

    shown: tuple[tuple[int | None, Template], ...] = field(repr=False)  # when it expires, what it looks like

    def value(self, values: dict[str, bytes], now_ms: int) -> bytes | None:
        for expires_at_ms, template in self.shown:
            if expires_at_ms is None or expires_at_ms > now_ms:
                return template.render(values)
        return None


@dataclass(frozen=True, slots=True)
class _PartialHeader:
    """A header that is left out where a value is not known: of an event that lacks it, or of a first attempt."""

    template: Template
    needs: frozenset[str]

    def value(self, values: dict[str, bytes], _now_ms: int) -> bytes | None:
        return self.template.render(values) if self.needs <= values.keys() else None


class Signer:
    """Makes what every attempt to one endpoint sends. Immutable; make a new one when secrets or URL change."""

    def __init__(self, document: ContractDocument, secrets: Sequence[Secret], url: str, endpoint_id: str) -> None:
        constants = endpoint_values(url, endpoint_id)
        self._constants = constants
        self._content_type = document.media_type
        self._reasons = document.retry_reasons
        self._retries = bool(document.retry_headers)
        self.tells_reason = any("retry_reason" in template.variables for template in document.retry_headers.values())
        self._plain: list[tuple[str, Template]] = []
        self._computed: list[tuple[str, _SignatureValue | _SecretHeader | _PartialHeader]] = []
        for name, template in document.headers.items():
            self._add(name, template.bind(constants), secrets)
        for name, template in document.retry_headers.items():
            self._computed.append((name, _partial_header(template.bind(constants))))
        self._spreads = bool(document.spread_headers)
        self._inner: dict[str, _SignatureValue] = {}
        for entry in document.signature:
            value = _signature_value(entry, secrets, constants)
            if entry.header is None:
                self._inner[f"{INNER}{entry.name}"] = value
            else:
                self._computed.append((entry.header, value))
        self._signed = {name: b"" for entry in document.signature for name in entry.content.variables if is_fact(name)}
        self._readers = message_readers(document.timestamp, header_variables(document))
        self._inner_readers = message_readers(document.timestamp, inner_variables(document))

    def _add(self, name: str, template: Template, secrets: Sequence[Secret]) -> None:
        if any(is_fact(variable) for variable in template.variables):
            self._computed.append((name, _partial_header(template)))
        elif "secret" in template.variables:
            self._computed.append((name, _secret_header(template, secrets)))
        else:
            self._plain.append((name, template))

    def request(
        self, *, id: str, type: str, timestamp_ms: int, frozen: bytes, attempt: int, failure: str | None = None
    ) -> Signed:
        """Return headers and body of an attempt; `frozen` is what `Contract.render` made. O(its length)"""
        facts, body = NOTHING, frozen
        if MARK in frozen:
            parts, facts = Frozen.read(frozen)
            body = self._filled(parts, facts, Message(id, type, timestamp_ms, b"", attempt))
        headers = self.headers(
            id=id, type=type, timestamp_ms=timestamp_ms, body=body, attempt=attempt, facts=facts, failure=failure
        )
        return Signed(headers, body)

    def headers(
        self,
        *,
        id: str,
        type: str,
        timestamp_ms: int,
        body: bytes,
        attempt: int,
        facts: Mapping[str, str] = NOTHING,
        failure: str | None = None,
    ) -> dict[str, str]:
        """Return every header of an attempt but those of the connection, and User-Agent unless the contract has its own.

        `body` is what is sent, `facts` are what the contract takes from the event, and `failure` says in our words what
        became of the attempt before. Secrets that expire at or before `timestamp_ms` (wall clock) do not sign.
        """
        message = Message(id, type, timestamp_ms, body, attempt)
        values = {name: read(message) for name, read in self._readers}
        if facts or self._signed:
            values |= self._values_of(facts)
        if self._retries and attempt > 1:
            values |= self._values_of_retry(attempt, failure)
        headers = {"Content-Type": self._content_type}
        for name, template in self._plain:
            headers[name] = template.render(values).decode("latin-1")
        for name, header in self._computed:
            value = header.value(values, timestamp_ms)
            if value is not None:
                headers[name] = value.decode("latin-1")
        if self._spreads:
            headers |= _spread_headers(facts)
        return headers

    def inner_signatures(self, message: Message, facts: Mapping[str, str] = NOTHING) -> dict[str, bytes]:
        """Return the signatures that stand inside the body, by variable; an endpoint without a secret has empty ones."""
        values = {name: read(message) for name, read in self._inner_readers} | self._values_of(facts)
        return {name: value.value(values, message.timestamp_ms) or b"" for name, value in self._inner.items()}

    def _filled(self, parts: Sequence[bytes | Gap], facts: Mapping[str, str], message: Message) -> bytes:
        signatures = self.inner_signatures(message, facts)

        def fill(gap: Gap) -> bytes:
            if gap.variable.startswith(INNER):
                text = signatures.get(gap.variable, b"")  # empty where the contract no longer makes this signature
            else:
                text = self._constants.get(gap.variable) or MESSAGE_READERS[gap.variable](message)
            return reduce(lambda written, writing: WRITINGS[writing](written), gap.writing.split("+"), text)

        return b"".join([part if isinstance(part, bytes) else fill(part) for part in parts])

    def _values_of(self, facts: Mapping[str, str]) -> dict[str, bytes]:
        values = dict(self._signed)
        for name, text in facts.items():
            values[name] = text.encode()
            values[_SHOWN + name] = _in_header(text) if Fact.of(name) else values[name]
        return values

    def _values_of_retry(self, attempt: int, failure: str | None) -> dict[str, bytes]:
        values = {"retry": b"%d" % (attempt - 1)}
        if failure is not None:
            family = f"{failure[:6]}xx" if failure.startswith("http_") else ""
            known = (self._reasons.get(word) for word in (failure, family, "other"))
            values["retry_reason"] = next((word for word in known if word is not None), failure).encode()
        return values


WRITINGS: Mapping[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "json": lambda text: quoted(text.decode())[1:-1],
    "xml": lambda text: as_xml.escaped(text.decode(), in_attribute=False).encode(),
    "attribute": lambda text: as_xml.escaped(text.decode(), in_attribute=True).encode(),
    "form": lambda text: as_form.encoded(text.decode()),
}
"""How the value of a gap is written in its place."""


def is_fact(variable: str) -> bool:
    """Whether a variable of a header or signature is taken from the event when that is accepted, and frozen with it."""
    return variable in EVENT_TIMES or Fact.of(variable) is not None


def kept_facts(document: ContractDocument) -> Iterator[KeptFact]:
    """Yield what headers and signatures take from an event."""
    shown = {
        name
        for template in (*document.headers.values(), *document.retry_headers.values())
        for name in template.variables
    }
    signed = {name for entry in document.signature for name in entry.content.variables}
    for name in sorted(filter(is_fact, shown | signed)):
        yield KeptFact(name, name in signed, HEADER_FACT_BYTES_MAX if name in shown else None)


def header_variables(document: ContractDocument) -> set[str]:
    """Return every variable that any header of a contract uses."""
    templates = [*document.headers.values(), *document.retry_headers.values()]
    templates += _templates(entry for entry in document.signature if entry.header is not None)
    return {variable for template in templates for variable in template.variables}


def inner_variables(document: ContractDocument) -> set[str]:
    """Return every variable that signatures inside the body use."""
    templates = _templates(entry for entry in document.signature if entry.header is None)
    return {variable for template in templates for variable in template.variables}


def _templates(entries: Iterable[Signature]) -> list[Template]:
    return [
        template for entry in entries for template in (entry.content, entry.value, *(kind.each for kind in entry.kinds))
    ]


def _in_header(text: str) -> bytes:
    """Write what people typed so that a header can carry it: as CloudEvents does, percent-encoded but for visible ASCII."""
    return quote(text, safe=_SAFE).encode()


def _spread_headers(facts: Mapping[str, str]) -> dict[str, str]:
    marked = ((name, text) for name, text in facts.items() if name.startswith(SPREAD_MARK))
    return {name.removeprefix(SPREAD_MARK): _in_header(text).decode() for name, text in marked}


def _partial_header(template: Template) -> _PartialHeader:
    shown = Template.of(_SHOWN + part if isinstance(part, str) and is_fact(part) else part for part in template.parts)
    return _PartialHeader(shown, shown.variables)


def _secret_header(template: Template, secrets: Sequence[Secret]) -> _SecretHeader:
    shown = ((secret.expires_at_ms, template.bind({"secret": secret.value.encode()})) for secret in secrets)
    return _SecretHeader(tuple(shown))


def _signature_value(entry: Signature, secrets: Sequence[Secret], constants: Mapping[str, bytes]) -> _SignatureValue:
    return _SignatureValue(
        keys=signing_keys(entry, secrets, constants),
        chosen=CHOSEN[entry.secrets],
        encode=ENCODINGS[entry.encoding],
        join=entry.join.encode(),
        whole=entry.value.bind(constants),
        unsigned=None if entry.unsigned is None else entry.unsigned.encode(),
    )
