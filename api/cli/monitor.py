"""``nextoffer monitor``: the health of the log, once or every so often."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

from api.cli.opening import HERE, Where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.monitoring.records import HealthReport

_MARKS = {"ok": "ok", "ringing": "RINGS", "explained": "explained", "unknown": "?", "off": "-"}


def monitor(
    placement: str | None = None,
    /,
    *,
    every: float | None = None,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
    json: bool = False,
    where: Where = HERE,
) -> int:
    """Read the health of one placement or all: is the log true, do facts come, does learning keep up, is anything worse.

    An alarm that begins to ring is sent through the channels of the settings, once an episode. Exits with 1 where one rings. With
    ``--every`` it goes on until it is told to stop, and answers Prometheus.

    Parameters
    ----------
    placement
        Only this one.
    every
        Seconds between two looks; 60 is plenty. Without it, once.
    metrics_port
        Port for Prometheus, with ``--every``; 0 takes a free one.
    metrics_host
        Address for Prometheus.
    json
        Print the reports as JSON.
    """
    from api.alerts.channels import channels_of
    from api.logs import set_up
    from api.monitoring import HealthMetrics, exposed, look, run
    from engine.decisions.opening import open_service
    from engine.experiments.moments import clock_of
    from engine.monitoring.thresholds import Thresholds
    from policies.errors import InvalidInputError

    if metrics_port is not None and every is None:
        raise InvalidInputError("--metrics-port needs --every: a command that ends has nothing to answer with")
    if every is not None and not every > 0:
        raise InvalidInputError(f"--every is {every:g}; expected seconds above 0")
    settings = where.existing()
    set_up(settings.log_level, settings.log_format)
    thresholds = Thresholds.changed(settings.alarm_thresholds)
    with open_service(settings.home, url=settings.database_url) as service:
        clock = clock_of(service.database, is_sandbox=settings.is_sandbox)

        def turn() -> tuple[list[HealthReport], int]:
            service.refresh()
            return look(
                service,
                placements=[placement] if placement is not None else service.placements(),
                at=clock,
                thresholds=thresholds,
                channels=channels_of(settings),
                link=settings.console_url,
            )

        if placement is not None:
            service.placement(placement)  # a mistyped name is an error, not a placement without health
        if every is None:
            reports, n_failed = turn()
            _show(reports, as_json=json)
            return 1 if n_failed or any(r.ringing for r in reports) else 0
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        metrics = HealthMetrics()
        if metrics_port is None:
            run(turn, metrics, stop, every_s=every)
        else:
            with exposed(metrics, host=metrics_host, port=metrics_port) as port:
                print(f"metrics on http://{metrics_host}:{port}/metrics", file=sys.stderr, flush=True)  # noqa: T201
                run(turn, metrics, stop, every_s=every)
    return 0


def _show(reports: Sequence[HealthReport], *, as_json: bool) -> None:
    from json import dumps

    if as_json:
        print(dumps([r.to_json() for r in reports]))  # noqa: T201 - data on stdout
        return
    for report in reports:
        head = (
            f"{report.placement}, {report.as_of:%Y-%m-%d %H:%M} UTC: {report.n_decisions:,} decisions in the last day"
        )
        print(head)  # noqa: T201
        for check in report.checks:
            value = "" if check.value is None or check.limit is None else f"{check.value:.4g} / {check.limit:.4g}"
            why = f" (explained by {check.explained_by})" if check.explained_by else ""
            print(f"  {_MARKS[check.state]:9s} {check.alarm:13s} {value:22s} {check.sentence}{why}")  # noqa: T201
