"""An encrypted cache over any backend (extra ``cache``; ``redis``, ``http``, ``memcached`` for
these backends).

The backend never sees a value, nor by default the name of a key.
"""

from anyseal.cache.backends.memory import MemoryBackend
from anyseal.cache.core import Cache
from anyseal.cache.policy import TTL, CachePolicy
from anyseal.cache.stats import CacheHealth, CacheStats

__all__ = ["TTL", "Cache", "CacheHealth", "CachePolicy", "CacheStats", "MemoryBackend"]
