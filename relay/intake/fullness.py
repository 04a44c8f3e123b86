"""Whether an application may add to what it has due (Q10). Plain functions.

Three limits hold: the application's own number of due deliveries, its own bytes of bodies, and its part of
`storage.max_backlog`. The part is what is still free: whoever has more due than that waits until some of it is delivered.
So one alone may take half, two a third each, and there is always room for the next one. An application that is the only
one has the whole, up to the limits that it was given itself.
"""

from collections.abc import Iterator
from typing import NamedTuple

from relay.core.errors import RelayError
from relay.core.model import Application
from relay.core.units import format_size
from relay.store import Usage


class ApplicationFull(RelayError):
    """An application has as much due as it may have; its posts, and nobody else's, are refused until some is delivered."""


_REMEDY = "Repeat later; mend, disable or delete the endpoint that they wait for, or let the operator raise its limits."


class Room(NamedTuple):
    """What there is for all applications together."""

    max_backlog: int  # due deliveries
    backlog: int  # of which so many are due
    alone: bool  # there is no other application


class Limit(NamedTuple):
    """One limit of an application, as it stands."""

    used: int
    most: int
    setting: str

    @property
    def is_near(self) -> bool:
        """Whether nine tenths of it are used, or more."""
        return self.used * 10 >= self.most * 9

    @property
    def is_reached(self) -> bool:
        """Whether not one delivery more may be added."""
        return self.used >= self.most

    @property
    def sentence(self) -> str:
        """Say how much of it is used."""
        if self.setting == "limits.bytes":
            return f"bodies of {format_size(self.used)} wait, {format_size(self.most)} may (limits.bytes)"
        if self.setting == "limits.backlog":
            return f"{self.used} deliveries wait, {self.most} may (limits.backlog)"
        return f"{self.used} deliveries wait, and {self.most - 1} more may of all applications (storage.max_backlog)"


def limits_of(application: Application, usage: Usage, room: Room) -> Iterator[Limit]:
    """List what bounds an application now; an application that is the only one has only the limits of its own. O(1)"""
    limits = application.limits
    backlog, most = (limits.own_backlog, limits.own_bytes) if room.alone else (limits.backlog, limits.bytes)
    if backlog is not None:
        yield Limit(usage.due, backlog, "limits.backlog")
    if most is not None:
        yield Limit(usage.bytes, most, "limits.bytes")
    if not room.alone:
        yield Limit(usage.due, room.max_backlog - room.backlog + 1, "storage.max_backlog")


def why_full(application: Application, usage: Usage, room: Room, deliveries: int = 1) -> str:
    """Say which limit an application with an event of so many deliveries is beyond; "" while it may add that. O(1)

    The event is judged as its last delivery would be if they came one after another.
    """
    before = deliveries - 1
    if before:
        usage, room = usage._replace(due=usage.due + before), room._replace(backlog=room.backlog + before)
    for limit in limits_of(application, usage, room):
        if limit.is_reached:
            return f"{limit.sentence}, {before} of them of this very event" if before > 0 else limit.sentence
    return ""


def refuse_full(application: Application, usage: Usage, room: Room, deliveries: int = 1) -> None:
    """Raise ApplicationFull for an application that may not add an event of so many deliveries."""
    reason = why_full(application, usage, room, deliveries)
    if reason:
        raise ApplicationFull(f"of application {application.id!r} {reason}", remedy=_REMEDY)


def tightest(application: Application, usage: Usage, room: Room) -> Limit | None:
    """Return the limit that an application is nearest to, or furthest beyond; None while there is room. O(1)"""
    near = [limit for limit in limits_of(application, usage, room) if limit.is_near and limit.used]
    return max(near, key=lambda limit: limit.used / max(limit.most, 1), default=None)


def say_full(application: Application, limit: Limit, endpoint: str) -> str:
    """Say to an operator that an application is near to a limit or beyond it, and what to do; most waits for `endpoint`."""
    ends = "its posts are refused, and nobody else's" if limit.is_reached else "beyond that its posts are refused"
    remedy = f"Mend, disable or delete the endpoint that most wait for, {endpoint!r}, or raise {limit.setting}"
    return f"Of application {application.id!r} {limit.sentence}: {ends}. {remedy}."
