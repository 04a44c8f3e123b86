"""Receivers written from the services' documents, not from our contracts: what is printed there is all they take.

Each answers 200, or 400 with the reason. `editframe_shape` is the TypeScript of Editframe's document, for bodies whose
signature the Node receivers have judged.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from svix.webhooks import Webhook, WebhookVerificationError

from tests.support.receiver import Answer, Received

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
MILLISECOND = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MICROSECOND = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
MD5 = re.compile(r"[0-9a-f]{32}")
URL = re.compile(r"https?://\S+")
NUMBER = (int, float)

Form = Any  # a type or types, a pattern, a constant, a mapping of members in their order, or a list of one form


class _Unlike(AssertionError):
    pass


def _expect(fact: object, otherwise: str) -> None:
    if not fact:
        raise _Unlike(otherwise)


def fits(value: Any, form: Form, where: str = "body") -> None:
    """Fail unless a JSON value has the form; the members of objects are these, in this order, and no others."""
    if isinstance(form, Mapping):
        _expect(isinstance(value, dict) and list(value) == list(form), f"{where} has other members: {value!r:.300}")
        for name, inner in form.items():
            fits(value[name], inner, f"{where}.{name}")
    elif isinstance(form, list):
        _expect(isinstance(value, list), f"{where} is no list")
        for index, item in enumerate(value):
            fits(item, form[0], f"{where}[{index}]")
    elif isinstance(form, re.Pattern):
        _expect(isinstance(value, str) and form.fullmatch(value), f"{where} is {value!r}")
    elif isinstance(form, type | tuple):
        wrong = isinstance(value, bool) and form is not bool
        _expect(isinstance(value, form) and not wrong, f"{where} is {value!r}")
    else:
        _expect(value == form and type(value) is type(form), f"{where} is {value!r}, not {form!r}")


def receiver(check: Callable[[Received], None]) -> Callable[[Received], Answer]:
    """Make the script of a `Receiver` from a check that raises."""

    def reply(request: Received) -> Answer:
        try:
            _expect(request.method == "POST", "it is no POST")
            _expect(request.headers.getall("Content-Type") == ["application/json"], "another Content-Type")
            _expect("Content-Encoding" not in request.headers, "it is coded")
            check(request)
        except (_Unlike, WebhookVerificationError, ValueError) as error:
            return Answer(400, body=str(error).encode())
        return Answer(200)

    return reply


def _unsigned(request: Received) -> None:
    loud = [name for name in request.headers if re.search("signature|webhook|secret|hmac", name, re.IGNORECASE)]
    _expect(not loud, f"it has the headers {loud}")


# -- Rotor -------------------------------------------------------------------------------------------------------------

_ROTOR_ASSET: Form = {
    "id": UUID,
    "type": "render",
    "attributes": {
        "style_used": str,
        "error": (str, type(None)),
        "created_at": MILLISECOND,
        "updated_at": MILLISECOND,
        "progress": 1.0,
        "url": URL,
        "render_started_at": MILLISECOND,
        "render_completed_at": MILLISECOND,
        "specification": {
            "bitrate": int,
            "container": str,
            "frame_rate": float,  # printed 30.0: a typed receiver may insist
            "output_width": int,
            "output_height": int,
            "duration": float,
        },
    },
}

ROTOR_BODY: Form = {
    "id": UUID,
    "event": "order.finalized",
    "created_at": MICROSECOND,
    "type": "order",
    "payload": {
        "data": {
            "id": UUID,
            "type": "order",
            "attributes": {
                "title": str,
                "order_paid": bool,
                "created_at": MILLISECOND,
                "updated_at": MILLISECOND,
                "total_credits": int,
                "remote_user_id": str,
                "remote_track_id": str,
                "remote_release_id": str,
                "assets": {"data": [_ROTOR_ASSET]},
            },
        }
    },
}


@receiver
def rotor(request: Received) -> None:
    """Take what "Webhook Events" prints, unsigned; both forms of time, and numbers with their point."""
    _unsigned(request)
    body = json.loads(request.body.decode())
    fits(body, ROTOR_BODY)
    _expect(body["id"] != body["payload"]["data"]["id"], "the event has the id of the order")


# -- Roughy ------------------------------------------------------------------------------------------------------------

ROUGHY_TYPES = (
    *("cut.completed", "cut.failed", "render.completed", "render.failed", "render.cancelled"),
    *("asset.ready", "asset.pending_payment", "asset.failed"),
)


def roughy(secret: str) -> Callable[[Received], Answer]:
    """Take what "Payload shape" prints, when Svix's own library verifies it."""
    webhook = Webhook(secret)

    def check(request: Received) -> None:
        headers = dict(request.headers)
        _expect({"svix-id", "svix-timestamp", "svix-signature"} <= set(headers), "a Svix header is missing")
        webhook.verify(request.body, headers)
        body = json.loads(request.body)
        _expect(body.get("type") in ROUGHY_TYPES, "no event of the catalog")
        data: Form = {"entity_id": UUID, "asset_id": UUID}
        if body["type"] == "asset.ready":
            data = {**data, "previous_state": re.compile("processing|pending_payment")}
        fits(body, {"type": str, "data": data})

    return receiver(check)


# -- Wochit ------------------------------------------------------------------------------------------------------------

_CONTEXT: Form = {"videoContext": str, "wochitVideoId": str}
_DRAFT: Form = {**_CONTEXT, "thumbnailUrl": URL, "title": str}

WOCHIT_MEMBERS: Mapping[str, Form] = {
    "video.ready": {**_CONTEXT, "thumbnailUrl": URL, "videoUrl": URL, "title": str, "videoDuration": NUMBER},
    "video.delete": _CONTEXT,
    "video.failed": {**_CONTEXT, "errorMessage": str},  # promised but not printed
    "draft.new": _DRAFT,
    "draft.update": _DRAFT,
    "draft.delete": {"wochitVideoId": str},
}


@receiver
def wochit(request: Received) -> None:
    """Take the flat objects that are printed, unsigned."""
    _unsigned(request)
    body = json.loads(request.body.decode())
    _expect(isinstance(body, dict) and body.get("type") in WOCHIT_MEMBERS, "no type that is documented")
    fits(body, {"type": body["type"], **WOCHIT_MEMBERS[body["type"]]})


# -- Editframe ---------------------------------------------------------------------------------------------------------

_NULL = type(None)


def _render(status: str, completed: Form, failed: Form, number: Form, md5: Form, url: Form) -> Form:
    return {
        "id": UUID,
        "status": status,
        "created_at": SECOND,
        "completed_at": completed,
        "failed_at": failed,
        "width": NUMBER,
        "height": NUMBER,
        "fps": NUMBER,
        "byte_size": number,
        "duration_ms": number,
        "md5": md5,
        "metadata": (dict, _NULL),
        "download_url": url,
    }


def _file(status: str, kind: Form, size: Form, text: Form, side: Form) -> Form:
    kind_and_status = {"id": UUID, "type": kind, "status": status, "filename": str}
    return {**kind_and_status, "byte_size": size, "md5": text, "mime_type": text, "width": side, "height": side}


_KINDS = re.compile("video|image|caption")
_MAYBE_NUMBER = (*NUMBER, _NULL)
_MAYBE_TEXT = (str, _NULL)

EDITFRAME_DATA: Mapping[str, Form] = {
    "render.created": _render("created", None, None, None, None, None),
    "render.pending": _render("pending", None, None, None, None, None),
    "render.rendering": _render("rendering", None, None, None, None, None),
    "render.completed": _render("complete", SECOND, None, NUMBER, MD5, URL),
    "render.failed": _render("failed", None, SECOND, None, None, None),
    "file.created": _file("created", _KINDS, None, None, None),
    "file.uploading": _file("uploading", _KINDS, _MAYBE_NUMBER, _MAYBE_TEXT, _MAYBE_NUMBER),
    "file.processing": _file("processing", "video", NUMBER, str, _MAYBE_NUMBER),
    "file.ready": _file("ready", _KINDS, NUMBER, str, _MAYBE_NUMBER),
    "file.failed": _file("failed", _KINDS, _MAYBE_NUMBER, _MAYBE_TEXT, _MAYBE_NUMBER),
    "unprocessed_file.created": {
        "id": UUID,
        "byte_size": NUMBER,
        "next_byte": NUMBER,
        "md5": _MAYBE_TEXT,
        "filename": str,
        "completed_at": _MAYBE_TEXT,
    },
    "webhook.test": {"id": str, "org_id": str},
}


def editframe_shape(body: bytes) -> str:
    """Fail unless a body is one of the interfaces of "Webhook Events"; return its topic."""
    event = json.loads(body)
    topic = event.get("topic")
    _expect(topic in EDITFRAME_DATA, f"no topic: {topic!r}")
    fits(event, {"topic": topic, "data": EDITFRAME_DATA[topic]})
    return str(topic)
