"""What contracts make of an event's metadata: what stands for members that lack, and objects whose members become headers."""

from pathlib import Path

import pytest

from relay.contracts.facts import Unrenderable
from relay.core.issues import Issue
from relay.diagnosis.facts import facts_of
from tests.support.contract_files import built_in, contract, own, without_line
from tests.support.signed import signed
from tests.test_contracts3_format import problems

KEYS = """
[metadata]
source = "/here"
key = "{type}/{id}"
[headers]
X-Source = "{metadata.source}"
[spread_headers]
X-Own- = "{metadata.extensions}"
"""
BODY = '\n[body]\nmembers = [{ name = "key", value = "{metadata.key}" }, { name = "data", value = "{data}" }]\n'
CONTRACT = contract(KEYS, body=BODY)


@pytest.mark.parametrize(
    ("metadata", "key", "source"),
    [
        (None, b'"a.b/evt_1"', "/here"),
        (b"{}", b'"a.b/evt_1"', "/here"),
        (b'{"source":null, "key" : 7}', b"7", "/here"),
        (b'{"source":"/there","key":"k","other":1}', b'"k"', "/there"),
    ],
)
def test_defaults_stand_for_what_lacks(metadata: bytes | None, key: bytes, source: str) -> None:
    """A member that the event has goes before its default, one that is null does not."""
    sent = signed(CONTRACT, at_ms=0, type="a.b", metadata=metadata)
    assert sent.body == b'{"key":%s,"data":{"n":1}}' % key
    assert sent.headers["X-Source"] == source


def test_members_of_an_object_become_headers() -> None:
    """Each has the prefix, and its text is percent-encoded; null and an object that lacks make none."""
    sent = signed(CONTRACT, at_ms=0, metadata='{"extensions":{"a":"ü b","n":1.50,"yes":true,"not":null}}'.encode())
    own = {name: text for name, text in sent.headers.items() if name.startswith("X-Own-")}
    assert own == {"X-Own-a": "%C3%BC%20b", "X-Own-n": "1.50", "X-Own-yes": "true"}
    assert not [name for name in signed(CONTRACT, at_ms=0).headers if name.startswith("X-Own-")]


@pytest.mark.parametrize(
    ("extensions", "path", "message"),
    [
        (b"7", "/extensions", "must be an object"),
        (b'{"a b":1}', "/extensions/a b", "a header name is made of"),
        (b'{"%s":1}' % (b"x" * 59), "/extensions/" + "x" * 59, "at most 64 characters"),
        (b'{"a":[1]}', "/extensions/a", "must be text, a number"),
        (b'{"a":"%s"}' % (b"x" * 1017), "/extensions", "has 1025 bytes; headers carry at most 1024"),
    ],
)
def test_what_no_header_carries_is_refused(extensions: bytes, path: str, message: str) -> None:
    """Other values than an object, names that no header has, lists, and what is too long are mistakes of the event."""
    with pytest.raises(Unrenderable) as caught:
        signed(CONTRACT, at_ms=0, metadata=b'{"extensions":%s}' % extensions)
    (issue,) = caught.value.issues
    assert (caught.value.room, issue.path) == ("metadata", path)
    assert message in issue.message


def test_at_the_limit_all_of_it_is_sent() -> None:
    """1,024 bytes of an object, and names of 64 characters, are taken."""
    longest = b'{"%s":"%s"}' % (b"x" * 58, b"y" * (1024 - 58 - 7))
    assert len(longest) == 1024
    sent = signed(CONTRACT, at_ms=0, metadata=b'{"extensions":%s}' % longest)
    assert len(sent.headers["X-Own-" + "x" * 58]) == 1024 - 58 - 7


def test_no_header_of_the_contract_is_taken_twice() -> None:
    """A member whose header the contract has is a mistake, and so is an endpoint's own header with the prefix."""
    binary = built_in("cloudevents-binary")
    with pytest.raises(Unrenderable) as caught:
        signed(binary, at_ms=0, metadata=b'{"extensions":{"Source":"/a"}}')
    assert caught.value.issues == (Issue("/extensions/Source", "is set by the contract; leave it out"),)
    assert binary.sets_header("CE-Tenant")
    assert not binary.sets_header("X-Tenant")


@pytest.mark.parametrize("name", ["cloudevents", "cloudevents-binary"])
def test_a_reader_knows_what_a_default_stands_for(name: str) -> None:
    """The id that `relay listen` shows is that of the event, though the contract takes it by way of the metadata."""
    sent = signed(built_in(name), at_ms=0, type="a.b")
    assert facts_of(built_in(name), sent.headers, sent.body)[:2] == ("evt_1", "a.b")


def test_an_extending_contract_says_another_source(tmp_path: Path) -> None:
    """One key under [metadata] is enough, and the others stay."""
    text = 'description = "mine"\nextends = "cloudevents"\n[metadata]\nsource = "https://acme.example"\n'
    sent = signed(own(tmp_path, text), at_ms=0)
    assert b'"id":"evt_1","source":"https://acme.example"' in sent.body


def test_mistakes_of_these_keys(tmp_path: Path) -> None:
    """Defaults that nothing shows or that no event has, prefixes without a dash, and places that are none are named."""
    keys = (
        'description = "keys"\n[metadata]\na = "{data.x}"\n[spread_headers]\nX-Own = "{metadata.extensions}"\n'
        'X-Other- = "text"\n' + BODY
    )
    unseen = 'description = "unseen"\n[metadata]\nunseen = "x"\nkey = "y"\n' + BODY
    found = [without_line(line) for line in problems(tmp_path, keys=keys, unseen=unseen)]
    known = "{created_at:…}, {event}, {id}, {occurred_at:…}, {timestamp:…}, {type}"
    place = 'Write one, such as "{metadata.extensions}".'
    shown = 'Put "{metadata.unseen}" into the body or a header, or remove it.'
    assert found == [
        f"keys.toml: metadata.a: unknown variable {{data.x}}. Known here: {known}.",
        "keys.toml: spread_headers.X-Own: 'X-Own' is no beginning of a header's name. End it with a dash, such as \"X-Acme-\".",
        f"keys.toml: spread_headers.X-Other-: it is no place in an event. {place}",
        f"unseen.toml: metadata.unseen: nothing shows it to receivers. {shown}",
    ]
