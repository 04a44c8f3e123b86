"""Which applications and endpoints exist, what they are set to, and which of them an event goes to."""

from relay.registry.claims import Claim, MadeApplication, MadeEndpoint, MadeKey, begin
from relay.registry.explaining import Explainer, Reason, Why, remedy_of, why_owed
from relay.registry.facts import EventFacts
from relay.registry.importing import Done, Importing, Plan, WantedEndpoint
from relay.registry.making import ApplicationDraft, EndpointDraft, KeyDraft, Maker
from relay.registry.registrar import Change, Registrar
from relay.registry.registry import ApplicationEntry, EndpointEntry, Match, Registry
from relay.registry.resolving import default_tls, resolve_limits
from relay.registry.stored import data_of
from relay.registry.tokens import TokenTable, tokens_of

__all__ = [
    "ApplicationDraft",
    "ApplicationEntry",
    "Change",
    "Claim",
    "Done",
    "EndpointDraft",
    "EndpointEntry",
    "EventFacts",
    "Explainer",
    "Importing",
    "KeyDraft",
    "MadeApplication",
    "MadeEndpoint",
    "MadeKey",
    "Maker",
    "Match",
    "Plan",
    "Reason",
    "Registrar",
    "Registry",
    "TokenTable",
    "WantedEndpoint",
    "Why",
    "begin",
    "data_of",
    "default_tls",
    "remedy_of",
    "resolve_limits",
    "tokens_of",
    "why_owed",
]
