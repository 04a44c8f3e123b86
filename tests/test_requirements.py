"""docs/CONTRACTS.md is complete and true: requirements and the tests that show them, keys, variables, examples."""

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import relay
from relay.contracts import ContractCatalogue, Payload, Rendering, body, document, fields
from relay.contracts.fields import ENCODINGS, TIME_FORMATS
from relay.contracts.keys import ALGORITHMS
from tests.support.contract_files import built_in

ROOT = Path(relay.__file__).parent.parent
PAGE = (ROOT / "docs" / "CONTRACTS.md").read_text("utf-8")
COUNTS = {"ROT": 19, "ROU": 20, "VAI": 12, "WOC": 14, "EDF": 20}
IDS = [f"{service}-{number}" for service, count in COUNTS.items() for number in range(1, count + 1)]

CITED = re.compile(r"\b(ROT|ROU|VAI|WOC|EDF)-(\d+)(?:\s*(?:…|to)\s*\1-(\d+))?")
ROW = re.compile(r"^\| ([A-Z]{3}-\d+) \| ([^|]+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")
BLOCK = re.compile(r"```toml\n# (\S+)\n(.*?)```", re.DOTALL)

SECTIONS: Mapping[str, type[BaseModel]] = {
    "### At the top": document.ContractDocument,
    "### `[types]`": document.Types,
    '### `[type."NAME"]`': document.EventType,
    "### `[body]`": document.Body,
    "A member:": body.Member,
    "### `[[signature]]`": document.Signature,
    "`key`:": document.Key,
    "### `[registration]`": document.Registration,
    "### `[verification]`": document.Verification,
    "### `[memory]`": document.Memory,
    "### `[ordering]`": document.OrderingRule,
    "### `[idempotency]`": document.IdempotencyRule,
    "### `[delivery]`": document.Delivery,
    "`retry`:": document.Retry,
}


def docstrings() -> Iterator[tuple[str, str, str]]:
    """Yield file, function and docstring of every test."""
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield path.stem, node.name, " ".join((ast.get_docstring(node) or "").split())


def cited(text: str) -> Iterator[str]:
    """Yield the requirements that a text names; `ROT-10 … ROT-12` names three."""
    for service, first, last in CITED.findall(text):
        yield from (f"{service}-{number}" for number in range(int(first), int(last or first) + 1))


# -- requirements ------------------------------------------------------------------------------------------------------


def test_every_requirement_has_its_row() -> None:
    """Each id stands in the table once, with tests, or with a reason why there is none."""
    rows = ROW.findall(PAGE)
    assert [row[0] for row in rows] == IDS
    for name, _, tests, reason in rows:
        assert NAMED.search(tests) or len(reason.split()) > 5, f"{name} has neither a test nor a reason"
        assert NAMED.sub("", tests).replace("<br>", "").strip() == "", f"{name}: {tests}"


def test_every_requirement_is_named_by_a_test_or_explained() -> None:
    """Each id stands in some test's docstring, or its row has a reason; no docstring names an id that there is not."""
    named = {name for _, _, text in docstrings() for name in cited(text)}
    explained = {row[0] for row in ROW.findall(PAGE) if row[3].strip()}
    assert set(IDS) - named - explained == set()
    assert named <= set(IDS)


def test_every_test_in_the_table_exists() -> None:
    """The tests that rows name are there."""
    there = {(file, name) for file, name, _ in docstrings()}
    named = {pair for row in ROW.findall(PAGE) for pair in NAMED.findall(row[2])}
    assert named - there == set()
    assert len(named) > 50


def test_ranges_are_understood() -> None:
    """A docstring that says from … to names all between."""
    assert list(cited("as (ROT-4 … ROT-6, VAI-3 and EDF-1 to EDF-2)")) == [
        "ROT-4",
        "ROT-5",
        "ROT-6",
        "VAI-3",
        "EDF-1",
        "EDF-2",
    ]


# -- keys --------------------------------------------------------------------------------------------------------------


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    """A model and all those inside it."""
    found = {model}
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            found |= models(inner)
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def rows_of(section: str) -> dict[str, str]:
    """The keys of the table under a heading, and what stands as their defaults."""
    (begin,) = (match.end() for match in re.finditer(rf"^{re.escape(section)}$", PAGE, re.MULTILINE))
    table = re.search(r"^\| key .*\n\|---.*\n((?:\|.*\n)+)", PAGE[begin:], re.MULTILINE)
    assert table is not None, section
    return {key: default.strip() for key, default in re.findall(r"^\| `(\w+)` \|([^|]*)\|", table[1], re.MULTILINE)}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented(section: str) -> None:
    """Each table of the page has exactly the keys of its model, with the defaults that the model has."""
    rows = rows_of(section)
    expected = {field.alias or name: field for name, field in SECTIONS[section].model_fields.items()}
    assert set(rows) == set(expected)
    for key, field in expected.items():
        if (default := written(field)) is not None:
            assert rows[key] == default, key


def written(field: FieldInfo) -> str | None:
    """A default as the page writes it; None for those that have their own words."""
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, bool | int | str):
        return f"`{json.dumps(field.default)}`"
    return None


def test_no_table_is_forgotten() -> None:
    """Every model of a contract file has its section; those of variants share that of signatures."""
    shared = {document.Kind, document.Variant}
    assert models(document.ContractDocument) - shared == set(SECTIONS.values())
    assert set(document.Variant.model_fields) <= set(rows_of("### `[[signature]]`"))
    assert all(
        field.default is not PydanticUndefined or field.is_required() for field in document.Key.model_fields.values()
    )


def test_values_are_documented() -> None:
    """Algorithms, encodings and forms of time all stand on the page."""
    for word in (*ALGORITHMS, *ENCODINGS, *TIME_FORMATS, "first-attempt", "strict", "conflict", "round"):
        assert f"`{word}`" in PAGE or f'"{word}"' in PAGE, word


@pytest.mark.parametrize(
    ("column", "variables"),
    [
        (2, fields.BODY_VARIABLES),
        (3, fields.CONTENT_VARIABLES),
        (4, fields.RETRY_HEADER_VARIABLES | fields.HEADER_VARIABLES | fields.VALUE_VARIABLES),
        (5, fields.EACH_VARIABLES),
    ],
)
def test_variables_are_documented(column: int, variables: frozenset[str]) -> None:
    """The table of variables marks exactly what each kind of template knows."""
    table = PAGE[PAGE.index("## 3. ") : PAGE.index("## 4. ")]
    marked: set[str] = set()
    for line in re.findall(r"^\| `\{.*\|$", table, re.MULTILINE):
        cells = line.split("|")
        if cells[column].strip():
            marked |= set(re.findall(r"`\{([a-z0-9_:]+)\}`", cells[1])) if cells[column].strip() != "yes" else set()
    assert marked == variables


# -- examples ----------------------------------------------------------------------------------------------------------


def is_part(part: Any, whole: Any) -> bool:
    """Whether every key of a TOML excerpt is in the file with that value; what is left out is another matter."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and is_part(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(is_part, part, whole))
    return bool(part == whole)


@pytest.mark.parametrize("service", ["rotor", "roughy", "videoaiditor", "wochit", "editframe"])
def test_worked_examples_are_the_files(service: str) -> None:
    """What the page shows of a built-in contract is in its file."""
    blocks = {place: text for place, text in BLOCK.findall(PAGE) if place.startswith("relay/")}
    place = f"relay/contracts/builtin/{service}.toml"
    assert is_part(tomllib.loads(blocks[place]), tomllib.loads((ROOT / place).read_text("utf-8")))
    assert len(blocks) == 5


def test_the_contracts_of_the_page_work(tmp_path: Path) -> None:
    """What a reader copies into a folder is loaded, and sends what the page says."""
    schema = {"$defs": {"done": {"type": "object", "required": ["cut"], "properties": {"cut": {"type": "string"}}}}}
    (tmp_path / "studio").mkdir()
    (tmp_path / "studio" / "cut.json").write_text(json.dumps(schema))
    for place, text in BLOCK.findall(PAGE):
        if place.startswith("contracts/"):
            (tmp_path / Path(place).name).write_text(text)

    catalogue = ContractCatalogue.read(tmp_path)

    assert catalogue.issues == ()
    studio, newer = catalogue.get("studio"), catalogue.get("editframe-2026")
    assert studio is not None
    assert newer is not None
    event = Rendering(
        "evt_1", "cut.done", 1_700_000_000_000, 1_700_000_000_000, Payload(studio.types["cut.done"].example)
    )
    assert studio.render(event).startswith(
        b'{"kind":"cut.done","at":"2023-11-14T22:13:20.000Z","cut":"c_1","seconds":30,'
    )
    newest = built_in("editframe").types["render.created"].example[:-1] + b',"expires_at":null}'
    assert newer.check_data("render.created", Payload(newest)) == []


def test_the_page_names_every_built_in_contract() -> None:
    """The six that come with the relay stand at the beginning."""
    beginning = PAGE[: PAGE.index("## 1. ")]
    assert [name for name in ContractCatalogue.load().names if f"`{name}`" not in beginning] == []
