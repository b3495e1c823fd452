"""Things that belong to one event loop."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from anyseal.loops import PerLoop
from support import run_python, said


@pytest.mark.anyio
async def test_per_loop_makes_one_for_each_loop_and_forgets_what_was_taken() -> None:
    """A client of another loop, or one that was closed, must not be used."""
    made: PerLoop[list[int]] = PerLoop(list)
    here = made.get()
    assert here is made.get()
    assert await anyio.to_thread.run_sync(lambda: asyncio.run(_get(made))) is not here
    assert here is made.get()
    assert here is made.take()
    assert made.take() is None
    assert made.get() is not here


async def _get(made: PerLoop[list[int]]) -> list[int]:
    return made.get()


def test_per_loop_is_renewed_in_a_forked_child() -> None:
    """Sockets that are the parent's must be neither used nor closed."""
    code = """
        import asyncio, os
        from anyseal import loops
        class Client:
            def __del__(self):
                print(os.getpid() != parent, "closed", flush=True)
        parent = os.getpid()
        made = loops.PerLoop(Client)
        async def main():
            return id(made.get())
        loop = asyncio.new_event_loop()
        before = loop.run_until_complete(main())
        child = os.fork()
        if not child:
            assert asyncio.new_event_loop().run_until_complete(main()) != before
            assert len(loops._inherited) == 1
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        loop.close()
        asyncio.run(main())
    """
    assert ["0", "False closed", "False closed"] == said(run_python(code))
