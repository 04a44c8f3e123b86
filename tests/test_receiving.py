"""docs/RECEIVING.md: every snippet takes what the relay signs and refuses everything else."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.contracts import Contract
from relay.core.model import Secret
from tests.support.contract_files import built_in, contract
from tests.support.daemon import SECRET
from tests.support.five import SECRETS, TEXT_SECRET, all_delivered, application, catalogue, send_all
from tests.support.signed import Signed, signed
from tests.support.snippets import INTERPRETERS, Case, is_there, judged, snippets
from tests.support.stack import Stack
from tests.test_cli_check_receiver import Found, found, of

SNIPPETS = snippets("RECEIVING.md")
VERIFIERS = {key: code for key, code in SNIPPETS.items() if key[0] != "receiver"}

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
PAIR = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
OTHER_PAIR = built_in("standard").new_secret(os.urandom, like=PAIR)

RSA = contract(
    '[[signature]]\nheader = "X-Signature"\nalgorithm = "rsa-sha256"\nencoding = "base64"\nkey = { decode = "pem" }\n'
    'secrets = "first"'
)
ECDSA = contract(
    '[headers]\nX-Twilio-Email-Event-Webhook-Timestamp = "{timestamp}"\n[[signature]]\n'
    'header = "X-Twilio-Email-Event-Webhook-Signature"\nalgorithm = "ecdsa-p256-sha256"\ncontent = "{timestamp}{body}"\n'
    'encoding = "base64"\nkey = { decode = "base64" }\nsecrets = "first"'
)

KINDS: dict[str, tuple[Contract, str, str]] = {
    "standard": (built_in("standard"), SECRET, OTHER),
    "hex": (built_in("editframe"), TEXT_SECRET, "another"),
    "base64": (
        contract('[[signature]]\nheader = "X-Shopify-Hmac-Sha256"\nencoding = "base64"\nsecrets = "first"'),
        TEXT_SECRET,
        "another",
    ),
    "stripe": (
        contract(
            '[[signature]]\nheader = "Stripe-Signature"\ncontent = "{timestamp}.{body}"\neach = "v1={sig}"\n'
            'value = "t={timestamp},{sigs}"'
        ),
        TEXT_SECRET,
        "another",
    ),
    "slack": (
        contract(
            '[headers]\nX-Slack-Request-Timestamp = "{timestamp}"\n[[signature]]\nheader = "X-Slack-Signature"\n'
            'content = "v0:{timestamp}:{body}"\neach = "v0={sig}"\nsecrets = "first"'
        ),
        TEXT_SECRET,
        "another",
    ),
    "url": (
        contract(
            '[[signature]]\nheader = "x-square-hmacsha256-signature"\ncontent = "{url}{body}"\nencoding = "base64"\n'
            'secrets = "first"'
        ),
        TEXT_SECRET,
        "another",
    ),
    "ed25519": (built_in("standard"), PAIR, OTHER_PAIR),
    "rsa": (RSA, RSA.new_secret(os.urandom), RSA.new_secret(os.urandom)),
    "ecdsa": (ECDSA, ECDSA.new_secret(os.urandom), ECDSA.new_secret(os.urandom)),
    "form": (
        contract(
            '[[signature]]\nheader = "X-Twilio-Signature"\nalgorithm = "hmac-sha1"\ncontent = "{url}{sorted_fields}"\n'
            'encoding = "base64"\nsecrets = "first"\n',
            body='[body]\nkind = "form"\nmembers = [{ name = "MessageSid", value = "{id}" }, '
            '{ name = "Body", value = "{data.title}" }, { name = "AccountSid", value = "{type}" }]\n',
        ),
        TEXT_SECRET,
        "another",
    ),
    "token": (contract('[headers]\nX-Gitlab-Token = "{secret}"'), TEXT_SECRET, "another"),
}
"""By name of a snippet: what it takes, the secret that signs, and another of its kind."""

TIMED = {"standard", "stripe", "slack", "ed25519", "ecdsa"}
UNCOVERED = {"token"}
"""Kinds that say nothing about the body."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def cases(name: str) -> Iterator[tuple[str, Case, bool]]:
    """Yield deliveries of a kind, each with what it is called and whether it is right."""
    made, secret, other = KINDS[name]
    known, unknown = (next(iter(made.public_keys([Secret(text)])), text) for text in (secret, other))
    data = '{"title":"Grüße","n":30.0}'.encode()

    def sent(at_ms: int = 0, *secrets: str) -> Signed:
        return signed(made, *(secrets or (secret,)), at_ms=at_ms or now_ms(), data=data)

    headers, body = sent()
    yield "right", Case(headers, body, known), True
    yield "another secret", Case(headers, body, unknown), False
    yield "a changed body", Case(headers, body.replace(b"Gr", b"gr"), known), name in UNCOVERED
    proofs = {entry.header for entry in made.document.signature} or set(made.document.headers)
    for header in proofs:
        bare = {given: value for given, value in headers.items() if given != header}
        yield f"no {header}", Case(bare, body, known), False
        for text in ("", "ü" * len(headers[header]), headers[header][:-4], "v1=,t=x,v1", "v1, v1a,"):
            yield f"{header}: {text}", Case(headers | {header: text}, body, known), False
    if name in TIMED:
        for age_s, right in ((3600, False), (-3600, False), (240, True)):
            old = sent(now_ms() - age_s * 1000)
            yield f"{age_s} s old", Case(old.headers, old.body, known), right
        fresh = sent(now_ms() - 3_600_000).headers
        for header in fresh:
            if header.lower().endswith("timestamp"):
                yield "another time than was signed", Case(fresh | {header: str(now_ms() // 1000)}, body, known), False
                yield "no time", Case(fresh | {header: "soon"}, body, known), False
    if made.overlaps:
        rotated = sent(0, *((OTHER, secret) if name == "ed25519" else (other, secret)))
        yield "two signatures, the second is right", Case(rotated.headers, rotated.body, known), True


@pytest.mark.slow
@pytest.mark.timeout(180)  # a compiler that has not run before
@pytest.mark.parametrize(("name", "language"), VERIFIERS)
def test_each_snippet_tells_right_from_wrong(tmp_path: Path, name: str, language: str) -> None:
    """Deliveries of the relay's own signing are taken; wrong, old, changed, truncated and odd ones are refused, none throws."""
    if not is_there(language):
        pytest.skip(f"needs {INTERPRETERS[language]}: this snippet of docs/RECEIVING.md runs in it")
    asked = list(cases(name))
    verdicts = judged(language, VERIFIERS[name, language], [case for _, case, _ in asked], tmp_path)

    assert len(verdicts) == len(asked) >= 8
    wrong = [what for (what, _, right), verdict in zip(asked, verdicts, strict=True) if verdict != right]
    assert wrong == []


def test_a_snippet_that_takes_everything_is_noticed(tmp_path: Path) -> None:
    """Negative control: a `verify` that always says yes is wrong in all cases but the right ones."""
    asked = list(cases("standard"))
    code = "def verify(headers, body, secret):\n    return True\n"
    verdicts = judged("python", code, [case for _, case, _ in asked], tmp_path)

    assert sum(verdict != right for (_, _, right), verdict in zip(asked, verdicts, strict=True)) >= 8


def test_each_kind_is_there_in_python_and_node() -> None:
    """One snippet for each kind of signature in both; the kind of `standard` in six languages."""
    assert {language for name, language in VERIFIERS if name == "standard"} == set(INTERPRETERS)
    for language in ("python", "node"):
        assert {name for name, of_language in VERIFIERS if of_language == language} == set(KINDS)


def test_the_variants_in_comments_are_right(tmp_path: Path) -> None:
    """With the constants that its comment names, the snippet for hex takes GitHub's signatures."""
    github = contract('[[signature]]\nheader = "X-Hub-Signature-256"\neach = "sha256={sig}"\nsecrets = "first"')
    sent = signed(github, TEXT_SECRET, at_ms=now_ms())
    for language in filter(is_there, ("python", "node")):
        code = VERIFIERS["hex", language]
        line = next(line for line in code.splitlines() if "GitHub: " in line)
        header, prefix = re.findall(r'"[^"]*"', line.partition("GitHub: ")[2])
        changed = code.replace('"x-webhook-signature"', header).replace('PREFIX = ""', f"PREFIX = {prefix}")
        changed = changed.replace(f'{header}, ""', f"{header}, {prefix}")
        assert judged(language, changed, [Case(sent.headers, sent.body, TEXT_SECRET)], tmp_path) == [True]


# -- whole receivers ---------------------------------------------------------------------------------------------------


@contextmanager
def running(language: str, folder: Path, verifier: str, secret: str = SECRET) -> Iterator[str]:
    """Run a whole receiver of the document, with one of its verifiers, in a process of its own; gives its URL."""
    name = {"python": "receiver.py", "node": "receiver.js"}[language]
    (folder / name).write_text(verifier + "\n" + SNIPPETS["receiver", language])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "WEBHOOK_SECRET": secret, "PORT": str(port), "DATABASE": str(folder / "inbox.db")}
    command = [sys.executable if language == "python" else "node", str(folder / name)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"http://127.0.0.1:{port}/hooks"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("language", ["python", "node"])
async def test_nothing_is_found_in_the_receivers_of_the_document(tmp_path: Path, language: str) -> None:
    """`relay check-receiver` finds no fault in the whole receivers, and nothing to remark."""
    if not is_there(language):
        pytest.skip(f"needs {INTERPRETERS[language]}: this receiver of docs/RECEIVING.md runs in it")
    with running(language, tmp_path, SNIPPETS["standard", language]) as url:
        findings = await asyncio.wait_for(found(url), 50)

    assert {finding.check: finding.says for finding in findings if finding.result is not Found.FINE} == {}
    assert len(of(Found.FINE, findings)) == 10


def as_documented(service: str, language: str) -> str:
    """The verifier that the document names for a service, with the headers of that service."""
    if service == "roughy":
        return SNIPPETS["standard", language].replace("webhook-", "svix-")
    header = {"editframe": "x-webhook-signature", "videoaiditor": "x-signature"}[service]
    return SNIPPETS["hex", language].replace("x-webhook-signature", header)


@pytest.mark.parametrize("language", ["python", "node"])
@pytest.mark.parametrize("service", ["roughy", "editframe", "videoaiditor"])
async def test_the_receivers_of_the_document_take_every_event(tmp_path: Path, service: str, language: str) -> None:
    """Behind a running relay the whole receivers answer 2xx to each type of the catalogue of each service that signs."""
    if not is_there(language):
        pytest.skip(f"needs {INTERPRETERS[language]}: this receiver of docs/RECEIVING.md runs in it")
    with running(language, tmp_path, as_documented(service, language), SECRETS[service]) as url:
        async with Stack(tmp_path, extra=application(service, url)) as stack:
            sent = await send_all(stack.call, service)
            tests = sum(posting.test_only for posting in catalogue(service))
            await all_delivered(stack.call, service, len(sent) - tests)

    assert len(sent) == len(built_in(service).types)
