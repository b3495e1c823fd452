"""Driving a cache's generators without ``await``: each call counted by the breaker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from anyseal import offload
from anyseal.cache.base import CacheBase
from anyseal.cache.driving import SCAN_BATCH
from anyseal.cache.entry import LOCK
from anyseal.cache.needs import Flow, Need
from anyseal.errors import BackendError, KmsError, MetastoreError
from anyseal.ports import BlockingBackend, LocalKeyring

__all__ = ["BlockingDriver"]

T = TypeVar("T")


class BlockingDriver(CacheBase[BlockingBackend]):
    """A cache's parts, and what meets their needs."""

    def _answer(self, need: Need) -> Any:
        if not need.keyring:
            call = getattr(self._backend, need.method)
            return self._guarded(call, *need.args, **need.options)
        local = getattr(self._keyring, f"{need.method}_local", None)
        if local is not None and isinstance(self._keyring, LocalKeyring):
            return local(*need.args)
        try:
            return offload.wait(getattr(self._keyring, need.method), *need.args)
        except (KmsError, MetastoreError) as exc:
            raise self._no_keys(exc) from exc

    def _guarded(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """One call of the backend, counted by the breaker."""
        probe = self._breaker.enter()
        try:
            result = call(*args, **options)
        except (BackendError, OSError) as exc:
            error = exc if isinstance(exc, BackendError) else BackendError(type(exc).__name__)
            self._observer.failed(error)
            self._breaker.failed(error, probe)
            raise error from (None if error is exc else exc)
        except BaseException:
            self._breaker.left(probe)
            raise
        self._breaker.succeeded(probe)
        return result

    def _drive(self, flow: Flow[T]) -> T:
        """Run *flow* to its end."""
        try:
            need = next(flow)
            while True:
                try:
                    answer = self._answer(need)
                except Exception as exc:
                    need = flow.throw(exc)
                else:
                    need = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def _sweep(self, prefixes: Iterable[str]) -> int:
        """Delete all names that begin with one of *prefixes*; how many.

        First the leases: a scan may miss what is stored under one that still holds. Each step of
        the scan is a call of the backend like others.
        """
        if self.policy.lease is not None:
            self._swept(prefixes, "}" + LOCK)
        return self._swept(prefixes)

    def _swept(self, prefixes: Iterable[str], suffix: str = "") -> int:
        """Delete the names that begin with one of *prefixes* and end with *suffix*; how many."""
        deleted = 0
        for prefix in dict.fromkeys(prefixes):
            pages = iter(self._backend.scan(prefix))
            try:
                while (page := self._guarded(next, pages, None)) is not None:
                    names = [name for name in page if name.endswith(suffix)]
                    for at in range(0, len(names), SCAN_BATCH):
                        batch = names[at : at + SCAN_BATCH]
                        deleted += self._guarded(self._backend.delete_many, batch)
            finally:  # also of a scan that broke off: it may hold a connection
                if hasattr(pages, "close"):
                    pages.close()
        return deleted
