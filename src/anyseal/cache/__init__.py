"""An encrypted cache over any backend (extra ``cache``; ``redis``, ``http``, ``memcached`` for
these backends).

The backend never sees a value, nor by default the name of a key.
"""

from anyseal.cache.backends import backend_from_url
from anyseal.cache.backends.memory import MemoryBackend
from anyseal.cache.codecs import (
    ArrowCodec,
    Codec,
    Compressed,
    JSONCodec,
    MessagePackCodec,
    PickleCodec,
    RawCodec,
)
from anyseal.cache.core import Cache
from anyseal.cache.decorators import CacheInfo, cached
from anyseal.cache.policy import TTL, CachePolicy
from anyseal.cache.secure import secure
from anyseal.cache.stats import CacheHealth, CacheStats
from anyseal.cache.wrapper import EncryptionWrapper

__all__ = [
    "TTL",
    "ArrowCodec",
    "Cache",
    "CacheHealth",
    "CacheInfo",
    "CachePolicy",
    "CacheStats",
    "Codec",
    "Compressed",
    "EncryptionWrapper",
    "JSONCodec",
    "MemoryBackend",
    "MessagePackCodec",
    "PickleCodec",
    "RawCodec",
    "backend_from_url",
    "cached",
    "secure",
]
