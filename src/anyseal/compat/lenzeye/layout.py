"""What an object's metadata says: names, encodings, and which of the layouts it is."""

from __future__ import annotations

import base64
import binascii
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from anyseal.compat.lenzeye.master import IV_BYTES, PART_SIZE_MAX
from anyseal.compat.lenzeye.receipts import MAC_BYTES
from anyseal.errors import ConfigurationError, FormatError

__all__ = ["Form", "Layout", "LenzeyeMetadata"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[0-9a-f]{64}")

LISTED_PARTS_MAX = 24
"""So many parts' MACs are in the metadata, 1,024 characters of the 2,048 that S3 takes."""


class Form(enum.Enum):
    """How an object is laid out and authenticated."""

    PARTS = "parts"
    """Ciphertext alone; the object MAC over the parts' MACs is in the metadata."""
    SINGLE = "single"
    """Ciphertext alone; one HMAC over all of it is in the metadata."""
    STREAM = "stream"
    """``hmac ‖ iv ‖ ciphertext``; with the HMAC in the metadata also ``iv ‖ ciphertext``."""
    UNFINISHED = "unfinished"
    """Completed, but its MAC was not written yet: complete it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LenzeyeMetadata:
    """An object's metadata, decoded. None of it is verified."""

    key_version: str
    iv: bytes | None = None
    part_size: int | None = None
    hmac: bytes | None = None
    object_mac: bytes | None = None
    part_macs: tuple[bytes, ...] | None = None

    @property
    def form(self) -> Form:
        """How the object is laid out."""
        if self.iv is None:
            return Form.STREAM
        if self.object_mac is not None and self.part_size is not None:
            return Form.PARTS
        return Form.UNFINISHED if self.hmac is None else Form.SINGLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The names that the metadata has in a deployment; S3 keeps them in lower case.

    Binary values are read in hexadecimal or base64, and written in hexadecimal.

    Raises:
        ConfigurationError: A name is not fit for S3, or stands for two things.
    """

    key_version: str = "key-version"
    iv: str = "iv"
    part_size: str = "part-size"
    hmac: str = "hmac"
    """The single HMAC: HMAC-SHA256 under the user's key over ``iv ‖ ciphertext``."""
    object_mac: str = "object-mac"
    part_macs: str = "part-macs"
    hmac_covers_iv: bool = True
    """False: a deployment's single HMACs (those with an iv in the metadata) cover the ciphertext
    alone."""

    def __post_init__(self) -> None:
        names = self.names
        for name in names:
            if not isinstance(name, str) or _NAME.fullmatch(name) is None:
                raise ConfigurationError("a metadata name is a-z, 0-9, '.', '_', '-', up to 64")
        if len(set(names)) != len(names):
            raise ConfigurationError("two metadata names are the same")

    @property
    def names(self) -> tuple[str, ...]:
        """All the names."""
        return tuple(getattr(self, each.name) for each in fields(self))[:-1]

    def read(self, metadata: Mapping[str, str]) -> LenzeyeMetadata | None:
        """*metadata*, decoded; None if it has no key version: not an object of this layout.

        Raises:
            FormatError: A value is malformed.
        """
        version = metadata.get(self.key_version, "").lower()
        if not version:
            return None
        if _VERSION.fullmatch(version) is None:
            raise FormatError(f"metadata {self.key_version}: not a key version")
        listed = _binary(metadata, self.part_macs, None)
        return LenzeyeMetadata(
            key_version=version,
            iv=_binary(metadata, self.iv, IV_BYTES),
            part_size=_part_size(metadata, self.part_size),
            hmac=_binary(metadata, self.hmac, MAC_BYTES),
            object_mac=_binary(metadata, self.object_mac, MAC_BYTES),
            part_macs=None if listed is None else _split(listed, self.part_macs),
        )

    def write(self, found: LenzeyeMetadata) -> dict[str, str]:
        """*found* as metadata; part MACs only if they are few."""
        out = {self.key_version: found.key_version}
        if found.iv is not None:
            out[self.iv] = found.iv.hex()
        if found.part_size is not None:
            out[self.part_size] = str(found.part_size)
        if found.hmac is not None:
            out[self.hmac] = found.hmac.hex()
        if found.object_mac is not None:
            out[self.object_mac] = found.object_mac.hex()
        if found.part_macs and len(found.part_macs) <= LISTED_PARTS_MAX:
            out[self.part_macs] = base64.b64encode(b"".join(found.part_macs)).decode()
        return out

    def others(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """What is in *metadata* beside the layout's own."""
        return {name: value for name, value in metadata.items() if name.lower() not in self.names}


def _binary(metadata: Mapping[str, str], name: str, size: int | None) -> bytes | None:
    text = metadata.get(name)
    if not text:
        return None
    try:
        if size is not None and len(text) == 2 * size:
            return bytes.fromhex(text)
        data = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise FormatError(f"metadata {name}: neither hexadecimal nor base64") from None
    if size is not None and len(data) != size:
        raise FormatError(f"metadata {name}: not {size} bytes")
    return data


def _part_size(metadata: Mapping[str, str], name: str) -> int | None:
    text = metadata.get(name)
    if not text:
        return None
    short = len(text) <= 10 and text.isascii() and text.isdigit()
    if not short or not 1 <= int(text) <= PART_SIZE_MAX:
        raise FormatError(f"metadata {name}: not a part size")
    return int(text)


def _split(data: bytes, name: str) -> tuple[bytes, ...]:
    if len(data) % MAC_BYTES:
        raise FormatError(f"metadata {name}: not whole MACs")
    return tuple(data[at : at + MAC_BYTES] for at in range(0, len(data), MAC_BYTES))
