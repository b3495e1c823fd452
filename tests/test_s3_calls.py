"""The S3 calls by themselves: how long they are patient, and what their errors say."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from botocore.exceptions import ClientError

from anyseal import SourceError
from anyseal.s3.calls import Calls


class Busy:
    """A client of a server that says SlowDown until the clock is at *until* seconds."""

    meta = None

    def __init__(self, until: float) -> None:
        self.until = until
        self.asked: list[float] = []

    async def delete_object(self, **parameters: Any) -> dict[str, Any]:
        self.asked.append(trio.current_time())
        if trio.current_time() < self.until:
            raise ClientError({"Error": {"Code": "SlowDown"}}, "DeleteObject")
        return {}


def ask(client: Busy, **settings: Any) -> None:
    """One call, on a clock that does not wait."""

    async def main() -> None:
        client.until += trio.current_time()
        client.asked.append(trio.current_time())
        await Calls(client, "bucket", **settings).delete("k")

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_calls_outlast_a_restart() -> None:
    """A server that restarts, or is too busy, for ten seconds fails no upload of an hour."""
    client = Busy(until=10)
    ask(client)
    assert len(client.asked) > 4


def test_calls_give_up_in_the_end() -> None:
    """After about as long as AWS's own clients; the first attempts follow fast."""
    client = Busy(until=1000)
    with pytest.raises(SourceError):
        ask(client)
    began, first, *others, last = client.asked
    assert began == first
    assert 10 < last - began < 15
    assert others[0] - began < 0.4


def test_calls_give_up_as_soon_as_they_are_told() -> None:
    """With few attempts an outage shows soon."""
    client = Busy(until=1000)
    with pytest.raises(SourceError):
        ask(client, attempts=2)
    assert client.asked[-1] - client.asked[0] < 0.4
