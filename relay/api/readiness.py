"""Whether events are taken at the moment, and what is said when they are not: to a probe, an operator, a producer."""

from collections.abc import Iterator
from typing import NamedTuple

from relay.api import problems
from relay.api.problems import Problem
from relay.api.services import Services
from relay.core.units import format_size


class Closed(NamedTuple):
    """Why the relay takes no events: for people, and for whoever posts one."""

    code: str
    detail: str
    problem: Problem


def why_closed(services: Services) -> Iterator[Closed]:
    """Say why intake is closed (Q10); nothing when it is open. Receivers never are a reason."""
    store, storage, disk = services.store, services.daemon.config.storage, services.housekeeping
    if services.daemon.stopping:
        yield Closed("draining", "the relay is stopping", problems.draining())
    if not store.healthy:
        detail = "the database takes no writes; look at the log and the disk"
        problem = problems.store_unavailable("The database takes no writes at the moment.")
        yield Closed("store_failing", detail, problem)
    if disk.disk_low:
        free, least = disk.disk_free_bytes, storage.min_free_disk_bytes
        detail = f"{format_size(free >> 20 << 20)} of disk are free and storage.min_free_disk is {format_size(least)}"
        yield Closed("disk_low", detail, problems.disk_low(free, least))
    if store.backlog >= storage.max_backlog:
        detail = f"{store.backlog} deliveries wait, as many as storage.max_backlog allows"
        yield Closed("backlog_full", detail, problems.backlog_full(store.backlog, storage.max_backlog))


def admission(services: Services) -> Problem | None:
    """Return what an event is refused with at the moment; None when it is taken."""
    closed = next(why_closed(services), None)
    return None if closed is None else closed.problem
