"""The shapes of answers, as `render` and the calls write them. Answers may gain members: none of these is closed."""

from relay.api.calls import (
    ANY,
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    TIME,
    WHOLE,
    Schema,
    maybe,
    members,
    named,
    several,
    shape,
    word,
)
from relay.core.clock import ClockState
from relay.core.model import (
    DeadReason,
    DeliveryState,
    DisabledBy,
    EndpointState,
    NoDelivery,
    Origin,
    Trigger,
    Validation,
)
from relay.core.verification import Method
from relay.store import AtRest

MISTAKE = shape("Mistake", {"pointer": TEXT, "message": TEXT}, {"remedy": TEXT})
WARNINGS = {"warnings": several(MISTAKE), "warnings_omitted": COUNT}
PROBLEM = shape(
    "Problem",
    {"type": TEXT, "title": TEXT, "status": WHOLE, "detail": TEXT},
    {"errors": several(MISTAKE), "errors_omitted": COUNT},
)

# -- events and deliveries ---------------------------------------------------------------------------------------------

RECEIPT = shape(
    "Receipt",
    {"id": TEXT, "type": TEXT, "application": TEXT, "created_at": TIME, "deliveries": COUNT, "duplicate": FLAG},
    {**WARNINGS, "differs": FLAG, "reason": TEXT, "reason_detail": TEXT},
)
RESULTS = members({"results": several(shape("Result", {"status": WHOLE}, {"body": RECEIPT, "problem": PROBLEM}))})

_EVENT: dict[str, Schema] = {
    "id": TEXT,
    "type": TEXT,
    "application": TEXT,
    "created_at": TIME,
    "timestamp": TIME,
    "deliver_at": maybe(TIME),
    "expires_at": maybe(TIME),
    "ordering_key": maybe(TEXT),
    "metadata": maybe(OBJECT),
    "endpoints": maybe(several(TEXT)),
    "reason": maybe(word(NoDelivery)),
    "reason_detail": maybe(TEXT),
    "payload_bytes": COUNT,
    "deliveries": named(COUNT),
}
EVENT = shape("Event", _EVENT)
VARIANT = shape("Variant", {"contract": TEXT, "endpoints": several(TEXT), "fault": maybe(TEXT), "payload": ANY})
EVENT_DETAIL = shape("EventDetail", {**_EVENT, "variants": several(VARIANT), "payload": ANY})

_DELIVERY: dict[str, Schema] = {
    "id": TEXT,
    "event_id": TEXT,
    "event_type": TEXT,
    "application": TEXT,
    "endpoint": TEXT,
    "state": word(DeliveryState),
    "reason": maybe(word(DeadReason)),
    "cancelled_by": maybe(TEXT),
    "due_at": maybe(TIME),
    "attempts": COUNT,
    "series": COUNT,
    "replayed": FLAG,
    "created_at": TIME,
    "finished_at": maybe(TIME),
    "expires_at": maybe(TIME),
    "held": FLAG,
    "under_way": FLAG,
}
DELIVERY = shape("Delivery", _DELIVERY)
TRACE = shape(
    "Trace",
    {
        "dns_ms": maybe(NUMBER),
        "connect_ms": maybe(NUMBER),
        "tls_ms": maybe(NUMBER),
        "first_byte_ms": maybe(NUMBER),
        "reused": FLAG,
        "tls_version": maybe(TEXT),
        "repeated": FLAG,
    },
)
_OUTCOME: dict[str, Schema] = {
    "started_at": TIME,
    "duration_ms": NUMBER,
    "status": maybe(WHOLE),
    "failure": maybe(TEXT),
    "detail": maybe(TEXT),
    "address": maybe(TEXT),
    "trace": maybe(TRACE),
    "response": maybe(members({"headers": several(several(TEXT)), "body": maybe(TEXT)})),
}
ATTEMPT = shape("Attempt", {"id": TEXT, "number": COUNT, "series": COUNT, "trigger": word(Trigger), **_OUTCOME})
OUTCOME = shape("Outcome", {"delivered": FLAG, **_OUTCOME})
DELIVERY_DETAIL = shape(
    "DeliveryDetail",
    {
        **_DELIVERY,
        "next_attempt": maybe(members({"at": maybe(TIME), "why": TEXT, "detail": TEXT})),
        "timeline": several(ATTEMPT),
    },
)
DEAD_GROUP = shape(
    "DeadLetters",
    {
        "endpoint": TEXT,
        "application": TEXT,
        "reason": word(DeadReason),
        "count": COUNT,
        "oldest_at": TIME,
        "newest_at": TIME,
        "newest_delivery": TEXT,
        "note": maybe(TEXT),
        "noted_by": maybe(TEXT),
        "noted_at": maybe(TIME),
    },
)
NOTED = members({"endpoint": TEXT, "reason": word(DeadReason), "note": maybe(TEXT), "noted_by": TEXT})
_QUEUED = members(
    {
        "endpoint": TEXT,
        "application": TEXT,
        "state": TEXT,
        "held": FLAG,
        "due": COUNT,
        "by_age": several(COUNT),
        "waits_for": maybe(TEXT),
    }
)
QUEUE = shape("Queue", {"ages": several(TEXT), "endpoints": COUNT, "due": COUNT, "data": several(_QUEUED)})
TESTED = shape(
    "Tested", {"endpoint": TEXT, "event_id": TEXT, "event_type": TEXT, "delivered": FLAG, **_OUTCOME}, WARNINGS
)

EVENT_TYPE = shape(
    "EventType",
    {
        "name": TEXT,
        "description": TEXT,
        "schema": ANY,
        "example": ANY,
        "deprecated": FLAG,
        "replaced_by": maybe(TEXT),
        "test_only": FLAG,
        "links": FLAG,
        "feature": maybe(TEXT),
    },
)
CATALOGUE = shape(
    "Catalogue",
    {"application": TEXT, "contract": TEXT, "open": FLAG, "data": several(EVENT_TYPE), "next": maybe(TEXT)},
)
FAILED_CONDITION = shape(
    "FailedCondition",
    {
        "pointer": TEXT,
        "path": TEXT,
        "operator": TEXT,
        "negated": FLAG,
        "wanted": TEXT,
        "found": several(TEXT),
        "message": TEXT,
    },
)
TRIED = shape(
    "TriedFilter",
    {
        "passes": FLAG,
        "decided": FLAG,
        "failures": several(FAILED_CONDITION),
        "filter": maybe(OBJECT),
        "endpoint": maybe(TEXT),
        "subscribes": maybe(FLAG),
    },
)

# -- endpoints and applications ----------------------------------------------------------------------------------------

CERTIFICATE = shape("Certificate", {"subject": TEXT, "issuer": TEXT, "not_before": TIME, "not_after": TIME})
RETRY = members({"schedule": several(TEXT), "jitter": NUMBER})
HEALTH = shape(
    "Health",
    {
        "failures": COUNT,
        "failing_since": maybe(TIME),
        "last_failure": maybe(TEXT),
        "last_failure_at": maybe(TIME),
        "last_answer": maybe(TEXT),
        "cool_down_until": maybe(TIME),
        "not_before": maybe(TIME),
    },
)
_WORK: dict[str, Schema] = {
    "due": COUNT,
    "dead": COUNT,
    "waits_for": maybe(TEXT),
    "health": HEALTH,
    "refusing": maybe(members({"since": maybe(TIME), "status": WHOLE, "remedy": TEXT})),
    "suspended": maybe(members({"since": TIME, "until": TIME, "cause": TEXT})),
    "unverified": maybe(
        members(
            {
                "tries": COUNT,
                "tried_at": maybe(TIME),
                "failure": maybe(TEXT),
                "detail": maybe(TEXT),
                "next_try_at": maybe(TIME),
            }
        )
    ),
}
_SETTINGS: dict[str, Schema] = {
    "id": TEXT,
    "application": TEXT,
    "origin": word(Origin),
    "url": TEXT,
    "contract": TEXT,
    "event_types": several(TEXT),
    "filter": maybe(OBJECT),
    "description": TEXT,
    "headers": named(TEXT),
    "concurrency": COUNT,
    "rate_limit": maybe(TEXT),
    "tls": maybe(
        members(
            {
                "ca": maybe(several(TEXT)),
                "client_cert": maybe(CERTIFICATE),
                "client_key": maybe(TEXT),
                "min_version": TEXT,
            }
        )
    ),
    "auth": maybe(OBJECT),
    "timeout": TEXT,
    "retry": RETRY,
    "max_age": TEXT,
    "secrets": COUNT,
    "verification": word(Method),
    "verified": maybe(
        members({"at": TIME, "method": word(Method), "origin": maybe(TEXT), "allowed_rate": maybe(TEXT)})
    ),
    "state": word(EndpointState),
    "disabled_by": maybe(word(DisabledBy)),
    "state_since": maybe(TIME),
    "held": FLAG,
    "present": FLAG,
    "created_at": TIME,
    "updated_at": TIME,
}
_ENDPOINT = _SETTINGS | {"certificate": maybe(CERTIFICATE), **_WORK, "public_keys": several(TEXT)}
ENDPOINT = shape("Endpoint", _ENDPOINT)
ENDPOINT_MADE = shape("EndpointWithSecret", {**_ENDPOINT, "secret": maybe(TEXT)}, WARNINGS)
ENDPOINT_CHANGED = shape("EndpointChanged", _ENDPOINT, {**WARNINGS, "secret": TEXT})
ENDPOINT_MOVED = shape("EndpointMoved", {**_ENDPOINT, "changed": FLAG, "note": maybe(TEXT)})
ENDPOINT_PROBED = shape("EndpointProbed", {**_ENDPOINT, "changed": FLAG, "delivery": maybe(TEXT), "note": maybe(TEXT)})
ENDPOINT_RETRIED = shape("EndpointRetried", {**_ENDPOINT, "moved": COUNT, "more": FLAG, "note": maybe(TEXT)})
ENDPOINT_ASKED = shape("EndpointAsked", {**_ENDPOINT, "agreed": FLAG, "note": maybe(TEXT), "attempt": OUTCOME})
SECRETS = several(members({"secret": TEXT, "expires_at": maybe(TIME)}))
ENDPOINT_SECRETS = shape("EndpointSecrets", {"endpoint": TEXT, "secret": maybe(TEXT), "secrets": SECRETS})

_KEY: dict[str, Schema] = {
    "id": TEXT,
    "name": TEXT,
    "prefix": TEXT,
    "created_at": TIME,
    "expires_at": maybe(TIME),
    "expired": FLAG,
}
KEY = shape("Key", _KEY)
KEY_MADE = shape("KeyWithToken", {**_KEY, "token": TEXT})
_APPLICATION: dict[str, Schema] = {
    "id": TEXT,
    "name": TEXT,
    "contract": TEXT,
    "features": named(FLAG),
    "validation": word(Validation),
    "allow_networks": several(TEXT),
    "source_addresses": maybe(several(TEXT)),
    "limits": members(
        {
            "endpoints": COUNT,
            "backlog": COUNT,
            "bytes": TEXT,
            "tests": members({"at_once": COUNT, "per_minute": COUNT}),
            "definition": TEXT,
        }
    ),
    "timeout": maybe(TEXT),
    "retry": maybe(members({}, {"schedule": several(TEXT), "jitter": NUMBER})),
    "max_age": maybe(TEXT),
    "origin": word(Origin),
    "present": FLAG,
    "created_at": TIME,
    "updated_at": TIME,
    "endpoints": COUNT,
    "keys": COUNT,
    "usage": members({"due": COUNT, "bytes": COUNT}),
}
APPLICATION = shape("Application", _APPLICATION)
APPLICATION_MADE = shape(
    "ApplicationMade",
    _APPLICATION,
    {"endpoint": shape("FirstEndpoint", {**_SETTINGS, "secret": maybe(TEXT)}), "key": KEY_MADE, **WARNINGS},
)

LINE = shape("Line", {}, {"relay": OBJECT, "application": OBJECT, "endpoint": OBJECT})
_DONE = members({"created": COUNT, "taken_over": COUNT, "updated": COUNT, "unchanged": COUNT})
IMPORTED = shape(
    "Imported",
    {"dry_run": FLAG, "changed": FLAG, "applications": _DONE, "endpoints": _DONE, "secrets_made": several(TEXT)},
    WARNINGS,
)

# -- the daemon --------------------------------------------------------------------------------------------------------

READINESS = shape("Readiness", {"ready": FLAG, "reasons": several(members({"code": TEXT, "detail": TEXT}))})
STORAGE = shape(
    "Storage",
    {
        "path": TEXT,
        "sqlite_version": TEXT,
        "journal_mode": TEXT,
        "synchronous": TEXT,
        "schema_version": COUNT,
        "unclean_start": FLAG,
        "checked": FLAG,
        "backup": maybe(TEXT),
        "database_bytes": COUNT,
        "wal_bytes": COUNT,
        "durability": TEXT,
        "secrets": word(AtRest),
        "healthy": FLAG,
        "disk_free_bytes": COUNT,
        "settles_waiting": COUNT,
    },
)
_STANDING = shape(
    "EndpointStanding",
    {
        "id": TEXT,
        "application": TEXT,
        "state": word(EndpointState),
        "disabled_by": maybe(word(DisabledBy)),
        "held": FLAG,
        "failing": FLAG,
        "blocked": FLAG,
        "window": COUNT,
        "in_flight": COUNT,
        **_WORK,
    },
)
_GONE = members({"kind": TEXT, "id": TEXT, "application": TEXT, "due": COUNT, "renamed_to": maybe(TEXT)})
STATUS = shape(
    "Status",
    {
        "headline": TEXT,
        "troubles": several(members({"code": TEXT, "detail": TEXT})),
        "version": TEXT,
        "started_at": TIME,
        "uptime_s": NUMBER,
        "config_path": maybe(TEXT),
        **READINESS["properties"],
        "local_trouble": FLAG,
        "suspended": several(TEXT),
        "refusing": several(TEXT),
        "unverified": several(TEXT),
        "clock": word(ClockState),
        "reload": members(
            {"at": maybe(TIME), "refused": several(TEXT), "needs_restart": several(TEXT)}, {"refused_omitted": COUNT}
        ),
        "vanished": several(_GONE),
        "warnings": several(TEXT),
        "due": COUNT,
        "oldest_due_s": NUMBER,
        "in_flight": COUNT,
        "dead": COUNT,
        "replays": members({"unfinished": COUNT, "left": COUNT}),
        "storage": STORAGE,
        "endpoints_total": COUNT,
        "endpoint_states": named(COUNT),
        "worst": several(_STANDING),
        "endpoints": several(_STANDING),
    },
)
_REMARK = members({"severity": TEXT, "where": TEXT, "key": TEXT, "message": TEXT, "remedy": TEXT})
RELOADED = shape(
    "Reloaded",
    {"reloaded": FLAG, "changed": several(TEXT), "needs_restart": several(TEXT), "warnings": several(_REMARK)},
    {"changed_omitted": COUNT, "warnings_omitted": COUNT},
)
REKEYED = shape(
    "Rekeyed",
    {
        "key": TEXT,
        "endpoints": COUNT,
        "idempotency_records": COUNT,
        "were_clear": COUNT,
        "traces_removed": FLAG,
        "hindered": maybe(TEXT),
        "backups": several(TEXT),
    },
)
