"""What a contract file may say and intake must do with it: keys, schemas of a base, repeats, the age of links."""

from pathlib import Path

import pytest

from relay.api.problems import Refused
from relay.contracts import ContractCatalogue, ContractError, Payload
from relay.contracts.mistakes import line
from relay.core.model import Validation
from tests.support.contract_files import own
from tests.support.desk import Desk, keeping_desk, pointers

READY = (
    '{"videoContext": "c", "wochitVideoId": "6094", "thumbnailUrl": "http://x.example/t", "videoUrl": "%s", '
    '"title": "t", "videoDuration": 35.0}'
)
CLOSED = (
    'description = "closed"\n[types]\ncatalogue = "closed"\n'
    '[type."order.paid"]\ndescription = "paid"\nschema = "order.json"\nexample = \'{"id": "1", "by": {"name": "n"}}\'\n'
    '[body]\nmembers = [{ name = "data", value = "{data}" }]\n'
)
ORDER = (
    '{"type": "object", "additionalProperties": false, "properties": {"id": {"type": "string"}, '
    '"by": {"$ref": "#/$defs/by"}, "free": {"type": "object"}, "list": {"type": "array"}}, '
    '"$defs": {"by": {"type": "object", "additionalProperties": false, "properties": {"name": {"type": "string"}}}}}'
)
SPACED = '{"_id": "r1",  "videoVersion": 1.0}'


def wrong(folder: Path, text: str) -> list[str]:
    """Load a contract that stands beside `order.json`, and return what is wrong with it."""
    (folder / "order.json").write_text(ORDER)
    (folder / "own.toml").write_text(text)
    return [line(issue).replace(f"{folder}/", "") for issue in ContractCatalogue.read(folder).issues]


async def test_a_second_edit_of_a_video_is_sent_too(tmp_path: Path) -> None:
    """K2: `video.ready` twice for one video with another address is two events; `35.0` stays `35.0` (K3)."""
    async with keeping_desk(tmp_path, "wochit") as desk:
        first = await desk.send("video.ready", READY % "https://x.example/1")
        second = await desk.send("video.ready", READY % "https://x.example/2")
        assert (first.status, second.status) == (202, 202)
        assert first.body["id"] != second.body["id"]
        assert b'"videoDuration": 35.0' in desk.store.events[0].body


def test_a_key_of_the_base_can_be_switched_off(tmp_path: Path) -> None:
    """K4: `idempotency_key = false` in an extending contract takes a base's key away, of a type or of all types."""
    (tmp_path / "order.json").write_text(ORDER)
    (tmp_path / "base.toml").write_text(CLOSED.replace("[body]", 'idempotency_key = "{data.id}"\n[body]'))
    made = own(tmp_path, 'extends = "base"\n[type."order.paid"]\nidempotency_key = false\n')
    assert made.idempotency_key("order.paid", Payload(b'{"id": "1"}')) is None
    assert wrong(tmp_path, CLOSED.replace("[body]", "idempotency_key = false\n[body]")) == [
        'own.toml:8: type."order.paid".idempotency_key: there is no key to switch off. Remove it, or set idempotency.key.'
    ]


@pytest.mark.parametrize(
    "place", ["wochit/draft.json#/$defs/saved", "roughy/entity.json", "editframe/file.json#/$defs/md5"]
)
def test_schemas_of_a_base_are_found(tmp_path: Path, place: str) -> None:
    """K5: a contract that extends a built-in one names schemas as that one does, and they are enforced."""
    service = place.partition("/")[0]
    text = f'extends = "{service}"\n[type."own.kind"]\ndescription = "mine"\nexample = "7"\nschema = "{place}"\n'
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ContractError) as caught:
        ContractCatalogue.load(tmp_path)
    assert {issue.path for issue in caught.value.issues} == {'type."own.kind".example'}


async def test_a_test_type_is_no_event() -> None:
    """K6: an event of a type that only tests send is refused, however lax the application, and the answer names the call."""
    for validation in Validation:
        problem = await Desk(contract="editframe", validation=validation).refusal(
            '{"type": "webhook.test", "data": {}}'
        )
        assert (problem.status, pointers(problem)[0]) == (422, "/type")
        assert "POST /v1/webhook-endpoints/{id}/test" in problem.errors[0].message


async def test_blanks_that_the_body_drops_are_no_difference(tmp_path: Path) -> None:
    """K7: under `js` a repeat with other blanks and spellings is the same event; under `verbatim` it is another body."""
    async with keeping_desk(tmp_path, "videoaiditor", validation=Validation.OFF) as desk:
        first = await desk.send("render.failed", SPACED, idempotency_key="k")
        again = await desk.send("render.failed", '{"_id":"r1","videoVersion":1}', idempotency_key="k")
        assert (again.status, again.body["id"]) == (200, first.body["id"])
        with pytest.raises(Refused) as caught:
            await desk.send("render.failed", '{"_id": "r1", "videoVersion": 2}', idempotency_key="k")
        assert caught.value.problem.type == "idempotency_conflict"


async def test_verbatim_blanks_are_a_difference(tmp_path: Path) -> None:
    """K7, its control: where the body keeps blanks, other blanks under the same key are a conflict."""
    async with keeping_desk(tmp_path, "standard") as desk:
        await desk.send("a.b", SPACED, idempotency_key="k")
        with pytest.raises(Refused) as caught:
            await desk.send("a.b", SPACED.replace("  ", " "), idempotency_key="k")
        assert caught.value.problem.type == "idempotency_conflict"


async def test_links_age_from_when_the_event_happened() -> None:
    """K8: what happened an hour ago has an hour less for its links; what is too old is refused with what to do."""
    desk = Desk(contract="wochit")
    at = "2027-01-15T07:00:00Z"  # an hour before the desk's clock
    await desk.send("video.ready", READY % "https://x.example/v", timestamp=at)
    (event,) = desk.store.events
    assert event.expires_at_ms == desk.clock.wall_ms() + 22 * 3_600_000

    await desk.send("video.ready", READY % "https://x.example/v", timestamp="2027-01-16T08:00:00Z")
    assert desk.store.events[1].expires_at_ms == desk.clock.wall_ms() + 23 * 3_600_000

    desk = Desk(contract="wochit")
    posted = '{"type": "video.ready", "timestamp": "2027-01-14T02:00:00Z", "data": %s%s}'
    problem = await desk.refusal(posted % (READY % "https://x.example/v", ""))
    assert (problem.status, pointers(problem)) == (422, ["/timestamp"])
    assert "expires_at" in problem.errors[0].message
    later = posted % (READY % "https://x.example/v", ', "expires_at": "2027-01-16T00:00:00Z"')
    assert (await desk.post(later)).status == 202


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[idempotency]\nkey = "{data.idd}"\n', "idempotency.key"),
        ('[idempotency]\nkey = "{type}:{data.id}:{data.by.nam}"\n', "idempotency.key"),
        ('[idempotency]\nkey = "{data.free}"\n', "idempotency.key"),
        ('[idempotency]\nkey = "{data.list.id}"\n', "idempotency.key"),
        ('[ordering]\nmode = "strict"\nkey = "{data.idd}"\n', "ordering.key"),
    ],
)
def test_what_no_schema_has_cannot_be_looked_up(tmp_path: Path, text: str, key: str) -> None:
    """K9: a template over members that a closed schema does not have is a mistake: it would never do anything."""
    (found,) = wrong(tmp_path, CLOSED + text)
    assert found.split(": ")[1] == key
    assert "own.toml:" in found


@pytest.mark.parametrize("text", ["{data.id}", "{type}:{data.by.name}", "{data.free.anything}"])
def test_what_a_schema_may_have_can_be_looked_up(tmp_path: Path, text: str) -> None:
    """K9, its control: members that a schema has, behind a reference too, or that it leaves open, are found."""
    assert wrong(tmp_path, CLOSED + f'[idempotency]\nkey = "{text}"\n') == []


def test_mistakes_of_a_contract_name_the_line(tmp_path: Path) -> None:
    """K12: each mistake stands at its file and line, in lists and quoted names too; what is no number gets its own remedy."""
    text = (
        CLOSED.replace('value = "{data}" }', 'value = "{data}" },\n  { name = "rate", value = nan }') + "colour = 1\n"
    )
    found = wrong(tmp_path, text.replace('"paid"', "7"))
    assert [place.partition(": ")[0] for place in found] == ["own.toml:5", "own.toml:10", "own.toml:11"]
    assert "nan is no number of JSON. Write it in quotes as text." in found[1]
