"""Learning as the service does it: from the ledger through the learner into served snapshots, beside VW's own loop.

Events a second of processor time count everything: reading decisions and rewards, joining, feature encoding, VW's learning, the
snapshot. VW's own driver reads the same events, with the same hashed features, from its text format, and learns the same model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from api.auth import KeyFile, new_key
from benchmarks._figures import Figure
from benchmarks._load import Load, drive, requests_of
from benchmarks._shop import open_shop, visitors
from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.learner.audit import audit
from engine.learner.learner import Learner
from engine.learner.ticks import read_ticks
from engine.registry.versions import Registry
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.rewards.export import export_interactions
from engine.store.database import Database, sqlite_url
from policies.records import InteractionBatch
from policies.registry import load_policy
from policies.vw import VowpalWabbit

REWARDS_PER_S = 500
_NATIVE = """
import sys, time
from vowpal_wabbit_next import run_cli_driver
started = time.process_time()
run_cli_driver(sys.argv[1:])
print(time.process_time() - started)
"""
_VW = ("--cb_explore_adf", "--squarecb", "--cb_type", "mtr", "-q", "co", "-b", "18", "--quiet")


def figures(*, quick: bool, seed: int) -> list[Figure]:
    """All rows of this module."""
    return [
        store_speed(3_000 if quick else 20_000, runs=2 if quick else 5, seed=seed, can_judge=not quick),
        *freshness(4.0 if quick else 20.0, seed=seed, can_judge=not quick),
    ]


def store_speed(n: int, *, runs: int, seed: int, can_judge: bool) -> Figure:
    """Events a CPU second from the store through the learner, over VW's native loop on the same events."""
    rng = np.random.default_rng(seed)
    ours, native, ratios = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        features = visitors(rng)
        definition = RewardDefinition((RewardTerm("click"),), window_s=600.0)
        ref = open_shop(folder / "home", features, reward=definition)
        start = datetime(2026, 3, 1, tzinfo=UTC)
        now = [start]
        with open_service(folder / "home", clock=lambda: now[0]) as service:
            requests = [
                DecisionRequest("shop", f"v{i % len(features)}", features[i % len(features)], id=f"d{i}")
                for i in range(n)
            ]
            service.decide_many(requests)
            clicked = np.flatnonzero(rng.random(n) < 0.15)
            service.reward_many([RewardRequest(f"d{i}", "click") for i in clicked])
            now[0] = start + timedelta(hours=1)
            batch = export_interactions(service.database, "shop", definition=definition, as_of=now[0])
            policy = load_policy(service.policies.artifact(ref))
            assert isinstance(policy, VowpalWabbit)
            events = folder / "events.txt"
            _write_events(events, policy, batch)
            for i in range(runs):
                ours.append(n / _learn_all(service, definition, ref, lambda: now[0], n=n, keep=i == runs - 1))
                done = subprocess.run(
                    [sys.executable, "-c", _NATIVE, *_VW, "-d", str(events)], capture_output=True, text=True, check=True
                )
                native.append(n / float(done.stdout.split()[-1]))
                ratios.append(ours[-1] / native[-1])
    return Figure(
        "learn_events_from_store", "events/CPU s", float(np.median(ours)), must=">= 0.85", aim=">= 1.05",
        baseline=("VW's native loop on the same events as text", float(np.median(ours) / np.median(ratios))), judge_ratio=True,
        can_judge=can_judge, runs=runs, spread=(min(ratios), max(ratios)),
        note="read, join, encode, learn and publish, 20 offers with crosses; spread is of the ratio",
    )  # fmt: skip


def _learn_all(service: DecisionService, definition: RewardDefinition, ref: str, clock, *, n: int, keep: bool) -> float:  # type: ignore[no-untyped-def]
    """CPU seconds of a new learner that takes in everything and publishes."""
    started = time.process_time()
    learner = Learner(service.database, service.policies, placement="shop", definition=definition, ref=ref, clock=clock)
    while learner.tick():
        pass
    learner.publish()
    took = time.process_time() - started
    if learner.n_learned != n:
        raise RuntimeError(f"learned from {learner.n_learned} of {n} decisions")
    if not keep:
        with service.database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM learner_ticks")
        name, _, version = ref.partition("@")
        shutil.rmtree(service.policies.folder / name / f"{version}.snapshots")
    return took


def _write_events(path: Path, policy: VowpalWabbit, batch: InteractionBatch) -> None:
    """The events in VW's text format, features under the hashes that the adapter gives them."""
    contexts = policy.space.encode_contexts(batch.table)
    tails = [f"|o {_features(policy._offer_hashes, z)}" for z in policy.space.encode_offers(batch.table.offers)]
    with path.open("w") as file:
        for x, chosen, reward, p in zip(contexts, batch.chosen, batch.reward, batch.propensity, strict=True):
            file.write(f"shared |c {_features(policy._context_hashes, x)}\n")
            file.writelines(f"{f'0:{-reward}:{p} ' if i == chosen else ''}{tail}\n" for i, tail in enumerate(tails))
            file.write("\n")


def _features(hashes: NDArray[np.uint64], x: NDArray[np.float32]) -> str:
    return " ".join(f"{h}:{v:.7g}" for h, v in zip(hashes.tolist(), x.tolist(), strict=True) if v)


def freshness(seconds: float, *, seed: int, can_judge: bool) -> list[Figure]:
    """How long after a window has closed its decision is in the snapshot that serves, and the audit of it all afterwards.

    A real server and a real learner; the load is a decision and a reward for it, each 500 times a second. Served is the moment of
    the first logged decision that was drawn from a snapshot that holds it.
    """
    rng = np.random.default_rng(seed)
    window_s = 2.0
    n = round(seconds * REWARDS_PER_S)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        features = visitors(rng)
        definition = RewardDefinition((RewardTerm("click"),), window_s=window_s)
        ref = open_shop(home, features, reward=definition)
        text, key = new_key("load", scopes=("decide", "reward"), at=datetime.now(UTC))
        KeyFile(home / "keys.json").add(key)
        config = home / "settings.toml"
        # Other work on this machine must not change what is measured: no decision is handed to a lower rung for being late.
        lines = [
            f'home = "{home}"',
            "port = 0",
            'mode = "production"',
            'log_level = "error"',
            "policy_deadline_ms = 10000",
        ]
        config.write_text("\n".join(lines) + "\n")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "api.cli"]
        server = subprocess.Popen(
            [*command, "serve", "--config", str(config), "--json"], stdout=subprocess.PIPE, env=environment
        )
        learner = subprocess.Popen(
            [*command, "learn", "--all", "--config", str(config)], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            assert server.stdout is not None
            port = int(json.loads(server.stdout.readline())["url"].rsplit(":", 1)[1])
            _warm_up(home, ref, port, text, features)
            loads = _drive(port, text, features, n=n)
            # Visitors go on coming, fewer of them, so that the last snapshots are seen to serve.
            after = round((window_s + 3.0) * 50)
            drive(port, _decisions(text, features, after, prefix="end"), n=after, n_connections=2, per_second=50)
        finally:
            for process in (learner, server):
                process.terminate()
            for process in (learner, server):
                process.wait()
        failures = sum((Counter(load.failures) for load in loads), Counter())
        n_failed = failures.total()
        with Database(sqlite_url(home / "nextoffer.db")) as database:
            waits = _waits(database, ref, window_s=window_s)
            started = time.perf_counter()
            found = audit(database, Registry(database, home / "artifacts"), secret=(home / "secret").read_bytes())
            took = time.perf_counter() - started
    told = ", ".join(f"{n} {what}" for what, n in failures.most_common())
    offered = n / max(load.wall_s for load in loads)
    is_whole = len(waits) >= 0.98 * n and offered > 0.9 * REWARDS_PER_S and n_failed <= n // 100
    return [
        Figure(
            "window_closed_to_served_p99", "s", float(np.percentile(waits, 99)), must="<= 3", aim="<= 1.5",
            can_judge=can_judge and is_whole, runs=len(waits), spread=(float(np.percentile(waits, 50)), float(waits.max())),
            note=f"at {offered:.0f} rewards/s beside as many decisions, {n_failed} requests failed{f' ({told})' if told else ''}; spread is median and largest",
        ),
        Figure(
            "audit_replay_largest_difference", "probability",
            found.largest_difference if found.is_clean and not found.not_recomputed else float("inf"), must="<= 0.0", aim="<= 0.0",
            runs=found.n_recomputed,
            note=f"{found.n_recomputed} draws and {found.n_snapshots} snapshots recomputed in {took:.1f} s; infinite where one came out different",
        ),
    ]  # fmt: skip


def _warm_up(home: Path, ref: str, port: int, key: str, features: list[dict[str, float | str]]) -> None:
    """Decide a little until the learner, which starts as the server does, has published."""
    deadline = time.monotonic() + 60
    with Database(sqlite_url(home / "nextoffer.db")) as database:
        i = 0
        while not any(t.is_published for t in read_ticks(database, ref)):
            if time.monotonic() > deadline:
                raise RuntimeError("the learner did not publish within a minute")
            drive(port, _decisions(key, features, 5, prefix=f"warm{i}-"), n=5, n_connections=1)
            i += 1
            time.sleep(0.5)


def _decisions(key: str, features: list[dict[str, float | str]], n: int, *, prefix: str) -> list[bytes]:
    bodies = [
        json.dumps({"id": f"{prefix}{i}", "subject": f"v{i % len(features)}", "features": features[i % len(features)]})
        for i in range(n)
    ]
    headers = [f"Authorization: Bearer {key}"]
    return requests_of("/v1/placements/shop/decisions", [b.encode() for b in bodies], headers=headers)


def _drive(port: int, key: str, features: list[dict[str, float | str]], *, n: int) -> list[Load]:
    """Decisions at a fixed rate, and a second behind them a reward for each, which must find its decision."""
    decisions = _decisions(key, features, n, prefix="d")
    bodies = [json.dumps({"decision": f"d{i}", "kind": "click", "value": float(i % 5 == 0)}).encode() for i in range(n)]
    rewards = requests_of("/v1/rewards", bodies, headers=[f"Authorization: Bearer {key}"])
    loads: list[Load] = []
    threads = [
        threading.Thread(
            target=lambda r=requests: loads.append(drive(port, r, n=n, n_connections=16, per_second=REWARDS_PER_S))
        )
        for requests in (decisions, rewards)
    ]
    threads[0].start()
    time.sleep(1.0)
    threads[1].start()
    for thread in threads:
        thread.join()
    return loads


def _waits(database: Database, ref: str, *, window_s: float) -> NDArray[np.float64]:
    """Seconds from the close of each learned decision's window until a snapshot with it was seen to serve."""
    rows = database.rows(
        "SELECT ledger_offset, at_us, body, id FROM decisions WHERE policy = :policy ORDER BY at_us", policy=ref
    )
    version = ref.partition("@")[2]
    first_served: dict[int, int] = {}
    newest = 0
    for _, at_us, body, _ in rows:
        snapshot = json.loads(body)["s"]
        number = 0 if snapshot == version else int(snapshot)
        for made in range(newest + 1, number + 1):
            first_served[made] = at_us
        newest = max(newest, number)
    ticks = read_ticks(database, ref)
    served_by: dict[int, int] = {}  # tick → moment its content was first seen to serve
    published = [t.number for t in ticks if t.is_published]
    for tick in ticks:
        holds = next((p for p in published if p >= tick.number), None)
        if holds is not None and holds in first_served:
            served_by[tick.number] = first_served[holds]
    starts = np.asarray([t.stretch.first_offset for t in ticks])
    waits = []
    for offset, at_us, _, decision in rows:
        if not decision.startswith("d"):
            continue  # of the warm-up or the end
        i = int(np.searchsorted(starts, offset, side="right")) - 1
        if i >= 0 and offset < ticks[i].stretch.end_offset and ticks[i].number in served_by:
            waits.append((served_by[ticks[i].number] - at_us) / 1e6 - window_s)
    return np.asarray(waits)
