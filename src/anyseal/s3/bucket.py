"""SealedBucket: sealed objects in an S3 bucket."""

from __future__ import annotations

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
    owner's: nothing here needs closing.
    """
