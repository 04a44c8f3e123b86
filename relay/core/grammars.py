"""Names of event types, and the patterns with which endpoints subscribe to them."""

import re
from collections.abc import Iterator

TYPE_MAX = 256
DEFAULT_GRAMMAR = r"[a-zA-Z0-9_]+(?:\.[a-zA-Z0-9_]+)*"
"""Parts of letters, digits and `_`, joined by dots."""

_DEFAULT = re.compile(DEFAULT_GRAMMAR)


def check_type(name: str, grammar: re.Pattern[str] = _DEFAULT, form: str = "") -> str | None:
    """Say what is wrong with the name of an event type; None if the grammar takes it, whole.

    `form` says the grammar in words, for the message.
    """
    if not name:
        return 'an event type cannot be empty; name what happened, such as "render.completed"'
    if len(name) > TYPE_MAX:
        return f"an event type has at most {TYPE_MAX} characters, this one has {len(name)}; shorten it"
    if not grammar.fullmatch(name):
        return f"{name!r} is not an event type here; use {form or _form(grammar)}"
    return None


def check_subscription(pattern: str, grammar: re.Pattern[str] = _DEFAULT, form: str = "") -> str | None:
    """Say what is wrong with a subscription; it is `*`, an exact type, or `prefix.*`."""
    if pattern == "*":
        return None
    prefix = pattern.removesuffix(".*")
    if "*" in prefix:
        return f'{pattern!r} has a * in a place where none is taken; write "*", "prefix.*" or an exact type'
    # A grammar may take "a.b" and not "a", or the other way round: either makes `a` a prefix.
    if prefix != pattern and grammar.fullmatch(f"{prefix}.x"):
        return None
    return check_type(prefix, grammar, form)


def matches(pattern: str, event_type: str) -> bool:
    """Whether a checked subscription covers a type; `cut.*` covers `cut.done` and `cut.a.b`, not `cut`."""
    if pattern == "*":
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return event_type == pattern


def patterns_covering(event_type: str) -> Iterator[str]:
    """List every subscription that covers a type: `*`, the type itself, and each of its prefixes."""
    yield "*"
    yield event_type
    dot = event_type.find(".")
    while dot >= 0:
        yield f"{event_type[:dot]}.*"
        dot = event_type.find(".", dot + 1)


def _form(grammar: re.Pattern[str]) -> str:
    if grammar.pattern == DEFAULT_GRAMMAR:
        return "parts of letters, digits and _, joined by dots"
    return f"the form {grammar.pattern}"


NAME_MAX = 64
VALUE_BYTES_MAX = 4096

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"[\t -~]*")

FORBIDDEN = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""Headers that frame the request or say who sends it: the relay writes them itself."""

FORBIDDEN_PREFIXES = ("proxy-", "webhook-", "svix-", "x-amz-", "x-goog-", "x-azure-", "x-fd-")
"""Headers that receivers and clouds trust to come from the sender's or their own machinery."""


def check_header(name: str, value: str) -> str | None:
    """Say what is wrong with a configured header and what to do about it; None if it may be sent.

    The value is never repeated in the answer: it may be a credential.
    """
    return check_header_name(name) or check_header_value(value)


def check_header_name(name: str) -> str | None:
    """Say what is wrong with a header's name; None if it may be sent."""
    if not HEADER_NAME.fullmatch(name):
        return "a header name is made of letters, digits and !#$%&'*+-.^_`|~; take out every other character"
    if len(name) > NAME_MAX:
        return f"a header name has at most {NAME_MAX} characters, this one has {len(name)}; shorten it"
    if name.lower() in FORBIDDEN:
        return f"{name} is written by the relay itself; remove it"
    for prefix in FORBIDDEN_PREFIXES:
        if name.lower().startswith(prefix):
            return f"headers that begin with {prefix} are reserved; choose a name of your own, such as X-Auth"
    return None


def check_header_value(value: str) -> str | None:
    """Say what is wrong with a header's value, without repeating it; None if it may be sent."""
    if not HEADER_VALUE.fullmatch(value):
        return "a header value holds visible ASCII, spaces and tabs only; encode everything else"
    if len(value) > VALUE_BYTES_MAX:
        return f"a header value has at most {VALUE_BYTES_MAX} bytes, this one has {len(value)}; shorten it"
    if value != value.strip(" \t"):
        return "a header value neither begins nor ends with a blank; take the blank away"
    return None
