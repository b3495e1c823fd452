"""anyseal.compat.lenzeye: keys, tokens, counters and streams are Lenzeye's, byte by byte."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import itertools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

import anyseal
from anyseal import DecryptionError, errors
from anyseal.compat import lenzeye
from anyseal.compat.lenzeye import keys as key_functions
from servers import PASSWORD
from support import Stream, cuts, flips, pattern, pieces, run_python, said

pytest_plugins = ["server_fixtures"]

MASTER = "5a" * 32
KEY, IV = pattern(32, "lenzeye key"), pattern(16, "lenzeye iv")
HIGH_IV = b"\xff" * 15 + b"\xfe"  # wraps after two blocks
TEXT = pattern(3 << 20, "lenzeye text")


@pytest.fixture(autouse=True)
def master(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_KEY", MASTER)


@pytest.fixture(params=["memory", "sqlite"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[lenzeye.UserKeyTable]:
    """Each key table."""
    if request.param == "memory":
        yield lenzeye.MemoryUserKeyTable()
        return
    found = lenzeye.SqlUserKeyTable(f"sqlite:///{tmp_path}/keys.db")
    yield found
    found.close()


def one_shot(data: bytes, key: bytes = KEY, iv: bytes = IV) -> bytes:
    """AES-256-CTR from the first byte, in one call, by cryptography."""
    cipher = Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()
    return cipher.update(data) + cipher.finalize()


def join(stream: Any) -> bytes:
    return b"".join(stream)


async def join_async(stream: Any) -> bytes:
    return b"".join([piece async for piece in stream])


# The master key


def test_master_key_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Lenzeye keeps it, in its encoding; upper case is hexadecimal too."""
    assert lenzeye.has_master_key()
    assert b"\x5a" * 32 == lenzeye.get_master_key()
    monkeypatch.setenv("MASTER_KEY", "AB" * 32)
    assert b"\xab" * 32 == lenzeye.get_master_key()


@pytest.mark.parametrize("value", [None, "", "5a", "5a" * 33, "zz" * 32, " " + "5a" * 31 + "5"])
def test_master_key_missing_or_malformed_says_so(
    value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator reads the message; it must not show what was set."""
    monkeypatch.delenv("MASTER_KEY")
    if value is not None:
        monkeypatch.setenv("MASTER_KEY", value)
    assert not lenzeye.has_master_key()
    with pytest.raises(errors.ConfigurationError, match=r"MASTER_KEY.*64 hexadecimal") as caught:
        lenzeye.get_master_key()
    assert not value or value not in str(caught.value)
    with pytest.raises(errors.ConfigurationError):
        lenzeye.create_upload_token(KEY, IV, 5)


# Users' keys


def test_user_key_is_made_once_and_wrapped(table: lenzeye.UserKeyTable) -> None:
    """The row is `nonce ‖ AES-256-GCM ‖ tag` under the master key; the version is SHA-256."""
    key, version = lenzeye.get_or_create_user_key("ann", table=table)
    assert (key, version) == lenzeye.get_or_create_user_key("ann", table=table)
    assert hashlib.sha256(key).hexdigest() == version
    row = table.active("ann")
    assert row is not None
    assert 60 == len(row.encrypted_key)
    aead = AESGCM(bytes.fromhex(MASTER))
    assert key == aead.decrypt(row.encrypted_key[:12], row.encrypted_key[12:], None)
    assert key != lenzeye.get_or_create_user_key("bob", table=table)[0]
    assert key.hex() not in repr(row)
    assert row.encrypted_key.hex() not in repr(row)


def test_user_key_rotation_keeps_the_old_ones(table: lenzeye.UserKeyTable) -> None:
    """Files name their key's version: without the old key they were lost."""
    old, old_version = lenzeye.get_or_create_user_key("ann", table=table)
    new_version = lenzeye.rotate_user_key("ann", table=table)
    new, active = lenzeye.get_or_create_user_key("ann", table=table)
    assert new_version == active != old_version
    assert old == lenzeye.get_user_key("ann", old_version, table=table)
    assert new == lenzeye.get_user_key("ann", new_version.upper(), table=table)
    row = table.by_version("ann", old_version)
    assert row is not None
    assert not row.is_active
    with pytest.raises(errors.KeyNotFoundError):
        lenzeye.get_user_key("bob", old_version, table=table)


def test_user_key_rotation_of_a_user_without_a_key_makes_one(table: lenzeye.UserKeyTable) -> None:
    """The first thing that a worker does for a user may be a rotation."""
    version = lenzeye.rotate_user_key(7, table=table)
    assert version == lenzeye.get_or_create_user_key("7", table=table)[1]


def test_user_key_of_two_workers_at_once_is_one(table: lenzeye.UserKeyTable) -> None:
    """Two first uploads at a time: with two keys, one of them would be found no more."""
    start, found = threading.Barrier(8), []

    def work() -> None:
        start.wait()
        found.append(lenzeye.get_or_create_user_key("ann", table=table))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (8, 1) == (len(found), len(set(found)))


def test_user_key_of_processes_at_once_is_one(tmp_path: Path) -> None:
    """The same with processes that rotate beside: one active row at any time."""
    url = f"sqlite:///{tmp_path}/keys.db"
    code = """
        import sys
        from anyseal.compat import lenzeye
        table = lenzeye.SqlUserKeyTable(sys.argv[1])
        for n in range(10):
            print(lenzeye.get_or_create_user_key("first", table=table)[1])
            lenzeye.rotate_user_key("other", table=table)
        table.close()
    """
    outputs: list[list[str]] = []
    threads = [
        threading.Thread(
            target=lambda: outputs.append(said(run_python(code, url, MASTER_KEY=MASTER)))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == len({version for output in outputs for version in output})
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        count = "SELECT user_id, count(*) FROM user_encryption_key GROUP BY user_id, is_active"
        rows = sorted(tuple(row) for row in connection.execute(sa.text(count)))
    engine.dispose()
    assert [("first", 1), ("other", 1), ("other", 29)] == rows


@pytest.mark.parametrize("server", ["postgres", "mariadb"])
def test_user_key_of_workers_at_once_is_one_on_a_server(
    server: str, request: pytest.FixtureRequest
) -> None:
    """Creating and rotating at a time, from the first use on: the tables are made once, too."""
    database = request.getfixturevalue(f"{server}_server")
    driver, name = {
        "postgres": ("postgresql+psycopg", "postgres"),
        "mariadb": ("mysql+pymysql", "keys"),
    }[server]
    url = sa.URL.create(driver, "anyseal", PASSWORD, "127.0.0.1", database.port, name)
    tables = [lenzeye.SqlUserKeyTable(url, table="lenzeye_keys") for _ in range(2)]
    start, found = threading.Barrier(6), []

    def work(number: int) -> None:
        table = tables[number % 2]
        start.wait()
        found.append(lenzeye.get_or_create_user_key("first", table=table))
        for _ in range(5):
            lenzeye.rotate_user_key("other", table=table)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (6, 1) == (len(found), len(set(found)))
    count = "SELECT count(*) FROM lenzeye_keys WHERE user_id = 'other' AND is_active"
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(count)
        assert (1,) == cursor.fetchone()
        cursor.execute(count.replace("AND is_active", ""))
        assert (30,) == cursor.fetchone()
    for table in tables:
        row = table.active("first")
        assert row is not None
        assert row.created.tzinfo is not None
        table.close()


def test_user_key_row_that_was_altered_does_not_open(table: lenzeye.UserKeyTable) -> None:
    """Whoever can write the table must not choose keys; a row's version must be its key's."""
    first, version = lenzeye.get_or_create_user_key("ann", table=table)
    row = table.active("ann")
    assert row is not None
    other = lenzeye.UserKeyRow(user_id="ann", encrypted_key=row.encrypted_key, key_version="0" * 64)
    table.replace_active(other)
    with pytest.raises(InvalidTag):
        lenzeye.get_or_create_user_key("ann", table=table)
    cut = lenzeye.UserKeyRow(user_id="ann", encrypted_key=b"short", key_version="1" * 64)
    table.replace_active(cut)
    with pytest.raises(lenzeye.InvalidTagError):
        lenzeye.get_or_create_user_key("ann", table=table)
    assert first == lenzeye.get_user_key("ann", version, table=table)


def test_user_key_under_another_master_key_does_not_open(
    table: lenzeye.UserKeyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong environment must be an error, not another key."""
    lenzeye.get_or_create_user_key("ann", table=table)
    monkeypatch.setenv("MASTER_KEY", "5b" * 32)
    with pytest.raises(DecryptionError):
        lenzeye.get_or_create_user_key("ann", table=table)


def test_user_is_a_name_a_number_or_a_model(table: lenzeye.UserKeyTable) -> None:
    """Django hands over its user objects."""

    class User:
        pk = 42

    key = lenzeye.get_or_create_user_key(User(), table=table)
    assert key == lenzeye.get_or_create_user_key(42, table=table)
    for wrong in (None, 1.5, b"ann", True, object()):
        with pytest.raises(TypeError):
            lenzeye.get_or_create_user_key(wrong, table=table)
    for wrong in ("", "x" * 256):
        with pytest.raises(ValueError):
            lenzeye.get_or_create_user_key(wrong, table=table)


def test_key_table_is_set_once_for_all(table: lenzeye.UserKeyTable) -> None:
    """Lenzeye's functions take the user alone."""
    with pytest.raises(errors.ConfigurationError, match="set_user_key_table"):
        lenzeye.get_or_create_user_key("ann")
    with pytest.raises(TypeError):
        lenzeye.set_user_key_table("sqlite://")  # type: ignore[arg-type]
    lenzeye.set_user_key_table(table)
    try:
        assert lenzeye.rotate_user_key("ann") == lenzeye.get_or_create_user_key("ann")[1]
    finally:
        lenzeye.set_user_key_table(None)


def test_sql_table_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    """A wrong URL is a setting; a database that does not answer may come back."""
    for url in ("nonsense", "sqlite://", "sqlite:///:memory:", "nosuchdb://x"):
        with pytest.raises(errors.ConfigurationError, match="key table"):
            lenzeye.SqlUserKeyTable(url)
    missing = lenzeye.SqlUserKeyTable(f"sqlite:///{tmp_path}/no/such/folder.db")
    with pytest.raises(errors.MetastoreError) as caught:
        missing.active("ann")
    assert caught.value.retryable
    missing.close()


@pytest.mark.anyio
async def test_user_keys_async_twins(table: lenzeye.UserKeyTable) -> None:
    """The same without blocking the loop."""
    key, version = await lenzeye.get_or_create_user_key_async("ann", table=table)
    assert version != await lenzeye.rotate_user_key_async("ann", table=table)
    assert key == await lenzeye.get_user_key_async("ann", version, table=table)


# Upload tokens


def test_token_layout() -> None:
    """`nonce 12 ‖ GCM(key 32 ‖ iv 16 ‖ part_size u32) ‖ tag 16`, as base64url."""
    token = lenzeye.create_upload_token(KEY, IV, 0x01020304)
    raw = base64.urlsafe_b64decode(token + "=")
    assert (107, 80) == (len(token), len(raw))
    plain = AESGCM(bytes.fromhex(MASTER)).decrypt(raw[:12], raw[12:], None)
    assert KEY + IV + b"\x01\x02\x03\x04" == plain
    assert (KEY, IV, 0x01020304) == lenzeye.decrypt_upload_token(token)
    assert token != lenzeye.create_upload_token(KEY, IV, 0x01020304)


def test_token_that_was_altered_does_not_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser holds it; nothing of it may be chosen there. Neither may its spelling."""
    token = lenzeye.create_upload_token(KEY, IV, 1 << 20)
    raw = base64.urlsafe_b64decode(token + "=")
    texts = [base64.urlsafe_b64encode(other).decode().rstrip("=") for other in flips(raw)]
    texts += [token[:-1], token + "=", token + "A", "", "é" * 107, "!" + token, token + "\n"]
    texts += [base64.urlsafe_b64encode(other).decode().rstrip("=") for other in cuts(raw)]
    for text in texts:
        with pytest.raises(lenzeye.InvalidTagError):
            lenzeye.decrypt_upload_token(text)
    monkeypatch.setenv("MASTER_KEY", "5b" * 32)
    with pytest.raises(InvalidTag):
        lenzeye.decrypt_upload_token(token)


def test_token_of_wrong_arguments_is_not_made() -> None:
    """A token is opened by other workers, later: mistakes must show here."""
    for arguments in ((KEY[:31], IV, 5), (KEY, IV + b"x", 5), (KEY, IV, 0), (KEY, IV, 1 << 32)):
        with pytest.raises(ValueError):
            lenzeye.create_upload_token(*arguments)
    for mistyped in (("k" * 32, IV, 5), (KEY, IV, 5.0), (KEY, IV, True)):
        with pytest.raises(TypeError):
            lenzeye.create_upload_token(*mistyped)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        lenzeye.decrypt_upload_token(b"token")  # type: ignore[arg-type]


def test_wrapped_key_is_no_token(table: lenzeye.UserKeyTable) -> None:
    """Both are sealed under the master key."""
    lenzeye.get_or_create_user_key("ann", table=table)
    row = table.active("ann")
    assert row is not None
    text = base64.urlsafe_b64encode(row.encrypted_key).decode()
    with pytest.raises(lenzeye.InvalidTagError):
        lenzeye.decrypt_upload_token(text)


# Counters


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")
@pytest.mark.parametrize("iv", [IV, HIGH_IV, bytes(16)], ids=["iv", "wraps", "zero"])
def test_chunk_is_what_openssl_makes(iv: bytes, tmp_path: Path) -> None:
    """Another implementation of the counter, its wrap included."""
    (tmp_path / "text").write_bytes(TEXT[:100_003])
    command = ["openssl", "enc", "-aes-256-ctr", "-K", KEY.hex(), "-iv", iv.hex()]
    done = subprocess.run(
        [*command, "-in", str(tmp_path / "text")], capture_output=True, check=True
    )
    assert done.stdout == lenzeye.encrypt_multipart_chunk(TEXT[:100_003], KEY, iv, 0)


def test_chunk_known_answer() -> None:
    """NIST SP 800-38A, F.5.5: from the first block and from the third byte of the second."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    iv = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    cipher = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5")
    assert cipher == lenzeye.encrypt_multipart_chunk(plain, key, iv, 0)
    assert cipher[18:] == lenzeye.encrypt_multipart_chunk(plain[18:], key, iv, 18)


@settings(max_examples=200, deadline=None)
@given(
    cuts_at=st.lists(st.integers(0, 3000), max_size=12),
    iv=st.sampled_from([IV, HIGH_IV, b"\xff" * 16]),
)
def test_chunk_any_split_at_any_offset_equals_one_shot(cuts_at: list[int], iv: bytes) -> None:
    """Parts are encrypted alone, wherever they begin and end."""
    text = TEXT[:3000]
    edges = [0, *sorted(cuts_at), 3000]
    parts = [
        (start, lenzeye.encrypt_multipart_chunk(memoryview(text)[start:stop], KEY, iv, start))
        for start, stop in itertools.pairwise(edges)
    ]
    assert one_shot(text, iv=iv) == join(part for _, part in parts)
    back = [lenzeye.decrypt_multipart_chunk(part, KEY, iv, start) for start, part in parts]
    assert text == join(back)


def test_chunk_counter_wraps_as_a_128_bit_number() -> None:
    """The sum carries into all 16 bytes and drops what is above: also far beyond the wrap."""
    block = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    for offset in (0, 15, 16, 31, 32, 33, 1 << 40, (1 << 132) - 16, 1 << 132):
        counter = (int.from_bytes(HIGH_IV) + offset // 16) % (1 << 128)
        stream = block.update(counter.to_bytes(16))[offset % 16 :]
        expected = bytes(a ^ b for a, b in zip(stream, TEXT, strict=False))
        found = lenzeye.encrypt_multipart_chunk(TEXT[: len(expected)], KEY, HIGH_IV, offset)
        assert expected == found, offset


def test_chunk_of_wrong_arguments_is_refused() -> None:
    """A key or iv of another length is another algorithm; text is not bytes."""
    for arguments in ((b"x", KEY[:16], IV, 0), (b"x", KEY, IV[:12], 0), (b"x", KEY, IV, -1)):
        with pytest.raises(ValueError):
            lenzeye.encrypt_multipart_chunk(*arguments)
    for mistyped in (("x", KEY, IV, 0), (b"x", KEY, IV, 1.0), (b"x", KEY, IV, True)):
        with pytest.raises(TypeError):
            lenzeye.encrypt_multipart_chunk(*mistyped)  # type: ignore[arg-type]


def test_chunk_of_no_and_one_byte_is_fresh() -> None:
    """CPython shares short bytes objects: writing into one would change it everywhere."""
    assert b"" == lenzeye.encrypt_multipart_chunk(b"", KEY, IV, 5)
    one = lenzeye.encrypt_multipart_chunk(TEXT[5:6], KEY, IV, 5)
    assert one_shot(TEXT[:6])[5:] == one
    assert b"\0" == bytes(1)


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 100, 1 << 16, (1 << 16) + 1, 3 << 20])
async def test_chunk_async_twins(size: int) -> None:
    """On the spot when small, in a thread when large: the same bytes."""
    found = await lenzeye.encrypt_multipart_chunk_async(TEXT[:size], KEY, IV, 0)
    assert one_shot(TEXT[:size]) == found
    assert TEXT[:size] == await lenzeye.decrypt_multipart_chunk_async(found, KEY, IV, 0)


# Streams


def reference(text: bytes, iv: bytes = IV) -> bytes:
    """A finished stream, independently."""
    body = iv + one_shot(text, iv=iv)
    return hmac.digest(KEY, body, "sha256") + body


@pytest.mark.parametrize("size", [0, 1, 15, 16, 47, 48, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_stream_layout(size: int) -> None:
    """`hmac 32 ‖ iv 16 ‖ ciphertext`; from a file, from bytes, and from an iterable."""
    text = TEXT[:size]
    for source in (text, io.BytesIO(text), pieces(text, 70_001), [text]):
        made = join(lenzeye.encrypt_file_stream(source, KEY))
        assert reference(text, made[32:48]) == made
    assert text == join(lenzeye.decrypt_file_stream(io.BytesIO(reference(text)), KEY))
    assert text == join(
        lenzeye.decrypt_file_stream(pieces(reference(text), 7001), KEY, verify=True)
    )


@pytest.mark.parametrize("size", [0, 1, 20, 31, 32, 100, 1 << 20])
@pytest.mark.parametrize("verify", [False, True])
def test_stream_with_its_hmac_elsewhere(size: int, verify: bool) -> None:
    """From metadata: the stream may have the HMAC too, the iv alone, or neither."""
    text, made = TEXT[:size], []
    body = join(lenzeye.encrypt_file_stream(io.BytesIO(text), KEY, hmac_to=made.append))
    assert [hmac.digest(KEY, body, "sha256")] == made
    for source, extra in (
        (body, {}),
        (made[0] + body, {}),
        (body[16:], {"iv": body[:16]}),
        (made[0] + body[16:], {"iv": body[:16]}),
    ):
        for shape in (source, io.BytesIO(source), pieces(source, 13)):
            stream = lenzeye.decrypt_file_stream(shape, KEY, made[0], verify=verify, **extra)
            assert text == join(stream)


@pytest.mark.parametrize("verify", [False, True])
def test_stream_that_was_altered_does_not_verify(verify: bool) -> None:
    """Every bit, every cut, an extension; with the HMAC in front and elsewhere."""
    whole = reference(TEXT[:40])
    mac = whole[:32]
    for other in [*flips(whole), *cuts(whole), whole + b"\0"]:
        with pytest.raises(InvalidSignature):
            join(lenzeye.decrypt_file_stream(io.BytesIO(other), KEY, verify=verify))
    for other in [*flips(whole[32:]), *cuts(whole[32:]), whole[32:] + b"\0", whole[:31]]:
        with pytest.raises(lenzeye.InvalidSignatureError):
            join(lenzeye.decrypt_file_stream(io.BytesIO(other), KEY, mac, verify=verify))
    with pytest.raises(DecryptionError):
        join(lenzeye.decrypt_file_stream(whole, pattern(32, "another"), verify=verify))


def test_stream_yields_before_it_has_verified_unless_told() -> None:
    """The documented exception, and the way out of it."""
    whole = bytearray(reference(TEXT))
    whole[-1] ^= 1
    stream = lenzeye.decrypt_file_stream(io.BytesIO(whole), KEY)
    assert next(stream) == TEXT[: (1 << 20) - 48]
    for source in (io.BytesIO(whole), pieces(bytes(whole), 1 << 16)):
        with pytest.raises(InvalidSignature):
            next(lenzeye.decrypt_file_stream(source, KEY, verify=True))


class Changing(io.BytesIO):
    """A file that another process rewrites between two readings."""

    def seek(self, offset: int, whence: int = 0) -> int:
        self.getbuffer()[-1] ^= 1
        return super().seek(offset, whence)


def test_stream_of_a_file_that_changes_is_noticed() -> None:
    """It is read twice: what is released must be what was verified."""
    with pytest.raises(errors.SourceChangedError):
        join(lenzeye.decrypt_file_stream(Changing(reference(TEXT)), KEY, verify=True))
    with pytest.raises(errors.SourceChangedError):
        join(lenzeye.encrypt_file_stream(Changing(TEXT), KEY))


class Dribbling(io.RawIOBase):
    """A file that gives less than was asked for, differently each time."""

    def __init__(self, data: bytes) -> None:
        self._file, self._step = io.BytesIO(data), 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        self._step += 1
        return self._file.read(min(size, 1 + self._step * 7919))


def test_stream_of_short_reads_is_the_same() -> None:
    """A raw file may return less at each reading: the pieces must be cut alike."""
    text = TEXT[: (2 << 20) + 5]
    assert text == join(lenzeye.decrypt_file_stream(Dribbling(reference(text)), KEY, verify=True))
    assert text == join(
        lenzeye.decrypt_file_stream(lenzeye.encrypt_file_stream(Dribbling(text), KEY), KEY)
    )


def test_stream_of_the_wrong_kind_is_refused() -> None:
    """Text is not bytes."""
    for wrong in ("text", 5, None, ["text"]):
        with pytest.raises(TypeError):
            join(lenzeye.encrypt_file_stream(wrong, KEY))
    for short in (KEY[:16], b""):
        with pytest.raises(ValueError):
            lenzeye.encrypt_file_stream(b"", short)
        with pytest.raises(ValueError):
            lenzeye.decrypt_file_stream(b"", KEY, short)


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, 100, 3 << 20])
async def test_stream_async_twins(size: int) -> None:
    """Async iterables and files, in every form."""
    text = TEXT[:size]
    for source in (Stream(text, 1 << 19), io.BytesIO(text), text):
        made = await join_async(lenzeye.encrypt_file_stream_async(source, KEY))
        assert reference(text, made[32:48]) == made
        for verify in (False, True):
            for back in (Stream(made, 100_000), io.BytesIO(made)):
                stream = lenzeye.decrypt_file_stream_async(back, KEY, verify=verify)
                assert text == await join_async(stream)
    mac: list[bytes] = []
    body = await join_async(
        lenzeye.encrypt_file_stream_async(Stream(text, 1 << 20), KEY, hmac_to=mac.append)
    )
    assert text == await join_async(lenzeye.decrypt_file_stream_async(body, KEY, mac[0]))


@pytest.mark.anyio
@pytest.mark.parametrize("verify", [False, True])
async def test_stream_async_that_was_altered_does_not_verify(verify: bool) -> None:
    """As the sync one."""
    whole = bytearray(reference(TEXT[:300_000]))
    whole[-1] ^= 1
    for source in (Stream(bytes(whole), 1 << 16), io.BytesIO(whole)):
        seen = []

        async def read(source: Any = source, seen: list[bytes] = seen) -> None:
            async for piece in lenzeye.decrypt_file_stream_async(source, KEY, verify=verify):
                seen.append(piece)

        with pytest.raises(InvalidSignature):
            await read()
        assert verify == (not seen)


def test_lenzeye_imports_no_extra() -> None:
    """Its functions need neither a database nor S3."""
    code = """
        import sys
        for name in ("sqlalchemy", "aiobotocore", "botocore", "stamina"):
            sys.modules[name] = None
        from anyseal.compat import lenzeye
        for name in ("SqlUserKeyTable", "LenzeyeBucket"):
            try:
                getattr(lenzeye, name)
            except Exception as error:
                print(type(error).__name__, "pip install" in str(error))
        print(len(lenzeye.__all__), hasattr(lenzeye, "nothing"))
    """
    expected = ["MissingExtraError True"] * 2 + [f"{len(lenzeye.__all__)} False"]
    assert expected == said(run_python(code))
    assert anyseal.AnysealError in lenzeye.InvalidTagError.__mro__
    assert key_functions.user_id(5) == "5"
