"""What an operator watches: requests by operation and status, how long they took, decisions by rung."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from math import inf

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class _Timed:
    """Answers of one operation: how many of each status, how many in each bucket of time, and the time of all."""

    __slots__ = ("in_bucket", "seconds", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.in_bucket = [0] * (len(_BUCKETS_S) + 1)
        self.seconds = 0.0


class Metrics:
    """The metrics of one process, in a registry of their own so that two services in one process do not clash.

    Counted in plain numbers by the one thread that answers, and given Prometheus's form when somebody asks: its own
    counters take a lock for each number.
    """

    def __init__(self, n_unrecorded: Callable[[], int]) -> None:
        self._n_unrecorded = n_unrecorded
        self._operations: dict[str, _Timed] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        timed = self._operations.get(operation)
        if timed is None:
            timed = self._operations[operation] = _Timed()
        timed.statuses[status] = timed.statuses.get(status, 0) + 1
        timed.in_bucket[bisect_left(_BUCKETS_S, seconds)] += 1
        timed.seconds += seconds

    def collect(self) -> Iterator[Metric]:
        """Everything counted so far, as Prometheus's families."""
        requests = CounterMetricFamily("nextoffer_requests", "Answered requests", labels=["operation", "status"])
        times = HistogramMetricFamily("nextoffer_request_seconds", "Time to answer", labels=["operation"])
        for operation, timed in list(self._operations.items()):
            for status, n in list(timed.statuses.items()):
                requests.add_metric([operation, str(status)], n)
            n_so_far, buckets = 0, []
            for limit, n in zip((*_BUCKETS_S, inf), timed.in_bucket, strict=True):
                n_so_far += n
                buckets.append(("+Inf" if limit == inf else str(limit), float(n_so_far)))
            times.add_metric([operation], buckets, sum_value=timed.seconds)
        yield requests
        yield times
        unrecorded = "Decisions answered without a durable log since start"
        yield GaugeMetricFamily("nextoffer_unrecorded_decisions", unrecorded, value=self._n_unrecorded())

    def render(self) -> tuple[bytes, str]:
        """Text form and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
