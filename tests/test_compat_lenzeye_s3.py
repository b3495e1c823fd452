"""anyseal.compat.lenzeye in a bucket: parts by any worker, and nothing unverified comes out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from anyseal import DecryptionError, errors
from anyseal.compat import lenzeye
from anyseal.compat.lenzeye import completion
from anyseal.compat.lenzeye import reader as reading
from anyseal.compat.lenzeye.receipts import Receipt, issue
from storage_servers import SeaweedFS, s3_client
from support import pattern

pytest_plugins = ["server_fixtures"]
pytestmark = pytest.mark.anyio

MASTER = "5a" * 32
PART = 5 << 20
TEXT = pattern(PART + 100_003, "lenzeye object")
SMALL = 1000
SHORT = TEXT[: 2 * SMALL + 103]


@pytest.fixture(autouse=True)
def master(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MASTER_KEY", MASTER)
    lenzeye.set_user_key_table(lenzeye.MemoryUserKeyTable())
    yield
    lenzeye.set_user_key_table(None)


@pytest.fixture(scope="module")
def name(weed_server: SeaweedFS) -> str:
    """One bucket for all the tests; each uses a prefix of its own."""
    return weed_server.new_bucket()


class Place:
    """A bucket, seen by Lenzeye's code and by S3's."""

    def __init__(self, client: Any, name: str, blocking: Any, **settings: Any) -> None:
        self.bucket = lenzeye.LenzeyeBucket(client, name, **settings)
        self.name, self._s3 = name, blocking

    async def raw(self, key: str) -> tuple[bytes, dict[str, str], str]:
        """Ciphertext, metadata and content type."""

        def get() -> tuple[bytes, dict[str, str], str]:
            found = self._s3.get_object(Bucket=self.name, Key=key)
            return found["Body"].read(), found["Metadata"], found["ContentType"]

        return await anyio.to_thread.run_sync(get)

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Write an object as it is."""
        await anyio.to_thread.run_sync(
            lambda: self._s3.put_object(
                Bucket=self.name, Key=key, Body=body, Metadata=dict(metadata)
            )
        )

    async def uploads(self, key: str) -> list[str]:
        """Multipart uploads that were neither completed nor aborted."""
        found = await anyio.to_thread.run_sync(
            lambda: self._s3.list_multipart_uploads(Bucket=self.name, Prefix=key)
        )
        return [one["UploadId"] for one in found.get("Uploads", [])]

    async def upload(
        self, key: str, text: bytes = TEXT, user: str = "ann", **settings: Any
    ) -> lenzeye.LenzeyeUpload:
        """Upload *text* in parts, the last one first."""
        begun = await self.bucket.create_upload(key, user, part_size=PART)
        receipts = await self.parts(begun, text)
        await self.bucket.complete_upload(key, begun.upload_id, begun.token, receipts, **settings)
        return begun

    async def parts(self, begun: lenzeye.LenzeyeUpload, text: bytes = TEXT) -> list[str]:
        """Upload the parts, the last one first; their receipts."""
        numbers = range(max(1, -(-len(text) // PART)), 0, -1)
        return [
            await self.bucket.encrypt_and_upload_part(
                begun.key, begun.upload_id, begun.token, n, text[(n - 1) * PART : n * PART]
            )
            for n in numbers
        ]

    async def download(self, key: str, user: str = "ann") -> bytes:
        """All of it."""
        return b"".join([piece async for piece in self.bucket.download(key, user)])


@asynccontextmanager
async def place(server: SeaweedFS, name: str, **settings: Any) -> AsyncIterator[Place]:
    blocking = await anyio.to_thread.run_sync(server.client)
    async with s3_client(server.url) as client:
        yield Place(client, name, blocking, **settings)


def one_shot(data: bytes, key: bytes, iv: bytes) -> bytes:
    """AES-256-CTR from the first byte."""
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(data)


def derived(key: bytes, purpose: bytes, data: bytes) -> bytes:
    """A derived key, independently of the package."""
    info = b"anyseal lenzeye v1 " + purpose + b"\0" + data
    return HKDF(hashes.SHA256(), 32, None, info).derive(key)


def crafted(text: bytes, part_size: int) -> tuple[bytes, dict[str, str]]:
    """An object of parts with every MAC, computed here once more."""
    key, version = lenzeye.get_or_create_user_key("ann")
    iv = pattern(16, "crafted")
    body, macs = one_shot(text, key, iv), b""
    for at in range(0, len(body), part_size):
        part = body[at : at + part_size]
        head = (at // part_size + 1).to_bytes(4) + at.to_bytes(8) + len(part).to_bytes(8)
        macs += hmac.digest(derived(key, b"part", iv), head + part, "sha256")
    head = part_size.to_bytes(4) + (len(macs) // 32).to_bytes(4) + len(text).to_bytes(8)
    return body, {
        "key-version": version,
        "iv": iv.hex(),
        "part-size": str(part_size),
        "part-macs": base64.b64encode(macs).decode(),
        "object-mac": hmac.digest(derived(key, b"object", iv), head + macs, "sha256").hex(),
        "hmac": hmac.digest(key, iv + body, "sha256").hex(),
    }


async def test_object_layout(
    weed_server: SeaweedFS, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Body: plain AES-CTR. Metadata: what decrypts and what verifies, computed here again."""
    async with place(weed_server, name) as here:
        begun = await here.bucket.create_upload(
            "layout", "ann", part_size=PART, metadata={"title": "x"}, content_type="video/mp4"
        )
        receipts = await here.parts(begun)
        random.shuffle(receipts)
        await here.bucket.complete_upload(
            "layout", begun.upload_id, begun.token, receipts, legacy_hmac=True
        )
        body, metadata, content_type = await here.raw("layout")
        monkeypatch.setitem(globals(), "pattern", lambda *_: bytes.fromhex(metadata["iv"]))
        expected, said = crafted(TEXT, PART)
        assert expected == body
        assert {"title": "x", **said} == metadata
        assert "video/mp4" == content_type
        assert TEXT == await here.download("layout")


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1])
async def test_object_of_any_size(weed_server: SeaweedFS, name: str, size: int) -> None:
    """Empty, one part, a part and a byte."""
    async with place(weed_server, name) as here:
        await here.upload("size", TEXT[:size], legacy_hmac=bool(size % 2))
        assert TEXT[:size] == await here.download("size")
        reader = await here.bucket.open("size", "ann")
        await reader.verify()
        assert size == reader.size
        assert TEXT[:size][5:9] == await reader.read_range(5, 4)


async def test_object_with_a_single_hmac_is_read(weed_server: SeaweedFS, name: str) -> None:
    """What Lenzeye wrote: one HMAC in the metadata, in either encoding, with or without the iv;
    or in front of the body."""
    key, version = lenzeye.get_or_create_user_key("ann")
    iv = pattern(16, "iv")
    body = one_shot(SHORT, key, iv)
    mac, bare = (hmac.digest(key, head + body, "sha256") for head in (iv, b""))
    async with place(weed_server, name) as here:
        for number, (stored, metadata) in enumerate(
            [
                (body, {"iv": iv.hex(), "hmac": mac.hex()}),
                (body, {"iv": base64.b64encode(iv).decode(), "hmac": mac.hex().upper()}),
                (mac + iv + body, {}),
                (mac + iv + body, {"hmac": mac.hex()}),
                (iv + body, {"hmac": mac.hex()}),
            ]
        ):
            await here.put(f"single/{number}", stored, {"key-version": version, **metadata})
            assert SHORT == await here.download(f"single/{number}"), number
        forms = [found.form async for found in here.bucket.scan("single/")]
        assert [lenzeye.Form.SINGLE] * 2 + [lenzeye.Form.STREAM] * 3 == forms
        await here.put("bare", body, {"v": version, "iv": iv.hex(), "hmac": bare.hex()})
    layout = lenzeye.Layout(key_version="v", hmac_covers_iv=False)
    async with place(weed_server, name, layout=layout) as here:
        assert SHORT == await here.download("bare")


def damaged(body: bytes) -> dict[str, bytes]:
    """What whoever can write the bucket may do to a ciphertext."""
    first, second, last = body[:SMALL], body[SMALL : 2 * SMALL], body[2 * SMALL :]
    return {
        "first bit": bytes([body[0] ^ 1]) + body[1:],
        "last bit": body[:-1] + bytes([body[-1] ^ 128]),
        "swapped parts": second + first + last,
        "repeated part": first + first + last,
        "dropped part": first + last,
        "dropped last part": first + second,
        "cut": body[:-1],
        "extended": body + b"\0",
        "emptied": b"",
    }


@pytest.mark.parametrize("kept", ["part-macs", "object-mac", "hmac"])
async def test_object_that_was_altered_releases_nothing_wrong(
    weed_server: SeaweedFS, name: str, kept: str
) -> None:
    """With the parts' MACs listed, with the object's MAC alone, with the single HMAC alone."""
    async with place(weed_server, name) as here:
        body, metadata = crafted(SHORT, SMALL)
        if kept != "part-macs":
            del metadata["part-macs"]
        if kept == "hmac":
            del metadata["object-mac"]
        await here.put("good", body, metadata)
        assert SHORT == await here.download("good")
        for what, wrong in damaged(body).items():
            await here.put("bad", wrong, metadata)
            seen = b""

            async def read() -> None:
                nonlocal seen
                async for piece in here.bucket.download("bad", "ann"):
                    seen += piece

            with pytest.raises(InvalidSignature):
                await read()
            assert SHORT[: len(seen)] == seen, what
            assert not seen or kept == "part-macs"
            reader = await here.bucket.open("bad", "ann")
            with pytest.raises(DecryptionError):
                await reader.verify()


async def test_object_whose_metadata_was_altered_does_not_open(
    weed_server: SeaweedFS, name: str
) -> None:
    """Everything in the metadata steers the reader; none of it is believed."""
    async with place(weed_server, name) as here:
        body, metadata = crafted(SHORT, SMALL)
        del metadata["hmac"]
        flipped = {
            each: f"{int(metadata[each][0], 16) ^ 1:x}" + metadata[each][1:]
            for each in ("iv", "object-mac", "key-version")
        }
        macs = base64.b64decode(metadata["part-macs"])
        for change, expected in (
            ({"iv": flipped["iv"]}, InvalidSignature),
            ({"object-mac": flipped["object-mac"]}, InvalidSignature),
            ({"key-version": flipped["key-version"]}, errors.KeyNotFoundError),
            ({"part-size": str(SMALL + 1)}, InvalidSignature),
            ({"part-size": "1"}, InvalidSignature),
            ({"part-macs": base64.b64encode(macs[32:] + macs[:32]).decode()}, InvalidSignature),
            ({"part-macs": base64.b64encode(macs[32:]).decode()}, InvalidSignature),
            ({"part-macs": "AAAA"}, errors.FormatError),
            ({"iv": "zz"}, errors.FormatError),
            ({"part-size": "-1"}, errors.FormatError),
            ({"part-size": "9" * 5000}, errors.FormatError),
            ({"part-size": "0" * 20 + "9" * 20}, errors.FormatError),
            ({"key-version": "x"}, errors.FormatError),
            ({"object-mac": ""}, errors.UploadError),
            ({"iv": ""}, InvalidSignature),
            ({"key-version": ""}, errors.FormatError),
        ):
            changed = {k: v for k, v in {**metadata, **change}.items() if v}
            if len(str(change)) > 2000:
                with pytest.raises(expected):
                    lenzeye.Layout().read(changed)
                continue
            await here.put("bad", body, changed)
            with pytest.raises(expected):
                await here.download("bad")


async def test_object_is_the_users_alone(weed_server: SeaweedFS, name: str) -> None:
    """The version in the metadata names a key among the user's own; old keys go on opening."""
    async with place(weed_server, name) as here:
        await here.upload("mine", TEXT[:100])
        lenzeye.get_or_create_user_key("bob")
        with pytest.raises(errors.KeyNotFoundError):
            await here.download("mine", "bob")
        lenzeye.rotate_user_key("ann")
        assert TEXT[:100] == await here.download("mine")
        await here.upload("mine again", TEXT[:100])
        versions = [found.key_version async for found in here.bucket.scan("mine")]
        assert 2 == len(set(versions))


async def test_range_reads(weed_server: SeaweedFS, name: str, monkeypatch: Any) -> None:
    """Verified ranges widen to what is verified together; unverified ones are asked for by name."""
    monkeypatch.setattr(reading, "UNIT_BYTES", 512)
    async with place(weed_server, name) as here:
        body, metadata = crafted(SHORT, SMALL)
        await here.put("whole", body, metadata)
        unlisted = {k: v for k, v in metadata.items() if k != "part-macs"}
        await here.put("unlisted", body, unlisted)
        spans = [
            (0, 10),
            (SMALL - 3, 7),
            (SMALL + 1, SMALL),
            (len(SHORT) - 4, 100),
            (len(SHORT), 5),
        ]
        for key in ("whole", "unlisted"):
            reader = await here.bucket.open(key, "ann")
            for start, length in [*spans, (len(SHORT) + 9, 5), (3, 0)]:
                expected = SHORT[start : start + length]
                assert expected == await reader.read_range(start, length)
                assert expected == await reader.read_range(start, length, verify=False)
            with pytest.raises(ValueError):
                await reader.read_range(-1, 5)
            for verify in (True, False):
                with pytest.raises(TypeError):
                    await reader.read_range(1.5, 1, verify=verify)  # type: ignore[arg-type]
        changed = bytearray(body)
        changed[SMALL + 7] ^= 1
        await here.put("bad", bytes(changed), metadata)
        reader = await here.bucket.open("bad", "ann")
        assert SHORT[:9] == await reader.read_range(0, 9)
        with pytest.raises(InvalidSignature):
            await reader.read_range(SMALL, 1)
        wrong = await reader.read_range(SMALL + 7, 1, verify=False)
        assert bytes([SHORT[SMALL + 7] ^ 1]) == wrong


async def test_create_refuses_metadata_that_would_clash(weed_server: SeaweedFS, name: str) -> None:
    """S3 keeps names in lower case: an IV of the caller's would take the iv's place."""
    async with place(weed_server, name) as here:
        for metadata in ({"IV": "x"}, {"a": "ä"}, {"a": "1\n"}):
            with pytest.raises(ValueError):
                await here.bucket.create_upload("clash", "ann", metadata=metadata)
        assert [] == await here.uploads("clash")


async def test_reader_notices_that_the_object_was_replaced(
    weed_server: SeaweedFS, name: str
) -> None:
    """What was verified once must not be read from another version."""
    async with place(weed_server, name) as here:
        await here.put("moving", *crafted(SHORT, SMALL))
        reader = await here.bucket.open("moving", "ann")
        await reader.verify()
        await here.put("moving", *crafted(SHORT[:-1], SMALL))
        with pytest.raises(errors.SourceChangedError):
            await reader.read_range(0, 5)


async def test_receipts_are_authentic_and_complete(weed_server: SeaweedFS, name: str) -> None:
    """The browser holds them: altered, foreign, missing, doubled ones complete nothing."""
    async with place(weed_server, name) as here:
        begun = await here.bucket.create_upload("forged", "ann", part_size=PART)
        other = await here.bucket.create_upload("other", "ann", part_size=PART)
        last, first = await here.parts(begun)
        (foreign,) = await here.parts(other, TEXT[:5])

        async def complete(*receipts: str, with_: Any = begun) -> Any:
            return await here.bucket.complete_upload(
                "forged", begun.upload_id, with_.token, receipts
            )

        raw = bytearray(base64.urlsafe_b64decode(first + "=" * (-len(first) % 4)))
        altered = []
        for at in (3, 7, 20, 45, len(raw) - 1):
            raw[at] ^= 1
            altered.append(base64.urlsafe_b64encode(raw).decode().rstrip("="))
            raw[at] ^= 1
        for wrong in (*altered, foreign, "", "A", first + "=", first[:-4], begun.token):
            with pytest.raises(lenzeye.InvalidSignatureError):
                await complete(wrong, last)
        with pytest.raises(lenzeye.InvalidSignatureError):
            await complete(first, last, with_=other)
        opened = lenzeye.decrypt_upload_token(begun.token)
        fourth = Receipt(number=4, length=5, etag="x", mac=bytes(32))
        later = issue(*opened, begun.upload_id, fourth)
        for receipts, missing in (((), [1]), ((last,), [1]), ((first, later), [2, 3])):
            with pytest.raises(errors.UploadIncompleteError) as caught:
                await complete(*receipts)
            assert missing == caught.value.missing
        twin = Receipt(number=1, length=PART, etag="x", mac=bytes(32))
        with pytest.raises(errors.UploadError):
            await complete(first, issue(*opened, begun.upload_id, twin), last)
        short = issue(*opened, begun.upload_id, replace(twin, length=PART - 1))
        with pytest.raises(errors.UploadIncompleteError):
            await complete(short, last)
        assert [begun.upload_id] == await here.uploads("forged")
        await complete(last, first, first)
        assert TEXT == await here.download("forged")
        await here.bucket.abort_upload("other", other.upload_id)


async def test_receipt_that_is_left_out_completes_nothing(
    weed_server: SeaweedFS, name: str
) -> None:
    """Whoever holds the receipts could make a shorter object, which verifies as well as the whole:
    that of the last part, or of several; uploaded, or never."""
    async with place(weed_server, name) as here:
        begun = await here.bucket.create_upload("cut", "ann", part_size=PART)
        where = ("cut", begun.upload_id, begun.token)
        text = TEXT[:PART] + TEXT
        third, second, first = await here.parts(begun, text)

        async def refused(receipts: list[str], missing: list[int], **expected: int) -> None:
            with pytest.raises(errors.UploadIncompleteError) as caught:
                await here.bucket.complete_upload(*where, receipts, **expected)
            assert missing == caught.value.missing

        await refused([first, second], [3])  # which the bucket has
        await refused([first], [2, 3])
        await refused([first, second, third], [3, 4], parts=4)  # which it has not
        await refused([first, second], [3], size=len(text))
        await refused([first, second, third], [3, 4], size=4 * PART)
        all_of_them = [first, second, third]
        for wrong in ({"parts": 2}, {"size": len(text) - 1}, {"size": len(text) + 1}):
            with pytest.raises(errors.UploadError, match=r"expected|bytes"):
                await here.bucket.complete_upload(*where, all_of_them, **wrong)
        for bad, error in (
            ({"size": -1}, ValueError), ({"parts": 0}, ValueError), ({"parts": True}, TypeError),
            ({"size": 1.0}, TypeError), ({"size": len(text), "parts": 2}, ValueError),
        ):  # fmt: skip
            with pytest.raises(error):
                await here.bucket.complete_upload(*where, all_of_them, **bad)
        assert [begun.upload_id] == await here.uploads("cut")
        await here.bucket.complete_upload(*where, all_of_them, size=len(text), parts=3)
        assert text == await here.download("cut")
        await here.bucket.complete_upload(*where, all_of_them, size=len(text))  # again
        with pytest.raises(errors.UploadError):
            await here.bucket.complete_upload(*where, [first, second])  # and with other receipts


def test_receipt_that_is_left_out_completes_nothing_in_sync_code(
    weed_server: SeaweedFS, name: str
) -> None:
    """The same for the other face."""
    with lenzeye.BlockingLenzeyeBucket(lambda: s3_client(weed_server.url), name) as bucket:
        begun = bucket.create_upload("cut", "ann", part_size=PART)
        where = ("cut", begun.upload_id, begun.token)
        first = bucket.encrypt_and_upload_part(*where, 1, bytes(PART))
        with pytest.raises(errors.UploadIncompleteError):
            bucket.complete_upload(*where, [first], parts=2)
        last = bucket.encrypt_and_upload_part(*where, 2, b"end")
        with pytest.raises(errors.UploadIncompleteError):
            bucket.complete_upload(*where, [first])
        bucket.complete_upload(*where, [first, last], size=PART + 3)


async def test_part_that_was_replaced_is_named(weed_server: SeaweedFS, name: str) -> None:
    """A late duplicate took the place of the part of the receipt: only that part goes again."""
    async with place(weed_server, name) as here:
        begun = await here.bucket.create_upload("replaced", "ann", part_size=PART)
        receipts = await here.parts(begun)
        opened = lenzeye.decrypt_upload_token(begun.token)
        gone = Receipt(number=1, length=PART, etag='"' + "0" * 32 + '"', mac=bytes(32))
        wrong = [receipts[0], issue(*opened, begun.upload_id, gone)]
        arguments = ("replaced", begun.upload_id, begun.token)
        with pytest.raises(errors.PartReplacedError) as caught:
            await here.bucket.complete_upload(*arguments, wrong)
        assert 1 == caught.value.part
        again = await here.bucket.encrypt_and_upload_part(*arguments, 1, TEXT[:PART])
        await here.bucket.complete_upload(*arguments, [receipts[0], again])
        assert TEXT == await here.download("replaced")


async def test_complete_twice_changes_nothing(weed_server: SeaweedFS, name: str) -> None:
    """The answer to the first call may have been lost; a single HMAC may be wanted later."""
    async with place(weed_server, name) as here:
        begun = await here.bucket.create_upload("twice", "ann", part_size=PART)
        receipts = await here.parts(begun)
        arguments = ("twice", begun.upload_id, begun.token, receipts)
        first = await here.bucket.complete_upload(*arguments)
        assert first == await here.bucket.complete_upload(*arguments)
        with_hmac = await here.bucket.complete_upload(*arguments, legacy_hmac=True)
        body, metadata, _ = await here.raw("twice")
        key, _ = lenzeye.get_or_create_user_key("ann")
        expected = hmac.digest(key, bytes.fromhex(metadata["iv"]) + body, "sha256")
        assert expected == with_hmac.hmac == bytes.fromhex(metadata["hmac"])
        await here.upload("twice", b"another")
        with pytest.raises(errors.UploadNotFoundError):
            await here.bucket.complete_upload(*arguments)
        assert b"another" == await here.download("twice")


async def test_complete_that_was_interrupted_is_repeated(
    weed_server: SeaweedFS, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the object and its MAC it does not open; the second call looks before it vouches."""
    async with place(weed_server, name) as here:
        begun = await here.bucket.create_upload("halfway", "ann", part_size=PART)
        receipts = await here.parts(begun)
        arguments = ("halfway", begun.upload_id, begun.token, receipts)
        with monkeypatch.context() as patched:

            async def crash(*_: Any) -> None:
                raise errors.SourceError("crashed")

            patched.setattr(completion.Completion, "_write_metadata", crash)
            with pytest.raises(errors.SourceError):
                await here.bucket.complete_upload(*arguments)
        with pytest.raises(errors.UploadError, match="again"):
            await here.download("halfway")
        (found,) = [found async for found in here.bucket.scan("halfway")]
        assert lenzeye.Form.UNFINISHED is found.form

        async def gone(*_: Any) -> None:  # as AWS answers; SeaweedFS says yes again
            raise errors.UploadNotFoundError("NoSuchUpload")

        monkeypatch.setattr("anyseal.s3.calls.Calls.complete_upload", gone)
        opened = lenzeye.decrypt_upload_token(begun.token)
        lying = Receipt(number=1, length=PART, etag="x", mac=bytes(32))
        forged = [receipts[0], issue(*opened, begun.upload_id, lying)]
        with pytest.raises(InvalidSignature):
            await here.bucket.complete_upload(*arguments[:3], forged)
        await here.bucket.complete_upload(*arguments)
        assert TEXT == await here.download("halfway")
        with pytest.raises(errors.UploadError, match="other parts"):
            await here.bucket.complete_upload(*arguments[:3], forged)


async def test_complete_of_a_huge_object_copies_in_parts(
    weed_server: SeaweedFS, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CopyObject takes 5 GiB at most."""
    monkeypatch.setattr(completion, "COPY_MAX", 1 << 20)
    monkeypatch.setattr(completion, "COPY_PART", PART)
    async with place(weed_server, name) as here:
        await here.upload("huge")
        assert TEXT == await here.download("huge")
        assert [] == await here.uploads("huge")


async def test_upload_that_is_gone(weed_server: SeaweedFS, name: str) -> None:
    """Aborted: nothing stays behind, and nothing can be added."""
    async with place(weed_server, name) as here:
        begun = await here.bucket.create_upload("gone", "ann", part_size=PART)
        receipts = await here.parts(begun, TEXT[:100])
        await here.bucket.abort_upload("gone", begun.upload_id)
        await here.bucket.abort_upload("gone", begun.upload_id)
        with pytest.raises(errors.UploadNotFoundError):
            await here.parts(begun, TEXT[:100])
        with pytest.raises(errors.UploadNotFoundError):
            await here.bucket.complete_upload("gone", begun.upload_id, begun.token, receipts)
        assert [] == await here.uploads("gone")


async def test_upload_of_wrong_arguments_is_refused(weed_server: SeaweedFS, name: str) -> None:
    """Before anything is sent."""
    async with place(weed_server, name) as here:
        for settings in (
            {"part_size": PART - 1},
            {"part_size": 1 << 32},
            {"metadata": {"iv": "x"}},
        ):
            with pytest.raises(ValueError):
                await here.bucket.create_upload("wrong", "ann", **settings)
        begun = await here.bucket.create_upload("wrong", "ann", part_size=PART)
        send, where = here.bucket.encrypt_and_upload_part, ("wrong", begun.upload_id)
        for number, text in ((0, b"x"), (10_001, b"x"), (True, b"x"), (1, bytes(PART + 1))):
            with pytest.raises(ValueError):
                await send(*where, begun.token, number, text)
        with pytest.raises(TypeError):
            await send(*where, begun.token, 1, "text")
        with pytest.raises(lenzeye.InvalidTagError):
            await send(*where, begun.token[:-1] + "!", 1, b"x")
        await here.bucket.abort_upload(*where)
        assert "token" not in repr(begun)
    with pytest.raises(errors.ConfigurationError):
        lenzeye.Layout(iv="IV")
    with pytest.raises(errors.ConfigurationError):
        lenzeye.Layout(iv="hmac")


async def test_scan_and_migrate(weed_server: SeaweedFS, name: str) -> None:
    """A migration gets verified plaintext and the user's own metadata, or an error."""
    async with place(weed_server, name) as here:
        await here.put("move/0 foreign", b"x", {"title": "not ours"})
        await here.put("move/1 malformed", b"x", {"key-version": "1" * 64, "iv": "?"})
        begun = await here.bucket.create_upload(
            "move/2", "ann", part_size=PART, metadata={"title": "mine"}
        )
        receipts = await here.parts(begun, TEXT[: PART + 9])
        await here.bucket.complete_upload("move/2", begun.upload_id, begun.token, receipts)
        for number in range(20):
            await here.put(f"move/3 {number:02}", b"x", {"key-version": "2" * 64})
        found = [each async for each in here.bucket.scan("move/")]
        assert [None, lenzeye.Form.PARTS] + [lenzeye.Form.STREAM] * 20 == [f.form for f in found]
        assert sorted(each.key for each in found) == [each.key for each in found]
        after = [each.key async for each in here.bucket.scan("move/", start_after="move/3 17")]
        assert ["move/3 18", "move/3 19"] == after
        assert {"title": "mine"} == found[1].metadata

        sealed = {}

        async def put(key: str, data: AsyncIterator[bytes], metadata: Mapping[str, str]) -> str:
            sealed[key] = (b"".join([piece async for piece in data]), dict(metadata))
            return "etag"

        assert "etag" == await lenzeye.migrate_object(here.bucket, "move/2", "ann", put)
        assert {"move/2": (TEXT[: PART + 9], {"title": "mine"})} == sealed
        body, metadata, _ = await here.raw("move/2")
        await here.put("move/2", body[:-1] + bytes([body[-1] ^ 1]), metadata)
        with pytest.raises(InvalidSignature):
            await lenzeye.migrate_object(here.bucket, "move/2", "ann", put)
        opened = lenzeye.open_lenzeye_object(here.bucket, "move/2", "ann")
        assert hashlib.sha256(TEXT[:PART]).digest() == hashlib.sha256(await anext(opened)).digest()
        await opened.aclose()


WORKER = """
import sys, random, time
import storage_servers
from anyseal.compat import lenzeye
from support import pattern
url, name, upload_id, token, numbers, slow = sys.argv[1:]
size = 5 << 20
text = pattern(7 * size + 9, "by four")
with lenzeye.BlockingLenzeyeBucket(lambda: storage_servers.s3_client(url), name) as bucket:
    numbers = [int(n) for n in numbers.split(",")]
    random.shuffle(numbers)
    for n in numbers:
        part = text[(n - 1) * size : n * size]
        print(n, bucket.encrypt_and_upload_part("by four", upload_id, token, n, part), flush=True)
        time.sleep(float(slow))
"""


def _worker(url: str, *arguments: str) -> subprocess.Popen[str]:
    import os

    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, url, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "MASTER_KEY": MASTER},
    )


def test_parts_by_four_processes_one_killed(weed_server: SeaweedFS, name: str) -> None:
    """What Lenzeye's running HMAC could not do: any worker, any order, any of them may die."""
    text = pattern(7 * PART + 9, "by four")
    with lenzeye.BlockingLenzeyeBucket(lambda: s3_client(weed_server.url), name) as bucket:
        begun = bucket.create_upload("by four", "ann", part_size=PART)
        where = (weed_server.url, name, begun.upload_id, begun.token)
        shares = ["1,5", "2,6", "3,7", "4,8"]
        workers = [_worker(*where, share, "60" if share == "2,6" else "0") for share in shares]
        killed = workers[1]
        assert killed.stdout is not None
        lines = [killed.stdout.readline()]
        killed.kill()
        lines += killed.communicate(timeout=120)[0].splitlines()
        for worker in (workers[0], *workers[2:], _worker(*where, "2,6", "0")):
            lines += worker.communicate(timeout=120)[0].splitlines()
            assert 0 == worker.returncode
        receipts = {int(n): text for n, text in (line.split() for line in lines if line)}
        assert set(range(1, 9)) == set(receipts)
        done = bucket.complete_upload(
            "by four", begun.upload_id, begun.token, receipts.values(), legacy_hmac=True
        )
        assert 8 == len(done.part_macs or ())
        assert text == b"".join(bucket.download("by four", "ann"))
        assert text[PART - 5 : PART + 5] == bucket.read_range("by four", "ann", PART - 5, 10)
        assert ["by four"] == [found.key for found in bucket.scan("by four")]
        bucket.abort_upload("by four", begun.upload_id)
    with pytest.raises(RuntimeError):
        bucket.scan()
