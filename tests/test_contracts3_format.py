"""Contract files: catalogues, schemas, bodies, what keys ask of each other, and contracts built on others."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.contracts import (
    Contract,
    ContractCatalogue,
    ContractError,
    NoExample,
    Payload,
    Rendering,
    Unrenderable,
    mistakes,
)
from relay.contracts.schema import ISSUES_MAX, Schema, SchemaError
from relay.contracts.template import Lookup, TemplateError
from relay.core.issues import Issue
from tests.support.contract_files import contract, own, standard, without_line

BODY = '[body]\nmembers = [{ name = "data", value = "{data}" }]\n'
LISTED = '[type."a.b"]\ndescription = "It happened."\nexample = "{}"\n'


def render(made: Contract, data: bytes, type: str = "a.b") -> bytes:
    return made.render(Rendering("evt_1", type, 1_000, 2_000, Payload(data)))


def problems(folder: Path, **files: str) -> list[str]:
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
    with pytest.raises(ContractError) as caught:
        ContractCatalogue.load(folder)
    return [without_line(mistakes.line(issue).replace(f"{folder}/", "")) for issue in caught.value.issues]


# -- bodies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "data", "body"),
    [
        ('{ name = "...", value = "{data}" }', b' { "a" : 1.0 } ', b'{"a" : 1.0}'),
        ('{ name = "...", value = "{data}" }', b"{}", b"{}"),
        ('{ name = "t", value = "{type}" }, { name = "...", value = "{data}" }', b'{"a":1}', b'{"t":"a.b","a":1}'),
        ('{ name = "t", value = "{type}" }, { name = "...", value = "{data}" }', b"{ }", b'{"t":"a.b"}'),
        ('{ name = "...", value = "{data}" }, { name = "t", value = "{type}" }', b'{"a":1}', b'{"a":1,"t":"a.b"}'),
        ('{ name = "...", value = "{data}" }, { name = "t", value = "{type}" }', b"{}", b'{"t":"a.b"}'),
        (
            '{ name = "t", value = "x" }, { name = "...", value = "{data}" }, { name = "u", value = 1 }',
            b'{"a":[{}]}',
            b'{"t":"x","a":[{}],"u":1}',
        ),
    ],
)
def test_flat_bodies_hold_the_members_of_data(members: str, data: bytes, body: bytes) -> None:
    """`...` stands for the members of data, wherever it stands; their bytes are kept."""
    made = contract("", body=f"[body]\nmembers = [{members}]\n")

    assert render(made, data) == body
    assert made.may_have_rendered(body)


@pytest.mark.parametrize(
    ("data", "pointer", "sentence"),
    [
        (b"[1]", "", "must be an object: its members become those of the body"),
        (b'"x"', "", "must be an object: its members become those of the body"),
        (b'{"a":1,"t/y":2}', "/t~1y", "is set by the contract; leave it out"),
        (b'{"\\ud83d":1,"t/y":2}', "/t~1y", "is set by the contract; leave it out"),
        (b'["\\ud83d"]', "", "must be an object: its members become those of the body"),
    ],
)
def test_flat_bodies_refuse_what_they_cannot_hold(data: bytes, pointer: str, sentence: str) -> None:
    """Data that is no object, or that has a member of the contract's own, cannot be spread."""
    made = contract(
        "",
        body='[body]\nmembers = [{ name = "t/y", value = "{type}" }, { name = "...", value = "{data}" }]\n',
    )

    with pytest.raises(Unrenderable) as caught:
        render(made, data)

    assert caught.value.issues == (Issue(pointer, sentence),)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["data", "pay/load", "..."])
def test_numbers_that_javascript_would_change_are_refused(name: str) -> None:
    """Under `js` the pointer is the one inside data, whatever the envelope calls it."""
    body = f'[body]\nmode = "js"\nmembers = [{{ name = "{name}", value = "{{data}}" }}]\n'
    data = b'{"a":[{"b":1234567890123456789012}]}'

    with pytest.raises(Unrenderable) as caught:
        render(contract("", body=body), data)

    assert caught.value.issues[0].path == "/a/0/b"
    assert "1234567890123456789012" in caught.value.issues[0].message
    rounding = contract("", body=body.replace("[body]", '[body]\nnumbers = "round"'))
    assert b'{"b":1.2345678901234568e+21}' in render(rounding, data)


def test_the_frozen_body_is_the_canon_of_the_whole_envelope() -> None:
    """Also keys of the envelope come in JavaScript's order."""
    made = contract(
        "", body='[body]\nmode = "js"\nmembers = [{ name = "d", value = "{data}" }, { name = "2", value = 1 }]\n'
    )

    assert render(made, b"[1.0]") == b'{"2":1,"d":[1]}'


def test_data_that_is_no_json_cannot_be_canonical() -> None:
    """What the canon cannot read is a mistake in data."""
    made = contract("", body='[body]\nmode = "js"\nmembers = [{ name = "data", value = "{data}" }]\n')

    with pytest.raises(Unrenderable) as caught:
        render(made, b"{")

    assert caught.value.issues[0].path == ""


def test_a_constant_member_is_text() -> None:
    """A value without a variable stands in quotes like any other text."""
    made = contract("", body='[body]\nmembers = [{ name = "k", value = "order" }, { name = "d", value = "{data}" }]\n')

    assert render(made, b"1") == b'{"k":"order","d":1}'


# -- looking things up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "data", "found"),
    [
        ("{type}:{data.id}", b'{"id":"x"}', "a.b:x"),
        ("{data.a.b-c.D_1}", b'{"a":{"b-c":{"D_1":1.50}}}', "1.50"),
        ("{data.id}", b'{"id":123456789012345678901234}', "123456789012345678901234"),
        ("{data.id}", b'{"id":true}', "true"),
        ("{data.id}", b'{"id":"caf\\u00e9"}', "café"),
        ("{data.id}", b'{"id":null}', None),
        ("{data.id}", b'{"id":""}', None),
        ("{data.id}", b'{"id":{}}', None),
        ("{data.id}", b'{"id":[]}', None),
        ("{data.id}", b"{}", None),
        ("{data.id}", b"[]", None),
        ("{data.a.b}", b'{"a":"b"}', None),
        ("{data.id}", b'{"t":"\\ud83d x","id":"x"}', "x"),
        ("{data.id}", b'{"t":"\\ud83d x","id":1.50}', "1.50"),
        ("{data.id}", b'{"t":"\\ud83d x","id":true}', "true"),
        ("{data.id}", b'{"t":"\\ud83d x","id":{}}', None),
        ("{data.a.b}", b'{"t":"\\ud83d x","a":[]}', None),
        ("{data.id}", b'{"id":"\\ud83d x"}', "\\ud83d x"),
    ],
)
def test_keys_are_read_from_data(text: str, data: bytes, found: str | None) -> None:
    """Text as it is, numbers as they are written; what is missing or empty makes no key."""
    assert Lookup.compile(text, ("type", "data")).read("a.b", Payload(data)) == found


def test_facts_come_from_metadata_and_memory() -> None:
    """Metadata are read like data; the memory is a text or nothing."""
    metadata = Payload(b'{"a": {"b": 7, "c": 1.5, "d": false, "e": ["x"], "f": "x"}}')
    nothing = Payload(b"{}")

    found = [Lookup.compile(f"{{metadata.a.{name}}}", ("metadata",)).read("t", nothing, metadata) for name in "bcdefg"]

    assert found == ["7", "1.5", "false", None, "x", None]
    memory = Lookup.compile("{memory}", ("memory",))
    assert (memory.read("t", nothing, None, "known"), memory.read("t", nothing)) == ("known", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{data}", "unknown variable {data}"),
        ("{data.a b}", "a single '{' is no variable"),
        ("{metadata.x}", "unknown variable {metadata.x}"),
        ("constant", "it is the same for every event"),
    ],
)
def test_keys_are_templates_of_known_rooms(text: str, message: str) -> None:
    """A path into another room, or no variable at all, is a mistake."""
    with pytest.raises(TemplateError, match=message):
        Lookup.compile(text, ("type", "data"))


FEW_VALUES = st.recursive(
    st.none() | st.text() | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=5
)


@given(st.dictionaries(st.text(), FEW_VALUES, max_size=5))
def test_both_ways_through_data_agree(members: dict[str, object]) -> None:
    """The fast way and the one for lone surrogates find the same text."""
    lookup = Lookup.compile("{data.id}", ("data",))
    found = lookup.read("t", Payload(json.dumps({**members, "id": "x"}).encode()))
    slowly = lookup.read("t", Payload(json.dumps({**members, "id": "x", "\ud800": 1}).encode()))

    assert found == slowly == "x"


# -- catalogues ----------------------------------------------------------------------------------------------------

CLOSED = '[types]\ncatalogue = "closed"\n' + LISTED


def test_open_catalogues_may_list_types() -> None:
    """Any lawful type is taken; the listed ones are checked and can be deprecated."""
    made = contract(LISTED + "deprecated = true\nschema = { type = 'object' }\n")

    assert made.check_type("any.thing") is None
    assert made.all_types is None
    assert made.check_data("any.thing", Payload(b"1")) == []
    assert made.check_data("a.b", Payload(b"1")) == [Issue("", "must be an object")]
    assert (made.covers("*", "any.thing"), made.covers("*", "a.b"), made.covers("a.b", "a.b")) == (True, False, True)
    assert made.warn_subscription("a.b") == "'a.b' is deprecated"
    assert made.check_subscription("other.*") is None
    assert made.condition("any.thing", Payload(b"{}"), None, {}, {}) is None
    assert made.idempotency_key("any.thing", Payload(b"{}")) is None
    assert (made.ordering, made.ordering_key("a.b", Payload(b"{}"))) == ("none", None)
    assert made.remembers("a.b", Payload(b"{}"), None) is None


def test_closed_catalogues_take_listed_types_only() -> None:
    """Others are told apart from those of no lawful form, which an application can never switch off."""
    made = contract(CLOSED)

    assert made.check_type("a.b") is None
    assert made.check_type("a.c") == "'a.c' is not in the catalogue; did you mean 'a.b'?"
    assert made.check_form("a.c") is None
    assert "is no event type" in str(made.check_form("a c"))
    assert made.check_subscription("x.*") == "'x.*' covers no event type; use one of: a.b"
    assert made.check_subscription("a.*") is None
    assert made.check_subscription("*") is None
    assert "has a *" in str(made.check_subscription("a.*.b"))
    assert made.all_types == {"a.b"}
    assert made.covers("*", "a.c")  # an application that checks nothing still delivers it


def test_long_catalogues_are_shown_in_part() -> None:
    """The answer to a wrong type does not grow with the catalogue."""
    text = "".join(f'[type."t{n}"]\ndescription = ""\nexample = "{{}}"\n' for n in range(40))

    assert str(contract('[types]\ncatalogue = "closed"\n' + text).check_type("zzz")).endswith("t35 and 10 more")


def test_tests_send_the_test_type_or_an_example() -> None:
    """Without a test type the first listed one stands in; what is not listed has no example."""
    assert standard().test_event(None) == ("webhook.test", b'{"message":"This is a test."}')
    assert contract(CLOSED).test_event(None) == ("a.b", b"{}")
    assert contract(LISTED + 'test = { n = 1, who = "{endpoint_id}", b = true }\n').test_event(
        "a.b", {"endpoint_id": 'e"'}
    ) == ("a.b", b'{"n":1,"who":"e\\"","b":true}')
    with pytest.raises(NoExample, match=r"no example of 'x'; there are examples of: a\.b"):
        contract(CLOSED).test_event("x")
    with pytest.raises(NoExample, match="lists no event types"):
        contract("").test_event(None)


# -- schemas -------------------------------------------------------------------------------------------------------

EVERY_KEYWORD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "properties": {
        "type": {"type": ["null", "integer"]},
        "enum": {"enum": [1, "a"]},
        "many": {"enum": list(range(30))},
        "const": {"const": {"a": 1}},
        "format": {"format": "ipv4"},
        "uri": {"format": "uri"},
        "pattern": {"pattern": "^a+$"},
        "min": {"minLength": 2},
        "max": {"maxLength": 2},
        "least": {"minimum": 2},
        "most": {"maximum": 2},
        "more": {"exclusiveMinimum": 2},
        "less": {"exclusiveMaximum": 2},
        "items": {"minItems": 2},
        "itemz": {"maxItems": 1, "uniqueItems": True},
        "members": {"minProperties": 1},
        "memberz": {"maxProperties": 1},
        "multiple": {"multipleOf": 2},
        "contains": {"contains": {"type": "string"}},
        "names": {"propertyNames": {"maxLength": 1}},
        "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "one": {"oneOf": [{"type": "number"}, {"type": "integer"}]},
        "not": {"not": {"type": "string"}},
        "never": False,
        "rest": {"prefixItems": [True], "unevaluatedItems": False},
        "said": {"description": "a lower-case word", "pattern": "^[a-z]+$"},
        "dep": {"dependentRequired": {"a": ["b"]}},
    },
    "unevaluatedProperties": False,
}
EVERY_DATA = {
    "type": "x",
    "enum": 2,
    "many": 99,
    "const": 1,
    "format": "x",
    "uri": "x",
    "pattern": "b",
    "min": "a",
    "max": "aaa",
    "least": 1,
    "most": 3,
    "more": 2,
    "less": 2,
    "items": [],
    "itemz": [1, 1],
    "members": {},
    "memberz": {"a": 1, "b": 2},
    "multiple": 3,
    "contains": [1],
    "names": {"ab": 1},
    "any": 1,
    "one": 1,
    "not": "x",
    "never": 1,
    "rest": [1, 2],
    "said": "X",
    "dep": {"a": 1},
    "a~/b": 1,
}
EVERY_SENTENCE = {
    "/type": "must be an integer or null",
    "/enum": 'must be 1 or "a"',
    "/many": "must be one of 30 values: see the event type's schema",
    "/const": 'must be {"a":1}',
    "/format": "must be of the format ipv4",
    "/uri": "must be an absolute URL",
    "/pattern": "must match the pattern ^a+$",
    "/min": "must have at least 2 characters",
    "/max": "must have at most 2 characters",
    "/least": "must be at least 2",
    "/most": "must be at most 2",
    "/more": "must be more than 2",
    "/less": "must be less than 2",
    "/items": "must have at least 2 items",
    "/itemz": "must not hold the same item twice",
    "/members": "must have at least 1 members",
    "/memberz": "must have at most 1 members",
    "/multiple": "must be a multiple of 2",
    "/contains": "lacks an item that must be there",
    "/names": "has a member whose name is not allowed",
    "/any": "has none of the forms that are allowed here",
    "/one": "must have exactly one of the forms that are allowed here",
    "/not": "has a form that is not allowed here",
    "/never": "is not allowed here",
    "/rest": "does not fit its schema (unevaluatedItems)",
    "/said": "must be a lower-case word",
    "/dep/b": "is missing",
    "/a~0~1b": "is not known here; leave it out",
}


def test_every_mistake_in_data_is_a_sentence_with_a_pointer() -> None:
    """All of them at once, in plain words, without the payload's values."""
    found = Schema.compile(EVERY_KEYWORD).issues(Payload(json.dumps(EVERY_DATA).encode()), allow_extra=False)
    faults = {issue.path: issue.message for issue in found}

    assert {pointer: faults.get(pointer) for pointer in EVERY_SENTENCE} == EVERY_SENTENCE
    assert len(faults) >= len(EVERY_SENTENCE)


def test_one_event_is_not_told_about_endless_mistakes() -> None:
    """A long array of wrong items does not make an endless answer."""
    faults = Schema.compile({"items": {"type": "string"}}).issues(
        Payload(b"[" + b"1," * 1_000 + b"1]"), allow_extra=False
    )

    assert len(faults) == ISSUES_MAX


@pytest.mark.parametrize(
    ("schema", "message", "remedy"),
    [
        ({"propertis": {}, "tpe": 1}, "these keywords would do nothing here: /propertis, /tpe", "Remove or correct"),
        ({"properties": {"a": {"requird": []}}}, "here: /properties/a/requird", "Remove or correct"),
        ({"anyOf": [{}, {"x": 1}]}, "here: /anyOf/1/x", "Remove or correct"),
        ({"items": {"$ref": "https://example.com/a.json"}}, "here: /items/$ref", "begin with `#/`"),
        ({"$ref": "other.json"}, "here: /$ref", "begin with `#/`"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "here: /$schema", "draft 2020-12"),
        ({"$ref": "#/$defs/none"}, "does not exist", "nothing is ever fetched"),
        ({"type": "objct"}, "at /type", "Mend it"),
        ({"pattern": "(?=a)"}, "at /pattern", "linear time"),
        ({"pattern": r"(a)\1"}, "at /pattern", "linear time"),
        ({"format": "colour"}, "colour", "Mend it"),
        ({"required": "a"}, "at /required", "Mend it"),
        ({"$ref": "#anchor"}, "here: /$ref", "begin with `#/`"),
        ({"properties": 3}, "at /properties", "Mend it"),
    ],
)
def test_schemas_that_would_not_be_enforced_are_refused(schema: dict[str, object], message: str, remedy: str) -> None:
    """Unknown keywords, references to elsewhere, patterns without a linear-time engine, and nonsense."""
    with pytest.raises(SchemaError) as caught:
        Schema.compile(schema)

    assert message in str(caught.value)
    assert remedy in caught.value.remedy


def test_patterns_take_linear_time() -> None:
    """A pattern that would bring a backtracking engine to its knees is harmless."""
    schema = Schema.compile({"pattern": "^(a+)+$"})

    assert schema.issues(Payload(b'"' + b"a" * 100_000 + b'!"'), allow_extra=False) != []


@pytest.mark.parametrize("data", [b'{"n":1e400}', b'{"n":' + b"9" * 5_000 + b"}", b'{"s":"\\ud83d"}', b'{"n":1,"n":2}'])
def test_every_json_text_can_be_checked(data: bytes) -> None:
    """Numbers beyond a double, lone surrogates and repeated keys are no reason to fail."""
    schema = Schema.compile({"type": "object", "properties": {"s": {"type": "string"}}})

    assert schema.issues(Payload(data), allow_extra=False) == []


def test_extra_members_can_be_let_through() -> None:
    """A schema may be closed and its contract lenient; other mistakes stay mistakes (EDF-20)."""
    schema = "schema = { properties = { a = { type = 'string' } }, additionalProperties = false }\n"
    strict, lenient = contract(LISTED + schema), contract('[types]\nextra_members = "allow"\n' + LISTED + schema)

    assert strict.check_data("a.b", Payload(b'{"a":1,"z":1}')) == [
        Issue("/a", "must be a string"),
        Issue("/z", "is not known here; leave it out"),
    ]
    assert lenient.check_data("a.b", Payload(b'{"a":1,"z":1}')) == [Issue("/a", "must be a string")]
    assert lenient.check_data("a.b", Payload(b'{"z":1}')) == []


# -- mistakes in files ---------------------------------------------------------------------------------------------

MISTAKES = """\
keys.toml: extends: must be text. Write it in quotes.
keys.toml: types.extra_members: 'ignore' is not supported. Use one of: refuse, allow.
keys.toml: type.c: must be a table. Write { … }, or [ … ] around its name.
keys.toml: type."a.b".example: is not JSON: Expecting value: line 1 column 1 (char 0). Mend it.
keys.toml: type."a.b".schema: is no JSON Schema that can be used: at /properties/x/pattern: "(" is not a "regex". Patterns are matched in linear time, so there is no look-around and no back-reference.
keys.toml: type."a.b".test: unknown variable {endpoint}. Did you mean {endpoint_id}?
keys.toml: type."a.b".needs[0]: unknown variable {datum}. Known here: {data.name}, {memory}, {metadata.name}.
keys.toml: type."a.b".idempotency_key: must be text or false. Write a template such as "{type}:{data.id}", or false for no key.
keys.toml: type."a.b".deprecate: unknown key. Did you mean "deprecated"?
keys.toml: type."a.c".schema: must be a table, or name a file. Write "folder/file.json" or "folder/file.json#/$defs/name".
keys.toml: body.numbers: mode = "verbatim" changes no number. Remove it, or set mode = "js".
keys.toml: body.members[0].value: only {data} has members that can stand here. Write value = "{data}".
keys.toml: signature[0].key.new_bytes: new secrets would be refused. Choose a length from min_bytes to max_bytes.
keys.toml: registration.max_endpoints: input should be greater than or equal to 1. Change the value.
keys.toml: registration.selfservice: unknown key. Did you mean "self_service"?
keys.toml: memory.types: is empty. Put something in it, or remove it.
keys.toml: ordering.mode: 'fifo' is not supported. Use one of: none, first-attempt, strict.
keys.toml: ordering.key: it is the same for every event. Put a variable in it, such as {data.id}.
keys.toml: idempotency.key: unknown variable {memory}. Known here: {data.name}, {type}.
keys.toml: idempotency.differs: 'ignore' is not supported. Use one of: duplicate, conflict.
keys.toml: delivery.link_age: 'a day' is no duration. Write a number and a unit, such as "30s".
keys.toml: regstration: unknown key. Did you mean "registration"?"""


def test_every_mistake_in_the_keys_is_reported(tmp_path: Path) -> None:
    """File, key path, what is wrong and what to do, for all of them."""
    text = """
        description = "mine"
        extends = 3
        regstration = 1
        [types]
        extra_members = "ignore"
        [type]
        c = 1
        [type."a.b"]
        description = "d"
        example = "x"
        schema = { properties = { x = { pattern = "(" } } }
        test = { id = "{endpoint}" }
        needs = ["{datum}"]
        idempotency_key = true
        deprecate = true
        [type."a.c"]
        description = "d"
        example = "{}"
        schema = 3
        [registration]
        selfservice = true
        max_endpoints = 0
        [memory]
        key = "{data.id}"
        value = "{metadata.x}"
        types = []
        [ordering]
        mode = "fifo"
        key = "same"
        [idempotency]
        key = "{memory}"
        differs = "ignore"
        [delivery]
        link_age = "a day"
        [[signature]]
        header = "s"
        key = { max_bytes = 8, new_bytes = 9 }
        [body]
        numbers = "round"
        members = [{ name = "...", value = "{id}" }, { name = "data", value = "{data}" }]
    """

    assert "\n".join(problems(tmp_path, keys=text)) == MISTAKES


INCONSISTENT = """\
empty.toml: type: a closed catalogue lists its event types. Add tables such as [type."order.paid"].
odd.toml: type."a b": is no event type. Rename it, or change types.grammar (parts of letters, digits and _, joined by dots).
odd.toml: type."a.b".replaced_by: only a deprecated type is replaced. Add deprecated = true, or remove it.
odd.toml: type."a.b".replaced_by: there is no type 'z'. Name one that the contract lists.
odd.toml: type."a b".test: 'a.b' is the contract's test event already. Keep one type with `test`.
odd.toml: type."a.b".links: nothing says how long the links work. Set delivery.link_age, such as "23h".
odd.toml: features."x y": is no name of a feature. Use letters, digits, - and _.
odd.toml: features."x y": no event type asks for this feature. Add feature = "x y" to those types, or remove it.
odd.toml: type."a.b".feature: there is no feature 'drafts'. Add drafts = "what it is" to [features].
odd.toml: type."a.b".needs: {memory} is empty for ever. Add [memory].
odd.toml: ordering.key: with mode "none" nothing is ordered. Set ordering.mode to "first-attempt" or "strict", or remove it.
odd.toml: idempotency.differs: there is no key that events could share. Set key, or remove it.
odd.toml: type."a.b".idempotency_key: there is no key to switch off. Remove it, or set idempotency.key.
odd.toml: types.extra_members: no event type has a schema. Add schemas, or remove it.
unused.toml: delivery.link_age: no event type has links. Add links = true to those, or remove it.
unused.toml: memory: no event type needs it. Put "{memory}" in the `needs` of one, or remove it.
unused.toml: memory.types[0]: there is no type 'z'. Name one that the contract lists.
unused.toml: type."a.b".example: at /id: is missing. Mend it, or the schema.
unused.toml: type."a.b".example: at /t: is set by the contract; leave it out. Mend it, or the schema.
unused.toml: type."a.b".test: at /id: must be an integer. Mend it, or the schema."""


def test_every_key_must_act(tmp_path: Path) -> None:
    """What is declared and could never do anything, or contradicts another key, is refused when loading."""
    odd = (
        """
        description = "odd"
        [types]
        extra_members = "allow"
        [features]
        "x y" = "never"
        [ordering]
        key = "{data.id}"
        [idempotency]
        differs = "conflict"
        """
        + LISTED
        + 'replaced_by = "z"\nlinks = true\nfeature = "drafts"\nneeds = ["{memory}"]\nidempotency_key = false\n'
        + 'test = { a = "x" }\n'
        + LISTED.replace("a.b", "a b")
        + 'test = { a = "x" }\n'
        + BODY
    )
    unused = (
        'description = "unused"\n[delivery]\nlink_age = "1h"\n[memory]\nkey = "{data.id}"\nvalue = "{data.v}"\n'
        'types = ["z"]\n[type."a.b"]\ndescription = ""\nexample = \'{"t":1}\'\ntest = { id = "x" }\n'
        "schema = { required = ['id'], properties = { id = { type = 'integer' } } }\n"
        '[body]\nmembers = [{ name = "t", value = "{type}" }, { name = "...", value = "{data}" }]\n'
    )
    empty = 'description = "empty"\n[types]\ncatalogue = "closed"\n' + BODY

    assert "\n".join(problems(tmp_path, odd=odd, unused=unused, empty=empty)) == INCONSISTENT


# -- schemas in files of their own ---------------------------------------------------------------------------------

FILED = 'description = "filed"\n[type."a.b"]\ndescription = ""\nexample = \'{"id":1}\'\nschema = "PLACE"\n' + BODY
SCHEMAS = {
    "$defs": {
        "a": {"properties": {"id": {"$ref": "#/$defs/id"}, "tree": {"$ref": "#/$defs/tree"}}},
        "id": {"type": "integer"},
        "tree": {"items": {"$ref": "#/$defs/tree"}},
        "unused": {"type": "null"},
    }
}


def test_schemas_may_stand_in_files(tmp_path: Path) -> None:
    """A whole file, or one definition with those it refers to, so that the catalogue can show it by itself."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "s.json").write_text(json.dumps(SCHEMAS))
    (tmp_path / "w.json").write_text('{"required": ["id"]}')

    one = own(tmp_path, FILED.replace("PLACE", "own/s.json#/$defs/a"), "one")
    whole = own(tmp_path, FILED.replace("PLACE", "w.json"), "whole")

    assert one.check_data("a.b", Payload(b'{"id":"x","tree":[[[]]]}')) == [Issue("/id", "must be an integer")]
    schema = one.types["a.b"].data_schema
    assert schema is not None
    assert set(schema.document["$defs"]) == {"id", "tree"}
    assert whole.check_data("a.b", Payload(b"{}")) == [Issue("/id", "is missing")]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none.json", "none.json cannot be read: No such file or directory. Correct the name."),
        ("s.json#/$defs/b", "s.json defines no 'b'. Add it under $defs, or correct the name."),
        ("list.json", "list.json is no JSON Schema: it is not an object. Mend it."),
        ("list.json#/$defs/a", "list.json is no JSON Schema: it is not an object. Mend it."),
        ("bad.json", "bad.json is not JSON: Expecting value: line 1 column 1 (char 0). Mend it."),
        ("../s.json", "'../s.json' is not beside the contract. Name a file in this folder or in one within it."),
        ("/etc/passwd", "'/etc/passwd' is not beside the contract. Name a file in this folder or in one within it."),
        ("http://a/b", "'http://a/b' is not beside the contract. Name a file in this folder or in one within it."),
    ],
)
def test_schema_files_that_cannot_be_used(place: str, message: str, tmp_path: Path) -> None:
    """Nothing outside the folder is read, and nothing is fetched."""
    (tmp_path / "s.json").write_text(json.dumps(SCHEMAS))
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bad.json").write_text("?")

    assert problems(tmp_path, own=FILED.replace("PLACE", place)) == [f'own.toml: type."a.b".schema: {message}']


# -- contracts built on others -------------------------------------------------------------------------------------


def test_a_built_in_contract_can_be_extended(tmp_path: Path) -> None:
    """Wochit's later document adds `draft.exit`; the rest stays (WOC-11)."""
    exit = (
        'extends = "wochit"\ndescription = "Wochit, March 2023"\n[type."draft.exit"]\ndescription = "The editor was left."\n'
        'schema = { required = ["wochitVideoId"] }\nexample = \'{"wochitVideoId":"1"}\'\nfeature = "drafts"\n'
        'needs = ["{data.videoContext}"]\n[type."draft.update"]\nfeature = "updates"\n[features]\nupdates = "Every save"\n'
    )

    made = own(tmp_path, exit)

    assert list(made.types)[-1] == "draft.exit"
    assert made.features == {"drafts", "failures", "updates"}
    assert made.types["draft.update"].feature == "updates"
    assert made.check_data("draft.update", Payload(b"{}")) != []
    assert render(made, b'{"wochitVideoId":"1"}', "draft.exit") == b'{"type":"draft.exit","wochitVideoId":"1"}'
    assert made.description == "Wochit, March 2023"


def test_a_lenient_variant_takes_new_members(tmp_path: Path) -> None:
    """Editframe's newer `expires_at` passes a contract that lets members through (EDF-20)."""
    made = own(tmp_path, 'extends = "editframe"\n[types]\nextra_members = "allow"\n', "editframe-2026")
    data = made.types["render.created"].example[:-1] + b',"expires_at":null}'

    assert made.check_data("render.created", Payload(data)) == []
    assert json.loads(render(made, data, "render.created"))["data"]["expires_at"] is None


def test_extending_replaces_lists_and_whole_schemas(tmp_path: Path) -> None:
    """Tables are added to; a list, a schema and a test event are replaced; a chain goes all the way."""
    first = (
        'extends = "editframe"\n[type."webhook.test"]\ntest = { id = "x" }\nschema = { required = ["id"] }\n'
        'example = \'{"id":"x"}\'\n[body]\nmembers = [{ name = "d", value = "{data}" }]\n'
    )
    (tmp_path / "zz.toml").write_text(first)

    made = own(tmp_path, 'extends = "zz"\n[delivery]\ntimeout = "5s"\n')

    assert made.test_event(None) == ("webhook.test", b'{"id":"x"}')
    assert made.types["webhook.test"].data_schema.document == {"required": ["id"]}
    assert render(made, b"1") == b'{"d":1}'
    assert (made.timeout_ms, made.schedule_ms) == (5_000, (10_000, 10_000))


def test_what_cannot_be_built_on_is_named(tmp_path: Path) -> None:
    """Unknown, faulty and circular bases; each mistake is reported where it stands."""
    found = problems(
        tmp_path,
        a='extends = "roughly"\n',
        b='extends = "c"\n',
        c='extends = "b"\n',
        d='extends = "e"\n',
        e='description = "e"\ntimestmp = "unix"\n' + BODY,
        f='extends = "qqqq"\n',
        g='extends = "g"\n',
    )

    assert found == [
        "a.toml: extends: there is no contract 'roughly'. Did you mean \"roughy\"?",
        "b.toml: extends: 'c' cannot be built on. Mend that first; contracts cannot extend each other in a circle.",
        "c.toml: extends: 'b' cannot be built on. Mend that first; contracts cannot extend each other in a circle.",
        "d.toml: extends: 'e' cannot be built on. Mend that first; contracts cannot extend each other in a circle.",
        'e.toml: timestmp: unknown key. Did you mean "timestamp"?',
        (
            "f.toml: extends: there is no contract 'qqqq'. There are: "
            f"{', '.join(sorted({'a', 'b', 'c', 'd', 'e', 'f', 'g', *ContractCatalogue.load().names}))}."
        ),
        "g.toml: extends: 'g' cannot be built on. Mend that first; contracts cannot extend each other in a circle.",
    ]


def test_a_sixth_contract_needs_no_code(tmp_path: Path) -> None:
    """Envelope, catalogue, signature, rules: all of it from one file."""
    text = """
        description = "sixth"
        [types]
        catalogue = "closed"
        grammar = '[a-z]+:[a-z]+'
        description = "two words with a colon between them"
        [type."order:paid"]
        description = "Paid."
        schema = { required = ["no"], properties = { no = { type = "integer" } } }
        example = '{"no":7}'
        feature = "money"
        links = true
        [features]
        money = "Tell about money"
        [body]
        members = [{ name = "kind", value = "{type}" }, { name = "...", value = "{data}" }]
        [[signature]]
        header = "X-Sixth"
        secrets = "first"
        [ordering]
        mode = "strict"
        key = "{data.no}"
        [idempotency]
        key = "{type}/{data.no}"
        [delivery]
        link_age = "1h"
    """
    made = own(tmp_path, text)

    assert render(made, b'{ "no": 7 }', "order:paid") == b'{"kind":"order:paid","no": 7}'
    assert (made.ordering, made.ordering_key("order:paid", Payload(b'{"no":7}'))) == ("strict", "7")
    assert made.idempotency_key("order:paid", Payload(b'{"no":7}')) == "order:paid/7"
    assert made.link_age_ms("order:paid") == 3_600_000
    assert (
        made.condition("order:paid", Payload(b"{}"), None, {}, {}) == 'the feature "money" is off for this application'
    )
    assert made.check_data("order:paid", Payload(b"{}")) == [Issue("/no", "is missing")]
    assert made.needs_secret
