"""Which applications and endpoints exist, what they are set to, and which of them an event goes to."""

from relay.registry.applications import ApplicationDraft, Applications, KeyDraft, Made
from relay.registry.matching import Match
from relay.registry.registry import Change, Directory
from relay.registry.resolving import Owner

__all__ = ["ApplicationDraft", "Applications", "Change", "Directory", "KeyDraft", "Made", "Match", "Owner"]
