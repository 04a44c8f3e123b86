"""Signatures: published vectors, the independent verifiers, and every key of a signature entry."""

import base64
import hashlib
import hmac
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks
import time_machine
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from relay.contracts import Contract, Payload, Rendering
from relay.contracts.keys import ALGORITHMS, checks
from relay.contracts.signing import SigningKey
from relay.contracts.template import Template
from relay.core.errors import ConfigError
from relay.core.model import Secret
from tests.support.contract_files import contract, standard

URL = "https://example.com/hooks?tenant=7"
NODE = Path(__file__).parent / "node"
EDITFRAME_BODY = (
    '{"topic":"render.completed","data":{"id":"550e8400-e29b-41d4-a716-446655440000","status":"complete",'
    '"created_at":"2024-10-30T10:00:00Z","completed_at":"2024-10-30T10:01:23Z","failed_at":null,"width":1920,'
    '"height":1080,"fps":30,"byte_size":15728640,"duration_ms":5000,"md5":"098f6bcd4621d373cade4e832627b4f6",'
    '"metadata":{"project_id":"abc123"},'
    '"download_url":"https://editframe.com/api/v1/renders/550e8400-e29b-41d4-a716-446655440000/mp4"}}'
)
SLACK_BODY = (
    "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    "&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    "&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554"
    "%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)
VIDEOAIDITOR_BODY = (
    '{"event":"render.completed","data":{"_id":"render-id","status":"completed",'
    '"outputUrl":"https://cdn.example.com/video.mp4","error":"","videoId":"video-id","videoVersion":1,"videoData":{},'
    '"createdAt":"2024-03-20T10:30:00Z","updatedAt":"2024-03-20T10:31:00Z"}}'
)
CONVOY_BODY = '{"event":"charge.success","amount":1000,"currency":"NGN"}'
OUTPOST = '[[signature]]\nheader = "s"\ncontent = "{timestamp}.{body}"\n'


def headers_of(
    made: Contract,
    *secrets: str | Secret,
    body: str | bytes = b"{}",
    id: str = "evt_1",
    type: str = "cut.done",
    at: float = 1_700_000_000,
    attempt: int = 1,
    url: str = URL,
) -> dict[str, str]:
    """Sign one message, at unix second `at`, as endpoint `ep_1`."""
    keys = tuple(secret if isinstance(secret, Secret) else Secret(secret) for secret in secrets)
    raw = body.encode() if isinstance(body, str) else body
    signer = made.signer(keys, url, "ep_1")
    return signer.headers(id=id, type=type, timestamp_ms=round(at * 1000), body=raw, attempt=attempt)


def signature(text: str, *secrets: str | Secret, **message: Any) -> str | None:
    """Return the one signature header of a contract with this signature entry, or None if it was left out."""
    made = contract(f'[[signature]]\nheader = "s"\n{text}\n')
    return headers_of(made, *secrets, **message).get("s")


STANDARD_VECTORS = [
    pytest.param(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}'),
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        id="standard-webhooks",
    ),
    pytest.param(
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        ("msg_loFOjxBNrRLzqYUf", 1731705121, '{"event_type":"ping","data":{"success":true}}'),
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
        id="svix-docs-18-byte-key",
    ),
    pytest.param(
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}'),
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
        id="ed25519",
    ),
]


@pytest.mark.parametrize(("secret", "message", "expected"), STANDARD_VECTORS)
def test_standard_reproduces_the_published_vectors(secret: str, message: tuple[str, int, str], expected: str) -> None:
    """The contract `standard` makes the three signatures of the official vectors, whatever the key's length."""
    event_id, at, body = message

    headers = headers_of(standard(), secret, id=event_id, at=at, body=body)

    assert {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": expected,
    } == headers


def entry(text: str) -> str:
    return f'[[signature]]\nheader = "s"\n{text}\n'


PUBLISHED = [
    pytest.param(
        entry('each = "sha256={sig}"'),
        "It's a Secret to Everybody",
        {"body": "Hello, World!"},
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        id="github",
    ),
    pytest.param(
        entry('each = "sha256={sig}"'),
        "mysecret",
        {"body": '{"foo":"bar"}'},
        "sha256=4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3",
        id="octokit",
    ),
    pytest.param(
        entry('content = "{timestamp}.{body}"\neach = "v1={sig}"\nvalue = "t={timestamp},{sigs}"'),
        "SuperSecret123",
        {"at": 1565125718, "body": '{"test":"body"}'},
        "t=1565125718,v1=854ece4c22acef7c66b57d4e504153bc512595e8e9c772ece2a68150548c19a7",
        id="mux",
    ),
    pytest.param(
        entry('content = "v0:{timestamp}:{body}"\neach = "v0={sig}"'),
        "8f742231b10e8888abcd99yyyzzz85a5",
        {"at": 1531420618, "body": SLACK_BODY},
        "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
        id="slack",
    ),
    pytest.param(
        entry('content = "{url}"\nalgorithm = "hmac-sha1"\nencoding = "base64"'),
        "12345",
        {
            "url": "https://mycompany.com/myapp.php?foo=1&bar=2"
            "&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"
        },
        "a9nBmqA0ju/hNViExpshrM61xv4=",
        id="twilio-json",
    ),
    pytest.param(
        entry('content = "{timestamp}:{body}"\neach = "h1={sig}"'),
        "VALID_SECRET",
        {"at": 1698796800, "body": '{"data": ["1", "2"]}'},
        "h1=a300428748dce5c70e4da19bffd60769591ea969c99dea3105d0ec9612cf43f9",
        id="paddle-list",
    ),
    pytest.param(
        entry('content = "{timestamp}:{body}"\neach = "h1={sig}"\nvalue = "ts={timestamp};{sigs}"\njoin = ";"'),
        "VALID_SECRET",
        {"at": 1698796800, "body": '{"data": "value"}'},
        "ts=1698796800;h1=28981e941fae76e53db32f3d2a83cb69db41476595e84e1970a1b5d98f62b261",
        id="paddle",
    ),
    pytest.param(
        entry('content = "{url}{body}"\nencoding = "base64"'),
        "signature-key",
        {
            "url": "https://webhook.site/webhooks",
            "body": '{"data":{"type":"webhooks","id":"fake_id"}}',
        },
        "W3FlCNk5IA3ZQ2LHTWoajvzfaDu/OwY2tNHIHC3IUOA=",
        id="square",
    ),
    pytest.param(
        entry('content = "{url}{body}"\nencoding = "base64"'),
        "signature-key",
        {"url": "https://webhook.site/webhooks", "body": '{"data":{"type":"webhooks","id":">id<"}}'},
        "Cxt7+aTi4rKgcA0bC4g9EHdVtLSDWdqccmL5MvihU4U=",
        id="square-no-html-escapes",
    ),
    pytest.param(
        entry('encoding = "base64"\nkey = { decode = "hex" }'),
        "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00",
        {"body": "pspReference:originalReference:merchantAccount:reference:1000:EUR:REPORT_AVAILABLE:true"},
        "ZNBPtI+oDyyRrLyD1XirkKnQgIAlFc07Vj27TeHsDRE=",
        id="adyen",
    ),
    pytest.param(
        entry('algorithm = "sha1"\ncontent = "{body}{timestamp}{secret}"\nsecrets = "first"'),
        "shhh",
        {
            "at": 1417727468,
            "body": '{"public_id":"117e5550-7bfa-11e4-80d7-f962166bd3be","version":1417727468}',
        },
        "bac927006d3ce039ef7632e2c03189348d02924a",
        id="cloudinary",
    ),
    pytest.param(
        entry(""),
        "convoy-webhook-secret",
        {"body": CONVOY_BODY},
        "244449b7f48cbc2709060c9dcdc2b3aa47a78f540430579015c579fb12defbb4",
        id="convoy-hex",
    ),
    pytest.param(
        entry('algorithm = "hmac-sha512"\nencoding = "base64"'),
        "convoy-webhook-secret",
        {"body": CONVOY_BODY},
        "bMdy3IGUKuG1/6kcOmoHsNN+3I3GvYPjUYohnx8Z/3GuG3bWsyCUDUFMI2oarX95MLY+DxkolRlV0xIZVF4bZg==",
        id="convoy-sha512-base64",
    ),
    pytest.param(
        entry('content = "{timestamp},{body}"\neach = "v1={sig}"\nvalue = "t={timestamp},{sigs}"'),
        "convoy-webhook-secret",
        {"at": 1700000000, "body": CONVOY_BODY},
        "t=1700000000,v1=77b8b9269f25a199846a55a2bd25b3fba151c70fdae60bb1dcd87fbbc943c55c",
        id="convoy-advanced",
    ),
    pytest.param(
        OUTPOST,
        "test-secret",
        {"at": 1234567890, "body": '{"hello":"world"}'},
        "7054f74dae9f73e82b56ca73e8f81450097c698eeda0b00bb8728e89796baf2d",
        id="outpost-sha256",
    ),
    pytest.param(
        OUTPOST + 'algorithm = "hmac-sha1"\n',
        "test-secret",
        {"at": 1234567890, "body": '{"hello":"world"}'},
        "e2f4423c54f5385099d8e3fbb01237d415ee8fdf",
        id="outpost-sha1",
    ),
    pytest.param(
        OUTPOST + 'algorithm = "hmac-md5"\n',
        "test-secret",
        {"at": 1234567890, "body": '{"hello":"world"}'},
        "aa98470ad83d2d02006b1a67d2c3b4eb",
        id="outpost-md5",
    ),
    pytest.param(
        entry('secrets = "first"'),
        "secret",
        {"body": '{"body":"sample"}'},
        "0278b1a603de4c561ac0feb960354d0d00e8846b74813d81bddb43ad45bff767",
        id="datasaur",
    ),
    pytest.param(
        entry(""),
        "Jefe",
        {"body": "what do ya want for nothing?"},
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
        id="rfc-4231-tc2",
    ),
    pytest.param(
        entry('algorithm = "hmac-sha512"\neach = "sha512={sig}"'),
        "secret",
        {"body": '{"type":"success","renderId":"r"}'},
        "sha512=193255683302871f338491d63721bd82a2a430b58600c40e125f1c2b0a57bcb2"
        "0c57f75ecfc89a34b8af6bdf8cb298d1f31ece9dacb2454b20110e15a7079d71",
        id="remotion",
    ),
    pytest.param(
        entry('secrets = "first"'),
        "your-webhook-secret",
        {"body": VIDEOAIDITOR_BODY},
        "41e344754fff06274ef8a24f9207fa8b73307b88a810c7df1b95ef4ea9945f5d",
        id="videoaiditor",
    ),
    pytest.param(
        entry('secrets = "first"'),
        "whsec_abc123",
        {"body": '{"topic":"webhook.test","data":{"id":"test"}}'},
        "62aec02c01b45964464cb0cd3b10ae9a450fb3ffdc6f34a0cbec2a64a67afe51",
        id="editframe-test",
    ),
    pytest.param(
        entry('secrets = "first"'),
        "test-webhook-secret",
        {"body": EDITFRAME_BODY},
        "49898e84fa90f3d4e868a34f383cff4b15543c66b6ff40c8f5ec94a9e2bf76d5",
        id="editframe-seed",
    ),
    pytest.param(
        entry(
            'content = "{id}.{timestamp}.{body}"\nencoding = "base64"\neach = "v1,{sig}"\njoin = " "\n'
            'key = { strip = "whsec_", decode = "base64" }'
        ),
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        {
            "id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "at": 1614265330,
            "body": '{"type":"cut.completed","data":{"entity_id":"<cut_id>","asset_id":"<asset_id>"}}',
        },
        "v1,PpU0T8Tc4IvPNvPRbgmk/eVVzXb809l6Z48O9hf3ZLg=",
        id="roughy",
    ),
]


@pytest.mark.parametrize(("text", "secret", "message", "expected"), PUBLISHED)
def test_the_keys_express_published_schemes(text: str, secret: str, message: dict[str, Any], expected: str) -> None:
    """Every vector that the keys of a contract can express comes out."""
    assert expected == headers_of(contract(text), secret, **message)["s"]


def random_json(rng: random.Random, depth: int = 0) -> Any:
    match rng.randrange(7 if depth < 3 else 5):
        case 0:
            return rng.choice([None, True, False, 0, -1, 2**53, 1e-7, 30.0])
        case 1:
            return rng.uniform(-1e9, 1e9)
        case 5:
            return [random_json(rng, depth + 1) for _ in range(rng.randrange(4))]
        case 6:
            return {random_text(rng): random_json(rng, depth + 1) for _ in range(rng.randrange(4))}
        case _:
            return random_text(rng)


def random_text(rng: random.Random) -> str:
    alphabet = 'abc.,{}"\\/<>&\n\t\x7f\u2028\ufeffäß漢😀'
    return "".join(rng.choice(alphabet) for _ in range(rng.randrange(12)))


def random_messages(count: int, seed: int) -> list[dict[str, Any]]:
    """Sign random events under `standard`, each with one to three secrets, and say with which one to verify."""
    rng, made, messages = random.Random(seed), standard(), []
    for number in range(count):
        secrets = [made.new_secret(rng.randbytes) for _ in range(rng.randint(1, 3))]
        now_ms = rng.randrange(10**12, 4 * 10**12)
        spacing = rng.choice([(",", ":"), (", ", ": ")])
        data = json.dumps(random_json(rng), ensure_ascii=rng.random() < 0.5, separators=spacing).encode()
        body = made.render(Rendering(f"evt_{number}", "cut.done", now_ms, now_ms, Payload(data)))
        headers = headers_of(made, *secrets, id=f"evt_{number}", at=now_ms / 1000, body=body)
        messages.append({"secret": rng.choice(secrets), "headers": headers, "body": body.decode(), "now_ms": now_ms})
    return messages


def test_official_python_libraries_verify_random_messages() -> None:
    """2,000 random messages verify with PyPI's standardwebhooks and svix, each secret of a rotation by itself."""
    for message in random_messages(2_000, seed=1):
        with time_machine.travel(message["now_ms"] / 1000, tick=False):
            standardwebhooks.Webhook(message["secret"]).verify(message["body"], message["headers"])
            svix.webhooks.Webhook(message["secret"]).verify(message["body"], message["headers"])


def test_official_python_library_refuses_what_was_changed() -> None:
    """The verifier that the random messages pass refuses one with a changed byte (negative control)."""
    (message,) = random_messages(1, seed=2)

    with (
        time_machine.travel(message["now_ms"] / 1000, tick=False),
        pytest.raises(standardwebhooks.WebhookVerificationError),
    ):
        standardwebhooks.Webhook(message["secret"]).verify(message["body"] + " ", message["headers"])


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_goes_on_without_the_registry_of_npm(tmp_path: Path) -> None:
    """H24: an npm that cannot install is named and passed over, and its failure is not stamped as an install."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    (tmp_path / "tests" / "node").mkdir(parents=True)
    (tmp_path / "tests" / "node" / "package-lock.json").touch()
    shutil.copy(NODE.parents[1] / "Makefile", tmp_path)
    stamp = "tests/node/node_modules/.installed"
    environment = os.environ | {"PATH": f"{npm.parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", stamp], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tests are skipped" in done.stderr
    assert not (tmp_path / stamp).exists()


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("node_modules")
def test_official_javascript_library_verifies_random_messages() -> None:
    """500 random messages verify with npm's standardwebhooks; the last one, changed, does not (negative control)."""
    messages = random_messages(501, seed=3)
    messages[-1]["body"] += " "

    told = subprocess.run(["node", "verify.js"], cwd=NODE, input=json.dumps(messages).encode(), capture_output=True)

    assert told.returncode == 0, told.stderr.decode()
    verdicts = json.loads(told.stdout)
    assert verdicts[:-1] == ["verified"] * 500
    assert verdicts[-1] == "No matching signature found"


def test_ed25519_signs_in_addition() -> None:
    """A `whsk_` secret beside a `whsec_` one adds a `v1a` signature that its public key verifies."""
    hmac_secret = standard().new_secret(random.Random(4).randbytes)
    pair = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
    public = base64.b64decode("1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")

    headers = headers_of(standard(), hmac_secret, pair, at=1_700_000_000, body="{}")

    first, second = headers["webhook-signature"].split(" ")
    assert first.startswith("v1,")
    version, _, sig = second.partition(",")
    assert version == "v1a"
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(sig), b"evt_1.1700000000.{}")


def test_ed25519_takes_a_seed_alone() -> None:
    """An ed25519 key without its public half signs the same."""
    seed = bytes(range(32))
    text = 'algorithm = "ed25519"\nkey = { decode = "hex" }'

    alone, public = signature(text, seed.hex()), ed25519_public(seed)

    assert alone == signature(text, (seed + public).hex())


def ed25519_public(seed: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [("00" * 31, "has 31 bytes"), ("00" * 64, "public half"), ("zz", "is not hexadecimal")],
)
def test_an_impossible_key_is_refused_before_anything_is_sent(secret: str, complaint: str) -> None:
    """A secret that cannot be a key is an error when the signer is made, and the error does not show it."""
    with pytest.raises(ConfigError, match=complaint) as caught:
        signature('algorithm = "ed25519"\nkey = { decode = "hex" }', secret)

    assert secret not in str(caught.value)


def test_a_shared_secret_has_no_public_half() -> None:
    """What is taken for a public key of an HMAC is refused: whoever has it could sign as well."""
    with pytest.raises(ValueError, match="hmac-sha256 has none"):
        checks("hmac-sha256", b"key", public=True)


def test_secrets_sign_newest_first_until_they_expire() -> None:
    """While rotating, every active secret signs in the order given; an expired one stops at its very millisecond."""
    older = Secret("b", expires_at_ms=1_700_000_000_000)
    text = 'join = " "'

    before = signature(text, "a", older, at=1_699_999_999.999)
    after = signature(text, "a", older, at=1_700_000_000)

    assert f"{signature(text, 'a')} {signature(text, 'b')}" == before
    assert signature(text, "a") == after


def test_a_header_carries_ten_signatures_at_most() -> None:
    """However many secrets are active, the ten newest sign."""
    secrets = [f"secret {number}" for number in range(12)]

    assert signature("", *secrets[:10]) == signature("", *secrets)


@pytest.mark.parametrize(
    ("chosen", "secrets", "signing"),
    [
        ("all", ["a", "b"], ["a", "b"]),
        ("first", ["a", "b"], ["a"]),
        ("second", ["a", "b"], ["b"]),
        ("second", ["a"], []),
        ("first", [], []),
    ],
)
def test_an_entry_chooses_among_the_secrets(chosen: str, secrets: list[str], signing: list[str]) -> None:
    """`secrets` picks all, the newest, or the one before; with none to sign, the header is left out."""
    expected = ",".join(str(signature("", secret)) for secret in signing) or None

    assert expected == signature(f'secrets = "{chosen}"', *secrets)


def test_two_headers_share_the_secrets_of_a_rotation() -> None:
    """Box's form: the newest secret in one header, the one before in another."""
    made = contract(entry('secrets = "first"') + '[[signature]]\nheader = "t"\nsecrets = "second"\n')

    headers = headers_of(made, "a", "b")

    assert (signature("", "a"), signature("", "b")) == (headers["s"], headers["t"])


def test_an_endpoint_without_a_secret_says_so_where_the_contract_has_a_word() -> None:
    """`unsigned` stands in for the signature (Remotion); without it the header is left out."""
    assert signature('unsigned = "NO_SECRET_PROVIDED"') == "NO_SECRET_PROVIDED"
    assert signature("") is None


def test_signatures_are_numbered_and_joined() -> None:
    """`each` knows {n}, `join` stands between, `value` around (TabaPay, contracts.md §4, row 43)."""
    text = 'each = "v{n}={sig}"\njoin = ","\nvalue = "t={timestamp:unix},{sigs}"'

    assert f"t=1700000000,v1={signature('', 'a')},v2={signature('', 'b')}" == signature(text, "a", "b")


def test_each_may_carry_the_timestamp() -> None:
    """The whole pair is repeated for every secret (Persona, contracts.md §4, row 32)."""
    text = 'each = "t={timestamp},v1={sig}"\njoin = " "'

    expected = f"t=1700000000,v1={signature('', 'a')} t=1700000000,v1={signature('', 'b')}"
    assert expected == signature(text, "a", "b")


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("{id}", "evt_1"),
        ("{event}", "cut.done"),
        ("{type}", "cut.done"),
        ("{attempt}", "3"),
        ("{url}", URL),
        ("{method}", "POST"),
        ("{path}", "/hooks?tenant=7"),
        ("{endpoint_id}", "ep_1"),
        ("{timestamp}", "1700000000"),
        ("{timestamp:unix}", "1700000000"),
        ("{timestamp:unix_ms}", "1700000000125"),
        ("{timestamp:iso}", "2023-11-14T22:13:20Z"),
        ("{timestamp:iso_ms}", "2023-11-14T22:13:20.125Z"),
        ("{timestamp:rfc3339}", "2023-11-14T22:13:20+00:00"),
        ("{sha256}", hashlib.sha256(b"{}").hexdigest()),
        ("{sha256:hex}", hashlib.sha256(b"{}").hexdigest()),
        ("{sha256:base64}", base64.b64encode(hashlib.sha256(b"{}").digest()).decode()),
        ("{sha256:base64url}", base64.urlsafe_b64encode(hashlib.sha256(b"{}").digest()).decode()),
        ("{crc32}", "2745614147"),
        ("{secret}", "shown"),
        ("Bearer {secret}", "Bearer shown"),
        ("{{{id}}}", "{evt_1}"),
    ],
)
def test_plain_headers_know_every_variable(variable: str, expected: str) -> None:
    """Every variable of contracts.md §4.1 that fits in a header stands for what it says."""
    made = contract(f'[headers]\nx = "{variable}"\n')

    assert expected == headers_of(made, "shown", at=1_700_000_000.125, attempt=3)["x"]


def test_a_header_without_variables_is_constant() -> None:
    """A plain header may be a fixed word."""
    assert headers_of(contract('[headers]\nx = "v1"\n'))["x"] == "v1"


def test_a_url_without_path_has_the_root() -> None:
    """`{path}` is what stands in the request line."""
    assert headers_of(contract('[headers]\nx = "{path}"\n'), url="https://example.com")["x"] == "/"


def test_a_contract_chooses_the_form_of_timestamps() -> None:
    """`timestamp` is what {timestamp} means everywhere; signature and header share one reading of it."""
    made = contract(
        'timestamp = "unix_ms"\n[headers]\nat = "{timestamp}"\n' + entry('content = "{timestamp}"\nvalue = "{sigs}"')
    )

    headers = headers_of(made, "k", at=1_700_000_000.125)

    assert headers["at"] == "1700000000125"
    assert signature("", "k", body="1700000000125") == headers["s"]


def test_a_shown_secret_is_the_newest_that_is_active() -> None:
    """A header that shows the secret itself moves to the next when one expires, and vanishes with the last."""
    made = contract('[headers]\ntoken = "{secret}"\n')
    first, second = Secret("a", expires_at_ms=1_000), Secret("b", expires_at_ms=2_000)

    shown = [headers_of(made, first, second, at=second_).get("token") for second_ in (0.5, 1, 2)]

    assert shown == ["a", "b", None]


def test_values_are_never_read_as_templates() -> None:
    """Braces in a body or a secret stay what they are."""
    assert signature("", "k", body="{id}") == signature('content = "{{id}}"', "k")
    assert headers_of(contract('[headers]\ntoken = "{secret}"\n'), "{id}")["token"] == "{id}"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("hex", "fbefbe"), ("base64", "++++"), ("base64url", "----")],
)
def test_encodings(encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures are written in hex, base64 or base64url, padded, on one line."""
    from relay.contracts import keys as algorithms

    monkeypatch.setitem(algorithms.ALGORITHMS, "hmac-sha256", lambda key: lambda content: b"\xfb\xef\xbe")  # type: ignore[index]

    assert expected == signature(f'encoding = "{encoding}"', "k")


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
def test_plain_digests(digest: str) -> None:
    """A plain digest has the secret in what is digested."""
    expected = hashlib.new(digest, b"{}k").hexdigest()

    assert expected == signature(f'algorithm = "{digest}"\ncontent = "{{body}}{{secret}}"', "k")


def test_secrets_stay_out_of_repr() -> None:
    """Neither a signing key nor a secret shows what it holds (invariant 13)."""
    key = SigningKey(Template(()), lambda content: b"", Template(()), None)

    assert "hush" not in repr(Secret("hush"))
    assert "lambda" not in repr(key)


@pytest.mark.parametrize("digest", ["md5", "sha1", "sha256", "sha384", "sha512"])
def test_hmac_is_that_of_the_standard_library(digest: str) -> None:
    """Keys shorter than a block of the digest, of its length and longer sign as `hmac` does, each message anew."""
    block_bytes = hashlib.new(digest).block_size
    for size in (1, 24, block_bytes - 1, block_bytes, block_bytes + 1, 3 * block_bytes):
        key = bytes(range(256))[:size] * (1 + size // 256)
        sign = ALGORITHMS[f"hmac-{digest}"](key)
        for content in (b"", b"x", b"y" * 1_000):
            assert sign(content) == hmac.digest(key, content, digest)
