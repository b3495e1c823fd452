"""EncryptionWrapper: any codec with sealing behind it, for caches that are not ours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from anyseal import offload
from anyseal.cache.codecs import RawCodec, codec_named
from anyseal.cache.codecs.base import Codec, check_bytes
from anyseal.cache.codecs.steps import decoding, encoding, is_long, light
from anyseal.cache.kit import stepped
from anyseal.errors import ConfigurationError
from anyseal.keyring.static import StaticKeyring
from anyseal.keys import Key
from anyseal.ports import Keyring, LocalKeyring, current_key, named_key, resolve_partition
from anyseal.suites import INLINE_BYTES, Suite, suite_named
from anyseal.value import key_id_of, open_under, seal_under

__all__ = ["BoundWrapper", "EncryptionWrapper"]

_LABEL = b"anyseal cache wrapper v1"


def _packed(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4) + field for field in fields)


class EncryptionWrapper:
    """Encodes and seals values for a cache of another library, or for a bare client.

    The entry's name, the codec's name and the partition are bound: what was sealed for one name
    opens under no other. ::

        wrapper = EncryptionWrapper(os.environ["MASTER_KEY"], "msgpack")
        await redis.set("user:7", wrapper.encode(user, "user:7"))
        user = wrapper.decode(await redis.get("user:7"), "user:7", User)

    Args:
        keyring: A Keyring; or the master key of a StaticKeyring: a Key, 32 bytes, or 64
            hexadecimal characters.
        codec: A codec's name, or an object with ``encode`` and ``decode``: see ``codec_named``.
        partition: Whose key to use.
        previous: With a master key: master keys that still open.
        suite: What to seal with. Default: the machine's best.

    Raises:
        ConfigurationError: A key is malformed, there is no such codec or suite, or *previous* goes
            with a keyring.
    """

    def __init__(
        self,
        keyring: Key | Keyring | bytes | str,
        codec: Any = "msgpack",
        *,
        partition: str = "default",
        previous: Sequence[Key | bytes | str] = (),
        suite: Suite | str | None = None,
    ) -> None:
        self._keyring: Keyring
        if isinstance(keyring, (Key, bytes, str)):
            self._keyring = StaticKeyring(keyring, previous)
        elif previous:
            raise ConfigurationError("previous goes with a master key; a keyring has its own")
        else:
            self._keyring = keyring
        self._partition = resolve_partition(self._keyring, partition)
        self._codec = codec_named(codec)
        self._suite = suite_named(suite)
        self._context = _packed(_LABEL, self._codec.name.encode())

    @property
    def codec(self) -> Codec:
        """What turns values into bytes."""
        return self._codec

    def _bound(self, name: str | bytes) -> bytes:
        """What is authenticated with the entry of *name*."""
        if type(name) is str:
            try:
                field = b"s" + name.encode()
            except UnicodeEncodeError:
                raise ValueError("name holds a lone surrogate") from None
        elif type(name) is bytes:
            field = b"b" + name
        else:
            raise TypeError(f"name must be str or bytes, not {type(name).__name__}")
        if len(field) == 1:
            raise ValueError("name must not be empty")
        return self._context + len(field).to_bytes(4) + field

    def encode(
        self, value: Any, name: str | bytes, *, expires_at: float | datetime | None = None
    ) -> bytes:
        """*value*, encoded and sealed for the entry *name*.

        Args:
            value: What the codec takes.
            name: The entry's name in the cache, as it will be read.
            expires_at: Seconds since the epoch or an aware datetime, after which it does not open.

        Raises:
            TypeError: It cannot be encoded; the message names the path.
            ConfigurationError: The keyring must wait for its key: use :meth:`aencode`.

        Cost: the codec's, and 1 to 2 us for small values; all in the caller's thread.
        """
        context = self._bound(name)
        key = self._keyring.current_hit(self._partition)
        if key is None:
            key = self._local().current_local(self._partition)
        return seal_under(self._codec.encode(value), key, context, self._suite, expires_at)

    def decode(
        self, sealed: bytes | bytearray | memoryview, name: str | bytes, type: Any = Any
    ) -> Any:
        """The value that was sealed for *name*.

        Raises:
            DecryptionError: It does not verify, or was sealed for another name or codec.
            ExpiredError: It is past its expiry.
            FormatError: Not a sealed value, or it does not fit *type*.
            WrongKeyError: Sealed for another partition, or under a key that is gone.
            ConfigurationError: The keyring must wait for its key: use :meth:`adecode`.
        """
        check_bytes(sealed)
        context = self._bound(name)
        key_id = key_id_of(sealed)
        key = self._keyring.get_hit(self._partition, key_id)
        if key is None:
            key = self._local().get_local(self._partition, key_id)
        return self._codec.decode(open_under(sealed, key, context), type)

    async def aencode(
        self, value: Any, name: str | bytes, *, expires_at: float | datetime | None = None
    ) -> bytes:
        """:meth:`encode`, waiting for the keyring where it must; large values are sealed in a
        worker thread, and encoded in steps, between which other tasks run.

        Raises:
            RuntimeError: *value* was changed while it was encoded.
        """
        context = self._bound(name)
        key = await current_key(self._keyring, self._partition)
        data: Any = value
        if not isinstance(self._codec, RawCodec) or not isinstance(value, (bytearray, memoryview)):
            data = light(self._codec, value)  # the others are sealed as they are
            if data is None:
                data = await stepped(encoding(self._codec, value))
        if memoryview(data).nbytes <= INLINE_BYTES[self._suite]:
            return seal_under(data, key, context, self._suite, expires_at)
        return await offload.run(seal_under, data, key, context, self._suite, expires_at)

    async def adecode(
        self, sealed: bytes | bytearray | memoryview, name: str | bytes, type: Any = Any
    ) -> Any:
        """:meth:`decode`, waiting for the keyring where it must; large values are opened in a
        worker thread, and decoded in steps, between which other tasks run."""
        check_bytes(sealed)
        context = self._bound(name)
        key = await named_key(self._keyring, self._partition, key_id_of(sealed))
        if len(sealed) <= min(INLINE_BYTES[1:]):
            data = open_under(sealed, key, context)
        else:
            data = await offload.run(open_under, sealed, key, context)
        if not is_long(self._codec, data):
            return self._codec.decode(data, type)
        return await stepped(decoding(self._codec, data, type))

    def bind(self, name: str | bytes) -> BoundWrapper:
        """A serializer with one fixed name, for libraries that do not tell the entry's name.

        Entries of one bound wrapper are interchangeable for who can write to the cache.
        """
        self._bound(name)
        return BoundWrapper(self, name)

    def _local(self) -> LocalKeyring:
        if isinstance(self._keyring, LocalKeyring):
            return self._keyring
        raise ConfigurationError("the keyring must wait for its key: use aencode and adecode")

    def __repr__(self) -> str:
        return f"<EncryptionWrapper {self._codec.name} of {self._keyring!r}>"


class BoundWrapper:
    """An :class:`EncryptionWrapper` with one name for all entries, in the forms that serializers
    have: ``encode`` and ``decode``, ``dumps`` and ``loads``."""

    encoding = None
    """No text encoding: what is stored is bytes."""

    def __init__(self, wrapper: EncryptionWrapper, name: str | bytes) -> None:
        self._wrapper = wrapper
        self._name = name

    def encode(self, value: Any) -> bytes:
        """As :meth:`EncryptionWrapper.encode`."""
        return self._wrapper.encode(value, self._name)

    def decode(self, sealed: bytes | bytearray | memoryview, type: Any = Any) -> Any:
        """As :meth:`EncryptionWrapper.decode`."""
        return self._wrapper.decode(sealed, self._name, type)

    def dumps(self, value: Any) -> bytes:
        """:meth:`encode` by another name."""
        return self.encode(value)

    def loads(self, sealed: bytes | bytearray | memoryview | None) -> Any:
        """:meth:`decode`; None, which stands for a miss, stays None."""
        return None if sealed is None else self.decode(sealed)
