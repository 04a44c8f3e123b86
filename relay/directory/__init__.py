"""Which applications and endpoints exist, what they are set to, and which of them an event goes to."""

from relay.directory.applications import ApplicationDraft, Applications, KeyDraft, Made
from relay.directory.directory import Change, Directory
from relay.directory.matching import Match
from relay.directory.resolving import Owner

__all__ = ["ApplicationDraft", "Applications", "Change", "Directory", "KeyDraft", "Made", "Match", "Owner"]
