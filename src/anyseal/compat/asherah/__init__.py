"""The Python interface of ``asherah``: existing code runs with one changed line.

::

    import anyseal.compat.asherah as asherah

Both of its generations are here: the functions of the module, ``SessionFactory`` and ``Session``
of 0.4 and later, and ``Asherah`` with ``AsherahConfig`` of 0.1 to 0.3. Records and key stores are
the same, in both directions. Where the behaviour differs on purpose:

* An unknown setting is a warning (:class:`CompatWarning`), not silence.
* An empty partition is refused everywhere, and a closed session or factory stays closed.
* Errors are classes (:mod:`anyseal.compat.asherah.exceptions`), all of them ``RuntimeError``,
  ``AsherahException`` and the anyseal error of the same meaning at once.
* Decryption never needs a writable metastore, and a key whose system key was revoked seals no more.

New code should use :class:`anyseal.SessionFactory` or :class:`anyseal.sync.SessionFactory`.
"""

from __future__ import annotations

from anyseal.compat.asherah import exceptions, types
from anyseal.compat.asherah.asherah import Asherah
from anyseal.compat.asherah.exceptions import AsherahException, CompatWarning
from anyseal.compat.asherah.hooks import (
    CacheEvent,
    LogEvent,
    TimingEvent,
    set_log_hook,
    set_log_hook_sync,
    set_metrics_hook,
    set_metrics_hook_sync,
)
from anyseal.compat.asherah.module import (
    decrypt_bytes,
    decrypt_bytes_async,
    decrypt_string,
    decrypt_string_async,
    encrypt_bytes,
    encrypt_bytes_async,
    encrypt_string,
    encrypt_string_async,
    get_setup_status,
    setenv,
    setup,
    setup_async,
    shutdown,
    shutdown_async,
    version,
)
from anyseal.compat.asherah.sessions import Session, SessionFactory
from anyseal.compat.asherah.types import AsherahConfig

__all__ = [
    "Asherah",
    "AsherahConfig",
    "AsherahException",
    "CacheEvent",
    "CompatWarning",
    "LogEvent",
    "Session",
    "SessionFactory",
    "TimingEvent",
    "decrypt_bytes",
    "decrypt_bytes_async",
    "decrypt_string",
    "decrypt_string_async",
    "encrypt_bytes",
    "encrypt_bytes_async",
    "encrypt_string",
    "encrypt_string_async",
    "exceptions",
    "get_setup_status",
    "set_log_hook",
    "set_log_hook_sync",
    "set_metrics_hook",
    "set_metrics_hook_sync",
    "setenv",
    "setup",
    "setup_async",
    "shutdown",
    "shutdown_async",
    "types",
    "version",
]
