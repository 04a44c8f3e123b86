"""The kinds of values that settings have, and how each is written in TOML.

In a file durations, sizes and rates are strings with units; code that builds a configuration may pass plain numbers.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, ValidationError, core_schema

from relay.config.listening import check_listen
from relay.config.secrets import (
    AUTHORITIES,
    PEM,
    SECRET,
    Secrets,
    SecretText,
    Wrong,
    read_key,
    read_text,
    refuse_reference,
)
from relay.core import filters
from relay.core.filters import Filter
from relay.core.issues import Invalid, keys_of
from relay.core.netguard import as_dialled
from relay.core.units import (
    UNLIMITED,
    Rate,
    format_bytes_rate,
    format_duration,
    format_rate,
    format_size,
    parse_bytes_rate,
    parse_duration_ms,
    parse_rate,
    parse_size_bytes,
)

T = TypeVar("T")

LONGEST = "3650d"  # keeps sums of durations and unix times far from any limit

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ORIGIN = re.compile(r"(?=.{1,253}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.(?!\Z)|\Z))+")

_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
_SIZE = r"^[0-9]+(\.[0-9]+)? ?[A-Za-z]+$"
_RATE = r"[0-9]{1,9}/(s|m|h)"


@dataclass(frozen=True, slots=True)
class Measure:
    """Makes an integer field that is written as a number with a unit, within bounds."""

    noun: str
    example: str
    parse: Callable[[str], int]
    format: Callable[[int], str]
    least: int
    most: int
    pattern: str  # what is understood, as a regular expression

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(self.format)
        return core_schema.with_info_plain_validator_function(self._read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> JsonSchemaValue:
        bounds = f"A {self.noun}, {self.format(self.least)} to {self.format(self.most)}."
        return {"type": "string", "pattern": self.pattern, "examples": [self.example], "description": bounds}

    def _read(self, value: Any, info: ValidationInfo) -> int:
        number = self._number(value, written=info.context is not None)
        if not self.least <= number <= self.most:
            raise Wrong(f"must be between {self.format(self.least)} and {self.format(self.most)}")
        return number

    def _number(self, value: Any, *, written: bool) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and not written:
            return value
        if not isinstance(value, str):
            raise Wrong(f"a {self.noun} is written in quotes, with a unit", f'Write it like "{self.example}".')
        return _parsed(self.parse, value)


def duration(shortest: str = "1ms", longest: str = LONGEST) -> Measure:
    """Make a field of milliseconds, written like `"30s"`."""
    bounds = parse_duration_ms(shortest), parse_duration_ms(longest)
    return Measure("duration", "30s", parse_duration_ms, format_duration, *bounds, _DURATION)


def size(smallest: str, largest: str) -> Measure:
    """Make a field of bytes, written like `"1MiB"`."""
    bounds = parse_size_bytes(smallest), parse_size_bytes(largest)
    return Measure("size", "1MiB", parse_size_bytes, format_size, *bounds, _SIZE)


def at_most(count: int) -> BeforeValidator:
    """Limit how many entries a list or table has, before any of them is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list | tuple | dict) and len(value) > count:
            raise Wrong(f"has {len(value):,} entries; there may be {count:,}", "Shorten it.")
        return value

    return BeforeValidator(check)


def whole(least: int, most: int) -> FieldInfo:
    """Make a field of a whole number."""
    field: FieldInfo = Field(strict=True, ge=least, le=most)
    return field


def _read_rate(value: Any) -> Rate:
    if isinstance(value, Rate):
        return value
    if not isinstance(value, str):
        raise Wrong("a rate is written in quotes, with a period", 'Write it like "50/s".')
    return _parsed(parse_rate, value)


def _pace(parse: Callable[[str], Rate], example: str) -> PlainValidator:
    def read(value: Any) -> Rate:
        if isinstance(value, Rate):
            return value
        if not isinstance(value, str):
            raise Wrong("a rate is written in quotes, with a period", f'Write it like "{example}"; "" is no limit.')
        return _parsed(parse, value) if value else UNLIMITED

    return PlainValidator(read)


def _read_network(value: Any) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):
        raise Wrong("a network is written in quotes", 'Write it like "10.0.0.0/8".')
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        raise Wrong("not a network", _network_remedy(value)) from None


def _read_address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address):
        return value
    try:
        return as_dialled(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise Wrong("not an IP address", 'Write it like "203.0.113.7" or "2001:db8::7".') from None


def _network_remedy(value: str) -> str:
    try:
        return f'Its host bits are set; write "{ipaddress.ip_network(value, strict=False)}".'
    except ValueError:
        return 'Write it like "10.0.0.0/8" or "fd00::/8".'


def _read_secret(value: Any, info: ValidationInfo) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise Wrong("a secret is text in quotes", 'Write it like "env:NAME", "file:/path" or "cred:name".')
    return info.context.resolve(value) if isinstance(info.context, Secrets) else SecretText(value)


KEYS_MAX = 16
"""Keys that secrets may stand under in the database at once: the newest, and older ones."""

KEPT = "kept"
"""The context of a serialization that the database keeps: PEM texts and credentials are written in clear, as they will be needed."""


def _read_pem(value: Any, info: ValidationInfo) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise Wrong("PEM is text in quotes", "It begins with -----BEGIN.")
    if value.startswith("/"):
        raise Wrong("is the name of a file, not what it holds", f'In the configuration file write "file:{value}".')
    if not isinstance(info.context, Secrets):
        refuse_reference(value, "Give the PEM text itself.")
    if len(value) > PEM.bytes_max:
        raise Wrong(f"is larger than {PEM.bytes_max} bytes", "Give only the PEM blocks that are needed here.")
    return info.context.resolve(value, PEM) if isinstance(info.context, Secrets) and value else SecretText(value)


def _read_credential(value: Any, info: ValidationInfo) -> SecretStr:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise Wrong("a secret is text", "Put it in quotes.")
    if isinstance(info.context, Secrets):
        return info.context.resolve(value)
    refuse_reference(value, "Give the secret itself.")
    if len(value.encode("utf-8", "surrogatepass")) > SECRET.bytes_max:
        raise Wrong(f"the secret is larger than {SECRET.bytes_max} bytes", "No receiver takes such a long one.")
    return SecretText(value)


def _write_kept(text: SecretStr, info: SerializationInfo) -> str:
    return text.get_secret_value() if info.context == KEPT or not text else _write_secret(text)


def _read_authorities(value: Any) -> SecretStr:
    """Read the file that is named; empty for none."""
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise Wrong("the name of a file is written in quotes", 'Write it like "/etc/relay/ca.pem".')
    if not value:
        return SecretText("")
    if not value.startswith("/"):
        raise Wrong("the path of a file must be absolute", 'Write it like "/etc/relay/ca.pem".')
    return SecretText(read_text(Path(value), AUTHORITIES), value)


def _read_filter(value: Any) -> Filter:
    if isinstance(value, Filter):
        return value
    try:
        return filters.read(value)
    except Invalid as invalid:
        found = [
            InitErrorDetails(
                type="value_error",
                loc=_location(issue.path, value),
                input=None,
                ctx={"error": Wrong(issue.message, issue.remedy)},
            )
            for issue in invalid.issues
        ]
        raise ValidationError.from_exception_data("filter", found) from None


def _location(path: str, document: Any) -> tuple[str | int, ...]:
    """Return the keys of a pointer, places in lists as numbers."""
    location: list[str | int] = []
    for key in keys_of(path):
        place = int(key) if isinstance(document, list) else key
        location.append(place)
        document = document[place]
    return tuple(location)


def _write_secret(secret: SecretStr) -> str:
    """A reference is shown as it is; a literal never."""
    return getattr(secret, "source", "") or "********"


def _check_id(value: str) -> str:
    if not _ID.fullmatch(value):
        raise Wrong(
            "an id begins with a letter or digit and holds letters, digits, _ and - only, 64 at most",
            'Write it like "acme" or "render-api".',
        )
    return value


def _check_origin(value: str) -> str:
    if value and not _ORIGIN.fullmatch(value):
        raise Wrong(
            "not a host name", 'Write the name that receivers know this sender by, such as "events.example.com".'
        )
    return value


def _check_path(value: Path) -> Path:
    if not value.is_absolute():
        raise Wrong(
            "the path must be absolute, or it would depend on where the daemon was started",
            'Write it like "/var/lib/relay/relay.db".',
        )
    return value


def _check_key(secret: SecretStr) -> SecretStr:
    read_key(secret.get_secret_value())
    return secret


def _read_one_or_more(value: Any) -> Any:
    """One value may stand without brackets."""
    return (value,) if isinstance(value, str) else value


def _check_filled(values: tuple[T, ...]) -> tuple[T, ...]:
    # pydantic's own `min_length` also complains when the elements are there and wrong
    if not values:
        raise Wrong("the list is empty", "Fill it, or remove the key.")
    return values


def _parsed(parse: Callable[[str], T], value: str) -> T:
    try:
        return parse(value)
    except ValueError as error:
        raise Wrong(f"not understood: {error}") from None


def _text(example: str, pattern: str | None = None) -> JsonSchemaValue:
    schema = {"type": "string", "examples": [example]}
    return schema if pattern is None else schema | {"pattern": pattern}


# -- the kinds -----------------------------------------------------------------------------------------------------------

Id = Annotated[str, AfterValidator(_check_id), WithJsonSchema({"type": "string", "pattern": f"^{_ID.pattern}$"})]
Origin = Annotated[str, AfterValidator(_check_origin)]
Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    PlainValidator(_read_network),
    PlainSerializer(str),
    WithJsonSchema(_text("10.0.0.0/8")),
]
HostAddress = Annotated[
    ipaddress.IPv4Address | ipaddress.IPv6Address,
    PlainValidator(_read_address),
    PlainSerializer(str),
    WithJsonSchema(_text("203.0.113.7")),
]
RateLimit = Annotated[
    Rate, PlainValidator(_read_rate), PlainSerializer(format_rate), WithJsonSchema(_text("50/s", f"^{_RATE}$"))
]
Pace = Annotated[
    Rate,
    _pace(parse_rate, "50/s"),
    PlainSerializer(lambda rate: format_rate(rate) if rate.starts else ""),
    WithJsonSchema(_text("50/s", f"^({_RATE})?$")),
]
BytesPace = Annotated[
    Rate,
    _pace(parse_bytes_rate, "10MiB/s"),
    PlainSerializer(lambda rate: format_bytes_rate(rate) if rate.starts else ""),
    WithJsonSchema(_text("10MiB/s")),
]
SecretField = Annotated[
    SecretStr,
    PlainValidator(_read_secret),
    PlainSerializer(_write_secret),
    WithJsonSchema(_text("file:/etc/relay/secret")),
]
Pem = Annotated[
    SecretStr,
    PlainValidator(_read_pem),
    PlainSerializer(_write_kept, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
Credential = Annotated[
    SecretStr,
    PlainValidator(_read_credential),
    PlainSerializer(_write_kept, when_used="json"),
    WithJsonSchema({"type": "string"}),
]
Authorities = Annotated[
    SecretStr,
    PlainValidator(_read_authorities),
    PlainSerializer(_write_kept, when_used="json"),
    WithJsonSchema(_text("/etc/relay/ca.pem")),
]
FilterField = Annotated[
    Filter,
    PlainValidator(_read_filter),
    PlainSerializer(lambda kept: kept.written),
    WithJsonSchema({"type": "object", "examples": [{"data.amount": {"$gte": 100}}]}),
]
TlsVersion = Literal["1.2", "1.3"]
AbsolutePath = Annotated[
    Path, AfterValidator(_check_path), PlainSerializer(str), WithJsonSchema(_text("/var/lib/relay/relay.db", "^/"))
]
Filled = AfterValidator(_check_filled)
Listen = Annotated[
    tuple[Annotated[str, AfterValidator(check_listen)], ...],
    BeforeValidator(_read_one_or_more, json_schema_input_type=str | tuple[str, ...]),
    Filled,
]
Keys = Annotated[
    tuple[Annotated[SecretField, AfterValidator(_check_key)], ...],
    BeforeValidator(_read_one_or_more, json_schema_input_type=str | tuple[str, ...]),
    at_most(KEYS_MAX),
]
