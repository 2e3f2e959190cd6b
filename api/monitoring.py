"""The monitor: reads the health of all placements every so often, tells what is new, and has it ready for Prometheus.

A process of its own, so that neither the decision plane nor the console waits for statistics.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric

from api.alerts.health import tell_health
from engine.alerts.message import Channel
from engine.alerts.outbox import deliver
from engine.decisions.service import DecisionService
from engine.monitoring.figures import FIGURES
from engine.monitoring.health import check_health
from engine.monitoring.records import HealthReport
from engine.monitoring.thresholds import Thresholds
from policies.errors import NextofferError

_PREFIX = "nextoffer_"
_log = logging.getLogger("nextoffer.monitor")


class HealthMetrics:
    """The newest reports as Prometheus's families, in a registry of their own."""

    def __init__(self) -> None:
        self._reports: Mapping[str, HealthReport] = {}
        self._n_failed = 0
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def show(self, reports: Sequence[HealthReport], *, n_failed: int) -> None:
        """Show these from now on."""
        self._reports = {r.placement: r for r in reports}
        self._n_failed = n_failed

    def missed(self) -> None:
        """Nothing could be read: the last reports stay, with the time they are of."""
        self._n_failed = max(1, len(self._reports))

    def collect(self) -> Iterator[Metric]:
        """All families; one that has nothing to say is there all the same, so that rules can name it."""
        alarms = GaugeMetricFamily(
            f"{_PREFIX}alarm",
            "1 where an alarm rings, 0.5 where another one explains it",
            labels=["placement", "alarm"],
        )
        values = GaugeMetricFamily(f"{_PREFIX}alarm_value", "What an alarm looks at", labels=["placement", "alarm"])
        limits = GaugeMetricFamily(f"{_PREFIX}alarm_limit", "From where it rings", labels=["placement", "alarm"])
        decisions = GaugeMetricFamily(f"{_PREFIX}health_decisions", "Decisions of the last day", labels=["placement"])
        read = GaugeMetricFamily(
            f"{_PREFIX}health_read_seconds", "When the health was read, in seconds since 1970", labels=["placement"]
        )
        failed = GaugeMetricFamily(f"{_PREFIX}health_failed", "Placements whose health could not be read last")
        failed.add_metric([], self._n_failed)
        families = {
            name: GaugeMetricFamily(_PREFIX + name, text, labels=["placement", *labels])
            for name, text, labels in FIGURES
        }
        order = {name: labels for name, _, labels in FIGURES}
        for placement, report in self._reports.items():
            decisions.add_metric([placement], report.n_decisions)
            read.add_metric([placement], report.as_of.timestamp())
            for check in report.checks:
                labels = [placement, check.alarm]
                alarms.add_metric(labels, {"ringing": 1.0, "explained": 0.5}.get(check.state, 0.0))
                if check.value is not None and check.limit is not None:
                    values.add_metric(labels, check.value)
                    limits.add_metric(labels, check.limit)
            for figure in report.figures:
                at = [placement, *(figure.labels[name] for name in order[figure.name])]
                families[figure.name].add_metric(at, figure.value)
        yield from (alarms, values, limits, decisions, read, failed, *families.values())


def look(
    service: DecisionService,
    *,
    placements: Sequence[str],
    at: Callable[[], datetime],
    thresholds: Thresholds,
    channels: Sequence[Channel] = (),
    link: str = "",
) -> tuple[list[HealthReport], int]:
    """Read the health of some placements and tell what is new; return the reports, and how many could not be read."""
    reports, n_failed = [], 0
    for placement in placements:
        try:
            report = check_health(service.database, placement, at(), registry=service.policies, thresholds=thresholds)
            tell_health(service.database, report, now=datetime.now(UTC), quiet_hours=thresholds.quiet_hours, link=link)
        except NextofferError as error:
            n_failed += 1
            _log.warning("health of %s could not be read: %s", placement, error)
            continue
        reports.append(report)
    deliver(service.database, channels, at=datetime.now(UTC))
    return reports, n_failed


@contextmanager
def exposed(metrics: HealthMetrics, *, host: str, port: int) -> Iterator[int]:
    """Answer Prometheus at ``/metrics`` in a thread; gives the port."""
    server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)


def run(
    turn: Callable[[], tuple[list[HealthReport], int]],
    metrics: HealthMetrics,
    stop: threading.Event,
    *,
    every_s: float,
) -> None:
    """Take turns until told to stop; what one turn met, such as a store that is away, ends none of the later ones."""
    while not stop.is_set():
        try:
            reports, n_failed = turn()
        except NextofferError as error:
            _log.warning("health could not be read: %s", error)
            metrics.missed()
        except Exception:  # the outermost edge of a process that runs for months
            _log.exception("reading health failed")
            metrics.missed()
        else:
            metrics.show(reports, n_failed=n_failed)
        stop.wait(every_s)
