"""Adapters that turn anyseal's events into metrics: prometheus_client and OpenTelemetry.

Both are hooks: give one as ``metrics=`` to a key hierarchy. Importing this module imports neither
library; making an adapter does.
"""

from __future__ import annotations

from typing import Any

from anyseal.errors import MissingExtraError
from anyseal.ports import CacheEvent, TimingEvent

__all__ = ["OpenTelemetryMetrics", "PrometheusMetrics"]

_BUCKETS = (1e-6, 2.5e-6, 5e-6, 1e-5, 5e-5, 1e-4, 1e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0, 5.0)


class PrometheusMetrics:
    """A metrics hook over prometheus_client (extra ``prometheus``).

    Metrics: ``anyseal_operation_seconds`` (histogram by operation) and
    ``anyseal_cache_events_total`` (counter by cache and outcome).

    Args:
        registry: Default: prometheus_client's own.
    """

    def __init__(self, registry: Any = None) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise MissingExtraError.of(
                "PrometheusMetrics needs an extra", "anyseal[prometheus]"
            ) from None
        registry = prometheus.REGISTRY if registry is None else registry
        seconds = prometheus.Histogram(
            "anyseal_operation_seconds",
            "Time of encrypt, decrypt, load and store",
            ["operation"],
            buckets=_BUCKETS,
            registry=registry,
        )
        caches = prometheus.Counter(
            "anyseal_cache_events",
            "Look-ups in anyseal's key and session caches",
            ["cache", "outcome"],
            registry=registry,
        )
        self._seconds = {
            name: seconds.labels(name) for name in ("encrypt", "decrypt", "load", "store")
        }
        self._caches = caches

    def __call__(self, event: TimingEvent | CacheEvent, /) -> None:
        """Count one event."""
        if isinstance(event, TimingEvent):
            self._seconds[event.operation].observe(event.duration_ns / 1e9)
        else:
            self._caches.labels(event.cache, event.outcome).inc()


class OpenTelemetryMetrics:
    """A metrics hook over the OpenTelemetry metrics API (extra ``opentelemetry``).

    Instruments: ``anyseal.operation.duration`` (histogram, seconds, attribute ``operation``) and
    ``anyseal.cache.events`` (counter, attributes ``cache`` and ``outcome``).

    Args:
        meter: Default: the global meter provider's meter ``anyseal``.
    """

    def __init__(self, meter: Any = None) -> None:
        if meter is None:
            try:
                from opentelemetry import metrics
            except ImportError:
                raise MissingExtraError.of(
                    "OpenTelemetryMetrics needs an extra", "anyseal[opentelemetry]"
                ) from None
            meter = metrics.get_meter("anyseal")
        self._duration = meter.create_histogram("anyseal.operation.duration", unit="s")
        self._events = meter.create_counter("anyseal.cache.events")

    def __call__(self, event: TimingEvent | CacheEvent, /) -> None:
        """Record one event."""
        if isinstance(event, TimingEvent):
            self._duration.record(event.duration_ns / 1e9, {"operation": event.operation})
        else:
            self._events.add(1, {"cache": event.cache, "outcome": event.outcome})
