"""Reading a template backwards: from a header's text to the values that its variables had."""

import re

from relay.contracts.template import Part, Template, stem

_FORMS = {"attempt": r"[1-9][0-9]{0,8}", "n": r"[0-9]+", "sigs": r".*", "sig": r".+", "secret": r".+"}
_COUNTED = r"0|[1-9][0-9]{0,14}"  # no sign, fraction or leading zero: official verifiers take none
_WRITTEN = r"[0-9TZ:.+-]+"


def read_backwards(template: Template, text: str, time_format: str) -> dict[str, str] | None:
    """Return the value of each variable, or None if `template` cannot have made `text`."""
    seen: set[str] = set()
    pattern = "".join(_pattern(part, seen, time_format) for part in template.parts)
    found = re.fullmatch(pattern, text, re.DOTALL)
    return None if found is None else {group.replace("__", ":"): value for group, value in found.groupdict().items()}


def shape(template: Template) -> str:
    """Write a template as its file does."""
    return "".join(part.decode() if isinstance(part, bytes) else f"{{{part}}}" for part in template.parts)


def _pattern(part: Part, seen: set[str], time_format: str) -> str:
    if isinstance(part, bytes):
        return re.escape(part.decode())
    group = part.replace(":", "__")
    if part in seen:
        return f"(?P={group})"
    seen.add(part)
    return f"(?P<{group}>{_form(part, time_format)})"


def _form(variable: str, time_format: str) -> str:
    if stem(variable) != "timestamp":
        return _FORMS.get(variable, ".+?")
    return _COUNTED if (variable.partition(":")[2] or time_format).startswith("unix") else _WRITTEN
