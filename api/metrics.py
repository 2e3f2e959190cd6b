"""What an operator watches: requests by operation and status, how long they took, decisions that are not on disk."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from time import monotonic

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_SHARE_S = 1.0


@dataclass(slots=True)
class Timed:
    """Answers of one operation: how many of each status, how many in each bucket of time, and the time of all."""

    statuses: dict[int, int] = field(default_factory=dict)
    in_bucket: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS_S) + 1))
    seconds: float = 0.0


@dataclass(slots=True)
class Counts:
    """Everything that one worker has counted."""

    operations: dict[str, Timed] = field(default_factory=dict)
    n_unrecorded: int = 0


class Metrics:
    """The metrics of a server, in a registry of their own so that two services in one process do not clash.

    Counted in plain numbers by the one thread that answers, and given Prometheus's form when somebody asks: its own
    counters take a lock for each number. Where several workers share a port, each leaves its counts in a folder once a second,
    and whichever is asked answers for all, by worker; one that was started again goes on from where the last one stopped.

    Parameters
    ----------
    shared
        The folder; None where there is one worker.
    """

    def __init__(self, n_unrecorded: Callable[[], int], *, worker: int = 0, shared: Path | None = None) -> None:
        self._n_unrecorded = n_unrecorded
        self._worker = worker
        self._shared = shared
        self._shared_at = monotonic()
        self._counts = Counts() if shared is None else _read(_file(shared, worker))
        self._n_before = self._counts.n_unrecorded
        self._operations = self._counts.operations
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def observe(self, operation: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        timed = self._operations.get(operation)
        if timed is None:
            timed = self._operations[operation] = Timed()
        timed.statuses[status] = timed.statuses.get(status, 0) + 1
        timed.in_bucket[bisect_left(_BUCKETS_S, seconds)] += 1
        timed.seconds += seconds
        if self._shared is not None and monotonic() - self._shared_at > _SHARE_S:
            self.share()

    def share(self) -> None:
        """Leave the counts where other workers find them."""
        self._shared_at = monotonic()
        self._counts.n_unrecorded = self._n_before + self._n_unrecorded()
        if self._shared is None:
            return
        path = _file(self._shared, self._worker)
        scratch = path.with_suffix(".new")
        with suppress(OSError):  # a full disk must not fail the request that is counted
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(asdict(self._counts)), encoding="utf-8")
            scratch.replace(path)

    def collect(self) -> Iterator[Metric]:
        """Everything counted so far, as Prometheus's families."""
        self.share()
        of_workers = {self._worker: self._counts}
        if self._shared is not None:
            of_workers = {int(path.stem): _read(path) for path in sorted(self._shared.glob("*.json"))}
        requests = CounterMetricFamily(
            "nextoffer_requests", "Answered requests", labels=["worker", "operation", "status"]
        )
        times = HistogramMetricFamily("nextoffer_request_seconds", "Time to answer", labels=["worker", "operation"])
        unrecorded = GaugeMetricFamily(
            "nextoffer_unrecorded_decisions", "Decisions answered without a durable log since start", labels=["worker"]
        )
        for worker, counts in of_workers.items():
            unrecorded.add_metric([str(worker)], counts.n_unrecorded)
            for operation, timed in list(counts.operations.items()):
                for status, n in list(timed.statuses.items()):
                    requests.add_metric([str(worker), operation, str(status)], n)
                n_so_far, buckets = 0, []
                for limit, n in zip((*_BUCKETS_S, inf), timed.in_bucket, strict=True):
                    n_so_far += n
                    buckets.append(("+Inf" if limit == inf else str(limit), float(n_so_far)))
                times.add_metric([str(worker), operation], buckets, sum_value=timed.seconds)
        yield requests
        yield times
        yield unrecorded

    def render(self) -> tuple[bytes, str]:
        """Text form and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


def _file(shared: Path, worker: int) -> Path:
    return shared / f"{worker}.json"


def _read(path: Path) -> Counts:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Counts()
    operations = {
        name: Timed({int(status): n for status, n in t["statuses"].items()}, t["in_bucket"], t["seconds"])
        for name, t in found["operations"].items()
    }
    return Counts(operations, found["n_unrecorded"])
