"""The five built-in services: what their documents print and promise, and what they refuse."""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import svix.webhooks
import time_machine

import relay
from relay.contracts import Contract, ContractCatalogue, Payload, Rendering
from relay.core.model import Secret
from tests.support import printed
from tests.support.contract_files import built_in, without_blanks

URL = "https://example.com/hooks"
NOW_MS = 1_614_265_330_000
BUILT_IN = files("relay.contracts") / "builtin"
SERVICES = ("rotor", "roughy", "videoaiditor", "wochit", "editframe")


def data_in(body: str, key: str) -> bytes:
    """Cut the member `key`, the last one, out of a printed body, with all its blanks."""
    begin = body.index(f'"{key}"') + len(key) + 2
    return body[body.index(":", begin) + 1 : body.rindex("}")].strip().encode()


def rendered(contract: Contract, type: str, data: bytes, **changes: Any) -> bytes:
    return contract.render(Rendering("evt_1", type, NOW_MS, NOW_MS, Payload(data))._replace(**changes))


def headers(contract: Contract, secret: str, body: bytes, *, id: str = "evt_1") -> dict[str, str]:
    signer = contract.signer((Secret(secret),) if secret else (), URL, "ep_1")
    return signer.headers(id=id, type="any", timestamp_ms=NOW_MS, body=body, attempt=1)


def changed(data: bytes, **members: Any) -> bytes:
    """Return data with members replaced, or taken out where the value is `...`."""
    merged = {**json.loads(data), **members}
    return json.dumps({name: value for name, value in merged.items() if value is not ...}).encode()


def sentences(contract: Contract, type: str, data: bytes) -> dict[str, str]:
    return {issue.path: issue.message for issue in contract.check_data(type, Payload(data))}


# -- printed examples ----------------------------------------------------------------------------------------------


def test_rotor_is_rendered_as_printed() -> None:
    """Five keys in order, two forms of time, `1.0`, `30.0` and `8.0`, null kept, the URL untouched (ROT-10 … ROT-18)."""
    data = data_in(printed.ROTOR, "payload")
    event = Rendering(
        "8997ae3c-1d9f-4421-9064-c2a8ab386fa0",
        "order.finalized",
        1_676_293_782_654,
        NOW_MS,
        Payload(data),
        1_676_293_782_654_463,
    )

    body = built_in("rotor").render(event)

    assert without_blanks(body.decode()) == without_blanks(printed.ROTOR)
    assert data in body  # not one blank of the producer's document is lost
    assert b'"created_at":"2023-02-13 13:09:42.654463"' in body
    for lexeme in (b'"progress":1.0', b'"frame_rate":30.0', b'"duration":8.0', b'"bitrate": 0', b'"error": null'):
        assert lexeme in body
    bare = Payload(without_blanks(data.decode()))
    assert built_in("rotor").render(event._replace(data=bare)) == without_blanks(printed.ROTOR)


def test_roughy_is_rendered_as_printed() -> None:
    """Exactly two top-level keys, `type` and `data`; what was posted keeps its bytes (ROU-13, K3)."""
    data = data_in(printed.ROUGHY, "data")

    body = rendered(built_in("roughy"), "cut.completed", data)

    assert body == b'{"type":"cut.completed","data":' + data + b"}"
    assert list(json.loads(body)) == ["type", "data"]


def test_videoaiditor_is_rendered_as_printed() -> None:
    """The repaired example: `event` and `data`, the error an empty string (VAI-6)."""
    body = rendered(built_in("videoaiditor"), "render.completed", data_in(printed.VIDEOAIDITOR, "data"))

    assert body == without_blanks(printed.VIDEOAIDITOR)


@pytest.mark.parametrize("example", printed.WOCHIT, ids=lambda example: json.loads(example)["type"])
def test_wochit_is_rendered_as_printed(example: str) -> None:
    """Flat bodies with `type` first and the keys of data after it, in order and byte for byte (WOC-4, WOC-5, K3)."""
    members = json.loads(example)
    type = members.pop("type")
    data = json.dumps(members).encode()

    body = rendered(built_in("wochit"), type, data)

    assert body == b'{"type":"' + type.encode() + b'",' + data[1:]
    assert without_blanks(body.decode()) == without_blanks(example)


@pytest.mark.parametrize("example", printed.EDITFRAME, ids=lambda example: json.loads(example)["topic"])
def test_editframe_is_rendered_as_printed(example: str) -> None:
    """`topic` and `data`, in this order, absent values as null (EDF-1, EDF-6)."""
    body = rendered(built_in("editframe"), json.loads(example)["topic"], data_in(example, "data"))

    assert body == without_blanks(example)


def test_every_printed_example_has_a_type_and_data_that_are_taken() -> None:
    """K11: the schemas take what the documents print, Roughy's placeholders too: no form of an id is promised (ROU-14)."""
    posted = [("rotor", "order.finalized", data_in(printed.ROTOR, "payload"))]
    posted += [("videoaiditor", "render.completed", data_in(printed.VIDEOAIDITOR, "data"))]
    posted += [("editframe", json.loads(text)["topic"], data_in(text, "data")) for text in printed.EDITFRAME]
    posted += [("wochit", json.loads(text)["type"], changed(text.encode(), type=...)) for text in printed.WOCHIT]

    posted += [("roughy", "cut.completed", data_in(printed.ROUGHY, "data"))]

    for service, type, data in posted:
        assert built_in(service).check_type(type) is None
        assert built_in(service).check_data(type, Payload(data)) == []


# -- golden vectors ------------------------------------------------------------------------------------------------


def test_the_vector_of_videoaiditor() -> None:
    """`X-Signature` over the printed body: 64 lower-case hexadecimal digits and nothing else (VAI-7)."""
    made = built_in("videoaiditor")
    body = rendered(made, "render.completed", data_in(printed.VIDEOAIDITOR, "data"))

    sent = headers(made, "your-webhook-secret", body)

    assert sent == {
        "Content-Type": "application/json",
        "X-Signature": "41e344754fff06274ef8a24f9207fa8b73307b88a810c7df1b95ef4ea9945f5d",
    }


def test_the_canonical_vector_of_videoaiditor() -> None:
    """Numbers, key order, escapes and a lone surrogate become what JSON.stringify writes (VAI-8)."""
    data = rb"""{ "_id": "render-id", "status": "completed", "outputUrl": "https://cdn.example.com/video.mp4", "error": "",
        "videoId": "video-id", "videoVersion": 1.0, "videoData": { "10": "ten", "2": "two",
        "name": "caf\u00e9 \u2028 \ud83d", "fps": 30.0, "t": 1e-7, "big": 9007199254740992, "neg": -0.0, "x": 1e21,
        "a": 1, "a": 2 }, "createdAt": "2024-03-20T10:30:00Z", "updatedAt": "2024-03-20T10:31:00Z" }"""
    made = built_in("videoaiditor")

    body = rendered(made, "render.completed", data)

    assert len(body) == 369
    assert '"name":"café \u2028 \\ud83d","fps":30,"t":1e-7,"big":9007199254740992,"neg":0'.encode() in body
    assert made.check_data("render.completed", Payload(data)) == []
    signature = headers(made, "your-webhook-secret", body)["X-Signature"]
    assert signature == "a527d7cae2ba6c69c4fe3368c5c480823297d28cbe635c04aad0ae771a9b508b"


@pytest.mark.parametrize(
    ("secret", "body", "signature"),
    [
        (
            "whsec_abc123",
            b'{"topic":"webhook.test","data":{"id":"test"}}',
            "62aec02c01b45964464cb0cd3b10ae9a450fb3ffdc6f34a0cbec2a64a67afe51",
        ),
        (
            "test-webhook-secret",
            without_blanks(printed.EDITFRAME[1]),
            "49898e84fa90f3d4e868a34f383cff4b15543c66b6ff40c8f5ec94a9e2bf76d5",
        ),
    ],
)
def test_the_vectors_of_editframe(secret: str, body: bytes, signature: str) -> None:
    """The whole secret is the key, as text, even one that begins with `whsec_` (EDF-2, EDF-3)."""
    made = built_in("editframe")

    assert headers(made, secret, body) == {"Content-Type": "application/json", "X-Webhook-Signature": signature}
    assert rendered(made, json.loads(body)["topic"], json.dumps(json.loads(body)["data"]).encode()) == body


def test_the_vector_of_roughy() -> None:
    """`svix-id`, `svix-timestamp` and `svix-signature`, as the official library verifies them (ROU-15, ROU-16)."""
    made, secret, id = built_in("roughy"), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    body = rendered(made, "cut.completed", without_blanks(data_in(printed.ROUGHY, "data").decode()))

    sent = headers(made, secret, body, id=id)

    assert sent["svix-signature"] == "v1,PpU0T8Tc4IvPNvPRbgmk/eVVzXb809l6Z48O9hf3ZLg="
    assert (sent["svix-id"], sent["svix-timestamp"]) == (id, "1614265330")
    with time_machine.travel(NOW_MS / 1000, tick=False):
        svix.webhooks.Webhook(secret).verify(body, sent)


def test_unsigned_contracts_send_no_signature() -> None:
    """Rotor and Wochit document none, so there is none and no secret (ROT-19, WOC-13)."""
    for service in ("rotor", "wochit"):
        made = built_in(service)
        assert headers(made, "", b"{}") == {"Content-Type": "application/json"}
        assert (made.signs, made.needs_secret) == (False, False)


# -- what differs from service to service --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "names"),
    [
        ("rotor", "order.finalized"),
        (
            "roughy",
            (
                "cut.completed cut.failed render.completed render.failed render.cancelled "
                "asset.ready asset.pending_payment asset.failed"
            ),
        ),
        ("videoaiditor", "render.completed render.failed"),
        ("wochit", "video.ready video.delete video.failed draft.new draft.update draft.delete"),
        (
            "editframe",
            (
                "render.created render.pending render.rendering render.completed render.failed "
                "file.created file.uploading file.processing file.ready file.failed unprocessed_file.created webhook.test"
            ),
        ),
    ],
)
def test_the_catalogues_are_exact(service: str, names: str) -> None:
    """The listed types and no others, spelt as printed (ROT-7, ROU-10, VAI-1, WOC-3, WOC-5, EDF-5, EDF-7)."""
    made = built_in(service)

    assert list(made.types) == names.split()
    for wrong in ("order.created", "render.canceled", "video.deleted", "Render.completed", "render"):
        assert str(made.check_type(wrong)).startswith(f"{wrong!r} is not in the catalogue")


@pytest.mark.parametrize("service", SERVICES)
def test_examples_are_lawful_and_render(service: str) -> None:
    """What the catalogue shows can be sent: it passes its schema, and its body is JSON."""
    made = built_in(service)

    for name, listed in made.types.items():
        assert made.check_data(name, Payload(listed.example)) == []
        assert listed.data_schema is not None
        json.loads(rendered(made, name, listed.example))


@pytest.mark.parametrize(
    ("service", "self_service", "https", "max_endpoints", "subscription_required"),
    [
        ("rotor", False, True, None, True),  # ROT-4, ROT-5, ROT-6
        ("roughy", True, True, None, True),  # ROU-4, ROU-5
        ("videoaiditor", False, False, None, False),  # VAI-3, VAI-4
        ("wochit", False, False, 1, False),  # WOC-2
        ("editframe", True, True, None, False),  # EDF-13, EDF-18
        ("standard", True, True, None, False),
    ],
)
def test_registration_rules(
    service: str, self_service: bool, https: bool, max_endpoints: int | None, subscription_required: bool
) -> None:
    """Who makes endpoints and of what kind (ROT-4 … ROT-6, ROU-4, ROU-5, VAI-3, VAI-4, WOC-2, EDF-13, EDF-18)."""
    rule = built_in(service).registration

    assert (rule.self_service, rule.https, rule.max_endpoints) == (self_service, https, max_endpoints)
    assert rule.subscription_required is subscription_required
    assert rule.public


@pytest.mark.parametrize(
    ("service", "timeout_ms", "schedule_s", "jitter"),
    [
        ("editframe", 30_000, (10, 10), 0.0),  # EDF-16
        ("roughy", 15_000, (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000), 0.2),  # ROU-2
        ("wochit", None, (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000), 0.2),
        ("rotor", None, None, None),
        ("videoaiditor", None, None, None),
    ],
)
def test_delivery_policies(
    service: str, timeout_ms: int | None, schedule_s: tuple[int, ...] | None, jitter: float | None
) -> None:
    """Three attempts for Editframe, Svix's schedule for Roughy, the relay's own where nothing is documented (EDF-16)."""
    made = built_in(service)

    assert (made.timeout_ms, made.jitter) == (timeout_ms, jitter)
    assert made.schedule_ms == (None if schedule_s is None else tuple(second * 1000 for second in schedule_s))
    assert made.max_age_ms is None


@pytest.mark.parametrize(
    ("service", "overlaps", "form"),
    [
        ("roughy", True, r"whsec_[A-Za-z0-9+/]{32}"),  # ROU-16: 24 random bytes
        ("videoaiditor", False, r"[0-9a-f]{64}"),  # VAI-7
        ("editframe", False, r"[0-9a-f]{64}"),  # EDF-3, EDF-18
    ],
)
def test_secrets(service: str, overlaps: bool, form: str) -> None:
    """Several signatures where the header can carry them, else a cut-over (ROU-16, VAI-5, VAI-7, EDF-18)."""
    made = built_in(service)

    secret = made.new_secret(bytes)

    assert made.overlaps is overlaps
    assert re.fullmatch(form, secret)
    assert made.check_secret(secret) is None


# -- one service at a time -----------------------------------------------------------------------------------------


def test_rotor_ids_are_uuids_of_the_event() -> None:
    """A UUID of version 4, the same for every rendering of an event, another for another event (ROT-11)."""
    made = built_in("rotor")
    data = made.types["order.finalized"].example

    ids = [json.loads(rendered(made, "order.finalized", data, id=id))["id"] for id in ("evt_1", "evt_1", "evt_2")]

    assert ids[0] == ids[1] != ids[2]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", ids[0])
    given = rendered(made, "order.finalized", data, id="8997AE3C-1D9F-4421-9064-C2A8AB386FA0")
    assert json.loads(given)["id"] == "8997ae3c-1d9f-4421-9064-c2a8ab386fa0"


@pytest.mark.parametrize(
    ("time_ms", "time_us", "text"),
    [
        (1_676_293_782_000, None, "2023-02-13 13:09:42.000000"),
        (1_676_293_782_654, None, "2023-02-13 13:09:42.654000"),
        (1_676_293_782_654, 1_676_293_782_654_463, "2023-02-13 13:09:42.654463"),
        (0, None, "1970-01-01 00:00:00.000000"),
    ],
)
def test_rotor_writes_six_digits_always(time_ms: int, time_us: int | None, text: str) -> None:
    """A blank for the T, six digits, no zone, also when the microseconds are 0 (ROT-12)."""
    made = built_in("rotor")

    body = rendered(made, "order.finalized", b"{}", timestamp_ms=time_ms, timestamp_us=time_us)

    assert json.loads(body)["created_at"] == text


@pytest.mark.parametrize(
    ("change", "pointer", "sentence"),
    [
        ({"progress": 0.0}, "progress", "must be 1"),
        ({"url": None}, "url", "must be a string"),
        ({"render_completed_at": None}, "render_completed_at", "must be a string"),
        ({"error": "boom"}, "error", "must be null"),
        ({"created_at": "2023-06-26T12:18:16Z"}, "created_at", "must be a time in UTC with three digits"),
    ],
)
def test_rotor_refuses_orders_whose_renders_are_not_uploaded(
    change: dict[str, Any], pointer: str, sentence: str
) -> None:
    """K11: `order.finalized` is for orders whose renders are completed and uploaded (ROT-8), with times in ms (ROT-15)."""
    made = built_in("rotor")
    document = json.loads(made.types["order.finalized"].example)
    document["data"]["attributes"]["assets"]["data"][0]["attributes"] |= change

    found = sentences(made, "order.finalized", json.dumps(document).encode())

    (place,) = found
    assert place == f"/data/attributes/assets/data/0/attributes/{pointer}"
    assert found[place].startswith(sentence)


def test_rotor_has_one_event_for_an_order() -> None:
    """K11: an event is about an order with its renders, of which there is at least one (ROT-9, ROT-13)."""
    made = built_in("rotor")
    data = made.types["order.finalized"].example
    empty = json.loads(data)
    empty["data"]["attributes"]["assets"]["data"] = []

    assert set(sentences(made, "order.finalized", json.dumps(empty).encode())) == {"/data/attributes/assets/data"}
    assert sentences(made, "order.finalized", data.replace(b'"type":"order"', b'"type":"orders"')) == {
        "/data/type": 'must be "order"'
    }


def test_roughy_previous_state_belongs_to_asset_ready() -> None:
    """Required there, with two values; refused elsewhere (ROU-11)."""
    made = built_in("roughy")
    ready, failed = made.types["asset.ready"].example, made.types["asset.failed"].example

    assert made.check_data("asset.ready", Payload(changed(ready, previous_state="pending_payment"))) == []
    assert sentences(made, "asset.ready", changed(ready, previous_state=...)) == {"/previous_state": "is missing"}
    assert sentences(made, "asset.ready", changed(ready, previous_state="ready")) == {
        "/previous_state": 'must be "processing" or "pending_payment"'
    }
    assert sentences(made, "asset.failed", changed(failed, previous_state="processing")) == {
        "/previous_state": "is not known here; leave it out"
    }


def test_roughy_never_sends_a_terminal_state_twice() -> None:
    """The key is type and entity; another body under it is a conflict, and the first one stays (ROU-18)."""
    made = built_in("roughy")

    key = made.idempotency_key("cut.completed", Payload(b'{"asset_id":"a","entity_id":"e"}'))

    assert (key, made.idempotency_differs) == ("cut.completed:e", "conflict")


def test_only_roughys_terminal_types_derive_a_key() -> None:
    """K2: a key is derived where a document promises it, for nothing else: what is said again is sent again."""
    keyed = {
        type
        for service in SERVICES
        for type, listed in built_in(service).types.items()
        if built_in(service).idempotency_key(type, Payload(listed.example))
    }

    assert keyed == set(built_in("roughy").types) - {"asset.pending_payment"}


@pytest.mark.parametrize("output", ["", None, ...])
def test_videoaiditor_failures_have_an_error_and_no_output(output: Any) -> None:
    """`outputUrl` may be empty, null or absent, and is passed on as supplied; `error` says something (VAI-6)."""
    made = built_in("videoaiditor")
    data = changed(made.types["render.failed"].example, outputUrl=output)

    assert made.check_data("render.failed", Payload(data)) == []
    assert json.loads(rendered(made, "render.failed", data))["data"] == json.loads(data)
    assert sentences(made, "render.failed", changed(data, error="")) == {"/error": "must not be empty"}


def test_videoaiditor_status_follows_the_event() -> None:
    """`completed` has an empty error, not null; nothing is added (VAI-6)."""
    made = built_in("videoaiditor")
    data = changed(made.types["render.completed"].example, status="complete", error=None, more=1, createdAt="today")

    assert sentences(made, "render.completed", data) == {
        "/status": 'must be "completed"',
        "/error": 'must be ""',
        "/more": "is not known here; leave it out",
        "/createdAt": 'must be a time in UTC, such as "2024-03-20T10:30:00Z"',
    }


CONTEXT = "string-sent-when-opened-the-video-editor"
DELETED = b'{"wochitVideoId":"6094092472a9105747957aa3"}'


@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize("context", [CONTEXT, "", None, ...])
@pytest.mark.parametrize("type", ["draft.new", "draft.update"])
def test_wochit_drafts_need_the_feature_and_a_context(type: str, context: Any, drafts: bool) -> None:
    """Two conditions: the switch, and a context that is not empty; a held back draft is no mistake (WOC-9)."""
    made = built_in("wochit")
    data = changed(made.types[type].example, videoContext=context)

    reason = made.condition(type, Payload(data), None, {"drafts": drafts}, {})

    assert made.check_data(type, Payload(data)) == []
    if not drafts:
        assert reason == 'the feature "drafts" is off for this application'
    elif context != CONTEXT:
        assert reason == "data.videoContext is missing or empty"
    else:
        assert reason is None


@pytest.mark.parametrize("drafts", [True, False])
@pytest.mark.parametrize(
    ("metadata", "remembered", "is_known"),
    [
        ({"videoContext": "c"}, {}, True),
        ({}, {"6094092472a9105747957aa3": "c"}, True),
        ({"videoContext": ""}, {"6094092472a9105747957aa3": "c"}, True),
        ({"videoContext": None}, {"another": "c"}, False),
        ({}, {}, False),
    ],
)
def test_wochit_deleted_drafts_take_the_context_from_elsewhere(
    metadata: dict[str, Any], remembered: dict[str, str], is_known: bool, drafts: bool
) -> None:
    """`draft.delete` carries no context: metadata or an earlier draft must tell it, and it is not sent on (WOC-9)."""
    made = built_in("wochit")

    reason = made.condition(
        "draft.delete", Payload(DELETED), Payload(json.dumps(metadata).encode()), {"drafts": drafts}, remembered
    )

    assert (reason is None) is (drafts and is_known)
    if drafts and not is_known:
        assert reason == "neither metadata.videoContext nor what earlier events said says what is needed"
    assert b"videoContext" not in rendered(made, "draft.delete", DELETED)
    assert sentences(made, "draft.delete", changed(DELETED, videoContext="c")) == {
        "/videoContext": "is not known here; leave it out"
    }


def test_wochit_remembers_the_contexts_of_drafts() -> None:
    """Under the video's id, from new and updated drafts, and only for what needs it (WOC-9)."""
    made = built_in("wochit")
    saved = made.types["draft.new"].example

    assert made.remembers("draft.new", Payload(saved), None) == ("6094092472a9105747957aa3", CONTEXT)
    assert made.remembers("draft.update", Payload(saved), None) == ("6094092472a9105747957aa3", CONTEXT)
    assert made.remembers("draft.new", Payload(changed(saved, videoContext="")), None) is None
    assert made.remembers("video.ready", Payload(made.types["video.ready"].example), None) is None
    assert made.recalls("draft.delete", Payload(DELETED)) == "6094092472a9105747957aa3"
    assert made.recalls("draft.new", Payload(saved)) is None
    assert made.recalls("draft.delete", Payload(b"{}")) is None
    assert made.recalls("unknown", Payload(DELETED)) is None


def test_wochit_videos_go_out_without_a_context() -> None:
    """The condition is stated for drafts only (WOC-7)."""
    made = built_in("wochit")
    data = changed(made.types["video.ready"].example, videoContext=...)

    assert made.check_data("video.ready", Payload(data)) == []
    assert made.condition("video.ready", Payload(data), None, {}, {}) is None


def test_wochit_failures_are_off_unless_switched_on() -> None:
    """The document promises the notification and shows no body for it (WOC-3)."""
    made = built_in("wochit")
    data = made.types["video.failed"].example

    assert made.features == {"drafts", "failures"}
    assert made.condition("video.failed", Payload(data), None, {"drafts": True}, {}) is not None
    assert made.condition("video.failed", Payload(data), None, {"failures": True}, {}) is None


def test_wochit_links_age() -> None:
    """23 hours for events with links, none for deletions (WOC-8)."""
    made = built_in("wochit")
    hours = {type: (made.link_age_ms(type) or 0) // 3_600_000 for type in made.types}

    assert {type for type, age in hours.items() if age == 23} == {"video.ready", "draft.new", "draft.update"}
    assert set(hours.values()) == {0, 23}
    assert made.link_age_ms("unknown") is None


@pytest.mark.parametrize("title", ["“é” 😀", 'a "quoted" \\ title', "two\nlines\u2028", "\ud83d lone"])
def test_wochit_titles_survive(title: str) -> None:
    """End-users type titles: any text comes out as it went in, and is not encoded twice (WOC-14)."""
    made = built_in("wochit")
    data = changed(made.types["video.ready"].example, title=title)

    body = rendered(made, "video.ready", data)

    assert json.loads(body)["title"] == title
    assert made.check_data("video.ready", Payload(data)) == []


def test_wochit_data_is_checked() -> None:
    """A duration is a number, the id is opaque but there, and the type is not posted twice (WOC-4, WOC-6)."""
    made = built_in("wochit")
    data = changed(made.types["video.ready"].example, videoDuration="35.9", wochitVideoId=..., type="video.ready")

    assert sentences(made, "video.ready", data) == {
        "/videoDuration": "must be a number",
        "/wochitVideoId": "is missing",
        "/type": "is not known here; leave it out",
    }


def test_editframe_says_complete_for_completed() -> None:
    """The topic is `render.completed`, the status `complete`; neither is mended (EDF-5)."""
    made = built_in("editframe")
    data = made.types["render.completed"].example

    assert json.loads(data)["status"] == "complete"
    assert sentences(made, "render.completed", changed(data, status="completed")) == {"/status": 'must be "complete"'}


@pytest.mark.parametrize("field", ["completed_at", "metadata", "download_url", "md5"])
def test_editframe_renders_have_all_their_fields(field: str) -> None:
    """Thirteen fields always, absent values as null (EDF-6)."""
    made = built_in("editframe")
    data = made.types["render.created"].example

    assert len(json.loads(data)) == 13
    assert sentences(made, "render.created", changed(data, **{field: ...})) == {f"/{field}": "is missing"}
    assert made.check_data("render.created", Payload(changed(data, metadata=None))) == []
    assert set(sentences(made, "render.completed", data)) >= {"/completed_at", "/download_url", "/md5"}


def test_editframe_processes_videos_only() -> None:
    """`file.processing` is for videos; a caption has no width (EDF-7, EDF-8)."""
    made = built_in("editframe")
    processing, ready = made.types["file.processing"].example, made.types["file.ready"].example

    assert sentences(made, "file.processing", changed(processing, type="image")) == {"/type": 'must be "video"'}
    assert made.check_data("file.ready", Payload(changed(ready, type="caption", width=None, height=None))) == []
    assert made.check_data("file.failed", Payload(changed(ready, status="failed", md5=None, byte_size=None))) == []


def test_editframe_keeps_a_deprecated_type_out_of_wildcards() -> None:
    """It can be subscribed to by name, with a warning, and nothing converts it (EDF-9)."""
    made = built_in("editframe")

    assert made.check_subscription("unprocessed_file.created") is None
    assert made.warn_subscription("unprocessed_file.created") == (
        "'unprocessed_file.created' is deprecated; use 'file.created'"
    )
    assert made.covers("unprocessed_file.created", "unprocessed_file.created")
    assert not made.covers("*", "unprocessed_file.created")
    assert not made.covers("unprocessed_file.*", "unprocessed_file.created")
    assert made.warn_subscription("file.created") is None
    assert made.types["unprocessed_file.created"].replaced_by == "file.created"
    assert made.all_types is not None
    assert "unprocessed_file.created" not in made.all_types


def test_editframe_tests_cannot_be_subscribed_to() -> None:
    """`webhook.test` reaches one endpoint, on request, with that endpoint's id (EDF-10)."""
    made = built_in("editframe")

    type, data = made.test_event(None, {"endpoint_id": "ep_1", "application_id": "acme"})

    assert (type, data) == ("webhook.test", b'{"id":"ep_1","org_id":"acme"}')
    assert made.check_subscription("webhook.test") == (
        "'webhook.test' is sent by a test only, to one endpoint at a time; leave it out"
    )
    assert not any(made.covers(pattern, "webhook.test") for pattern in ("*", "webhook.*", "webhook.test"))
    assert made.test_event("render.failed")[1] == made.types["render.failed"].example


def test_editframe_orders_first_attempts_by_entity() -> None:
    """In order for each `data.id`; a retry does not hold up what follows (EDF-11)."""
    made = built_in("editframe")
    data = made.types["render.created"].example

    assert made.ordering == "first-attempt"
    assert made.ordering_key("render.created", Payload(data)) == "550e8400-e29b-41d4-a716-446655440000"
    assert {built_in(name).ordering for name in SERVICES if name != "editframe"} == {"none"}


@pytest.mark.parametrize("service", ["videoaiditor", "editframe"])
def test_canonical_bodies_are_their_own_canon(service: str) -> None:
    """Whatever spacing and number form was posted, the frozen bytes are what JavaScript would write (VAI-8, EDF-4)."""
    made = built_in(service)
    type, listed = next(iter(made.types.items()))
    loose = json.dumps(json.loads(listed.example), indent=2, ensure_ascii=True).encode()

    body = rendered(made, type, loose)

    assert body == json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()
    assert body == rendered(made, type, listed.example)


def test_no_built_in_contract_is_known_to_the_code() -> None:
    """Nothing service-specific stands in Python: no module names a service, but as an example of the command line."""
    for module in Path(relay.__file__).parent.rglob("*.py"):
        if module.parent.name == "cli":
            continue
        words = module.read_text().lower()
        assert not [service for service in SERVICES if re.search(rf"\b{service}\b", words)], module
    assert ContractCatalogue.load().names


@pytest.mark.parametrize("name", sorted(ContractCatalogue.read().names))
def test_a_contract_of_relays_own_has_no_mistakes(name: str, tmp_path: Path) -> None:
    """What comes with relay is not looked through at each start, so it is here, as a file of somebody's own is there."""
    (tmp_path / f"own-{name}.toml").write_text(f'extends = "{name}"\n')
    (tmp_path / f"copied-{name}.toml").write_bytes((BUILT_IN / f"{name}.toml").read_bytes())
    catalogue = ContractCatalogue.read(tmp_path)
    assert catalogue.issues == ()
    assert catalogue.get(f"own-{name}") is not None


def test_contracts_that_nobody_has_take_no_memory() -> None:
    """Idle memory: a contract without schemas does not bring in the validator of schemas, and one with them does."""
    code = (
        "import sys, relay.daemon.process\nfrom relay.contracts import ContractCatalogue\n"
        "catalogue = ContractCatalogue.load()\n"
        "for name in ('standard', 'editframe'): print(catalogue.get(name) is not None, 'jsonschema_rs' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == ["True", "False", "True", "True"]
