"""Driving a cache's generators by ``await``: each call within its time, counted by the breaker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import anyio

from anyseal.cache.base import CacheBase
from anyseal.cache.entry import LOCK
from anyseal.cache.needs import Flow, Need
from anyseal.cache.options import check_backend
from anyseal.errors import BackendError, KmsError, MetastoreError
from anyseal.ports import Backend

__all__ = ["SCAN_BATCH", "Driver"]

T = TypeVar("T")

SCAN_BATCH = 1000
"""Names that are deleted in one call."""


class Driver(CacheBase[Backend]):
    """A cache's parts, and what meets their needs."""

    def _check_backend(self, backend: Any) -> None:
        check_backend(backend, waits=True)

    def _assemble(self) -> None:
        self._timeout = None if self._traits.enforces_timeout else self.policy.timeout

    async def _answer(self, need: Need) -> Any:
        if need.keyring:
            try:
                return await getattr(self._keyring, need.method)(*need.args)
            except (KmsError, MetastoreError) as exc:
                raise self._no_keys(exc) from exc
        call = getattr(self._backend, need.method)
        return await self._guarded(call, *need.args, **need.options)

    async def _guarded(self, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> T:
        """One call of the backend, within its time, counted by the breaker."""
        probe = self._breaker.enter()
        try:
            if self._timeout is None:
                result = await call(*args, **options)
            else:
                with anyio.fail_after(self._timeout):
                    result = await call(*args, **options)
        except (BackendError, TimeoutError, OSError) as exc:
            error = exc if isinstance(exc, BackendError) else BackendError(said(exc))
            self._observer.failed(error)
            self._breaker.failed(error, probe)
            raise error from (None if error is exc else exc)
        except BaseException:
            self._breaker.left(probe)
            raise
        self._breaker.succeeded(probe)
        return result

    async def _drive(self, flow: Flow[T]) -> T:
        """Run *flow* to its end."""
        try:
            need = next(flow)
            while True:
                try:
                    answer = await self._answer(need)
                except Exception as exc:
                    need = flow.throw(exc)
                else:
                    need = flow.send(answer)
        except StopIteration as stop:
            result: T = stop.value
            return result

    async def _sweep(self, prefixes: Iterable[str]) -> int:
        """Delete all names that begin with one of *prefixes*; how many.

        First the leases: a scan may miss what is stored under one that still holds. Each step of
        the scan is a call of the backend like others.
        """
        if self.policy.lease is not None:
            await self._swept(prefixes, "}" + LOCK)
        return await self._swept(prefixes)

    async def _swept(self, prefixes: Iterable[str], suffix: str = "") -> int:
        """Delete the names that begin with one of *prefixes* and end with *suffix*; how many."""
        deleted = 0
        for prefix in dict.fromkeys(prefixes):
            pages = aiter(self._backend.scan(prefix))
            try:
                while (page := await self._guarded(anext, pages, None)) is not None:
                    names = [name for name in page if name.endswith(suffix)]
                    for at in range(0, len(names), SCAN_BATCH):
                        batch = names[at : at + SCAN_BATCH]
                        deleted += await self._guarded(self._backend.delete_many, batch)
            finally:
                await self._close(pages)
        return deleted

    async def _close(self, pages: Any) -> None:
        """End a scan, also one that broke off: it may hold a connection."""
        if hasattr(pages, "aclose"):
            with anyio.move_on_after(self.policy.timeout, shield=True):
                await pages.aclose()


def said(error: BaseException) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
