"""Writes a document as TOML in every style that TOML has, and remembers the line of everything it wrote."""

import datetime
import json
import random
from typing import Any

Path = tuple[str | int, ...]


class TomlWriter:
    """One document written in styles that `style` chooses. Owner of the text and of `lines`."""

    def __init__(self, document: dict[str, Any], style: random.Random) -> None:
        self.text = ""
        self.lines: dict[Path, int] = {}
        self._style = style
        self._table(document, (), [])

    def _table(self, table: dict[str, Any], path: Path, header: list[str]) -> None:
        """Write what belongs under the present header first, then tables with headers of their own."""
        later = []
        for key, value in table.items():
            if self._wants_header(value):
                later.append((key, value))
            else:
                self._pair([key], value, path)
                self._noise("\n")
        for key, value in later:
            self._headed(key, value, path, header)

    def _headed(self, key: str, value: Any, path: Path, header: list[str]) -> None:
        spelled = [*header, key]
        if isinstance(value, dict):
            self._note((*path, key))
            self._add("[" + self._dotted(spelled) + "]" + self._end())
            self._table(value, (*path, key), spelled)
            return
        for index, element in enumerate(value):
            self._note((*path, key))
            self._note((*path, key, index))
            self._add("[[" + self._dotted(spelled) + "]]" + self._end())
            self._table(element, (*path, key, index), spelled)

    def _pair(self, keys: list[str], value: Any, path: Path) -> None:
        """Write `a.b = value`; a table may be written as several dotted pairs."""
        if isinstance(value, dict) and value and self._style.random() < 0.5:
            for key, inner in value.items():
                self._pair([*keys, key], inner, path)
            return
        for depth in range(len(keys)):
            self._note((*path, *keys[: depth + 1]))
        self._add(self._dotted(keys) + self._style.choice([" = ", "=", "\t= "]))
        self._value(value, (*path, *keys))
        self._add(self._end())

    def _value(self, value: Any, path: Path) -> None:
        if isinstance(value, dict):
            self._inline_table(value, path)
        elif isinstance(value, list):
            self._array(value, path)
        else:
            self._add(self._scalar(value))

    def _inline_table(self, table: dict[str, Any], path: Path) -> None:
        self._add("{ ")
        for number, (key, value) in enumerate(table.items()):
            self._add(", " if number else "")
            self._note((*path, key))
            self._add(self._key(key) + " = ")
            self._value(value, (*path, key))
        self._add(" }")

    def _array(self, array: list[Any], path: Path) -> None:
        self._add("[")
        for index, value in enumerate(array):
            self._add("," if index else "")
            self._noise(" ")
            self._note((*path, index))
            self._value(value, (*path, index))
            self._noise(" ")
        self._add("]")

    def _scalar(self, value: Any) -> str:
        if not isinstance(value, str):
            return value.isoformat(" ") if isinstance(value, datetime.datetime) else json.dumps(value)
        forms = [json.dumps(value, ensure_ascii=False)]
        escaped = value.replace("\\", "\\\\")
        forms.append('"""\n' + escaped.replace('"', '\\"') + '"""')
        if '"""' not in value:
            forms.append('"""\n' + escaped + '"""' if not value.endswith('"""') else forms[0])
        if "'" not in value:
            forms.append("'''\n" + value + "'''")
            forms.append("'" + value + "'" if "\n" not in value else forms[0])
        return self._style.choice(forms)

    def _dotted(self, keys: list[str]) -> str:
        return self._style.choice([".", " . ", ". "]).join(map(self._key, keys))

    def _key(self, key: str) -> str:
        forms = [json.dumps(key, ensure_ascii=False)]
        if "'" not in key:
            forms.append(f"'{key}'")
        if key and all(character.isascii() and (character.isalnum() or character in "-_") for character in key):
            forms += [key] * 3
        return self._style.choice(forms)

    def _wants_header(self, value: Any) -> bool:
        tables = isinstance(value, dict) or (
            isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)
        )
        return tables and self._style.random() < 0.6

    def _end(self) -> str:
        return self._style.choice(["\n", "\r\n", "  # ] } , = [x] \"'\n", " # '''\n\n"])

    def _noise(self, plain: str) -> None:
        self._add(self._style.choice([plain, "\n", '\n  # "comment", [a]\n  ']))

    def _note(self, path: Path) -> None:
        self.lines.setdefault(path, self.text.count("\n") + 1)

    def _add(self, text: str) -> None:
        self.text += text
