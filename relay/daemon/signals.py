"""What SIGTERM, SIGINT and SIGHUP mean, from before the daemon's imports until its event loop listens to them itself.

Left to themselves all three end a process that is only starting. Nothing here imports more than the interpreter has
anyway, so that little time passes without it.
"""

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import FrameType

STOPPED_AT_ONCE = 1
"""Exit code after a second signal: what was under way was cut off; nothing is lost."""

STOPPING = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Owner of the process's signal handlers: makes one orderly stop of the first signal, and ends at the second."""

    def __init__(self) -> None:
        """Listen from now on; a hang-up means nothing before there is a configuration to read again."""
        self.stop_asked = False
        self._stop: Callable[[], None] = lambda: None
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in STOPPING:
            signal.signal(number, self._early)

    def hand_over(self, loop: "AbstractEventLoop", stop: Callable[[], None]) -> None:
        """Let `loop` listen; `stop` is called once, now if a signal has come already."""
        self._stop = stop
        for number in STOPPING:
            loop.add_signal_handler(number, self._ask_to_stop)
        if self.stop_asked:
            stop()

    def on_hang_up(self, loop: "AbstractEventLoop", reload: Callable[[], None]) -> None:
        """Call `reload` at each hang-up that comes before the stop."""
        loop.add_signal_handler(signal.SIGHUP, lambda: None if self.stop_asked else reload())

    def _early(self, number: int, frame: "FrameType | None") -> None:
        self._ask_to_stop()

    def _ask_to_stop(self) -> None:
        if self.stop_asked:
            os._exit(STOPPED_AT_ONCE)  # the second signal: at once; what was accepted is on the disk
        self.stop_asked = True
        self._stop()
