"""What a contract makes anew for each attempt: gaps of the body, facts in headers, headers of retries, signatures of pairs."""

import base64
import hashlib
import hmac
import json
import re
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_public_key

import relay
from relay.contracts import Contract, ContractCatalogue, Payload, Rendering, Unrenderable, body_of
from relay.contracts.facts import HEADER_FACT_BYTES_MAX
from relay.contracts.keypairs import PAIRS
from relay.contracts.mistakes import line
from relay.contracts.signing import Signed
from relay.core.issues import Issue
from relay.core.model import Failure, Secret
from relay.diagnosis.verify import Verdict, verify
from tests.support.contract_files import built_in, contract, own
from tests.support.engine import config, engine
from tests.support.waiting import until

ROOT = Path(relay.__file__).parent.parent
AT_MS = 784_111_777_000
SENT_MS = 1_700_000_000_000
URL = "https://shop.example/hook?a=1"
KEY = "a shared key"

MAILGUN = """
[body]
members = [
  { name = "signature", value = { timestamp = "{sent_at:unix}", token = "{id}", signature = "{signature.hook}" } },
  { name = "event-data", value = "{data}" },
]
[[signature]]
name = "hook"
content = "{sent_at:unix}{id}"
"""


def frozen(of: Contract, data: bytes = b"{}", metadata: bytes | None = None) -> bytes:
    event = Rendering("evt_1", "a.b", AT_MS, AT_MS + 1, Payload(data))
    return of.render(event._replace(metadata=None if metadata is None else Payload(metadata)))


def sent(
    of: Contract,
    data: bytes = b"{}",
    metadata: bytes | None = None,
    *,
    secrets: tuple[str, ...] = (KEY,),
    attempt: int = 1,
    failure: str | None = None,
) -> Signed:
    signer = of.signer([Secret(secret) for secret in secrets], URL, "ep_1")
    return signer.request(
        id="evt_1",
        type="a.b",
        timestamp_ms=SENT_MS,
        frozen=frozen(of, data, metadata),
        attempt=attempt,
        failure=failure,
    )


def mac(content: str, key: str = KEY) -> bytes:
    return hmac.digest(key.encode(), content.encode(), "sha256")


def check(of: Contract, request: Signed, secret: str = KEY, **more: Any) -> tuple[Verdict, str]:
    found = verify(of, [Secret(secret)], request.headers, request.body, SENT_MS, url=URL, endpoint_id="ep_1", **more)
    return found.verdict, found.reason


def wrong(folder: Path, text: str) -> list[str]:
    (folder / "own.toml").write_text('description = "mine"\n' + text)
    return [line(issue).replace(f"{folder}/", "") for issue in ContractCatalogue.read(folder).issues]


# -- inside the body ---------------------------------------------------------------------------------------------------


def test_a_signature_inside_the_body_is_made_for_each_attempt() -> None:
    """K14: the frozen bytes have a gap, every attempt writes its time and signature there, and a receiver verifies them."""
    of = contract(MAILGUN, body="")
    assert b"1700000000" not in frozen(of)
    request = sent(of, b'{"n": 1.0}')
    made = json.loads(request.body)
    assert made["signature"]["signature"] == mac("1700000000evt_1").hex()
    assert request.body.endswith(b'"event-data":{"n": 1.0}}')
    assert set(request.headers) == {"Content-Type"}
    assert check(of, request) == (Verdict.VERIFIED, "The signature is right.")
    assert check(of, request, "another")[0] is Verdict.WRONG_SIGNATURE
    assert body_of(frozen(of)).startswith(
        b'{"signature":{"timestamp":{sent_at:unix},"token":"evt_1","signature":"{signature.hook}"}'
    )
    assert json.loads(sent(of, secrets=()).body)["signature"]["signature"] == ""


@pytest.mark.parametrize("kind", ["object", "form", "xml"])
def test_what_fills_a_gap_is_escaped_as_its_body_asks_for(kind: str) -> None:
    """A URL with & in it, a signature in base64 and a time survive each kind of body, nested in a form too."""
    of = contract(
        '[[signature]]\nname = "s"\ncontent = "{id}"\nencoding = "base64"\nvalue = \'"<{sigs}\'\n',
        body=f"""
        [body]
        kind = "{kind}"
        members = [
          {{ name = "n", value = "{{attempt}}" }}, {{ name = "u", value = "{{url}}&" }},
          {{ name = "o", value = {{ s = "{{signature.s}}", at = "{{sent_at:rfc3339}}" }} }}, {{ name = "d", value = "{{data}}" }},
        ]
        """,
    )
    body = sent(of, b"7").body.decode()
    signature = '"<' + base64.b64encode(mac("evt_1")).decode()
    if kind == "form":
        fields = {name: values[0] for name, values in parse_qs(body).items()}
        assert (fields["n"], fields["u"], fields["d"]) == ("1", URL + "&", "7")
        assert json.loads(fields["o"]) == {"s": signature, "at": "2023-11-14T22:13:20+00:00"}
    elif kind == "object":
        assert json.loads(body)["o"]["s"] == signature
        assert json.loads(body)["n"] == 1
    else:
        assert f"<s>{signature.replace('<', '&lt;')}</s>" in body
        assert "<u>https://shop.example/hook?a=1&amp;</u>" in body


def test_a_signature_inside_the_body_covers_parts_of_the_event() -> None:
    """Adyen's published vector: fields joined by colons, a key in hex, the signature beside the data."""
    of = contract(
        """
        [[signature]]
        name = "hmac"
        content = "{data.pspReference}:{data.originalReference}:{data.merchantAccount}:{data.merchantReference}:{data.amount.value}:{data.amount.currency}:{data.eventCode}:{data.success}"
        encoding = "base64"
        key = { decode = "hex" }
        """,
        body="""
        [body]
        members = [
          { name = "live", value = "false" },
          { name = "notificationItems", value = [{ NotificationRequestItem = { of = "{data}", additionalData = { hmacSignature = "{signature.hmac}" } } }] },
        ]
        """,
    )
    data = (
        b'{"pspReference":"pspReference","originalReference":"originalReference","merchantAccount":"merchantAccount",'
        b'"merchantReference":"reference","amount":{"value":1000,"currency":"EUR"},"eventCode":"REPORT_AVAILABLE","success":"true"}'
    )
    key = "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00"
    request = sent(of, data, secrets=(key,))
    assert b'{"hmacSignature":"ZNBPtI+oDyyRrLyD1XirkKnQgIAlFc07Vj27TeHsDRE="}' in request.body
    assert check(of, request, key)[0] is Verdict.VERIFIED
    with pytest.raises(Unrenderable) as caught:
        frozen(of, b'{"pspReference": "x"}')
    assert caught.value.issues[0].message == "is missing, and the contract signs it"


# -- forms and URLs ----------------------------------------------------------------------------------------------------


def test_sorted_fields_are_signed_as_twilio_does() -> None:
    """K14: the published vector: URL, then the fields of the form sorted, HMAC-SHA1 in base64."""
    of = contract(
        '[[signature]]\nheader = "X-Twilio-Signature"\ncontent = "{url}{sorted_fields}"\nalgorithm = "hmac-sha1"\nencoding = "base64"\n',
        body='\n[body]\nkind = "form"\nmembers = [{ name = "...", value = "{data}" }]\n',
    )
    data = {
        "To": "+18005551212",
        "CallSid": "CA1234567890ABCDE",
        "Digits": "1234",
        "From": "+14158675309",
        "Caller": "+14158675309",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    signer = of.signer([Secret("12345")], url, "ep_1")
    body = of.render(Rendering("evt_1", "a.b", 0, 0, Payload(json.dumps(data).encode())))
    request = signer.request(id="evt_1", type="a.b", timestamp_ms=0, frozen=body, attempt=1)
    assert request.headers["X-Twilio-Signature"] == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert verify(of, [Secret("12345")], request.headers, request.body, 0, url=url).ok


def test_method_url_body_and_time_are_signed_in_any_order() -> None:
    """HubSpot's third version: method, URL, body and milliseconds, HMAC-SHA256 in base64; a body that is an array."""
    of = contract(
        """
        [headers]
        X-HubSpot-Request-Timestamp = "{timestamp:unix_ms}"
        [[signature]]
        header = "X-HubSpot-Signature-v3"
        content = "{method}{url}{body}{timestamp:unix_ms}"
        encoding = "base64"
        """,
        body='\n[body]\nkind = "array"\nmembers = [{ value = { eventId = "{data.n}", occurredAt = "{occurred_at:unix_ms}" } }]\n',
    )
    request = sent(of, b'{"n": 100}')
    assert request.body == b'[{"eventId":100,"occurredAt":784111777000}]'
    signed = f"POST{URL}{request.body.decode()}{SENT_MS}"
    assert request.headers["X-HubSpot-Signature-v3"] == base64.b64encode(mac(signed)).decode()
    assert check(of, request)[0] is Verdict.VERIFIED


def test_digests_may_be_signed_raw() -> None:
    """K14: the bytes of a digest, its hex and its base64, in content and headers."""
    of = contract(
        '[headers]\nX-Id = "{id}"\nContent-MD5 = "{md5:base64}"\nDigest = "SHA-512={sha512:base64}"\n'
        '[[signature]]\nheader = "s"\ncontent = "{id}.{sha256:raw}"\n'
    )
    request = sent(of)
    assert (
        request.headers["Content-MD5"]
        == base64.b64encode(hashlib.md5(request.body, usedforsecurity=False).digest()).decode()
    )
    assert request.headers["Digest"].endswith(base64.b64encode(hashlib.sha512(request.body).digest()).decode())
    raw = hashlib.sha256(request.body).digest()
    assert request.headers["s"] == hmac.digest(KEY.encode(), b"evt_1." + raw, "sha256").hex()
    assert check(of, request)[0] is Verdict.VERIFIED


# -- headers -----------------------------------------------------------------------------------------------------------

BINARY = """
[headers]
ce-specversion = "1.0"
ce-id = "{id:uuid}"
ce-type = "{type}"
ce-time = "{occurred_at:iso_ms}"
ce-subject = "{data.order.title}"
ce-source = "/shops/{metadata.shop}"
Date = "{occurred_at:http}"
User-Agent = "Shop-Hookshot/1.0"
"""


def test_headers_show_parts_of_the_event() -> None:
    """K14: data, metadata, a UUID and the event's time in headers, as CloudEvents' binary mode asks for; all of it frozen."""
    of = contract(BINARY, body='\n[body]\nkind = "data"\n')
    request = sent(of, '{"order": {"title": "Käse \\"50%\\"\\n"}}'.encode(), b'{"shop": 7}', attempt=3)
    assert request.body == '{"order": {"title": "Käse \\"50%\\"\\n"}}'.encode()
    assert request.headers | {"ce-id": ""} == {
        "Content-Type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": "",
        "ce-type": "a.b",
        "ce-time": "1994-11-06T08:49:37.000Z",
        "ce-subject": "K%C3%A4se%20%2250%25%22%0A",
        "ce-source": "/shops/7",
        "Date": "Sun, 06 Nov 1994 08:49:37 GMT",
        "User-Agent": "Shop-Hookshot/1.0",
    }
    lacking = sent(of, b"[]")
    assert lacking.body == b"[]"
    assert {"ce-subject", "ce-source"}.isdisjoint(lacking.headers)
    with pytest.raises(Unrenderable) as caught:
        frozen(of, b'{"order": {"title": "%s"}}' % (b"x" * (HEADER_FACT_BYTES_MAX + 1)))
    assert caught.value.issues[0] == Issue("/order/title", "has 1025 bytes; a header carries at most 1024 of it")
    assert sent(of, b'{"order": {"title": "%s"}}' % (b"x" * HEADER_FACT_BYTES_MAX)).headers["ce-subject"] == "x" * 1024


def test_a_signature_may_cover_what_a_header_shows() -> None:
    """A receiver reads the part from the header, percent-encoded as it is; where nothing tells it, it has to be given."""
    text = '[[signature]]\nheader = "s"\ncontent = "{data.who}|{occurred_at:iso}|{body}"\n'
    data = '{"who": "Jö"}'.encode()
    of = contract(
        '[headers]\nX-Who = "{data.who}"\nX-At = "{occurred_at:iso}"\n' + text,
        body='\n[body]\nmembers = [{ name = "n", value = "{data.who}!" }]\n',
    )
    assert check(of, sent(of, data))[0] is Verdict.VERIFIED
    of = contract(text, body='\n[body]\nmembers = [{ name = "n", value = "{data.who}!" }]\n')
    verdict, reason = check(of, sent(of, data))
    assert (verdict, reason) == (
        Verdict.CANNOT_TELL,
        "s covers the data.who, occurred_at:iso, which no header tells; give it.",
    )
    facts = {"data.who": "Jö", "occurred_at:iso": "1994-11-06T08:49:37Z"}
    assert check(of, sent(of, data), facts=facts)[0] is Verdict.VERIFIED


SLACK = """
[retry_headers]
X-Slack-Retry-Num = "{retry}"
X-Slack-Retry-Reason = "{retry_reason}"
[retry_reasons]
timeout = "http_timeout"
connect = "connection_failed"
http_404 = "gone_away"
http_5xx = "http_error"
other = "unknown_error"
"""


def test_retries_have_headers_of_their_own() -> None:
    """K14: their number, and what ended the attempt before in the service's own words; the first attempt has neither."""
    of = contract(SLACK)
    shown = ("X-Slack-Retry-Num", "X-Slack-Retry-Reason")
    assert not set(shown) & set(sent(of).headers)
    found = {
        failure: tuple(sent(of, attempt=3, failure=failure).headers.get(name) for name in shown)
        for failure in ("timeout", "connect", "http_404", "http_503", "http_400", None)
    }
    assert found == {
        "timeout": ("2", "http_timeout"),
        "connect": ("2", "connection_failed"),
        "http_404": ("2", "gone_away"),
        "http_503": ("2", "http_error"),
        "http_400": ("2", "unknown_error"),
        None: ("2", None),
    }


async def test_a_retry_says_what_ended_the_attempt_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is read from the attempts in the database; a contract that tells none reads nothing."""
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "own.toml").write_text(f'description = "x"\n{SLACK}\n[body]\nkind = "data"\n')
    monkeypatch.setattr("tests.support.engine.CONTRACTS", ContractCatalogue.load(tmp_path / "contracts"))
    text = config("first", extra='[delivery]\nretry = { schedule = ["5s", "5s"], jitter = 0.0 }').replace(
        'id = "acme"', 'id = "acme"\ncontract = "own"'
    )
    async with engine(tmp_path, "\n".join(row for row in text.splitlines() if not row.startswith("secret"))) as house:
        house.courier.script = [503, Failure.TIMEOUT]
        await house.post()
        house.run()
        await house.passing(lambda: len(house.courier.requests) == 3)
        await until(lambda: house.store.backlog == 0)
    told = [request.headers.get("X-Slack-Retry-Reason") for request in house.courier.requests]
    assert told == [None, "http_error", "http_timeout"]


# -- pairs of keys -----------------------------------------------------------------------------------------------------

ALGORITHMS = [name for name in PAIRS if name != "ed25519"]


def paired(algorithm: str, key: str = '{ decode = "pem" }') -> Contract:
    return contract(
        f'[headers]\nX-Time = "{{timestamp}}"\n[[signature]]\nheader = "s"\ncontent = "{{timestamp}}{{body}}"\n'
        f'algorithm = "{algorithm}"\nencoding = "base64"\nkey = {key}\n'
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_receivers_verify_with_the_public_half(algorithm: str) -> None:
    """K14: a new key, its signature, and the public key that the relay shows, verified by the library alone."""
    of = paired(algorithm)
    secret = of.new_secret(Random(1).randbytes)
    assert of.check_secret(secret) is None
    (shown,) = of.public_keys([Secret(secret)])
    request = sent(of, secrets=(secret,))
    content, signature = b"1700000000" + request.body, base64.b64decode(request.headers["s"])
    public = load_pem_public_key(shown.encode())
    if isinstance(public, rsa.RSAPublicKey):
        scheme = padding.PSS(padding.MGF1(SHA256()), 32) if "pss" in algorithm else padding.PKCS1v15()
        public.verify(signature, content, scheme, SHA256())
    else:
        assert isinstance(public, ec.EllipticCurvePublicKey)
        if algorithm.endswith("raw"):
            assert len(signature) == 64
            signature = utils.encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
        public.verify(signature, content, ec.ECDSA(SHA256()))
        with pytest.raises(InvalidSignature):
            public.verify(signature, content + b" ", ec.ECDSA(SHA256()))
    assert check(of, request, shown) == (Verdict.VERIFIED, "The signature is right.")
    assert check(of, request, secret)[0] is Verdict.VERIFIED
    changed = request._replace(body=request.body + b" ")
    assert check(of, changed, shown)[0] is Verdict.WRONG_SIGNATURE


def test_the_public_half_of_a_standard_key_is_shown() -> None:
    """`v1a`: the published pair; a secret that both sides share has no public half, and whpk_ verifies."""
    secret = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
    of = built_in("standard")
    public = of.public_keys([Secret(secret), Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")])
    assert public == ["whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="]
    assert check(of, sent(of, secrets=(secret,)), public[0])[0] is Verdict.VERIFIED


def test_an_independent_implementation_signed_this() -> None:
    """SendGrid's published event: the signature of its own key verifies under time, body and line end, and no other."""
    of = paired("ecdsa-p256-sha256").document.signature[0]
    key = base64.b64decode(
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
    )
    signature = base64.b64decode(
        "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="
    )
    event = (
        b'[{"email":"hello@world.com","event":"dropped","reason":"Bounced Address","sg_event_id":"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",'
        b'"sg_message_id":"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0","smtp-id":"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>",'
        b'"timestamp":1600112492}]\r\n'
    )
    verifies = PAIRS[of.algorithm].checks(key, public=True)
    assert verifies(b"1600112502" + event, signature)
    assert not verifies(b"1600112503" + event, signature)


@pytest.mark.parametrize(
    ("made", "algorithm", "words"),
    [
        ("rsa-sha256", "rsa-pss-sha256", "It was signed with rsa-sha256; the contract signs with rsa-pss-sha256."),
        (
            "ecdsa-p256-sha256-raw",
            "ecdsa-p256-sha256",
            "It was signed with ecdsa-p256-sha256-raw; the contract signs with ecdsa-p256-sha256.",
        ),
    ],
)
def test_another_scheme_of_the_same_key_is_recognised(made: str, algorithm: str, words: str) -> None:
    """`relay verify` says which scheme the sender used."""
    secret = paired(made).new_secret(Random(1).randbytes)
    assert check(paired(algorithm), sent(paired(made), secrets=(secret,)), secret) == (Verdict.WRONG_SIGNATURE, words)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode().strip()


def test_keys_that_cannot_sign_are_refused() -> None:
    """Too short, of another kind, on another curve, no PEM: each with what is wrong and a command that makes a right one."""
    small = pem(rsa.generate_private_key(65537, 1024))
    p384, p256 = pem(ec.generate_private_key(ec.SECP384R1())), pem(ec.generate_private_key(ec.SECP256R1()))
    of = paired("rsa-sha256")
    recipe = "a new one: openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"
    assert of.check_secret(small) == f"the secret is an RSA key of 1024 bits; take one of 2048 to 4096; {recipe}"
    assert of.check_secret(p256) == f"the secret is a key of another kind than RSA; {recipe}"
    assert of.check_secret("x") == f"the secret is no PEM file (-----BEGIN PRIVATE KEY----- …); {recipe}"
    curve = "the secret is a key on the curve secp384r1; take one on P-256 (prime256v1); a new one: openssl genpkey -algorithm EC"
    assert str(paired("ecdsa-p256-sha256").check_secret(p384)).startswith(curve)
    assert paired("ecdsa-p256-sha256").check_secret(p256) is None
    assert paired("ecdsa-p256-sha256", '{ strip = "key_", decode = "base64" }').check_secret("key_AAAA") == (
        "the secret is no private key of the kind P-256 (PKCS#8); a new one: "
        'echo "key_$(openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -outform DER | base64 -w0)"'
    )


# -- mistakes ----------------------------------------------------------------------------------------------------------

PLAIN = '[body]\nmembers = [{ name = "d", value = "{data}" }]\n'


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (
            PLAIN + '[[signature]]\nname = "x"\ncontent = "{id}"',
            'own.toml:5: signature[0].name: it stands nowhere in the body. Put "{signature.x}" into a member of the body.',
        ),
        (
            '[body]\nmembers = [{ name = "d", value = "{data}" },\n{ name = "s", value = "{signature.x}" }]',
            'own.toml:4: body.members[1]: there is no signature for {signature.x}. Add [[signature]] with name = "x".',
        ),
        (
            PLAIN + '[[signature]]\nname = "x"\ncontent = "{id}{sha256}"',
            "own.toml:6: signature[0].content: {sha256} is made of the body, and this signature stands in it.",
        ),
        (
            PLAIN + '[[signature]]\nname = "x"\nheader = "y"',
            "own.toml:5: signature[0].name: a signature has either a header or a name. Keep the header, or a name for one in the body.",
        ),
        (
            PLAIN + '[[signature]]\nheader = "y"\ncontent = "{sorted_fields}"',
            'own.toml:6: signature[0].content: only forms have {sorted_fields}. Set kind = "form" in [body], or sign {body}.',
        ),
        (
            PLAIN.replace("[body]", '[body]\nmode = "js"').replace("{data}", "{data} {attempt}"),
            'own.toml:4: body.members[0]: with mode = "js" no attempt can write {attempt}. Remove mode = "js", or the variable.',
        ),
        (
            PLAIN + '[retry_reasons]\ntimeout = "t"',
            'own.toml:4: retry_reasons: no header tells a reason. Put "{retry_reason}" into one of [retry_headers], or remove it.',
        ),
        (
            PLAIN + '[retry_headers]\nX = "{retry_reason}"\n[retry_reasons]\ntimeuot = "t"',
            'own.toml:7: retry_reasons.timeuot: no attempt ends so. Did you mean "timeout"?',
        ),
        (
            PLAIN + '[headers]\nX = "{retry}"',
            "own.toml:5: headers.X: unknown variable {retry}.",
        ),
        (
            PLAIN + '[headers]\nX = "1"\n[retry_headers]\nx = "2"',
            "own.toml: the header x is set twice. Remove one.",
        ),
        (
            PLAIN + '[[signature]]\nheader = "y"\nalgorithm = "rsa-sha256"',
            'own.toml:4: signature[0].key: a key of rsa-sha256 is no text. Set decode to "pem", "base64" or "hex".',
        ),
        (
            PLAIN + '[[signature]]\nheader = "y"\nalgorithm = "rsa-sha256"\nkey = { decode = "utf8" }',
            'own.toml:7: signature[0].key: a key of rsa-sha256 is no text. Set decode to "pem", "base64" or "hex".',
        ),
        (
            PLAIN + '[[signature]]\nheader = "y"\nalgorithm = "rsa-sha256"\nkey = { decode = "pem", new_bytes = 9 }',
            "own.toml:7: signature[0].key: rsa-sha256 says itself how long its keys are. Remove min_bytes, max_bytes and new_bytes.",
        ),
        (
            PLAIN + '[[signature]]\nheader = "y"\nkey = { public = "p_" }',
            "own.toml:6: signature[0].key: hmac-sha256 has no public keys. Remove public.",
        ),
        (
            PLAIN
            + '[headers]\nX = "{secret}"\n[[signature]]\nheader = "y"\nalgorithm = "rsa-sha256"\nkey = { decode = "pem" }',
            "own.toml:5: headers.X: it would send the private key. Remove {secret}.",
        ),
    ],
)
def test_what_no_attempt_could_make_is_a_mistake(tmp_path: Path, text: str, mistake: str) -> None:
    """K12: what attempts cannot write, sign or tell is found in the file, with its line and what to do."""
    found = wrong(tmp_path, text)
    assert any(problem.startswith(mistake) for problem in found), found


# -- the services of the page ------------------------------------------------------------------------------------------

EXCERPTS = dict(
    re.findall(r"```toml\n# excerpt: (\S+)\n(.*?)```", (ROOT / "docs" / "CONTRACTS.md").read_text("utf-8"), re.DOTALL)
)


@pytest.mark.parametrize("name", EXCERPTS)
def test_the_services_of_the_page_can_be_written(tmp_path: Path, name: str) -> None:
    """Each excerpt is a contract; what it sends verifies with what its receiver holds, and not once it was changed."""
    body = "" if "[body]" in EXCERPTS[name] else '[body]\nkind = "data"\n'
    of = own(tmp_path, f'description = "{name}"\n{EXCERPTS[name]}{body}')
    data = b'{"objectId": 7, "Body": "a b&c"}'
    secret = of.new_secret(Random(1).randbytes)
    request = sent(of, data, secrets=(secret,))
    public = of.public_keys([Secret(secret)])
    assert check(of, request, *public or (secret,))[0] is Verdict.VERIFIED
    other = sent(of, data, secrets=(of.new_secret(Random(2).randbytes),))
    assert check(of, other, *public or (secret,))[0] is Verdict.WRONG_SIGNATURE


def test_the_page_has_ten_services_and_more() -> None:
    """The table names every contract of a service that comes with the relay; the others are excerpts."""
    page = (ROOT / "docs" / "CONTRACTS.md").read_text("utf-8")
    section = page[page.index("## 5. Other services") : page.index("What an account or a shop is called")]
    named = set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE))
    five = {"rotor", "roughy", "videoaiditor", "wochit", "editframe"}
    assert named == set(ContractCatalogue.load().names) - five - {"standard"}
    assert len(named) >= 10
    assert not named & set(EXCERPTS)
