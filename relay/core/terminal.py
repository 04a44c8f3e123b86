"""Text from strangers on its way to a terminal or a log: nothing in it commands what shows it.

A description, a receiver's answer or the name of a file may hold escape sequences, which move the cursor, recolour, retitle
or answer for the person at the keyboard, and marks that turn the direction of writing, so that a line reads as another.
Such characters are written as `\\uXXXX`, in text and in JSON alike: in JSON they stand only inside strings, where that is
their spelling.
"""

import re

_COMMANDS = (
    r"\x00-\x08\x0b-\x1f"  # C0 but tab and line feed, which lay text out
    r"\x7f-\x9f"  # DEL and C1, among them CSI and NEL
    r"\u061c\u200e\u200f"  # marks of direction
    r"\u2028\u2029"  # separators of lines and paragraphs
    r"\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates of direction
    r"\ud800-\udfff"  # lone surrogates: bytes of a file name that are no UTF-8; no stream takes them
)
_COMMAND = re.compile(f"[{_COMMANDS}]")
_BREAK = re.compile(f"[{_COMMANDS}\t\n]")


def visible(text: str) -> str:
    """Return `text` with each character that commands a terminal escaped; tabs and line feeds stay. O(length)"""
    return _COMMAND.sub(_escaped, text)


def one_line(text: str) -> str:
    """Return `text` as `visible` does, tabs and line feeds escaped as well: a value cannot pretend to be another line."""
    return _BREAK.sub(_escaped, text)


def printable(text: str) -> str:
    """Return `text` with a blank for each character that is not printed.

    For what is kept of a stranger's text where its spelling does not matter.
    """
    return "".join(character if character.isprintable() else " " for character in text)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
