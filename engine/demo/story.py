"""The story, step by step: raw sources, sequences, models, policies, evaluation, a live experiment, a report."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.decisions.opening import open_service
from engine.demo.candidates import FIRST_SUBJECT, INCUMBENT, TrainingLogs, collect, halves, train
from engine.demo.config import DemoConfig
from engine.demo.judging import Truth, choose_challenger, judge_on_log, judged_json, know_the_truth
from engine.demo.live import CONTROL, EXPERIMENT, TREATMENT
from engine.demo.reading import Plan, choices, counting, plan_experiment
from engine.jobs import children
from engine.jobs.narrator import Narrator, Step
from engine.simulation.over_http import OverHttp, running_server
from engine.simulation.people import People, households_as_visitors
from engine.simulation.traffic import InProcess
from engine.simulation.trial import judge_trial, live_through, load_traits, prepare
from offline_eval.abtest.analysis import ExperimentReading
from offline_eval.panel import Panel
from offline_eval.ranking import differing
from policies.artifact import load_artifact, save_artifact
from policies.errors import InvalidInputError
from policies.protocols import Policy
from simulator.scenarios.car_subscription import Scenario, reference
from simulator.scenarios.files import save_scenario
from simulator.site import LiveSite

SOURCES = Path(__file__).resolve().parent.parent.parent / "examples" / "sources"


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Everything the story found, for the report."""

    config: DemoConfig
    manifest: dict[str, Any]
    comparison: dict[str, Any]
    second_source: dict[str, Any] | None
    people: People
    scenario: Scenario
    logs: TrainingLogs
    ppo: dict[str, Any]
    panel: Panel
    truths: dict[str, Truth]
    challenger: str
    why: str
    plan: Plan
    n_http_requests: int
    n_decisions: int
    reading: ExperimentReading
    seconds: dict[str, float]


def tell(config: DemoConfig, narrator: Narrator) -> Told:
    """Run the whole story; every step writes into ``config.out``."""
    out = config.out
    _fresh(out)
    points, models, ppo_out = out / "points", out / "models", out / "ppo"
    with narrator.step("Raw sources to decision points with sequences (Spark)") as step:
        _run(
            "sequences",
            "engine.sequences.build",
            ["--source", str(_source("complete_journey")), "--out", str(points)],
            out,
            step,
        )
    manifest = json.loads((points / "manifest.json").read_text())
    second = None if config.is_quick else _second_source(out, narrator)
    with narrator.step("Propensity models: " + ", ".join(config.models)) as step:
        arguments = ["--data", str(points), "--out", str(models), "--models", ",".join(config.models)]
        arguments += ["--seed", str(config.seed % 1000), *(["--quick"] if config.is_quick else [])]
        _run("propensity", "engine.training.propensity", arguments, out, step)
    comparison = json.loads((models / "comparison.json").read_text())
    encoder = load_artifact(models / _encoder_path(comparison))
    people = households_as_visitors(points, models, encoder, seed=config.seed)
    scenario = reference(population=people.population, parameters=people.parameters)
    scenario = scenario.null() if config.world == "null" else scenario
    save_scenario(scenario, out / "scenario")

    ppo_job = children.Job(
        "ppo",
        "engine.training.rl",
        ["--scenario", str(out / "scenario"), "--out", str(ppo_out), "--iterations", str(config.ppo_iterations), "--seed", str(config.seed % 1000)],
        {"RAY_DISABLE_IMPORT_WARNING": "1"},
    )  # fmt: skip
    ppo_log = out / "logs" / "ppo.log"
    with children.running(ppo_job, log=ppo_log) as learner:
        with narrator.step("Training log in the simulator: even rotation, then the incumbent with its explore share"):
            logs = collect(scenario, config)
        learn_rows, judge_rows = halves(logs.log, seed=config.seed)
        with narrator.step("Policy by reinforcement learning (RLlib PPO in the simulator, exported to ONNX)") as step:
            children.wait(ppo_job, learner, log=ppo_log, on_line=step.note)
    ppo = json.loads((ppo_out / "training.json").read_text())
    with narrator.step("Candidates from the log: reward models, greedy, SquareCB, Vowpal Wabbit, LinTS"):
        candidates = train(logs, rows=learn_rows, ppo=ppo_out / "policy", seed=config.seed % 1000)
    with narrator.step("Off-policy evaluation on visitors no candidate learned from"):
        judged = logs.log.interactions("kept_30d").take(judge_rows)
        panel = judge_on_log(judged, candidates, incumbent=logs.incumbent, config=config)
    challenger, why = choose_challenger(differing(panel))
    everyone: dict[str, Policy] = {INCUMBENT: logs.incumbent, **candidates}
    with narrator.step("The truth, which only a simulator knows") as step:
        truths = know_the_truth(scenario, everyone, config=config, on_policy=step.advance)
    plan = plan_experiment(logs.log.mean("kept_30d")[0])

    home = out / "service"
    ours = {CONTROL: logs.incumbent, TREATMENT: candidates[challenger]}
    prepare(
        home, scenario=scenario, people=people, encoder=encoder, experiment=EXPERIMENT, policies=ours,
        explore_share=config.serve_explore_share, seed=config.seed, counting=counting(), plan=choices(plan, config),
    )  # fmt: skip
    n_requests, n_decisions = _experiment(home, scenario=scenario, people=people, config=config, narrator=narrator)
    reading, _ = judge_trial(home, EXPERIMENT)
    for name, policy in ours.items():
        save_artifact(policy.to_artifact(), out / "policies" / name)
    told = Told(
        config=config, manifest=manifest, comparison=comparison, second_source=second, people=people, scenario=scenario,
        logs=logs, ppo=ppo, panel=panel, truths=truths, challenger=challenger, why=why, plan=plan,
        n_http_requests=n_requests, n_decisions=n_decisions, reading=reading, seconds=dict(narrator.seconds),
    )  # fmt: skip
    (out / "evaluation.json").write_text(json.dumps(judged_json(panel, truths), indent=1))
    return told


def _encoder_path(comparison: dict[str, Any]) -> str:
    """Where the comparison says the encoder to be served lies."""
    if comparison["encoder"] is None:
        raise InvalidInputError("no trained model has a sequence encoder to serve; train one that has, such as gru")
    return str(comparison["encoder"]["artifact"])


def _experiment(
    home: Path, *, scenario: Scenario, people: People, config: DemoConfig, narrator: Narrator
) -> tuple[int, int]:
    n_over_http = config.n_http_subjects
    n_in_process = config.n_live_subjects - n_over_http

    def cohort(n: int, skip: int) -> LiveSite:
        first = FIRST_SUBJECT["live"] + skip
        return LiveSite(scenario, n_subjects=n, visit_days=config.visit_days, seed=config.seed + 3, first_subject=first)

    with narrator.step(
        f"Live 50/50 split: {n_over_http:,} visitors call the server over HTTP, to day 30 in sandbox time"
    ) as step:
        site = cohort(n_over_http, 0)
        load_traits(home, site, people)
        with running_server(home, log=config.out / "logs" / "server.log") as (url, key):
            step.note(url)
            door = OverHttp(url, key)
            n_decisions = live_through(site, door, people=people, on_day=step.advance)
            door.close()
    with narrator.step(f"The other {n_in_process:,} visitors, through the same pipeline in-process") as step:
        site = cohort(n_in_process, n_over_http)
        load_traits(home, site, people)
        with open_service(home) as service:
            n_decisions += live_through(site, InProcess(service), people=people, on_day=step.advance)
    return door.n_requests, n_decisions


def _second_source(out: Path, narrator: Narrator) -> dict[str, Any] | None:
    if not os.environ.get("NEXTOFFER_DATA_DIR"):
        narrator.say(
            "[dim]Online Retail is left out: set NEXTOFFER_DATA_DIR to the folder that has online_retail/ to add it[/dim]"
        )
        return None
    with narrator.step("Online Retail as a second described source (Spark)") as step:
        folder = out / "online_retail"
        _run(
            "online-retail",
            "engine.sequences.build",
            ["--source", str(_source("online_retail")), "--out", str(folder)],
            out,
            step,
        )
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def _run(name: str, module: str, arguments: list[str], out: Path, step: Step) -> None:
    children.run(children.Job(name, module, arguments), log=out / "logs" / f"{name}.log", on_line=step.note)


def _source(name: str) -> Path:
    path = SOURCES / f"{name}.toml"
    if not path.is_file():
        raise InvalidInputError(
            f"{path} is not there; the demo runs from a checkout of the repository: clone it and run `make demo`"
        )
    return path


def _fresh(out: Path) -> None:
    marker = out / ".nextoffer-demo"
    if out.exists() and any(out.iterdir()) and not marker.exists():
        raise InvalidInputError(f"{out} has files that no demo wrote; choose another folder with --out, or empty it")
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    marker.write_text(f"{time.time():.0f}\n")
