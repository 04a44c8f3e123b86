"""Every example that the services print goes through HTTP and arrives as printed; so do the golden vectors.

"As printed" means every token of it, in order: `30.0`, escapes, null, URLs. Blanks between tokens are the producer's in
what Rotor calls `payload`, and there are none elsewhere, for the other services sign what JSON.stringify would write.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.clock import FakeClock
from tests.support.contract_files import without_blanks
from tests.support.five import SVIX_SECRET, application, event
from tests.support.printed import EDITFRAME, ROTOR, ROUGHY, VIDEOAIDITOR, WOCHIT
from tests.support.receiver import Received, Receiver
from tests.support.stack import Stack

UNCHECKED = 'validation = "off"'  # for documents that print placeholders where ids belong


def member(printed: str, key: str) -> bytes:
    """Cut the last member out of a printed body, with all blanks inside it."""
    at = printed.index(f'"{key}"') + len(key) + 2
    return printed[printed.index(":", at) + 1 : printed.rindex("}")].strip().encode()


def without_type(printed: str) -> bytes:
    """Cut the first member, `type`, out of a printed body that is flat; the rest keeps its bytes."""
    return b"{" + printed[printed.index(",") + 1 :].strip().encode()


async def posted(stack: Stack, *events: bytes) -> None:
    for text in events:
        status, answer = await stack.call("POST", "/v1/events", text)
        assert (status, answer.get("deliveries")) == (202, 1), answer


def bodies(received: Sequence[Received]) -> list[bytes]:
    return [request.body for request in received]


# -- examples ----------------------------------------------------------------------------------------------------------


async def test_rotors_example(tmp_path: Path) -> None:
    """Five members in order, a UUID, `2023-02-13 13:09:42.654463` outside and `2023-06-26T12:17:47.576Z` inside, and
    `1.0`, `30.0`, `8.0` beside `0` and `1080` (ROT-10 … ROT-18)."""
    own = b',"id":"8997ae3c-1d9f-4421-9064-c2a8ab386fa0","timestamp":"2023-02-13T13:09:42.654463Z"'
    payload = member(ROTOR, "payload")
    async with Receiver() as receiver, Stack(tmp_path, extra=application("rotor", receiver.url)) as stack:
        await posted(stack, event("rotor", "order.finalized", payload, own))
        (body,) = bodies(await receiver.wait_for(1))

    assert without_blanks(body.decode()) == without_blanks(ROTOR)
    assert body == without_blanks(ROTOR[: ROTOR.index('"payload"')] + '"payload":0}')[:-2] + payload + b"}"
    for lexeme in (b'"progress":1.0', b'"frame_rate":30.0', b'"duration":8.0', b'"bitrate": 0', b'"output_width":1080'):
        assert body.count(lexeme) == 1


async def test_rotors_time_always_has_six_digits(tmp_path: Path) -> None:
    """A time without microseconds, one with three digits, and one in another zone are written alike (ROT-12, ROT-15)."""
    written = {
        b"2023-02-13T13:09:42Z": b"2023-02-13 13:09:42.000000",
        b"2023-02-13T13:09:42.654Z": b"2023-02-13 13:09:42.654000",
        b"2023-02-13T15:09:42.654463+02:00": b"2023-02-13 13:09:42.654463",
    }
    payload = member(ROTOR, "payload")
    async with Receiver() as receiver, Stack(tmp_path, extra=application("rotor", receiver.url)) as stack:
        for number, given in enumerate(written):
            more = b',"timestamp":"%s","idempotency_key":"%d"' % (given, number)
            await posted(stack, event("rotor", "order.finalized", payload, more))
            (await receiver.wait_for(number + 1))
        received = bodies(receiver.received)

    assert [body.split(b'"created_at":"')[1].split(b'"')[0] for body in received] == list(written.values())
    assert all(b'"2023-06-26T12:17:47.576Z"' in body for body in received)
    ids = [json.loads(body)["id"] for body in received]
    assert len(set(ids)) == 3  # ROT-11


async def test_roughys_example(tmp_path: Path) -> None:
    """Exactly `type` and `data`, with the placeholders that the document prints, byte for byte (ROU-13, K3, K11)."""
    text = application("roughy", "{url}")
    async with Receiver() as receiver, Stack(tmp_path, extra=text.replace("{url}", receiver.url)) as stack:
        await posted(stack, event("roughy", "cut.completed", member(ROUGHY, "data")))
        (body,) = bodies(await receiver.wait_for(1))

    assert body == b'{"type":"cut.completed","data":' + member(ROUGHY, "data") + b"}"


async def test_videoaiditors_example(tmp_path: Path) -> None:
    """The repaired example, an empty error and all (VAI-6)."""
    async with Receiver() as receiver, Stack(tmp_path, extra=application("videoaiditor", receiver.url)) as stack:
        await posted(stack, event("videoaiditor", "render.completed", member(VIDEOAIDITOR, "data")))
        (body,) = bodies(await receiver.wait_for(1))

    assert body == without_blanks(VIDEOAIDITOR)


def inside(data: bytes) -> bytes:
    """Return what stands between the braces of an object, byte for byte."""
    return data.strip()[1:-1].strip()


async def test_wochits_examples(tmp_path: Path) -> None:
    """All five flat bodies; `video.delete` and `draft.update` are no past tense, and links stay http where they are
    (WOC-4, WOC-5, WOC-7, WOC-14)."""
    async with Receiver() as receiver, Stack(tmp_path, extra=application("wochit", receiver.url)) as stack:
        for number, printed in enumerate(WOCHIT, 1):
            await posted(stack, event("wochit", json.loads(printed)["type"], without_type(printed)))
            await receiver.wait_for(number)
        received = bodies(receiver.received)

    assert [without_blanks(body.decode()) for body in received] == [without_blanks(printed) for printed in WOCHIT]
    assert all(inside(without_type(printed)) in body for printed, body in zip(WOCHIT, received, strict=True))


async def test_both_of_wochits_spellings(tmp_path: Path) -> None:
    """K3: the document writes `"type" : ` here and `"title": ` there; each arrives as it was written (WOC-5)."""
    ready = without_type(WOCHIT[0])
    spellings = (ready, ready.replace(b" : ", b": "), without_blanks(ready.decode()))
    assert b'"videoDuration" : 35.9' in ready
    async with Receiver() as receiver, Stack(tmp_path, extra=application("wochit", receiver.url)) as stack:
        for number, data in enumerate(spellings, 1):
            await posted(stack, event("wochit", "video.ready", data))
            await receiver.wait_for(number)
        received = bodies(receiver.received)

    assert received == [b'{"type":"video.ready",' + inside(data) + b"}" for data in spellings]


async def test_titles_are_anything_that_people_type(tmp_path: Path) -> None:
    """Quotes, line ends, emoji, half of one, and letters that were once read wrongly survive (WOC-14, ROT-18)."""
    title = rb'"You\u2019re \"it\"\n\ud83d\ude00 \u00e9 \u201c \ud83d \u2028 </script>"'
    data = without_type(WOCHIT[0]).replace(b'"The video title"', title)
    async with Receiver() as receiver, Stack(tmp_path, extra=application("wochit", receiver.url)) as stack:
        await posted(stack, event("wochit", "video.ready", data))
        (body,) = bodies(await receiver.wait_for(1))

    assert title in body
    assert json.loads(body)["title"] == json.loads(title)


async def test_editframes_examples(tmp_path: Path) -> None:
    """All five examples, and the test event with the ids of endpoint and application in their places (EDF-1, EDF-5,
    EDF-6, EDF-7, EDF-10)."""
    text = application("editframe", "{url}", name="your-org-id").replace('"your-org-id-1"', '"your-api-key-id"')
    async with Receiver() as receiver, Stack(tmp_path, extra=text.replace("{url}", receiver.url)) as stack:
        for number, printed in enumerate(EDITFRAME[:-1], 1):
            await posted(stack, event("your-org-id", json.loads(printed)["topic"], member(printed, "data")))
            await receiver.wait_for(number)
        status, _ = await stack.call("POST", "/v1/webhook-endpoints/your-api-key-id/test", {})
        received = bodies(receiver.received)

    assert status == 200
    assert received == [without_blanks(printed) for printed in EDITFRAME]


# -- golden vectors ----------------------------------------------------------------------------------------------------


async def delivered(folder: Path, text: str, *events: bytes, wall_s: int = 1_614_265_330) -> list[Received]:
    """Post events at a fixed time; return what arrived. `{url}` in `text` becomes the receiver's."""
    clock = FakeClock(wall_s * 1000)
    async with (
        Receiver() as receiver,
        Stack(folder, clock=clock, extra=text.replace("{url}", receiver.url)) as stack,
    ):
        await posted(stack, *events)
        return list(await receiver.wait_for(len(events)))


async def test_the_vectors_of_videoaiditor(tmp_path: Path) -> None:
    """`X-Signature` of the printed body, and of one that JavaScript writes very differently (VAI-7, VAI-8)."""
    odd = (
        rb'{ "_id": "another", "status": "completed", "outputUrl": "https://cdn.example.com/video.mp4", "error": "", '
        rb'"videoId": "video-id", "videoVersion": 1.0, "videoData": { "10": "ten", "2": "two", '
        rb'"name": "caf\u00e9 \u2028 \ud83d", "fps": 30.0, "t": 1e-7, "big": 9007199254740992, "neg": -0.0, "x": 1e21, '
        rb'"a": 1, "a": 2 }, "createdAt": "2024-03-20T10:30:00Z", "updatedAt": "2024-03-20T10:31:00Z" }'
    ).replace(b'"another"', b'"render-id"')
    plain = event("videoaiditor", "render.completed", member(VIDEOAIDITOR, "data"))
    again = event("videoaiditor", "render.completed", odd, b',"idempotency_key":"again"')

    first, second = await delivered(tmp_path, application("videoaiditor", "{url}"), plain, again)
    if len(first.body) == 369:  # they may overtake each other
        first, second = second, first

    assert first.headers.getall("X-Signature") == ["41e344754fff06274ef8a24f9207fa8b73307b88a810c7df1b95ef4ea9945f5d"]
    assert second.headers.getall("X-Signature") == ["a527d7cae2ba6c69c4fe3368c5c480823297d28cbe635c04aad0ae771a9b508b"]
    assert len(second.body) == 369


async def test_the_vectors_of_editframe(tmp_path: Path) -> None:
    """`X-Webhook-Signature` of the printed `render.completed`, and of a test, where a secret that looks like Svix's is
    text all the same (EDF-3, EDF-10)."""
    text = application("editframe", "{url}", secret="test-webhook-secret")
    completed = event("editframe", "render.completed", member(EDITFRAME[1], "data"))

    (request,) = await delivered(tmp_path, text, completed)

    expected = "49898e84fa90f3d4e868a34f383cff4b15543c66b6ff40c8f5ec94a9e2bf76d5"
    assert request.headers.getall("X-Webhook-Signature") == [expected]
    text = application("editframe", "{url}", secret="whsec_abc123", settings=UNCHECKED)
    async with Receiver() as receiver, Stack(tmp_path, extra=text.replace("{url}", receiver.url)) as stack:
        body = {"type": "webhook.test", "data": {"id": "test"}}
        status, answer = await stack.call("POST", "/v1/webhook-endpoints/editframe-1/test", body)
    assert status == 200, answer
    (request,) = receiver.received
    assert request.body == b'{"topic":"webhook.test","data":{"id":"test"}}'
    expected = "62aec02c01b45964464cb0cd3b10ae9a450fb3ffdc6f34a0cbec2a64a67afe51"
    assert request.headers.getall("X-Webhook-Signature") == [expected]


async def test_the_vector_of_roughy(tmp_path: Path) -> None:
    """`svix-id`, `svix-timestamp` and `svix-signature` of the printed body (ROU-15, ROU-16)."""
    text = application("roughy", "{url}", secret=SVIX_SECRET)
    data = without_blanks(member(ROUGHY, "data").decode())
    cut = event("roughy", "cut.completed", data, b',"id":"msg_p5jXN8AQM9LWM0D4loKWxJek"')

    (request,) = await delivered(tmp_path, text, cut)

    assert request.headers["svix-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert request.headers["svix-timestamp"] == "1614265330"
    assert request.headers["svix-signature"] == "v1,PpU0T8Tc4IvPNvPRbgmk/eVVzXb809l6Z48O9hf3ZLg="


class Scheme(NamedTuple):
    """A published vector, and the tables of a contract that sends a flat body so signed."""

    name: str
    tables: str
    secret: str
    unix_s: int
    body: bytes
    header: str
    value: str
    id: str = "evt_1"


def scheme(name: str, header: str, keys: str = "", *, headers: str = "", **rest: Any) -> Scheme:
    plain = f"[headers]\n{headers}\n" if headers else ""
    return Scheme(name, f'{plain}[[signature]]\nheader = "{header}"\n{keys}\n', header=header, **rest)


SCHEMES = [
    scheme(
        "Standard Webhooks",
        "webhook-signature",
        'content = "{id}.{timestamp}.{body}"\nencoding = "base64"\nkey = { strip = "whsec_", decode = "base64" }\n'
        'each = "v1,{sig}"\njoin = " "',
        headers='webhook-id = "{id}"\nwebhook-timestamp = "{timestamp}"',
        secret=SVIX_SECRET,
        unix_s=1_614_265_330,
        body=b'{"test": 2432232314}',
        value="v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        id="msg_p5jXN8AQM9LWM0D4loKWxJek",
    ),
    scheme(
        "GitHub",
        "X-Hub-Signature-256",
        'each = "sha256={sig}"\nsecrets = "first"',
        secret="mysecret",
        unix_s=1_700_000_000,
        body=b'{"foo":"bar"}',
        value="sha256=4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3",
    ),
    scheme(
        "Mux",
        "Mux-Signature",
        'content = "{timestamp}.{body}"\neach = "v1={sig}"\nvalue = "t={timestamp},{sigs}"',
        secret="SuperSecret123",
        unix_s=1_565_125_718,
        body=b'{"test":"body"}',
        value="t=1565125718,v1=854ece4c22acef7c66b57d4e504153bc512595e8e9c772ece2a68150548c19a7",
    ),
    scheme(
        "Paddle",
        "Paddle-Signature",
        'content = "{timestamp}:{body}"\neach = "h1={sig}"\njoin = ";"\nvalue = "ts={timestamp};{sigs}"',
        secret="VALID_SECRET",
        unix_s=1_698_796_800,
        body=b'{"data": ["1", "2"]}',
        value="ts=1698796800;h1=a300428748dce5c70e4da19bffd60769591ea969c99dea3105d0ec9612cf43f9",
    ),
    scheme(
        "Cloudinary",
        "X-Cld-Signature",
        'algorithm = "sha1"\ncontent = "{body}{timestamp}{secret}"\nsecrets = "first"',
        headers='X-Cld-Timestamp = "{timestamp}"',
        secret="shhh",
        unix_s=1_417_727_468,
        body=b'{"public_id":"117e5550-7bfa-11e4-80d7-f962166bd3be","version":1417727468}',
        value="bac927006d3ce039ef7632e2c03189348d02924a",
    ),
    scheme(
        "Convoy",
        "X-Convoy-Signature",
        'content = "{timestamp},{body}"\neach = "v1={sig}"\nvalue = "t={timestamp},{sigs}"',
        secret="convoy-webhook-secret",
        unix_s=1_700_000_000,
        body=b'{"event":"charge.success","amount":1000,"currency":"NGN"}',
        value="t=1700000000,v1=77b8b9269f25a199846a55a2bd25b3fba151c70fdae60bb1dcd87fbbc943c55c",
    ),
    scheme(
        "Outpost",
        "x-outpost-signature",
        'content = "{timestamp}.{body}"',
        secret="test-secret",
        unix_s=1_234_567_890,
        body=b'{"hello":"world"}',
        value="7054f74dae9f73e82b56ca73e8f81450097c698eeda0b00bb8728e89796baf2d",
    ),
    scheme(
        "Remotion",
        "X-Remotion-Signature",
        'algorithm = "hmac-sha512"\neach = "sha512={sig}"\nsecrets = "first"\nunsigned = "NO_SECRET_PROVIDED"',
        secret="secret",
        unix_s=1_700_000_000,
        body=b'{"type":"success","renderId":"r"}',
        value="sha512=193255683302871f338491d63721bd82a2a430b58600c40e125f1c2b0a57bcb20c57f75ecfc89a34b8af6bdf8cb298d1"
        "f31ece9dacb2454b20110e15a7079d71",
    ),
    scheme(
        "Datasaur",
        "X-Datasaur-Signature",
        secret="secret",
        unix_s=1_700_000_000,
        body=b'{"body":"sample"}',
        value="0278b1a603de4c561ac0feb960354d0d00e8846b74813d81bddb43ad45bff767",
    ),
]


@pytest.mark.parametrize("vector", SCHEMES, ids=lambda vector: vector.name)
async def test_published_vectors_of_others(tmp_path: Path, vector: Scheme) -> None:
    """A contract of one's own with the keys of one table sends what that service publishes: body, headers, signature."""
    (tmp_path / "contracts").mkdir()
    text = f'description = "{vector.name}"\n[body]\nmembers = [{{ name = "...", value = "{{data}}" }}]\n{vector.tables}'
    (tmp_path / "contracts" / "flat.toml").write_text(text)
    posting = event("flat", "any.type", vector.body, b',"id":"%s"' % vector.id.encode())

    (request,) = await delivered(
        tmp_path, application("flat", "{url}", secret=vector.secret), posting, wall_s=vector.unix_s
    )

    assert request.body == vector.body
    assert request.headers.getall(vector.header) == [vector.value]
