"""Who is calling, and what each role may do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import NamedTuple

from relay.core.units import Rate


class Role(StrEnum):
    """What a token is for."""

    PRODUCER = "producer"
    APPLICATION = "application"
    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"


class Right(Enum):
    """One kind of call."""

    POST_EVENTS = auto()
    READ_EVENTS = auto()
    READ = auto()  # endpoints, deliveries, dead letters
    OPERATE = auto()  # states of endpoints, tests; retries and cancels of deliveries
    CHANGE = auto()  # what endpoints are, and their secrets
    READ_STATUS = auto()  # the whole daemon: status, metrics
    ADMINISTER = auto()  # reload, applications; ids and secrets that are brought along, secrets in clear
    SEE_CREDENTIALS = auto()  # what authenticates at receivers: header values, URLs beyond the host, answers in clear
    SEE_NETWORK = auto()  # what lies behind a name: addresses that are not public, our own, none at all


RIGHTS: Mapping[Role, frozenset[Right]] = {
    Role.PRODUCER: frozenset({Right.POST_EVENTS, Right.READ_EVENTS}),
    Role.APPLICATION: frozenset({Right.READ_EVENTS, Right.READ, Right.OPERATE, Right.CHANGE, Right.SEE_CREDENTIALS}),
    Role.READER: frozenset({Right.READ_EVENTS, Right.READ, Right.READ_STATUS, Right.SEE_NETWORK}),
    Role.OPERATOR: frozenset({Right.READ_EVENTS, Right.READ, Right.READ_STATUS, Right.OPERATE, Right.SEE_NETWORK}),
    Role.ADMIN: frozenset(Right),
}


class Pace(NamedTuple):
    """How fast a token may be used; a rate of 0 is no limit."""

    events: Rate  # requests, and events beyond the first of each
    bytes: Rate  # of their bodies

    @classmethod
    def of(cls, events: Rate, bytes_rate: Rate) -> "Pace | None":
        """Put two rates together; None where neither is a limit."""
        return cls(events, bytes_rate) if events.starts or bytes_rate.starts else None


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose identity is established."""

    name: str
    role: Role
    application: str | None = None  # id of the one application it is bound to; None: not bound
    pace: Pace | None = None  # None: unlimited

    def may(self, right: Right) -> bool:
        """Whether its role includes `right`."""
        return right in RIGHTS[self.role]

    def sees(self, application: str) -> bool:
        """Whether things of this application exist for it (for others they are 404)."""
        return self.application is None or self.application == application


@dataclass(frozen=True, slots=True)
class Token:
    """One token as configured."""

    name: str
    role: Role
    application: str | None
    secret: str = field(repr=False)
    pace: Pace | None = None
