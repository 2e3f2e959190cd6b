"""From closed windows to a judged candidate in the registry: each step in a folder of its own, gone on with where it was cut off.

export → candidates → judged on held-out time → simulated → gate → registry
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engine.decisions.service import DecisionService
from engine.experiments.records import BASELINE
from engine.gate.forecasts import Forecast, foretell, settle
from engine.gate.health import Health, integrity
from engine.gate.parts import SimulatedDifference, simulator_part
from engine.gate.promotion import Promotion
from engine.gate.records import GateVerdict, conclude, part_from_json
from engine.gate.verdicts import keep_verdict
from engine.jobs.children import Job, run
from engine.jobs.steps import Steps
from engine.offers.placement import Placement
from engine.offers.stored import placement_in
from engine.retrain.exporting import export_logs, incumbent_of, log_digest
from engine.retrain.judging import judge
from engine.retrain.records import RetrainConfig
from engine.retrain.runs import Run, experiments_now, last_run, last_run_id, record_run, restated_since
from engine.retrain.split import by_time, same_decisions
from engine.store.changes import Change
from engine.store.database import Database
from engine.store.ownership import ownership_of
from offline_eval.interop.arrow import read_parquet
from policies.artifact import load_artifact
from policies.errors import ConflictError, StateError
from policies.registry import load_policy

ACTOR = "retrain"
_URL = "NEXTOFFER_RETRAIN_DATABASE"


def retrain(
    service: DecisionService,
    config: RetrainConfig,
    *,
    at: datetime,
    in_simulation: bool = False,
    narrate: Callable[[str], None] = lambda _: None,
    health: Health = integrity,
    actor: str = ACTOR,
) -> Run:
    """Learn from what has closed since the last time, judge what comes of it, and register it with the gate's verdict.

    Parameters
    ----------
    in_simulation
        Whether visitors are made up: what is foretold and read then says so.
    narrate
        Told each step that begins.

    Raises
    ------
    StateError
        If the integrity of the log fails: nothing is learned from a log that is not what happened.
    ConflictError
        If another process retrains this placement.
    InvalidInputError
        If too little has closed to learn from and be judged on.
    """
    database = service.database
    placement = placement_in(database, config.placement)[0]  # an unknown name makes no folder
    failing = health(database, config.placement, at)
    if failing:
        raise StateError(f"nothing is learned while the log is not what happened: {failing[0]}")
    folder = service.policies.folder.parent / "retrain" / plain_name(config.placement)
    with _alone(database, config.placement):
        steps = Steps(folder, narrate)
        previous = last_run(database, config.placement)
        restated = restated_since(database, previous, at=at, in_simulation=in_simulation)
        narrate("export")
        logs, late = export_logs(database, placement, config, folder, at=at)
        incumbent, incumbent_digest = incumbent_of(service, placement, folder)
        given = {"log": log_digest(logs["primary"]), "seed": config.seed, "held_out_share": config.held_out_share}
        fitted = {
            **given,
            "candidates": config.candidates,
            "memories_days": config.memories_days,
            "window_days": config.window_days,
        }
        candidates, candidates_digest = steps.run("candidates", fitted, lambda out: _fit(config, logs["primary"], out))
        share = placement.explore_share if config.explore_share is None else config.explore_share
        asked = {
            "candidates": candidates_digest,
            "logs": {name: log_digest(path) for name, path in logs.items()},
            "incumbent": incumbent_digest,
            "explore_share": share,
            "limits": config.to_json()["limits"],
        }
        judged, judged_digest = steps.run(
            "judged", asked, lambda out: _judge(config, logs, candidates, incumbent, share, out)
        )
        found = json.loads((judged / "judged.json").read_text(encoding="utf-8"))
        chosen = candidates / found["chosen"]
        lived = {
            "judged": judged_digest,
            **{n: config.to_json()[n] for n in ("has_simulator", "n_members", "n_simulated")},
        }
        simulated, simulated_digest = steps.run(
            "simulated", lived, lambda out: _simulate(database, config, chosen, incumbent, share, at, out)
        )
        told = json.loads((simulated / "simulated.json").read_text(encoding="utf-8"))
        narrate("gate")
        verdict, is_new = _conclude(
            service, placement, config, found, told, chosen, inputs=simulated_digest, at=at, actor=actor
        )
        made = Run(
            simulated_digest[:16],
            config.placement,
            at,
            is_new,
            verdict,
            tuple(steps.done),
            tuple(steps.skipped),
            late,
            restated,
        )
        record_run(database, made, experiments_now(database, config.placement, at=at, in_simulation=in_simulation))
        (folder / "late_truth.json").unlink(missing_ok=True)
    return made


def plain_name(placement: str) -> str:
    """Name of a placement as it can be part of a path and of a policy's name; most are so already."""
    name = quote(placement, safe=" ")
    return f"%2E{name[1:]}" if name.startswith(".") else name


@contextmanager
def _alone(database: Database, placement: str) -> Iterator[None]:
    """Claim a placement among all processes over its store, on whatever host."""
    ownership = ownership_of(database)
    try:
        if not ownership.claim(f"retrain {placement}"):
            raise ConflictError(f"another process retrains {placement!r}; wait until it is done")
        yield
    finally:
        ownership.close()


def _job(
    name: str, module: str, arguments: list[str], folder: Path, environment: Mapping[str, str] | None = None
) -> None:
    run(Job(name, module, arguments, environment or {}), log=folder / "logs" / f"{name}.log")


def _configured(config: RetrainConfig, out: Path) -> str:
    path = out / "config.json"
    path.write_text(json.dumps(config.to_json(), indent=1), encoding="utf-8")
    return str(path)


def _fit(config: RetrainConfig, log: Path, out: Path) -> None:
    arguments = ["--log", str(log), "--config", _configured(config, out), "--out", str(out)]
    _job("candidates", "engine.retrain.fitting", arguments, out.parent)


def _judge(
    config: RetrainConfig, logs: Mapping[str, Path], candidates: Path, incumbent: Path, explore_share: float, out: Path
) -> None:
    batches = {name: read_parquet(path) for name, path in logs.items()}
    _, held_out = by_time(batches["primary"], held_out_share=config.held_out_share, window_days=config.window_days)
    ids = batches["primary"].take(held_out).decision_ids
    # By their ids: a log that was begun under another definition of success may hold other rows before these.
    rows = {n: b.take(held_out if n == "primary" else same_decisions(b, ids)) for n, b in batches.items()}
    policies = {p.parent.name: load_policy(load_artifact(p.parent)) for p in sorted(candidates.glob("*/manifest.json"))}
    found = judge(
        rows.pop("primary"),
        rows,
        policies,
        incumbent=load_policy(load_artifact(incumbent)),
        explore_share=explore_share,
        limits=config.limits,
        seed=config.seed,
    )
    (out / "judged.json").write_text(json.dumps(found.to_json(), indent=1), encoding="utf-8")
    found.panel.page().write(out / "report.html")


def _simulate(
    database: Database,
    config: RetrainConfig,
    chosen: Path,
    incumbent: Path,
    explore_share: float,
    at: datetime,
    out: Path,
) -> None:
    path = out / "simulated.json"
    if not config.has_simulator:
        told = {"in_simulation": True, "reason": "No simulator was asked: the configuration leaves it out."}
        path.write_text(json.dumps(told), encoding="utf-8")
        return
    arguments = [
        "--config", _configured(config, out), "--candidate", str(chosen), "--incumbent", str(incumbent), "--out", str(path),
        "--database", _URL, "--as-of", at.isoformat(), "--explore-share", str(explore_share),
    ]  # fmt: skip
    environment = {_URL: database.url.render_as_string(hide_password=False)}
    _job("simulated", "engine.retrain.simulated", arguments, out.parent, environment)


def _conclude(
    service: DecisionService,
    placement: Placement,
    config: RetrainConfig,
    judged: Mapping[str, Any],
    simulated: Mapping[str, Any],
    chosen: Path,
    *,
    inputs: str,
    at: datetime,
    actor: str,
) -> tuple[GateVerdict, bool]:
    """The gate's word, the candidate's version, and what is foretold of it; the same inputs again change nothing."""
    database = service.database
    outcome = "kept_30d" if config.kept in placement.reward.kinds else "subscribed"
    found: list[SimulatedDifference] | str
    if "differences" in simulated:
        found = [
            SimulatedDifference(**{k: v for k, v in d.items() if k != "in_simulation"})
            for d in simulated["differences"]
        ]
    else:
        found = str(simulated["reason"])
    n_visitors = int(simulated.get("n_visitors", 0))
    parts = [part_from_json(p) for p in judged["parts"]]
    parts.append(simulator_part(found, primary=outcome, limits=config.limits, n_visitors=n_visitors))
    ref = str(service.policies.register(chosen, name=f"retrained-{plain_name(placement.id)}", at=at, actor=actor))
    incumbent = placement.policy or BASELINE
    made = conclude(parts, placement=placement.id, policy=ref, incumbent=incumbent, at=at, inputs=inputs)
    verdict = keep_verdict(database, made, actor=actor)
    is_new = last_run_id(database, inputs) is None
    forecasts = _forecasts(judged, found, verdict, outcome)
    foretell(database, forecasts)
    if verdict.outcome == "refuse":
        for forecast in forecasts:
            settle(database, forecast, at=at, actual=None, note="the gate refused it: no visitor will see it")
    Promotion(service).enter(verdict, change=Change(at, actor))
    return verdict, is_new


def _forecasts(
    judged: Mapping[str, Any], simulated: list[SimulatedDifference] | str, verdict: GateVerdict, outcome: str
) -> list[Forecast]:
    out: list[Forecast] = []
    value = judged["values"][judged["chosen"]]
    base = {"against": verdict.incumbent, "verdict": verdict.id}
    if value["value"] is not None and value["interval"] is not None:
        low, high = value["interval"]
        told = {**base, "metric": "reward per decision", "estimator": value["estimator"], "in_simulation": False}
        out.append(
            Forecast("ope value", verdict.placement, verdict.policy, verdict.at, value["value"], low, high, told)
        )
    if not isinstance(simulated, str):
        mine = next(d for d in simulated if d.outcome == outcome)
        metric = "kept" if outcome == "kept_30d" else "conversion"
        told = {**base, "metric": metric, "in_simulation": True}
        args = (verdict.placement, verdict.policy, verdict.at)
        out.append(Forecast("simulator value", *args, mine.candidate, mine.candidate_low, mine.candidate_high, told))
        out.append(Forecast("lift", *args, mine.value, mine.low, mine.high, told))
    return out
