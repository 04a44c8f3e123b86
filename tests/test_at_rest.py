"""Secrets at rest: what the files hold with a key and without, keys that are missing, wrong or rotated, and `relay rekey`."""

import asyncio
import json
import shutil
import sqlite3
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import trustme
from click.testing import CliRunner

from relay.cli import main
from relay.cli.client import Daemon
from relay.config.fields import KEYS_MAX
from relay.core.errors import CannotStart, ConfigError, Conflict
from relay.store import AtRest
from relay.store.sqlite import SqliteStore, StoreSettings, rekey
from relay.store.sqlite.sealing import MARK, Keyring
from tests.support.clock import FakeClock
from tests.support.house import House
from tests.support.stores import look, outside

ADMIN = "admin-token-0123456789"
ENDPOINTS = "/v1/webhook-endpoints"


def whsec(text: str) -> str:
    return "whsec_" + b64encode(text.encode().ljust(24, b".")).decode()


CANARY, HEADER, PASSWORD = whsec("canary"), "Bearer canary-of-a-header", "canary-of-a-password"
OLD, NEW = (b64encode(bytes([number]) * 32).decode() for number in (1, 2))
KEY = trustme.CA().issue_cert("relay.example")


class Kept(House):
    """A relay whose database is encrypted with some keys."""

    def __init__(self, folder: Path, *keys: str) -> None:
        super().__init__(folder, FakeClock())
        self.configure(*keys)

    def configure(self, *keys: str) -> None:
        """Write the file with these keys, newest first."""
        self.write(
            f'[server]\nlisten = ["127.0.0.1:0"]\n[storage]\npath = "{self.folder}/relay.db"\nsecrets_key = {list(keys)}\n'
            f'[[token]]\nname = "admin"\nrole = "admin"\nsecret = "{ADMIN}"\n'
        )

    async def call(self, method: str, path: str, body: Any = None, key: str = "") -> Any:
        headers = {"Authorization": f"Bearer {ADMIN}"} | ({"Idempotency-Key": key} if key else {})
        async with self.http.request(method, self.url + path, json=body, headers=headers) as answer:
            return await answer.json() if answer.content_length else None

    async def fill(self) -> None:
        """Make endpoints with all that is secret of them: one that stays, one that is rotated, one that is deleted."""
        tls = {"client_cert": KEY.cert_chain_pems[0].bytes().decode(), "client_key": key_text()}
        wanted = {"url": "https://receiver.example/", "headers": {"X-Authorization": HEADER}, "tls": tls}
        wanted |= {"auth": {"type": "basic", "username": "relay", "password": PASSWORD}}
        for name in ("stays", "rotated", "deleted"):
            made = await self.call("POST", ENDPOINTS, wanted | {"id": name, "secret": CANARY}, key=name)
            assert made["id"] == name, made
        await self.call("POST", f"{ENDPOINTS}/rotated/rotate-secret", {"overlap": "0s"})
        await self.call("DELETE", f"{ENDPOINTS}/deleted")

    async def secret(self, name: str = "stays") -> str:
        return str((await self.call("GET", f"{ENDPOINTS}/{name}/secret"))["secrets"][0]["secret"])

    async def warned(self) -> bool:
        status = await self.call("GET", "/v1/status")
        return any("relay rekey" in warning for warning in status["warnings"])


def key_text() -> str:
    return KEY.private_key_pem.bytes().decode()


def canaries() -> dict[str, bytes]:
    """What must not be found in any file."""
    return {
        "secret": CANARY.encode(),
        "header": HEADER.encode(),
        "password": PASSWORD.encode(),
        "client key": key_text().splitlines()[3].encode(),
    }


def found(folder: Path) -> set[str]:
    """Which canaries stand in the bytes of any file of the database."""
    texts = [path.read_bytes() for path in folder.glob("relay.db*")]
    return {name for name, canary in canaries().items() if any(canary in text for text in texts)}


async def test_without_a_key_secrets_stand_in_clear_and_the_status_says_so(tmp_path: Path) -> None:
    """Control of what follows: without a key the canaries are found; only then, and from the first secret on, it warns."""
    async with Kept(tmp_path) as relay:
        assert (relay.relay.store.at_rest, await relay.warned()) == (AtRest.NONE, False)
        await relay.fill()
        assert found(tmp_path) == canaries().keys()
        assert (relay.relay.store.at_rest, await relay.warned()) == (AtRest.CLEAR, True)
        refused = await relay.call("POST", "/v1/rekey")
        assert (refused["status"], refused["type"]) == (409, "no_secrets_key")


async def test_with_a_key_no_file_holds_a_secret(tmp_path: Path) -> None:
    """Issue 9: with a key neither database nor WAL ever holds a secret, a client key or a header in clear; all are read again."""
    relay = Kept(tmp_path, OLD)
    async with relay:
        await relay.fill()
        assert found(tmp_path) == set()
        assert not await relay.warned()
    assert found(tmp_path) == set()
    async with relay:
        assert await relay.secret() == CANARY
        shown = await relay.call("GET", f"{ENDPOINTS}/stays")
        assert shown["headers"]["X-Authorization"] == HEADER
        assert shown["auth"] == {"type": "basic", "username": "relay", "password": "***"}
        exported = await relay.call("GET", "/v1/export?secrets=true")
        assert PASSWORD in str(exported)
        again = await relay.call("POST", "/v1/applications/default/keys", {"name": "k"}, key="token")
        assert (await relay.call("POST", "/v1/applications/default/keys", {"name": "k"}, key="token")) == again
    seeds = look(tmp_path, "SELECT seed FROM creation_record")
    assert len(seeds) == 4
    assert all(seed.startswith(MARK.encode()) for (seed,) in seeds)


async def test_rekey_leaves_nothing_of_what_stood_in_clear(tmp_path: Path) -> None:
    """Issue 9: after `relay rekey` no clear secret is left in any file, of rotated and deleted endpoints neither."""
    relay = Kept(tmp_path)
    async with relay:
        await relay.fill()
    relay.configure(OLD)
    async with relay:
        assert await relay.warned()
        done = await relay.call("POST", "/v1/rekey")
        counted = {name: done[name] for name in ("endpoints", "idempotency_records", "were_clear", "traces_removed")}
        assert counted == {"endpoints": 2, "idempotency_records": 3, "were_clear": 2, "traces_removed": True}
        assert found(tmp_path) == set()
        assert not await relay.warned()
        assert await relay.secret() == CANARY
        again = await relay.call("POST", "/v1/rekey")
        assert (again["endpoints"], again["idempotency_records"], again["were_clear"]) == (0, 0, 0)


async def test_encrypting_alone_leaves_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: without writing the file anew the canary finds what was overwritten, and the warning stays."""
    monkeypatch.setattr(rekey, "_rewrite", lambda connection, folder: connection.execute("no such statement"))
    relay = Kept(tmp_path)
    async with relay:
        await relay.fill()
    relay.configure(OLD)
    async with relay:
        done = await relay.call("POST", "/v1/rekey")
        assert (done["traces_removed"], done["were_clear"]) == (False, 2)
        assert "syntax error" in done["hindered"]
        assert found(tmp_path)
        assert await relay.warned()
    monkeypatch.undo()
    async with relay:
        assert await relay.warned()
        assert (await relay.call("POST", "/v1/rekey"))["traces_removed"]
        assert found(tmp_path) == set()


async def test_rotated_keys(tmp_path: Path) -> None:
    """Under a new key the older one still reads, until all is encrypted anew; then the relay starts without the older one."""
    relay = Kept(tmp_path, OLD)
    async with relay:
        await relay.fill()
    relay.configure(NEW, OLD)
    async with relay:
        assert await relay.secret() == CANARY
        assert await relay.warned()
        done = await relay.call("POST", "/v1/rekey")
        assert (done["key"], done["endpoints"], done["were_clear"]) == (Keyring([bytes([2]) * 32]).ids[0], 2, 0)
        assert not await relay.warned()
    relay.configure(NEW)
    async with relay:
        assert await relay.secret() == CANARY


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["missing", "another"])
async def test_a_start_without_the_key_is_refused(tmp_path: Path, keys: tuple[str, ...]) -> None:
    """A missing or another key, as after restoring a backup: exit code 78, a sentence with the key's id, and nothing changes."""
    relay = Kept(tmp_path, OLD)
    async with relay:
        await relay.fill()
    before = (tmp_path / "relay.db").read_bytes()
    relay.configure(*keys)
    with pytest.raises(
        ConfigError, match=r"encrypted with the key [0-9a-f]{8}, which is not in storage\.secrets_key"
    ) as refused:
        await relay.wire().start()
    assert refused.value.exit_code == 78
    assert (tmp_path / "relay.db").read_bytes() == before
    relay.configure(OLD)
    async with relay:
        assert await relay.secret() == CANARY


async def test_a_row_is_bound_to_its_endpoint(tmp_path: Path) -> None:
    """Secrets that were copied into the row of another endpoint do not open there: the start is refused."""
    relay = Kept(tmp_path, OLD)
    async with relay:
        await relay.fill()
    with sqlite3.connect(tmp_path / "relay.db") as connection:
        connection.execute(
            "UPDATE endpoint SET secrets = (SELECT secrets FROM endpoint WHERE id = 'rotated') WHERE id = 'stays'"
        )
    connection.close()
    with pytest.raises(CannotStart, match="secrets of endpoint stays cannot be decrypted"):
        await relay.wire().start()


async def test_an_interrupted_rekey_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a crash between two steps left is done by the next run, and read by both keys meanwhile."""
    monkeypatch.setattr(rekey, "STEP_ROWS", 1)
    relay = Kept(tmp_path)
    async with relay:
        await relay.fill()
    relay.configure(OLD)
    await relay.start()
    await outside(relay.relay.store, lambda connection: rekey.reseal(connection, Keyring([bytes([1]) * 32], bytes)))
    await relay.crash()
    assert sum(text.startswith(MARK) for (text,) in look(tmp_path, "SELECT secrets FROM endpoint")) == 1
    async with relay:
        assert {await relay.secret(name) for name in ("stays", "rotated")} >= {CANARY}
        done = await relay.call("POST", "/v1/rekey")
        assert (done["endpoints"], done["were_clear"]) == (1, 1)
        assert found(tmp_path) == set()


async def test_an_edit_during_a_rekey_keeps_its_secret(tmp_path: Path) -> None:
    """A rotation while secrets are encrypted anew is kept, and encrypted with the newest key."""
    relay = Kept(tmp_path, OLD)
    async with relay:
        await relay.fill()
    relay.configure(NEW, OLD)
    async with relay:
        given = whsec("given meanwhile")
        rotate = relay.call("POST", f"{ENDPOINTS}/stays/rotate-secret", {"secret": given})
        await asyncio.gather(relay.call("POST", "/v1/rekey"), rotate, relay.call("POST", "/v1/rekey"))
        assert await relay.secret() == given
    relay.configure(NEW)
    async with relay:
        assert await relay.secret() == given


async def test_a_migration_s_copy_is_named(tmp_path: Path) -> None:
    """A copy that a migration made keeps secrets as they were; `relay rekey` names it."""
    shutil.copy(Path(__file__).parent / "data" / "store_v1" / "relay.db", tmp_path / "relay.db")
    settings = StoreSettings(tmp_path / "relay.db", keys=Keyring([b"k" * 32], bytes))
    store = await SqliteStore.open(settings, FakeClock())
    try:
        done = await store.rekey()
    finally:
        await store.close()
    assert (done.backups, done.hindered) == ([str(tmp_path / "relay.db.schema-1.backup")], "")
    assert done.resealed.clear == done.resealed.endpoints > 0
    kept = look(tmp_path, "SELECT secrets, definition, deleted_at FROM endpoint")
    assert all(text.startswith(MARK) or text == "[]" for text, _, _ in kept)
    assert {text for _, text, deleted_at in kept if deleted_at is not None} <= {"{}", None}


def test_a_key_is_printed() -> None:
    """`relay rekey --generate` prints a key that the configuration takes, another one each time."""
    printed = {CliRunner().invoke(main, ["rekey", "--generate"]).stdout for _ in range(2)}
    assert len(printed) == 2
    assert all(len(text.strip()) == 44 for text in printed)


@pytest.mark.parametrize("key", ["short", "x" * 44, b64encode(b"k" * 31).decode(), "zz" * 32])
def test_a_key_of_another_form_is_refused(tmp_path: Path, key: str) -> None:
    """Anything but 32 bytes in base64 or hexadecimal is a mistake of the configuration, and is not repeated."""
    relay = Kept(tmp_path, key)
    (issue,) = [issue for issue in relay.read().issues if not issue.warning]
    assert issue.path == "storage.secrets_key[0]"
    assert "32 random bytes" in issue.message
    assert "relay rekey --generate" in issue.remedy
    assert key not in str(issue)


def test_the_forms_of_a_key(tmp_path: Path) -> None:
    """A key is taken in base64 of both alphabets and in hexadecimal, alone or in a list, and from places such as env:."""
    key = b"\xfb\xef\xff" * 10 + b"\x00\x01"
    relay = Kept(tmp_path, b64encode(key).decode(), b64encode(key, b"-_").decode(), key.hex(), "env:RELAY_TEST_KEY")
    relay.env["RELAY_TEST_KEY"] = key.hex()
    config = relay.read().config
    assert config is not None
    assert config.storage.keys == (key,) * 4
    relay.write(f'[storage]\nsecrets_key = "{key.hex()}"\n')
    alone = relay.read().config
    assert alone is not None
    assert alone.storage.keys == (key,)
    assert key.hex() not in repr(alone)


def test_a_sealed_text_opens_only_whole() -> None:
    """Every text comes back, lone surrogates and prefixes included; a changed byte, a cut, or no key at all is refused."""
    keys = Keyring([b"k" * 32], lambda size: b"n" * size)
    for text in ("", "{}", "[]x", MARK, "\ud800", "é" * 5_000):
        assert keys.open(keys.seal(text, "a"), "a") == text
    sealed = keys.seal("text", "a")
    for broken in (sealed[:-4], sealed[: len(MARK) + 9], sealed[:-6] + "AAAA" + sealed[-2:], sealed[:-1] + "é"):
        with pytest.raises(CannotStart, match="cannot be decrypted"):
            keys.open(broken, "a")
    with pytest.raises(ConfigError, match="it is not set"):
        Keyring().open(sealed, "a")
    assert Keyring().seal("text", "a") == "text"


async def test_without_a_key_the_store_refuses(tmp_path: Path) -> None:
    """The store itself says what to do when there is nothing to encrypt with."""
    async with Kept(tmp_path) as relay:
        with pytest.raises(Conflict, match="relay rekey --generate"):
            await relay.relay.store.rekey()


def test_so_many_keys_and_no_more(tmp_path: Path) -> None:
    """Sixteen keys are taken, a seventeenth is a mistake: what is older was to be encrypted anew long ago."""
    keys = [b64encode(bytes([number]) * 32).decode() for number in range(KEYS_MAX + 1)]
    assert not [issue for issue in Kept(tmp_path, *keys[:KEYS_MAX]).read().issues if not issue.warning]
    (issue,) = [issue for issue in Kept(tmp_path, *keys).read().issues if not issue.warning]
    assert (issue.path, str(KEYS_MAX) in issue.message) == ("storage.secrets_key", True)


@pytest.mark.parametrize(
    ("answer", "code", "says"),
    [
        (
            {"endpoints": 2, "idempotency_records": 1, "were_clear": 2, "traces_removed": True, "backups": []},
            0,
            (
                "Encrypted anew with the key k1: 2 endpoints and 1 idempotency record; 2 stood in clear.\n"
                "Nothing in the database needs an older key any more: take them out of storage.secrets_key.\n"
            ),
        ),
        (
            {
                "endpoints": 0,
                "idempotency_records": 0,
                "were_clear": 0,
                "traces_removed": False,
                "hindered": "disk full",
            }
            | {"backups": ["relay.db.v8"]},
            1,
            (
                "Encrypted anew with the key k1: 0 endpoints and 0 idempotency records.\n"
                "What stood there before may still be found in the file: disk full. Then run this again.\n"
                "These copies keep secrets as they were; remove what you no longer need: relay.db.v8\n"
            ),
        ),
    ],
)
def test_what_rekey_prints(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], code: int, says: str) -> None:
    """The command says what it encrypted and what is left to do, and exits 1 where traces are left."""
    monkeypatch.setattr(Daemon, "post", lambda self, path, *others, **options: {"key": "k1", **answer})
    done = CliRunner().invoke(main, ["rekey"])
    assert (done.output, done.exit_code) == (says, code)
    whole = CliRunner().invoke(main, ["rekey", "--json"])
    assert (json.loads(whole.stdout), whole.exit_code) == ({"key": "k1", **answer}, code)
