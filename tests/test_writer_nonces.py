"""Chunk numbers and forks: no key and nonce ever meet twice, whatever Python code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from anyseal import (
    Key,
    KeyUseError,
    Suite,
    WriterStateError,
)
from anyseal.objects.sealer import Sealer
from support import (
    C,
    S,
    names,
    outcome,
    pattern,
    run_python,
    said,
)

DATA = pattern(5 * S + 100)


@pytest.fixture
def sealing(key: Key, suite: Suite) -> Sealer:
    """A sealer under each suite."""
    return Sealer(key, context=b"", suite=suite, chunk_bytes=C, segment_bytes=S)


def test_piece_is_sealed_only_once(sealing: Sealer) -> None:
    """The rule is kept in C, below anything that Python code could get wrong."""
    piece = sealing.take(S)
    out = memoryview(bytearray(piece.run.length))
    piece.seal(piece.run, DATA[:S], out)
    first = bytes(out)
    with pytest.raises(WriterStateError):
        piece.seal(piece.run, DATA[S : 2 * S], out)
    assert first == out


def test_piece_is_sealed_in_order(sealing: Sealer) -> None:
    """Steps out of order would leave numbers that look unspent."""
    piece = sealing.take(S)
    one, two = piece.steps(C)
    with pytest.raises(WriterStateError):
        piece.seal(two, DATA[:C], memoryview(bytearray(two.length)))
    piece.seal(one, DATA[:C], memoryview(bytearray(one.length)))
    piece.seal(two, DATA[:C], memoryview(bytearray(two.length)))
    other = sealing.take(C)
    with pytest.raises(WriterStateError):  # more than was leased
        other.seal(sealing.geometry.run(2 * S, S), DATA[:S], memoryview(bytearray(2 * S)))


def test_piece_after_the_last_chunk_is_refused(sealing: Sealer) -> None:
    """A short chunk ends the object."""
    sealing.take(100)
    with pytest.raises(WriterStateError, match="last chunk"):
        sealing.take(100)


def test_sealer_ended_has_no_keys(sealing: Sealer) -> None:
    """Whatever still holds it."""
    sealing.end("over")
    for call in (lambda: sealing.take(1), sealing.trailer, lambda: list(sealing.feed(b"x"))):
        with pytest.raises(WriterStateError, match="over"):
            call()
    assert "KeyUseError" == outcome(sealing._keys.trailer, b"", 0)
    with pytest.raises(KeyUseError):
        sealing._keys.segment_key(0, bytes(16))


def test_writer_forked_goes_on_in_the_parent_only() -> None:
    """Both would seal under the same key and numbers; the child can do everything else."""
    code = """
        import os
        import anyseal
        from anyseal import sync
        from support import SMALL, a_key, open_by_range, outcome, pattern, seal_bytes
        key, data = a_key(), pattern(100_000)
        before = seal_bytes(b"before", key)
        for suite in anyseal.available_suites():
            sink = anyseal.MemorySink()
            writer = sync.ObjectWriter(sink, key, suite=suite, **SMALL)
            writer.write(data * 20)
            piece = writer._sealer.take(4096)
            child = os.fork()
            if child == 0:
                found = [outcome(writer.write, b"child"), outcome(writer.finish)]
                out = memoryview(bytearray(piece.run.length))
                found.append(outcome(piece.seal, piece.run, data[:4096], out))
                good = found == ["WriterStateError"] * 3 and not any(out[16:])
                good = good and open_by_range(before, key) == b"before"
                good = good and open_by_range(seal_bytes(data, key), key) == data
                os._exit(0 if good else 1)
            print(os.waitpid(child, 0)[1])
            out = memoryview(bytearray(piece.run.length))
            piece.seal(piece.run, data[:4096], out)
            print(any(out[16:]))
        writer = sync.ObjectWriter(sink, key, **SMALL)
        writer.write(data)
        if os.fork() == 0:
            os._exit(0 if outcome(writer.write, data) == "WriterStateError" else 1)
        status = os.wait()[1]
        writer.write(data)
        writer.finish()
        print(status, open_by_range(sink.getvalue(), key) == data * 2)
    """
    assert ["0", "True"] * 3 + ["0 True"] == said(run_python(code))


def test_writer_forked_leaves_the_file_to_the_parent(tmp_path: Path) -> None:
    """A child that ends must not remove, rename or finish what its parent writes."""
    code = """
        import os, sys
        from anyseal import FileSink, sync
        from support import a_key, outcome, pattern
        data = pattern(100_000)
        with sync.ObjectWriter(FileSink(sys.argv[1]), a_key()) as writer:
            writer.write(data)
            if os.fork() == 0:
                outcome(writer.finish)
                writer.close()
                os._exit(0)
            os.wait()
            writer.write(data)
        with sync.ObjectReader.open(sync.FileSource(sys.argv[1]), a_key()) as reader:
            print(reader.read_range(0) == data * 2)
    """
    assert ["True"] == said(run_python(code, str(tmp_path / "out")))
    assert ["out"] == names(tmp_path)


def test_values_after_fork_have_their_own_nonces() -> None:
    """Parent and child seal at the same moment from the same state."""
    code = """
        import os
        from anyseal import sync
        from support import a_key, seal_bytes
        key = a_key()
        reading, writing = os.pipe()
        def sample():
            values = [sync.seal(b"x", key)[28:52].hex() for _ in range(20)]
            values += [seal_bytes(b"x", key)[20:52].hex() for _ in range(20)]
            os.write(writing, (" ".join(values) + " ").encode())
        for _ in range(3):
            if os.fork() == 0:
                sample()
                os._exit(0)
        sample()
        for _ in range(3):
            os.wait()
        found = os.read(reading, 1 << 16).decode().split()
        print(len(found), len(set(found)))
    """
    assert ["160 160"] == said(run_python(code))
