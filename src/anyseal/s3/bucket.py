"""SealedBucket: sealed objects in an S3 bucket."""

from __future__ import annotations

from anyseal.s3.download import DownloadCalls
from anyseal.s3.manage import ManageCalls

__all__ = ["SealedBucket"]


# What writes stands beside what reads: ``PutCalls`` of s3/put.py, ``UploadCalls`` of s3/uploads.py.
class SealedBucket(DownloadCalls, ManageCalls):
    """Sealed objects in an S3 bucket: what is stored there is sealed before it leaves the process.

    Several tasks may use one at the same time. See :class:`~anyseal.s3.base.BucketBase` for the
    arguments; :func:`connect` makes a client that is set up the right way. The client stays its
    owner's: nothing here needs closing.
    """
