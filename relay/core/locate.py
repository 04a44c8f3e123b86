"""Where in a TOML file a value stands. `tomllib` keeps no positions, so this walks the text a second time.

The text has already been parsed by `tomllib`: it is sound, and the walk only has to know where things begin and end.
"""

import re
import tomllib
from collections.abc import Mapping

KeyPath = tuple[str | int, ...]
"""The way to a value: names of keys, and places in arrays."""

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BLANK_OR_COMMA = re.compile(r"(?:[ \t\r\n,]+|#[^\n]*)*")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_KEY_PART = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*'""")
_SCALAR = re.compile(
    r'''"""(?:[^\\]|\\.)*?""""{0,2}'''
    r"""|'''.*?''''{0,2}"""
    r"""|"(?:[^"\\]|\\.)*"|'[^']*'"""
    r"""|[^,\]}#\n]+""",
    re.DOTALL,
)
_PLAIN_PAIR = re.compile(
    r"""([A-Za-z0-9_-]+)[ \t]*=[ \t]*(?:"(?!"")[^"\\\n]*"|'(?!'')[^'\n]*'|[^\s"'\[{#,]+)[ \t]*(?=[#\r\n]|\Z)"""
)
"""What most lines hold: a bare key and a value that ends with its line. Taken at once, for files may have 100,000 lines."""


def locate(text: str) -> Mapping[KeyPath, int]:
    """Map every table, key and array element of a sound TOML document to its line, counted from 1."""
    walk = _Walk(text)
    walk.document()
    return walk.lines


def nearest_line(lines: Mapping[KeyPath, int], path: KeyPath) -> int | None:
    """Return the line of a value, or of the nearest thing around it that the file has; None if it has neither."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


class _Walk:
    """One pass over a document, with the position it has reached."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._line, self._counted_to = 1, 0
        self._tables: dict[KeyPath, int] = {}  # elements so far of every `[[array of tables]]`

    def document(self) -> None:
        table: KeyPath = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._take("[["):
                table = self._element(self._key())
                self._take("]]")
            elif self._take("["):
                table = self._table(self._key())
                self._take("]")
            elif plain := _PLAIN_PAIR.match(self._text, self._at):
                self._note((*table, plain[1]))
                self._at = plain.end()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def _element(self, key: KeyPath) -> KeyPath:
        array = self._table(key[:-1]) + key[-1:]
        self._note(array)
        count = self._tables[array] = self._tables.get(array, 0) + 1
        element = (*array, count - 1)
        self._note(element)
        return element

    def _table(self, key: KeyPath) -> KeyPath:
        """Resolve a header from the root: where it crosses an array of tables it means the last element."""
        path: KeyPath = ()
        for part in key:
            path = (*path, part)
            self._note(path)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        path = table
        for part in self._key():
            path = (*path, part)
            self._note(path)
        self._skip(_BLANK)
        self._take("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip(_BLANK)
        if self._take("["):
            self._array(path)
        elif self._take("{"):
            self._inline_table(path)
        else:
            self._match(_SCALAR)

    def _array(self, path: KeyPath) -> None:
        index = 0
        while not self._closed("]"):
            self._note((*path, index))
            self._value((*path, index))
            index += 1

    def _inline_table(self, path: KeyPath) -> None:
        while not self._closed("}"):
            self._pair(path)

    def _closed(self, bracket: str) -> bool:
        self._skip(_BLANK_OR_COMMA)
        return self._take(bracket)

    def _key(self) -> KeyPath:
        self._skip(_BLANK)
        parts = [_unquoted(self._match(_KEY_PART))]
        while self._skip(_DOT):
            parts.append(_unquoted(self._match(_KEY_PART)))
        self._skip(_BLANK)
        return tuple(parts)

    def _note(self, path: KeyPath) -> None:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        self.lines.setdefault(path, self._line)

    def _take(self, mark: str) -> bool:
        found = self._text.startswith(mark, self._at)
        self._at += len(mark) if found else 0
        return found

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return match is not None

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None, "tomllib read this document before"
        self._at = match.end()
        return match[0]


def _unquoted(part: str) -> str:
    if part[0] not in "\"'":
        return part
    (key,) = tomllib.loads(f"{part} = 0")
    return key
