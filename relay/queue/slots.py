"""How many attempts run at once, and whose they are (Q4).

An attempt is *young* for its first second; one that has run longer without an answer is *silent*. Young attempts of
endpoints that answer use the `concurrency` slots. Everything else stands outside of them and cannot fill them: young
attempts of doubtful endpoints have a small share of their own, and silent ones only count towards the total, which keeps
connections and file descriptors bounded.

No application can take what others need. Where a limit is common, one application may use it only while it holds less
than a fixed multiple of what is still free: so the first takes much, several take equal parts, and whoever comes next
finds some of it free.
"""

from collections import deque
from enum import Enum, IntEnum, auto

SILENT_MS = 1_000
"""An attempt that has run so long without an answer is silent."""

IN_FLIGHT = 4
"""Attempts under way in all: so many times `concurrency`."""

ENDPOINT_SHARE = 4
"""One endpoint has at most 1 / ENDPOINT_SHARE of `concurrency`."""

DOUBTFUL_SHARE = 4
"""Doubtful endpoints together start at most 1 / DOUBTFUL_SHARE of `concurrency` at once; one application half of that."""


class Kind(IntEnum):
    """What is known of an endpoint, in the order in which endpoints get a turn; and the same of an attempt."""

    ANSWERING = 0  # an endpoint that answers; its young attempts
    DOUBTFUL = 1  # one that may not answer, yet was not silent lately; the young attempts of all doubtful endpoints
    SILENT = 2  # a doubtful one that was silent last; every attempt older than a second


KINDS = tuple(Kind)  # iterating over the class itself takes ten times as long


class Obstacle(Enum):
    """Why a lane gets no slot, in words for people."""

    ALL = "all slots in use"
    DOUBTFUL = "doubtful endpoints' share of slots in use"
    CROWDED = "the application's share of slots in use"
    CROWDED_DOUBTFUL = "the application's share of slots for doubtful endpoints in use"
    HEAVY = "the application has too many attempts under way"


class Usage:
    """Attempts under way, by kind."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts = [0, 0, 0]

    @property
    def answering(self) -> int:
        return self.counts[Kind.ANSWERING]

    @property
    def doubtful(self) -> int:
        return self.counts[Kind.DOUBTFUL]

    @property
    def in_flight(self) -> int:
        return sum(self.counts)


class Place(Enum):
    """Where an application stands with its waiting lanes of one kind."""

    NOWHERE = auto()  # it has none
    ROUND = auto()  # they get their turn
    ASIDE = auto()  # it may start nothing more of this kind


class Application(Usage):
    """What one application has under way, and which of its lanes wait for their turn."""

    __slots__ = ("lanes", "places", "queues", "ref")

    def __init__(self, ref: int) -> None:
        super().__init__()
        self.ref = ref
        self.lanes = 0
        self.queues: tuple[deque[tuple[int, int]], ...] = tuple(deque() for _ in KINDS)  # (turn, ref of the lane)
        self.places = [Place.NOWHERE for _ in KINDS]


class Slots:
    """Counts attempts under way, and says whether one more may start. Each operation is O(1)."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.total = Usage()

    @property
    def endpoint_max(self) -> int:
        """The most attempts of one endpoint."""
        return max(self.concurrency // ENDPOINT_SHARE, 1)

    @property
    def crowd_max(self) -> int:
        """An application that holds more slots than this gets no other: seven times the slots that are free."""
        return 7 * (self.concurrency - self.total.answering) - 1

    @property
    def weight_max(self) -> int:
        """An application with more attempts than this starts no other: a third of those that may still be made.

        So one application alone has at most `concurrency` attempts under way.
        """
        return (IN_FLIGHT * self.concurrency - self.total.in_flight - 1) // 3

    def count(self, application: Application, kind: Kind, change: int) -> None:
        """Count attempts that began, or (less than none) that ended or became another kind."""
        application.counts[kind] += change
        self.total.counts[kind] += change

    def is_open(self, kind: Kind) -> bool:
        """Whether a lane of this kind may start something, as far as all applications together are concerned.

        Doubtful ones leave three quarters of `concurrency` to those that answer, in the total too.
        """
        answering, doubtful, silent = self.total.counts
        left = IN_FLIGHT * self.concurrency - answering - doubtful - silent
        if kind is Kind.ANSWERING:
            return answering < self.concurrency and left > 0
        share = self.concurrency // DOUBTFUL_SHARE
        return doubtful < max(share, 1) and left > self.concurrency - share

    def obstacle(self, own: Usage, kind: Kind) -> Obstacle | None:
        """Say what stands before one more attempt of an application at an endpoint of this kind."""
        if not self.is_open(kind):
            return Obstacle.ALL if kind is Kind.ANSWERING else Obstacle.DOUBTFUL
        return self.own_obstacle(own, kind)

    def own_obstacle(self, own: Usage, kind: Kind) -> Obstacle | None:
        """Say what stands before it although all applications together may start one."""
        if kind is Kind.ANSWERING:
            if own.answering > self.crowd_max:
                return Obstacle.CROWDED
        elif self._is_crowded_by_doubtful(own):
            return Obstacle.CROWDED_DOUBTFUL
        return Obstacle.HEAVY if own.in_flight > self.weight_max else None

    def _is_crowded_by_doubtful(self, own: Usage) -> bool:
        """Whether an application's doubtful endpoints have half of what all such have, or half of what is its own."""
        return own.doubtful >= max(self.concurrency // DOUBTFUL_SHARE // 2, 1) or own.in_flight - own.answering >= max(
            self.concurrency // 2, 1
        )
