"""SealedBucket: sealed objects in an S3 bucket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self

from anyseal.keys import Key
from anyseal.ports import Keyring
from anyseal.s3.connect import connect
from anyseal.s3.download import DownloadCalls
from anyseal.s3.manage import ManageCalls
from anyseal.s3.put import PutCalls
from anyseal.s3.rewrap import RewrapCalls
from anyseal.s3.uploads import UploadCalls

__all__ = ["SealedBucket"]


class SealedBucket(DownloadCalls, PutCalls, UploadCalls, ManageCalls, RewrapCalls):
    """Sealed objects in an S3 bucket: what is stored there is sealed before it leaves the process.

    Several tasks may use one at the same time. See :class:`~anyseal.s3.base.BucketBase` for the
    arguments; :func:`connect` makes a client that is set up the right way. The client stays its
    owner's: nothing here needs closing. :meth:`connect` makes both in one step.
    """

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
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
    ) -> AsyncIterator[Self]:
        """A bucket with a client of its own, open for the ``async with`` block.

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

        Raises:
            ConfigurationError: A setting is missing or contradicts another.
        """
        async with connect(
            endpoint_url=endpoint_url,
            region=region,
            access_key=access_key,
            secret_key=secret_key,
            session_token=session_token,
            profile=profile,
            concurrency=connections,
            timeout=timeout,
        ) as client:
            yield cls(client, bucket, keyring, **settings)
