"""Events in: from the bytes a producer posted to rows that are committed.

In reading order: `parse` reads the bytes, or `cloudevents` does for events of that standard, `rules` holds the event against its contract and freezes its body, and `intake`
hands it to the store and says what became of it. Nothing here knows HTTP.
"""

from relay.intake.cloudevents import as_json, cloudevents
from relay.intake.fullness import ApplicationFull, Room, say_full, tightest, why_full
from relay.intake.intake import OWN, Intake, IntakeLimits, Receipt
from relay.intake.parse import BatchTooLarge, Form, Malformed
from relay.intake.rules import keys_of

__all__ = [
    "OWN",
    "ApplicationFull",
    "BatchTooLarge",
    "Form",
    "Intake",
    "IntakeLimits",
    "Malformed",
    "Receipt",
    "Room",
    "as_json",
    "cloudevents",
    "keys_of",
    "say_full",
    "tightest",
    "why_full",
]
