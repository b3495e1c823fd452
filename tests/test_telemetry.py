"""The adapters for prometheus_client and OpenTelemetry, fed by real sessions."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

from anyseal import ConfigurationError, SessionFactory
from anyseal.ports import CacheEvent, TimingEvent
from anyseal.telemetry import OpenTelemetryMetrics, PrometheusMetrics
from anyseal.testing import memory_hierarchy

EVENTS = [
    *(TimingEvent(name, 1500) for name in ("encrypt", "decrypt", "load", "store")),
    *(
        CacheEvent(outcome, cache)
        for outcome in ("hit", "miss", "stale")
        for cache in ("session", "intermediate-key", "system-key")
    ),
]


async def _use(metrics: Any) -> None:
    """One encrypt and two decrypts."""
    async with SessionFactory(memory_hierarchy(metrics=metrics)) as factory:
        session = factory.session("u1")
        row = await session.encrypt(b"data")
        await session.decrypt(row)
        await session.decrypt(row)


@pytest.mark.anyio
async def test_prometheus_counts_what_sessions_do() -> None:
    """The dashboard's numbers are these."""
    registry = CollectorRegistry()
    await _use(PrometheusMetrics(registry))

    def value(name: str, **labels: str) -> float | None:
        found: float | None = registry.get_sample_value(name, labels)
        return found

    seconds = "anyseal_operation_seconds"
    assert 1 == value(f"{seconds}_count", operation="encrypt")
    assert 2 == value(f"{seconds}_count", operation="decrypt")
    assert 2 == value(f"{seconds}_count", operation="store")
    assert 0 < (value(f"{seconds}_sum", operation="encrypt") or 0) < 5
    events = "anyseal_cache_events_total"
    assert 2 == value(events, cache="intermediate-key", outcome="hit")
    assert 1 == value(events, cache="intermediate-key", outcome="miss")
    assert 1 == value(events, cache="session", outcome="miss")


def test_prometheus_takes_every_event() -> None:
    """A kind of event that raises in the hook would fail the operation."""
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry)
    for event in EVENTS:
        metrics(event)
    assert 1.5e-6 == registry.get_sample_value(
        "anyseal_operation_seconds_sum", {"operation": "load"}
    )


def _points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


@pytest.mark.anyio
async def test_opentelemetry_counts_what_sessions_do() -> None:
    """The same through the other library."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    try:
        await _use(OpenTelemetryMetrics(provider.get_meter("test")))
        points = _points(reader)
    finally:
        provider.shutdown()
    counts = {p.attributes["operation"]: p.count for p in points["anyseal.operation.duration"]}
    assert (1, 2, 2) == (counts["encrypt"], counts["decrypt"], counts["store"])
    events = {
        (p.attributes["cache"], p.attributes["outcome"]): p.value
        for p in points["anyseal.cache.events"]
    }
    assert (2, 1) == (events["intermediate-key", "hit"], events["intermediate-key", "miss"])


def test_opentelemetry_takes_every_event() -> None:
    """With the global meter too, which does nothing until an application sets one."""
    metrics = OpenTelemetryMetrics()
    for event in EVENTS:
        metrics(event)


@pytest.mark.parametrize(
    ("adapter", "module"),
    [(PrometheusMetrics, "prometheus_client"), (OpenTelemetryMetrics, "opentelemetry")],
)
def test_adapter_without_its_library_names_the_extra(
    adapter: Any, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error must say what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'anyseal\["):
        adapter()
