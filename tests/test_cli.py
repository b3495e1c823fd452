"""The command line as its users meet it: in processes of its own, through files, pipes, terminals.

Where a test needs a command in flight it waits for a sign of it, never for a time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import anyseal
from anyseal import sync
from anyseal.objects.format import Header
from shell import COMMAND, ENVIRONMENT, KEY, TIMEOUT, Shell

DATA = hashlib.shake_256(b"anyseal test data").digest(3_000_000)


ON_SMALL_DISK = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture(scope="module")
def keyring() -> anyseal.StaticKeyring:
    return anyseal.StaticKeyring(KEY)


@pytest.fixture(scope="module")
def sealed(keyring: anyseal.StaticKeyring) -> bytes:
    """DATA as an object of three segments, sealed through the API."""
    sink = sync.MemorySink()
    with sync.ObjectWriter(sink, keyring, partition="default", segment_size=1 << 20) as writer:
        writer.write(DATA)
    return sink.getvalue()


def through_api(data: bytes, keyring: anyseal.StaticKeyring, **options) -> bytes:
    options = {"partition": "default"} | options
    with sync.ObjectReader.open(sync.MemorySource(data), keyring, **options) as reader:
        return reader.read_range(0)


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---- keys ----


def test_keygen_prints_or_writes_a_fresh_key(shell: Shell) -> None:
    """64 hexadecimal characters, never the same, in a file for its owner's eyes only."""
    printed = shell.ok("keygen").decode()
    assert b"" == shell.ok("keygen", "-o", "new")
    written = shell.path("new").read_text()
    for text in (printed, written):
        assert re.fullmatch(r"[0-9a-f]{64}\n", text)
    assert printed != written
    assert 0o600 == stat.S_IMODE(shell.path("new").stat().st_mode)

    shell.fails(2, "new exists", "keygen", "-o", "new")
    assert written == shell.path("new").read_text()
    shell.path("new").chmod(0o644)
    shell.ok("keygen", "-o", "new", "--force")
    assert written != shell.path("new").read_text()
    assert 0o600 == stat.S_IMODE(shell.path("new").stat().st_mode)
    assert {"new"} == shell.names()


def test_key_comes_from_the_environment_and_old_ones_open(shell: Shell) -> None:
    """Services rotate with the two variables; a person with --key-file twice."""
    shell.path("f").write_bytes(b"text")
    shell.ok("seal", "f", env={"ANYSEAL_MASTER_KEY": KEY})
    rotated = {"ANYSEAL_MASTER_KEY": "ff" * 32, "ANYSEAL_PREVIOUS_MASTER_KEYS": KEY}
    assert b"text" == shell.ok("cat", "f.sealed", env=rotated)
    shell.ok("keygen", "-o", "newer")
    assert b"text" == shell.ok("cat", "f.sealed", "-k", "newer", "-k", "key")
    shell.fails(1, "f.sealed: .*unknown", "cat", "f.sealed", "-k", "newer")


@pytest.mark.parametrize(
    ("message", "args", "env"),
    [
        ("no key", (), {}),
        ("MASTER_KEY: .*64 hexadecimal", (), {"ANYSEAL_MASTER_KEY": "abc"}),
        ("key file none: No such file", ("-k", "none"), {}),
        ("key file short: .*64 hexadecimal", ("-k", "short"), {}),
        ("exclude each other", ("-k", "key", "--passphrase"), {}),
        ("no terminal to ask", ("--passphrase",), {}),
        ("passphrase has", ("--passphrase",), {"ANYSEAL_PASSPHRASE": ""}),
    ],
)
def test_missing_or_malformed_key_is_a_usage_error(shell: Shell, message, args, env) -> None:
    """Exit code 2, before anything is read or written."""
    shell.path("short").write_text("00ff")
    shell.path("short").chmod(0o600)
    shell.path("f").write_bytes(b"text")
    shell.fails(2, message, "seal", "f", *args, env=env)
    assert {"f", "short"} == shell.names()


def test_key_file_open_to_others_is_warned_about(shell: Shell) -> None:
    """It works, and says so on stderr only."""
    shell.path("key").chmod(0o640)
    done = shell.run("seal", "-k", "key", input=b"text")
    assert 0 == done.returncode
    assert b"anyseal: warning: key file key is open to others (mode 0640)" in done.stderr


def test_no_key_or_passphrase_is_visible_to_other_processes(shell: Shell) -> None:
    """A command's arguments are in `ps` for everybody; there is no option that takes a secret."""
    done = shell.run("seal", "--passphrase", "hunter2", input=b"")
    assert 1 == done.returncode  # "hunter2" is a file, and there is none
    process = shell.start("seal", "-k", "key", "-o", "out", stdin=subprocess.PIPE)
    wait_until(lambda: any(n.endswith(".part") for n in shell.names()), process)
    shown = subprocess.run(
        ["ps", "-o", "args=", "-p", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout
    assert "seal -k key -o out" in shown
    assert KEY not in shown
    process.communicate(b"", TIMEOUT)
    assert 0 == process.returncode


# ---- seal and open ----


@pytest.mark.parametrize("suite", ["AEGIS256", "aes256gcm", "XCHACHA20POLY1305"])
def test_file_round_trip(shell: Shell, keyring, suite: str) -> None:
    """SRC to SRC.sealed and back to SRC, permissions included, silent without a terminal."""
    shell.path("f").write_bytes(DATA)
    shell.path("f").chmod(0o640)
    shell.ok("seal", "f", "-k", "key", "--suite", suite, "--segment-size", "1MiB")
    assert DATA == through_api(shell.path("f.sealed").read_bytes(), keyring)
    shell.path("f").unlink()
    assert b"" == shell.ok("open", "f.sealed", "-k", "key")
    assert DATA == shell.path("f").read_bytes()
    assert 0o640 == stat.S_IMODE(shell.path("f").stat().st_mode)
    assert {"f", "f.sealed"} == shell.names()


def test_pipe_round_trip_and_every_mixture(shell: Shell, keyring) -> None:
    """Files and pipes are interchangeable on both sides."""
    shell.path("f").write_bytes(DATA)
    from_pipe = shell.ok("seal", "-k", "key", input=DATA)
    from_file = shell.ok("seal", "f", "-o", "-", "-k", "key")
    shell.ok("seal", "-", "-o", "g.sealed", "-k", "key", input=DATA)
    for made in (from_pipe, from_file, shell.path("g.sealed").read_bytes()):
        assert DATA == through_api(made, keyring)

    assert DATA == shell.ok("open", "-k", "key", input=from_pipe)
    assert DATA == shell.ok("open", "g.sealed", "-o", "-", "-k", "key")
    shell.ok("open", "-o", "h", "-k", "key", input=from_file)
    assert DATA == shell.path("h").read_bytes()
    assert {"f", "g.sealed", "h"} == shell.names()


def test_two_commands_in_a_pipeline(shell: Shell) -> None:
    """The ordinary use, with nothing in between; and an empty input is an object too."""
    for data in (b"", DATA):
        first = shell.start("seal", "-k", "key", stdin=subprocess.PIPE)
        second = shell.start("open", "-k", "key", stdin=first.stdout)
        first.stdout.close()
        first.stdin.write(data)
        first.stdin.close()
        assert data == second.communicate(timeout=TIMEOUT)[0]
        assert (0, 0) == (first.wait(TIMEOUT), second.returncode)
        first.stderr.close()


def test_context_and_partition_are_needed_to_open(shell: Shell) -> None:
    """What was given when sealing must be given again; neither is stored."""
    named = ("--partition", "tenant-7", "--context", "invoice 12")
    made = shell.ok("seal", "-k", "key", *named, input=b"text")
    assert b"text" == shell.ok("open", "-k", "key", *named, input=made)
    shell.fails(1, "unknown under this partition", "open", "-k", "key", input=made)
    shell.fails(1, "does not verify", "open", "-k", "key", *named[:2], input=made)
    assert b"tenant-7" not in made
    assert b"invoice" not in made


def test_passphrase_from_the_environment(shell: Shell) -> None:
    """For scripts; a wrong one is an error about the data."""
    shell.path("f").write_bytes(b"text")
    shell.ok("seal", "f", "--passphrase", env={"ANYSEAL_PASSPHRASE": "correct horse"})
    opened = shell.ok(
        "open", "f.sealed", "-o", "-", "--passphrase", env={"ANYSEAL_PASSPHRASE": "correct horse"}
    )
    assert b"text" == opened
    shell.fails(
        1,
        "f.sealed: wrong passphrase",
        *("open", "f.sealed", "-o", "g", "--passphrase"),
        env={"ANYSEAL_PASSPHRASE": "wrong horse"},
    )
    assert {"f", "f.sealed"} == shell.names()


def test_existing_outputs_stay_without_force(shell: Shell, sealed: bytes) -> None:
    """Nothing is overwritten by accident, not even from a pipe."""
    shell.path("f").write_bytes(b"precious")
    shell.path("f.sealed").write_bytes(sealed)
    for args in (
        ("seal", "f"),
        ("seal", "-", "-o", "f.sealed"),
        ("open", "f.sealed"),
        ("open", "-", "-o", "f"),
    ):
        shell.fails(2, "exists: --force", *args, "-k", "key", input=sealed)
    assert b"precious" == shell.path("f").read_bytes()
    assert sealed == shell.path("f.sealed").read_bytes()
    shell.ok("open", "f.sealed", "-f", "-k", "key")
    assert DATA == shell.path("f").read_bytes()
    assert {"f", "f.sealed"} == shell.names()


def test_descriptors_are_not_replaced(shell: Shell) -> None:
    """`-o /dev/stdout > file` was told that --force replaces it, and --force that it does not."""
    shell.path("f").write_bytes(DATA)
    shell.path("out").touch()
    shell.path("stdout").symlink_to(f"/proc/{os.getpid()}/fd/99")
    with shell.path("out").open("wb") as out:
        os.dup2(out.fileno(), 99)
        try:
            for force in ([], ["-f"]):
                said = "is an open file: -o - writes to standard output"
                shell.fails(2, said, "seal", "f", *force, "-o", "stdout", "-k", "key")
        finally:
            os.close(99)
    assert b"" == shell.path("out").read_bytes()


def test_devices_are_written_to_not_replaced(shell: Shell) -> None:
    """--force over a FIFO or /dev/null must not put a file in its place."""
    os.mkfifo(shell.path("fifo"))
    writer = shell.start("seal", "-", "-f", "-o", "fifo", "-k", "key", stdin=subprocess.PIPE)
    reader = shell.start("open", "fifo", "-k", "key")
    writer.communicate(DATA, TIMEOUT)
    assert DATA == reader.communicate(timeout=TIMEOUT)[0]
    assert (0, 0) == (writer.returncode, reader.returncode)
    assert stat.S_ISFIFO(shell.path("fifo").stat().st_mode)


@pytest.mark.parametrize(
    ("code", "message", "args"),
    [
        (2, "No such option", ("seal", "--frobnicate")),
        (2, "No such command", ("frobnicate",)),
        (2, "Missing argument", ("cat",)),
        (2, "unknown suite 'ROT13'", ("seal", "f", "--suite", "rot13")),
        (2, "'12Q' is not a size", ("seal", "f", "--chunk-size", "12Q")),
        (2, "chunk_size must be", ("seal", "f", "--chunk-size", "5000")),
        (2, "segment_size must be", ("seal", "f", "--segment-size", "100000")),
        (2, "--partition: .*empty", ("seal", "f", "--partition", "")),
        (2, "--context: longer", ("seal", "f", "--context", "x" * 65_537)),
        (2, "is a folder", ("seal", ".")),
        (2, "is a folder", ("seal", "f", "-o", ".")),
        (2, "no such folder", ("seal", "f", "-o", "none/f")),
        (2, "does not end in .sealed", ("open", "f")),
        (2, "--range takes", ("cat", "f", "--range", "12")),
        (2, "--range takes", ("cat", "f", "--range", "-")),
        (2, "--range takes", ("cat", "f", "--range", "1-x")),
        (2, "STOP is before START", ("cat", "f", "--range", "9-1")),
        (2, "cannot seek", ("cat", "-")),
        (1, "none: No such file", ("seal", "none")),
        (1, "none.sealed: No such file", ("open", "none.sealed")),
        (1, "f: not a sealed object", ("open", "f", "-o", "g")),
        (1, "f: not a sealed object", ("verify", "f")),
        (1, "f: neither a sealed value", ("inspect", "f")),
    ],
)
def test_every_failure_is_one_line_and_a_code(shell: Shell, code, message, args) -> None:
    """2 is the caller's mistake, 1 the data's or the system's; never a traceback."""
    shell.path("f").write_bytes(b"text")
    shell.fails(code, message, *args, env={"ANYSEAL_MASTER_KEY": KEY})
    assert {"f"} == shell.names()


def test_help_documents_commands_and_exit_codes(shell: Shell) -> None:
    """The exit codes are a promise, so they are where one looks for them."""
    text = " ".join(shell.ok("--help").decode().split())
    for command in ("keygen", "seal", "open", "cat", "inspect", "verify", "doctor", "demo"):
        assert f" {command} " in text
    assert "Exit codes: 0 done; 1 the data does not open" in text
    bare = shell.run()
    assert (2, b"") == (bare.returncode, bare.stderr)
    assert f"anyseal {anyseal.__version__}\n".encode() == shell.ok("--version")


# ---- what was altered ----


def altered(sealed: bytes) -> dict[str, bytes]:
    geometry = Header.parse(sealed).geometry
    one, two, three = (geometry.segment_offset(n) for n in range(3))
    flipped = bytearray(sealed)
    flipped[len(sealed) // 2] ^= 1
    return {
        "flipped": bytes(flipped),
        "cut": sealed[:-1],
        "cut to half": sealed[: len(sealed) // 2],
        "extended": sealed + b"\0",
        "swapped": sealed[:one] + sealed[two:three] + sealed[one:two] + sealed[three:],
        "empty": b"",
    }


@pytest.mark.parametrize("how", ["flipped", "cut", "cut to half", "extended", "swapped", "empty"])
def test_altered_input_fails_and_leaves_nothing(shell: Shell, sealed: bytes, how: str) -> None:
    """By file and by pipe: exit code 1, no output under its name or any other."""
    bad = altered(sealed)[how]
    shell.path("bad.sealed").write_bytes(bad)
    shell.fails(1, "bad.sealed: ", "open", "bad.sealed", "-k", "key")
    shell.fails(1, "standard input: ", "open", "-o", "out", "-k", "key", input=bad)
    shell.fails(1, "bad.sealed: ", "verify", "bad.sealed", "-k", "key")
    assert {"bad.sealed"} == shell.names()


def test_altered_pipe_releases_only_verified_bytes(shell: Shell, sealed: bytes) -> None:
    """A pipe cannot take back what it delivered: that is a true prefix, and the code is 1."""
    done = shell.run("open", "-k", "key", input=altered(sealed)["flipped"])
    assert 1 == done.returncode
    assert len(done.stdout) < len(DATA)
    assert DATA.startswith(done.stdout)


# ---- cat, verify, inspect, doctor ----


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("0-1", 0, 1),
        ("65535-65537", 65_535, 65_537),
        ("1048000-1050000", 1_048_000, 1_050_000),
        ("2999990-", 2_999_990, None),
        ("-10", len(DATA) - 10, None),
        ("-9999999", 0, None),
        ("7-7", 7, 7),
        ("2999999-4000000", 2_999_999, None),
        ("5000000-6000000", 5_000_000, None),
    ],
)
def test_cat_range_is_the_slice(shell: Shell, keyring, sealed, text, start, stop) -> None:
    """START-STOP means what it means to read_range: STOP is not included."""
    shell.path("f.sealed").write_bytes(sealed)
    got = shell.ok("cat", "f.sealed", "-k", "key", "--range", text)
    assert DATA[start:stop] == got
    with sync.ObjectReader.open(sync.MemorySource(sealed), keyring, partition="default") as reader:
        assert reader.read_range(start, stop) == got


def test_cat_reads_around_what_is_damaged(shell: Shell, sealed: bytes) -> None:
    """It verifies what it shows, and nothing else: a range beside the damage still opens."""
    shell.path("bad").write_bytes(altered(sealed)["flipped"])
    assert DATA[:1000] == shell.ok("cat", "bad", "-k", "key", "-r", "0-1000")
    middle = len(sealed) // 2
    shell.fails(1, "does not verify", "cat", "bad", "-k", "key", "-r", f"{middle}-{middle}0")


def test_verify_says_how_much(shell: Shell, sealed: bytes) -> None:
    """By file and by pipe; --quiet leaves the exit code."""
    shell.path("f.sealed").write_bytes(sealed)
    assert b"f.sealed: verified, 3,000,000 bytes\n" == shell.ok("verify", "f.sealed", "-k", "key")
    assert b"" == shell.ok("verify", "f.sealed", "-q", "-k", "key")
    from_pipe = shell.ok("verify", "-k", "key", input=sealed)
    assert b"standard input: verified, 3,000,000 bytes\n" == from_pipe


def test_inspect_needs_no_key(shell: Shell, keyring, sealed: bytes) -> None:
    """Objects and values, for people and for programs, by file and by pipe."""
    shell.path("f.sealed").write_bytes(sealed)
    expected = {
        "type": "object",
        "suite": anyseal.available_suites()[0].name,
        "key_id": keyring.current_hit("default").id,
        "chunk_bytes": 65_536,
        "segment_bytes": 1 << 20,
        "segments": 3,
        "header_bytes": anyseal.inspect(sealed).header_bytes,
        "sealed_bytes": len(sealed),
        "plaintext_bytes": len(DATA),
    }
    assert expected == json.loads(shell.ok("inspect", "--json", "f.sealed"))
    assert expected == json.loads(shell.ok("inspect", "--json", input=sealed))
    assert b"3,000,000" in shell.ok("inspect", "f.sealed")
    cut = json.loads(shell.ok("inspect", "--json", input=sealed[:210]))
    assert cut["plaintext_bytes"] is None

    value = sync.seal(bytes(1000), keyring, partition="default", suite="AES256GCM", expires_at=4e9)
    shell.path("v").write_bytes(value)
    for out in (shell.ok("inspect", "--json", "v"), shell.ok("inspect", "--json", input=value)):
        assert json.loads(out) == {
            "type": "value",
            "kind": "value",
            "suite": "AES256GCM",
            "key_id": keyring.current_hit("default").id,
            "expires_at": "2096-10-02T07:06:40+00:00",
            "sealed_bytes": len(value),
            "plaintext_bytes": 1000,
        }


def test_doctor_examines_and_measures(shell: Shell) -> None:
    """What it prints for programs holds what the table shows."""
    found = json.loads(shell.ok("doctor", "--json"))
    assert found["healthy"]
    assert {suite.name for suite in anyseal.Suite} == set(found["suites"])
    for suite in anyseal.available_suites():
        report = found["suites"][suite.name]
        assert report["self_test"]
        assert report["seal_bytes_per_second"] > 0
        assert report["open_bytes_per_second"] > 0
    assert found["memmove_bytes_per_second"] > 0
    assert found["default_suite"] == anyseal.available_suites()[0].name
    assert found["random"] in ("vDSO", "system call")
    assert "PyNaCl" == found["libsodium"]["origin"]
    assert found["workers"] >= 1


def test_demo_behaves_on_a_small_file(shell: Shell) -> None:
    """Everything it shows, it checks; it exits with 1 where something did not behave."""
    shell.path("f").write_bytes(DATA)
    text = shell.ok("demo", "f").decode()
    for expected in (
        "the same, byte for byte",
        "2 chunks, 1 more",
        "one bit flipped",
        "tail cut off",
        "segments 1, 2 swapped",
        "DecryptionError: does not verify",
        "WrongKeyError: ",
        "Left on disk by all four: nothing.",
        "the function ran 1 time",
        "in its bytes finds 0 of them",
        "under another key: a miss",
    ):
        assert expected in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    assert {"f"} == shell.names()


# ---- terminals ----


def test_terminal_gets_no_binary(shell: Shell, sealed: bytes) -> None:
    """Bytes could be commands to it; text is what a person wants to see."""
    shell.path("f.sealed").write_bytes(sealed)
    shell.path("text").write_text("grüße\n")
    shell.ok("seal", "text", "-k", "key")
    for args in (
        ("seal", "text", "-o", "-", "-k", "key"),
        ("cat", "f.sealed", "-k", "key"),
        ("open", "f.sealed", "-o", "-", "-k", "key"),
    ):
        code, shown = shell.terminal(*args)
        assert 2 == code
        assert " to a terminal: " in shown
        assert len(shown) < 200
    assert (0, "grüße\r\n") == shell.terminal("cat", "text.sealed", "-k", "key")
    code, shown = shell.terminal("seal", "-o", "g", "-k", "key")
    assert 2 == code
    assert "nothing to read" in shown


def test_terminal_shows_progress_and_a_summary(shell: Shell) -> None:
    """How far, how fast; and --quiet shows nothing."""
    shell.path("f").write_bytes(DATA)
    code, shown = shell.terminal("seal", "f", "-k", "key")
    assert 0 == code
    assert re.search(r"f: sealed, 3,000,000 bytes in [\d.]+ s, [\d,]+ MB/s", shown)
    assert (0, "") == shell.terminal("verify", "f.sealed", "-q", "-k", "key")


def test_passphrase_is_asked_for_without_echo(shell: Shell) -> None:
    """Twice when sealing, once when opening; two that differ are refused."""
    shell.path("f").write_bytes(b"text\n")
    code, shown = shell.terminal("seal", "f", "--passphrase", answers=("one", "other"))
    assert 2 == code
    assert "the two passphrases differ" in shown
    assert {"f"} == shell.names()
    code, shown = shell.terminal("seal", "f", "-q", "--passphrase", answers=("secret", "secret"))
    assert (0, "Passphrase: \r\nAgain: \r\n") == (code, shown)
    code, shown = shell.terminal("cat", "f.sealed", "-q", "--passphrase", answers=("secret",))
    assert (0, "Passphrase: \r\ntext\r\n") == (code, shown)
    code, shown = shell.terminal("cat", "f.sealed", "-q", "--passphrase", answers=("guess",))
    assert 1 == code
    assert "wrong passphrase" in shown


# ---- ends before the end ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_while_sealing_a_file_leaves_nothing(shell: Shell, number) -> None:
    """Ctrl-C in the middle: exit code 128 + N, no partial output, no word."""
    with shell.path("big").open("wb") as file:
        file.truncate(20 << 30)  # sparse: nobody seals that before the signal
    process = shell.start("seal", "big", "-k", "key")
    wait_until(
        lambda: any(p.stat().st_size > 1 << 20 for p in shell.folder.glob(".*.part")), process
    )
    process.send_signal(number)
    assert (b"", b"") == process.communicate(timeout=TIMEOUT)
    assert 128 + number == process.returncode
    assert {"big"} == shell.names()


@pytest.mark.parametrize("command", ["seal", "open"])
def test_interrupt_while_a_pipe_is_silent_leaves_nothing(shell: Shell, command, sealed) -> None:
    """A command that waits for its input ends at once."""
    process = shell.start(command, "-o", "out", "-k", "key", stdin=subprocess.PIPE)
    process.stdin.write(sealed[:100_000])
    process.stdin.flush()
    wait_until(lambda: any(n.endswith(".part") for n in shell.names()), process)
    process.send_signal(signal.SIGINT)
    assert 130 == process.wait(TIMEOUT)
    assert b"" == process.stderr.read()
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()
    assert set() == shell.names()


def test_broken_pipe_is_quiet(shell: Shell, sealed: bytes) -> None:
    """`anyseal cat f | head` is ordinary; what could not be written is an exit code, not a text."""
    shell.path("f.sealed").write_bytes(sealed)
    for args in (
        ("cat", "f.sealed", "-k", "key"),
        ("open", "f.sealed", "-o", "-", "-k", "key"),
        ("inspect", "f.sealed"),
    ):
        reader, writer = os.pipe()
        os.close(reader)
        process = shell.start(*args, stdout=writer)
        os.close(writer)
        assert b"" == process.communicate(timeout=TIMEOUT)[1]
        assert 1 == process.returncode


def test_full_disk_leaves_nothing(shell: Shell) -> None:
    """What the system says, in one line; a limit on file sizes stands in for the disk."""
    shell.path("f").write_bytes(DATA)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ON_SMALL_DISK, *COMMAND, "seal", "f", "-k", "key"],
        cwd=shell.folder,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert (1, b"anyseal: File too large\n") == (done.returncode, done.stderr)
    assert {"f"} == shell.names()


# ---- without the extra ----


def test_missing_extra_is_one_line(tmp_path: Path) -> None:
    """The core does without typer; the command says what to install."""
    tmp_path.joinpath("typer.py").write_text("raise ImportError('not here')\n")
    done = subprocess.run(
        [*COMMAND, "doctor"],
        env=ENVIRONMENT | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert 2 == done.returncode
    expected = b"the command line needs an extra: pip install 'anyseal[cli]'\n"
    assert (b"", expected) == (done.stdout, done.stderr)


def test_import_needs_no_typer() -> None:
    """`import anyseal` stays small; the command line is loaded by the command."""
    code = "import sys, anyseal, anyseal.sync; print({'typer', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=TIMEOUT)
    assert b"set()\n" == done.stdout
