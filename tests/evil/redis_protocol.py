"""Redis, as far as the cache uses it: one server, which may say that it is a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO, Final

from evil.server import HUGE, KEEP, Frames, endless

__all__ = ["SHAPES", "RedisProtocol"]

HANDSHAKE: Final = frozenset(
    {b"HELLO", b"CLIENT", b"AUTH", b"SELECT", b"CLUSTER", b"COMMAND", b"SENTINEL", b"READONLY"}
)
SHAPES: Final[Mapping[str, bytes]] = {
    "integer": b":42\r\n",
    "negative": b":-7\r\n",
    "big_integer": b":99999999999999999999\r\n",
    "empty_array": b"*0\r\n",
    "null_array": b"*-1\r\n",
    "null_bulk": b"$-1\r\n",
    "null": b"_\r\n",
    "true": b"#t\r\n",
    "double": b",1.5\r\n",
    "nan": b",nan\r\n",
    "big_number": b"(3492890328409238509324850943850943825024385\r\n",
    "verbatim": b"=7\r\ntxt:abc\r\n",
    "array_of_integer": b"*1\r\n:7\r\n",
    "array_of_null_and_integer": b"*2\r\n_\r\n:7\r\n",
    "array_of_array": b"*1\r\n*1\r\n$1\r\nx\r\n",
    "array_of_many": b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    "array_of_error": b"*1\r\n-ERR inner\r\n",
    "array_of_true": b"*1\r\n#t\r\n",
    "array_of_status": b"*1\r\n+OK\r\n",
    "map": b"%1\r\n$1\r\nk\r\n$1\r\nv\r\n",
    "map_of_arrays": b"%1\r\n*1\r\n:1\r\n:2\r\n",
    "set": b"~2\r\n:1\r\n:2\r\n",
    "set_of_arrays": b"~1\r\n*1\r\n:1\r\n",
    "push": b">2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n",
    "status": b"+QUEUED\r\n",
    "empty_status": b"+\r\n",
    "bulk": b"$3\r\nabc\r\n",
    "empty_bulk": b"$0\r\n\r\n",
    "not_utf8": b"$2\r\n\xff\xfe\r\n",
    "error": b"-ERR no\r\n",
    "empty_error": b"-\r\n",
    "wrongtype": b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
    "noscript": b"-NOSCRIPT No matching script\r\n",
    "moved": b"-MOVED 1 127.0.0.1:1\r\n",
    "moved_nonsense": b"-MOVED\r\n",
    "ask_nonsense": b"-ASK x y\r\n",
    "loading": b"-LOADING Redis is loading\r\n",
    "error_in_an_array": b"*2\r\n-MOVED 1 x:y\r\n-ERR\r\n",
    "scan_of_nothing": b"*2\r\n$1\r\n0\r\n_\r\n",
    "scan_of_integers": b"*2\r\n$1\r\n0\r\n*2\r\n:1\r\n:2\r\n",
    "scan_of_no_cursor": b"*2\r\n$1\r\nx\r\n*0\r\n",
    "scan_of_a_negative_cursor": b"*2\r\n$2\r\n-1\r\n*0\r\n",
    "scan_of_a_list_cursor": b"*2\r\n*1\r\n:1\r\n*0\r\n",
    "scan_of_an_endless_cursor": b"*2\r\n$5000\r\n" + b"9" * 5000 + b"\r\n*0\r\n",
    "nonsense_type": b"?5\r\n",
    "nonsense_length": b"$abc\r\n",
    "negative_length": b"$-5\r\n",
}
"""Answers that are Redis's own form, or nearly, but what no command of ours is answered."""


def array(*items: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


COMMANDS: Final = (b"mget", b"get", b"set", b"unlink", b"getrange", b"exists")


def _described(command: bytes) -> bytes:
    """What redis-py's cluster asks for: which arguments of a command are keys."""
    last = b":-1\r\n" if command in (b"mget", b"unlink", b"exists") else b":1\r\n"
    return array(bulk(command), b":-2\r\n", array(), b":1\r\n", last, b":1\r\n", array())


class RedisProtocol:
    """Answers well as a server whose every name holds ``value-of-NAME``.

    Args:
        cluster: Whether it says, when asked, that it serves all slots of a cluster.
    """

    def __init__(self, *, cluster: bool = False) -> None:
        self.cluster = cluster
        self.port = 0

    def read(self, stream: BinaryIO) -> list[bytes] | None:
        head = stream.readline()
        if not head.startswith(b"*"):
            return None
        parts = []
        for _ in range(int(head[1:])):
            size = int(stream.readline()[1:])
            parts.append(stream.read(size))
            stream.read(2)
        return parts

    def spared(self, request: list[bytes]) -> bool:
        return request[0].upper() in HANDSHAKE

    def good(self, request: list[bytes]) -> bytes:
        verb, *args = request
        name = verb.upper()
        if name == b"HELLO":
            return b"%3\r\n+server\r\n+redis\r\n+version\r\n+7.2.0\r\n+proto\r\n:3\r\n"
        if name == b"MGET":
            return array(*(bulk(b"value-of-" + each) for each in args))
        if name == b"GET":
            return bulk(b"value-of-" + args[0])
        if name == b"GETRANGE":
            return bulk(bytes(int(args[2]) - int(args[1]) + 1))
        if name in (b"UNLINK", b"EXISTS"):
            return b":%d\r\n" % len(args)
        if name in (b"EVALSHA", b"EVAL"):
            return b":1\r\n"
        if name == b"SCAN":
            return array(bulk(b"0"), array(bulk(args[2].rstrip(b"*").replace(b"\\", b"") + b"x")))
        if name == b"CLUSTER":
            return self._slots()
        if name == b"SENTINEL":
            return array(array(*map(bulk, self._master())))
        if name == b"DBSIZE":
            return b":1\r\n"
        if name == b"COMMAND":
            return array(*(_described(each) for each in COMMANDS))
        return b"+OK\r\n"

    def _master(self) -> list[bytes]:
        port = b"%d" % self.port
        return [
            b"name", b"service", b"ip", b"127.0.0.1", b"port", port, b"flags", b"master",
            b"num-other-sentinels", b"0", b"num-slaves", b"0",
        ]  # fmt: skip

    def _slots(self) -> bytes:
        node = array(bulk(b"127.0.0.1"), b":%d\r\n" % self.port, bulk(b"a" * 40), array())
        return array(array(b":0\r\n", b":16383\r\n", node))

    def frames(self, request: list[bytes]) -> Mapping[str, Callable[[], Frames]]:
        found: dict[str, Callable[[], Frames]] = {
            name: (lambda answer=answer: iter((answer, KEEP)))  # type: ignore[misc]
            for name, answer in SHAPES.items()
        }
        found |= {
            "huge_bulk": endless(b"$%d\r\n" % HUGE),
            "huge_bulk_in_array": endless(b"*1\r\n$%d\r\n" % HUGE),
            "large_bulk_in_array": endless(b"*1\r\n$%d\r\n" % (1 << 34)),
            "too_huge_bulk": endless(b"$%d\r\n" % (HUGE + 1)),
            "huge_array": endless(b"*%d\r\n" % HUGE, b":1\r\n" * 4096),
            "large_array": endless(b"*4000000000\r\n", b":1\r\n" * 4096),
            "huge_map": endless(b"%%%d\r\n" % HUGE, b":1\r\n" * 4096),
            "large_map": endless(b"%1000000000\r\n", b":1\r\n" * 4096),
            "huge_push": endless(b">1000000000\r\n", b":1\r\n" * 4096),
            "endless_pushes": endless(b"", b">2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n" * 1000),
            "endless_nesting": endless(b"", b"*1\r\n" * 4096),
            "endless_nested_huge": endless(b"", b"*4000000000\r\n" * 1024),
            "endless_status": endless(b"+", b"a" * 65536),
            "endless_error": endless(b"-ERR ", b"a" * 65536),
            "endless_integer": endless(b":", b"1" * 65536),
            "endless_length": endless(b"$", b"1" * 65536),
            "endless_verbatim": endless(b"=%d\r\ntxt:" % HUGE),
            "endless_attributes": endless(b"", b"|1\r\n+k\r\n+v\r\n" * 1000),
        }
        if request[0].upper() == b"SCAN":
            found["same_cursor"] = lambda: iter((array(bulk(b"7"), array()), KEEP))
            cursor = bulk(b"%d" % (int(request[1]) + 1))
            found["new_cursors"] = lambda: iter((array(cursor, array()), KEEP))
            two = bulk(b"8" if request[1] == b"7" else b"7")
            found["two_cursors"] = lambda: iter((array(two, array()), KEEP))
            found["endless_names"] = endless(
                b"*2\r\n$1\r\n0\r\n*100000000\r\n", bulk(b"n" * 100) * 500
            )
        return found
