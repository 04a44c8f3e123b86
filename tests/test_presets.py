"""The contracts of well-known services that come with the relay: the services' own libraries and published vectors take them."""

import asyncio
import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from click.testing import CliRunner
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from cloudevents.core.exceptions import CloudEventValidationError
from hubspot.utils.signature import Signature as HubSpot
from paddle_billing.Notifications import Secret as PaddleSecret
from paddle_billing.Notifications import Verifier as Paddle
from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import PlainTextObject, SectionBlock
from slack_sdk.signature import SignatureVerifier as Slack
from square.utils.webhooks_helper import verify_signature
from stripe import SignatureVerificationError, Webhook
from twilio.request_validator import RequestValidator as Twilio

from relay.cli import main
from relay.contracts import ContractCatalogue
from relay.contracts.fields import ENCODINGS
from relay.contracts.signing import signing_keys
from relay.core.model import Secret
from tests.support.contract_files import built_in
from tests.support.daemon import TOKEN
from tests.support.five import all_delivered, application, catalogue
from tests.support.node_receivers import NODE
from tests.support.signed import Signed, signed
from tests.support.stack import Stack
from tests.test_cli_listen import desk

URL = "https://example.com/hooks?a=1&b=%2F"
SECRET = "a secret of text"
OTHER = "another"
NAMES = ContractCatalogue.load().names


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def secrets_of(name: str) -> tuple[str, ...]:
    """The secret of an endpoint under a contract: none where nothing is signed."""
    made = built_in(name)
    return (made.new_secret(lambda size: bytes(range(size))),) if made.signs else ()


def examples(name: str) -> Iterator[tuple[str, bytes]]:
    """Yield each type of a catalogue and its example."""
    yield from ((type, listed.example) for type, listed in built_in(name).types.items())


def changed(sent: Signed) -> Signed:
    """Change one byte of the body, so that it stays JSON, or a form."""
    at = max(sent.body.rfind(letter) for letter in b"aeiou")
    return sent._replace(body=sent.body[:at] + b"y" + sent.body[at + 1 :])


# -- the services' own libraries ---------------------------------------------------------------------------------------


def stripe(sent: Signed, secret: str) -> bool:
    try:
        return bool(Webhook.construct_event(sent.body, sent.headers["Stripe-Signature"], secret).id == "evt_1")
    except SignatureVerificationError:
        return False


def slack(sent: Signed, secret: str) -> bool:
    return Slack(secret).is_valid_request(sent.body, sent.headers)


def twilio(sent: Signed, secret: str) -> bool:
    fields = dict(parse_qsl(sent.body.decode(), keep_blank_values=True, strict_parsing=True))
    return bool(Twilio(secret).validate(URL, fields, sent.headers["X-Twilio-Signature"]))


def hubspot(sent: Signed, secret: str) -> bool:
    signature, at = (sent.headers[f"X-HubSpot-{name}"] for name in ("Signature-v3", "Request-Timestamp"))
    told = HubSpot.is_valid(signature, secret, sent.body.decode(), URL, "POST", "v3", at)
    return bool(told)


def square(sent: Signed, secret: str) -> bool:
    return verify_signature(
        request_body=sent.body.decode(),
        signature_header=sent.headers["x-square-hmacsha256-signature"],
        signature_key=secret,
        notification_url=URL,
    )


def paddle(sent: Signed, secret: str) -> bool:
    request = SimpleNamespace(headers=sent.headers, body=sent.body)
    return bool(Paddle(maximum_variance=300).verify(request, PaddleSecret(secret)))


LIBRARIES: dict[str, Callable[[Signed, str], bool]] = {
    "stripe": stripe,
    "slack": slack,
    "twilio": twilio,
    "hubspot": hubspot,
    "square": square,
    "paddle": paddle,
}
PACKAGES = ("github", "shopify", "mux")
"""Those whose library is of npm: tests/node/presets.js asks it."""


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_official_library_takes_every_type(name: str) -> None:
    """Each type of the catalogue verifies; with another secret, or a changed body, it does not (negative control)."""
    takes = LIBRARIES[name]
    logging.disable()
    try:
        for type, data in examples(name):
            sent = signed(built_in(name), SECRET, at_ms=now_ms(), type=type, data=data, url=URL)
            assert takes(sent, SECRET), type
            assert not takes(sent, OTHER), type
            assert not takes(changed(sent), SECRET), type
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("node_modules")
def test_the_official_packages_of_npm_take_every_type() -> None:
    """GitHub, Shopify and Mux: each type verifies; with another secret, or a changed body, it does not (negative control)."""
    asked: list[dict[str, Any]] = []
    wanted: list[bool] = []
    for name in PACKAGES:
        for type, data in examples(name):
            metadata = b'{"shop_domain":"super-toys.myshopify.com","api_version":"2026-10"}'
            sent = signed(built_in(name), SECRET, at_ms=now_ms(), type=type, data=data, url=URL, metadata=metadata)
            for try_, secret, right in ((sent, SECRET, True), (sent, OTHER, False), (changed(sent), SECRET, False)):
                asked.append({"preset": name, "secret": secret, "headers": try_.headers, "body": try_.body.decode()})
                wanted.append(right)

    told = subprocess.run(["node", "presets.js"], cwd=NODE, input=json.dumps(asked).encode(), capture_output=True)

    assert told.returncode == 0, told.stderr.decode()
    assert json.loads(told.stdout) == wanted


def test_both_secrets_of_a_rotation_verify() -> None:
    """Stripe and Paddle say a signature for each active secret; their libraries take either."""
    for name in ("stripe", "paddle"):
        type, data = next(examples(name))
        sent = signed(built_in(name), SECRET, OTHER, at_ms=now_ms(), type=type, data=data)
        assert LIBRARIES[name](sent, SECRET)
        assert LIBRARIES[name](sent, OTHER)


@pytest.mark.parametrize("name", ["cloudevents", "cloudevents-binary"])
def test_the_library_of_cloudevents_reads_them(name: str) -> None:
    """The official SDK reads id, type, time, subject and data; without its `source` it refuses (negative control)."""
    data, metadata = b'{"total":19.90,"name":"\xc3\xbc"}', '{"subject":"Grüße 100 %"}'.encode()
    sent = signed(built_in(name), at_ms=1_700_000_000_123, type="order.paid", data=data, metadata=metadata)

    read = from_http_event(HTTPMessage(sent.headers, sent.body))

    assert (read.get_id(), read.get_type(), read.get_source()) == ("evt_1", "order.paid", "/relay")
    assert (read.get_subject(), read.get_data()) == ("Grüße 100 %", {"total": 19.90, "name": "ü"})
    assert read.get_time() == datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)
    headers = {key: text for key, text in sent.headers.items() if key != "ce-source"}
    with pytest.raises(CloudEventValidationError):
        from_http_event(HTTPMessage(headers, sent.body.replace(b'"source"', b'"sauce"')))


def test_messages_for_slack_are_blocks_of_its_library() -> None:
    """Slack's own model takes the block, whose text is plain; one that is too long it refuses (negative control)."""
    ((type, data),) = examples("slack-incoming")
    message = json.loads(signed(built_in("slack-incoming"), at_ms=0, type=type, data=data).body)

    (block,) = (SectionBlock(text=PlainTextObject(text=block["text"]["text"])) for block in message["blocks"])
    block.validate_json()

    assert block.to_dict() == message["blocks"][0]
    assert message["text"] == "order.paid"
    with pytest.raises(SlackObjectFormationError):
        SectionBlock(text=PlainTextObject(text="x" * 3001)).validate_json()


# -- published vectors -------------------------------------------------------------------------------------------------


def headers(name: str, *secrets: str, body: bytes, at_ms: int = 0, url: str = URL) -> dict[str, str]:
    """Sign bytes that a service prints."""
    signer = built_in(name).signer(tuple(map(Secret, secrets)), url, "ep_1")
    return signer.headers(id="evt_1", type="any", timestamp_ms=at_ms, body=body, attempt=1)


def test_the_vector_of_github() -> None:
    """The secret and payload that GitHub's page prints have the signature that it prints."""
    sent = headers("github", "It's a Secret to Everybody", body=b"Hello, World!")
    assert sent["X-Hub-Signature-256"] == "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


def test_the_vector_of_slack() -> None:
    """The request that Slack's page prints has the signature that it prints."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    sent = headers("slack", "8f742231b10e8888abcd99yyyzzz85a5", body=body, at_ms=1_531_420_618_000)
    assert sent["X-Slack-Signature"] == "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"


def test_the_vector_of_twilio() -> None:
    """The fields and URL that Twilio's libraries test with have the signature that they have there."""
    data = b'{"To":"+18005551212","From":"+14158675309","Digits":"1234","Caller":"+14158675309","CallSid":"CA1234567890ABCDE"}'
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    sent = signed(built_in("twilio"), "12345", at_ms=0, type="call.gathered", data=data, url=url)
    assert sent.headers["X-Twilio-Signature"] == "RSOYDt4T1cUTdK1PDd93/VVr8B8="
    assert sent.headers["Content-Type"] == "application/x-www-form-urlencoded"


def test_the_vector_of_box() -> None:
    """Both signatures that Box prints: the newest secret makes the primary one, the secret before it the secondary one."""
    body = (
        b'{"type":"webhook_event","webhook":{"id":"1234567890"},"trigger":"FILE.UPLOADED",'
        b'"source":{"id":"1234567890","type":"file","name":"Test.txt"}}'
    )
    made = built_in("box")
    for entry, secret, printed in (
        ("BOX-SIGNATURE-PRIMARY", "SamplePrimaryKey", "6TfeAW3A1PASkgboxxA5yqHNKOwFyMWuEXny/FPD5hI="),
        ("BOX-SIGNATURE-SECONDARY", "SampleSecondaryKey", "v+1CD1Jdo3muIcbpv5lxxgPglOqMfsNHPV899xWYydo="),
    ):
        (signature,) = (found for found in made.document.signature if found.header == entry)
        values = {"body": body, "timestamp": b"2020-01-01T00:00:00-07:00"}
        (key,) = signing_keys(signature, (Secret(secret),), {})
        assert ENCODINGS[signature.encoding](key.sign(key.content.render(values))).decode() == printed


# -- every contract with every tool -----------------------------------------------------------------------------------


def run(*words: str, stdin: bytes | None = None) -> str:
    result = CliRunner().invoke(main, words, input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_types_and_verify_work_with_each(name: str) -> None:
    """`relay types` lists the catalogue; `relay verify` takes an attempt of each type of a contract that signs."""
    listed = run("types", "--contract", name)
    assert built_in(name).types
    for type, data in examples(name):
        assert type in listed
        sent = signed(built_in(name), *secrets_of(name), at_ms=now_ms(), type=type, data=data, url=URL)
        if secrets := secrets_of(name):
            given = [word for pair in sent.headers.items() for word in ("-H", ": ".join(pair))]
            where = ("--contract", name, "--url", URL, "--endpoint", "ep_1", "--secret", secrets[0])
            assert "verified" in run("verify", *where, *given, stdin=sent.body).lower()


@pytest.mark.parametrize("name", NAMES)
async def test_trigger_and_listen_work_with_each(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`relay trigger` sends each type of the catalogue through a running relay, and `relay listen` takes it."""
    secrets = secrets_of(name)
    async with desk(*secrets, name=name) as here:
        extra = application(name, here.url, secret=next(iter(secrets), None))
        async with Stack(tmp_path, clock=here.clock, extra=extra) as stack:
            monkeypatch.setenv("RELAY_URL", stack.url)
            monkeypatch.setenv("RELAY_TOKEN", TOKEN)
            for posting in catalogue(name):
                where = ("--endpoint", f"{name}-1") if posting.test_only else ("--application", name)
                await asyncio.to_thread(run, "trigger", posting.type, *where)
            tests = sum(posting.test_only for posting in catalogue(name))
            await all_delivered(stack.call, name, len(built_in(name).types) - tests)

    assert (here.tally.right, here.tally.wrong) == (len(built_in(name).types), 0)
