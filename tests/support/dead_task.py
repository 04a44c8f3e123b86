"""A relay one of whose background tasks dies as soon as it runs. Never part of the program.

Run as `python -m tests.support.dead_task serve --config FILE`; `DEAD=watchdog` takes the one that feeds the watchdog.
"""

import asyncio
import os

from relay.cli import main
from relay.daemon.watchdog import Watchdog
from relay.housekeeping import Housekeeping


async def die(self: object) -> None:
    """End as a mistake of ours would, once everything is up."""
    await asyncio.sleep(0)
    raise RuntimeError("injected")


if __name__ == "__main__":
    if os.environ.get("DEAD") == "watchdog":
        Watchdog.run = die  # type: ignore[method-assign]  # the mistake that is planted
    else:
        Housekeeping.prune = die  # type: ignore[method-assign]  # likewise
    main()
