"""What caches and decorators are told, checked when they are made. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from anyseal.cache.entry import TAGS_MAX
from anyseal.cache.policy import UNSET, CachePolicy, seconds_of
from anyseal.errors import ConfigurationError
from anyseal.hints import not_keyring
from anyseal.keys import Key
from anyseal.ports import Backend, BlockingBackend, Keyring, NamingKeyring

__all__ = ["check_backend", "check_keyring", "check_options", "check_settings", "items_of",
           "one_partition", "several", "tag_names"]  # fmt: skip

NAME_MAX_BYTES = 4096


def check_backend(backend: Any, *, waits: bool) -> None:
    """Raises TypeError unless *backend* is one for the async cache (*waits*), or for the sync one.

    The message says what was meant instead.
    """
    kind, other = (Backend, BlockingBackend) if waits else (BlockingBackend, Backend)
    name = backend.__name__ if isinstance(backend, type) else type(backend).__name__
    face, wanted = ("anyseal.cache", "an async") if waits else ("anyseal.sync", "a blocking")
    if isinstance(backend, type):
        raise TypeError(f"backend must be an object, not the class {name}")
    if isinstance(backend, kind):
        return
    if isinstance(backend, str):
        hint = f"{face}.backend_from_url makes one of a URL"
    elif isinstance(backend, other):
        theirs, its = ("anyseal.sync", "a blocking") if waits else ("anyseal.cache", "an async")
        hint = f"it is {its} one, for {theirs}.Cache; those for this cache are in {face}"
    elif type(backend).__module__.partition(".")[0] == "redis":
        hint = f"{face}.RedisBackend(client) makes one of a client of redis-py"
    else:
        hint = f"see those in {face}"
    raise TypeError(f"{name} is not {wanted} backend: {hint}")


def check_keyring(keyring: Any, name_key: Key | None) -> None:
    """Raises TypeError, or ConfigurationError if there is no key for names."""
    if not isinstance(keyring, (Key, Keyring)):
        raise not_keyring(keyring)
    if name_key is None and not isinstance(keyring, (Key, NamingKeyring)):
        raise ConfigurationError(f"{type(keyring).__name__} has no key for names: name_key=")


def check_settings(
    *, policy: Any, plain_keys: Any, name_key: Any, **hooks: Callable[..., Any] | None
) -> None:
    """Raises TypeError for a setting of another type."""
    _check(policy, "policy", policy is None or isinstance(policy, CachePolicy), "a CachePolicy")
    _check(plain_keys, "plain_keys", isinstance(plain_keys, bool), "True or False")
    _check(name_key, "name_key", name_key is None or isinstance(name_key, Key), "a Key")
    for name, hook in hooks.items():
        _check(hook, name, hook is None or callable(hook), "a function")


def _check(value: Any, name: str, fits: bool, wanted: str) -> None:
    if not fits:
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def tag_names(tags: Any) -> tuple[str, ...]:
    """*tags* as a tuple; a single str is none. Raises TypeError."""
    if isinstance(tags, Iterable) and not isinstance(tags, (str, bytes)):
        found = tuple(tags)
        if all(isinstance(tag, str) for tag in found):
            return found
    raise TypeError("tags must be a sequence of str")


def several(keys: Iterable[str | bytes]) -> Iterable[str | bytes]:
    """*keys*, which must not be a single one. Raises TypeError."""
    if isinstance(keys, (str, bytes)):
        raise TypeError("keys must be an iterable of keys, not a single one")
    return keys


def one_partition(partition: str | None) -> str:
    """*partition*, which must be given where names cannot be listed. Raises ConfigurationError."""
    if partition is None:
        raise ConfigurationError("this backend cannot list names: clear one partition at a time")
    return partition


def items_of(items: Any) -> Iterable[tuple[Any, Any]]:
    """Keys and values of a mapping. Raises TypeError."""
    _check(items, "items", isinstance(items, Mapping), "a mapping of keys to values")
    pairs: Iterable[tuple[Any, Any]] = items.items()
    return pairs


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a decorator.

    Raises:
        TypeError: One is of another type.
        ValueError: One is out of bounds.
    """
    found = dict(options)
    if found["ttl"] is not UNSET and not callable(found["ttl"]):
        seconds_of(found["ttl"])
    for name in ("key", "condition"):
        _check(found[name], name, found[name] is None or callable(found[name]), "a function")
    of_self = found["of_self"]
    _check(of_self, "of_self", of_self in (..., None) or callable(of_self), "a function or None")
    partition = found["partition"]
    fits = isinstance(partition, (str, ContextVar)) or callable(partition)
    _check(partition, "partition", fits, "a str, a function of the arguments or a ContextVar")
    if not callable(found["tags"]):
        found["tags"] = tag_names(found["tags"])
        if len(found["tags"]) > TAGS_MAX:
            raise ValueError(f"an entry has at most {TAGS_MAX} tags")
    for name in ("strict", "shared"):
        _check(found[name], name, isinstance(found[name], bool), "True or False")
    found["exceptions"] = _classes(found["exceptions"])
    _check_name(found["name"])
    return found


def _classes(exceptions: Any) -> tuple[type[Exception], ...]:
    if isinstance(exceptions, Iterable) and not isinstance(exceptions, (str, bytes, type)):
        found = tuple(exceptions)
        if all(isinstance(each, type) and issubclass(each, Exception) for each in found):
            return found
    raise TypeError("exceptions must be a sequence of classes of exceptions")


def _check_name(name: Any) -> None:
    _check(name, "name", name is None or isinstance(name, str), "a str")
    if name is not None and not 1 <= len(name.encode(errors="surrogatepass")) <= NAME_MAX_BYTES:
        raise ValueError(f"name must have 1 to {NAME_MAX_BYTES} bytes in UTF-8")
