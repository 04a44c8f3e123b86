"""Signing secrets over the API: brought along by an admin, rotated to, and read again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import PlainValidator, WithJsonSchema

from relay.api.body import unknown_members
from relay.api.render import Json, moment
from relay.config.admission import secret_faults
from relay.config.auth import SECRET_MEMBERS
from relay.config.secrets import SECRET_BYTES_MAX, Wrong, refuse_reference
from relay.contracts import Contract
from relay.core.issues import Invalid, Issue, pointer
from relay.core.model import Secret, shown_without
from relay.core.units import format_duration, parse_duration_ms, parse_time_ms

OVERLAP_MS = 24 * 3_600_000
"""How long an old secret signs beside the new one, unless the caller says otherwise."""

OVERLAP_MAX_MS = 30 * 24 * 3_600_000

_FORM = 'Write it as text, or {"secret": text, "expires_at": time}.'


class Rotation(NamedTuple):
    """What a rotation is asked for."""

    overlap_ms: int
    secret: str | None  # None: a new one is made

    def __repr__(self) -> str:
        return shown_without(self, "secret")


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong("a secret is text", _FORM)
    if len(value.encode("utf-8", "surrogatepass")) > SECRET_BYTES_MAX:
        raise Wrong(f"the secret is larger than {SECRET_BYTES_MAX} bytes", "No contract takes such a long one.")
    refuse_reference(value, "Give the secret itself.")
    return value


def _read_secret(value: Any) -> Secret:
    """Read one secret: text, or an object where it ends some time."""
    written = value if isinstance(value, Mapping) else {"secret": value}
    if not written.keys() <= {"secret", "expires_at"}:
        raise Wrong("a secret has no other members", _FORM)
    return Secret(_read_text(written.get("secret")), _end_of(written.get("expires_at")))


def _end_of(value: Any) -> int | None:
    if value is None:
        return None
    try:
        return parse_time_ms(value if isinstance(value, str) else "")
    except ValueError:
        raise Wrong(
            'expires_at must be a time with its offset from UTC, like "2027-01-31T00:00:00Z"', "Or leave it out."
        ) from None


_BROUGHT_SCHEMA: Json = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "required": ["secret"],
            "properties": {
                "secret": {"type": "string"},
                "expires_at": {"type": ["string", "null"], "format": "date-time"},
            },
            "additionalProperties": False,
        },
    ]
}

Brought = Annotated[Secret, PlainValidator(_read_secret), WithJsonSchema(_BROUGHT_SCHEMA)]
"""A secret that receivers have already."""


def brought_mistakes(
    one: Secret | None, several: Sequence[Secret] | None, contract: Contract | None
) -> Iterator[Issue]:
    """Yield what is wrong with the `secret` or the `secrets` of an endpoint; without a contract nobody knows all of it."""
    if one is not None and several is not None:
        yield Issue("/secret", "there are both secret and secrets; give one of them")
    secrets = several if several is not None else () if one is None else (one,)
    places = [pointer("secrets", index) for index in range(len(secrets))] if several is not None else ["/secret"]
    if secrets and secrets[0].expires_at_ms is not None:
        yield Issue(places[0], "the newest secret, which comes first, signs until it is rotated; leave out expires_at")
    if contract is None:
        return
    if several is not None and not several and contract.needs_secret:
        sentence = f"the contract {contract.name} signs what it sends; leave this out, and a secret is made"
        yield Issue("/secrets", sentence)
    for index, wrong in secret_faults([secret.value for secret in secrets], contract):
        yield Issue(places[index], wrong)


def lasting(secrets: Iterable[Secret], now_ms: int) -> tuple[Secret, ...]:
    """Return the secrets that have not come to their end."""
    return tuple(secret for secret in secrets if secret.expires_at_ms is None or secret.expires_at_ms > now_ms)


def read_rotation(written: Mapping[str, Any], *, brings: bool) -> Rotation:
    """Read `{"overlap"?}` of a rotation, and `"secret"?` of those who may bring one; Invalid with every mistake."""
    issues = unknown_members(written, ["overlap", "secret"] if brings else ["overlap"])
    overlap_ms, secret = OVERLAP_MS, None
    if "overlap" in written:
        overlap_ms = _overlap_ms(written["overlap"])
    if overlap_ms < 0:
        longest = format_duration(OVERLAP_MAX_MS)
        issues.append(Issue("/overlap", f'must be a duration like "24h", at most "{longest}"; "0s" ends the old ones'))
    if brings and written.get("secret") is not None:
        try:
            secret = _read_text(written["secret"])
        except Wrong as wrong:
            issues.append(Issue("/secret", f"{wrong.message}. {wrong.remedy}"))
    if issues:
        raise Invalid(issues)
    return Rotation(overlap_ms, secret)


def write_secrets(secrets: Iterable[Secret]) -> list[Json]:
    """Write secrets in clear, newest first, as `secrets` of a new endpoint takes them."""
    return [{"secret": secret.value, "expires_at": moment(secret.expires_at_ms)} for secret in secrets]


def without_credentials(table: Mapping[str, Any]) -> Json:
    """Leave out of the `tls` or the `auth` of an endpoint what an export without secrets must not have."""
    return {name: text for name, text in table.items() if name not in ("client_key", *SECRET_MEMBERS)}


def _overlap_ms(value: Any) -> int:
    """Read an overlap; below zero for one that is none."""
    try:
        duration_ms = parse_duration_ms(value) if isinstance(value, str) else -1
    except (ValueError, OverflowError):
        return -1
    return duration_ms if duration_ms <= OVERLAP_MAX_MS else -1
