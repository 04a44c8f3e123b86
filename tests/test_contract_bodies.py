"""Bodies of every kind: what becomes of constants, of parts of an event, and of what a form or XML has to escape."""

import json
from pathlib import Path
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.contracts import Contract, ContractCatalogue, Payload, Rendering, Unrenderable
from relay.contracts.mistakes import line
from relay.core.issues import Issue
from tests.support.contract_files import contract, own
from tests.support.desk import Desk, pointers

AT_MS = 784_111_777_000  # the moment that RFC 9110 writes as an example


def made(members: str, keys: str = "") -> Contract:
    """A contract with a body of these members, and further keys of [body]."""
    return contract("", body=f"\n[body]\n{keys}\nmembers = [{members}]\n")


def render(of: Contract, data: bytes = b"{}", metadata: bytes | None = None) -> str:
    event = Rendering("evt_1", "a.b/c", AT_MS, AT_MS + 1, Payload(data))
    return of.render(event._replace(metadata=None if metadata is None else Payload(metadata))).decode()


def refusal(of: Contract, data: bytes = b"{}", metadata: bytes | None = None) -> tuple[str, Issue]:
    with pytest.raises(Unrenderable) as caught:
        render(of, data, metadata)
    return caught.value.room, caught.value.issues[0]


def wrong(folder: Path, body: str) -> list[str]:
    (folder / "own.toml").write_text(f'description = "mine"\n[body]\n{body}\n')
    return [line(issue).replace(f"{folder}/", "") for issue in ContractCatalogue.read(folder).issues]


# -- constants ---------------------------------------------------------------------------------------------------------


def test_constants_may_be_nested_null_and_of_any_spelling(tmp_path: Path) -> None:
    """K14: lists and tables of TOML keep their order and a fraction its spelling; JSON text has null and the rest."""
    body = """
        [body]
        members = [
          { name = "rate", value = 1.50 },
          { name = "list", value = [1, "{type}", true, [], {}] },
          { name = "table", value = { z = "say \\"{id}\\"", a = { b = 30.0 } } },
          { name = "none", json = "null" },
          { name = "text", json = '{"b": [null, 1e5, -0.0], "a": "{type} {{}}"}' },
          { name = "data", value = "{data}" },
        ]
    """
    assert render(own(tmp_path, 'description = "mine"\n' + body), b'{"x": 1.0}') == (
        '{"rate":1.50,"list":[1,"a.b/c",true,[],{}],"table":{"z":"say \\"evt_1\\"","a":{"b":30.0}},"none":null,'
        '"text":{"b":[null,1e5,-0.0],"a":"a.b/c {}"},"data":{"x": 1.0}}'
    )


# -- parts of an event -------------------------------------------------------------------------------------------------


def test_parts_of_data_and_metadata_stand_in_members() -> None:
    """K14: alone a part keeps its bytes, inside a text it is text; places in arrays count from 0."""
    of = made("""
        { name = "raw", value = "{data.order}" },
        { name = "text", value = "<{data.order.id}> of {metadata.source}: {data.order.tags.1.n} {data.order.tags}" },
        { name = "all", value = "{data}" }, { name = "meta", value = "{metadata}" },
    """)
    data = b'{"order": {"id": "\\u00e9\\"1", "tags": [0, {"n": 2.0}]}}'
    assert render(of, data, b'{"source": "shop"}') == (
        '{"raw":{"id": "\\u00e9\\"1", "tags": [0, {"n": 2.0}]},"text":"<\\u00e9\\"1> of shop: 2.0 [0, {\\"n\\": 2.0}]",'
        '"all":{"order": {"id": "\\u00e9\\"1", "tags": [0, {"n": 2.0}]}},"meta":{"source": "shop"}}'
    )


def test_what_is_missing_is_refused_or_left_out() -> None:
    """A part that the event lacks is a mistake at its pointer; an optional member is then left out, wherever it stands."""
    needed = made('{ name = "id", value = "{data.order.id}" }, { name = "by", value = "{metadata.by}" }')
    sentence = "is missing, and the contract's body has a place for it"
    assert refusal(needed, b'{"order": {}}') == ("data", Issue("/order/id", sentence))
    assert refusal(needed, b'{"order": {"id": 1}}') == ("metadata", Issue("/by", sentence))
    assert render(needed, b'{"order": {"id": null}}', b'{"by": "x"}') == '{"id":null,"by":"x"}'
    assert refusal(made('{ name = "id", value = "no. {data.id}" }'), b'{"id": null}')[1].path == "/id"
    optional = made(
        '{ name = "a", value = "{data.a}", optional = true }, { name = "b", value = "{data.b}" },'
        '{ name = "c", value = ["{metadata.c}"], optional = true }'
    )
    assert render(optional, b'{"b": 1}') == '{"b":1}'
    assert render(optional, b'{"a": 0, "b": 1}', b'{"c": 2}') == '{"a":0,"b":1,"c":[2]}'


async def test_intake_points_at_what_the_body_lacks(tmp_path: Path) -> None:
    """A producer learns where the missing part belongs: in the data, or in the metadata."""
    own(tmp_path, 'description = "x"\n[body]\nmembers = [{ name = "a", value = "{data.a}{metadata.b}" }]\n')
    desk = Desk(contract="own", catalogue=ContractCatalogue.load(tmp_path))
    assert pointers(await desk.refusal('{"type": "a.b", "data": {}}')) == ["/data/a"]
    assert pointers(await desk.refusal('{"type": "a.b", "data": {"a": 1}}')) == ["/metadata/b"]
    assert (await desk.post('{"type": "a.b", "data": {"a": 1}, "metadata": {"b": 2}}')).status == 202
    assert desk.store.events[0].body == b'{"a":"12"}'


def test_times_of_the_event_have_every_form() -> None:
    """K14: when it happened as unix seconds and milliseconds, RFC 3339 and HTTP date; numbers stand bare."""
    of = made(
        ", ".join(
            f'{{ name = "{form}", value = "{{occurred_at:{form}}}" }}'
            for form in ("unix", "unix_ms", "iso", "iso_ms", "rfc3339", "http", "naive_us")
        )
        + ', { name = "data", value = "{data}" }'
    )
    assert list(json.loads(render(of)).values())[:-1] == [
        784_111_777,
        784_111_777_000,
        "1994-11-06T08:49:37Z",
        "1994-11-06T08:49:37.000Z",
        "1994-11-06T08:49:37+00:00",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "1994-11-06 08:49:37.000000",
    ]


@pytest.mark.parametrize("name", ["...", "part"])
def test_numbers_of_a_part_keep_their_pointer_under_js(name: str) -> None:
    """A number that JavaScript would change is shown where the producer wrote it, and in which room."""
    of = made(f'{{ name = "{name}", value = "{{metadata.a}}" }}, {{ name = "b", value = "{{data.b}}" }}', 'mode = "js"')
    big = b'{"n": [12345678901234567890]}'
    room, issue = refusal(of, b'{"b": 1}', b'{"a": %s}' % big)
    assert (room, issue.path) == ("metadata", "/a/n/0")
    assert refusal(of, b'{"b": %s}' % big, b'{"a": {}}')[1].path == "/b/n/0"


# -- arrays, and data alone --------------------------------------------------------------------------------------------


def test_a_body_may_be_an_array() -> None:
    """K14: items in order; the items of an array in data may stand among them."""
    of = made(
        '{ value = { id = "{id}", object = "{data.id}" } }, { name = "...", value = "{data.more}", optional = true }',
        'kind = "array"',
    )
    assert render(of, b'{"id": 7}') == '[{"id":"evt_1","object":7}]'
    assert render(of, b'{"id": 7, "more": [ 1.0, {} ]}') == '[{"id":"evt_1","object":7},1.0, {}]'
    assert render(of, b'{"id": 7, "more": []}') == '[{"id":"evt_1","object":7}]'
    assert refusal(of, b'{"id": 7, "more": {}}')[1].path == "/more"


def test_a_body_may_be_the_data_alone() -> None:
    """What the producer posted goes out byte for byte, whatever JSON it is; under js as JavaScript writes it."""
    assert render(contract("", body='\n[body]\nkind = "data"\n'), b'[1.0, "x"]') == '[1.0, "x"]'
    assert render(contract("", body='\n[body]\nkind = "data"\nmode = "js"\n'), b'[1.0, "x"]') == '[1,"x"]'


# -- forms -------------------------------------------------------------------------------------------------------------

FORM = """
    { name = "Type", value = "{type}" }, { name = "Time", value = "{occurred_at:rfc3339}" },
    { name = "Nothing", json = "null" }, { name = "Note", value = "{data.note} & ~*" }, { name = "...", value = "{data}" },
"""


def test_forms_have_fields_in_order() -> None:
    """K14: members become fields, encoded as browsers do it; numbers keep their spelling, nested values are JSON."""
    of = made(FORM, 'kind = "form"')
    data = '{"note": "é=\\ud83d\\ude00", "n": 1.0, "ok": true, "no": null, "o": {"a": [1, 2]}}'.encode()
    written = render(of, data)
    assert written.startswith(
        "Type=a.b%2Fc&Time=1994-11-06T08%3A49%3A37%2B00%3A00&Nothing=&Note=%C3%A9%3D%F0%9F%98%80+%26+%7E*&"
    )
    assert parse_qsl(written, keep_blank_values=True)[3:] == [
        ("Note", "é=😀 & ~*"),
        ("note", "é=😀"),
        ("n", "1.0"),
        ("ok", "true"),
        ("no", ""),
        ("o", '{"a": [1, 2]}'),
    ]
    assert of.document.media_type == "application/x-www-form-urlencoded"
    assert refusal(of, b'{"note": "", "Type": 1}')[1].path == "/Type"


def test_forms_may_write_nested_values_in_brackets() -> None:
    """Objects and arrays become a field for each value, as PHP and Rails read them; empty ones vanish."""
    of = made(
        '{ name = "data", value = "{data}" }, { name = "by", value = { id = "{id}", list = ["{type}", 1] } }',
        'kind = "form"\nnested = "brackets"',
    )
    assert parse_qsl(render(of, b'{"a": {"b": 1, "c": []}, "d": [true, {"e": "x y"}]}')) == [
        ("data[a][b]", "1"),
        ("data[d][0]", "true"),
        ("data[d][1][e]", "x y"),
        ("by[id]", "evt_1"),
        ("by[list][0]", "a.b/c"),
        ("by[list][1]", "1"),
    ]
    assert render(of, b"{}").startswith("by%5Bid%5D=")
    whole = made('{ name = "payload", value = { id = "{id}", of = "{data}" } }', 'kind = "form"')
    assert parse_qsl(render(whole, b'{"a": "&"}')) == [("payload", '{"id":"evt_1","of":{"a": "&"}}')]


SCALARS = st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), SCALARS))
def test_every_text_survives_a_form(members: dict[str, object]) -> None:
    """Whatever the names and texts are, a parser of forms reads them again."""
    of = made('{ name = "...", value = "{data}" }', 'kind = "form"')
    shown = {None: "", True: "true", False: "false"}
    read = parse_qsl(render(of, json.dumps(members).encode()), keep_blank_values=True, separator="&")
    assert read == [
        (
            name,
            value
            if isinstance(value, str)
            else shown[value]
            if value is None or isinstance(value, bool)
            else str(value),
        )
        for name, value in members.items()
    ]


# -- XML ---------------------------------------------------------------------------------------------------------------


def test_xml_has_elements_in_order() -> None:
    """K14: a declaration, a root with attributes, nested and repeated elements, everything escaped."""
    of = made(
        """
        { name = "@version", value = "1&{data.kind}" }, { name = "kind", value = "{type}" },
        { name = "line", value = ["<a>", { "@n" = 2, "#text" = "{data.kind}", "sub" = "b" }] },
        { name = "order", value = "{data.order}" }, { name = "gone", value = "{data.gone}", optional = true },
        """,
        'kind = "xml"\nroot = "note:event"',
    )
    data = '{"kind": "\\"<&>\\r\\n", "order": {"id": 1.0, "item": ["é", {"n": null}, [1, [2]]], "none": []}}'.encode()
    assert render(of, data) == (
        '<?xml version="1.0" encoding="UTF-8"?><note:event version="1&amp;&quot;&lt;&amp;&gt;&#13;&#10;">'
        '<kind>a.b/c</kind><line>&lt;a&gt;</line><line n="2">"&lt;&amp;&gt;&#13;\n<sub>b</sub></line>'
        "<order><id>1.0</id><item>é</item><item><n></n></item><item><item>1</item><item><item>2</item></item></item></order>"
        "</note:event>"
    )
    assert of.document.media_type == "application/xml"
    bare = made('{ name = "...", value = "{data}" }', 'kind = "xml"\ndeclaration = false')
    assert render(bare, b'{"a": [1, 2]}') == "<event><a>1</a><a>2</a></event>"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"x": {"a b": 1}}', "has a member 'a b', which is no name of an XML element; rename it"),
        (b'{"x": {"<": 1}}', "has a member '<', which is no name of an XML element; rename it"),
        (b'{"x": ["\\u0001"]}', "holds a control character, which XML cannot carry; take it out"),
        (b'{"x": "\\uffff"}', "holds a control character, which XML cannot carry; take it out"),
    ],
)
def test_what_xml_cannot_carry_is_refused(data: bytes, message: str) -> None:
    """A name or character that no XML parser takes is a mistake of the event, found before it is accepted."""
    of = made('{ name = "x", value = "{data.x}" }', 'kind = "xml"')
    assert refusal(of, data) == ("data", Issue("/x", message))


XML_TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff") | st.sampled_from("\t\n\r&<>\"'")
)


@given(XML_TEXT)
def test_every_text_survives_xml(text: str) -> None:
    """Whatever XML may carry, its parsers read again, in elements and attributes."""
    of = made('{ name = "@a", value = "{data.t}" }, { name = "t", value = "{data.t}" }', 'kind = "xml"')
    root = ElementTree.fromstring(render(of, json.dumps({"t": text}).encode()))
    assert (root.get("a"), root.findtext("t")) == (text, text)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "mistake"),
    [
        (
            'kind = "yaml"\nmembers = [{ name = "a", value = "{data}" }]',
            "own.toml:3: body.kind: 'yaml' is not supported. Use one of: object, array, form, xml, data.",
        ),
        (
            'kind = "data"\nmembers = [{ name = "a", value = "{data}" }]',
            'own.toml:4: body.members: the kind "data" has no members: its body is the data. Remove them.',
        ),
        (
            'kind = "form"\nmode = "js"\nmembers = [{ name = "a", value = "{data}" }]',
            'own.toml:4: body.mode: mode = "js" is about JSON. Remove it, or choose another kind.',
        ),
        (
            'nested = "json"\nmembers = [{ name = "a", value = "{data}" }]',
            'own.toml:3: body.nested: only bodies of the kind form have it. Remove it, or set kind = "form".',
        ),
        (
            'root = "x"\nmembers = [{ name = "a", value = "{data}" }]',
            'own.toml:3: body.root: only bodies of the kind xml have it. Remove it, or set kind = "xml".',
        ),
        (
            'kind = "xml"\nroot = "a b"\nmembers = [{ name = "a", value = "{data}" }]',
            "own.toml:4: body.root: 'a b' is no name of an XML element. Use letters, digits, _, - and dots.",
        ),
        (
            'kind = "xml"\nmembers = [\n{ name = "a", value = { "b c" = "{data}" } }]',
            "own.toml:4: body.members: 'b c' is no name of an XML element. Use letters, digits, _, - and dots.",
        ),
        (
            'kind = "xml"\nmembers = [{ name = "#text", value = "{data.x}" }]',
            "own.toml:4: body.members: #text stands inside an element. Put it into the value of a member.",
        ),
        (
            'kind = "array"\nmembers = [{ name = "a", value = "{data}" }]',
            "own.toml:4: body.members: items of an array have no name such as 'a'. Remove it.",
        ),
        (
            'members = [{ value = "{data}" }]',
            'own.toml:3: body.members: a member has no name. Add one, such as name = "data".',
        ),
        (
            'members = [{ name = "a", value = "{id}" }]',
            'own.toml:3: body.members: no member carries what the producer sent. Give one the value "{data}", or a part such as "{data.id}".',
        ),
        (
            'members = [\n{ name = "a", value = "{data}", json = "1" }]',
            'own.toml:4: body.members[0].json: a member has either a value or json. Keep one, such as value = "{data}".',
        ),
        (
            'members = [\n{ name = "a" }]',
            "own.toml:3: body.members: the member 'a' has no value. Add one, such as value = \"{data}\".",
        ),
        (
            'members = [\n{ name = "a", value = 2020-01-01 }]',
            "own.toml:4: body.members[0].value: dates are no values of a body. Write it in quotes as text, or take a variable.",
        ),
        (
            'members = [\n{ name = "a", value = [inf] }]',
            "own.toml:4: body.members[0].value: inf is no number of JSON. Write it in quotes as text.",
        ),
        (
            'members = [\n{ name = "a", json = "NaN" }]',
            "own.toml:4: body.members[0].json: NaN is no number of JSON. Write it in quotes as text.",
        ),
        (
            'members = [\n{ name = "a", json = \'{"b": }\' }]',
            "own.toml:4: body.members[0].json: is not JSON: Expecting value: line 1 column 7 (char 6). Mend it.",
        ),
        (
            'members = [\n{ name = "a", value = { b = "{dat.x}" } }]',
            "own.toml:4: body.members[0].value: unknown variable {dat.x}. Did you mean {data}?",
        ),
    ],
)
def test_bodies_that_cannot_be_are_refused_with_their_line(tmp_path: Path, body: str, mistake: str) -> None:
    """K12: each mistake of a body has its file and line, and says what to write."""
    assert mistake in wrong(tmp_path, body)


def test_a_part_that_no_event_has_is_a_mistake(tmp_path: Path) -> None:
    """K9: a member made of what a closed schema never holds would refuse every event; an optional one would never act."""
    schema = "{ type = 'object', additionalProperties = false, properties = { id = { type = 'string' } } }"
    listed = f'[type."a.b"]\ndescription = "d"\nexample = \'{{"id": "1"}}\'\nschema = {schema}\n'
    needed = 'members = [{ name = "a", value = "{data.idd}" }]\n'
    (found,) = wrong(tmp_path, needed + listed)
    assert found.startswith(
        'own.toml:6: type."a.b".example: at /idd: is missing, and the contract\'s body has a place for it.'
    )
    optional = (
        'members = [{ name = "a", value = "{data.idd}", optional = true }, { name = "b", value = "{data.id}" }]\n'
    )
    assert wrong(tmp_path, optional + listed) == []  # an open catalogue takes other types as well
    assert wrong(tmp_path, optional + listed + '[types]\ncatalogue = "closed"') == [
        "own.toml:3: body.members[0]: the data of no event type hold {data.idd}. Name a member that a schema has."
    ]
