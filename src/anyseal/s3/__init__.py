"""Sealed objects in S3 buckets (extra ``aws``)."""

from anyseal.objects.parts import PartPlan, PartRange
from anyseal.s3.bucket import SealedBucket
from anyseal.s3.calls import Listed
from anyseal.s3.completion import CompletedUpload
from anyseal.s3.connect import connect
from anyseal.s3.manage import ObjectStat
from anyseal.s3.put import PutResult
from anyseal.s3.rewrap import RewrapResult
from anyseal.s3.source import S3Source

__all__ = [
    "CompletedUpload",
    "Listed",
    "ObjectStat",
    "PartPlan",
    "PartRange",
    "PutResult",
    "RewrapResult",
    "S3Source",
    "SealedBucket",
    "connect",
]
