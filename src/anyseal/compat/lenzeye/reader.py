"""Reads an object of Lenzeye's layout from a bucket, and releases only what is verified."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncGenerator, Callable, Mapping

from anyseal import offload
from anyseal.compat.lenzeye.ctr import decrypt_multipart_chunk_async
from anyseal.compat.lenzeye.errors import InvalidSignatureError
from anyseal.compat.lenzeye.layout import Form, Layout, LenzeyeMetadata
from anyseal.compat.lenzeye.master import IV_BYTES
from anyseal.compat.lenzeye.pieces import update_mac
from anyseal.compat.lenzeye.receipts import MAC_BYTES, object_mac, part_mac
from anyseal.compat.lenzeye.verifiers import (
    PartsVerifier,
    SingleVerifier,
    Verifier,
    part_count,
    part_span,
)
from anyseal.errors import FormatError, PreconditionFailedError, SourceChangedError, UploadError
from anyseal.s3.arguments import whole
from anyseal.s3.calls import Calls, Found

__all__ = ["Ciphertext", "LenzeyeReader", "open_reader", "read_back"]

UNIT_BYTES = 8 << 20
"""Requested and verified at a time, where the parts' MACs are not at hand."""

WHOLE_PART_MAX = 64 << 20
"""Larger parts are not held in memory to verify them at once: the object is read twice."""


class Ciphertext:
    """The ciphertext of one version of an object."""

    def __init__(self, calls: Calls, key: str, etag: str, total: int, start: int) -> None:
        self._calls, self._key, self._etag = calls, key, etag
        self._total, self._start = total, start
        self.size = total - start

    async def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes."""
        if not length:
            return b""
        first = self._start + offset
        try:
            found = await self._calls.get_range(
                self._key, f"{first}-{first + length - 1}", limit=length, if_match=self._etag
            )
        except PreconditionFailedError as exc:
            raise SourceChangedError("the object changed while it was being read") from exc
        if (found.start, len(found.data), found.total) != (first, length, self._total):
            raise SourceChangedError("the object changed while it was being read")
        return found.data


class LenzeyeReader:
    """An object of Lenzeye's layout. Made by :meth:`LenzeyeBucket.open`.

    Attributes:
        metadata: The object's metadata beside the layout's own. Not verified.

    Where the metadata lists the parts' MACs (up to 24 parts, of up to 64 MiB), each part is
    verified when it is read. Any other object is read once as a whole before its first byte is
    released; then again, 8 MiB at a time, each piece compared with what was verified.
    """

    def __init__(
        self,
        source: Ciphertext,
        key: bytes,
        iv: bytes,
        found: LenzeyeMetadata,
        covers_iv: bool,
        metadata: Mapping[str, str],
    ) -> None:
        self.metadata = metadata
        self._source, self._key, self._iv = source, key, iv
        self._found, self._covers_iv = found, covers_iv
        self._unit = 0  # bytes that are verified together; 0: not known yet
        self._matches: Callable[[int, bytes], bool] = lambda number, data: False

    @property
    def size(self) -> int:
        """Bytes of plaintext. Not verified before something was read."""
        return self._source.size

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """The plaintext, verified, in pieces of at most 64 MiB.

        Raises:
            InvalidSignatureError: The object was altered.
            SourceChangedError: It was replaced while it was being read.
            SourceError: The bucket did not answer.
        """
        await self._prepare()
        for number in range(-(-self.size // self._unit)):
            yield await self._open_unit(number)

    async def read_range(self, start: int, length: int, *, verify: bool = True) -> bytes:
        """*length* bytes of the plaintext from *start*; fewer at the end.

        Args:
            start: 0 or more.
            length: 0 or more; held in memory.
            verify: Read and verify the whole parts that the range touches; if the parts' MACs are
                not at hand, the whole object, once for this reader. **False returns the bytes
                unverified**, from one request of exactly their size: whoever can write to the
                bucket decides what they are.

        Raises:
            InvalidSignatureError, SourceChangedError, SourceError: As for :meth:`stream`.
        """
        whole("start", start), whole("length", length)
        if start < 0 or length < 0:
            raise ValueError("start and length must not be negative")
        stop = min(start + length, self.size)
        if not verify:
            data = await self._source.read(start, max(0, stop - start))
            return await decrypt_multipart_chunk_async(data, self._key, self._iv, start)
        await self._prepare()
        out = bytearray()
        for number in range(start // self._unit, -(-stop // self._unit)):
            begin = number * self._unit
            piece = await self._open_unit(number)
            out += memoryview(piece)[max(0, start - begin) : stop - begin]
        return bytes(out)

    async def verify(self) -> None:
        """Read all of it and raise InvalidSignatureError unless it is what was written."""
        await self._prepare()
        for number in range(-(-self.size // self._unit)):
            await self._read_unit(number)

    async def _prepare(self) -> None:
        """Learn what the pieces must be: from the metadata, or by reading everything once."""
        if self._unit:
            return
        if not self._listed():
            await self._survey()

    def _listed(self) -> bool:
        """Whether the metadata has the MACs of the parts, verified here, and parts are small."""
        found, size = self._found, self.size
        if found.form is not Form.PARTS or not found.part_macs:
            return False
        macs, part_size = found.part_macs, found.part_size or 0
        expected = object_mac(self._key, self._iv, part_size, size, macs)
        if len(macs) != part_count(size, part_size) or not hmac.compare_digest(
            expected, found.object_mac or b""
        ):
            raise InvalidSignatureError
        if part_size > WHOLE_PART_MAX or not size:
            return False

        def matches(number: int, data: bytes) -> bool:
            offset, length = part_span(number + 1, size, part_size)
            mac = part_mac(self._key, self._iv, number + 1, offset, length)
            update_mac(mac, memoryview(data))
            return hmac.compare_digest(mac.digest(), macs[number])

        self._unit, self._matches = part_size, matches
        return True

    def _verifier(self) -> Verifier:
        found = self._found
        if found.form is Form.PARTS:
            part_size, mac = found.part_size or 1, found.object_mac or b""
            return PartsVerifier(self._key, self._iv, part_size, self.size, mac)
        return SingleVerifier(self._key, self._iv, found.hmac, self._covers_iv)

    async def _survey(self) -> None:
        """Read and verify everything; remember the hash of each piece."""
        verifier, hashes = self._verifier(), []
        for at in range(0, self.size, UNIT_BYTES):
            data = await self._source.read(at, min(UNIT_BYTES, self.size - at))
            hashes.append(await offload.run(verifier.feed, memoryview(data)))
        verifier.finish()

        def matches(number: int, data: bytes) -> bool:
            return hashlib.sha256(data).digest() == hashes[number]

        self._unit, self._matches = UNIT_BYTES, matches

    async def _read_unit(self, number: int) -> bytes:
        at = number * self._unit
        data = await self._source.read(at, min(self._unit, self.size - at))
        if not await offload.run(self._matches, number, data):
            raise InvalidSignatureError
        return data

    async def _open_unit(self, number: int) -> bytes:
        data = await self._read_unit(number)
        return await decrypt_multipart_chunk_async(data, self._key, self._iv, number * self._unit)


async def open_reader(
    calls: Calls,
    key: str,
    head: Found,
    metadata: LenzeyeMetadata,
    user_key: bytes,
    layout: Layout,
) -> LenzeyeReader:
    """A reader of the version of *key* that *head* describes."""
    if metadata.form is Form.UNFINISHED:
        raise UploadError("the object has no MAC yet: complete its upload again")
    others = layout.others(head.metadata)
    if metadata.form is not Form.STREAM:
        assert metadata.iv is not None
        source = Ciphertext(calls, key, head.etag, head.size, 0)
        covers = layout.hmac_covers_iv
        return LenzeyeReader(source, user_key, metadata.iv, metadata, covers, others)
    whole = Ciphertext(calls, key, head.etag, head.size, 0)
    start = await whole.read(0, min(head.size, MAC_BYTES + IV_BYTES))
    expected = metadata.hmac
    if expected is None or hmac.compare_digest(start[:MAC_BYTES], expected):
        expected, start = start[:MAC_BYTES], start[MAC_BYTES:]
        skip = MAC_BYTES + IV_BYTES
    else:
        skip = IV_BYTES
    if head.size < skip:
        raise FormatError("the object is shorter than its header")
    iv = start[:IV_BYTES]
    found = LenzeyeMetadata(key_version=metadata.key_version, iv=iv, hmac=expected)
    source = Ciphertext(calls, key, head.etag, head.size, skip)
    return LenzeyeReader(source, user_key, iv, found, True, others)


async def read_back(
    source: Ciphertext, key: bytes, iv: bytes, part_size: int, mac: bytes, covers_iv: bool
) -> bytes:
    """The single HMAC of an object whose parts make *mac*.

    Raises:
        InvalidSignatureError: They do not: the object is not what the receipts are for.
    """
    parts = PartsVerifier(key, iv, part_size, source.size, mac)
    single = SingleVerifier(key, iv, None, covers_iv)
    for at in range(0, source.size, UNIT_BYTES):
        data = memoryview(await source.read(at, min(UNIT_BYTES, source.size - at)))
        await offload.run(parts.feed, data)
        await offload.run(single.feed, data)
    parts.finish()
    return single.digest()
