"""Why an attempt ended without an answer: a class for the queue, and a line for people without secrets or addresses."""

import errno
import os
import socket
import ssl
from collections.abc import Mapping

from relay.core.model import Failure
from relay.core.netguard import OTHER_SERVICE, ForbiddenAddress, why_refused
from relay.core.terminal import printable
from relay.delivery.answer import NotHTTP
from relay.delivery.dial import NoSource, NotConnected
from relay.delivery.exchange import Dropped, Late
from relay.delivery.request import Unsendable
from relay.delivery.resolver import NO_DESCRIPTORS
from relay.delivery.trail import Stage

REASON_MAX = 160

Explained = tuple[Failure, str]

_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})
_NO_WAY_OUT = frozenset(
    {
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EHOSTUNREACH,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
        errno.ENOBUFS,
        errno.ENOMEM,
    }
)
"""No route, an interface that is down, no local port left, or a firewall of this host."""

_OUT_OF_TIME = frozenset({9, 10})  # X509_V_ERR: not yet valid, expired; on many hosts at once it is our clock

_AUTHORITY = (
    "its authority is none that is trusted here; name a private one, as PEM, in the endpoint's `tls.ca`, or for every "
    "endpoint in `delivery.tls.ca_file`"
)
_CLOCK = "look at this host's clock (NTP) first, then at the receiver's certificate"
_HOST = "the host in the URL must be one of the names in the receiver's certificate"

_REMEDIES: Mapping[int, str] = {  # X509_V_ERR: what to do about a receiver's certificate that is refused
    9: _CLOCK,  # not valid yet
    10: "it must be renewed there, unless this host's clock is wrong",  # expired
    **dict.fromkeys((18, 19, 20, 21), _AUTHORITY),  # self-signed, or no way to an authority that is trusted
    **dict.fromkeys((62, 64), _HOST),  # another host name, another address
    **dict.fromkeys((66, 67, 68), "the receiver needs one with a longer key or a newer digest"),
}

_WANTS_CERTIFICATE = (
    "the receiver wants a client certificate, and relay has none to show: set `tls.client_cert` and `tls.client_key` of "
    "the endpoint, or those of `delivery.tls`"
)
_PERHAPS = "perhaps the receiver wants a client certificate, or another than it was shown (`tls.client_cert`)"
_REFUSES_CERTIFICATE = "the receiver refuses the client certificate of relay: look at `tls.client_cert`"
_TOO_OLD = "the receiver speaks no version of TLS from `tls.min_version` on"
_NO_TLS = "what answers there speaks no TLS: look at scheme and port of the URL"
_OWN_SIDE = "relay cannot use what it was given for TLS: look at `tls.ca`, `tls.client_cert` and `tls.client_key`"

_REASONS: Mapping[str, str] = {  # OpenSSL's words, and what they mean for whoever reads a timeline
    **dict.fromkeys(("TLSV13_ALERT_CERTIFICATE_REQUIRED", "TLSV1_ALERT_CERTIFICATE_REQUIRED"), _WANTS_CERTIFICATE),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "perhaps " + _WANTS_CERTIFICATE,  # TLS 1.2 has no word of its own for that
    **dict.fromkeys(
        (
            "SSLV3_ALERT_BAD_CERTIFICATE",
            "SSLV3_ALERT_CERTIFICATE_EXPIRED",
            "SSLV3_ALERT_CERTIFICATE_REVOKED",
            "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
            "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
            "TLSV1_ALERT_ACCESS_DENIED",
            "TLSV1_ALERT_UNKNOWN_CA",
        ),
        _REFUSES_CERTIFICATE,
    ),
    **dict.fromkeys(("TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"), _TOO_OLD),
    **dict.fromkeys(
        ("HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"), _NO_TLS
    ),
}


def explain(error: Exception) -> Explained | None:
    """Say how an attempt failed; None for what no network, name server, receiver or clock does: a mistake of our own."""
    match error:
        case NotConnected():
            return _not_connected(error)
        case Late():
            return Failure.TIMEOUT, "no answer came in time"
        case Dropped(__cause__=ssl.SSLError() as cause):
            return Failure.TLS, _tls_reason(cause)
        case Dropped(unproven=True):
            return Failure.BROKEN_RESPONSE, f"the connection ended before an answer; {_PERHAPS}"
        case Dropped():
            return Failure.BROKEN_RESPONSE, "the connection ended before an answer"
        case ssl.SSLError():
            return Failure.TLS, f"{_OWN_SIDE} ({_reason(error)})"
        case NotHTTP():
            return Failure.BROKEN_RESPONSE, "the answer is not HTTP, or its head is too large"
        case Unsendable():
            return Failure.INVALID_REQUEST, str(error)
        case _:
            return None


def is_ours(error: Exception) -> bool:
    """Whether an attempt failed in a way that this host causes: no name server answers, no way leads out, or its clock.

    A name that does not exist, a refused, reset or timed-out connection, and any other certificate are the receiver's.
    """
    if not isinstance(error, NotConnected):
        return False
    match error.__cause__:
        case TimeoutError():
            return error.stage is Stage.RESOLVING
        case socket.gaierror(errno=number):
            return number not in _NO_SUCH_NAME
        case ssl.SSLCertVerificationError() as refused:
            return refused.verify_code in _OUT_OF_TIME
        case ssl.SSLError():
            return False
        case OSError(errno=number):
            return number in _NO_WAY_OUT
        case _:
            return False


def _not_connected(error: NotConnected) -> Explained:
    cause, is_securing = error.__cause__, error.stage is Stage.SECURING
    match cause:
        case ForbiddenAddress():
            return _blocked(cause.reason, literal=error.literal)
        case TimeoutError() if error.stage is Stage.RESOLVING:
            return Failure.DNS, "the name servers did not answer in time"
        case TimeoutError() if is_securing:
            return Failure.CONNECT, f"connected, but the TLS handshake did not end in time; perhaps {_NO_TLS}"
        case TimeoutError():
            return Failure.CONNECT, "no connection was made in time"
        case OSError(errno=number) if number in NO_DESCRIPTORS:
            return Failure.NO_DESCRIPTORS, "relay has no file descriptor left; raise its limit (LimitNOFILE, ulimit -n)"
        case NoSource():
            return Failure.CONNECT, str(cause)
        case socket.gaierror():
            return Failure.DNS, f"the name does not resolve: {_reason(cause)}"
        case ssl.SSLCertVerificationError():
            remedy = _REMEDIES.get(cause.verify_code)
            return Failure.TLS, f"certificate refused: {_reason(cause)}" + (f": {remedy}" if remedy else "")
        case ssl.SSLError():
            return Failure.TLS, _tls_reason(cause)
        case OSError() if is_securing:
            return (
                Failure.TLS,
                f"the peer ended the TLS handshake; {_PERHAPS}, or speaks no version of TLS from `tls.min_version` on",
            )
        case _:
            assert isinstance(cause, OSError)
            return Failure.CONNECT, f"no connection: {_reason(cause)}"


def _blocked(reason: str, *, literal: bool) -> Explained:
    """Say the truth, for whoever runs the relay; what a tenant is told of it is the API's business."""
    subject = "the URL's address" if literal else "the place that the URL's host resolves to"
    if reason == OTHER_SERVICE:
        subject = "the URL's port"
    return Failure.BLOCKED_ADDRESS if literal else Failure.BLOCKED_NAME, why_refused(reason, subject)


def _tls_reason(error: ssl.SSLError) -> str:
    meaning = _REASONS.get(error.reason or "")
    return f"TLS failed: {_reason(error)}" + (f"; {meaning}" if meaning else "")


def _reason(error: OSError) -> str:
    words = getattr(error, "verify_message", None) or getattr(error, "reason", None)  # certificates; TLS
    if not words:
        number = error.errno or 0
        words = os.strerror(number) if number > 0 else error.strerror  # asyncio's own words hold the address
    return printable(str(words or type(error).__name__))[:REASON_MAX]
