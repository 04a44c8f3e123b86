"""The headers of one attempt. Everything that can be known earlier is compiled into the `Signer` of an endpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from relay.contracts.document import ContractDocument, Signature
from relay.contracts.fields import ENCODINGS, Message, endpoint_values, message_readers
from relay.contracts.keys import ALGORITHMS, Sign, decode_key
from relay.contracts.template import Template
from relay.core.errors import ConfigError
from relay.core.model import Secret

CHOSEN = {"all": slice(0, 10), "first": slice(0, 1), "second": slice(1, 2)}
"""Which active secrets sign, newest first. Svix carries ten signatures at most too."""


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
        raise ConfigError(f"secret {n} {error}, so it cannot sign {signature.header}") from None
    numbered = {**constants, "n": b"%d" % n}
    content = signature.content.bind({**numbered, "secret": secret.value.encode()})
    return SigningKey(content, sign, kind.each.bind(numbered), secret.expires_at_ms)


@dataclass(frozen=True, slots=True)
class _SignatureHeader:
    """A header with the signatures of the secrets that are active at the time; without a `value` it is left out."""

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


class Signer:
    """Makes the headers of every attempt to one endpoint. Immutable; make a new one when secrets or URL change."""

    def __init__(self, document: ContractDocument, secrets: Sequence[Secret], url: str, endpoint_id: str) -> None:
        constants = endpoint_values(url, endpoint_id)
        self._content_type = document.content_type
        self._plain: list[tuple[str, Template]] = []
        self._secret: list[tuple[str, _SignatureHeader | _SecretHeader]] = []
        for name, template in document.headers.items():
            if "secret" in template.variables:
                self._secret.append((name, _secret_header(template.bind(constants), secrets)))
            else:
                self._plain.append((name, template.bind(constants)))
        for entry in document.signature:
            self._secret.append((entry.header, _signature_header(entry, secrets, constants)))
        self._readers = message_readers(document.timestamp, document_variables(document))

    def headers(self, *, id: str, type: str, timestamp_ms: int, body: bytes, attempt: int) -> dict[str, str]:
        """Return every header of this attempt but those of the connection and User-Agent.

        Secrets that expire at or before `timestamp_ms` (wall clock of the attempt) do not sign.
        """
        message = Message(id, type, timestamp_ms, body, attempt)
        values = {name: read(message) for name, read in self._readers}
        headers = {"Content-Type": self._content_type}
        for name, template in self._plain:
            headers[name] = template.render(values).decode("latin-1")
        for name, header in self._secret:
            value = header.value(values, timestamp_ms)
            if value is not None:
                headers[name] = value.decode("latin-1")
        return headers


def document_variables(document: ContractDocument) -> set[str]:
    """Return every variable that any header of a contract uses."""
    templates = list(document.headers.values())
    for entry in document.signature:
        templates += [entry.content, entry.value, *(kind.each for kind in entry.kinds)]
    return {variable for template in templates for variable in template.variables}


def _secret_header(template: Template, secrets: Sequence[Secret]) -> _SecretHeader:
    shown = ((secret.expires_at_ms, template.bind({"secret": secret.value.encode()})) for secret in secrets)
    return _SecretHeader(tuple(shown))


def _signature_header(entry: Signature, secrets: Sequence[Secret], constants: Mapping[str, bytes]) -> _SignatureHeader:
    return _SignatureHeader(
        keys=signing_keys(entry, secrets, constants),
        chosen=CHOSEN[entry.secrets],
        encode=ENCODINGS[entry.encoding],
        join=entry.join.encode(),
        whole=entry.value.bind(constants),
        unsigned=None if entry.unsigned is None else entry.unsigned.encode(),
    )
