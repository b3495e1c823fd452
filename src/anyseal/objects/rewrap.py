"""Wrap the data key of an object anew: the header changes, no other byte. Pure: no I/O."""

from __future__ import annotations

from dataclasses import replace

from anyseal.keys import Key
from anyseal.objects.format import Header
from anyseal.suites import suite_named
from anyseal.value import unwrap, wrap

__all__ = ["rewrap_header"]


def rewrap_header(header: Header, old: Key, new: Key) -> Header:
    """*header* with its data key under *new* instead of *old*.

    It has the same length, so nothing in the object moves. The context is not needed, and not
    checked: who opens the object does that. Copies of the old header still open with *old*.

    Raises:
        SuiteUnavailableError: This machine lacks the object's suite.
        WrongKeyError: The data key is not under *old*.
        DecryptionError: It does not verify.

    Source: docs/format.md, section 4.1, rule 6.
    """
    suite_named(header.suite)
    data_key = unwrap(header.wrapped_key, old, header.suite, header.object_salt)
    try:
        wrapped = wrap(data_key, new, header.suite, header.object_salt)
    finally:
        data_key.release()
    return replace(header, wrapped_key=wrapped)
