"""Whether an application may add to what it has due (Q10). Plain functions.

Three limits hold: the application's own number of due deliveries, its own bytes of bodies, and its part of
`storage.max_backlog`. The part is what is still free: whoever has more due than that waits until some of it is delivered.
So one alone may take half, two a third each, and there is always room for the next one. An application that is the only
one has the whole, up to the limits that it was given itself.
"""

from typing import NamedTuple

from relay.core.errors import RelayError
from relay.core.model import Application
from relay.core.units import format_size
from relay.store import Usage


class ApplicationFull(RelayError):
    """An application has as much due as it may have; its posts, and nobody else's, are refused until some is delivered."""


class Room(NamedTuple):
    """What there is for all applications together."""

    max_backlog: int  # due deliveries
    backlog: int  # of which so many are due
    alone: bool  # there is no other application


def why_full(application: Application, usage: Usage, room: Room) -> str:
    """Say which limit an application has reached; "" while it may add. O(1)"""
    limits = application.limits
    backlog = limits.own_backlog if room.alone else limits.backlog
    if backlog is not None and usage.due >= backlog:
        return f"{usage.due} deliveries wait, {backlog} may (limits.backlog)"
    most = limits.own_bytes if room.alone else limits.bytes
    if most is not None and usage.bytes >= most:
        return f"bodies of {format_size(usage.bytes)} wait, {format_size(most)} may (limits.bytes)"
    free = room.max_backlog - room.backlog
    if not room.alone and usage.due > free:
        return f"{usage.due} deliveries wait, more than the {free} that are still free for all (storage.max_backlog)"
    return ""


def refuse_full(application: Application, usage: Usage, room: Room) -> None:
    """Raise ApplicationFull for an application that may not add."""
    reason = why_full(application, usage, room)
    if reason:
        remedy = (
            "Repeat later; deliveries go on. Mend, disable or delete the endpoint that they wait for, "
            "or ask the operator for more."
        )
        raise ApplicationFull(f"of application {application.id!r} {reason}", remedy=remedy)
