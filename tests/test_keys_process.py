"""Keys and the process: memory limits, exit, fork. Each test runs a fresh interpreter."""

from __future__ import annotations

import sys
import textwrap

import pytest

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


FORKS = """
    import ctypes, os, platform, signal, sys
    import anyseal
    from anyseal import MemorySink, WriterStateError, sync
    from anyseal._ffi import lib, process_number
    from anyseal.keys import Slot
    from anyseal.objects.chunks import SegmentKey, seal_run

    libc = ctypes.PyDLL(None, use_errno=True)  # keeps the GIL

    def clone():
        # As programs do that run no handlers: neither Python's nor the C library's.
        number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
        return libc.syscall(number, int(signal.SIGCHLD), 0, 0, 0, 0)

    def namespace():
        if libc.unshare(0x20000000):  # CLONE_NEWPID
            print("may not unshare:", os.strerror(ctypes.get_errno()))
            sys.exit()
        return os.fork()

    def wait():
        _, status = os.wait()
        return os.waitstatus_to_exitcode(status)
"""


def refused_in_a_fork(how: str) -> list[str]:
    """What a process said whose child, made by *how*, tries to go on sealing for it."""
    code = f"""
    how = {how!r}
    fork = {{"fork": os.fork, "clone": clone, "namespace": namespace}}[how]
    if how == "namespace" and namespace():  # process 1 of its namespace forks another one
        sys.exit(wait())
    writer = sync.ObjectWriter(MemorySink(), anyseal.Key.generate())
    writer.write(bytes(3 << 20))
    segment = SegmentKey(Slot.random(), anyseal.Suite.AEGIS256, 4096)
    lease, number, pid = segment.lease(0, 1), process_number(), os.getpid()
    reading, writing = os.pipe()
    if fork() == 0:
        said = [number != process_number(), os.getpid() == pid or how != "namespace"]
        for again in (
            lambda: writer.write(bytes(3 << 20)),
            lambda: seal_run(segment, lease, 0, bytes(10), memoryview(bytearray(42))),
            lambda: segment.lease(1, 1),
        ):
            try:
                again()
                said.append("sealed")
            except WriterStateError:
                said.append("refused")
        os.write(writing, repr(said).encode())
        os._exit(0)
    assert wait() == 0
    writer.write(bytes(3 << 20))
    seal_run(segment, lease, 0, bytes(10), memoryview(bytearray(42)))
    writer.finish()
    print(os.read(reading, 999).decode(), number == process_number())
    """
    return said(run_python(textwrap.dedent(FORKS) + textwrap.dedent(code)))


@pytest.mark.skipif(sys.platform != "linux", reason="raw clone() and namespaces are Linux's")
@pytest.mark.parametrize("how", ["fork", "clone", "namespace"])
def test_fork_is_noticed_however_it_is_made(how: str) -> None:
    """Parent and child would seal different bytes under one key and nonce. A pid tells nothing:
    each is the first process of its PID namespace."""
    found = refused_in_a_fork(how)
    if found[0].startswith("may not unshare"):
        pytest.skip(found[0])
    assert ["[True, True, 'refused', 'refused', 'refused'] True"] == found


def test_subinterpreter_is_refused_at_import() -> None:
    """Its end would wipe the keys of the whole process."""
    code = """
        import sys
        import anyseal
        from anyseal import sync
        key = anyseal.Key.generate()
        inner = '''
        try:
            import anyseal
            print("imported")
        except ImportError as error:
            print("main interpreter" in str(error) or "does not support loading" in str(error))
        '''
        import textwrap
        try:
            import _xxsubinterpreters as interpreters
        except ImportError:
            import _interpreters as interpreters
        if sys.version_info >= (3, 13):
            number = interpreters.create("legacy")
        else:
            number = interpreters.create(isolated=False)
        interpreters.run_string(number, textwrap.dedent(inner))
        interpreters.destroy(number)
        print(sync.open(sync.seal(b"data", key), key).decode())
    """
    assert ["True", "data"] == said(run_python(code))
