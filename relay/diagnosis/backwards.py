"""A template read backwards: from a header's text to the values that its variables had."""

import re

from relay.contracts.fields import stem
from relay.contracts.template import Part, Template

_FORMS = {
    "attempt": r"[1-9][0-9]{0,8}",
    "retry": r"[1-9][0-9]{0,8}",
    "n": r"[0-9]+",
    "sigs": r".*",
    "sig": r".+",
    "secret": r".+",
}
_COUNTED = r"0|[1-9][0-9]{0,14}"  # no sign, fraction or leading zero: official verifiers take none
_WRITTEN = r"[0-9TZ:.+-]+"
_HTTP_DATE = r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT"


def read_backwards(template: Template, text: str, time_format: str) -> dict[str, str] | None:
    """Return the value of each variable, or None if `template` cannot have made `text`."""
    variables: list[str] = []
    pattern = "".join(_pattern(part, variables, time_format) for part in template.parts)
    found = re.fullmatch(pattern, text, re.DOTALL)
    return None if found is None else {name: found[number + 1] for number, name in enumerate(variables)}


def _pattern(part: Part, variables: list[str], time_format: str) -> str:
    if isinstance(part, bytes):
        return re.escape(part.decode())
    if part in variables:
        return rf"(?:\{variables.index(part) + 1})"
    variables.append(part)
    return f"({_form(part, time_format)})"


def _form(variable: str, time_format: str) -> str:
    if stem(variable) not in ("timestamp", "sent_at"):
        return _FORMS.get(variable, ".+?")
    form = variable.partition(":")[2] or time_format
    if form == "http":
        return _HTTP_DATE
    return _COUNTED if form.startswith("unix") else _WRITTEN
