"""Contract files: templates, what is refused and how it is said, bodies, event types, secrets."""

import json
import random
import zipfile
from pathlib import Path
from subprocess import run
from sys import executable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.contracts import ContractCatalogue, ContractError, Payload, Rendering, mistakes
from relay.contracts.template import Template, TemplateError
from tests.support.contract_files import contract, standard, without_line

GOOD = 'description = "mine"\n[body]\nmembers = [{ name = "data", value = "{data}" }]\n'


def problems(folder: Path, **files: str | bytes) -> list[str]:
    """Load contract files that are wrong and return every problem, without the folder's name."""
    for name, text in files.items():
        (folder / f"{name}.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ContractError) as caught:
        ContractCatalogue.load(folder)
    return [without_line(mistakes.line(issue).replace(f"{folder}/", "")) for issue in caught.value.issues]


def test_templates_join_literals_and_bind_what_is_known() -> None:
    """Binding a variable leaves one literal where there were three parts."""
    template = Template.compile("v0:{id}:{body}", {"id", "body"})

    bound = template.bind({"id": b"evt_1"})

    assert bound.parts == (b"v0:evt_1:", "body")
    assert bound.render({"body": b"{id}"}) == b"v0:evt_1:{id}"
    assert template.variables == {"id", "body"}


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("{idd}", "unknown variable {idd}", "Did you mean {id}?"),
        ("{id:hex}", "unknown variable {id:hex}", "Did you mean {id}?"),
        ("{time}", "unknown variable {time}", "Did you mean {time:iso}, {time:unix}?"),
        ("{zzz}", "unknown variable {zzz}", "Known here: {body}, {id}, {time:iso}, {time:unix}."),
        ("a}", "a single '}' is no variable", 'Write "}}" for a brace.'),
        ("{ id }", "a single '{' is no variable", 'Write "{{" for a brace.'),
    ],
)
def test_templates_refuse_what_they_do_not_know(text: str, message: str, remedy: str) -> None:
    """An unknown variable or a stray brace is an error with a way out, never text that is sent."""
    with pytest.raises(TemplateError) as caught:
        Template.compile(text, ["body", "id", "time:iso", "time:unix"])

    assert caught.value.detail == message
    assert caught.value.remedy == remedy


@given(st.text())
def test_any_text_is_a_literal_once_its_braces_are_doubled(text: str) -> None:
    """Doubling every brace makes a template that renders as the text."""
    template = Template.compile(text.replace("{", "{{").replace("}", "}}"), ())

    assert template.render({}).decode() == text


def test_standard_renders_the_standard_webhooks_body() -> None:
    """`{"type","timestamp","data"}` in that order; the data keep their bytes (invariant 6)."""
    data = b'{ "z": 30.0, "a":1e5, "n": 123456789012345678901, "s":"\\u00e4/ \xc3\xa4" }'

    body = standard().render(Rendering("evt_1", "cut.done", 1_667_514_386_007, 1_700_000_000_000, Payload(data)))

    assert body == b'{"type":"cut.done","timestamp":"2022-11-03T22:26:26.007Z","data":' + data + b"}"


def test_standard_says_nothing_about_delivery() -> None:
    """Schedule, time-out and age come from `[delivery]` unless a contract sets its own (Q6)."""
    made = standard()

    assert (made.timeout_ms, made.schedule_ms, made.jitter, made.max_age_ms) == (None, None, None, None)
    assert (made.catalogue_open, made.signs, made.needs_secret, made.overlaps) == (True, True, True, True)
    assert made.features == frozenset()
    assert made.content_type == "application/json"
    assert made.description == "Standard Webhooks 1.0"
    assert repr(made) == "Contract('standard')"


def test_a_contract_names_the_headers_it_sets() -> None:
    """In lower case, so that an endpoint's own headers can be kept from colliding with them."""
    assert standard().header_names == {"content-type", "webhook-id", "webhook-timestamp", "webhook-signature"}


def test_a_contract_sets_its_own_delivery_defaults() -> None:
    """Editframe's three attempts, ten seconds apart."""
    made = contract(
        '[delivery]\ntimeout = "30s"\nmax_age = "23h"\nretry = { schedule = ["10s", "10s"], jitter = 0.0 }\n'
    )

    assert (made.timeout_ms, made.schedule_ms, made.jitter, made.max_age_ms) == (
        30_000,
        (10_000, 10_000),
        0.0,
        82_800_000,
    )


def test_envelopes_are_ordered_members_with_generated_fields() -> None:
    """Text stands in quotes with its literals escaped; unix times, numbers and data stand bare."""
    made = contract(
        "",
        body="""
        [body]
        members = [
          { name = 'id"', value = "{id}" },
          { name = "label", value = 'say "{type}" ä {{}}' },
          { name = "at", value = "{timestamp:unix_ms}" },
          { name = "made", value = "{created_at:iso}" },
          { name = "both", value = "{timestamp:unix}/{created_at:unix}" },
          { name = "version", value = 2 },
          { name = "live", value = true },
          { name = "payload", value = "{data}" },
        ]
        """,
    )

    body = made.render(Rendering("evt_1", "cut.done", 1_500, 2_999, Payload(b"[1.0]")))

    assert list(json.loads(body).items()) == [
        ('id"', "evt_1"),
        ("label", 'say "cut.done" ä {}'),
        ("at", 1_500),
        ("made", "1970-01-01T00:00:02Z"),
        ("both", "1/2"),
        ("version", 2),
        ("live", True),
        ("payload", [1.0]),
    ]
    assert b"[1.0]}" in body


@given(st.integers(0, 253_402_300_799_999), st.sampled_from(["unix", "unix_ms", "iso", "iso_ms", "rfc3339"]))
def test_every_form_of_time_is_read_back(time_ms: int, time_format: str) -> None:
    """What is written in a form is read as the same time, to the form's precision."""
    from relay.contracts.fields import TIME_FORMATS, parse_time_ms

    precision = 1 if time_format.endswith("_ms") else 1000
    written = TIME_FORMATS[time_format](time_ms).decode()

    assert parse_time_ms(written, time_format) == time_ms // precision * precision


@pytest.mark.parametrize("type", ["a", "cut.done", "A_1.b.c", "x" * 256])
def test_standard_takes_lawful_types(type: str) -> None:
    """Parts of letters, digits and `_` joined by dots, at most 256 characters."""
    assert standard().check_type(type) is None


@pytest.mark.parametrize("type", ["", ".", "a.", "a..b", "a b", "ä.b", "a-b", "a/b", 'a"', "x" * 257, "a\n"])
def test_standard_refuses_other_types(type: str) -> None:
    """Anything else is refused with a sentence."""
    assert standard().check_type(type)


def test_no_grammar_reaches_beyond_what_is_safe() -> None:
    """Whatever grammar a contract sets, a type cannot break out of JSON or a header."""
    made = contract("[types]\ngrammar = '.*'\ndescription = 'anything'\n")

    assert made.check_type("render:done/x-1") is None
    assert made.check_type('a"b') == "'a\"b' is no event type; use anything"
    assert made.check_type("a\r\nb: c") is not None


@pytest.mark.parametrize("size", [24, 32, 64])
def test_standard_takes_secrets_of_24_to_64_bytes(size: int) -> None:
    """`whsec_` and the base64 of 24 to 64 bytes (Standard Webhooks 1.0)."""
    from base64 import b64encode

    secret = "whsec_" + b64encode(bytes(size)).decode()

    assert standard().check_secret(secret) is None
    assert standard().check_secret(secret.rstrip("=")) is None


WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
WHSK = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        ("whsec_plJ3nmyCDGBKInavdOK15jsl", "has 18 bytes and the contract takes 24 to 64"),
        ("whsec_" + "A" * 88, "has 66 bytes"),
        (WHSEC.removeprefix("whsec_"), "does not begin with whsec_ or whsk_"),
        ("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=", "does not begin with whsec_ or whsk_"),
        ("whsec_ab-_ab-_ab-_ab-_ab-_ab-_ab-_", "is not base64"),
        ("whsec_AAAAA", "characters are missing"),
        (WHSEC + "\n", "blanks or a line end"),
        (WHSEC[:20] + "\0" + WHSEC[20:], "control character"),
        (WHSK[:60], "has 41 bytes"),
        (WHSK[:-6] + "AAAA==", "public half does not belong"),
        ("whsk_" + "A" * 43, "has 32 bytes and the contract takes 64;"),
    ],
)
def test_standard_refuses_other_secrets(secret: str, complaint: str) -> None:
    """Every other secret is refused when it is configured, by a sentence with a remedy that does not show it."""
    sentence = standard().check_secret(secret)

    assert sentence is not None
    assert complaint in sentence
    assert secret not in sentence


def test_standard_takes_an_ed25519_pair() -> None:
    """`whsk_` with seed and public half is taken."""
    assert standard().check_secret(WHSK) is None


def test_a_contract_that_signs_nothing_takes_no_secret() -> None:
    """A secret that would never be used is a mistake worth a word."""
    made = contract("")

    assert not made.signs
    assert "signs nothing" in str(made.check_secret("x"))


def test_a_shown_secret_must_fit_in_a_header() -> None:
    """A secret that is itself the header's value is ASCII."""
    made = contract('[headers]\ntoken = "{secret}"\n')

    assert (made.signs, made.needs_secret, made.overlaps) == (True, True, False)
    assert made.check_secret("plain") is None
    assert "ASCII" in str(made.check_secret("schlüssel"))


@pytest.mark.parametrize(
    ("text", "most", "needed"),
    [
        ('secrets = "first"', 1, True),
        ('secrets = "second"', 2, True),
        ("", 10, True),
        ('unsigned = "none"', 10, False),
    ],
)
def test_a_contract_knows_how_many_signatures_it_carries(text: str, most: int, needed: bool) -> None:
    """Where a header carries one signature only, a rotation cuts over; `unsigned` makes a secret optional."""
    made = contract(f'[[signature]]\nheader = "s"\n{text}\n')

    assert (made.max_signatures, made.overlaps, made.needs_secret) == (most, most > 1, needed)


@pytest.mark.parametrize(
    ("text", "begin", "length"),
    [
        ('key = { strip = "whsec_", decode = "base64" }', "whsec_", 44),
        ('key = { strip = "whsec_", decode = "base64", max_bytes = 24 }', "whsec_", 32),
        ('key = { decode = "hex", min_bytes = 40 }', "", 80),
        ("", "", 64),
        ('algorithm = "ed25519"\nkey = { strip = "whsk_", decode = "base64" }', "whsk_", 88),
    ],
)
def test_new_secrets_have_the_form_that_is_taken(text: str, begin: str, length: int) -> None:
    """A new secret passes the contract's own check, and its randomness comes from the caller."""
    made = contract(f'[[signature]]\nheader = "s"\n{text}\n')

    secret = made.new_secret(random.Random(1).randbytes)

    assert made.check_secret(secret) is None
    assert secret.startswith(begin)
    assert len(secret.removeprefix(begin)) == length
    assert secret == made.new_secret(random.Random(1).randbytes)


def test_a_contract_that_shows_its_secret_makes_text() -> None:
    """Without a signature entry a new secret is 64 hexadecimal characters."""
    assert len(contract('[headers]\nt = "{secret}"\n').new_secret(random.Random(1).randbytes)) == 64


EVERY_MISTAKE = """\
four.toml: signature: must be a list. Write [ … ], or [[ … ]] around the name of a table.
one.toml: the header s is set twice. Remove one.
one.toml: description: is missing. Add it.
one.toml: timestamp: 'rfc822' is not supported. Use one of: unix, unix_ms, iso, iso_ms, rfc3339, http.
one.toml: types.catalogue: 'shut' is not supported. Use one of: open, closed.
one.toml: types.grammar: is no regular expression: missing ), unterminated subpattern at position 0. Mend it; it must match a whole event type.
one.toml: body.mode: 'xml' is not supported. Use one of: verbatim, js.
one.toml: body.members[1].value: unknown variable {timestamp}. Did you mean {timestamp:http}, {timestamp:iso}, {timestamp:iso_ms}, {timestamp:naive_us}, {timestamp:rfc3339}, {timestamp:unix}, {timestamp:unix_ms}?
one.toml: headers."bad name": 'bad name' is no header name. Use letters, digits and dashes, at most 64.
one.toml: headers.Content-Length: Content-Length is set by the relay itself. Leave it out (`content_type` sets Content-Type).
one.toml: headers.X-One: unknown variable {body}. Known here: {attempt}, {crc32}, {created_at:…}, {endpoint_id}, {event}, {id}, {md5:…}, {method}, {occurred_at:…}, {path}, {secret}, {sent_at:…}, {sha1:…}, {sha256}, {sha512:…}, {timestamp}, {type}, {url}.
one.toml: headers.X-Two: a header can carry only visible ASCII, blanks and tabs. Remove the other characters.
one.toml: headers.X-Three: must be text. Write it in quotes.
one.toml: signature[0].algorithm: 'hmac-sha3' is not supported. Use one of: hmac-md5, hmac-sha1, hmac-sha256, hmac-sha384, hmac-sha512, sha1, sha256, sha512, ed25519, rsa-sha256, rsa-pss-sha256, ecdsa-p256-sha256, ecdsa-p256-sha256-raw.
one.toml: signature[0].key.decode: 'rot13' is not supported. Use one of: utf8, base64, hex, pem.
one.toml: signature[0].key.max_bytes: max_bytes is below min_bytes. Raise it.
one.toml: signature[0].each: the signature would not be sent. Put {sig} in it.
one.toml: signature[0].content: unknown variable {secrets}. Did you mean {secret}?
one.toml: signature[0].encoding: 'base32' is not supported. Use one of: hex, base64, base64url.
one.toml: signature[0].value: the signature would not be sent. Put {sigs} in it.
one.toml: signature[0].secrets: 'third' is not supported. Use one of: all, first, second.
one.toml: signature[1].content: anyone can compute a plain digest. Use hmac-sha256, or put {secret} in content.
one.toml: signature[1].variant[0].key: a variant is recognised by the prefix of its secrets. Set strip, such as "whsk_".
one.toml: signature[1].variant[0].each: unknown variable {secret}. Known here: {attempt}, {crc32}, {endpoint_id}, {event}, {id}, {md5:…}, {method}, {n}, {path}, {sent_at:…}, {sha1:…}, {sha256}, {sha512:…}, {sig}, {timestamp}, {type}, {url}.
one.toml: signature[1].variant[1].key: a variant is recognised by the prefix of its secrets. Set strip, such as "whsk_".
one.toml: signature[1].variant[1].prefix: unknown key. Remove it; known here: algorithm, key, each.
one.toml: delivery.timeout: 'soon' is no duration. Write a number and a unit, such as "30s".
one.toml: delivery.retry.schedule[1]: '5 parrots' is no duration. Write a number and a unit, such as "30s".
one.toml: delivery.retry.jitter: input should be less than or equal to 1. Change the value.
one.toml: delivery.max_age: input should be greater than 0. Change the value.
one.toml: content_typ: unknown key. Did you mean "content_type"?
three.toml: is not UTF-8. Save it as UTF-8.
two.toml: is not TOML: Invalid value (at end of document). Mend that line."""


def test_every_mistake_in_every_file_is_reported_at_once(tmp_path: Path) -> None:
    """File, key path, what is wrong and what to do, for all of them."""
    one = """
        content_typ = "text/plain"
        timestamp = "rfc822"

        [types]
        catalogue = "shut"
        grammar = "("

        [body]
        mode = "xml"
        members = [{ name = "data", value = "x{data}" }, { name = "at", value = "{timestamp}" }, { value = "{data}" }]

        [headers]
        "bad name" = "x"
        Content-Length = "1"
        X-One = "{body}"
        X-Two = "ä"
        X-Three = 3
        S = "twice"

        [delivery]
        timeout = "soon"
        max_age = "0s"
        retry = { schedule = ["5s", "5 parrots"], jitter = 2 }

        [[signature]]
        header = "s"
        algorithm = "hmac-sha3"
        content = "{secrets}"
        encoding = "base32"
        key = { decode = "rot13", min_bytes = 9, max_bytes = 8 }
        each = "v1"
        value = "t={timestamp}"
        secrets = "third"

        [[signature]]
        header = "t"
        algorithm = "sha256"
        content = "{body}"
        [[signature.variant]]
        each = "{sig}{secret}"
        key = { decode = "hex" }
        [[signature.variant]]
        prefix = "x"
    """

    found = problems(tmp_path, one=one, two="a = ", three=b"\xff", four=GOOD + "[signature]\n")

    assert "\n".join(found) == EVERY_MISTAKE


def test_own_contracts_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    """A folder adds contracts by file name; other files in it are left alone."""
    (tmp_path / "mine.toml").write_text(GOOD)
    (tmp_path / "README").write_text("not a contract")

    catalogue = ContractCatalogue.load(tmp_path)

    assert set(catalogue.names) - set(ContractCatalogue.load().names) == {"mine"}
    assert catalogue.get("mine") is not None
    assert catalogue.get("yours") is None
    services = {"editframe", "rotor", "roughy", "videoaiditor", "wochit"}
    presets = {
        "box",
        "cloudevents",
        "cloudevents-binary",
        "github",
        "hubspot",
        "mux",
        "paddle",
        "shopify",
        "slack",
        "slack-incoming",
        "square",
        "stripe",
        "twilio",
    }
    assert set(ContractCatalogue.load().names) == {"standard"} | services | presets


def test_a_built_in_name_cannot_be_taken(tmp_path: Path) -> None:
    """A file cannot quietly replace a built-in contract."""
    assert problems(tmp_path, standard=GOOD) == [
        "standard.toml: the name 'standard' is taken. Rename the file.",
    ]


def test_unreadable_folders_and_files_are_problems(tmp_path: Path) -> None:
    """A folder that is not there, or a folder where a file should be, is reported like any other mistake."""
    with pytest.raises(ContractError, match=r"nowhere: cannot be read: No such file or directory\. Name a folder\."):
        ContractCatalogue.load(tmp_path / "nowhere")
    (tmp_path / "odd.toml").mkdir()
    assert problems(tmp_path) == ["odd.toml: cannot be read: Is a directory. Check its permissions."]


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ('{ name = "a", value = "{id}" }', "no member carries what the producer sent"),
        ('{ name = "a", value = "{data}" }, { name = "a", value = "{id}" }', "the member 'a' is there twice"),
        ('{ name = "a", value = 2020-01-01 }, { name = "b", value = "{data}" }', "dates are no values of a body"),
    ],
)
def test_bodies_carry_the_data(members: str, problem: str, tmp_path: Path) -> None:
    """A body without the producer's data, or with a member twice, is no body."""
    (found,) = problems(tmp_path, own=f'description = ""\n[body]\nmembers = [{members}]\n')

    assert problem in found


def test_headers_set_twice_are_found_whatever_else_is_wrong(tmp_path: Path) -> None:
    """Case does not tell headers apart; entries that are no tables are another mistake's matter."""
    text = 'signature = [3, { header = "S" }, { header = "s" }, { header = 4 }]\nheaders = 1\n' + GOOD

    found = problems(tmp_path, own=text)

    assert "own.toml: the header s is set twice. Remove one." in found


def test_contracts_are_package_data(tmp_path: Path) -> None:
    """The wheel carries the contract files."""
    pytest.importorskip("hatchling", reason="builds a wheel")
    root = Path(__file__).parent.parent
    run(
        [executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")

    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    built_in = root / "relay" / "contracts" / "builtin"
    carried = {str(path.relative_to(root)) for path in built_in.rglob("*") if path.is_file()}
    assert "relay/contracts/builtin/standard.toml" in carried
    assert carried <= set(names)
