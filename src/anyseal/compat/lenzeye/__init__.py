"""Lenzeye's encryption service: its functions, its layouts, and uploads by any number of workers.

::

    from anyseal.compat import lenzeye

    lenzeye.set_user_key_table(lenzeye.SqlUserKeyTable("postgresql+psycopg://..."))
    key, version = lenzeye.get_or_create_user_key(user)
    token = lenzeye.create_upload_token(key, iv, part_size)

The functions have Lenzeye's names and are blocking, as they are there; each that may take long has
a twin whose name ends in ``_async``. ``MASTER_KEY`` in the environment holds the master key.

What differs on purpose:

* No state in the process: parts are uploaded by any worker, in any order. Each has a MAC of its
  own, which its receipt carries; the object's MAC covers them (:class:`LenzeyeBucket`).
* Errors are anyseal's and those of ``cryptography`` at once (``InvalidSignature``, ``InvalidTag``).
* :func:`decrypt_file_stream` yields before it has verified, as HMAC-first streams demand. It is the
  one function of anyseal that does; ``verify=True`` does not.

The layouts are described with the functions: tokens and wrapped keys in ``master``, files in
``streams``, parts in ``receipts``, metadata in ``layout``. New code should use sealed objects, to
which :func:`migrate_object` leads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature, InvalidTag

from anyseal.compat.lenzeye.ctr import (
    decrypt_multipart_chunk,
    decrypt_multipart_chunk_async,
    encrypt_multipart_chunk,
    encrypt_multipart_chunk_async,
)
from anyseal.compat.lenzeye.errors import InvalidSignatureError, InvalidTagError
from anyseal.compat.lenzeye.keys import (
    get_or_create_user_key,
    get_or_create_user_key_async,
    get_user_key,
    get_user_key_async,
    rotate_user_key,
    rotate_user_key_async,
    set_user_key_table,
)
from anyseal.compat.lenzeye.layout import Form, Layout, LenzeyeMetadata
from anyseal.compat.lenzeye.master import (
    create_upload_token,
    decrypt_upload_token,
    get_master_key,
    has_master_key,
)
from anyseal.compat.lenzeye.streams import decrypt_file_stream, encrypt_file_stream
from anyseal.compat.lenzeye.streams_async import (
    decrypt_file_stream_async,
    encrypt_file_stream_async,
)
from anyseal.compat.lenzeye.tables import MemoryUserKeyTable, UserKeyRow, UserKeyTable

if TYPE_CHECKING:
    from anyseal.compat.lenzeye.blocking import BlockingLenzeyeBucket
    from anyseal.compat.lenzeye.bucket import LenzeyeBucket, LenzeyeObject, LenzeyeUpload
    from anyseal.compat.lenzeye.migrate import migrate_object, open_lenzeye_object
    from anyseal.compat.lenzeye.reader import LenzeyeReader
    from anyseal.compat.lenzeye.sql import SqlUserKeyTable

__all__ = [
    "BlockingLenzeyeBucket",
    "Form",
    "InvalidSignature",
    "InvalidSignatureError",
    "InvalidTag",
    "InvalidTagError",
    "Layout",
    "LenzeyeBucket",
    "LenzeyeMetadata",
    "LenzeyeObject",
    "LenzeyeReader",
    "LenzeyeUpload",
    "MemoryUserKeyTable",
    "SqlUserKeyTable",
    "UserKeyRow",
    "UserKeyTable",
    "create_upload_token",
    "decrypt_file_stream",
    "decrypt_file_stream_async",
    "decrypt_multipart_chunk",
    "decrypt_multipart_chunk_async",
    "decrypt_upload_token",
    "encrypt_file_stream",
    "encrypt_file_stream_async",
    "encrypt_multipart_chunk",
    "encrypt_multipart_chunk_async",
    "get_master_key",
    "get_or_create_user_key",
    "get_or_create_user_key_async",
    "get_user_key",
    "get_user_key_async",
    "has_master_key",
    "migrate_object",
    "open_lenzeye_object",
    "rotate_user_key",
    "rotate_user_key_async",
    "set_user_key_table",
]

# These need an extra: imported when they are asked for.
_LATER = {
    "BlockingLenzeyeBucket": "blocking",
    "LenzeyeBucket": "bucket",
    "LenzeyeObject": "bucket",
    "LenzeyeReader": "reader",
    "LenzeyeUpload": "bucket",
    "SqlUserKeyTable": "sql",
    "migrate_object": "migrate",
    "open_lenzeye_object": "migrate",
}

if not TYPE_CHECKING:  # nor does `import *` ask for them
    __all__ = [name for name in __all__ if name not in _LATER]


if not TYPE_CHECKING:  # for it, a name that is not there is an error

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
