"""What a durable decision costs beside an endpoint that does nothing: CPU, throughput, tail latency, memory.

Both servers run at once, one worker each, and are asked in turns; CPU counts the worker and everything else of ours.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks._figures import Figure, finish, parser
from benchmarks._load import Load, cpu_s, drive, requests_of, resident_mb
from engine.decisions.service import open_service
from engine.offers.placement import CatalogueOffer, Placement
from policies.features import FeatureSpace
from policies.records import Context, DecisionTable, Offer, OfferId, SubjectId
from policies.vw import VowpalWabbit

N_OFFERS = 20
N_SUBJECTS = 10_000


def main() -> int:
    """Measure and judge."""
    options = parser(__doc__).parse_args()
    rng = np.random.default_rng(options.seed)
    n_rounds, n = (3, 1_500) if options.quick else (7, 8_000)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        features = _visitors(rng)
        _prepare(home, features)
        bodies = [json.dumps({"subject": f"visitor-{i}", "features": f}).encode() for i, f in enumerate(features)]
        noop = subprocess.Popen([sys.executable, "-m", "benchmarks._noop"], stdout=subprocess.PIPE)
        ours = subprocess.Popen(
            [sys.executable, "-m", "api.cli", "serve", "--port", "0", "--home", folder, "--sandbox", "--json"],
            stdout=subprocess.PIPE,
        )
        try:
            assert noop.stdout is not None
            assert ours.stdout is not None
            noop_port = int(noop.stdout.readline())
            said = json.loads(ours.stdout.readline())
            port = int(said["url"].rsplit(":", 1)[1])
            to_noop = requests_of("/noop", bodies)
            to_ours = requests_of(
                "/v1/placements/shop/decisions", bodies, headers=[f"Authorization: Bearer {said['key']}"]
            )
            drive(noop_port, to_noop, n=500)
            drive(port, to_ours, n=500)
            figures = _measure(
                noop.pid, noop_port, to_noop, ours.pid, port, to_ours, n=n, n_rounds=n_rounds, quick=options.quick
            )
        finally:
            for process in (noop, ours):
                process.terminate()
                process.wait()
    return finish("serving", figures, quick=options.quick, path=options.json, seed=options.seed)


def _measure(
    noop_pid: int,
    noop_port: int,
    to_noop: list[bytes],
    pid: int,
    port: int,
    to_ours: list[bytes],
    *,
    n: int,
    n_rounds: int,
    quick: bool,
) -> list[Figure]:
    cpu: list[tuple[float, float]] = []
    speed: list[tuple[float, float]] = []
    tails: list[tuple[float, float]] = []
    for _ in range(n_rounds):
        used: list[float] = []
        loads: list[Load] = []
        for server, at, requests in ((noop_pid, noop_port, to_noop), (pid, port, to_ours)):
            before = cpu_s(_family(server))
            load = drive(at, requests, n=n)
            used.append((cpu_s(_family(server)) - before) / n * 1e6)
            loads.append(load)
            if load.n_failed:
                raise RuntimeError(f"{load.n_failed} of {n} requests failed or were not recorded")
        cpu.append((used[1], used[0]))
        speed.append((loads[1].per_second, loads[0].per_second))
    rate = statistics.median(b for _, b in speed) / 3
    for _ in range(n_rounds):
        tail = [
            drive(at, requests, n=max(1_000, n // 2), per_second=rate).percentile(99)
            for at, requests in ((noop_port, to_noop), (port, to_ours))
        ]
        tails.append((tail[1], tail[0]))
    return [
        _ratio("cpu_per_decision", "us", cpu, must="<= 1.4", aim="<= 1.0", can_judge=not quick),
        _ratio("decisions_per_second", "1/s", speed, must=">= 0.6", aim=">= 0.9", can_judge=not quick),
        _ratio("p99_at_a_third_of_capacity", "ms", tails, must="<= 2.2", aim="<= 1.4", can_judge=not quick),
        Figure("resident_memory_after_warm_up", "MB", resident_mb(pid), must="<= 150", aim="<= 110"),
    ]


def _ratio(name: str, unit: str, pairs: list[tuple[float, float]], *, must: str, aim: str, can_judge: bool) -> Figure:
    """Median of ours, with the baseline that gives the median of the ratios of each round."""
    ratios = sorted(a / b for a, b in pairs)
    ours = statistics.median(a for a, _ in pairs)
    return Figure(
        name,
        unit,
        ours,
        must=must,
        aim=aim,
        baseline=("noop FastAPI endpoint", ours / statistics.median(ratios)),
        judge_ratio=True,
        can_judge=can_judge,
        runs=len(pairs),
        spread=(ratios[0], ratios[-1]),
    )


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    out = [pid]
    for at in out:
        for thread in Path(f"/proc/{at}/task").iterdir():  # a child is listed under the thread that started it
            out += [int(c) for c in (thread / "children").read_text().split()]
    return out


def _visitors(rng: np.random.Generator) -> list[dict[str, float | str]]:
    return [
        {
            "visits": float(rng.poisson(3)),
            "days_since_last": float(round(rng.exponential(7), 2)),
            "country": str(rng.choice(["de", "fr", "pl", "ru", "us"])),
            "device": str(rng.choice(["phone", "desktop", "tablet"])),
            "stage": str(rng.choice(["new", "returning", "lapsed"])),
        }
        for _ in range(N_SUBJECTS)
    ]


def _prepare(home: Path, features: list[dict[str, float | str]]) -> None:
    offers = tuple(
        CatalogueOffer(
            Offer(
                OfferId(f"offer-{i}"),
                {"price_eur": 5.0 + i, "months": float(1 + i % 12), "tier": f"t{i % 4}"},
                {"title": f"Offer {i}"},
            )
        )
        for i in range(N_OFFERS)
    )
    table = DecisionTable.from_contexts(
        Placement("shop", offers).offer_set,
        [Context(SubjectId(f"s{i}"), f) for i, f in enumerate(features[:2_000])],
    )
    policy = VowpalWabbit(FeatureSpace.fit(table))
    with open_service(home) as service:
        ref = service.policies.register(policy.to_artifact(), name="vw", at=datetime.now(UTC))
        service.put_placement(Placement("shop", offers, policy=str(ref)))


if __name__ == "__main__":
    sys.exit(main())
