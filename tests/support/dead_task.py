"""A relay one of whose background tasks dies as soon as it runs. Never part of the program.

Run as `python -m tests.support.dead_task serve --config FILE`.
"""

import asyncio

from relay.cli import main
from relay.housekeeping import Housekeeping


async def die(self: Housekeeping) -> None:
    """End as a mistake of ours would, once everything is up."""
    await asyncio.sleep(0)
    raise RuntimeError("injected")


if __name__ == "__main__":
    Housekeeping.prune = die  # type: ignore[method-assign]
    main()
