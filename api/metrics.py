"""What an operator watches: requests by operation and status, how long they took, decisions by rung."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    """The metrics of one process, in a registry of their own so that two services in one process do not clash."""

    def __init__(self, n_unrecorded: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "nextoffer_requests", "Answered requests", ["operation", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "nextoffer_request_seconds", "Time to answer", ["operation"], buckets=_BUCKETS_S, registry=self._registry
        )
        self.n_unrecorded = Gauge(
            "nextoffer_unrecorded_decisions",
            "Decisions answered without a durable log since start",
            registry=self._registry,
        )
        # labels() takes a lock and a dict of strings each time; the hot path keeps the children.
        self._children: dict[tuple[str, int], Counter] = {}
        self._histograms: dict[str, Histogram] = {}

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        counter = self._children.get((operation, status))
        if counter is None:
            counter = self._children[operation, status] = self._requests.labels(operation, str(status))
        counter.inc()
        histogram = self._histograms.get(operation)
        if histogram is None:
            histogram = self._histograms[operation] = self._seconds.labels(operation)
        histogram.observe(seconds)

    def render(self) -> tuple[bytes, str]:
        """Text form and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
