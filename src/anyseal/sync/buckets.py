"""Sealed objects in S3 buckets without ``await``.

The client lives in the one event loop that the sync side shares. It is made when first needed, and
anew in a forked child: a parent may make a bucket at import, and its workers use it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Self, TypeAlias

from anyseal import s3
from anyseal._ffi import process_number
from anyseal.hints import use_with, wrong_type
from anyseal.keys import Key
from anyseal.ports import Keyring
from anyseal.s3.base import ClientToCome
from anyseal.sync.bucket_calls import BucketCalls
from anyseal.sync.calling import await_

__all__ = ["SealedBucket"]

Client: TypeAlias = Callable[[], AbstractAsyncContextManager[Any]]


class _Connection:
    """A client in the shared event loop of this process."""

    def __init__(self, context: AbstractAsyncContextManager[Any], client: Any) -> None:
        self.client = client
        self._context = context
        self._process = process_number()

    def close(self) -> None:
        """Close it, where it was made."""
        if self._process == process_number():
            await_(self._context.__aexit__, None, None, None)


# Connections of a parent stay here in its children: were they collected, they would meddle with
# sockets that both processes hold.
_open: set[_Connection] = set()
_live: weakref.WeakSet[SealedBucket] = weakref.WeakSet()


def _close_all() -> None:
    for connection in list(_open):
        with contextlib.suppress(Exception):
            connection.close()


def _renew_all() -> None:
    for bucket in list(_live):
        bucket._renew()


os.register_at_fork(after_in_child=_renew_all)


async def _entered(client: Client) -> tuple[AbstractAsyncContextManager[Any], Any]:
    context = client()
    return context, await context.__aenter__()


class SealedBucket(BucketCalls):
    """:class:`anyseal.s3.SealedBucket` without ``await``, with a client of its own.

    Mostly made by :meth:`connect`. Any thread may use it, and a forked child too. Close it when it
    is no longer used, or use it as a context manager; else it is closed at exit.

    Args:
        client: A function that makes an async context manager of an aiobotocore S3 client, such
            as ``lambda: anyseal.s3.connect(region="eu-west-1")``. Called in the event loop that
            the sync side shares, when the client is first needed, and anew in a forked child.
        bucket: The bucket's name.
        keyring: A Key, or a Keyring; then each call takes ``partition=``.
        settings: As for the async bucket: ``suite``, ``chunk_size``, ``part_size``,
            ``concurrency``, ``bind_location``, ``attempts``.

    Raises:
        ConfigurationError: As for the async bucket.
    """

    def __init__(
        self, client: Client, bucket: str, keyring: Key | Keyring, **settings: Any
    ) -> None:
        if not callable(client):
            remedy = "SealedBucket.connect(bucket, keyring) needs none"
            raise wrong_type("client", "a function such as anyseal.s3.connect", client, remedy)
        self._client = client
        self._name = bucket
        self._keyring = keyring
        self._settings = settings
        self._closed = False
        self._made(ClientToCome())  # wrong settings are told now
        self._renew()
        _live.add(self)

    def _made(self, client: Any) -> s3.SealedBucket:
        return s3.SealedBucket(client, self._name, self._keyring, **self._settings)

    @classmethod
    def connect(
        cls,
        bucket: str,
        keyring: Key | Keyring,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        profile: str | None = None,
        connections: int = 32,
        timeout: float = 60.0,
        **settings: Any,
    ) -> Self:
        """A bucket whose client :func:`anyseal.s3.connect` sets up.

        Nothing is connected before the first call, or before a ``with`` block begins.

        Args:
            bucket: The bucket's name.
            keyring: A Key, or a Keyring; then each call takes ``partition=``.
            endpoint_url: Instead of AWS; then with the bucket's name in the path. Default: what
                the AWS configuration says.
            region: Default: what the AWS configuration says.
            access_key: With *secret_key*: credentials. Default: AWS's usual places.
            secret_key: See *access_key*.
            session_token: Of temporary credentials.
            profile: A profile of the shared configuration.
            connections: Connections at the same time.
            timeout: Seconds to connect, and to wait for the next bytes.
            settings: See the class.
        """
        client = partial(
            s3.connect,
            endpoint_url=endpoint_url,
            region=region,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            profile=profile,
            concurrency=connections,
            timeout=timeout,
        )
        return cls(client, bucket, keyring, **settings)

    def _renew(self) -> None:
        """Begin without a client, and with a lock that nobody holds."""
        self._lock = threading.Lock()
        self._connected: tuple[_Connection, s3.SealedBucket] | None = None

    @property
    def _bucket(self) -> s3.SealedBucket:
        """The async bucket over this process's client."""
        connected = self._connected
        if connected is None:
            with self._lock:
                if self._closed:
                    raise ValueError("the bucket is closed")
                connected = self._connected
                if connected is None:
                    connection = _Connection(*await_(_entered, self._client))
                    _open.add(connection)
                    atexit.unregister(_close_all)  # the last registered is called first:
                    atexit.register(_close_all)  # while the event loop still runs
                    connected = self._connected = connection, self._made(connection.client)
        return connected[1]

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._name

    def close(self) -> None:
        """Close the client; no call may be under way. Idempotent."""
        with self._lock:
            self._closed = True
            connected, self._connected = self._connected, None
            if connected is not None:
                connected[0].close()
                _open.discard(connected[0])

    __aenter__ = use_with

    def __enter__(self) -> Self:
        _ = self._bucket
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
