"""Events in: from the bytes a producer posted to rows that are committed, and the answer that says so."""

from relay.intake.accepting import Answer, Intake, IntakeLimits

__all__ = ["Answer", "Intake", "IntakeLimits"]
