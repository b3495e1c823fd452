"""Keys and the process: memory limits, exit, fork. Each test runs a fresh interpreter."""

from __future__ import annotations

from support import (
    run_python,
    said,
)


def test_key_beyond_memlock_warns_once() -> None:
    """Keys that could reach swap deserve a warning, but not one for each of them."""
    code = """
        import os, resource, warnings
        import anyseal, anyseal.sync  # while the folder can still be read
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        if os.getuid() == 0:  # the limit does not bind root
            os.setgid(65534)
            os.setuid(65534)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            keys = [anyseal.Key.generate() for _ in range(3000)]
            print(anyseal.sync.open(anyseal.sync.seal(b"works", keys[-1]), keys[-1]).decode())
        print(len(caught), caught[0].category.__name__, "RLIMIT_MEMLOCK" in str(caught[0].message))
    """
    assert ["works", "1 RuntimeWarning True"] == said(run_python(code))


def test_key_is_wiped_at_exit() -> None:
    """What runs later in the exit of the interpreter finds no keys."""
    code = """
        import atexit
        def check():
            try:
                anyseal.sync.seal(b"", key)
            except anyseal.KeyUseError:
                print("wiped", lib.anyseal_arena_live())
        atexit.register(check)
        import anyseal
        from anyseal._ffi import lib
        key = anyseal.Key.generate()
        anyseal.sync.seal(b"", key)
    """
    assert ["wiped 0"] == said(run_python(code))


def test_key_works_in_a_forked_child() -> None:
    """Pre-forking servers load their keys first. Wiping in the child leaves the parent's alone."""
    code = """
        import os, anyseal
        from anyseal import sync
        key = anyseal.Key.from_hex("c0ffee" * 10 + "2468")
        sealed = sync.seal(b"before", key)
        reading, writing = os.pipe()
        if os.fork() == 0:
            assert sync.open(sealed, key) == b"before"
            fresh = anyseal.Key.generate()
            os.write(writing, sync.seal(b"from the child", key))
            key.wipe()
            fresh.wipe()
            try:
                sync.seal(b"", key)
            except anyseal.KeyUseError:
                os._exit(0)
            os._exit(1)
        _, status = os.wait()
        print(status, sync.open(os.read(reading, 999), key).decode(), sync.open(sealed, key))
    """
    assert ["0 from the child b'before'"] == said(run_python(code))


def test_key_generation_in_forked_children_differs() -> None:
    """Randomness of the process before the fork must not be used twice after it."""
    code = """
        import os, anyseal
        from anyseal import sync
        key = anyseal.Key.generate()
        sync.seal(b"", key)
        reading, writing = os.pipe()
        for _ in range(4):
            if os.fork() == 0:
                fresh = anyseal.Key.generate()
                line = fresh.id + " " + sync.seal(b"", key)[28:52].hex() + chr(10)
                os.write(writing, line.encode())
                os._exit(0)
        for _ in range(4):
            os.wait()
        line = anyseal.Key.generate().id + " " + sync.seal(b"", key)[28:52].hex()
        os.write(writing, line.encode())
        ids, nonces = zip(*(line.split() for line in os.read(reading, 9999).decode().splitlines()))
        print(len(set(ids)), len(set(nonces)))
    """
    assert ["5 5"] == said(run_python(code))
