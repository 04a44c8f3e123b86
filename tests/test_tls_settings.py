"""How TLS to receivers is set: `[delivery.tls]` and an endpoint's `tls`, in the file and through the API, whole (W6)."""

import json
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from relay.api.certificates import RECEIVER, Known, warnings_of
from relay.config import load
from relay.config.secrets import AUTHORITIES, PEM
from relay.config.tls import CHAIN_MAX
from relay.core.tls import Certificate
from tests.support.api import Api
from tests.support.config import WHSEC, read, sound
from tests.support.couriers import serving
from tests.support.receiver import Receiver
from tests.support.stack import Stack

NOW_MS = 1_800_000_000_000
DAY_MS = 24 * 3_600_000


def pem(certificate: trustme.LeafCert) -> tuple[str, str]:
    """A client certificate with its chain, and its key, as text."""
    chain = "".join(blob.bytes().decode() for blob in certificate.cert_chain_pems)
    return chain, certificate.private_key_pem.bytes().decode()


@pytest.fixture(scope="module")
def pair(authority: trustme.CA) -> tuple[str, str]:
    return pem(authority.issue_cert("relay.example"))


@pytest.fixture(scope="module")
def ca(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


def ending(authority: trustme.CA, now_ms: int, days: int) -> tuple[str, str]:
    """A client certificate that ends so many days after `now_ms`."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    day = timedelta(days=1)
    return pem(authority.issue_cert("relay.example", not_before=now - 30 * day, not_after=now + days * day))


def encrypted(key: str) -> str:
    plain = load_pem_private_key(key.encode(), None)
    return plain.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hidden")).decode()


# In the file


def file_with(folder: Path, delivery: dict[str, str], endpoint: dict[str, str] | None = None) -> str:
    """A configuration whose texts stand in files beside it, and are named as the file names secrets."""

    def named(key: str, text: str) -> str:
        path = folder / f"{key}.pem"
        path.write_text(text)
        return json.dumps(str(path) if key == "ca_file" else f"file:{path}")

    tls = "\n".join(f"{key} = {named(key, text)}" for key, text in delivery.items())
    own = ", ".join(f"{key} = {named(f'{key}-own', text)}" for key, text in (endpoint or {}).items())
    return f"""
[delivery.tls]
{tls}
[[application]]
id = "acme"
[[application.endpoint]]
id = "primary"
url = "https://example.com/"
secret = "{WHSEC}"
tls = {{ {own} }}
"""


def test_what_the_file_names_is_read(tmp_path: Path, ca: str, pair: tuple[str, str]) -> None:
    """The authorities come from a path, certificates and keys from references; nothing of it is in a `repr`."""
    delivery = {"ca_file": ca, "client_cert": pair[0], "client_key": pair[1]}
    own = {"ca": ca, "client_cert": pair[0], "client_key": pair[1]}
    config = sound(read(tmp_path, file_with(tmp_path, delivery, own)))
    tls = config.delivery.tls
    assert [text.get_secret_value().strip() for text in (tls.ca_file, tls.client_cert, tls.client_key)] == [
        text.strip() for text in delivery.values()
    ]
    assert "PRIVATE" not in repr(config)


FAULTY = [
    ("no-pem", {"ca": "nonsense"}, "tls.ca", "holds no certificate"),
    ("no-cert", {"client_cert": "nonsense", "client_key": "KEY"}, "tls.client_cert", "holds no certificate"),
    ("no-key", {"client_cert": "CERT"}, "tls.client_key", "is missing"),
    ("no-cert-for-key", {"client_key": "KEY"}, "tls.client_cert", "is missing"),
    ("other-key", {"client_cert": "CERT", "client_key": "OTHER"}, "tls.client_key", "does not belong"),
    ("encrypted", {"client_cert": "CERT", "client_key": "ENCRYPTED"}, "tls.client_key", "is encrypted"),
    ("odd-key", {"client_cert": "CERT", "client_key": "CERT"}, "tls.client_key", "holds no private key"),
    ("huge-chain", {"client_cert": "CHAIN", "client_key": "KEY"}, "tls.client_cert", f"{CHAIN_MAX} at most"),
    ("large", {"ca": "LARGE"}, "tls.ca", f"larger than {PEM.bytes_max} bytes"),
]


def texts(authority: trustme.CA, pair: tuple[str, str]) -> dict[str, str]:
    """What the words of `FAULTY` stand for."""
    chain, key = pair
    other = pem(authority.issue_cert("other.example"))[1]
    large = authority.cert_pem.bytes().decode() * (1 + PEM.bytes_max // 600)
    named = {"CERT": chain, "KEY": key, "OTHER": other, "ENCRYPTED": encrypted(key)}
    return named | {"CHAIN": chain * (CHAIN_MAX + 1), "LARGE": large}


@pytest.mark.parametrize(("written", "key", "message"), [row[1:] for row in FAULTY], ids=[row[0] for row in FAULTY])
def test_mistakes_of_the_file_are_found(
    tmp_path: Path, authority: trustme.CA, pair: tuple[str, str], written: dict[str, str], key: str, message: str
) -> None:
    """W6: whatever cannot be used is refused before anything runs, at its key, for one endpoint and for all."""
    meant = texts(authority, pair)
    given = {name: meant.get(word, word) for name, word in written.items()}
    found = read(tmp_path, file_with(tmp_path, {}, given)).errors
    assert [issue.path for issue in found] == [f"application[acme].endpoint[primary].{key}"]
    assert message in f"{found[0].message} {found[0].remedy}"
    assert not any("PRIVATE KEY-----\nM" in str(issue) for issue in found)
    common = {("ca_file" if name == "ca" else name): text for name, text in given.items()}
    if "LARGE" not in written.values():
        (issue,) = read(tmp_path, file_with(tmp_path, common)).errors
        assert issue.path == f"delivery.{key}".replace("tls.ca", "tls.ca_file" if key == "tls.ca" else "tls.ca")
        assert message in f"{issue.message} {issue.remedy}"


def test_several_mistakes_are_found_at_once(tmp_path: Path) -> None:
    """A wrong authority, a wrong certificate and a wrong key: three mistakes, of one endpoint as of all."""
    wrong = {"ca": "x", "client_cert": "y", "client_key": "z"}
    found = read(tmp_path, file_with(tmp_path, {}, wrong)).errors
    assert {issue.path.rpartition(".")[2] for issue in found} == set(wrong)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('ca_file = "/nowhere/ca.pem"', "no such file"),
        ('ca_file = "ca.pem"', "must be absolute"),
        ('client_cert = "/etc/relay/cert.pem"', "is the name of a file"),
        ('min_version = "1.1"', 'must be one of "1.2", "1.3"'),
        ("verify = false", "unknown key"),
        ("ca_file = 7", "in quotes"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: str, message: str) -> None:
    """Missing files, relative paths, a path where PEM belongs, old versions; verification has no switch."""
    (issue,) = read(tmp_path, f"[delivery.tls]\n{line}\n").errors
    assert message in f"{issue.message} {issue.remedy}"


def test_a_version_is_written_in_quotes(tmp_path: Path) -> None:
    """W6: a number in the place of a version of TLS is told which texts there are, for all endpoints and for one."""
    (common,) = read(tmp_path, "[delivery.tls]\nmin_version = 1.3\n").errors
    (own,) = read(tmp_path, file_with(tmp_path, {}, {}).replace("tls = {", "tls = { min_version = 1.3")).errors
    for issue in (common, own):
        assert (issue.message, issue.remedy) == ('must be one of "1.2", "1.3"', 'Did you mean "1.3"?')


def test_a_bundle_of_a_megabyte_is_refused(tmp_path: Path, ca: str) -> None:
    """A file of authorities has a largest size, above that of a whole system's; one below it is taken."""
    bundle = ca * (AUTHORITIES.bytes_max // len(ca))
    assert sound(read(tmp_path, file_with(tmp_path, {"ca_file": bundle}))).delivery.tls.ca_file
    (issue,) = read(tmp_path, file_with(tmp_path, {"ca_file": bundle + ca * 2})).errors
    assert f"larger than {AUTHORITIES.bytes_max} bytes" in issue.message


@pytest.mark.parametrize(("days", "words"), [(-1, "has expired"), (3, "expires in 3 days"), (30, None)])
def test_the_end_of_a_client_certificate_is_a_warning(
    tmp_path: Path, authority: trustme.CA, days: int, words: str | None
) -> None:
    """An expired certificate keeps nobody from starting; it is said, and a fortnight before."""
    chain, key = ending(authority, NOW_MS, days)
    path = tmp_path / "config.toml"
    path.write_text(
        file_with(tmp_path, {"client_cert": chain, "client_key": key}, {"client_cert": chain, "client_key": key})
    )
    path.chmod(0o600)
    loaded = load(path, {}, {}, now_ms=NOW_MS)
    assert loaded.errors == ()
    ends = [issue for issue in loaded.warnings if "client_cert" in issue.path]
    assert len(ends) == (0 if words is None else 2)
    for issue in ends:
        assert words is not None
        assert words in issue.message


def test_a_key_in_the_file_itself_is_a_warning_and_masked(tmp_path: Path, pair: tuple[str, str]) -> None:
    """A private key is a secret: written down literally it brings the same warning, and no listing shows it."""
    lines = "\n".join(f'{name} = """{text}"""' for name, text in zip(("client_cert", "client_key"), pair, strict=True))
    loaded = read(tmp_path, f"[delivery.tls]\n{lines}\n")
    assert any("holds secrets: delivery.tls.client_key" in issue.message for issue in loaded.warnings)
    (shown,) = (setting for setting in loaded.settings if setting.key == "delivery.tls.client_key")
    assert shown.value == "********"


# Through the API

ENDPOINTS = "/v1/webhook-endpoints"


async def test_an_endpoint_is_given_its_certificate_as_text(tmp_path: Path, ca: str, pair: tuple[str, str]) -> None:
    """The owner gives PEM texts; the answer names what they hold, the key never; a patch changes one part of it."""
    tls = {"ca": ca, "client_cert": pair[0], "client_key": pair[1]}
    async with Api(tmp_path) as api:
        answer = await api.call("POST", ENDPOINTS, {"url": "https://example.com/", "tls": tls}, by="acme-app")
        assert answer.status == 201, answer.text
        made, path = answer.json, f"{ENDPOINTS}/{answer.json['id']}"
        changed = (await api.call("PATCH", path, {"tls": {"min_version": "1.3"}}, by="acme-app")).json
        await api.stop()
        await api.start()
        shown = await api.get(path)
        endpoint = api.registry.endpoint(made["id"])
        reset = (await api.call("PATCH", path, {"tls": None})).json
    assert sorted(made["tls"]["client_cert"]) == ["issuer", "not_after", "not_before", "subject"]
    assert (made["tls"]["client_key"], made["tls"]["min_version"], len(made["tls"]["ca"])) == ("***", "1.2", 1)
    assert changed["tls"] == shown["tls"] == made["tls"] | {"min_version": "1.3"}
    assert "PRIVATE" not in json.dumps([made, changed, shown])
    assert endpoint.tls is not None
    assert (endpoint.tls.client_key, endpoint.tls.system) == (pair[1], False)
    assert reset["tls"] is None


FITTING = [row for row in FAULTY if row[0] != "large"]
"""A request with the large one is refused as a whole: it is beyond `limits.definition`."""


@pytest.mark.parametrize(("written", "key", "message"), [row[1:] for row in FITTING], ids=[row[0] for row in FITTING])
async def test_mistakes_in_a_request_are_found(
    tmp_path: Path, authority: trustme.CA, pair: tuple[str, str], written: dict[str, str], key: str, message: str
) -> None:
    """W6: the API refuses what the file refuses, each mistake with its pointer."""
    meant = texts(authority, pair)
    tls = {name: meant.get(word, word) for name, word in written.items()}
    async with Api(tmp_path) as api:
        answer = await api.call("POST", ENDPOINTS, {"url": "https://example.com/", "tls": tls}, by="acme-app")
    assert answer.status == 422
    assert [error["pointer"] for error in answer.json["errors"]] == [f"/{key.replace('.', '/')}"]
    assert message in answer.json["errors"][0]["message"]


@pytest.mark.parametrize("named", ["file:/etc/shadow", "cred:key", "env:HOME", "/etc/relay/key.pem"])
@pytest.mark.parametrize("key", ["ca", "client_cert", "client_key"])
async def test_no_request_names_files_of_this_host(tmp_path: Path, named: str, key: str) -> None:
    """A reference is no PEM text: nothing is opened, and the answer does not depend on what is there."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", ENDPOINTS, {"url": "https://example.com/", "tls": {key: named}}, by="acme-app")
    assert answer.status == 422
    (error,) = answer.json["errors"]
    assert error["pointer"] == f"/tls/{key}"
    assert "configuration file" in error["message"]


async def test_tls_for_an_http_address_is_refused(tmp_path: Path, ca: str) -> None:
    """What would have no effect is a mistake."""
    async with Api(tmp_path) as api:
        answer = await api.call("POST", ENDPOINTS, {"url": "http://example.com/", "tls": {"ca": ca}}, by="acme-app")
    assert [error["pointer"] for error in answer.json["errors"]] == ["/tls"]


async def test_a_patch_answers_for_what_it_makes_wrong_elsewhere(tmp_path: Path, ca: str) -> None:
    """W6: an http address leaves nothing for TLS to do, whichever of the two a patch names; to change both is fine."""
    async with Api(tmp_path) as api:
        made = await api.call("POST", ENDPOINTS, {"url": "https://example.com/", "tls": {"ca": ca}}, by="acme-app")
        path = f"{ENDPOINTS}/{made.json['id']}"
        refused = await api.call("PATCH", path, {"url": "http://example.com/"}, by="acme-app")
        shown = await api.get(path)
        both = await api.call("PATCH", path, {"url": "http://example.com/", "tls": None}, by="acme-app")
    assert (refused.status, [error["pointer"] for error in refused.json["errors"]]) == (422, ["/tls"])
    assert (shown["url"], both.status) == ("https://example.com/", 200)


async def test_the_end_of_a_client_certificate_is_said_at_once(tmp_path: Path, authority: trustme.CA) -> None:
    """An expired certificate is taken, and the answer warns of it; so does the status, and a metric has its end."""
    chain, key = ending(authority, NOW_MS, -1)
    tls = {"client_cert": chain, "client_key": key}
    async with Api(tmp_path) as api:
        made = (await api.call("POST", ENDPOINTS, {"url": "https://example.com/", "tls": tls}, by="acme-app")).json
        status = await api.get("/v1/status")
        metrics = (await api.call("GET", "/metrics")).text.decode()
    assert [(found["pointer"], "has expired" in found["message"]) for found in made["warnings"]] == [
        ("/tls/client_cert", True)
    ]
    assert (
        f"The client certificate of endpoint {made['id']} has expired; put a new one in its place."
        in status["warnings"]
    )
    assert f'relay_certificate_not_after_seconds{{endpoint="{made["id"]}",side="client"}}' in metrics


# In force


async def test_an_authority_that_changes_on_disk_is_read_at_a_reload(tmp_path: Path, authority: trustme.CA) -> None:
    """W6: the file of authorities is read again at each reload, though the configuration names the same path."""
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(trustme.CA().cert_pem.bytes())
    async with Receiver(default=204, tls=serving(authority.issue_cert("localhost"))) as receiver:
        delivery = f'tls = {{ ca_file = "{bundle}" }}'
        async with Stack(tmp_path, endpoints={"primary": receiver.url}, delivery=delivery) as stack:
            _, before = await stack.call("POST", f"{ENDPOINTS}/primary/test")
            authority.cert_pem.write_to_path(str(bundle))
            status, reload = await stack.call("POST", "/v1/reload")
            _, after = await stack.call("POST", f"{ENDPOINTS}/primary/test")
            _, nothing = await stack.call("POST", "/v1/reload")
    assert status == 200
    assert (before["failure"], after["status"]) == ("tls", 204)
    assert (reload["changed"], nothing["changed"]) == (["delivery.tls.ca_file"], [])


async def test_a_new_application_says_that_the_certificate_of_its_endpoint_ends(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """The endpoint that comes with an application is judged like any other."""
    chain, key = ending(authority, NOW_MS, 2)
    endpoint = {"url": "https://example.com/", "tls": {"client_cert": chain, "client_key": key}}
    async with Api(tmp_path) as api:
        answer = await api.call("POST", "/v1/applications", {"id": "newcomer", "endpoint": endpoint})
    assert [found["pointer"] for found in answer.json["warnings"]] == ["/endpoint/tls/client_cert"]
    assert "PRIVATE" not in answer.text.decode()


async def test_a_reload_with_a_broken_certificate_changes_nothing(tmp_path: Path, authority: trustme.CA) -> None:
    """A file that holds no certificate any more refuses the reload; deliveries go on with what was read before."""
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    async with (
        Receiver(default=204, tls=serving(authority.issue_cert("localhost"))) as receiver,
        Stack(tmp_path, endpoints={"a": receiver.url}, delivery=f'tls = {{ ca_file = "{bundle}" }}') as stack,
    ):
        bundle.write_text("gone")
        status, problem = await stack.call("POST", "/v1/reload")
        _, test = await stack.call("POST", f"{ENDPOINTS}/a/test")
    assert (status, test["status"]) == (422, 204)
    assert "holds no certificate" in json.dumps(problem)


@pytest.mark.parametrize("of", ["delivery", "endpoint"])
async def test_a_client_certificate_of_the_file_is_shown(
    tmp_path: Path, authority: trustme.CA, pair: tuple[str, str], of: str
) -> None:
    """W6: a receiver that wants a certificate gets the one of the file, set for all endpoints or for its own."""
    for name, text in zip(("cert", "key"), pair, strict=True):
        (tmp_path / name).write_text(text)
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    shown = f'client_cert = "file:{tmp_path}/cert", client_key = "file:{tmp_path}/key"'
    for_all = f'ca_file = "{tmp_path}/ca"' + (f", {shown}" if of == "delivery" else "")
    own = f"tls = {{ {shown} }}" if of == "endpoint" else ""
    context = serving(authority.issue_cert("localhost"))
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    async with (
        Receiver(default=204, tls=context) as receiver,
        Stack(
            tmp_path,
            endpoints={"primary": receiver.url},
            delivery=f"tls = {{ {for_all} }}",
            endpoint_settings=own,
        ) as stack,
    ):
        event = await stack.post()
        await stack.settled(event["id"], "delivered")


async def test_the_certificate_of_a_receiver_is_in_its_view(tmp_path: Path, authority: trustme.CA) -> None:
    """From the first handshake on an endpoint shows its receiver's certificate; a fortnight before its end status warns."""
    certificate = authority.issue_cert(
        "localhost", common_name="hooks.example", not_after=datetime.now(UTC) + timedelta(days=5, hours=1)
    )
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    delivery = f'tls = {{ ca_file = "{tmp_path}/ca" }}'
    async with (
        Receiver(default=204, tls=serving(certificate)) as receiver,
        Stack(tmp_path, endpoints={"primary": receiver.url}, delivery=delivery) as stack,
    ):
        _, before = await stack.call("GET", f"{ENDPOINTS}/primary")
        await stack.settled((await stack.post())["id"], "delivered")
        _, after = await stack.call("GET", f"{ENDPOINTS}/primary")
        _, status = await stack.call("GET", "/v1/status")
        _, metrics = await stack.call("GET", "/metrics")
    assert before["certificate"] is None
    assert after["certificate"]["subject"] == "hooks.example"
    assert "The certificate of primary's receiver expires in 5 days; put a new one in its place." in status["warnings"]
    assert 'relay_certificate_not_after_seconds{endpoint="primary",side="receiver"}' in metrics


def test_many_certificates_that_end_are_counted(tmp_path: Path) -> None:
    """A status names the five that end first, and counts the others."""
    ending_at = [
        Known(f"e{number}", RECEIVER, Certificate("s", "i", 0, NOW_MS + number * DAY_MS)) for number in range(9)
    ]
    found = warnings_of(reversed(ending_at), NOW_MS)
    assert [text.partition("'")[0] for text in found[:-1]] == [f"The certificate of e{number}" for number in range(5)]
    assert found[-1] == "4 more certificates have expired or will soon."
    assert warnings_of([Known("e", RECEIVER, Certificate("s", "i", 0, NOW_MS + 15 * DAY_MS))], NOW_MS) == []


def test_a_daemon_without_certificates_loads_no_cryptography() -> None:
    """What reads certificates takes 16 MiB, and is loaded when one is given."""
    code = "import sys, relay.daemon.process, relay.daemon.service; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
