"""What a caller gets to see: things of other applications do not exist for it (DESIGN §8)."""

from dataclasses import replace
from typing import TypeVar

from relay.core.access import Principal
from relay.core.errors import NotFound
from relay.core.model import DeliveryView, EventView
from relay.registry import Registry
from relay.store import DeliveryFilter, EventFilter

View = TypeVar("View", EventView, DeliveryView)
Filter = TypeVar("Filter", EventFilter, DeliveryFilter)


def application_of(named: str | None, principal: Principal, registry: Registry) -> str | None:
    """Return the application a list is limited to, None for all; NotFound for an unknown or foreign one."""
    if named is None:
        return principal.application
    if named not in registry.applications or not principal.sees(named):
        raise NotFound(f"no application {named!r}", remedy='Leave "application" out to see all that you may see.')
    return named


def within(wanted: Filter, principal: Principal, registry: Registry) -> Filter:
    """Narrow a filter to what the caller may see; NotFound for an unknown or foreign application."""
    return replace(wanted, application=application_of(wanted.application, principal, registry))


def seen(view: View | None, principal: Principal, noun: str, view_id: str) -> View:
    """Return what was found if the caller may see it; NotFound otherwise."""
    if view is None or not principal.sees(view.application):
        raise NotFound(f"no {noun} {view_id[:64]!r}", remedy=f"Look for it with GET /v1/{_plural(noun)}.")
    return view


def _plural(noun: str) -> str:
    return "deliveries" if noun == "delivery" else f"{noun}s"
