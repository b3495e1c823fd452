"""memcached's text protocol, as far as the cache uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import BinaryIO, Final

from evil.server import HUGE, KEEP, Frames, endless

__all__ = ["LINES", "MemcachedProtocol"]

LINES: Final[Mapping[str, bytes]] = {
    "error": b"ERROR\r\n",
    "client_error": b"CLIENT_ERROR no\r\n",
    "server_error": b"SERVER_ERROR no\r\n",
    "not_a_line_of_its": b"+OK\r\n",
    "empty_line": b"\r\n",
    "value_without_parts": b"VALUE\r\nEND\r\n",
    "value_of_one_part": b"VALUE a\r\nEND\r\n",
    "value_of_no_size": b"VALUE a 0 x\r\nEND\r\n",
    "value_of_negative_size": b"VALUE a 0 -5\r\nEND\r\n",
    "value_of_no_flags": b"VALUE a x 1\r\nx\r\nEND\r\n",
    "value_of_another_name": b"VALUE other 0 1 7\r\nx\r\nEND\r\n",
    "value_of_a_name_not_ascii": b"VALUE \xff\xfe 0 1 7\r\nx\r\nEND\r\n",
    "value_of_no_version": b"VALUE a 0 1 x y z\r\nx\r\nEND\r\n",
    "wrong_word": b"TOUCHED\r\n",
}
"""Answers that no command of ours is given."""


class MemcachedProtocol:
    """Answers well as a server whose every name holds ``value-of-NAME``."""

    def read(self, stream: BinaryIO) -> list[bytes] | None:
        parts = stream.readline().split()
        if not parts:
            return None
        if parts[0] in (b"set", b"add", b"cas"):
            stream.read(int(parts[4]) + 2)
        return parts

    def spared(self, request: list[bytes]) -> bool:
        return False

    def good(self, request: list[bytes]) -> bytes:
        verb, *args = request
        if verb in (b"get", b"gets"):
            found = b""
            version = b" 7" if verb == b"gets" else b""
            for name in args:
                value = b"value-of-" + name
                found += b"VALUE %b 0 %d%b\r\n%b\r\n" % (name, len(value), version, value)
            return found + b"END\r\n"
        return b"DELETED\r\n" if verb == b"delete" else b"STORED\r\n"

    def frames(self, request: list[bytes]) -> Mapping[str, Callable[[], Frames]]:
        found: dict[str, Callable[[], Frames]] = {
            name: (lambda line=line: iter((line, KEEP)))  # type: ignore[misc]
            for name, line in LINES.items()
        }
        name = request[1] if len(request) > 1 else b"a"
        found |= {
            "huge_value": endless(b"VALUE %b 0 %d 7\r\n" % (name, HUGE)),
            "large_value": endless(b"VALUE %b 0 %d 7\r\n" % (name, 1 << 34)),
            "endless_values": endless(b"", b"VALUE %b 0 1 7\r\nx\r\n" % name * 1000),
            "endless_line": endless(b"VALUE ", b"a" * 65536),
            "endless_error": endless(b"SERVER_ERROR ", b"a" * 65536),
        }
        return found
