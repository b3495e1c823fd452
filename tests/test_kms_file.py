"""FileKms: which files it takes, what its blobs are bound to, and how master keys rotate."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from anyseal import (
    ConfigurationError,
    KeyAdmin,
    KeyHierarchy,
    KmsError,
    SessionFactory,
    sync,
)
from anyseal.kms import FileKms, StaticKms
from anyseal.metastore.memory import MemoryMetastore
from anyseal.ports import KeyRecord, Kms
from anyseal.settings import SessionSettings
from anyseal.testing import Recorder
from shell import Shell
from support import a_key, pattern

pytestmark = pytest.mark.anyio
KEY = bytearray(pattern(32, "system key"))
KEYS = {n: pattern(32, f"master {n}").hex() for n in range(1, 6)}
SK = "_SK_svc_prod"


def text(*versions: int, current: int | None = None) -> str:
    """The lines of these versions."""
    return "".join(f"{n} {KEYS[n]}{' current' if n == current else ''}\n" for n in versions)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound file with version 1."""
    return write(tmp_path / "master.keys", text(1, current=1))


def write(path: Path, lines: str, mode: int = 0o600) -> Path:
    """As a deployment does: another file under the same name."""
    fresh = path.with_name(".new")
    fresh.write_text(lines)
    fresh.chmod(mode)
    fresh.replace(path)
    return path


# ---- blobs ----


async def test_blob_names_version_and_fingerprint_and_opens(path: Path) -> None:
    """Who looks at a row must see which master key it needs; no key is tried."""
    kms = FileKms(path)
    assert isinstance(kms, Kms)
    wrapped = await kms.wrap_for(KEY, SK, 60)
    assert wrapped != await kms.wrap_for(KEY, SK, 60)
    assert KEY == await kms.unwrap_for(wrapped, SK, 60)
    assert (1).to_bytes(8) == wrapped[4:12]
    assert 1 == kms.version_of(wrapped)
    assert KEY not in wrapped
    assert KEY == await kms.unwrap(await kms.wrap(KEY))


@pytest.mark.parametrize(
    ("key_id", "created"),
    [("_SK_svc_other", 60), (SK, 61), (SK, 0), ("", 60), ("", 0), (SK + "x", 60)],
)
async def test_blob_is_bound_to_its_row(path: Path, key_id: str, created: int) -> None:
    """Who writes the metastore must not give one service's key to another."""
    kms = FileKms(path)
    wrapped = await kms.wrap_for(KEY, SK, 60)
    with pytest.raises(KmsError, match="another row") as caught:
        await kms.unwrap_for(wrapped, key_id, created)
    assert not caught.value.retryable


async def test_blob_is_bound_to_its_version(tmp_path: Path, path: Path) -> None:
    """The same key under another version's number is another master key."""
    wrapped = await FileKms(path).wrap_for(KEY, SK, 60)
    other = write(tmp_path / "other", f"2 {KEYS[1]}\n")
    forged = wrapped[:4] + (2).to_bytes(8) + wrapped[12:]
    with pytest.raises(KmsError, match="verify"):
        await FileKms(other).unwrap_for(forged, SK, 60)
    same_version = write(tmp_path / "same", f"1 {KEYS[2]}\n")
    with pytest.raises(KmsError, match="another key"):
        await FileKms(same_version).unwrap_for(wrapped, SK, 60)


async def test_blob_that_is_altered_cut_or_not_ours_is_refused(path: Path) -> None:
    """Each bit counts; and Asherah's static blob is told from ours."""
    kms = FileKms(path)
    wrapped = await kms.wrap_for(KEY, SK, 60)
    for at in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[at] ^= 1
        with pytest.raises(KmsError):
            await kms.unwrap_for(bytes(changed), SK, 60)
    static = await StaticKms(a_key()).wrap(KEY)
    for blob in (wrapped[:-1], wrapped + b"\0", b"", static, pattern(len(wrapped))):
        with pytest.raises(KmsError):
            await kms.unwrap_for(blob, SK, 60)
    assert kms.version_of(static) is None


# ---- the file ----


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("", "no master key"),
        ("# nothing\n\n", "no master key"),
        ("correct horse battery staple\n", "line 1"),
        ("1 correct horse battery staple\n", "line 1"),
        (f"{KEYS[1]}\n", "line 1"),
        (f"0 {KEYS[1]}\n", "line 1"),
        (f"-1 {KEYS[1]}\n", "line 1"),
        (f"4294967296 {KEYS[1]}\n", "line 1"),
        (f"1 {KEYS[1][:-1]}\n", "line 1"),
        (f"1 {KEYS[1]}0\n", "line 1"),
        (f"1 {KEYS[1]} currant\n", "line 1"),
        (f"1 {b'thisIsAStaticMasterKeyForTesting'.hex()}\n", "no random key"),
        (f"1 {b'a passphrase of 32 characters!!!'.hex()}\n", "no random key"),
        (f"1 {'8f' * 32}\n", "no random key"),
        (f"1 {'00' * 32}\n", "no random key"),
        (f"1 {'0123456789abcdef' * 4}\n", "no random key"),
        (f"1 {bytes(range(32)).hex()}\n", "no random key"),
        (f"1 {bytes(range(255, 223, -1)).hex()}\n", "no random key"),
        (f"1 {(pattern(16) * 2).hex()}\n", "no random key"),
        (f"1 {hashlib.sha256(b'password').hexdigest()}\n", "no random key"),
        (text(1) + text(1, current=1), "twice"),
        (text(1, current=1) + f"2 {KEYS[1]}\n", "another version"),
        (text(1, 2), "0 of 2"),
        (text(1, current=1) + text(2, current=2), "2 of 2"),
        (text(1, current=1) + "# " + "x" * (1 << 16), "longer"),
    ],
)
def test_file_that_is_malformed_is_refused(path: Path, lines: str, why: str) -> None:
    """By its line, and without a byte of a key."""
    write(path, lines)
    with pytest.raises(ConfigurationError, match=why) as caught:
        FileKms(path)
    assert str(path) in str(caught.value)
    assert not re.search("[0-9a-f]{16}", str(caught.value).replace(str(path), ""))


@pytest.mark.parametrize("lines", [f"1 {KEYS[1]}", f"\n# a note\r\n7\t{KEYS[1].upper()}\r\n"])
async def test_file_may_be_plain(path: Path, lines: str) -> None:
    """A single key is the current one, marked or not."""
    write(path, lines)
    kms = FileKms(path)
    assert KEY == await kms.unwrap_for(await kms.wrap_for(KEY, SK, 1), SK, 1)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666, 0o660, 0o622, 0o420])
def test_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    """Who can write it can choose the key of what is sealed next."""
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"{mode:04o}"):
        FileKms(path)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o444])
def test_file_that_others_may_read_is_warned_about(path: Path, mode: int) -> None:
    """It may be meant so, in a container of one user."""
    path.chmod(mode)
    with pytest.warns(RuntimeWarning, match="read by other users"):
        FileKms(path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_file_for_owner_and_group_is_taken_quietly(path: Path, mode: int) -> None:
    """Kubernetes gives a Secret to a group (fsGroup)."""
    path.chmod(mode)
    FileKms(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_file_of_another_user_is_refused(path: Path) -> None:
    """Its owner may write it, whatever its mode says."""
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigurationError, match="another user"):
        FileKms(path)


@pytest.mark.parametrize("what", ["absent", "folder", "fifo", "link", "link to link", "device"])
def test_file_that_is_none_is_refused_at_once(tmp_path: Path, path: Path, what: str) -> None:
    """Without waiting for a writer, and without following a link."""
    odd = tmp_path / "odd"
    if what == "folder":
        odd.mkdir()
    elif what == "fifo":
        os.mkfifo(odd, 0o600)
    elif what == "link":
        odd.symlink_to(path)
    elif what == "link to link":
        (tmp_path / "..data").symlink_to(path.parent)
        odd.symlink_to("..data/odd")
    elif what == "device":
        odd = Path("/dev/null")
    with pytest.raises(ConfigurationError):
        FileKms(odd)


def kubernetes(folder: Path, lines: str, stamp: str) -> Path:
    """A Secret's volume as the kubelet lays it out, and changes it: by one rename."""
    (folder / stamp).mkdir()
    write(folder / stamp / "master.keys", lines, 0o440)
    (folder / "..data_tmp").symlink_to(stamp)
    (folder / "..data_tmp").rename(folder / "..data")
    name = folder / "master.keys"
    if not name.is_symlink():
        name.symlink_to("..data/master.keys")
    return name


async def test_file_of_a_kubernetes_secret_is_followed_and_reread(tmp_path: Path) -> None:
    """The one layout of links that a platform brings by itself."""
    name = kubernetes(tmp_path, text(1, current=1), "..2026_01_01")
    kms = FileKms(name)
    wrapped = await kms.wrap_for(KEY, SK, 1)
    kubernetes(tmp_path, text(1, 2, current=2), "..2026_01_02")
    assert KEY == await kms.unwrap_for(wrapped, SK, 1)
    assert 2 == kms.version_of(await kms.wrap_for(KEY, SK, 1))


@pytest.mark.parametrize("target", ["elsewhere", "/tmp", "..", "../x", "..a/b"])
def test_file_of_no_kubernetes_secret_is_refused(tmp_path: Path, target: str) -> None:
    """Whose ``..data`` points out of the folder was not made by a kubelet."""
    (tmp_path / "..data").symlink_to(target)
    name = tmp_path / "master.keys"
    name.symlink_to("..data/master.keys")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        FileKms(name)


async def test_file_is_reread_when_it_changes(path: Path) -> None:
    """A restart for each rotation would be forgotten; a removed key must not stay either."""
    kms = FileKms(path)
    old = await kms.wrap_for(KEY, SK, 1)
    write(path, text(1, 2, current=2))
    new = await kms.wrap_for(KEY, SK, 1)
    assert [1, 2] == [kms.version_of(old), kms.version_of(new)]
    assert [False, True] == [await kms.is_current(old), await kms.is_current(new)]
    assert KEY == await kms.unwrap_for(old, SK, 1)
    path.write_text(text(2, current=2))  # in place
    with pytest.raises(KmsError, match="no version 1"):
        await kms.unwrap_for(old, SK, 1)
    assert KEY == await kms.unwrap_for(new, SK, 1)


@pytest.mark.parametrize("fault", ["gone", "open", "broken"])
async def test_file_that_goes_bad_is_a_kms_error_until_it_is_mended(path: Path, fault: str) -> None:
    """The rules of the start hold later too."""
    kms = FileKms(path)
    wrapped = await kms.wrap_for(KEY, SK, 1)
    if fault == "gone":
        path.unlink()
    elif fault == "open":
        path.chmod(0o666)
    else:
        write(path, "1 nonsense\n")
    for call in (kms.unwrap_for(wrapped, SK, 1), kms.wrap_for(KEY, SK, 1)):
        with pytest.raises(KmsError) as caught:
            await call
        assert caught.value.retryable, "a deployment may be under way"
    write(path, text(1, current=1))
    assert KEY == await kms.unwrap_for(wrapped, SK, 1)


# ---- settings and the environment ----


async def test_text_from_the_environment_warns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other processes of the user can read is no place for a master key; a file is."""
    monkeypatch.setenv("KMS_KEYS", text(1, 2, current=2).strip().replace("\n", ","))
    with pytest.warns(RuntimeWarning, match="other processes of this user can read"):
        kms = FileKms.from_env()
    wrapped = await kms.wrap_for(KEY, SK, 1)
    monkeypatch.setenv("KMS_FILE", str(write(path, text(2))))
    assert KEY == await FileKms.from_env().unwrap_for(wrapped, SK, 1)
    monkeypatch.delenv("KMS_FILE")
    monkeypatch.delenv("KMS_KEYS")
    with pytest.raises(ConfigurationError, match="KMS_FILE"):
        FileKms.from_env()


def test_settings_name_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a mapping and from the environment; not both forms at once."""
    base = {"ServiceName": "s", "ProductID": "p", "Metastore": "memory", "KMS": "file"}
    for name in ("KmsFile", "kms_file"):
        settings = SessionSettings.from_mapping({**base, name: str(path)})
        with sync.SessionFactory(settings.hierarchy()) as factory:
            session = factory.session("u1")
            assert b"data" == session.decrypt(session.encrypt(b"data"))
    with pytest.raises(ConfigurationError, match="kms_file"):
        SessionSettings.from_mapping(base).hierarchy()
    with pytest.raises(ConfigurationError, match="exclude"):
        SessionSettings.from_mapping({**base, "KmsFile": str(path), "KmsKeys": text(1)}).hierarchy()
    with pytest.warns(RuntimeWarning, match="child processes inherit"):
        SessionSettings.from_mapping({**base, "KmsKeys": text(1)}).hierarchy()
    assert KEYS[1] not in repr(SessionSettings.from_mapping({**base, "KmsKeys": text(1)}))
    monkeypatch.setenv("KMS_FILE", str(path))
    assert str(path) == SessionSettings.from_env().kms_file


def test_file_kms_shows_no_key(path: Path) -> None:
    """Neither printed nor copied."""
    kms = FileKms(path)
    assert f"<FileKms {str(path)!r} versions=[1]>" == repr(kms)
    with pytest.raises(TypeError):
        kms.__reduce__()


# ---- in a hierarchy ----


class Lasting(MemoryMetastore):
    """As a database: a KMS meant for tests is refused beside it."""

    testing = False


def hierarchy(path: Path, store: Any, service: str = "svc") -> KeyHierarchy:
    return KeyHierarchy(FileKms(path), store, service=service, product="prod")


async def rows(store: Any) -> list[KeyRecord]:
    return [record async for record in store.records("_SK_")]


async def test_hierarchy_binds_system_keys_to_their_rows(path: Path) -> None:
    """A lasting metastore needs no excuse for this KMS; a row that was moved opens nothing."""
    store = Lasting()
    async with SessionFactory(hierarchy(path, store)) as factory:
        row = await factory.session("u1").encrypt(b"data")
    (record,) = await rows(store)
    assert KEY != await FileKms(path).unwrap_for(record.key, record.id, record.created)
    async with SessionFactory(hierarchy(path, store)) as factory:
        assert b"data" == await factory.session("u1").decrypt(row)
    moved = KeyRecord(id="_SK_other_prod", created=record.created, key=record.key)
    assert await store.store(moved)
    async with SessionFactory(hierarchy(path, store, "other")) as factory:
        with pytest.raises(KmsError, match="another row"):
            await factory.session("u1").encrypt(b"data")


async def test_rotation_of_the_master_key(path: Path) -> None:
    """Added, made current, rewrapped, removed: and everything opens at each step."""
    store, audit = Lasting(), Recorder()
    async with hierarchy(path, store) as keys, hierarchy(path, store, "other") as other:
        session = SessionFactory(keys).session("u1")
        sealed = [await session.encrypt(b"data")]
        await keys.rotate()
        await keys.rotate("u1")
        sealed.append(await session.encrypt(b"data"))
        await other.current("u1")
        write(path, text(1, 2, current=1))
        write(path, text(1, 2, current=2))
        admin = KeyAdmin(keys, audit=audit)
        assert {1: 3} == await admin.master_versions()
        revoked = (await rows(store))[0]
        await store.revoke(revoked.id, revoked.created)
        report = await admin.rewrap_system()
        assert (2, 0) == (report.rewrapped, report.current)
        assert 2 == audit.count(operation="rewrap", outcome="ok")
        assert {1: 1, 2: 2} == await admin.master_versions(), "another service's is its own to do"
        report = await admin.rewrap_system()
        assert (0, 2) == (report.rewrapped, report.current)
        assert 1 == sum(record.revoked for record in await rows(store))
        assert 1 == (await KeyAdmin(other).rewrap_system()).rewrapped
    write(path, text(2, current=2))
    async with hierarchy(path, store) as keys:
        session = SessionFactory(keys).session("u1")
        assert [b"data"] * 2 == await session.decrypt_many(sealed)


async def test_rewrapping_beside_another_change_loses_neither(path: Path) -> None:
    """Compare and set: a revocation or another process's rewrapping in between stays."""
    store = Lasting()
    async with hierarchy(path, store) as keys:
        await keys.current("u1")
        write(path, text(1, 2, 3, current=2))
        replace, done = store.replace_key, []

        async def raced(record: KeyRecord, key: bytes) -> bool:
            if not done:
                done.append(1)
                await store.revoke(record.id, record.created)
                await anyio.to_thread.run_sync(write, path, text(1, 2, 3, current=3))
                again = await keys._store.unwrap(record)
                wrapped = await keys._store.wrap(again, record.id, record.created)
                assert await replace(record, wrapped)
                await anyio.to_thread.run_sync(write, path, text(1, 2, 3, current=2))
            return await replace(record, key)

        store.replace_key = raced  # type: ignore[method-assign]
        assert 1 == (await KeyAdmin(keys).rewrap_system()).rewrapped
        (record,) = await rows(store)
        assert record.revoked
        assert await keys.kms.is_current(record.key)  # type: ignore[attr-defined]


async def test_rewrapping_needs_a_metastore_that_can(path: Path) -> None:
    """Of one's own; it is said, and nothing is done."""
    store = Lasting()
    async with hierarchy(path, store) as keys:
        await keys.current("u1")
        write(path, text(1, 2, current=2))
        store.replace_key = None  # type: ignore[assignment]
        with pytest.raises(ConfigurationError, match="replace_key"):
            await KeyAdmin(keys).rewrap_system()


async def test_versions_need_a_kms_that_has_some() -> None:
    """Others keep their versions to themselves."""
    keys = KeyHierarchy(StaticKms(a_key()), MemoryMetastore(), service="s", product="p")
    with pytest.raises(ConfigurationError, match="StaticKms"):
        await KeyAdmin(keys).master_versions()
    await keys.current("u1")
    assert 1 == (await KeyAdmin(keys).rewrap_system()).rewrapped


# ---- the command ----


def test_commands_make_use_and_rotate_a_file(shell: Shell) -> None:
    """From nothing to a rotated master key, with commands alone."""
    pytest.importorskip("sqlalchemy")
    file, database = shell.path("master.keys"), shell.path("keys.db")
    settings = {
        "ServiceName": "svc",
        "ProductID": "prod",
        "Metastore": "sqlite",
        "SQLitePath": str(database),
        "KMS": "file",
        "KmsFile": str(file),
    }
    shell.path("keys.json").write_text(json.dumps(settings))
    config = ("-c", "keys.json")

    def ok(*args: str) -> str:
        done = shell.run("keys", *args)
        assert (0, b"") == (done.returncode, done.stderr), done.stderr
        return done.stdout.decode()

    os.umask(old := os.umask(0))
    previous = os.umask(0)
    try:
        ok("kms-init", "master.keys")
    finally:
        os.umask(previous)
    assert old == previous
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    before = file.read_bytes()
    assert re.fullmatch(rb"1 [0-9a-f]{64} current\n", before)
    shell.fails(2, "exists", "keys", "kms-init", "master.keys")
    assert before == file.read_bytes()

    shell.fails(2, "anyseal keys init", "keys", "list", *config)
    assert "the key table is there" in ok("init", *config)
    assert "the key table is there" in ok("init", *config)
    assert "no keys" in ok("list", *config)
    with sync.SessionFactory.from_config(settings) as factory:
        row = factory.session("a").encrypt(b"data")

    assert "version 2 added; version 1 is current" in ok("kms-add", "master.keys")
    assert "version 2 is current" in ok("kms-use", "master.keys", "2")
    shell.fails(1, "no version 9", "keys", "kms-use", "master.keys", "9")
    shell.fails(1, "is current", "keys", "kms-remove", "master.keys", "2", *config)
    shell.fails(1, "rewrap-system", "keys", "kms-remove", "master.keys", "1", *config)
    assert "1 system key rewrapped, 0 had" in ok("rewrap-system", *config)
    assert {"rewrapped": 0, "current": 1} == json.loads(ok("rewrap-system", "--json", *config))
    assert "version 1 removed" in ok("kms-remove", "master.keys", "1", *config)
    assert re.fullmatch(rb"2 [0-9a-f]{64} current\n", file.read_bytes())
    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    with sync.SessionFactory.from_config(settings) as factory:
        assert b"data" == factory.session("a").decrypt(row)

    odd = f"# ours\r\n\r\n7\t{KEYS[1].upper()}\tcurrent\r\n\t8 {KEYS[2]}  \r\n"
    write(file, odd)
    assert "version 8 is current" in ok("kms-use", "master.keys", "8")
    assert "version 7 removed" in ok("kms-remove", "master.keys", "7", *config)
    assert "version 9 added" in ok("kms-add", "master.keys")
    assert "# ours" in file.read_text()
    assert re.fullmatch(r"<FileKms .* versions=\[8, 9\]>", repr(FileKms(file)))
    link = shell.path("link")
    link.symlink_to(file)
    shell.fails(2, "symbolic link", "keys", "kms-add", "link")
    with pytest.raises(ConfigurationError, match="no random key"):
        FileKms(write(file, f"1 {secrets.token_hex(1) * 32}\n"))
