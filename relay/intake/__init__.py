"""Events in: from the bytes a producer posted to rows that are committed.

In reading order: `parse` reads the bytes, `rules` holds the event against its contract and freezes its body, and `intake`
hands it to the store and says what became of it. Nothing here knows HTTP.
"""

from relay.intake.fullness import ApplicationFull, Room, say_full, tightest, why_full
from relay.intake.intake import Intake, IntakeLimits, Receipt
from relay.intake.parse import BatchTooLarge, Malformed

__all__ = [
    "ApplicationFull",
    "BatchTooLarge",
    "Intake",
    "IntakeLimits",
    "Malformed",
    "Receipt",
    "Room",
    "say_full",
    "tightest",
    "why_full",
]
