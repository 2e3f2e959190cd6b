"""From closed windows to a judged candidate in the registry: each step in a folder of its own, gone on with where it was cut off.

export → candidates → judged on held-out time → simulated → gate → registry
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import insert, select

from engine.decisions.service import DecisionService
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import take_reading
from engine.gate.forecasts import Forecast, foretell, settle
from engine.gate.health import Health, integrity
from engine.gate.parts import SimulatedDifference, simulator_part
from engine.gate.promotion import BASELINE, Promotion
from engine.gate.records import GateVerdict, conclude, part_from_json
from engine.gate.verdicts import keep_verdict
from engine.jobs.children import Job, run
from engine.jobs.steps import Steps, digest
from engine.offers.placement import Placement, placement_from_json
from engine.registry.versions import snapshot_folder
from engine.retrain.judging import judge
from engine.retrain.records import RetrainConfig
from engine.retrain.split import by_time, same_decisions
from engine.rewards.corrections import LateTruth, correct_files
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.rewards.files import export_files
from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database
from engine.store.facts import to_us
from engine.store.ownership import ownership_of
from engine.store.published import newest_published
from offline_eval.interop.arrow import read_parquet
from policies.artifact import load_artifact, save_artifact
from policies.errors import ConflictError, InvalidInputError, StateError, UnknownNameError
from policies.fixed import FixedOrder
from policies.registry import load_policy

ACTOR = "retrain"
_URL = "NEXTOFFER_RETRAIN_DATABASE"


@dataclass(frozen=True, slots=True)
class Run:
    """What a retraining came to.

    Parameters
    ----------
    is_new
        False where the same inputs had been through before: then nothing has changed.
    done, skipped
        Steps of this call.
    late
        What late truth has changed in what earlier runs learned from, by reward.
    restated
        Experiments as the last run read them, and as they read now as of that moment.
    """

    id: str
    placement: str
    at: datetime
    is_new: bool
    verdict: GateVerdict
    done: tuple[str, ...]
    skipped: tuple[str, ...]
    late: Mapping[str, Any]
    restated: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id,
            "placement": self.placement,
            "at": self.at.isoformat(),
            "is_new": self.is_new,
            "verdict": self.verdict.to_json(),
            "done": list(self.done),
            "skipped": list(self.skipped),
            "late_truth": dict(self.late),
            "restated": [dict(r) for r in self.restated],
        }


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
    placement = placement_in(database, config.placement)  # an unknown name makes no folder
    failing = health(database, config.placement, at)
    if failing:
        raise StateError(f"nothing is learned while the log is not what happened: {failing[0]}")
    folder = service.policies.folder.parent / "retrain" / plain_name(config.placement)
    with _alone(database, config.placement):
        steps = Steps(folder, narrate)
        previous = last_run(database, config.placement)
        restated = _restated(database, previous, at=at, in_simulation=in_simulation)
        narrate("export")
        logs, late = _export(database, placement, config, folder, at=at)
        incumbent, incumbent_digest = _incumbent(service, placement, folder)
        given = {"log": _log_digest(logs["primary"]), "seed": config.seed, "held_out_share": config.held_out_share}
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
            "logs": {name: _log_digest(path) for name, path in logs.items()},
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
        _record(database, made, _experiments_now(database, config.placement, at=at, in_simulation=in_simulation))
        (folder / "late_truth.json").unlink(missing_ok=True)
    return made


def placement_in(database: Database, placement: str) -> Placement:
    """A placement as it stands in the store."""
    table = tables.placements
    with database.reading() as connection:
        text = connection.execute(select(table.c.document).where(table.c.id == placement)).scalar()
        if text is None:
            raise UnknownNameError("placement", placement, connection.execute(select(table.c.id)).scalars())
    return placement_from_json(json.loads(text))


def runs(database: Database, *, placement: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """Runs that changed something, the newest first, as they were recorded."""
    table = tables.retrain_runs
    query = select(table.c.document).order_by(table.c.at_us.desc(), table.c.id).limit(limit)
    if placement is not None:
        query = query.where(table.c.placement == placement)
    with database.reading() as connection:
        return [json.loads(text) for text in connection.execute(query).scalars()]


def plain_name(placement: str) -> str:
    """Name of a placement as it can be part of a path and of a policy's name; most are so already."""
    name = quote(placement, safe=" ")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def last_run(database: Database, placement: str) -> dict[str, Any] | None:
    """The newest run of a placement."""
    found = runs(database, placement=placement, limit=1)
    return found[0] if found else None


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


def _export(
    database: Database, placement: Placement, config: RetrainConfig, folder: Path, *, at: datetime
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The placement's own reward and those of the guardrails, brought up to now: first what is known anew of old decisions."""
    window_s = placement.reward.window_s
    wanted = {"primary": placement.reward, "margin": RewardDefinition((RewardTerm(config.margin),), window_s=window_s)}
    if placement.reward.kinds != {config.kept}:
        wanted["kept"] = RewardDefinition((RewardTerm(config.kept),), window_s=window_s)
    logs: dict[str, Path] = {}
    pending = folder / "late_truth.json"
    late: dict[str, Any] = json.loads(pending.read_text(encoding="utf-8")) if pending.exists() else {}
    for name, definition in wanted.items():
        # Another definition of success is another log: what was exported under the old one stays as it was.
        path = folder / "log" / f"{name}-{digest(definition.to_json())[:8]}"
        if (path / "_manifest.json").exists():
            found = correct_files(database, path, as_of=at)
            if found.is_any or name not in late:
                late[name] = _both(late.get(name), found)
            pending.write_text(json.dumps(late), encoding="utf-8")
        export_files(database, placement.id, path, as_of=at, definition=definition)
        if not any(path.rglob("*.parquet")):
            raise InvalidInputError(
                f"no decision of placement {placement.id!r} has a closed window ({window_s:g} s) by {at.isoformat()}; wait"
            )
        logs[name] = path
    return logs, late


def _both(before: Mapping[str, Any] | None, found: LateTruth) -> dict[str, Any]:
    """Late truth of a run that was cut off, and of the one that goes on with it."""
    told = found.to_json()
    if before is None or not before.get("n_changed", 0) + before.get("n_added", 0) + before.get("n_dropped", 0):
        return told
    for name in ("n_changed", "n_added", "n_dropped", "n_files"):
        told[name] += before[name]
    told["n_rows"], told["mean_before"] = before["n_rows"], before["mean_before"]
    fields = {k: v for k, v in told.items() if k != "sentence"}
    return LateTruth(**fields).to_json()


def _log_digest(path: Path) -> str:
    document = json.loads((path / "_manifest.json").read_text(encoding="utf-8"))
    return digest([document["definition"], document["files"]])


def _incumbent(service: DecisionService, placement: Placement, folder: Path) -> tuple[Path, str]:
    """What serves now, as an artefact: the newest snapshot where it learns."""
    path = folder / "incumbent"
    ids = placement.offer_set.ids
    if placement.policy is None or placement.policy == BASELINE:
        artifact = FixedOrder((*placement.baseline, *(o for o in ids if o not in placement.baseline))).to_artifact()
    else:
        number = newest_published(service.database, placement.policy)
        if number is None:
            artifact = service.policies.artifact(placement.policy)
        else:
            artifact = load_artifact(snapshot_folder(service.policies.folder, placement.policy, number))
    if not path.exists() or load_artifact(path).digest != artifact.digest:
        shutil.rmtree(path, ignore_errors=True)
        save_artifact(artifact, path)
    return path, digest([placement.policy or BASELINE, artifact.digest])


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


def last_run_id(database: Database, inputs: str) -> str | None:
    """Id of the recorded run of these inputs, if there is one."""
    table = tables.retrain_runs
    with database.reading() as connection:
        return connection.execute(select(table.c.id).where(table.c.id == inputs[:16])).scalar()


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


def _experiments_now(database: Database, placement: str, *, at: datetime, in_simulation: bool) -> list[dict[str, Any]]:
    """Running experiments as they read now, so that the next run can say what late truth has changed."""
    out = []
    for experiment in Experiments(database).list(state="running"):
        if experiment.placement == placement:
            reading = take_reading(database, experiment, as_of=at, in_simulation=in_simulation, n_points=0)
            if reading.found is not None:
                out.append(
                    {"experiment": experiment.id, "as_of": at.isoformat(), "metrics": _metrics(reading.found.now)}
                )
    return out


def _metrics(now: Any) -> dict[str, Any]:
    return {
        f"{m.treatment}: {m.metric.name}": {"control": m.effect.control, "treatment": m.effect.treatment}
        for m in now.metrics
    }


def _restated(
    database: Database, previous: Mapping[str, Any] | None, *, at: datetime, in_simulation: bool
) -> tuple[Mapping[str, Any], ...]:
    """What the last run believed of experiments, beside what is true of the same subjects and the same moment now."""
    out = []
    for told in () if previous is None else previous.get("experiments", ()):
        try:
            experiment = Experiments(database).get(told["experiment"])
        except UnknownNameError:
            continue
        then = datetime.fromisoformat(told["as_of"])
        reading = take_reading(database, experiment, as_of=then, in_simulation=in_simulation, n_points=0)
        if reading.found is None:
            continue
        now = _metrics(reading.found.now)
        changed = {k: {"believed": v, "now": now[k]} for k, v in told["metrics"].items() if k in now and now[k] != v}
        out.append({"experiment": experiment.id, "as_of": told["as_of"], "changed": changed})
    return tuple(out)


def _record(database: Database, made: Run, experiments: list[dict[str, Any]]) -> None:
    table = tables.retrain_runs
    document = {**made.to_json(), "experiments": experiments}
    with database.writing() as connection:
        if connection.execute(select(table.c.id).where(table.c.id == made.id)).first() is None:
            connection.execute(
                insert(table).values(
                    id=made.id, placement=made.placement, at_us=to_us(made.at), document=json.dumps(document)
                )
            )
