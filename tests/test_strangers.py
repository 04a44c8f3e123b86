"""What somebody meets who uses relay for the first time, and types what nobody expected."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from relay.cli import main
from relay.cli.output import Exit
from tests.support.api_stub import ApiStub
from tests.support.daemon import SECRET
from tests.support.stack import Stack

ENDPOINTS = "/v1/webhook-endpoints"


@pytest.fixture
def api() -> Iterator[ApiStub]:
    stub = ApiStub()
    yield stub
    stub.close()


@pytest.mark.parametrize("event_id", ["ä", "a b", "a\nb", "a#b"])
def test_an_id_with_odd_characters_is_asked_for_and_unknown(api: ApiStub, event_id: str) -> None:
    """An id that no path can hold is escaped: the daemon says that there is none, instead of a traceback."""
    result = CliRunner().invoke(main, ["events", "show", event_id, "--url", api.url], catch_exceptions=False)
    assert result.exit_code == Exit.FAILED
    assert api.asked[0].path.isascii()


def test_a_token_with_a_line_end_is_a_usage_error(api: ApiStub) -> None:
    """A token that no header can hold, as `$(cat file)` in quotes may give, ends with what to do; it is not shown."""
    words = ["status", "--url", api.url, "--token", "secret-token\nmore"]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == Exit.USAGE
    assert "line end" in result.stderr
    assert "secret-token" not in result.stderr
    assert api.asked == []


@pytest.mark.parametrize("data", ['{"a": "\udcff"}', "[" * 100_000])
def test_data_that_cannot_be_sent_is_refused_here(api: ApiStub, data: str) -> None:
    """DATA that is no UTF-8, or nested beyond reason, exits 65 before anything is sent."""
    result = CliRunner().invoke(main, ["send", "a.b", data, "--url", api.url], catch_exceptions=False)
    assert result.exit_code == Exit.BAD_INPUT
    assert api.asked == []


def test_a_header_without_a_value_is_a_usage_error(api: ApiStub) -> None:
    """`endpoint add --header NAME` says how a header is written."""
    words = ["endpoint", "add", "https://example.com/", "--header", "X-Env", "--url", api.url]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert (result.exit_code, api.asked) == (Exit.USAGE, [])
    assert "NAME=VALUE" in result.stderr


async def test_an_address_outside_the_allowed_networks_is_refused_at_once(tmp_path: Path) -> None:
    """With some networks allowed, a literal address outside them is a mistake, not an endpoint whose mail all dies."""
    async with Stack(tmp_path) as stack:
        inside, _ = await stack.call("POST", ENDPOINTS, {"url": "http://127.0.0.1:9/"})
        outside, problem = await stack.call("POST", ENDPOINTS, {"url": "http://10.0.0.1/"})
    assert (inside, outside) == (201, 422)
    assert problem["errors"][0]["pointer"] == "/url"


async def test_a_patch_may_be_sent_as_a_merge_patch(tmp_path: Path) -> None:
    """PATCH takes the media type of RFC 7396; other calls do not. An unknown field is refused though it is null."""
    kind = {"Content-Type": "application/merge-patch+json"}
    async with Stack(tmp_path) as stack:
        _, made = await stack.call("POST", ENDPOINTS, {"url": "http://127.0.0.1:9/"})
        one = f"{ENDPOINTS}/{made['id']}"
        patched, endpoint = await stack.call("PATCH", one, {"timeout": "3s"}, headers=kind)
        posted, _ = await stack.call("POST", ENDPOINTS, {"url": "http://127.0.0.1:9/"}, headers=kind)
        unknown, _ = await stack.call("PATCH", one, {"colour": None})
    assert (patched, endpoint["timeout"], posted, unknown) == (200, "3s", 415, 422)


async def test_a_call_without_fields_refuses_fields(tmp_path: Path) -> None:
    """Unknown fields are refused where there are none: `{}` and an empty body are fine."""
    async with Stack(tmp_path) as stack:
        _, made = await stack.call("POST", ENDPOINTS, {"url": "http://127.0.0.1:9/"})
        pause = f"{ENDPOINTS}/{made['id']}/pause"
        answers = [(await stack.call("POST", pause, body))[0] for body in (None, {}, {"until": "noon"}, b"{")]
    assert answers == [200, 200, 422, 400]


async def test_a_reload_that_only_the_database_refuses_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    """An id that the API gave out is refused as 422 `invalid_config`, which says that nothing was changed (Q11)."""
    async with Stack(tmp_path) as stack:
        _, made = await stack.call("POST", ENDPOINTS, {"url": "http://127.0.0.1:9/"})
        stack.write_config(endpoints={made["id"]: "http://127.0.0.1:9/"})
        status, problem = await stack.call("POST", "/v1/reload")
    assert (status, problem["type"]) == (422, "invalid_config")
    assert "Nothing was changed" in problem["detail"]
    assert made["id"] in problem["errors"][0]["message"]
    assert SECRET not in str(problem)
