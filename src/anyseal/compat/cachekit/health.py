"""Health, as cachekit tells it: of one function, and of the Redis that the environment names."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anyseal import offload
from anyseal.compat.cachekit.config import CircuitBreakerConfig
from anyseal.compat.cachekit.redis_store import RedisStore
from anyseal.compat.cachekit.stores import environment_store

if TYPE_CHECKING:
    from anyseal.cache.breaker import Circuits

__all__ = [
    "ComponentHealth",
    "HealthCheckResult",
    "HealthChecker",
    "HealthLevel",
    "HealthStatus",
    "async_health_check_handler",
    "function_health",
    "get_health_checker",
    "health_check_handler",
]

KEPT_SECONDS = 10.0
"""For so long an answer is given again, unless a fresh one is asked for."""


class HealthStatus(enum.Enum):
    """How a component does."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class HealthLevel(enum.Enum):
    """What is looked at: only the backend, or what is known of it as well."""

    PING = "ping"
    BASIC = "basic"
    FULL = "full"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclasses.dataclass
class ComponentHealth:
    """How one component does."""

    name: str
    status: HealthStatus
    message: str = ""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    last_check: datetime.datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "status": self.status.value,
            "message": self.message,
            "details": self.details,
            "last_check": None if self.last_check is None else self.last_check.isoformat(),
        }


@dataclasses.dataclass
class HealthCheckResult:
    """How all components do."""

    status: HealthStatus
    components: list[ComponentHealth]
    duration_ms: float
    timestamp: datetime.datetime = dataclasses.field(default_factory=_now)

    @property
    def is_healthy(self) -> bool:
        """Whether the cache works, well or not."""
        return self.status is not HealthStatus.UNHEALTHY

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "status": self.status.value,
            "timestamp": self.timestamp.isoformat(),
            "duration_ms": self.duration_ms,
            "components": [each.to_dict() for each in self.components],
            "healthy": self.is_healthy,
        }


class HealthChecker:
    """Asks the Redis of the environment whether it answers.

    Args:
        timeout_seconds: Kept for callers; the backend's own timeout of 5 seconds bounds a check.
    """

    def __init__(self, timeout_seconds: float = 5.0) -> None:
        self.timeout = timeout_seconds
        self._kept: tuple[float, HealthLevel, HealthCheckResult] | None = None

    def quick_ping(self) -> bool:
        """Whether Redis answers."""
        return _redis_health().status is HealthStatus.HEALTHY

    def check_health(
        self, force: bool = False, level: HealthLevel = HealthLevel.FULL
    ) -> HealthCheckResult:
        """How the cache does.

        Args:
            force: Ask, even if the last answer is not 10 seconds old.
            level: What to look at.
        """
        kept = None if force else self._last(level)
        if kept is not None:
            return kept
        began = time.perf_counter()
        return self._result(_redis_health(), began, level)

    async def check_health_async(
        self, force: bool = False, level: HealthLevel = HealthLevel.FULL
    ) -> HealthCheckResult:
        """:meth:`check_health`, without blocking the event loop."""
        kept = None if force else self._last(level)
        if kept is not None:
            return kept
        began = time.perf_counter()
        return self._result(await offload.run_waiting(_redis_health), began, level)

    def _last(self, level: HealthLevel) -> HealthCheckResult | None:
        if self._kept is None or time.monotonic() - self._kept[0] >= KEPT_SECONDS:
            return None
        return self._kept[2] if self._kept[1] is level else None

    def _result(
        self, redis: ComponentHealth, began: float, level: HealthLevel
    ) -> HealthCheckResult:
        components = [redis]
        if level is not HealthLevel.PING:
            told = "each function has its own: get_health_status()"
            components.append(
                ComponentHealth("circuit_breaker", HealthStatus.HEALTHY, told, last_check=_now())
            )
        result = HealthCheckResult(redis.status, components, (time.perf_counter() - began) * 1000)
        self._kept = time.monotonic(), level, result
        return result


def _redis_health() -> ComponentHealth:
    """Whether the store of the environment answers. Never raises, and quotes no address."""
    began = time.perf_counter()
    try:
        store = environment_store(encrypted=True)
        if isinstance(store, RedisStore):
            store.ping()
        status, message = HealthStatus.HEALTHY, "Redis is responsive"
        details: dict[str, Any] = {"latency_ms": (time.perf_counter() - began) * 1000}
    except Exception as exc:
        kind = type(exc).__name__
        status, message = HealthStatus.UNHEALTHY, f"Redis health check failed: {kind}"
        details = {"error_type": kind}
    return ComponentHealth("redis", status, message, details, _now())


_checkers: dict[int, HealthChecker] = {}


def get_health_checker(timeout_seconds: float = 5.0) -> HealthChecker:
    """This process's checker."""
    return _checkers.setdefault(os.getpid(), HealthChecker(timeout_seconds))


def health_check_handler(force: bool = False) -> dict[str, Any]:
    """The answer of a health endpoint, for JSON."""
    return get_health_checker().check_health(force=force).to_dict()


async def async_health_check_handler(force: bool = False) -> dict[str, Any]:
    """:func:`health_check_handler` for async frameworks."""
    return (await get_health_checker().check_health_async(force=force)).to_dict()


def function_health(
    circuits: Circuits, config: CircuitBreakerConfig, namespace: str | None
) -> Callable[[], dict[str, Any]]:
    """What ``get_health_status`` of a function is: reads no backend, so it is the same for ``def``
    and ``async def``."""

    def get_health_status() -> dict[str, Any]:
        """How the backend did so far, as this function saw it."""
        state = circuits.state
        breaker = None
        if state != "off":
            breaker = {
                "state": state.replace("-", "_"),
                "reads": circuits.reads.state,
                "writes": circuits.writes.state,
                "namespace": namespace or "default",
                "config": {
                    "failure_threshold": config.failure_threshold,
                    "success_threshold": config.success_threshold,
                    "timeout_seconds": config.recovery_timeout,
                    "half_open_requests": config.half_open_requests,
                },
            }
        healthy = state != "open"
        return {
            "namespace": namespace or "default",
            "overall_healthy": healthy,
            "healthy": healthy,
            "components": {} if breaker is None else {"circuit_breaker": breaker},
            "circuit_breaker": breaker,
        }

    return get_health_status
