"""Which applications and endpoints exist, what they are set to, and which of them an event goes to."""

from relay.registry.registrar import ApplicationDraft, Change, KeyDraft, Made, Registrar
from relay.registry.registry import ApplicationEntry, Match, Registry
from relay.registry.resolving import default_tls, resolve_limits
from relay.registry.tokens import TokenTable, tokens_of

__all__ = [
    "ApplicationDraft",
    "ApplicationEntry",
    "Change",
    "KeyDraft",
    "Made",
    "Match",
    "Registrar",
    "Registry",
    "TokenTable",
    "default_tls",
    "resolve_limits",
    "tokens_of",
]
