"""Names of entries and tags: what is one partition's must not meet what is another's."""

from __future__ import annotations

import os

import pytest

from anyseal import Key, StaticKeyring
from anyseal.cache import Cache, MemoryBackend
from anyseal.cache.entry import RAW, Entry, PartitionNames, check_key
from anyseal.cache.local import LocalLayer

NAME_KEY = Key.from_bytes(bytes(range(32)))
MASTER = bytes(range(32, 64))


class NoScan(MemoryBackend):
    """A backend that cannot list names, such as memcached."""

    can_scan = False


def names(partition: str, *, namespace: str = "n", plain: bool = False) -> PartitionNames:
    return PartitionNames(namespace, partition, "msgpack", [NAME_KEY], plain)


@pytest.mark.anyio
async def test_tags_of_partitions_with_one_name_key_do_not_meet() -> None:
    """Else one tenant's write ends what another one's entries hang on, and counts as tampering."""
    cache = Cache(MemoryBackend(), StaticKeyring(MASTER), name_key=NAME_KEY)
    await cache.set("key", 1, tags=["tag"], partition="a")
    await cache.set("key", 2, tags=["tag"], partition="b")
    assert 1 == await cache.get("key", partition="a")
    await cache.delete_tag("tag", partition="b")
    assert 1 == await cache.get("key", partition="a")
    assert None is await cache.get("key", partition="b")
    assert 0 == cache.stats().tampered == cache.stats().wrong_key


@pytest.mark.anyio
async def test_clear_without_scan_under_one_name_key_leaves_other_partitions() -> None:
    """There a partition is cleared by a tag: it must be that partition's own."""
    cache = Cache(NoScan(), Key.from_bytes(MASTER))
    await cache.set("key", 1, partition="a")
    await cache.set("key", 2, partition="b")
    await cache.clear(partition="b")
    assert 1 == await cache.get("key", partition="a")
    assert None is await cache.get("key", partition="b")


def test_names_under_one_key_tell_nothing_of_equal_keys() -> None:
    """The backend must not learn that two partitions, or namespaces, have the same key."""
    key = check_key("user:7")
    ends = {
        each.names(key)[0].rsplit(":", 1)[1]
        for each in (names("a"), names("b"), names("a", namespace="m"))
    }
    assert 3 == len(ends)
    assert 3 == len({each.tags("t")[0] for each in (names("a"), names("b"), names("ab"))})


def test_plain_names_are_no_other_keys_hash() -> None:
    """Else whoever chooses keys takes the place of an entry whose hash can be seen."""
    plain = names("a", plain=True)
    (hashed,) = plain.names(check_key(b"not text"))
    inner = hashed[hashed.index("{") + 1 : hashed.index("}")]
    assert [hashed] != plain.names(check_key(inner))
    long = names("x" * 100, plain=True)
    prefix = long.prefixes[0].split(":")[1]
    assert long.prefixes != names(prefix, plain=True).prefixes


def test_entry_repr_shows_no_plaintext() -> None:
    """Tracebacks and error trackers show the repr of what they find."""
    shown = repr(Entry(RAW, b"the secret", sealed=b"sealed"))
    assert "secret" not in shown
    assert "sealed" not in shown


def test_forked_child_begins_without_copies() -> None:
    """Nobody watches the backend for it yet: it would serve what others have deleted since."""
    layer = LocalLayer(1 << 20, 30.0)
    layer.put(("p", b"k"), "name", b"sealed", None, layer.version("name"))
    pid = os.fork()
    if not pid:
        os._exit(0 if layer.get(("p", b"k")) is None and layer.size == (0, 0) else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert layer.get(("p", b"k")) is not None


def test_local_layer_keeps_several_entries_of_one_name() -> None:
    """Tenants may share a name in the backend: when it changes, all of their copies go."""
    layer = LocalLayer(1 << 20, 30.0)
    for tenant in (b"a", b"b", b"a"):
        layer.put(("p", tenant), "name", b"sealed", None, layer.version("name"))
    layer.put(("p", b"c"), "other", b"sealed", None, layer.version("other"))
    layer.drop(("p", b"a"))
    assert [None, True] == [layer.get(("p", key)) and True for key in (b"a", b"b")]
    layer.put(("p", b"a"), "name", b"sealed", None, layer.version("name"))
    layer.drop_names(["name"])
    assert (1, True) == (layer.size[0], layer.get(("p", b"c")) is not None)
    layer.drop_names(["other"])
    assert ((0, 0), {}) == (layer.size, layer._by_name)
