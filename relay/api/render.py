"""How things are written in the API's answers: names, times, and JSON."""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from relay.config.tls import authorities_of, certificate_of
from relay.contracts import body_of
from relay.core import filters
from relay.core.auth import Auth
from relay.core.issues import MISTAKES_MAX, Issue
from relay.core.model import Endpoint, HeaderPair, Health, Limits, Outcome, RetryPolicy, Trace
from relay.core.tls import Certificate, TlsIdentity
from relay.core.units import format_duration, format_rate, format_size, format_time
from relay.core.urls import masked
from relay.core.verification import Proof
from relay.core.views import AttemptView, DeadGroup, DeliveryView, EventView, VariantView
from relay.queue import Suspension
from relay.registry import ApplicationEntry
from relay.store import KeyRow

Json = dict[str, Any]

MASK = "***"


def moment(unix_ms: float | None) -> str | None:
    """Write a time as RFC 3339 in UTC with milliseconds and `Z`; None stays None."""
    return None if unix_ms is None else format_time(round(unix_ms))


def warnings(found: Iterable[Issue], where: str = "", listed: int = MISTAKES_MAX) -> Json:
    """Write what is odd about something that is taken all the same, if anything is; `where` is what it is part of.

    The first `listed` are written, the others counted.
    """
    issues = tuple(found)
    written = [issue.to_json() | {"pointer": where + issue.path} for issue in issues[:listed]]
    more = {"warnings_omitted": len(issues) - listed} if len(issues) > listed else {}
    return {"warnings": written} | more if written else {}


def event(view: EventView) -> Json:
    """Write an event without its payload."""
    return {
        "id": view.id,
        "type": view.type,
        "application": view.application,
        "created_at": moment(view.created_at_ms),
        "timestamp": moment(view.timestamp_ms),
        "deliver_at": moment(view.deliver_at_ms),
        "expires_at": moment(view.expires_at_ms),
        "ordering_key": view.ordering_key,
        "metadata": None if view.metadata is None else orjson.Fragment(view.metadata),
        "endpoints": list(view.endpoints) or None,
        "reason": view.reason,
        "reason_detail": view.reason_detail or None,
        "payload_bytes": view.body_bytes,
        "deliveries": dict(view.deliveries),
    }


def event_detail(view: EventView) -> Json:
    """Write an event with its payload: the very bytes that are sent, spliced in."""
    variants = [_variant(one) for one in view.variants]
    return event(view) | {"variants": variants, "payload": None if view.body is None else _payload(body_of(view.body))}


def _variant(view: VariantView) -> Json:
    return {
        "contract": view.contract,
        "endpoints": list(view.endpoints),
        "fault": view.fault or None,
        "payload": None if view.fault else _payload(body_of(view.body)),
    }


def delivery(view: DeliveryView) -> Json:
    """Write a delivery without its attempts."""
    return {
        "id": view.id,
        "event_id": view.event_id,
        "event_type": view.event_type,
        "application": view.application,
        "endpoint": view.endpoint,
        "state": view.state,
        "reason": view.reason,
        "cancelled_by": view.cancelled_by,
        "due_at": moment(view.due_ms),
        "attempts": view.attempts,
        "series": view.series,
        "replayed": view.replayed,
        "created_at": moment(view.created_at_ms),
        "finished_at": moment(view.finished_at_ms),
        "expires_at": moment(view.expires_at_ms),
    }


def attempt(view: AttemptView) -> Json:
    """Write one attempt of a timeline."""
    named = {"id": view.id, "number": view.number, "series": view.series, "trigger": view.trigger}
    return named | _came_to(view)


def outcome(value: Outcome) -> Json:
    """Write what one attempt came to, for a test."""
    return {"delivered": delivers(value)} | _came_to(value)


def delivers(value: AttemptView | Outcome) -> bool:
    """Whether an attempt delivered what it sent."""
    return value.status is not None and 200 <= value.status < 300


def _came_to(value: AttemptView | Outcome) -> Json:
    return {
        "started_at": moment(value.started_at_ms),
        "duration_ms": milliseconds(value.duration_ms),
        "status": value.status,
        "failure": value.failure,
        "detail": value.detail or None,
        "address": value.address,
        "trace": None if value.trace is None else _trace(value.trace),
        "response": _response(value.response_headers, value.response_body),
    }


def _trace(value: Trace) -> Json:
    return {
        "dns_ms": milliseconds(value.dns_ms),
        "connect_ms": milliseconds(value.connect_ms),
        "tls_ms": milliseconds(value.tls_ms),
        "first_byte_ms": milliseconds(value.first_byte_ms),
        "reused": value.reused,
        "tls_version": value.tls_version or None,
        "repeated": value.repeated,
    }


def milliseconds(duration_ms: float | None) -> float | None:
    """Write a duration in whole milliseconds, and to the microsecond where it is shorter than one; None stays None."""
    return duration_ms if duration_ms is None else round(duration_ms, 3) if duration_ms < 1 else round(duration_ms)


def dead_group(group: DeadGroup) -> Json:
    """Write the dead letters of one endpoint and reason."""
    return {
        "endpoint": group.endpoint,
        "application": group.application,
        "reason": group.reason,
        "count": group.count,
        "oldest_at": moment(group.oldest_ms),
        "newest_at": moment(group.newest_ms),
        "newest_delivery": group.newest_delivery,
        "note": group.note,
        "noted_by": group.noted_by,
        "noted_at": moment(group.noted_at_ms),
    }


def endpoint(value: Endpoint, *, plain: bool) -> Json:
    """Write an endpoint with its effective settings; of its secrets only how many there are.

    `plain` is for those who may change it; others see neither header values nor query values, which may be credentials.
    """
    return {
        "id": value.id,
        "application": value.application.id,
        "origin": value.origin,
        "url": value.url if plain else masked(value.url),
        "contract": value.contract or value.application.contract,
        "event_types": list(value.event_types),
        "filter": None if value.filter is None else value.filter.written,
        "description": value.description,
        "headers": {name: text if plain else MASK for name, text in _own_headers(value)},
        "concurrency": value.concurrency,
        "rate_limit": None if value.rate is None else format_rate(value.rate),
        "tls": None if value.tls is None else tls(value.tls),
        "auth": None if value.auth is None else auth(value.auth, plain=plain),
        "timeout": format_duration(value.timeout_ms),
        "retry": _retry(value.retry),
        "max_age": format_duration(value.retry.max_age_ms),
        "secrets": len(value.secrets),
        "verification": value.verification,
        "verified": None if value.unverified or value.proof is None else proof(value.proof),
        "state": value.state,
        "disabled_by": value.disabled_by,
        "state_since": moment(value.state_since_ms or None),
        "held": value.held,
        "present": value.present and value.application.present,
        "created_at": moment(value.created_at_ms),
        "updated_at": moment(value.updated_at_ms),
    }


def auth(value: Auth, *, plain: bool) -> Json:
    """Write what authenticates at an endpoint; credentials are masked for everybody."""
    shown = dict(value.shown)
    if not plain:
        shown |= {name: MASK for name in ("username", "client_id") if name in shown}
        shown |= {"token_url": masked(shown["token_url"])} if "token_url" in shown else {}
    return shown


def _own_headers(value: Endpoint) -> Iterator[tuple[str, str]]:
    """Yield the headers of an endpoint but for the one that authenticates, and what its receiver allowed."""
    added = {name for name, _ in value.proof.headers} if value.proof else set()
    added |= {value.auth.header} if value.auth else set()
    return (each for each in value.headers if each[0] not in added)


def proof(value: Proof) -> Json:
    """Write that a receiver agreed: when, how it was asked, and the rate that it allowed."""
    rate = value.rate
    return {
        "at": moment(value.at_ms),
        "method": value.method,
        "origin": value.origin or None,
        "allowed_rate": None if rate is None else format_rate(rate),
    }


def tls(value: TlsIdentity) -> Json:
    """Write how TLS is spoken to an endpoint: who is trusted and what is shown, by name; the key never."""
    return {
        "ca": None if value.system else list(authorities_of(value.ca)),
        "client_cert": certificate(certificate_of(value.client_cert)),
        "client_key": MASK if value.client_key else None,
        "min_version": value.min_version,
    }


def certificate(value: Certificate | None) -> Json | None:
    """Write one certificate."""
    if value is None:
        return None
    return {
        "subject": value.subject,
        "issuer": value.issuer,
        "not_before": moment(value.not_before_ms),
        "not_after": moment(value.not_after_ms),
    }


def filter_failure(failure: filters.Failure) -> Json:
    """Write a condition of a filter that keeps an event back."""
    return {
        "pointer": failure.pointer,
        "path": failure.path,
        "operator": failure.operator,
        "negated": failure.negated,
        "wanted": failure.wanted,
        "found": list(failure.found),
        "message": failure.message,
    }


def application(owner: ApplicationEntry, promised: Iterable[str]) -> Json:
    """Write an application; what it leaves to its contract and `[delivery]` is null, and `promised` are its features."""
    written, value = owner.definition.to_json(), owner.application
    return {
        "id": value.id,
        "name": value.name,
        "contract": value.contract,
        "features": {name: bool(value.features.get(name)) for name in sorted(promised)},
        "validation": value.validation,
        "allow_networks": list(map(str, value.allow_networks)),
        "source_addresses": None if value.reach.sources is None else list(map(str, value.reach.sources)),
        "limits": limits(value.limits),
        "timeout": written.get("timeout"),
        "retry": written.get("retry"),
        "max_age": written.get("max_age"),
        "origin": value.origin,
        "present": value.present,
        "created_at": moment(owner.row.created_at_ms),
        "updated_at": moment(owner.row.updated_at_ms),
    }


def limits(of: Limits) -> Json:
    """Write the limits of an application, its own and those of all."""
    return {
        "endpoints": of.endpoints,
        "backlog": of.backlog,
        "bytes": format_size(of.bytes),
        "tests": {"at_once": of.tests_at_once, "per_minute": of.tests_per_minute},
        "definition": format_size(of.definition_bytes),
    }


def key(row: KeyRow, now_ms: int) -> Json:
    """Write a key; of its token only how it begins."""
    return {
        "id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "created_at": moment(row.created_at_ms),
        "expires_at": moment(row.expires_at_ms),
        "expired": row.expires_at_ms is not None and row.expires_at_ms <= now_ms,
    }


def health(value: Health) -> Json:
    """Write what is remembered about an endpoint's failures and refusals; a healthy one has none."""
    return {
        "failures": value.failures,
        "failing_since": moment(value.failing_since_ms),
        "last_failure": value.last_failure or None,
        "last_failure_at": moment(value.last_failure_ms),
        "last_answer": value.last_answer or None,
        "cool_down_until": moment(value.cool_until_ms or None),
        "not_before": moment(value.not_before_ms or None),
    }


def refusing(value: Health) -> Json:
    """Write since when a receiver refuses everything, with which status, and what to do about it."""
    since_ms = value.throttled_since_ms if value.refusing_since_ms is None else value.refusing_since_ms
    return {"since": moment(since_ms), "status": int(value.last_failure or 0), "remedy": value.last_answer}


def suspension(value: Suspension | None) -> Json | None:
    """Write why nothing starts at an endpoint although its receiver did nothing wrong."""
    if value is None:
        return None
    return {"since": moment(value.since_ms), "until": moment(value.until_ms), "cause": value.cause}


def _retry(policy: RetryPolicy) -> Json:
    return {"schedule": [format_duration(delay) for delay in policy.schedule_ms], "jitter": policy.jitter}


def _response(headers: Iterable[HeaderPair], body: bytes | None) -> Json | None:
    pairs = [[name, value] for name, value in headers]
    if not pairs and not body:
        return None
    return {"headers": pairs, "body": None if body is None else body.decode("utf-8", "replace")}


def _payload(body: bytes) -> Any:
    """The bytes as they are where they are JSON, so that numbers keep their spelling; otherwise as text."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")
    return orjson.Fragment(body)
