"""Whose turn it is: round robin over applications, then over the lanes of each (Q4).

A lane waits in a queue of its application, by its kind: lanes of endpoints that answer come first, doubtful ones after
them, those that were silent last. An application that may start nothing more of a kind leaves the round of that kind and
comes back when something of its own ends, or when so much of a common limit is free that it may go on. So nobody is asked
again and again, however many wait.
"""

from collections import deque
from collections.abc import Mapping

from relay.queue.heap import KeyedHeap
from relay.queue.lane import Lane
from relay.queue.slots import KINDS, Application, Kind, Obstacle, Place, Slots


class Turns:
    """The lanes that wait for their turn. Owner of the applications; every operation is O(log n) in their number."""

    def __init__(self, lanes: Mapping[int, Lane], slots: Slots) -> None:
        self._lanes = lanes
        self._slots = slots
        self._applications: dict[int, Application] = {}
        self._rounds: tuple[deque[Application], ...] = tuple(deque() for _ in KINDS)
        self._aside = 0  # how often an application left a round with lanes waiting
        self._crowded = KeyedHeap()  # those of them that wait for free slots, by the slots they hold
        self._heavy = KeyedHeap()  # those that wait for the total to fall, by their attempts under way
        self._last = 0

    @property
    def is_open(self) -> bool:
        """Whether `next` would look at a lane. O(1)."""
        answering, doubtful, silent = self._rounds
        if answering and self._slots.is_open(Kind.ANSWERING):
            return True
        return bool(doubtful or silent) and self._slots.is_open(
            Kind.DOUBTFUL
        )  # silent ones share the slots of doubtful

    @property
    def is_anybody_waiting(self) -> bool:
        """Whether a lane may be waiting for a slot. O(1)."""
        return self._aside > 0 or any(self._rounds)

    def join(self, ref: int) -> Application:
        """Return the application of a new lane."""
        application = self._applications.get(ref)
        if application is None:
            application = self._applications[ref] = Application(ref)
        application.lanes += 1
        return application

    def leave(self, application: Application) -> None:
        """Take note that a lane of the application is no more."""
        application.lanes -= 1
        if not application.lanes:
            for queue in application.queues:
                queue.clear()
            self._come_back(application)
            del self._applications[application.ref]

    def add(self, lane: Lane) -> None:
        """Let a lane wait for its turn, if it does not."""
        if lane.turn:
            return
        self._last += 1
        lane.turn = self._last
        lane.application.queues[lane.kind].append((lane.turn, lane.ref))
        self._list(lane.application, lane.kind)

    def next(self) -> Lane | None:
        """Take out the lane whose turn it is."""
        for kind, waiting in zip(KINDS, self._rounds, strict=True):
            while waiting and self._slots.is_open(kind):
                application = waiting.popleft()
                application.places[kind] = Place.NOWHERE
                obstacle = self._slots.own_obstacle(application, kind)
                if obstacle is not None:
                    self._set_aside(application, kind, obstacle)
                elif (lane := self._first(application, kind)) is not None:
                    return lane
        return None

    def freed(self, application: Application) -> None:
        """Something of an application's ended or changed: it may go on, and others may for whom this leaves room.

        O(log n) for each that may.
        """
        if self._aside:  # commonly nobody is
            self._come_back(application)
            self.freed_for_all()

    def freed_for_all(self) -> None:
        """Let those go on for whom enough is free. O(log n) for each of them."""
        for heap, most in ((self._crowded, self._slots.crowd_max), (self._heavy, self._slots.weight_max)):
            for ref in heap.pop_until(most):
                self._come_back(self._applications[ref])

    def _first(self, application: Application, kind: Kind) -> Lane | None:
        """Take the application's first lane; entries of lanes that had their turn, or changed their kind, are void."""
        queue, first = application.queues[kind], None
        while queue and first is None:
            turn, ref = queue.popleft()
            lane = self._lanes.get(ref)
            if lane is not None and lane.turn == turn:
                lane.turn, first = 0, lane
        self._list(application, kind)
        return first

    def _list(self, application: Application, kind: Kind) -> None:
        if application.queues[kind] and application.places[kind] is Place.NOWHERE:
            application.places[kind] = Place.ROUND
            self._rounds[kind].append(application)

    def _set_aside(self, application: Application, kind: Kind, obstacle: Obstacle) -> None:
        application.places[kind] = Place.ASIDE
        self._aside += 1
        if obstacle is Obstacle.CROWDED:
            self._crowded.set(application.ref, application.answering)
        elif obstacle is Obstacle.HEAVY:
            self._heavy.set(application.ref, application.in_flight)

    def _come_back(self, application: Application) -> None:
        for kind in KINDS:
            if application.places[kind] is Place.ASIDE:
                application.places[kind] = Place.NOWHERE
                self._aside -= 1
                self._list(application, kind)
        self._crowded.remove(application.ref)
        self._heavy.remove(application.ref)
