"""TLS to receivers over real sockets: whom relay trusts, what it shows, and what a timeline says when that fails (W6)."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from relay.core.model import Failure
from relay.core.tls import TlsIdentity, context_of
from relay.delivery import contexts as contexts_module
from relay.delivery.contexts import CONTEXTS_MAX, Contexts
from relay.delivery.courier import Courier
from tests.support.couriers import open_connections, post, running_courier, serving, showing, trusting
from tests.support.hostile import Hostile, Wire
from tests.support.receiver import Receiver

BOTH_LOOPS = True
"""Every async test here runs under asyncio's loop and under uvloop's."""

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@pytest.fixture(params=[TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])
def demanding(request: pytest.FixtureRequest, authority: trustme.CA) -> ssl.SSLContext:
    """What a receiver speaks that takes nobody without a client certificate of `authority`, in one version of TLS."""
    context = serving(authority.issue_cert("localhost"))
    context.maximum_version = request.param
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    return context


# What relay shows of itself


async def test_a_client_certificate_is_shown(
    courier: Courier, authority: trustme.CA, demanding: ssl.SSLContext
) -> None:
    """W6: a receiver that wants a client certificate gets the endpoint's, and the connection is used again."""
    identity = showing(authority, authority.issue_cert("relay.example"))
    async with Receiver(default=200, tls=demanding) as receiver:
        outcomes = [await courier.attempt(post(receiver.url, tls=identity)) for _ in range(2)]
    assert [outcome.status for outcome in outcomes] == [200, 200]
    assert [received.connection for received in receiver.received] == [1, 1]


async def test_the_certificate_of_the_courier_is_shown(authority: trustme.CA, demanding: ssl.SSLContext) -> None:
    """W6: what is set for all endpoints holds for those that say nothing themselves."""
    identity = showing(authority, authority.issue_cert("relay.example"))
    async with Receiver(200, tls=demanding) as receiver, running_courier(tls=identity) as courier:
        assert (await courier.attempt(post(receiver.url))).status == 200


@asynccontextmanager
async def alerting(context: ssl.SSLContext) -> AsyncIterator[str]:
    """Run one handshake that fails, and send the alert; asyncio's own server would end the connection without it."""

    def refuse(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False) as secured:
            with contextlib.suppress(OSError):
                secured.do_handshake()
            with contextlib.suppress(OSError):
                while os.read(secured.fileno(), 65536):  # to close with bytes unread would reset the connection
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        yield f"https://localhost:{listener.getsockname()[1]}/"
        await refusing


async def test_without_a_certificate_the_timeline_says_what_to_set(courier: Courier, demanding: ssl.SSLContext) -> None:
    """W6: under TLS 1.3 the alert comes when the handshake is over, under 1.2 in its middle: both say what to set."""
    async with alerting(demanding) as url:
        outcome = await courier.attempt(post(url))
    assert outcome.failure is Failure.TLS
    assert "wants a client certificate" in outcome.detail
    assert "`tls.client_cert`" in outcome.detail
    assert "`delivery.tls`" in outcome.detail


async def test_a_receiver_that_just_leaves_is_explained(courier: Courier, demanding: ssl.SSLContext) -> None:
    """W6: many receivers end the connection without an alert; the timeline says that a certificate may be what they miss."""
    async with Receiver(default=200, tls=demanding) as receiver:
        outcome = await courier.attempt(post(receiver.url))
    late = demanding.maximum_version is TLS_1_3
    assert outcome.failure is (Failure.BROKEN_RESPONSE if late else Failure.TLS)
    assert "perhaps the receiver wants a client certificate" in outcome.detail


async def test_a_receiver_that_leaves_later_is_not(courier: Courier, authority: trustme.CA) -> None:
    """Negative control: whoever answered once over a connection, or speaks TLS 1.2, has taken us as we are."""

    async def once(wire: Wire) -> None:
        await wire.request()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await wire.request()
        await wire.send(b"HTTP/1.1 2")

    async with Hostile(once, tls=serving(authority.issue_cert("localhost"))) as server:
        await courier.attempt(post(server.url))
        outcome = await courier.attempt(post(server.url))
    assert (outcome.failure, outcome.detail) == (Failure.BROKEN_RESPONSE, "the connection ended before an answer")


async def test_a_certificate_that_is_refused_is_named(
    courier: Courier, authority: trustme.CA, demanding: ssl.SSLContext
) -> None:
    """W6: a receiver that does not know who made our certificate: the timeline says which setting holds it."""
    stranger = trustme.CA().issue_cert("relay.example")
    async with alerting(demanding) as url:
        outcome = await courier.attempt(post(url, tls=showing(authority, stranger)))
    assert outcome.failure is Failure.TLS
    assert "refuses the client certificate" in outcome.detail
    assert "`tls.client_cert`" in outcome.detail


async def test_connections_are_not_shared_between_identities(courier: Courier, authority: trustme.CA) -> None:
    """Who shows another certificate, or trusts others, gets a connection of his own; who has the same, the same one."""
    first = showing(authority, authority.issue_cert("first.example"))
    second = showing(authority, authority.issue_cert("second.example"))
    trusts = trusting(authority)
    async with Receiver(default=200, tls=serving(authority.issue_cert("localhost"))) as receiver:
        for identity in (None, first, second, trusts, TlsIdentity(*first), None, second):
            assert (await courier.attempt(post(receiver.url, tls=identity))).status == 200
        assert [received.connection for received in receiver.received] == [1, 2, 3, 4, 2, 1, 3]
        assert open_connections(courier) == 4


async def test_a_key_stays_out_of_sight(authority: trustme.CA) -> None:
    """Neither the key nor what stands beside it is in the `repr` of an identity or of a request."""
    identity = showing(authority, authority.issue_cert("relay.example"))
    assert "BEGIN" not in repr(identity)
    assert "BEGIN" not in repr(post("https://localhost/", tls=identity))


# Whom it trusts


async def test_an_authority_of_the_endpoint_is_the_only_one(courier: Courier, authority: trustme.CA) -> None:
    """An endpoint's own `ca` is trusted instead of all others, for that endpoint alone."""
    private = trustme.CA()
    async with (
        Receiver(default=200, tls=serving(private.issue_cert("localhost"))) as theirs,
        Receiver(default=200, tls=serving(authority.issue_cert("localhost"))) as usual,
    ):
        assert (await courier.attempt(post(theirs.url, tls=trusting(private)))).status == 200
        assert (await courier.attempt(post(usual.url, tls=trusting(private)))).failure is Failure.TLS
        assert (await courier.attempt(post(theirs.url))).failure is Failure.TLS
        assert (await courier.attempt(post(usual.url))).status == 200


async def test_an_intermediate_authority_may_be_named(courier: Courier, authority: trustme.CA) -> None:
    """Whatever certificate stands in `ca` is trusted: its root need not be known."""
    intermediate = trustme.CA().create_child_ca()
    async with Receiver(default=200, tls=serving(intermediate.issue_cert("localhost"))) as receiver:
        assert (await courier.attempt(post(receiver.url, tls=trusting(intermediate)))).status == 200


def bad_certificates(authority: trustme.CA) -> Iterator[tuple[trustme.LeafCert, tuple[str, ...]]]:
    """Certificates that are refused, each with what its timeline says."""
    now, day = datetime.now(UTC), timedelta(days=1)
    expired = authority.issue_cert("localhost", not_before=now - 9 * day, not_after=now - day)
    yield expired, ("expired", "renewed there")
    yield authority.issue_cert("localhost", not_before=now + day, not_after=now + 9 * day), ("not yet valid", "clock")
    yield authority.issue_cert("elsewhere.example"), ("mismatch", "host in the URL")
    yield trustme.CA().issue_cert("localhost"), ("`tls.ca`", "`delivery.tls.ca_file`")


@pytest.mark.parametrize("number", range(4))
async def test_a_refused_certificate_says_what_to_do(courier: Courier, authority: trustme.CA, number: int) -> None:
    """W6: expired, not yet valid, of another host, of an unknown authority: each with its own remedy."""
    certificate, words = list(bad_certificates(authority))[number]
    async with Receiver(tls=serving(certificate)) as receiver:
        outcome = await courier.attempt(post(receiver.url))
    assert (outcome.failure, receiver.received) == (Failure.TLS, [])
    for word in words:
        assert word in outcome.detail, outcome.detail


async def test_a_version_that_is_too_old_is_named(courier: Courier, authority: trustme.CA) -> None:
    """W6: a receiver that speaks 1.2 alone, where 1.3 is asked for."""
    context = serving(authority.issue_cert("localhost"))
    context.maximum_version = TLS_1_2
    newer = trusting(authority, min_version="1.3")
    async with alerting(context) as url, Receiver(default=200, tls=context) as receiver:
        outcome = await courier.attempt(post(url, tls=newer))
        silent = await courier.attempt(post(receiver.url, tls=newer))
        usual = await courier.attempt(post(receiver.url))
    assert (outcome.failure, silent.failure) == (Failure.TLS, Failure.TLS)
    assert "speaks no version of TLS from `tls.min_version` on" in outcome.detail
    assert "`tls.min_version`" in silent.detail
    assert usual.trace is not None
    assert usual.trace.tls_version == "TLSv1.2"


async def test_a_certificate_of_a_hundred_kilobytes_is_refused(courier: Courier, authority: trustme.CA) -> None:
    """A receiver whose certificate has no end costs what OpenSSL reads of it, and is a TLS failure like any other."""
    huge = authority.issue_cert("localhost", *(f"n{number}.example" for number in range(9_000)))
    async with Receiver(default=200, tls=serving(huge)) as receiver:
        outcome = await courier.attempt(post(receiver.url))
    assert (outcome.failure, receiver.received) == (Failure.TLS, [])


async def test_a_port_without_tls_is_named(courier: Courier) -> None:
    """An http port behind an https URL: the timeline says to look at scheme and port."""

    async def answer(wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Hostile(answer) as server:
        outcome = await courier.attempt(post(server.url.replace("http://127.0.0.1", "https://localhost")))
    assert outcome.failure is Failure.TLS
    assert "scheme and port" in outcome.detail


async def test_what_openssl_refuses_is_a_failure_of_that_endpoint(courier: Courier, authority: trustme.CA) -> None:
    """A key that does not belong to its certificate, in an old database say: the attempt says where to look."""
    wrong = showing(authority, authority.issue_cert("a.example"))._replace(
        client_key=authority.issue_cert("b.example").private_key_pem.bytes().decode()
    )
    async with Receiver(default=200, tls=serving(authority.issue_cert("localhost"))) as receiver:
        outcome = await courier.attempt(post(receiver.url, tls=wrong))
        usual = await courier.attempt(post(receiver.url))
    assert (outcome.failure, usual.status) == (Failure.TLS, 200)
    assert "`tls.client_key`" in outcome.detail


# What it learns of the other end


async def test_the_certificate_of_the_receiver_is_known(courier: Courier, authority: trustme.CA) -> None:
    """Each attempt, over a kept connection too, says which certificate the receiver showed, and until when it is valid."""
    not_after = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
    certificate = authority.issue_cert("localhost", common_name="hooks.example", not_after=not_after)
    async with Receiver(default=200, tls=serving(certificate)) as receiver, Receiver(200) as plain:
        outcomes = [await courier.attempt(post(receiver.url)) for _ in range(2)]
        assert (await courier.attempt(post(plain.url))).certificate is None
    for outcome in outcomes:
        assert outcome.certificate is not None
        assert outcome.certificate.subject == "hooks.example"
        assert outcome.certificate.issuer.startswith("organizationName=trustme")
        assert outcome.certificate.not_after_ms == not_after.timestamp() * 1000


# Contexts


async def test_a_context_is_made_once_for_each_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal identities share a context, however many ask at once; those used last are kept, the others made anew."""
    made: list[TlsIdentity] = []

    def make(identity: TlsIdentity) -> ssl.SSLContext:
        made.append(identity)
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    monkeypatch.setattr(contexts_module, "context_of", make)
    contexts = Contexts(TlsIdentity(ca="default"))
    first = await contexts.get(None)
    assert await contexts.get(TlsIdentity(ca="default")) is first
    assert contexts.kept(None) is first
    for number in range(CONTEXTS_MAX):
        await contexts.get(TlsIdentity(ca=str(number)))
        assert contexts.kept(None) is first
    assert contexts.kept(TlsIdentity(ca="0")) is None
    assert len(made) == CONTEXTS_MAX + 1


def test_certificates_are_always_verified(authority: trustme.CA) -> None:
    """No identity turns verification off, of the certificate or of the host name."""
    for identity in (TlsIdentity(), trusting(authority), TlsIdentity(min_version="1.3")):
        context = context_of(identity)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
