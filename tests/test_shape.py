"""The sizes that `make shape` prints: what counts as code, and how long functions are."""

from pathlib import Path

import pytest

from bench.shape import code_lines, function_lines, main

TEXT = '''"""A module's docstring."""

import os  # the first code line


# a comment
def names(
    folder: str,
) -> list[str]:
    """Say what is there.

    At length.
    """

    def wanted(name: str) -> bool:
        """Leave hidden ones out."""
        return not name.startswith(".")

    text = """two
lines"""
    return [name for name in os.listdir(folder) if wanted(name)] + [text]
'''


def test_code_lines_hold_code() -> None:
    """Blank lines, comments and docstrings do not count; a text over two lines is two."""
    assert code_lines(TEXT) == 9
    assert code_lines('"""Nothing but words."""\n') == 0


def test_functions_are_as_long_as_they_stand() -> None:
    """From `def` to the last line, docstring and all; a function within another counts by itself too."""
    assert sorted(function_lines(TEXT)) == [3, 15]


def test_sizes_are_printed_by_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the path: a line for each room, the largest first, their sum, and the lengths of functions."""
    for name, text in (("small.py", "x = 1\n"), ("large/one.py", TEXT), ("large/two.py", "y = 2\nz = 3\n")):
        file = tmp_path / "relay" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.setattr("sys.argv", ["shape", "--no-path", "--tree", str(tmp_path)])
    main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:4] == [["large", "2", "11"], ["small", "1", "1"], ["2", "rooms", "3", "12"]]
    assert lines[5][:3] == ["2", "functions:", "median"]
