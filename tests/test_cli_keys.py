"""``anyseal keys`` over a metastore on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from anyseal import KeyHierarchy, sync
from anyseal.errors import KeyNotFoundError
from anyseal.kms.static import StaticKms
from anyseal.metastore.sql import SqlMetastore
from anyseal.testing import Clock
from shell import KEY, Shell

DAY = 86400
MASTER = "ab" * 32


class Keys:
    """A shell beside a metastore with the keys of partitions ``a`` and ``b``."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.database = shell.path("keys.db")
        self.settings: dict[str, Any] = {
            "ServiceName": "svc",
            "ProductID": "prod",
            "Metastore": "sqlite",
            "SQLitePath": str(self.database),
            "KMS": "static",
            "StaticMasterKeyHex": MASTER,
            "AllowTestingKms": True,
        }
        self.write(self.settings)
        self.rows = {name: self.seal(name) for name in ("a", "b")}

    def write(self, settings: dict[str, Any]) -> None:
        path = self.shell.path("keys.json")
        path.write_text(json.dumps(settings))
        path.chmod(0o600)

    def factory(self) -> sync.SessionFactory:
        return sync.SessionFactory(
            KeyHierarchy(
                StaticKms(MASTER),
                SqlMetastore(f"sqlite:///{self.database}"),
                service="svc",
                product="prod",
                allow_testing_kms=True,
            )
        )

    def seal(self, partition: str) -> str:
        with self.factory() as factory:
            return factory.session(partition).encrypt(partition.encode())

    def open(self, partition: str) -> bytes:
        with self.factory() as factory:
            return factory.session(partition).decrypt(self.rows[partition])

    def parent(self, row: str) -> str:
        return json.loads(row)["Key"]["ParentKeyMeta"]

    def run(self, *args: str) -> Any:
        done = self.shell.run("keys", *args, "-c", "keys.json")
        assert MASTER.encode() not in done.stdout + done.stderr
        return done

    def ok(self, *args: str) -> str:
        done = self.run(*args)
        assert (0, b"") == (done.returncode, done.stderr)
        return done.stdout.decode()

    def json(self, *args: str) -> Any:
        return json.loads(self.ok(*args, "--json"))

    def fails(self, code: int, message: str, *args: str) -> None:
        self.shell.fails(code, message, "keys", *args, "-c", "keys.json")

    def states(self) -> list[tuple[str, str]]:
        return [(key["id"], key["state"]) for key in self.json("list")]


@pytest.fixture
def keys(shell: Shell) -> Keys:
    return Keys(shell)


SK, A, B = "_SK_svc_prod", "_IK_a_svc_prod", "_IK_b_svc_prod"
ACTIVE = [(A, "active"), (B, "active"), (SK, "active")]


def test_list_shows_keys_to_people_and_programs(keys: Keys) -> None:
    """All of the hierarchy, or one partition's; times in UTC and in seconds."""
    found = keys.json("list")
    assert ACTIVE == [(key["id"], key["state"]) for key in found]
    assert [("intermediate", "a"), ("intermediate", "b"), ("system", None)] == [
        (key["type"], key["partition"]) for key in found
    ]
    assert all(key["latest"] and not key["attention"] for key in found)
    assert all(key["expires"] == key["created"] + 90 * DAY for key in found)
    assert [A] == [key["id"] for key in keys.json("list", "a")]
    table = keys.ok("list")
    assert ["id", "created", "type", "state", "expires", "newest"] == table.split("\n")[0].split()
    assert all(name in table for name in (SK, A, B))
    assert "no keys\n" == keys.ok("list", "nobody")


@pytest.mark.parametrize("command", [("list",), ("audit",), ("rotate",), ("shred", "a", "--yes")])
def test_mistyped_database_is_an_error_and_not_made(keys: Keys, command: tuple[str, ...]) -> None:
    """An empty database would say that there are no keys, and be there the next time."""
    mistyped = keys.shell.path("kyes.db")
    keys.write({**keys.settings, "SQLitePath": str(mistyped)})
    keys.fails(2, "kyes.db: no such database", *command)
    assert not mistyped.exists()


def test_names_from_the_metastore_are_no_terminal_commands(keys: Keys) -> None:
    """A partition may be anything; what is shown of it is text."""
    keys.seal("\x1b[2J[red]x")
    assert "\\x1b[2J[red]x" in keys.ok("list")
    assert "\x1b" not in keys.ok("list")


def test_settings_come_from_toml_or_the_environment(keys: Keys) -> None:
    """The same names as everywhere; no option takes a secret."""
    keys.shell.path("keys.toml").write_text(
        "\n".join(f"{name} = {json.dumps(value)}" for name, value in keys.settings.items())
    )
    keys.shell.path("keys.toml").chmod(0o600)
    assert ACTIVE == [
        (key["id"], key["state"])
        for key in json.loads(keys.shell.ok("keys", "list", "--json", "-c", "keys.toml"))
    ]
    environment = {
        "SERVICE_NAME": "svc",
        "PRODUCT_ID": "prod",
        "METASTORE": "sqlite",
        "SQLITE_PATH": str(keys.database),
        "KMS": "vault",
        "VAULT_ADDR": "https://127.0.0.1:1",
        "VAULT_TOKEN": "t0ken",
        "VAULT_TRANSIT_KEY": "k",
    }
    found = json.loads(keys.shell.ok("keys", "list", "--json", env=environment))
    assert 3 == len(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Metastore": "memory"}, "memory"),
        ({"Metastore": None}, "metastore is missing"),
        ({"Metstore": "sqlite"}, "did you mean 'Metastore'"),
        ({"KMS": "paper"}, "unknown KMS"),
        ({"AllowTestingKms": False}, "KMS meant for testing"),
        ({"StaticMasterKeyHex": "00"}, "64 hexadecimal"),
    ],
)
def test_wrong_settings_are_usage_errors(keys: Keys, change: dict[str, Any], message: str) -> None:
    """One line, exit code 2, before anything is touched."""
    keys.write(keys.settings | change)
    keys.fails(2, message, "list")


def test_config_that_cannot_be_read_is_a_usage_error(shell: Shell) -> None:
    """Missing, or neither JSON nor TOML; and nothing at all in the environment."""
    shell.fails(2, "none.json", "keys", "list", "-c", "none.json")
    shell.path("bad.toml").write_text("{")
    shell.fails(2, "bad.toml", "keys", "list", "-c", "bad.toml")
    shell.fails(2, "is missing", "keys", "list")
    shell.fails(2, "keys --help", "keys")


def test_config_with_secrets_open_to_others_is_warned_about(keys: Keys) -> None:
    """It works, and says so on stderr only."""
    keys.shell.path("keys.json").chmod(0o644)
    done = keys.run("list", "--json")
    assert 0 == done.returncode
    assert b"chmod 600" in done.stderr
    assert 3 == len(json.loads(done.stdout))


def test_metastore_that_fails_is_exit_code_1(keys: Keys) -> None:
    """The system's failure, not the caller's, in one line."""
    keys.write(keys.settings | {"SQLitePath": str(keys.shell.path("no/such/folder.db"))})
    keys.fails(1, "unable to open", "list")


def test_rotate_makes_a_key_and_old_records_open(keys: Keys) -> None:
    """Of a partition, or the system key; what is sealed next is under the new one."""
    before = keys.parent(keys.rows["a"])
    assert A == keys.json("rotate", "a")["id"]
    found = keys.json("list", "a")
    assert [False, True] == [key["latest"] for key in found]
    after = keys.parent(keys.seal("a"))
    assert (before["Created"], after["Created"]) == tuple(key["created"] for key in found)
    assert b"a" == keys.open("a")
    assert SK in keys.ok("rotate")
    assert 2 == sum(key["type"] == "system" for key in keys.json("list"))


def test_rotate_makes_no_partition(keys: Keys) -> None:
    """A misspelt name must not leave a key behind that nobody uses."""
    keys.fails(1, "'A' has no keys", "rotate", "A")
    assert ACTIVE == keys.states()


@pytest.mark.parametrize(
    ("criteria", "revoked"),
    [
        (("--id", A), {A}),
        (("--partition", "b"), {B}),
        (("--type", "system"), {SK}),
        (("--type", "intermediate"), {A, B}),
        (("--created-before", "2100-01-01"), {A, B, SK}),
        (("--created-before", "4102444800", "--type", "intermediate", "--partition", "a"), {A}),
    ],
)
def test_revoke_takes_what_matches_all_criteria(
    keys: Keys, criteria: tuple[str, ...], revoked: set[str]
) -> None:
    """And says how many; once more changes nothing."""
    count = len(revoked)
    assert {"revoked": count, "revoked_before": 0} == keys.json("revoke", *criteria, "--yes")
    assert revoked == {key for key, state in keys.states() if state == "revoked"}
    assert {"revoked": 0, "revoked_before": count} == keys.json("revoke", *criteria)
    assert b"b" == keys.open("b")


def test_revoke_refuses_what_names_nothing(keys: Keys) -> None:
    """No criterion is no wish to revoke everything; a typo is not a success."""
    keys.fails(2, "say which", "revoke", "--yes")
    keys.fails(1, "no key matches", "revoke", "--yes", "--id", "_IK_x_svc_prod")
    keys.fails(1, "no key matches", "revoke", "--yes", "--created-before", "2001-01-01T00:00Z")
    keys.fails(2, "neither", "revoke", "--yes", "--created-before", "tomorrow")
    keys.fails(2, "--type", "revoke", "--yes", "--type", "data")
    assert ACTIVE == keys.states()


@pytest.mark.parametrize("command", [("revoke", "--partition", "a"), ("shred", "a")])
def test_nothing_is_destroyed_unasked(keys: Keys, command: tuple[str, ...]) -> None:
    """Without a terminal to ask on and without --yes: exit code 2, and what it would have done."""
    keys.fails(2, "1 key of partition 'a'.*--yes", *command)
    assert ACTIVE == keys.states()


def test_revoke_asks(keys: Keys) -> None:
    """It shows how many keys and whose; only `yes` goes on."""
    command = ("keys", "revoke", "--type", "intermediate", "-c", "keys.json")
    for answer in ("n", "", "y"):
        code, shown = keys.shell.terminal(*command, answers=(answer,))
        assert 1 == code
        assert "2 keys of 2 partitions: 'a', 'b'" in shown
        assert "nothing is changed" in shown
    assert ACTIVE == keys.states()
    code, shown = keys.shell.terminal(*command, answers=("yes",))
    assert (0, True) == (code, "2 keys revoked" in shown)


def test_shred_asks_for_the_name_and_leaves_nothing_to_open(keys: Keys) -> None:
    """The partition's name, typed; its keys are gone, the others' are not."""
    command = ("keys", "shred", "a", "--no-wait", "-c", "keys.json")
    assert 1 == keys.shell.terminal(*command, answers=("yes",))[0]
    assert ACTIVE == keys.states()
    code, shown = keys.shell.terminal(*command, answers=("a",))
    assert (0, True) == (code, "1 key deleted" in shown), shown
    assert [(B, "active"), (SK, "active")] == keys.states()
    with pytest.raises(KeyNotFoundError):
        keys.open("a")
    assert b"b" == keys.open("b")
    keys.fails(1, "'a' has no keys", "shred", "a", "--yes")


def test_shred_waits_until_no_process_has_the_keys(keys: Keys) -> None:
    """The revoke-check interval of the settings, between revoking and deleting."""
    keys.write(keys.settings | {"CheckInterval": 1})
    start = time.monotonic()
    found = keys.json("shred", "a", "--yes")
    assert ("a", 1) == (found["partition"], found["keys_deleted"])
    assert 1 <= found["waited"] <= time.monotonic() - start


def test_audit_is_an_exit_code(keys: Keys) -> None:
    """0 while the newest keys are active; their successors make old ones unimportant."""
    assert {"attention": 0, "keys": []} == keys.json("audit")
    assert "all keys are active\n" == keys.ok("audit")
    keys.ok("revoke", "--id", A, "--yes")
    done = keys.run("audit", "--json")
    assert (1, b"") == (done.returncode, done.stderr)
    found = json.loads(done.stdout)
    assert (1, [A]) == (found["attention"], [key["id"] for key in found["keys"]])
    assert "1 of 1 needs attention" in keys.run("audit").stdout.decode()
    keys.ok("rotate", "a")
    assert 0 == keys.json("audit")["attention"]
    assert "0 of 1 need attention" in keys.ok("audit")


def test_audit_sees_what_is_about_to_expire(shell: Shell) -> None:
    """Seven days before, or as many as asked for; then expired ones."""
    with Clock(time.time() - 85 * DAY):
        keys = Keys(shell)
    done = keys.run("audit", "--json")
    assert 1 == done.returncode
    assert {"expiring"} == {key["state"] for key in json.loads(done.stdout)["keys"]}
    assert 0 == keys.json("audit", "--within", "2")["attention"]
    keys.write(keys.settings | {"ExpireAfter": 80 * DAY})
    assert {"expired"} == {
        key["state"] for key in json.loads(keys.run("audit", "--json").stdout)["keys"]
    }


def test_other_services_keys_are_left_alone(keys: Keys, tmp_path: Path) -> None:
    """One table may hold several hierarchies: ids tell them apart."""
    keys.write(keys.settings | {"ServiceName": "other"})
    assert "no keys\n" == keys.ok("list")
    keys.fails(1, "no key matches", "revoke", "--yes", "--created-before", "2100-01-01")
    keys.write(keys.settings)
    assert ACTIVE == keys.states()
    assert KEY not in (tmp_path / "keys.json").read_text()


def test_shred_takes_the_largest_policy_of_the_settings_given(keys: Keys) -> None:
    """Another service's longer interval decides how long its processes may go on opening."""
    other = keys.shell.path("other.json")
    other.write_text(json.dumps({**keys.settings, "CheckInterval": 7200, "OutageExtension": 10}))
    command = ("shred", "a", "--yes", "--no-wait")
    found = keys.json(*command, "--other-config", "keys.json", "--other-config", "other.json")
    assert (1, 0.0, 7210.0) == (found["keys_deleted"], found["waited"], found["longest_use"])
    assert 5400.0 == keys.json("shred", "b", "--yes", "--no-wait")["longest_use"]
