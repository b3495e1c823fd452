"""Sealed objects in S3 buckets (extra ``aws``)."""
