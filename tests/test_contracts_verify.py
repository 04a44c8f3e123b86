"""Verification: what is right, and a reason for each thing that commonly is not."""

import hmac
import json
import random
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.contracts import Contract, Payload, Rendering
from relay.core.errors import ConfigError
from relay.core.model import Secret
from relay.diagnosis.verify import Verdict, Verification, verify
from tests.support.contract_files import contract, standard

NOW_MS = 1_700_000_000_125
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PAIR = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
BODY = standard().render(
    Rendering("evt_1", "cut.done", NOW_MS, NOW_MS, Payload('{"name": "ä", "n": [1, 2.5]}'.encode()))
)
URL = "https://example.com/hook?x=1"


def signed(made: Contract, *secrets: str, body: bytes = BODY, url: str = URL) -> dict[str, str]:
    signer = made.signer(tuple(map(Secret, secrets)), url, "ep_1")
    return signer.headers(id="evt_1", type="cut.done", timestamp_ms=NOW_MS, body=body, attempt=2)


def check(
    made: Contract, headers: dict[str, str], *secrets: str | Secret, body: bytes = BODY, **more: Any
) -> Verification:
    keys = tuple(secret if isinstance(secret, Secret) else Secret(secret) for secret in secrets)
    return verify(made, keys, headers, body, more.pop("now_ms", NOW_MS), **more)


def of_standard(*, secret: str = SECRET, body: bytes = BODY, **changed: str | None) -> Verification:
    """Sign under `standard` with SECRET, change headers (`id`, `timestamp`, `signature`), verify."""
    headers = signed(standard(), SECRET)
    for name, value in changed.items():
        if value is None:
            del headers[f"webhook-{name}"]
        else:
            headers[f"webhook-{name}"] = value
    return check(standard(), headers, secret, body=body)


def test_what_the_relay_signs_is_verified() -> None:
    """Header names in any case; any of several secrets; hmac and ed25519."""
    headers = signed(standard(), OTHER, SECRET, PAIR)

    for secret in (OTHER, SECRET, PAIR):
        found = check(standard(), {name.upper(): value for name, value in headers.items()}, secret)
        assert (found.verdict, found.ok, found.reason) == (Verdict.VERIFIED, True, "The signature is right.")


@settings(deadline=None)
@given(st.binary(max_size=200), st.randoms(use_true_random=False))
def test_a_flipped_bit_is_always_noticed(body: bytes, rng: random.Random) -> None:
    """No body but the signed one is verified (negative control beside the signed one)."""
    headers = signed(standard(), SECRET, body=body)
    position = rng.randrange(len(body) + 1)
    changed = body[:position] + bytes([(body[position] ^ 1) if position < len(body) else 0]) + body[position + 1 :]

    assert check(standard(), headers, SECRET, body=body).ok
    assert not check(standard(), headers, SECRET, body=changed).ok


@pytest.mark.parametrize("name", ["id", "timestamp", "signature"])
def test_a_missing_header_is_named(name: str) -> None:
    """Each of the three headers is needed."""
    found = of_standard(**{name: None})

    assert found.verdict is Verdict.MISSING_HEADER
    assert f"The header webhook-{name} is missing." == found.reason


def test_headers_of_another_contract_are_pointed_out() -> None:
    """A request with `svix-*` headers was not sent under `standard`."""
    headers = {name.replace("webhook-", "svix-"): value for name, value in signed(standard(), SECRET).items()}

    found = check(standard(), headers, SECRET)

    assert found.reason == "The header webhook-id is missing. There is svix-id: another contract?"


@pytest.mark.parametrize("timestamp", ["", "1700000000.5", "01700000000", "-1", "+1700000000", "soon", "１７"])
def test_a_timestamp_is_whole_seconds(timestamp: str) -> None:
    """No fraction, sign or leading zero, as in the official verifiers."""
    found = of_standard(timestamp=timestamp)

    assert found.verdict is Verdict.MALFORMED_HEADER
    assert f"webhook-timestamp is {timestamp!r}, which is not of the form '{{timestamp}}'." == found.reason


@pytest.mark.parametrize(
    "value",
    ["", "v1", "v1,", "v2,c2ln", "v1;c2ln", "sha256=aa"],
)
def test_a_header_without_a_signature_says_what_is_expected(value: str) -> None:
    """The header is taken apart by the contract's own templates."""
    found = of_standard(signature=value)

    assert found.verdict is Verdict.MALFORMED_HEADER
    assert "no signature of the form 'v1,{sig}' or 'v1a,{sig}' (with ' ' between several)" in found.reason


def test_signatures_of_other_versions_around_the_right_one_do_no_harm() -> None:
    """A list with unknown versions and wrong signatures around one right signature is verified."""
    right = signed(standard(), SECRET)["webhook-signature"]

    assert of_standard(signature=f"v2,abc v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= {right} v1a,abc").ok


@pytest.mark.parametrize(
    ("shift_ms", "verdict", "words"),
    [
        (300_000, Verdict.VERIFIED, "right"),
        (-300_000, Verdict.VERIFIED, "right"),
        (301_000, Verdict.STALE, "is 5m1s old (limit 5m): a replayed or stored request, or a wrong clock."),
        (-301_000, Verdict.STALE, "is 5m1s in the future (limit 5m): one of the two clocks is wrong."),
    ],
)
def test_timestamps_are_taken_up_to_five_minutes_off(shift_ms: int, verdict: Verdict, words: str) -> None:
    """Five minutes both ways, to the second."""
    found = check(standard(), signed(standard(), SECRET), SECRET, now_ms=NOW_MS - 125 + shift_ms)

    assert found.verdict is verdict
    assert words in found.reason


def test_the_tolerance_is_the_callers() -> None:
    """A stored request can be verified with a wider tolerance."""
    assert check(standard(), signed(standard(), SECRET), SECRET, now_ms=2 * NOW_MS, tolerance_ms=2 * NOW_MS).ok


def test_a_rotated_secret_is_called_so() -> None:
    """A signature under a secret whose overlap is over is right and yet refused."""
    headers = signed(standard(), SECRET)

    found = check(standard(), headers, Secret(OTHER), Secret(SECRET, expires_at_ms=NOW_MS))

    assert found.verdict is Verdict.EXPIRED_SECRET
    assert "rotated out" in found.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda body: body + b"\n", "lost or gained a line end"),
        (lambda body: body + b"\r\n", "lost or gained a line end"),
        (lambda body: b"\xef\xbb\xbf" + body, "byte order mark"),
        (lambda body: body[:-3], "has not the form of the contract 'standard'"),
        (lambda body: body.replace(b"2.5", b"2.6"), "another endpoint's or an old one, or the body was changed"),
        (lambda body: b'{"type":' + b"[" * 100_000, "has not the form"),
    ],
)
def test_a_changed_body_is_explained(change: Any, words: str) -> None:
    """What was done to the body on its way is found by trying."""
    found = of_standard(body=change(BODY))

    assert found.verdict is Verdict.WRONG_SIGNATURE
    assert words in found.reason


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"separators": (",", ":"), "ensure_ascii": False}, "has no blanks"),
        ({"separators": (",", ":")}, "has no blanks"),
        ({}, "has blanks after commas and colons"),
        ({"indent": 2}, "is indented by 2"),
        ({"indent": 4}, "is indented by 4"),
    ],
)
def test_a_body_that_was_serialised_again_is_explained(layout: dict[str, Any], words: str) -> None:
    """Parsing and writing the JSON again before verifying is the commonest mistake of all."""
    sent = json.dumps({"type": "a", "data": {"s": "ä", "n": 1}}, **layout).encode()
    verified = json.dumps(json.loads(sent), separators=(" ,", " : ")).encode()

    found = check(standard(), signed(standard(), SECRET, body=sent), SECRET, body=verified)

    assert found.verdict is Verdict.WRONG_SIGNATURE
    assert f"parsed and serialised again since it was signed (what was signed {words}); verify the raw" in found.reason


@pytest.mark.parametrize("body", [b"a\r\nb", b"a\nb"])
def test_rewritten_line_ends_are_explained(body: bytes) -> None:
    """A proxy or editor that rewrites line ends is found out, both ways."""
    changed = body.replace(b"\r\n", b"\n") if b"\r" in body else body.replace(b"\n", b"\r\n")

    found = check(standard(), signed(standard(), SECRET, body=body), SECRET, body=changed)

    assert "Line ends in the body were rewritten" in found.reason


def test_a_wrong_secret_cannot_be_told_from_a_changed_body() -> None:
    """The reason says both, and adds what is wrong besides."""
    found = check(standard(), signed(standard(), SECRET), OTHER, now_ms=NOW_MS + 3_600_000)

    assert found.verdict is Verdict.WRONG_SIGNATURE
    assert found.reason.startswith("No given secret makes this signature: it is another endpoint's or an old one")
    assert "Besides, its timestamp is 1h old" in found.reason


def test_a_secret_of_another_kind_is_called_so() -> None:
    """An ed25519 secret cannot verify a header that holds only `v1`."""
    found = of_standard(secret=PAIR)

    assert found.reason == "webhook-signature holds no signature of the kind that the given secret makes."


def forged(key: bytes, content: bytes = b"evt_1.1700000000." + BODY) -> str:
    return "v1," + b64encode(hmac.digest(key, content, "sha256")).decode()


KEY = b64decode(SECRET.removeprefix("whsec_"))


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (forged(SECRET.encode()), "signed with the whole secret as text; the contract's key is what follows whsec_"),
        (forged(SECRET[6:].encode()), "the secret as text, without its prefix"),
        (forged((SECRET + "\n").encode()), "the secret with a line end after it"),
        (forged(KEY, BODY), "covers the body alone; the contract signs '{id}.{timestamp}.{body}'"),
        (forged(KEY).rstrip("="), "has lost its padding"),
        (forged(KEY, b"evt_1.1700000000." + BODY + b"\n"), "lost or gained a line end"),
    ],
)
def test_usual_mistakes_of_senders_are_explained(signature: str, words: str) -> None:
    """A signature made in a wrong way is recognised for what it is."""
    found = of_standard(signature=signature)

    assert found.verdict is Verdict.WRONG_SIGNATURE
    assert words in found.reason


@pytest.mark.parametrize(
    ("text", "secret", "sig", "words"),
    [
        ('encoding = "hex"', "ab" * 16, "base64", "The signature is written in base64; the contract writes hex."),
        ('encoding = "hex"', "ab" * 16, "HEX", "The signature is written in upper-case hex."),
        (
            "",
            "ab" * 16,
            "from hex",
            "signed with the secret decoded from hex; the contract's key is the whole secret, as text",
        ),
        ("", "QUJDRA==", "from base64", "signed with the secret decoded from base64"),
    ],
)
def test_mixed_up_encodings_are_explained(text: str, secret: str, sig: str, words: str) -> None:
    """Hex for base64, text for hex, and the like."""
    made = contract(f'[[signature]]\nheader = "s"\n{text}\n')
    key = {"from hex": bytes.fromhex, "from base64": b64decode}.get(sig, str.encode)(secret)
    raw = hmac.digest(key, BODY, "sha256")
    value = {"base64": b64encode(raw).decode(), "HEX": raw.hex().upper()}.get(sig, raw.hex())

    found = check(made, {"s": value}, secret)

    assert words in found.reason


def test_published_box_signatures_verify() -> None:
    """Box's vector: the header's own spelling of the time is what was signed, in two headers."""
    made = contract(
        """
        [headers]
        BOX-DELIVERY-TIMESTAMP = "{timestamp:rfc3339}"
        [[signature]]
        header = "BOX-SIGNATURE-PRIMARY"
        content = "{body}{timestamp:rfc3339}"
        encoding = "base64"
        secrets = "first"
        [[signature]]
        header = "BOX-SIGNATURE-SECONDARY"
        content = "{body}{timestamp:rfc3339}"
        encoding = "base64"
        secrets = "second"
        """
    )
    headers = {
        "BOX-DELIVERY-TIMESTAMP": "2020-01-01T00:00:00-07:00",
        "BOX-SIGNATURE-PRIMARY": "6TfeAW3A1PASkgboxxA5yqHNKOwFyMWuEXny/FPD5hI=",
        "BOX-SIGNATURE-SECONDARY": "v+1CD1Jdo3muIcbpv5lxxgPglOqMfsNHPV899xWYydo=",
    }
    body = (
        b'{"type":"webhook_event","webhook":{"id":"1234567890"},"trigger":"FILE.UPLOADED",'
        b'"source":{"id":"1234567890","type":"file","name":"Test.txt"}}'
    )

    for secret in ("SamplePrimaryKey", "SampleSecondaryKey"):
        assert check(made, headers, secret, body=body, now_ms=1_577_862_000_000).ok
    assert check(made, headers, "SamplePrimaryKey", body=body).verdict is Verdict.STALE
    assert check(made, headers, "another", body=body).verdict is Verdict.WRONG_SIGNATURE


@pytest.mark.parametrize("time", ["2020-01-01T00:00:00", "2020-99-01T00:00:00Z"])
def test_a_written_time_must_be_one(time: str) -> None:
    """A time without zone, or of no calendar, is malformed."""
    made = contract('[headers]\nat = "{timestamp:iso}"\n[[signature]]\nheader = "s"\ncontent = "{timestamp:iso}"\n')

    found = check(made, {"at": time, "s": "00"}, "k")

    assert found.verdict is Verdict.MALFORMED_HEADER
    assert found.reason == f"The timestamp '{time}' is not of the form iso."


ROUND_TRIPS = [
    '[[signature]]\nheader = "s"\ncontent = "{timestamp}.{body}"\neach = "v{n}={sig}"\nvalue = "t={timestamp},{sigs}"',
    '[[signature]]\nheader = "s"\ncontent = "{timestamp}.{body}"\neach = "t={timestamp},v1={sig}"\njoin = " "',
    '[[signature]]\nheader = "s"\ncontent = "{method}{url}{path}{endpoint_id}{body}"\nsecrets = "first"',
    '[[signature]]\nheader = "s"\ncontent = "{sha256:base64}{crc32}"\njoin = ""\nsecrets = "first"',
    '[[signature]]\nheader = "s"\nalgorithm = "sha512"\ncontent = "{body}{secret}{n}"',
    '[headers]\nkind = "{type}"\n[[signature]]\nheader = "s"\ncontent = "{event}{body}"',
    '[headers]\nkind = "{event}"\n[[signature]]\nheader = "s"\ncontent = "{type}{body}"',
    (
        '[headers]\nmix = "{id}/{id}#{attempt}"\nat = "{timestamp:iso_ms}"\nfixed = "{url}"\n'
        '[[signature]]\nheader = "s"\ncontent = "{id}{attempt}{timestamp:iso_ms}{body}"'
    ),
    (
        'timestamp = "unix_ms"\n[headers]\nat = "{timestamp}"\n'
        '[[signature]]\nheader = "s"\ncontent = "{timestamp}{timestamp:unix}{body}"'
    ),
]


@pytest.mark.parametrize("text", ROUND_TRIPS)
def test_every_kind_of_contract_is_read_backwards(text: str) -> None:
    """What any contract's signer makes, `verify` accepts; with a changed body or another secret it does not."""
    made = contract(text)
    headers = signed(made, "newest", "older")

    assert check(made, headers, "newest", "older", url=URL, endpoint_id="ep_1").ok
    assert not check(made, headers, "newest", "older", body=BODY + b" ", url=URL, endpoint_id="ep_1").ok
    assert not check(made, headers, "another", url=URL, endpoint_id="ep_1").ok


@pytest.mark.parametrize(
    ("content", "unknown"),
    [
        ("{url}", "url"),
        ("{endpoint_id}{path}", "endpoint_id, path"),
        ("{id}", "id"),
        ("{event}", "type"),
        ("{timestamp}", "timestamp"),
    ],
)
def test_what_no_header_tells_must_be_given(content: str, unknown: str) -> None:
    """A signature over something unknown can be neither right nor wrong."""
    made = contract(f'[[signature]]\nheader = "s"\ncontent = "{content}{{body}}"\n')

    found = check(made, signed(made, "k"), "k")

    assert found.verdict is Verdict.CANNOT_TELL
    assert found.reason == f"s covers the {unknown}, which no header tells; give it."


def test_an_unsigned_request_is_called_so() -> None:
    """The contract's word for "no secret" is not a signature."""
    made = contract('[[signature]]\nheader = "s"\nunsigned = "NO_SECRET_PROVIDED"\n')

    found = check(made, signed(made), "k")

    assert found.verdict is Verdict.MISSING_HEADER
    assert found.reason == "s says that the sender had no secret."


def test_a_shown_secret_is_compared() -> None:
    """Where the secret itself is sent, it must be one that is active."""
    made = contract('[headers]\nAuthorization = "Bearer {secret}"\nfixed = "x"\n')
    headers = signed(made, "k")

    assert check(made, headers, "other", "k").ok
    assert check(made, headers, "other").verdict is Verdict.WRONG_SIGNATURE
    assert check(made, headers, Secret("k", expires_at_ms=NOW_MS)).verdict is Verdict.WRONG_SIGNATURE
    assert check(made, {}, "k").verdict is Verdict.MISSING_HEADER


def test_without_signature_or_secret_nothing_can_be_told() -> None:
    """A contract that signs nothing, or no secret to verify with."""
    assert check(contract(""), {}, "k").reason == "The contract 'own' signs nothing."
    assert check(standard(), {}).reason == "Without a secret nothing can be verified."


def test_an_impossible_secret_is_an_error_of_the_caller() -> None:
    """It says nothing about the request."""
    with pytest.raises(ConfigError, match="is not base64"):
        check(standard(), signed(standard(), SECRET), "whsec_!")
