"""A process that uses keys which only its parent knows: ``test_keys_residue.py`` reads its memory.

Standard input brings each use's secret bytes when it is their turn. Each use has a thread, and so a
stack, of its own, which stays until the parent has looked. What the parent needs to find the keys
that were derived from the secret is printed; none of it is secret.
"""

from __future__ import annotations

import json
import os
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from anyseal import (
    Key,
    KeyHierarchy,
    MemorySink,
    MemorySource,
    PassphraseKeyring,
    StaticKeyring,
    Suite,
    sync,
)
from anyseal._ffi import lib, view_writable
from anyseal.cache import MemoryBackend  # noqa: F401 - imported before any secret is there
from anyseal.keys import Slot
from anyseal.kms import StaticKms
from anyseal.metastore import MemoryMetastore
from anyseal.record.key_records import unwrap_key, wrap_key
from anyseal.record.opening import open_row
from anyseal.record.row_key import RowKey
from anyseal.record.sealing import seal_row
from anyseal.value import open_token, open_under, seal_under, unwrap, wrap

SMALL, LARGE = b"a small plaintext", b"a large plaintext " * 4096
Use = tuple[list[str], Callable[[], object]]
"""What the parent is told, and what wipes the keys."""


def secret(size: int = 32) -> bytearray:
    """The next secret of standard input, read into memory that is wiped afterwards."""
    out = bytearray(size)
    assert os.readv(0, [out]) == size
    return out


def wipe(data: bytearray) -> None:
    lib.anyseal_wipe(view_writable(data), len(data))


def next_key() -> Key:
    data = secret()
    key = Key.from_bytes(data)
    wipe(data)
    return key


def values(suite: Suite) -> Use:
    key, told = next_key(), []
    for data in (SMALL, LARGE):
        sealed = sync.seal(data, key, suite=suite, context=b"context")
        assert data == sync.open(sealed, key, context=b"context")
        told.append(sealed[:52].hex())
        buffer = bytearray(len(sealed))
        sync.seal_into(buffer, data, key, suite=suite)
        back = bytearray(len(data))
        sync.open_into(back, buffer, key)
        assert data == back
        told.append(buffer[:52].hex())
    return told, key.wipe


def tokens(suite: Suite) -> Use:
    key = next_key()
    sealed = seal_under(SMALL, key, suite=suite, expires_at=4e9, kind=2)
    assert open_token(sealed, key) == open_under(sealed, key, kind=2) == SMALL
    return [sealed[:52].hex()], key.wipe


def wrapped_keys(suite: Suite) -> Use:
    key, data_key = next_key(), Slot.random()
    wrapped = wrap(data_key, key, suite, b"salt")
    again = unwrap(wrapped, key, suite, b"salt")

    def end() -> None:
        for each in (data_key, again, key._slot):
            each.release()
        key.wipe()

    return [wrapped.hex()], end


def objects(suite: Suite) -> Use:
    key, sink = next_key(), MemorySink()
    with sync.ObjectWriter(sink, key, suite=suite) as writer:
        writer.write(LARGE * 4)
    sealed = sink.getvalue()
    with sync.ObjectReader.open(MemorySource(sealed), key) as reader:
        assert LARGE == reader.read_range(0, len(LARGE))
    return [sealed[:400].hex()], key.wipe


def rows() -> Use:
    data = secret()
    slot = Slot(lib.anyseal_key_import(view_writable(data)))
    wipe(data)
    row_key, told = RowKey(slot, "_IK_a_b_c", 1_700_000_000), []
    for data in (SMALL, LARGE):
        row = seal_row(data, row_key)
        assert data == open_row(row, row_key)
        told.append(json.loads(row)["Key"]["Key"])
    inner = Slot.random()
    wrapped = wrap_key(inner, slot)
    unwrap_key(wrapped, slot).release()
    inner.release()
    return [*told, wrapped.hex()], slot.release


def cache_entries() -> Use:
    key = next_key()
    cache = sync.Cache(sync.MemoryBackend(), key)
    cache.set("name", {"a": 1})
    assert cache.get("name") == {"a": 1}
    cache.delete("name")
    cache.close()
    return [], key.wipe


def partitions() -> Use:
    key = next_key()
    keyring = StaticKeyring(key)
    sealed = sync.seal(SMALL, keyring, partition="tenant")
    assert SMALL == sync.open(sealed, keyring, partition="tenant")

    def end() -> None:
        for each in (*keyring._keys("tenant"), key):
            each.wipe()

    return [sealed[:52].hex()], end


def passphrases() -> Use:
    data = secret(48)
    given = bytes(data)
    keyring = PassphraseKeyring(given, memory_log2_kib=3, passes=1)
    lib.anyseal_wipe(given, len(given))  # the caller's own copy
    wipe(data)
    sealed = sync.seal(SMALL, keyring, partition="tenant")
    assert SMALL == sync.open(sealed, keyring, partition="tenant")
    return [sealed[:52].hex()], keyring.wipe


def passphrases_as_text() -> Use:
    data = secret(48)
    text = data.decode()
    wipe(data)
    keyring = PassphraseKeyring(text, memory_log2_kib=3, passes=1)
    lib.anyseal_wipe(lib.anyseal_text(id(text)), len(text))  # the caller's own copy
    sealed = sync.seal(SMALL, keyring, partition="tenant")
    return [sealed[:52].hex()], keyring.wipe


def hierarchies() -> Use:
    key, metastore = next_key(), MemoryMetastore()
    hierarchy = KeyHierarchy(StaticKms(key), metastore, service="s", product="p")
    factory = sync.SessionFactory(hierarchy)
    with factory.session("tenant") as session:
        row = session.encrypt(SMALL)
        assert SMALL == session.decrypt(row)
    records = sorted(
        (record for versions in metastore._rows.values() for record in versions.values()),
        key=lambda record: record.parent_id is not None,
    )
    told = [record.key.hex() for record in records]

    def end() -> None:
        factory.close()
        key.wipe()

    return told, end


def left_behind() -> Use:
    """A copy outside the arena, so that the parent knows that it would see one."""
    kept = secret()
    return [], kept.hex


USES: dict[str, Callable[[], Use]] = {
    **{f"values-{suite.name}": partial(values, suite) for suite in Suite},
    **{f"tokens-{suite.name}": partial(tokens, suite) for suite in Suite},
    **{f"wrapped-{suite.name}": partial(wrapped_keys, suite) for suite in Suite},
    **{f"objects-{suite.name}": partial(objects, suite) for suite in Suite},
    "rows": rows,
    "cache": cache_entries,
    "partitions": partitions,
    "passphrases": passphrases,
    "text": passphrases_as_text,
    "hierarchies": hierarchies,
    "left behind": left_behind,
}


def main() -> None:
    """Use every secret; wait while the keys live, and after they are wiped."""
    wiping, over = threading.Event(), threading.Event()
    threads = []

    def run(use: Callable[[], Use], result: list[Any], ready: threading.Event) -> None:
        try:
            told, end = use()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        result += told
        ready.set()
        wiping.wait()
        end()
        over.wait()

    told: dict[str, list[str]] = {}
    for name, use in USES.items():
        ready = threading.Event()
        told[name] = []
        thread = threading.Thread(target=run, args=(use, told[name], ready), daemon=True)
        thread.start()
        ready.wait()
        threads.append(thread)
    print(json.dumps(told), flush=True)
    os.read(0, 1)
    wiping.set()
    for thread in threads:
        thread.join(0.02)
    print("wiped", flush=True)
    os.read(0, 1)
    over.set()


if __name__ == "__main__":
    main()
