"""The commands that a cache sends to Redis, and what its answers mean. No I/O."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from anyseal.errors import BackendError, ConfigurationError, MissingExtraError

try:
    from redis import exceptions as redis_errors
except ImportError as _exc:  # pragma: no cover - the extra is missing
    raise MissingExtraError.of("Redis needs redis-py", "anyseal[redis]") from _exc

__all__ = [
    "CAS",
    "FAILURES",
    "NAMES_PER_COMMAND",
    "PIECE_BYTES",
    "PUBLISH",
    "PUT_RANGE",
    "SCAN_COUNT",
    "SETTLE",
    "VALUE_MAX_BYTES",
    "Command",
    "Script",
    "ScriptMissingError",
    "backend_error",
    "cas",
    "check_piece",
    "chunked",
    "elsewhere",
    "get_range",
    "glob",
    "patience",
    "publish",
    "put_range",
    "routed_by",
    "scanned",
    "set_command",
    "settle",
    "with_source",
    "written",
]

Command = tuple[str | bytes | int, ...]

NAMES_PER_COMMAND: Final = 256
"""Names in one MGET or UNLINK: Redis serves nobody else in the meantime."""
SCAN_COUNT: Final = 1000
PIECE_BYTES: Final = 1 << 20
VALUE_MAX_BYTES: Final = 16 << 20
"""Of one entry, to write and to read; larger values are stored in pieces."""

FAILURES: Final = (
    redis_errors.RedisError,
    redis_errors.RedisClusterException,
    OSError,
    EOFError,
    asyncio.TimeoutError,
)
"""What redis-py raises when Redis does not answer, or not usably."""

# The outcome of the others may change by itself; these stay what they are.
_FINAL = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.DataError,
    redis_errors.InvalidResponse,
    redis_errors.ResponseError,
)
_ELSEWHERE = (
    redis_errors.AskError,  # and MovedError
    redis_errors.ClusterDownError,
    redis_errors.ReadOnlyError,
    redis_errors.TryAgainError,
)
_PASSING = (*_ELSEWHERE, redis_errors.MasterDownError, redis_errors.NoScriptError)


class ScriptMissingError(BackendError):
    """Redis does not have the script: send its source."""


class Script:
    """A Lua script and the name that Redis knows it by."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        # Not security: it is how EVALSHA names scripts.
        self.sha = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def command(self, keys: Sequence[str], *arguments: bytes | int) -> Command:
        """Run it, if Redis has it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)


def with_source(command: Command) -> Command:
    """An EVALSHA with the script's source in place of its name."""
    script = next(
        script for script in (CAS, SETTLE, PUT_RANGE, PUBLISH) if script.sha == command[1]
    )
    return ("EVAL", script.source, *command[2:])


CAS: Final = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if #ARGV == 1 then redis.call('UNLINK', KEYS[1])
elseif ARGV[3] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else redis.call('SET', KEYS[1], ARGV[2]) end
return 1
"""
)

SETTLE: Final = Script(
    """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
if ARGV[3] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else redis.call('SET', KEYS[1], ARGV[2]) end
redis.call('UNLINK', unpack(KEYS, 2))
return 1
"""
)

PUT_RANGE: Final = Script(
    """
if redis.call('STRLEN', KEYS[1]) < tonumber(ARGV[1]) then return 0 end
redis.call('SETRANGE', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
)

PUBLISH: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('UNLINK', KEYS[2])
redis.call('RENAME', KEYS[1], KEYS[2])
if ARGV[2] then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
  redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[2])
else
  redis.call('PERSIST', KEYS[2])
  redis.call('SET', KEYS[3], ARGV[1])
end
return 1
"""
)


def set_command(name: str, value: bytes, ttl_ms: int | None, if_absent: bool) -> Command:
    """SET, with what limits it. Raises BackendError for what would be too large to be read."""
    if len(value) > VALUE_MAX_BYTES:
        error = BackendError(
            f"SET: Redis takes values up to {VALUE_MAX_BYTES} bytes: lower the policy's large_bytes"
        )
        error.retryable = False
        raise error
    if ttl_ms is None:
        return ("SET", name, value, "NX") if if_absent else ("SET", name, value)
    if if_absent:
        return ("SET", name, value, "PX", ttl_ms, "NX")
    return ("SET", name, value, "PX", ttl_ms)


def cas(name: str, expected: bytes, value: bytes | None, ttl_ms: int | None) -> Command:
    """Compare and set, or compare and delete."""
    if value is None:
        return CAS.command([name], expected)
    if ttl_ms is None:
        return CAS.command([name], expected, value)
    return CAS.command([name], expected, value, ttl_ms)


def settle(
    name: str, value: bytes, lock: str, owner: bytes, others: Sequence[str], ttl_ms: int | None
) -> Command:
    """Store a value, and end the lease and what belonged to the value before, in one step; nothing
    if the lease is not *owner*'s."""
    limits = () if ttl_ms is None else (ttl_ms,)
    return SETTLE.command([name, lock, *others], owner, value, *limits)


def put_range(name: str, offset: int, data: bytes, ttl_ms: int) -> Command:
    """Write into a value, leaving no gap, and say how long it lives, in one step."""
    return PUT_RANGE.command([name], offset, data, ttl_ms)


def routed_by(command: Command) -> str:
    """The name that decides which node of a cluster serves *command*."""
    return str(command[3] if command[0] in ("EVALSHA", "EVAL") else command[1])


def written(answer: Any) -> None:
    """Refuse what would have left a gap: the value is not what the caller wrote before."""
    if not answer:
        error = BackendError("SETRANGE: the offset is beyond the end of the value")
        error.retryable = False
        raise error


def publish(temporary: str, final: str, name: str, value: bytes, ttl_ms: int | None) -> Command:
    """Rename a value and store the one that speaks of it, in one step."""
    limits = () if ttl_ms is None else (ttl_ms,)
    return PUBLISH.command([temporary, final, name], value, *limits)


def get_range(name: str, offset: int, length: int) -> Command:
    """GETRANGE, which wants the last position."""
    return ("GETRANGE", name, offset, offset + length - 1)


def glob(prefix: str) -> str:
    """The pattern that matches what begins with *prefix*, whatever characters it has."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", prefix) + "*"


def scanned(names: Iterable[bytes | str]) -> list[str]:
    """The names in an answer to SCAN, without those that no cache of ours has written."""
    found = (name if isinstance(name, str) else name.decode("latin-1") for name in names)
    return [name for name in found if name.isascii()]


def chunked(names: Sequence[str]) -> Iterable[Sequence[str]]:
    """*names* in as many pieces as there must be commands."""
    if len(names) <= NAMES_PER_COMMAND:
        return (names,) if names else ()
    step = NAMES_PER_COMMAND
    return [names[start : start + step] for start in range(0, len(names), step)]


def backend_error(command: str, cause: BaseException) -> BackendError:
    """A BackendError that says which command failed how, and nothing of what it carried.

    Not what redis-py says: that may quote a whole command, with names and values.
    """
    timed_out = isinstance(cause, (asyncio.TimeoutError, redis_errors.TimeoutError))
    reason = "no answer in time" if timed_out else type(cause).__name__
    missing = isinstance(cause, redis_errors.NoScriptError)
    error = (ScriptMissingError if missing else BackendError)(f"{command}: {reason}")
    error.retryable = isinstance(cause, _PASSING) or not isinstance(cause, _FINAL)
    error.refused = isinstance(cause, redis_errors.ResponseError)
    return error


def elsewhere(reply: Any) -> bool:
    """Whether another node of the cluster serves this name, or none at the moment."""
    return isinstance(reply, _ELSEWHERE)


def check_piece(size: int) -> None:
    """Refuse what would hold up Redis, and everybody's answers, too long."""
    if size > PIECE_BYTES:
        raise ValueError(f"a piece has at most {PIECE_BYTES} bytes")


def patience(timeout: float) -> float:
    """Refuse settings that would wait forever or never try."""
    if not 0 < timeout <= 300:
        raise ConfigurationError("timeout must be above 0 and at most 300 seconds")
    return timeout
