"""What is said about calls that are tried again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stamina
from botocore.exceptions import ClientError

from anyseal.errors import AnysealError, SourceError
from anyseal.kms import AwsKms, SecretsManagerKms, TokenAuth, VaultTransitKms
from anyseal.retries import retried
from anyseal.s3.calls import Calls
from kms_servers import Stub
from support import run_python, said

pytest_plugins = ["kms_servers"]
pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_pauses", "aws_environment")]


class BusyS3:
    """A client of a bucket that is too busy."""

    meta = None

    async def delete_object(self, **_: Any) -> None:
        raise ClientError({"Error": {"Code": "SlowDown"}}, "DeleteObject")


def aws(url: str) -> Any:
    return AwsKms("k", preferred_region="us-east-1", endpoint_url=url, attempts=3)


def secrets(url: str) -> Any:
    return SecretsManagerKms("s", region="us-east-1", endpoint_url=url, attempts=3)


def vault(url: str) -> Any:
    return VaultTransitKms(url, "k", auth=TokenAuth("t"), attempts=3)


async def s3(url: str) -> None:
    await Calls(BusyS3(), "bucket", attempts=3).delete("k")


def wraps(make: Callable[[str], Any]) -> Callable[[str], Awaitable[object]]:
    async def wrap(url: str) -> None:
        async with make(url) as kms:
            await kms.wrap(bytearray(32))

    return wrap


PATHS = {"s3": s3, "kms": wraps(aws), "secretsmanager": wraps(secrets), "vault": wraps(vault)}


@pytest.mark.parametrize("path", PATHS)
async def test_retries_are_logged_as_ours(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """Which call failed, and how; an operator cannot look for "stamina.retry_scheduled"."""
    with Stub(lambda asked: (503, {})) as stub, pytest.raises(AnysealError):
        await PATHS[path](stub.url)
    told = [record for record in caplog.records if "attempt" in record.getMessage()]
    assert ["anyseal.retries"] * 2 == [record.name for record in told]
    assert [] == [record for record in caplog.records if record.name == "stamina"]
    for number, record in enumerate(told, 2):
        assert record.getMessage().startswith(f"attempt {number} of 3: ")
        assert logging.WARNING == record.levelno


async def test_retries_of_the_program_are_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Also inside a call of ours, such as those of a metastore of the user's."""
    left = [ValueError(), ValueError()]

    @stamina.retry(on=ValueError, attempts=2)
    async def theirs() -> None:
        if left:
            raise left.pop()

    async def ours() -> None:
        if len(left) == 2:
            left.pop()
            raise SourceError("ours")
        await theirs()

    await retried(ours, 3)
    await theirs()
    names = [record.name for record in caplog.records]
    assert ["anyseal.retries", "stamina"] == names


@pytest.mark.parametrize("structlog", [False, True])
def test_retries_write_nothing_where_no_logging_is_set_up(structlog: bool) -> None:
    """A bare line is noise to a program, and breaks what parses its output: where structlog is
    installed, stamina's lines went to standard output, into what `anyseal s3 cat` writes."""
    ran = run_python(f"""
        import sys, types
        def get_logger(name):
            return types.SimpleNamespace(warning=lambda text, **more: print(text))
        theirs = types.SimpleNamespace(get_logger=get_logger)
        sys.modules["structlog"] = theirs if {structlog} else None
        import anyio, stamina
        from anyseal.errors import SourceError
        from anyseal.retries import retried
        stamina.set_testing(True, attempts=3)
        async def fails():
            raise SourceError("busy")
        async def main():
            try:
                await retried(fails, 3)
            except SourceError:
                pass
        anyio.run(main)
        if {structlog}:
            @stamina.retry(on=ValueError, attempts=2)
            def theirs():
                raise ValueError
            try:
                theirs()
            except ValueError:
                print("theirs")
    """)
    assert ["stamina.retry_scheduled"] * 2 * structlog + ["theirs"] * structlog == said(ran)
