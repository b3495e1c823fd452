"""``anyseal s3`` against a real S3 server, in processes of its own."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anyseal import KeyHierarchy, MemorySource, StaticKeyring, offload, sync
from anyseal.compat import lenzeye
from anyseal.kms.static import StaticKms
from anyseal.metastore.sql import SqlMetastore
from s3_proxy import S3Proxy
from shell import KEY, TIMEOUT, Forks, Shell
from storage_servers import ACCESS_KEY, SECRET_KEY, SeaweedFS
from support import pattern

pytest_plugins = ["server_fixtures"]

MIB = 1 << 20
DATA = pattern(MIB) * 12
LENZEYE_MASTER = "5a" * 32
LONG = "a=" + "x" * 2048


class Bucket:
    """A shell beside a bucket."""

    def __init__(self, shell: Shell, server: SeaweedFS, name: str) -> None:
        self.shell, self.name, self.url = shell, name, f"s3://{name}"
        self.client = server.client()
        self.env = {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for one in self.names():
            self.client.delete_object(Bucket=name, Key=one)

    def ok(self, *args: str, **options: Any) -> bytes:
        env = self.env | options.pop("env", {})
        return self.shell.ok("s3", *args, env=env, **options)

    def keyed(self, *args: str, **options: Any) -> bytes:
        return self.ok(*args, "-k", "key", **options)

    def fails(self, code: int, message: str, *args: str, **options: Any) -> None:
        env = self.env | options.pop("env", {})
        self.shell.fails(code, message, "s3", *args, env=env, **options)

    def names(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [one["Key"] for one in found]

    def uploads(self) -> list[Any]:
        return self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])

    def raw(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def put_raw(self, key: str, body: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=body, **options)

    def open(self, key: str, partition: str = "default", **options: Any) -> bytes:
        """An object's plaintext, through the API."""
        source = MemorySource(self.raw(key))
        options = {"partition": partition} | options
        with sync.ObjectReader.open(source, StaticKeyring(KEY), **options) as reader:
            return reader.read_range(0)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    server = Forks("anyseal.compat.lenzeye.bucket", "anyseal.compat.lenzeye.sql", "s3_warm")
    yield server
    server.close()


@pytest.fixture(scope="module")
def bucket_name(weed_server: SeaweedFS) -> str:
    return weed_server.new_bucket()


@pytest.fixture
def bucket(shell: Shell, weed_server: SeaweedFS, bucket_name: str) -> Bucket:
    """An empty bucket."""
    return Bucket(shell, weed_server, bucket_name)


@pytest.fixture
def proxy(weed_server: SeaweedFS) -> Iterator[S3Proxy]:
    with S3Proxy(weed_server.url) as found:
        yield found


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- put, get, cat ----


@pytest.mark.parametrize("size", [0, 1, 12 * MIB])
def test_put_and_get_files(bucket: Bucket, size: int) -> None:
    """A file goes up and comes back, small and in parts, under its own name, silently."""
    bucket.shell.path("f").write_bytes(DATA[:size])
    assert b"" == bucket.keyed("put", "f", f"{bucket.url}/a/", "--part-size", "5M")
    assert DATA[:size] == bucket.open("a/f")
    assert DATA[:1000] not in bucket.raw("a/f") or not size
    bucket.shell.path("f").unlink()
    assert b"" == bucket.keyed("get", f"{bucket.url}/a/f", "--concurrency", "2")
    assert DATA[:size] == bucket.shell.path("f").read_bytes()
    assert {"f"} == bucket.shell.names()


def test_put_get_and_cat_pipes(bucket: Bucket) -> None:
    """Of unknown length in, and out again from any place; context and partition count."""
    bucket.keyed("put", "-", f"{bucket.url}/p", "--context", "c", "--partition", "u", input=DATA)
    assert DATA == bucket.open("p", "u", context=b"c")
    whose = ("--context", "c", "--partition", "u")
    assert DATA == bucket.keyed("get", f"{bucket.url}/p", "-", *whose)
    for wanted, expected in {
        "5-9": DATA[5:9],
        "12582900-": DATA[12582900:],
        "-7": DATA[-7:],
        "99999999-": b"",
    }.items():
        assert expected == bucket.keyed("cat", f"{bucket.url}/p", "--range", wanted, *whose)
    bucket.fails(1, "p: .*does not verify", "cat", f"{bucket.url}/p", "-k", "key", *whose[2:])
    bucket.fails(1, "p: .*key id is unknown", "cat", f"{bucket.url}/p", "-k", "key")


def test_nothing_is_replaced_without_force(bucket: Bucket) -> None:
    """As for files: neither in the bucket nor on the disk."""
    bucket.shell.path("f").write_bytes(b"old")
    bucket.keyed("put", "f", f"{bucket.url}/f", "--metadata", "who=me", "--content-type", "text/x")
    bucket.shell.path("f").write_bytes(b"new")
    bucket.fails(2, "s3://.*/f exists: --force", "put", "f", f"{bucket.url}/f", "-k", "key")
    bucket.fails(2, "f exists: --force", "get", f"{bucket.url}/f", "-k", "key")
    bucket.keyed("get", f"{bucket.url}/f", "--force")
    assert b"old" == bucket.shell.path("f").read_bytes()
    bucket.keyed("put", "-", f"{bucket.url}/f", "--force", input=b"newer")
    assert b"newer" == bucket.open("f")


def test_keys_of_a_hierarchy(bucket: Bucket) -> None:
    """--config takes the partition's keys from a metastore, as a service does."""
    database = bucket.shell.path("keys.db")
    settings = {
        "ServiceName": "svc", "ProductID": "prod", "Metastore": "sqlite", "KMS": "static",
        "SQLitePath": str(database), "StaticMasterKeyHex": "ab" * 32, "AllowTestingKms": True,
    }  # fmt: skip
    path = bucket.shell.path("keys.json")
    path.write_text(json.dumps(settings))
    path.chmod(0o600)
    whose = ("-c", "keys.json", "--partition", "user-42")
    bucket.ok("put", "-", f"{bucket.url}/h", *whose, input=b"text")
    assert b"text" == bucket.ok("cat", f"{bucket.url}/h", *whose)
    hierarchy = KeyHierarchy(
        StaticKms("ab" * 32), SqlMetastore(f"sqlite:///{database}"), service="svc",
        product="prod", allow_testing_kms=True,
    )  # fmt: skip
    source = MemorySource(bucket.raw("h"))
    with sync.ObjectReader.open(source, hierarchy, partition="user-42") as reader:
        assert b"text" == reader.read_range(0)
    offload.wait(hierarchy.aclose)
    bucket.fails(2, "--config excludes", "cat", f"{bucket.url}/h", *whose, "-k", "key")


def test_bound_location_opens_only_there(bucket: Bucket) -> None:
    """A sealed object that someone puts in another's place does not open."""
    bucket.keyed("put", "-", f"{bucket.url}/b", "--bind-location", input=b"text")
    bucket.ok("cp", f"{bucket.url}/b", f"{bucket.url}/moved")
    assert b"text" == bucket.keyed("cat", f"{bucket.url}/b", "--bind-location")
    command = ("cat", f"{bucket.url}/moved", "--bind-location", "-k", "key")
    bucket.fails(1, "moved: .*does not verify", *command)
    bucket.keyed("cp", "-q", f"{bucket.url}/b", f"{bucket.url}/moved", "--bind-location", "-f")
    assert b"text" == bucket.keyed("cat", f"{bucket.url}/moved", "--bind-location")


# ---- ls, stat, cp, rm ----


def test_ls_and_stat_need_no_key(bucket: Bucket) -> None:
    """Names, and plaintext sizes if asked for; a name cannot command the terminal."""
    bucket.keyed("put", "-", f"{bucket.url}/a/one", input=b"123")
    bucket.put_raw("a/pl\x1b[2Jain", b"12345")
    assert b"no objects\n" == bucket.ok("ls", f"{bucket.url}/none")
    lines = bucket.ok("ls", f"{bucket.url}/a/").decode().splitlines()
    assert ["modified", "sealed", "key"] == lines[0].split()
    assert ["a/one", "a/pl\\x1b[2Jain"] == sorted(line.split()[-1] for line in lines[1:])
    long = bucket.ok("ls", "-l", bucket.url).decode()
    assert "  3  AEGIS256" in long or "  3  XCHACHA" in long
    assert "not sealed" in long

    found = {one["key"]: one for one in json.loads(bucket.ok("ls", "-l", "--json", bucket.url))}
    assert (3, None) == (
        found["a/one"]["plaintext_bytes"],
        found["a/pl\x1b[2Jain"]["plaintext_bytes"],
    )
    stat = json.loads(bucket.ok("stat", f"{bucket.url}/a/one", "--json"))
    assert found["a/one"] | {"metadata": stat["metadata"]} == stat
    assert stat["key_id"] == stat["metadata"]["anyseal-key"]
    shown = bucket.ok("stat", f"{bucket.url}/a/one").decode()
    assert "plaintext bytes  3\n" in shown
    assert shown.endswith("Nothing of this is verified before opening.\n")
    bucket.fails(1, r"pl\\x1b\[2Jain: not a sealed object", "stat", f"{bucket.url}/a/pl\x1b[2Jain")


def test_cp_copies_within_s3(bucket: Bucket) -> None:
    """Without a key, never over another object, with metadata."""
    bucket.keyed("put", "-", f"{bucket.url}/a/one", "--metadata", "who=me", input=b"123")
    shown = bucket.ok("cp", f"{bucket.url}/a/one", f"{bucket.url}/b/")
    assert f"{bucket.url}/a/one: copied to {bucket.url}/b/one\n".encode() == shown
    assert bucket.raw("a/one") == bucket.raw("b/one")
    head = bucket.client.head_object(Bucket=bucket.name, Key="b/one")
    assert "me" == head["Metadata"]["who"]
    bucket.fails(2, "b/one exists", "cp", f"{bucket.url}/a/one", f"{bucket.url}/b/")
    bucket.ok("cp", "-q", "--force", f"{bucket.url}/a/one", f"{bucket.url}/b/")
    bucket.fails(2, "place of the original", "cp", f"{bucket.url}/a/one", f"{bucket.url}/a/")
    bucket.fails(1, "none: no such object", "cp", f"{bucket.url}/none", f"{bucket.url}/b/")


def test_rm_asks_and_deletes_all_or_says_what_is_missing(bucket: Bucket) -> None:
    """A misspelt name among several deletes none of them."""
    for name in ("a/1", "a/2", "b"):
        bucket.put_raw(name, b"x")
    one, two = f"{bucket.url}/a/1", f"{bucket.url}/a/2"
    bucket.fails(2, f"deletes {one}, {two}: no terminal to ask on", "rm", one, two)
    bucket.fails(1, "none: no such object", "rm", "--yes", one, f"{bucket.url}/none")
    bucket.fails(1, "nix: no objects", "rm", "--yes", "-r", f"{bucket.url}/nix")
    assert ["a/1", "a/2", "b"] == bucket.names()
    code, shown = bucket.shell.terminal("s3", "rm", one, answers=("no",), env=bucket.env)
    assert (1, True) == (code, "nothing is changed" in shown)
    assert b"2 objects deleted\n" == bucket.ok("rm", "--yes", "-r", f"{bucket.url}/a/")
    assert ["b"] == bucket.names()


# ---- verify and rewrap ----


def test_verify_tells_what_does_not_verify_and_goes_on(bucket: Bucket) -> None:
    """One damaged object must not hide whether the others are whole."""
    for name in ("v/1", "v/2", "v/3"):
        bucket.keyed("put", "-", f"{bucket.url}/{name}", input=DATA[: 2 * MIB])
    damaged = bytearray(bucket.raw("v/2"))
    damaged[MIB] ^= 1
    bucket.put_raw("v/2", bytes(damaged))
    bucket.put_raw("v/4", b"plain")
    done = bucket.shell.run("s3", "verify", "-r", f"{bucket.url}/v/", "-k", "key", env=bucket.env)
    good = "".join(f"{bucket.url}/v/{n}: verified, 2,097,152 bytes\n" for n in (1, 3))
    assert (1, good) == (done.returncode, done.stdout.decode())
    errors = done.stderr.decode().splitlines()
    assert 2 == len(errors)
    assert f"anyseal: {bucket.url}/v/2: does not verify" == errors[0]
    assert b"" == bucket.keyed("verify", "-q", f"{bucket.url}/v/1", f"{bucket.url}/v/3")


def test_rewrap_moves_objects_to_the_new_key(bucket: Bucket) -> None:
    """After it the old key is not needed any more; doing it again changes nothing."""
    bucket.shell.ok("keygen", "-o", "new")
    bucket.keyed("put", "-", f"{bucket.url}/r", input=b"text")
    rotated = ("-k", "new", "-k", "key")
    assert b"r: rewrapped, key id " in bucket.ok("rewrap", "-r", bucket.url, *rotated)
    assert b"r: was under it before" in bucket.ok("rewrap", f"{bucket.url}/r", *rotated)
    assert b"text" == bucket.ok("cat", f"{bucket.url}/r", "-k", "new")
    bucket.ok("rewrap", "-q", f"{bucket.url}/r", "-k", "new", "--to-partition", "other")
    assert b"text" == bucket.ok("cat", f"{bucket.url}/r", "-k", "new", "--partition", "other")


# ---- what goes wrong ----


@pytest.mark.parametrize(
    ("code", "message", "args", "env"),
    [
        (2, "'bucket/key' is not a place in S3", ("cat", "bucket/key"), {}),
        (2, "is a bucket: name an object", ("cat", "s3://bucket"), {}),
        (2, "at most 1,024 bytes", ("stat", "s3://bucket/" + "x" * 1025), {}),
        (2, "--endpoint-url begins with", ("ls", "s3://b", "--endpoint-url", "host:80"), {}),
        (2, "no AWS credentials", ("ls", "s3://b"), {"AWS_ACCESS_KEY_ID": ""}),
        (1, "the secret of the AWS", ("ls", "s3://b"), {"AWS_SECRET_ACCESS_KEY": "wrong"}),
        (1, "does not know these", ("stat", "s3://b/k"), {"AWS_ACCESS_KEY_ID": "wrong"}),
        (2, "Invalid bucket name", ("ls", "s3://b!"), {}),
        (2, "no S3 client: .*nope", ("ls", "s3://b", "--profile", "nope"), {}),
        (1, "s3://no-bucket: no such bucket", ("ls", "s3://no-bucket"), {}),
        (1, "s3://no-bucket: no such bucket", ("cp", "s3://no-bucket/k", "s3://b/k"), {}),
        (1, "s3://no-bucket: no such bucket", ("rewrap", "s3://no-bucket/k", "-k", "key"), {}),
        (1, "s3://no-bucket: no such bucket", ("rm", "s3://no-bucket/k"), {}),
        (2, "no key: use --key-file", ("cat", "s3://b/k"), {}),
        (2, "--range takes", ("cat", "s3://b/k", "--range", "x"), {}),
        (2, "--part-size is 5M to 4G", ("put", "key", "s3://b/k", "--part-size", "1M"), {}),
        (2, "--metadata takes NAME=VALUE", ("put", "key", "s3://b/k", "--metadata", "x"), {}),
        (2, "printable ASCII", ("put", "key", "s3://b/k", "-k", "key", "--metadata", "a=ä"), {}),
        (2, "longer than 2,048", ("put", "key", "s3://b/k", "-k", "key", "--metadata", LONG), {}),
        (1, "none: No such file", ("put", "none", "s3://b/k"), {}),
        (2, "is a folder", ("put", ".", "s3://b/k"), {}),
        (2, "no object's name", ("put", "-", "s3://b/", "-k", "key"), {}),
        (2, "its name does for no file", ("get", "s3://b/a/..", "-k", "key"), {}),
        (2, "no such folder", ("get", "s3://b/a", "none/f", "-k", "key"), {}),
        (2, "--concurrency", ("ls", "s3://b", "--concurrency", "0"), {}),
    ],
)
def test_errors_are_one_line(bucket: Bucket, code, message, args, env) -> None:
    """A wrong use is 2, what S3 answers is 1, and neither is a traceback."""
    bucket.fails(code, message, *args, env=env)


def test_unreachable_s3_is_one_line(bucket: Bucket) -> None:
    """No words about the retries in between."""
    by_tls = bucket.env["AWS_ENDPOINT_URL"].replace("http:", "https:")
    few = {"AWS_MAX_ATTEMPTS": "2"}
    bucket.fails(1, "cannot be reached by TLS", "ls", bucket.url, "--endpoint-url", by_tls, env=few)
    url = "http://127.0.0.1:9"
    quick = ("--endpoint-url", url, "--attempts", "2")
    bucket.fails(1, "S3 cannot be reached", "ls", bucket.url, *quick)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_put_that_is_stopped_leaves_nothing(bucket: Bucket, proxy: S3Proxy, number: int) -> None:
    """Neither an object nor an upload whose parts cost money."""
    proxy.behave = lambda request: "hang" if "partNumber=2" in request.path else None
    bucket.shell.path("f").write_bytes(DATA)
    process = bucket.shell.start(
        "s3", "put", "f", f"{bucket.url}/f", "-k", "key", "--part-size", "5M",
        env=bucket.env | {"AWS_ENDPOINT_URL": proxy.url},
    )  # fmt: skip
    wait_until(lambda: any("partNumber=2" in one.path for one in proxy.asked))
    process.send_signal(number)
    out, error = process.communicate(timeout=TIMEOUT)
    assert (128 + number, b"", b"") == (process.returncode, out, error)
    assert ([], []) == (bucket.names(), bucket.uploads())


def test_second_signal_does_not_wait_for_s3(bucket: Bucket, proxy: S3Proxy) -> None:
    """Cleaning up takes requests; who has lost the network wants the shell back."""
    stuck = ("partNumber=2", "DELETE")
    proxy.behave = lambda one: "hang" if any(s in one.method + one.path for s in stuck) else None
    process = bucket.shell.start(
        "s3", "put", "-", f"{bucket.url}/f", "-k", "key", "--part-size", "5M",
        stdin=subprocess.PIPE, env=bucket.env | {"AWS_ENDPOINT_URL": proxy.url},
    )  # fmt: skip
    process.stdin.write(DATA)
    process.stdin.flush()
    wait_until(lambda: any("partNumber=2" in one.path for one in proxy.asked))
    process.send_signal(signal.SIGINT)
    wait_until(lambda: any(one.method == "DELETE" for one in proxy.asked))
    process.send_signal(signal.SIGINT)
    assert 130 == process.wait(20)
    process.communicate()
    for left in bucket.uploads():
        bucket.client.abort_multipart_upload(Bucket=bucket.name, Key="f", UploadId=left["UploadId"])


def test_put_waiting_for_a_pipe_is_stopped(bucket: Bucket) -> None:
    """Ctrl-C works while the other side of the pipe says nothing."""
    process = bucket.shell.start(
        "s3", "put", "-", f"{bucket.url}/f", "-k", "key", "--part-size", "5M",
        stdin=subprocess.PIPE, env=bucket.env,
    )  # fmt: skip
    process.stdin.write(DATA[: 6 * MIB])
    process.stdin.flush()
    wait_until(bucket.uploads)
    process.send_signal(signal.SIGINT)
    assert 130 == process.wait(TIMEOUT)
    process.communicate()
    assert ([], []) == (bucket.names(), bucket.uploads())


def test_cat_into_a_stuck_or_closed_pipe_ends(bucket: Bucket) -> None:
    """Ctrl-C works while the reader does not read; a reader that has gone is no news."""
    bucket.keyed("put", "-", f"{bucket.url}/f", input=DATA)
    command = ("s3", "cat", f"{bucket.url}/f", "-k", "key")
    process = bucket.shell.start(*command, env=bucket.env)
    assert process.stdout.read(1000) == DATA[:1000]
    process.send_signal(signal.SIGINT)
    assert 130 == process.wait(TIMEOUT)
    process.communicate()
    process = bucket.shell.start(*command, env=bucket.env)
    process.stdout.close()
    assert (1, b"") == (process.wait(TIMEOUT), process.stderr.read())
    process.stderr.close()


def test_get_that_is_stopped_goes_on(bucket: Bucket, proxy: S3Proxy) -> None:
    """The second attempt asks for what is missing; the file is not there before it is whole."""
    bucket.keyed("put", "-", f"{bucket.url}/f", input=DATA * 2)
    env = bucket.env | {"AWS_ENDPOINT_URL": proxy.url}
    command = ("s3", "get", f"{bucket.url}/f", "-k", "key", "--concurrency", "1")
    proxy.behave = lambda request: "hang" if len(proxy.asked) > 3 else None
    process = bucket.shell.start(*command, env=env)
    wait_until(lambda: len(proxy.asked) > 3)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=TIMEOUT)[1].decode()
    assert (130, "anyseal: f is not complete: the same command goes on where it ended\n") == (
        process.returncode,
        error,
    )
    assert "f" not in bucket.shell.names()
    asked = len(proxy.asked)
    proxy.behave = lambda request: None
    assert b"" == bucket.shell.ok(*command, env=env)
    assert len(proxy.asked) - asked == 2 + 3  # head and tail, and three of four windows
    assert DATA * 2 == bucket.shell.path("f").read_bytes()
    assert {"f"} == bucket.shell.names()


def test_terminal_shows_progress_and_no_binary(bucket: Bucket) -> None:
    """A bar while it runs and a line at the end; never bytes that could command the terminal."""
    bucket.shell.path("f").write_bytes(DATA)
    code, shown = bucket.shell.terminal(
        "s3", "put", "f", f"{bucket.url}/f", "-k", "key", env=bucket.env
    )
    assert 0 == code, shown
    assert "f: sealed and uploaded, 12,582,912 bytes in " in shown
    code, shown = bucket.shell.terminal("s3", "cat", f"{bucket.url}/f", "-k", "key", env=bucket.env)
    assert (2, True) == (code, "not writing binary to a terminal" in shown)


def test_commands_of_the_page_run(bucket: Bucket) -> None:
    """What a reader copies works, in the page's order."""
    page = (Path(__file__).parent.parent / "docs/cli.md").read_text("utf-8")
    bucket.shell.path("backup.tar").write_bytes(DATA)
    lines = re.findall(r"^anyseal s3 ([^|\\\n]*)$", page, re.MULTILINE)
    for line in lines:
        words = shlex.split(line.replace("s3://videos", bucket.url), comments=True)
        bucket.ok(*words)
    assert len(lines) >= 5
    assert DATA == bucket.shell.path("copy.tar").read_bytes()


# ---- migrate ----


@pytest.fixture
def table(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[lenzeye.SqlUserKeyTable]:
    """Lenzeye's key table, and what the command needs to find it."""
    monkeypatch.setenv("MASTER_KEY", LENZEYE_MASTER)
    url = f"sqlite:///{bucket.shell.path('lenzeye.db')}"
    bucket.env |= {"MASTER_KEY": LENZEYE_MASTER, "ANYSEAL_LENZEYE_TABLE": url}
    found = lenzeye.SqlUserKeyTable(url)
    yield found
    found.close()


def put_lenzeye(bucket: Bucket, table: Any, user: str, name: str, text: bytes) -> None:
    key, version = lenzeye.get_or_create_user_key(user, table=table)
    body = b"".join(lenzeye.encrypt_file_stream(io.BytesIO(text), key))
    metadata = {"key-version": version, "title": name}
    bucket.put_raw(f"old/{user}/{name}", body, Metadata=metadata, ContentType="text/x")


def test_migrate_from_lenzeye(bucket: Bucket, table: Any) -> None:
    """Users become partitions; what is damaged stays and is told; a second run does the rest."""
    for user, name in (("ann", "1"), ("ann", "2"), ("bob", "3")):
        put_lenzeye(bucket, table, user, name, f"{user} {name}".encode())
    damaged = bucket.client.get_object(Bucket=bucket.name, Key="old/ann/2")
    body = damaged["Body"].read()
    bucket.put_raw("old/ann/2", body[:-1] + bytes([body[-1] ^ 1]), Metadata=damaged["Metadata"])
    bucket.put_raw("old/readme", b"passed over")
    command = [
        "migrate", f"{bucket.url}/old/", f"{bucket.url}/new/", "--from", "lenzeye",
        "--user-from", "old/([^/]+)/", "--state", "state",
    ]  # fmt: skip

    shown = bucket.ok(*command, "--dry-run").decode()
    assert f"migrate  old/ann/1 -> {bucket.url}/new/ann/1 (user ann, " in shown
    assert "3 to migrate, 0 done before, 0 that cannot be" in shown
    assert not bucket.shell.path("state").exists()

    done = bucket.shell.run("s3", *command, "-k", "key", env=bucket.env)
    assert 1 == done.returncode
    assert f"anyseal: {bucket.url}/old/ann/2: does not verify\n" == done.stderr.decode()
    assert b"2 migrated, 0 done before, 1 could not be\n" == done.stdout
    assert b"ann 1" == bucket.open("new/ann/1", "ann")
    head = bucket.client.head_object(Bucket=bucket.name, Key="new/bob/3")
    assert ("3", "text/x") == (head["Metadata"]["title"], head["ContentType"])
    assert "key-version" not in head["Metadata"]
    assert "new/ann/2" not in bucket.names()
    assert 4 == sum(name.startswith("old/") for name in bucket.names())

    put_lenzeye(bucket, table, "ann", "2", b"repaired")
    assert b"1 migrated, 2 done before, 0 could not be\n" == bucket.keyed(*command)
    assert b"repaired" == bucket.open("new/ann/2", "ann")
    assert b"0 migrated, 3 done before, 0 could not be\n" == bucket.keyed(*command)

    bucket.fails(2, "no terminal to ask on", *command, "-k", "key", "--delete-source")
    shown = bucket.keyed(*command, "--delete-source", "--yes").decode()
    assert "3 migrated, 0 done before, 0 could not be, 3 old ones deleted\n" == shown
    assert ["new/ann/1", "new/ann/2", "new/bob/3", "old/readme"] == bucket.names()


def test_migrate_that_is_stopped_goes_on(bucket: Bucket, proxy: S3Proxy) -> None:
    """What was under way is done again, also if it had appeared before it was noted."""
    for name in ("1", "2", "3"):
        bucket.put_raw(f"old/{name}", name.encode())
    command = (
        "s3", "migrate", f"{bucket.url}/old/", f"{bucket.url}/new/", "--from", "plain",
        "--concurrency", "1", "-k", "key", "--state", "state",
    )  # fmt: skip

    def hang_at_second(request: Any) -> str | None:
        return "hang" if (request.method, request.path[-6:]) == ("PUT", "/new/2") else None

    proxy.behave = hang_at_second
    process = bucket.shell.start(*command, env=bucket.env | {"AWS_ENDPOINT_URL": proxy.url})
    wait_until(lambda: any(map(hang_at_second, proxy.asked)))
    bucket.fails(1, "state: a migration is under way", *command[1:])
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=TIMEOUT)[1]
    assert (130, b"anyseal: not complete: the same command goes on, by state\n") == (
        process.returncode,
        error,
    )
    bucket.put_raw("new/2", b"as if it had appeared")
    with bucket.shell.path("state").open("ab") as file:
        file.write(b'{"step": "cut')
    assert b"2 migrated, 1 done before, 0 could not be\n" == bucket.shell.ok(
        *command, env=bucket.env
    )
    assert [b"1", b"2", b"3"] == [bucket.open(f"new/{name}") for name in "123"]
    bucket.fails(
        2,
        "another migration",
        *command[1:-1],
        "state",
        "--from",
        "lenzeye",
        "--user",
        "u",
        env={"MASTER_KEY": LENZEYE_MASTER, "ANYSEAL_LENZEYE_TABLE": "sqlite:///x.db"},
    )


@pytest.mark.parametrize("there", [True, False], ids=["again", "gone"])
def test_migrate_that_was_killed_leaves_no_upload(
    bucket: Bucket, proxy: S3Proxy, there: bool
) -> None:
    """The parts that it sent cost money: the next run aborts what the state file names, also of an
    old object that is not there any more."""
    bucket.put_raw("old/large", DATA)
    bucket.put_raw("old/small", b"small")
    proxy.behave = lambda request: "hang" if "partNumber=2" in request.path else None
    command = (
        "s3", "migrate", f"{bucket.url}/old/", f"{bucket.url}/new/", "--from", "plain",
        "-k", "key", "--state", "state",
    )  # fmt: skip
    process = bucket.shell.start(*command, env=bucket.env | {"AWS_ENDPOINT_URL": proxy.url})
    wait_until(lambda: any("partNumber=2" in request.path for request in proxy.asked))
    process.kill()
    process.communicate()
    assert 1 == len(bucket.uploads())
    if not there:
        bucket.client.delete_object(Bucket=bucket.name, Key="old/large")
    bucket.shell.ok(*command, env=bucket.env)
    assert [] == bucket.uploads()
    expected = {"new/small": b"small"} | ({"new/large": DATA} if there else {})
    found = {name: bucket.open(name) for name in bucket.names() if name.startswith("new/")}
    assert expected == found
    assert b"0 migrated" in bucket.shell.ok(*command, env=bucket.env)


def test_migrate_from_plain(bucket: Bucket) -> None:
    """What is there already, by someone else or sealed before, is told and left alone."""
    for name in ("a/1", "b/2"):
        bucket.put_raw(name, name.encode(), Metadata={"who": name[0]})
    bucket.put_raw("big", DATA)
    bucket.put_raw("sealed/b/2", b"someone's")
    bucket.keyed("put", "-", f"{bucket.url}/c/3", input=b"text")
    command = ["migrate", bucket.url, f"{bucket.url}/sealed/", "--from", "plain", "-k", "key"]
    done = bucket.shell.run("s3", *command, "--delete-source", "--yes", env=bucket.env)
    assert (1, b"2 migrated, 0 done before, 2 could not be, 2 old ones deleted\n") == (
        done.returncode,
        done.stdout,
    )
    assert {
        f"anyseal: {bucket.url}/b/2: {bucket.url}/sealed/b/2 exists, and not from this migration",
        f"anyseal: {bucket.url}/c/3: is sealed already",
    } == set(done.stderr.decode().splitlines())
    assert ["b/2", "c/3", "sealed/a/1", "sealed/b/2", "sealed/big"] == bucket.names()
    assert (b"a/1", DATA) == (bucket.open("sealed/a/1"), bucket.open("sealed/big"))
    assert 1 == len(list(Path(bucket.shell.folder).glob("anyseal-migrate-*.jsonl")))


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("whose are the objects", ()),
        ("exclude each other", ("--user", "u", "--user-from", "x")),
        ("--user-from has no group", ("--user-from", "users/")),
        ("--user-from: ", ("--user-from", "(")),
        ("no key table", ("--user", "u")),
        ("holds a password", ("--user", "u", "--key-table", "postgresql://u:secret@h/d")),
        ("--name takes NAME=THEIRS", ("--user", "u", "--name", "x=y", "--dry-run")),
        ("would take the places", ("--user", "u", "same")),
    ],
)
def test_migrate_wrong_usage(bucket: Bucket, message, args) -> None:
    """Said before anything is read."""
    places = ["s3://b/old/", "s3://b/old/" if "same" in args else "s3://b/new/"]
    options = [one for one in args if one != "same"]
    env = {"MASTER_KEY": LENZEYE_MASTER}
    bucket.fails(2, message, "migrate", *places, "--from", "lenzeye", *options, env=env)


def test_help_flows(bucket: Bucket) -> None:
    """A paragraph is one, however wide the terminal is: typer keeps the lines of the source."""
    text = bucket.ok("migrate", "--help", env={"COLUMNS": "160", "TERMINAL_WIDTH": "160"}).decode()
    assert "The old objects stay, unless --delete-source is given" in text


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("migrate", "--help"),
        ("get",),
        ("get", "s3://b/k", "none/f", "--attempts", "2"),
        ("cat", "s3://b/k", "--range", "x"),
        ("ls", "s3://b", "--endpoint-url", "host:80"),
    ],
    ids=" ".join,
)
def test_help_and_wrong_usage_do_not_wait_for_clients(args: tuple[str, ...]) -> None:
    """The clients of S3 and of databases take longer to import than all the rest."""
    command = [sys.executable, "-X", "importtime", "-m", "anyseal", "s3", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (0 if "--help" in args else 2) == done.returncode
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "anyseal.cli.s3" in imported
    assert set() == imported & {"aiobotocore", "aiohttp", "botocore", "httpx", "sqlalchemy"}
