"""What an attempt leaves behind, however it ends: how far it came, over what, and how long each part took."""

from enum import IntEnum

from relay.core.clock import Clock
from relay.core.model import Trace
from relay.core.tls import Certificate
from relay.delivery.exchange import Connection

REPEATED = "the kept-alive connection had ended; the request was repeated at once on a fresh one"


class Stage(IntEnum):
    """How far an attempt has come."""

    PREPARING = 0
    RESOLVING = 1
    CONNECTING = 2
    SECURING = 3
    WAITING = 4  # the request is on its way, for the first byte of an answer


_NOTHING: tuple[float | None, ...] = (None,) * len(Stage)


class Trail:
    """One attempt while it runs. Reads the clock once for each stage that it enters."""

    __slots__ = ("_clock", "_reused", "_since_ms", "_took_ms", "connection", "note", "stage", "started")

    def __init__(self, clock: Clock) -> None:
        self.started = clock.now()
        self.stage = Stage.PREPARING
        self.connection: Connection | None = None  # what the request went out over
        self.note = ""
        self._clock = clock
        self._since_ms = self.started.mono_ms
        self._took_ms = [*_NOTHING]  # by stage
        self._reused = False

    def enter(self, stage: Stage) -> None:
        """End the stage before and begin another."""
        now_ms = self._clock.mono_ms()
        self._took_ms[self.stage] = now_ms - self._since_ms
        self.stage, self._since_ms = stage, now_ms

    def send_over(self, connection: Connection, *, reused: bool) -> None:
        """Note what the request goes out over, in this moment."""
        self.enter(Stage.WAITING)
        self.connection, self._reused = connection, reused

    def repeat(self) -> None:
        """Begin anew, for the connection that was kept had ended (Q17)."""
        self.enter(Stage.PREPARING)
        self.connection, self._reused, self.note = None, False, REPEATED
        self._took_ms[Stage.WAITING] = None

    def explained(self, detail: str) -> str:
        """Put together what is said of the end and of the way there."""
        return f"{detail} ({self.note})" if detail and self.note else detail or self.note

    @property
    def address(self) -> str | None:
        """The address that was dialled; None while no connection was made."""
        return None if self.connection is None else self.connection.address

    @property
    def certificate(self) -> Certificate | None:
        """What the receiver showed; None without TLS."""
        return None if self.connection is None else self.connection.certificate

    def end(self) -> tuple[float, Trace]:
        """Return how many milliseconds the attempt took, and how it went."""
        now_ms, connection = self._clock.mono_ms(), self.connection
        if self.stage is Stage.WAITING:
            begun_ms = None if connection is None else connection.begun_ms
            self._took_ms[Stage.WAITING] = None if begun_ms is None else begun_ms - self._since_ms
        else:
            self._took_ms[self.stage] = now_ms - self._since_ms
        _, dns_ms, connect_ms, tls_ms, first_byte_ms = self._took_ms
        tls_version = "" if connection is None else connection.tls_version
        trace = Trace(dns_ms, connect_ms, tls_ms, first_byte_ms, self._reused, tls_version, bool(self.note))
        return now_ms - self.started.mono_ms, trace
