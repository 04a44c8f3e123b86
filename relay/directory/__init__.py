"""Which applications and endpoints exist, what they are set to, and which of them an event goes to."""

from relay.directory.directory import Change, Directory
from relay.directory.matching import Match

__all__ = ["Change", "Directory", "Match"]
