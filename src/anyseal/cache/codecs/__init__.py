"""Codecs: what turns the values of a cache into bytes and back.

``msgpack`` is the default, ``json`` is for entries that others read too, ``raw`` for bytes,
``arrow`` (extra ``arrow``) for tables and data frames, ``pickle`` for who asks for it by name. Any
object with ``encode`` and ``decode`` serves as well.
"""

from __future__ import annotations

import functools
from typing import Any

from anyseal.cache.codecs.arrow import ArrowCodec
from anyseal.cache.codecs.base import Codec, ForeignCodec
from anyseal.cache.codecs.compressed import Compressed
from anyseal.cache.codecs.messages import JSONCodec, MessagePackCodec
from anyseal.cache.codecs.pickled import PickleCodec
from anyseal.cache.codecs.raw import RawCodec
from anyseal.errors import ConfigurationError

__all__ = [
    "ArrowCodec",
    "Codec",
    "Compressed",
    "ForeignCodec",
    "JSONCodec",
    "MessagePackCodec",
    "PickleCodec",
    "RawCodec",
    "codec_named",
]

_NAMED: dict[str, type[Any]] = {
    getattr(each, "label", each.name): each
    for each in (ArrowCodec, JSONCodec, MessagePackCodec, PickleCodec, RawCodec)
}
_NAMED[MessagePackCodec.name] = MessagePackCodec
_OURS: Any = (*_NAMED.values(), Compressed, ForeignCodec)


@functools.cache
def _named(name: str) -> Codec:
    """One codec for each name: all caches of a process share its decoders."""
    found = _NAMED.get(name)
    if found is None:
        raise ConfigurationError(f"unknown codec {name!r}: one of {', '.join(sorted(_NAMED))}")
    made: Codec = found()
    return made


def codec_named(codec: Any) -> Codec:
    """The codec that *codec* names, or is.

    Args:
        codec: ``msgpack``, ``json``, ``raw``, ``arrow``, ``pickle`` (restricted to plain types),
            or an object with ``encode`` and ``decode``. Such an object's name is its ``name``, or
            its class's; entries open only under a codec of the same name.

    Raises:
        ConfigurationError: No codec has this name, it is no codec, or an extra is missing.
    """
    if isinstance(codec, str):
        return _named(codec)
    if isinstance(codec, type):
        raise ConfigurationError(f"codec must be an object, not the class {codec.__name__}")
    if isinstance(codec, _OURS):
        ours: Codec = codec
        return ours
    return ForeignCodec(codec)
