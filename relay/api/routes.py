"""The one table of calls: method, path, the right that the caller needs, and who answers. docs/API.md describes each."""

from relay.api.applications import PATH as APPLICATIONS
from relay.api.applications import Applications
from relay.api.bulk import Bulk
from relay.api.deliveries import Deliveries, Events
from relay.api.endpoints import PATH as ENDPOINTS
from relay.api.endpoints import Endpoints
from relay.api.event_types import PATH as EVENT_TYPES
from relay.api.event_types import EventTypes
from relay.api.explain import Explain
from relay.api.filters import PATH as TRY_FILTER
from relay.api.filters import Filters
from relay.api.ingest import Ingest
from relay.api.moving import Moving
from relay.api.pace import Paces
from relay.api.pages import Pages
from relay.api.replays import PATH as REPLAYS
from relay.api.replays import Replays
from relay.api.routing import Route
from relay.api.services import Services
from relay.api.status import Status
from relay.core.access import Right
from relay.intake import Intake


def routes(services: Services, intake: Intake) -> list[Route]:
    """Return every call there is; a right of None needs no token."""
    calls = [*intake_routes(intake, services.paces), *_events(services), *_registry(services), *_daemon(services)]
    return Pages().join(calls)


def intake_routes(intake: Intake, paces: Paces) -> list[Route]:
    """Return the calls that bring events in."""
    calls = Ingest(intake, paces)
    return [
        Route("POST", "/v1/events", Right.POST_EVENTS, calls.post_event, takes_query=True),
        Route("POST", "/v1/events/batch", Right.POST_EVENTS, calls.post_batch, takes_query=True),
    ]


def _events(services: Services) -> list[Route]:
    events, deliveries, types = Events(services), Deliveries(services), EventTypes(services)
    replays, bulk = Replays(services), Bulk(services)
    return [
        Route("GET", "/v1/events", Right.READ_EVENTS, events.search, takes_query=True),
        Route("GET", "/v1/events/{id}", Right.READ_EVENTS, events.show),
        Route("GET", "/v1/events/{id}/deliveries", Right.READ, events.deliveries, takes_query=True),
        Route("GET", "/v1/events/{id}/explain", Right.READ, Explain(services).show, takes_query=True),
        Route("GET", EVENT_TYPES, Right.READ_EVENTS, types.list_all, takes_query=True),
        # a name may have slashes in it
        Route("GET", EVENT_TYPES + "/{name:.+}", Right.READ_EVENTS, types.show, takes_query=True),
        Route("GET", "/v1/deliveries", Right.READ, deliveries.search, takes_query=True),
        Route("GET", "/v1/deliveries/{id}", Right.READ, deliveries.show),
        Route("POST", "/v1/deliveries/{id}/retry", Right.OPERATE, deliveries.retry),
        Route("POST", "/v1/deliveries/{id}/cancel", Right.OPERATE, deliveries.cancel),
        Route("POST", "/v1/deliveries/cancel", Right.OPERATE, bulk.cancel),
        Route("POST", "/v1/deliveries/retry", Right.OPERATE, bulk.retry),
        Route("GET", "/v1/queue", Right.READ, deliveries.shape, takes_query=True),
        Route("POST", "/v1/dead-letters/drop", Right.OPERATE, bulk.drop),
        Route("POST", "/v1/dead-letters/note", Right.OPERATE, deliveries.note),
        Route("POST", REPLAYS, Right.OPERATE, replays.create),
        Route("GET", REPLAYS, Right.READ, replays.search, takes_query=True),
        Route("GET", REPLAYS + "/{id}", Right.READ, replays.show),
        Route("POST", REPLAYS + "/{id}/cancel", Right.OPERATE, replays.cancel),
        Route("GET", "/v1/dead-letters", Right.READ, deliveries.dead_letters, takes_query=True),
    ]


def _registry(services: Services) -> list[Route]:
    applications, endpoints = Applications(services), Endpoints(services)
    application, endpoint = APPLICATIONS + "/{id}", ENDPOINTS + "/{id}"
    return [
        Route("POST", APPLICATIONS, Right.ADMINISTER, applications.create),
        Route("GET", APPLICATIONS, Right.ADMINISTER, applications.search, takes_query=True),
        Route("GET", application, Right.ADMINISTER, applications.show),
        Route("PATCH", application, Right.ADMINISTER, applications.update),
        Route("DELETE", application, Right.ADMINISTER, applications.delete),
        Route("GET", application + "/keys", Right.ADMINISTER, applications.list_keys, takes_query=True),
        Route("POST", application + "/keys", Right.ADMINISTER, applications.create_key),
        Route("DELETE", application + "/keys/{key}", Right.ADMINISTER, applications.revoke_key),
        Route("POST", ENDPOINTS, Right.CHANGE, endpoints.create),
        Route("GET", ENDPOINTS, Right.READ, endpoints.search, takes_query=True),
        Route("GET", endpoint, Right.READ, endpoints.show),
        Route("PATCH", endpoint, Right.CHANGE, endpoints.update),
        Route("DELETE", endpoint, Right.CHANGE, endpoints.delete),
        Route("POST", endpoint + "/pause", Right.OPERATE, endpoints.pause),
        Route("POST", endpoint + "/resume", Right.OPERATE, endpoints.resume),
        Route("POST", endpoint + "/enable", Right.OPERATE, endpoints.enable),
        Route("POST", endpoint + "/disable", Right.OPERATE, endpoints.disable),
        Route("POST", endpoint + "/retry-now", Right.OPERATE, endpoints.retry_now),
        Route("GET", endpoint + "/secret", Right.ADMINISTER, endpoints.secret),
        Route("POST", endpoint + "/rotate-secret", Right.CHANGE, endpoints.rotate_secret),
        Route("POST", endpoint + "/probe", Right.OPERATE, endpoints.probe),
        Route("POST", endpoint + "/verify", Right.OPERATE, endpoints.verify),
        Route("POST", TRY_FILTER, Right.READ, Filters(services).attempt),
        Route("POST", endpoint + "/test", Right.OPERATE, endpoints.test),
    ]


def _daemon(services: Services) -> list[Route]:
    calls, moving = Status(services), Moving(services)
    return [
        Route("GET", "/healthz", None, calls.healthz),
        Route("HEAD", "/healthz", None, calls.healthz),
        Route("GET", "/readyz", None, calls.readyz),
        Route("HEAD", "/readyz", None, calls.readyz),
        Route("GET", "/metrics", Right.READ_STATUS, calls.metrics),
        Route("GET", "/v1/status", Right.READ_STATUS, calls.status),
        Route("POST", "/v1/reload", Right.ADMINISTER, calls.reload),
        Route("POST", "/v1/rekey", Right.ADMINISTER, calls.rekey),
        Route("GET", "/v1/export", Right.ADMINISTER, moving.export, takes_query=True),
        Route("POST", "/v1/import", Right.ADMINISTER, moving.import_),
    ]
