"""The form of a contract file: pydantic models of the TOML, in which templates are already compiled."""

import json
import re
from collections import Counter
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from relay.contracts.algorithms import ALGORITHMS, PLAIN_DIGESTS
from relay.contracts.fields import (
    BODY_VARIABLES,
    CONTENT_VARIABLES,
    EACH_VARIABLES,
    ENCODINGS,
    HEADER_VARIABLES,
    JSON_VALUES,
    TIME_FORMATS,
    VALUE_VARIABLES,
)
from relay.contracts.keys import DECODERS
from relay.contracts.template import Part, Template, TemplateError
from relay.durations import parse_duration_ms
from relay.event_types import DEFAULT_GRAMMAR

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_TEXT = re.compile(r"[\t\x20-\x7e]*")
_OURS = frozenset(
    {"host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
    | {"content-type", "content-length", "content-encoding", "accept-encoding", "user-agent"}
    | {"proxy-connection", "proxy-authorization"}
)


def mistake(message: str, remedy: str) -> PydanticCustomError:
    """Make an error that carries its own remedy to the report."""
    return PydanticCustomError("contract", "{message}", {"message": message, "remedy": remedy})


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise mistake("must be text", "Write it in quotes.")
    return value


def _compile(value: object, known: Collection[str]) -> Template:
    try:
        return Template.compile(_text(value), known)
    except TemplateError as error:
        raise mistake(str(error), error.remedy) from None


def _shown(value: object) -> str:
    """Check text that becomes part of a header's value."""
    text = _text(value)
    if not _HEADER_TEXT.fullmatch(text):
        raise mistake("a header can carry only visible ASCII, blanks and tabs", "Remove the other characters.")
    return text


def _header_name(value: object) -> str:
    name = _text(value)
    if not _HEADER_NAME.fullmatch(name):
        raise mistake(f"{name!r} is no header name", "Use letters, digits and dashes, at most 64.")
    if name.lower() in _OURS:
        raise mistake(f"{name} is set by the relay itself", "Leave it out (`content_type` sets Content-Type).")
    return name


def _content(value: object) -> Template:
    return _compile(value, CONTENT_VARIABLES)


def _header(value: object) -> Template:
    return _compile(_shown(value), HEADER_VARIABLES)


def _each(value: object) -> Template:
    return _holding("sig", _compile(_shown(value), EACH_VARIABLES))


def _value(value: object) -> Template:
    return _holding("sigs", _compile(_shown(value), VALUE_VARIABLES))


def _holding(variable: str, template: Template) -> Template:
    if variable not in template.variables:
        raise mistake("the signature would not be sent", f"Put {{{variable}}} in it.")
    return template


def _json_value(value: object) -> Template:
    """Compile a member's value to JSON: text in quotes, `{data}` and unix times bare, numbers and booleans as such."""
    if isinstance(value, bool | int):
        return Template((json.dumps(value).encode(),))
    template = _compile(value, BODY_VARIABLES)
    if len(template.parts) == 1 and template.variables <= JSON_VALUES:
        return template
    if "data" in template.variables:
        raise mistake("{data} is a JSON value and cannot stand inside text", 'Give it a member of its own: "{data}".')
    return Template.of([b'"', *map(_quoted, template.parts), b'"'])


def _quoted(part: Part) -> Part:
    return json.dumps(part.decode(), ensure_ascii=False)[1:-1].encode() if isinstance(part, bytes) else part


def _grammar(value: object) -> re.Pattern[str]:
    try:
        return re.compile(_text(value), re.ASCII)
    except re.error as error:
        raise mistake(f"is no regular expression: {error}", "Mend it; it must match a whole event type.") from None


def _duration_ms(value: object) -> int:
    try:
        return parse_duration_ms(_text(value))
    except ValueError:
        raise mistake(f"{value!r} is no duration", 'Write a number and a unit, such as "30s".') from None


def _one_of(choices: Collection[str]) -> BeforeValidator:
    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise mistake(f"{value!r} is not supported", f"Use one of: {', '.join(choices)}.")
        return value

    return BeforeValidator(check)


HeaderName = Annotated[str, BeforeValidator(_header_name)]
HeaderText = Annotated[str, BeforeValidator(_shown)]
HeaderTemplate = Annotated[Template, PlainValidator(_header)]
DurationMs = Annotated[int, BeforeValidator(_duration_ms)]
Algorithm = Annotated[str, _one_of(ALGORITHMS)]
Encoding = Annotated[str, _one_of(ENCODINGS)]
Decoding = Annotated[str, _one_of(DECODERS)]
TimeFormat = Annotated[str, _one_of(TIME_FORMATS)]
Secrets = Annotated[Literal["all", "first", "second"], _one_of(("all", "first", "second"))]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Key(_Model):
    """How a secret becomes a key, and how long the key may be. A length binds configuration, never the signer."""

    strip: str = ""
    decode: Decoding = "utf8"
    min_bytes: int = Field(default=1, ge=1, le=1024)
    max_bytes: int = Field(default=1024, ge=1, le=1024)

    @field_validator("max_bytes")
    @classmethod
    def _not_below_min(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("min_bytes", 1):
            raise mistake("max_bytes is below min_bytes", "Raise it.")
        return value


class Kind(_Model):
    """What a secret of one kind signs with."""

    algorithm: Algorithm = "hmac-sha256"
    key: Key = Key()
    each: Annotated[Template, PlainValidator(_each)] = Template(("sig",))


class Variant(Kind):
    """Another kind of secret, known by the prefix `key.strip`."""

    @field_validator("key")
    @classmethod
    def _recognisable(cls, key: Key) -> Key:
        if not key.strip:
            raise mistake("a variant is recognised by the prefix of its secrets", 'Set strip, such as "whsk_".')
        return key


class Signature(Kind):
    """One signature header. `content` is signed; its signatures are shown as `each`, joined, inside `value`."""

    header: HeaderName
    content: Annotated[Template, PlainValidator(_content)] = Template(("body",))
    encoding: Encoding = "hex"
    join: HeaderText = ","
    value: Annotated[Template, PlainValidator(_value)] = Template(("sigs",))
    secrets: Secrets = "all"
    unsigned: HeaderText | None = None
    variant: tuple[Variant, ...] = ()

    @field_validator("content")
    @classmethod
    def _needs_a_secret(cls, content: Template, info: ValidationInfo) -> Template:
        if info.data.get("algorithm") in PLAIN_DIGESTS and "secret" not in content.variables:
            raise mistake("anyone can compute a plain digest", "Use hmac-sha256, or put {secret} in content.")
        return content

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return (self, *self.variant)

    def kind_of(self, secret: str) -> Kind:
        """Return the variant whose prefix the secret has, else the entry's own kind."""
        return next((kind for kind in self.variant if secret.startswith(kind.key.strip)), self)


class Types(_Model):
    """Which event types there are."""

    catalogue: Annotated[Literal["open"], _one_of(("open",))] = "open"
    grammar: Annotated[re.Pattern[str], PlainValidator(_grammar)] = re.compile(DEFAULT_GRAMMAR, re.ASCII)
    description: str = "parts of letters, digits and _, joined by dots"


class Member(_Model):
    """One member of the body."""

    name: str
    value: Annotated[Template, PlainValidator(_json_value)]


class Body(_Model):
    """The body's members, in the order in which they are sent."""

    mode: Annotated[Literal["verbatim"], _one_of(("verbatim",))] = "verbatim"
    members: tuple[Member, ...]

    @field_validator("members")
    @classmethod
    def _carries_data_once(cls, members: tuple[Member, ...]) -> tuple[Member, ...]:
        if sum("data" in member.value.variables for member in members) != 1:
            raise mistake("exactly one member must carry what the producer sent", 'Give one the value "{data}".')
        names = [member.name for member in members]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise mistake(f"the member {twice[0]!r} is there twice", "Rename or remove one.")
        return members

    @property
    def template(self) -> Template:
        """The whole body as one template."""
        parts: list[Part] = []
        for member in self.members:
            name = json.dumps(member.name, ensure_ascii=False).encode()
            parts += [b"," if parts else b"{", name, b":", *member.value.parts]
        return Template.of([*parts, b"}"])


class Retry(_Model):
    """A retry policy of the contract's own."""

    schedule: Annotated[tuple[DurationMs, ...], Field(max_length=100)] | None = None
    jitter: float | None = Field(default=None, ge=0, le=1)


class Delivery(_Model):
    """What `[delivery]` of the configuration is overridden with."""

    timeout: DurationMs | None = Field(default=None, gt=0)
    retry: Retry = Retry()
    max_age: DurationMs | None = Field(default=None, gt=0)


class ContractDocument(_Model):
    """A contract file."""

    description: str
    content_type: HeaderText = "application/json"
    timestamp: TimeFormat = "unix"
    types: Types = Types()
    body: Body
    headers: dict[HeaderName, HeaderTemplate] = {}
    signature: tuple[Signature, ...] = ()
    delivery: Delivery = Delivery()


def repeated_headers(raw: dict[str, Any]) -> list[str]:
    """Name the headers that a file sets twice, whatever else is wrong with it."""
    headers, entries = raw.get("headers"), raw.get("signature")
    names = list(headers) if isinstance(headers, dict) else []
    names += [entry.get("header") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    counts = Counter(name.lower() for name in names if isinstance(name, str))
    return sorted(name for name, count in counts.items() if count > 1)
