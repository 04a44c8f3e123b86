"""One thing wrong with what a person wrote: the same value for the file, a contract, the API and the command line."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from relay.core.errors import ConfigError, RelayError

MISTAKES_MAX = 20
"""Mistakes that one answer lists; the rest are counted, and nobody looks for what was meant by them."""

CANDIDATES_MAX = 100
"""Known words that a mistyped one is compared with, when there are more."""

WORD_MAX = 64
"""Characters of a mistyped word that are compared; nothing known to people is much longer."""


@dataclass(frozen=True, slots=True)
class Issue:
    """What is wrong, where, and what to do about it. No text here repeats a secret.

    `path` is a JSON pointer (RFC 6901) into a request's body, and in a file the key as people write it:
    `application[acme].url`, `signature[0].content`.
    """

    path: str  # where it is; "" is the whole
    message: str
    remedy: str = ""
    place: str = ""  # where the text stands: "relay.toml:12", "env RELAY_SERVER__LISTEN"; "" for a request's body
    value: str | None = None  # as written, secrets masked; None where showing it says nothing or too much
    warning: bool = False  # it may be used all the same

    def to_json(self) -> dict[str, str]:
        """Return it as the API writes it: a pointer, what is wrong and, where the message does not say, what to do."""
        written = {"pointer": self.path, "message": self.message}
        return written | {"remedy": self.remedy} if self.remedy else written


class Invalid(RelayError):
    """What a person wrote cannot be used; `issues` holds every mistake, at least one."""

    exit_code = 65

    def __init__(self, issues: Iterable[Issue]) -> None:
        self.issues = tuple(issues)
        *others, last = self.issues
        lines = [f"{issue.message.rstrip('.')}. {issue.remedy}".rstrip() for issue in others]
        super().__init__("\n".join([*lines, last.message]), remedy=last.remedy)


class InvalidConfig(Invalid, ConfigError):
    """A configuration cannot be used."""

    exit_code = ConfigError.exit_code


def pointer(*keys: str | int) -> str:
    """Return the JSON pointer of nested keys: `pointer("headers", "a/b")` is `/headers/a~1b`."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def keys_of(path: str) -> list[str]:
    """Return the keys that a JSON pointer names."""
    return [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:]]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a mistyped one is close to; None if there is none.

    Of very many words only some that begin alike are looked at: O(CANDIDATES_MAX) comparisons of WORD_MAX characters.
    """
    candidates = list(known)
    if len(candidates) > CANDIDATES_MAX:
        candidates = [other for other in candidates if other[:1] == word[:1]][:CANDIDATES_MAX]
    return next(iter(get_close_matches(word[:WORD_MAX], candidates, n=1)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean "…"?` for the nearest known word, or nothing."""
    near = nearest(word, known)
    return "" if near is None else f'Did you mean "{near}"?'
