"""Hooks that see what is logged and measured, as plain dictionaries."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypedDict

from anyseal import ports
from anyseal.errors import one_line
from anyseal.keyring.hierarchy import KeyHierarchy

__all__ = [
    "CacheEvent",
    "LogEvent",
    "TimingEvent",
    "be_verbose",
    "set_log_hook",
    "set_log_hook_sync",
    "set_metrics_hook",
    "set_metrics_hook_sync",
    "watch",
]

_log = logging.getLogger("anyseal.compat.asherah")
_top = logging.getLogger("anyseal")


class LogEvent(TypedDict):
    """What a log hook is called with."""

    level: str
    """``trace``, ``debug``, ``info``, ``warn`` or ``error``."""
    message: str
    target: str
    """The logger: ``anyseal.`` and a module."""


class TimingEvent(TypedDict):
    """What a metrics hook is called with after an operation."""

    type: str
    """``encrypt``, ``decrypt``, ``store`` or ``load``."""
    duration_ns: int


class CacheEvent(TypedDict):
    """What a metrics hook is called with after a look into a cache."""

    type: str
    """``cache_hit``, ``cache_miss`` or ``cache_stale``."""
    name: str
    """``session``, ``intermediate-key`` or ``system-key``."""


_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warn"), (logging.INFO, "info"))


def _level(number: int) -> str:
    for least, name in _LEVELS:
        if number >= least:
            return name
    return "debug" if number >= logging.DEBUG else "trace"


class _Callback:
    """A hook that may raise: its first error is logged, all are kept from the caller."""

    def __init__(self, kind: str, call: Callable[[Any], object]) -> None:
        self._kind = kind
        self._call = call
        self._failed = False

    def __call__(self, event: Any) -> None:
        try:
            self._call(event)
        except Exception as exc:
            if not self._failed:
                self._failed = True
                _log.warning(
                    "the %s hook raised %s; said once", one_line(self._kind), type(exc).__name__
                )


class _Handler(logging.Handler):
    """Hands log records to a hook; not those that the hook itself causes."""

    def __init__(self, callback: _Callback) -> None:
        super().__init__()
        self._callback = callback
        self._inside = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Call the hook with one record."""
        if getattr(self._inside, "now", False):
            return
        self._inside.now = True
        try:
            self._callback(_event_of(record))
        finally:
            self._inside.now = False

    def handle(self, record: logging.LogRecord) -> bool:
        """The base class's, without its lock: a hook may take its time, and may log."""
        passed = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)


def _event_of(record: logging.LogRecord) -> LogEvent:
    return {
        "level": _level(record.levelno),
        "message": record.getMessage(),
        "target": record.name,
    }


_lock = threading.Lock()
_hierarchies: weakref.WeakSet[KeyHierarchy] = weakref.WeakSet()
_metrics: _Callback | None = None
_handler: _Handler | None = None
_level_before: int | None = None
_verbose = False


def _measured(event: ports.TimingEvent | ports.CacheEvent, /) -> None:
    callback = _metrics
    if callback is None:
        return
    if isinstance(event, ports.TimingEvent):
        callback({"type": event.operation, "duration_ns": event.duration_ns})
    else:
        callback({"type": f"cache_{event.outcome}", "name": event.cache})


def watch(hierarchy: KeyHierarchy) -> None:
    """Let the metrics hook, now or later, see what *hierarchy* does."""
    with _lock:
        _hierarchies.add(hierarchy)
        hierarchy.metrics = None if _metrics is None else _measured


def be_verbose() -> None:
    """Let the log hook see details, too."""
    global _verbose
    with _lock:
        _verbose = True
        if _handler is not None:
            _open_up()


def _open_up() -> None:
    """Let the ``anyseal`` loggers pass what the hook is to see, if nobody said what they pass."""
    global _level_before
    if _level_before is None:
        _level_before = _top.level
    if _level_before == logging.NOTSET:
        _top.setLevel(logging.DEBUG if _verbose else logging.INFO)


def _check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(f"a hook must be callable or None, not {type(callback).__name__}")


def set_log_hook(callback: Callable[[LogEvent], object] | None = None) -> None:
    """Call *callback* with each log event of anyseal; None ends that.

    It is called in the thread that logs. What it raises is logged once. While a hook is set, the
    logger ``anyseal`` lets INFO pass, and DEBUG with ``Verbose``, unless its level was set before.

    Raises:
        TypeError: Not callable.
    """
    global _handler, _level_before
    _check_callback(callback)
    with _lock:
        if _handler is not None:
            _top.removeHandler(_handler)
            _handler = None
        if callback is not None:
            _handler = _Handler(_Callback("log", callback))
            _top.addHandler(_handler)
            _open_up()
        elif _level_before is not None:
            if _level_before == logging.NOTSET:
                _top.setLevel(logging.NOTSET)
            _level_before = None


def set_metrics_hook(callback: Callable[[Any], object] | None = None) -> None:
    """Call *callback* with each :class:`TimingEvent` and :class:`CacheEvent`; None ends that.

    It sees all factories, those that exist already included. It is called in the thread that did
    the work. What it raises is logged once.

    Raises:
        TypeError: Not callable.

    Cost: nothing while none is set.
    """
    global _metrics
    _check_callback(callback)
    with _lock:
        _metrics = None if callback is None else _Callback("metrics", callback)
        for hierarchy in list(_hierarchies):
            hierarchy.metrics = None if _metrics is None else _measured


set_log_hook_sync = set_log_hook
set_metrics_hook_sync = set_metrics_hook
