"""The protocols that connect anyseal to keys and storage.

A port is async where it may wait for a network. Local storage is blocking: those ports carry the
names of the system calls (``pread_into``, ``pwrite``) and are called in worker threads by the
async side, directly by the sync side.
"""

from anyseal.ports.backend import (
    Backend,
    BackendTraits,
    BlockingBackend,
    BlockingLeasingBackend,
    BlockingRangedBackend,
    LeasingBackend,
    RangedBackend,
    WatchedBackend,
)
from anyseal.ports.events import (
    AuditEvent,
    AuditHook,
    CacheEvent,
    MetricsHook,
    TimingEvent,
)
from anyseal.ports.hierarchy import (
    KeyRecord,
    Kms,
    Metastore,
    MetastoreAdmin,
)
from anyseal.ports.keyring import (
    Keyring,
    LocalKeyring,
    NamingKeyring,
    current_key,
    named_key,
    resolve_partition,
)
from anyseal.ports.storage import (
    AppendSink,
    BlockingSink,
    BlockingSource,
    Ends,
    Progress,
    Sink,
    Source,
)

__all__ = [
    "AppendSink",
    "AuditEvent",
    "AuditHook",
    "Backend",
    "BackendTraits",
    "BlockingBackend",
    "BlockingLeasingBackend",
    "BlockingRangedBackend",
    "BlockingSink",
    "BlockingSource",
    "CacheEvent",
    "Ends",
    "KeyRecord",
    "Keyring",
    "Kms",
    "LeasingBackend",
    "LocalKeyring",
    "Metastore",
    "MetastoreAdmin",
    "MetricsHook",
    "NamingKeyring",
    "Progress",
    "RangedBackend",
    "Sink",
    "Source",
    "TimingEvent",
    "WatchedBackend",
    "current_key",
    "named_key",
    "resolve_partition",
]
