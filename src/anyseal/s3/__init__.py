"""Sealed objects in S3 buckets (extra ``aws``)."""

from anyseal.s3.bucket import SealedBucket
from anyseal.s3.calls import Listed
from anyseal.s3.connect import connect
from anyseal.s3.manage import ObjectStat
from anyseal.s3.put import PutResult
from anyseal.s3.source import S3Source

__all__ = ["Listed", "ObjectStat", "PutResult", "S3Source", "SealedBucket", "connect"]
