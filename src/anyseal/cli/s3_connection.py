"""What the S3 commands work with: places, connections, keys, and an event loop that signals end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio
import typer

from anyseal.cli import keys, lifecycle
from anyseal.cli.options import (
    Context,
    KeyFile,
    Partition,
    Passphrase,
    checked_context,
    checked_partition,
)
from anyseal.cli.process import CliError, Stopped, signals, with_remedy
from anyseal.errors import (
    AnysealError,
    ConfigurationError,
    ObjectNotFoundError,
    PreconditionFailedError,
    SourceError,
    WrongKeyError,
)
from anyseal.keys import Key
from anyseal.ports import Keyring

if TYPE_CHECKING:  # needs an extra
    from anyseal.s3 import SealedBucket
    from anyseal.s3.calls import Calls

__all__ = ["S3", "Connection", "KeyOptions", "KeySource", "Place", "about_place"]

T = TypeVar("T")

CONNECTIONS = 32
"""Connections at least: heads and tails are asked for beside the data."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

REASONS = {
    "NoCredentialsError": "no AWS credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or name a --profile",
    "PartialCredentialsError": "the AWS credentials are not complete",
    "NoRegionError": "no region: use --region, or set AWS_REGION",
    "EndpointConnectionError": "S3 cannot be reached: is --endpoint-url right?",
    "SSLError": "S3 cannot be reached by TLS: is --endpoint-url right, or http:// meant?",
}
"""What a person can do about an error before S3 has answered."""

REFUSALS = {
    "AccessDenied": "these AWS credentials do not have the right",
    "ExpiredToken": "the AWS credentials have expired",
    "InvalidAccessKeyId": "S3 does not know these AWS credentials",
    "InvalidBucketName": "no bucket can have this name",
    "SignatureDoesNotMatch": "the secret of the AWS credentials is wrong",
}
"""What S3's own words mean to a person."""


@dataclass(frozen=True, slots=True)
class Place:
    """``s3://bucket/key``: an object; or with an empty key, or as a prefix, many."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read *text*. Raises CliError."""
        match = re.fullmatch(r"s3://([^/\s?#]+)(?:/(.*))?", text, re.DOTALL)
        if match is None:
            raise CliError(f"{text!r} is not a place in S3: s3://bucket/key is")
        key = match[2] or ""
        try:
            length = len(key.encode())
        except UnicodeEncodeError:
            raise CliError(f"{text!r}: a key is text in UTF-8") from None
        if length > 1024:
            raise CliError("an object's key has at most 1,024 bytes")
        return cls(match[1], key)

    @classmethod
    def of_object(cls, text: str) -> Place:
        """Read *text*, which names one object. Raises CliError."""
        place = cls.parse(text)
        if not place.key:
            raise CliError(f"{text} is a bucket: name an object in it, s3://{place.bucket}/key")
        return place

    def receiving(self, name: str) -> Place:
        """Where something of this *name* goes: below a place that ends in a slash or is a bucket.

        Raises:
            CliError: It goes below, and has no name to go by.
        """
        if self.key and not self.key.endswith("/"):
            return self
        last = name.rpartition("/")[2]
        if not last:
            raise CliError(f"{self} is no object's name: add one to it")
        return Place(self.bucket, self.key + last)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def _code(text: str) -> tuple[str, str]:
    """Where an error happened and S3's word for it, without what else the message says."""
    match = re.fullmatch(r"(.*): (\w+)(?: \([^()]*\))?", text, re.DOTALL)
    return (match[1], match[2]) if match else (text, "")


@contextlib.contextmanager
def about_place(place: Place) -> Iterator[None]:
    """Say which object an error is about, in the words of the command line."""
    try:
        yield
    except ObjectNotFoundError:
        raise CliError(f"{place}: no such object", 1) from None
    except PreconditionFailedError:
        raise CliError(f"{place} was changed by someone else meanwhile", 1) from None
    except (ConfigurationError, SourceError) as exc:
        where, code = _code(str(exc))
        if code == "NoSuchBucket":  # of a copy, it may be that of the other end
            bucket = where.partition(" ")[2].partition("/")[0] or place.bucket
            raise CliError(f"s3://{bucket}: no such bucket", 1) from None
        if code in REFUSALS:
            raise CliError(f"{place}: {REFUSALS[code]} ({code})", 1) from None
        raise  # about S3, and it says so
    except WrongKeyError as exc:
        raise CliError(f"{place}: {with_remedy(exc)}", 1) from None
    except AnysealError as exc:
        raise CliError(f"{place}: {exc}", 1) from None
    except ValueError as exc:  # such as an object that is too large for S3
        raise CliError(f"{place}: {exc}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where keys come from, and what is authenticated with the objects."""

    key_file: KeyFile = None
    passphrase: Passphrase = False
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Keys of the hierarchy of these settings (JSON, or *.toml); see anyseal keys.",
        ),
    ] = None
    context: Context = ""
    bind_location: Annotated[
        bool,
        typer.Option(
            "--bind-location", help="Bucket and key are authenticated too: opening needs it."
        ),
    ] = False

    def keyring(
        self, *, sealing: bool = False
    ) -> Callable[[], contextlib.AbstractAsyncContextManager[Keyring]]:
        """What opens the keyring in an event loop; a passphrase is asked for now.

        Raises:
            CliError: No key is named, or two kinds are.
            ConfigurationError: A key is malformed.
        """
        if self.config is not None:
            if self.key_file or self.passphrase:
                raise CliError("--config excludes --key-file and --passphrase")
            return lifecycle.Hierarchy.of(self.config).settings.hierarchy
        found = keys.find_keyring(self.key_file, self.passphrase, sealing=sealing)

        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[Keyring]:
            yield found

        return opened


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions(KeySource):
    """Whose keys, and where they come from."""

    partition: Partition = "default"

    @property
    def where(self) -> dict[str, Any]:
        """Partition and context, for the calls of a sealed bucket. Raises CliError."""
        return {
            "partition": checked_partition(self.partition),
            "context": checked_context(self.context),
        }


@dataclass(frozen=True, slots=True)
class S3:
    """An open connection."""

    client: Any
    concurrency: int
    attempts: int

    def calls(self, bucket: str) -> Calls:
        """The S3 calls on a bucket."""
        from anyseal.s3.calls import Calls

        return Calls(self.client, bucket, attempts=self.attempts)

    def bucket(
        self,
        bucket: str,
        keyring: Keyring | None = None,
        *,
        kind: type[SealedBucket] | None = None,
        **options: Any,
    ) -> SealedBucket:
        """A sealed bucket; without a keyring for the calls that need no key: then with one that
        opens nothing."""
        from anyseal.s3 import SealedBucket

        keys = Key.generate() if keyring is None else keyring
        options |= {"concurrency": self.concurrency, "attempts": self.attempts}
        return (kind or SealedBucket)(self.client, bucket, keys, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Which S3, and how many requests at the same time. Credentials are where AWS has them."""

    endpoint_url: Annotated[
        str | None,
        typer.Option(
            "--endpoint-url", metavar="URL", help="Another S3 than AWS's; or AWS_ENDPOINT_URL."
        ),
    ] = None
    region: Annotated[
        str | None, typer.Option("--region", metavar="NAME", help="Default: AWS's configuration.")
    ] = None
    profile: Annotated[
        str | None,
        typer.Option("--profile", metavar="NAME", help="Of AWS's configuration and credentials."),
    ] = None
    concurrency: Annotated[
        int,
        typer.Option("--concurrency", metavar="N", min=1, max=256, help="Requests at a time."),
    ] = 4
    attempts: Annotated[
        int,
        typer.Option(
            "--attempts",
            metavar="N",
            min=1,
            max=100,
            envvar="AWS_MAX_ATTEMPTS",
            show_envvar=False,
            help="Of each request; or AWS_MAX_ATTEMPTS.",
        ),
    ] = 8

    def run(self, job: Callable[[S3], Awaitable[T]]) -> T:
        """Do *job* in an event loop of its own. A signal cancels it, and it cleans up.

        Raises:
            Stopped: A signal came.
            CliError: S3 cannot be used at all.
        """
        if self.endpoint_url is not None and not re.match("https?://.", self.endpoint_url):
            raise CliError("--endpoint-url begins with http:// or https://")
        from anyseal.s3 import connect

        async def work() -> T:
            async with connect(
                endpoint_url=self.endpoint_url,
                region=self.region,
                profile=self.profile,
                concurrency=max(CONNECTIONS, 2 * self.concurrency),
            ) as client:
                return await job(S3(client, self.concurrency, self.attempts))

        try:
            return anyio.run(_until_signal, work)
        except (ConfigurationError, SourceError) as exc:
            reason = REASONS.get(type(exc.__cause__).__name__)
            if reason is None:
                raise
            raise CliError(reason, 1 if "reached" in reason else 2) from None
        finally:
            signals.install()  # the event loop has let go of them


async def _until_signal(work: Callable[[], Awaitable[T]]) -> T:
    """Do *work*. A signal cancels it, and is raised when it has cleaned up; a second one ends all.

    Cleaning up is a matter of requests, which S3 may never answer.
    """
    wanted = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    results: list[T] = []
    errors: list[Exception] = []
    came: list[int] = []

    async def watch() -> None:
        async for number in received:
            if came:
                os._exit(128 + number)
            came.append(int(number))
            scope.cancel()

    with anyio.open_signal_receiver(*wanted) as received:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                group.start_soon(watch)
                try:
                    results.append(await work())
                except Exception as exc:
                    errors.append(exc)
            group.cancel_scope.cancel()
    if came:
        raise Stopped(came[0])
    if errors:
        raise errors[0]
    return results[0]
