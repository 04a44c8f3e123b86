"""Names of event types, and the patterns with which endpoints subscribe to them."""

import re

TYPE_MAX = 256
DEFAULT_GRAMMAR = r"[a-zA-Z0-9_]+(?:\.[a-zA-Z0-9_]+)*"
"""Parts of letters, digits and `_`, joined by dots (DESIGN §8)."""

Grammar = str | re.Pattern[str]


def check_type(name: str, grammar: Grammar = DEFAULT_GRAMMAR, form: str = "") -> str | None:
    """Say what is wrong with the name of an event type; None if the grammar takes it, whole.

    `form` says the grammar in words, for the message.
    """
    if not name:
        return 'an event type cannot be empty; name what happened, such as "render.completed"'
    if len(name) > TYPE_MAX:
        return f"an event type has at most {TYPE_MAX} characters, this one has {len(name)}; shorten it"
    if not re.fullmatch(grammar, name):
        return f"{name!r} is not an event type here; use {form or _form(grammar)}"
    return None


def check_subscription(pattern: str, grammar: Grammar = DEFAULT_GRAMMAR, form: str = "") -> str | None:
    """Say what is wrong with a subscription; it is `*`, an exact type, or `prefix.*`."""
    if pattern == "*":
        return None
    prefix = pattern.removesuffix(".*")
    if "*" in prefix:
        return f'{pattern!r} has a * in a place where none is taken; write "*", "prefix.*" or an exact type'
    # A grammar may take "a.b" and not "a", or the other way round: either makes `a` a prefix.
    if prefix != pattern and re.fullmatch(grammar, f"{prefix}.x"):
        return None
    return check_type(prefix, grammar, form)


def matches(pattern: str, event_type: str) -> bool:
    """Whether a checked subscription covers a type; `cut.*` covers `cut.done` and `cut.a.b`, not `cut`."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return event_type == pattern


def _form(grammar: Grammar) -> str:
    text = grammar if isinstance(grammar, str) else grammar.pattern
    if text == DEFAULT_GRAMMAR:
        return "parts of letters, digits and _, joined by dots"
    return f"the form {text}"
