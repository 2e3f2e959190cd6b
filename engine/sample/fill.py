"""Fill a folder with the sample: policies learned in the simulator, then experiments that simulated visitors live through."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService
from engine.experiments.records import Experiment, Plan
from engine.offers.placement import Placement
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.rewards.export import export_interactions
from engine.sample.content import HOME, LETTER, PLACES, PRICING, TRIALS, Language, Trial, catalogue, say
from engine.simulation.traffic import InProcess, live_through
from engine.store.changes import Change
from offline_eval import evaluate
from policies.allocation import WEIGHT_TOTAL_BP, Variant
from policies.artifact import save_artifact
from policies.features import FeatureSpace
from policies.fixed import FixedOrder, Uniform, fit_incumbent
from policies.linear import LinTS
from policies.protocols import SaveablePolicy
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import OFFERS, RULES, Scenario, reference

ACTOR = "sample:anna"
# A visitor who has stopped coming for two weeks has decided; what counts as success at the sample's places.
REWARD = RewardDefinition((RewardTerm("subscribed"),), window_s=14 * DAY_S)
_N_LOG = 16_000
# A filling is in no hurry: a busy machine must not make the policy step down or leave visitors out.
_patient_service = partial(open_service, commit_timeout_s=120.0, policy_deadline_s=60.0)

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """What a filling depends on.

    Parameters
    ----------
    ends_at
        Midnight at which the sample's last day ends.
    scale
        Factor on the number of visitors; tests take less, pictures of large experiments more.
    has_reports
        Whether an evaluation on the log and a simulation are made too.
    """

    ends_at: datetime
    seed: int = 11
    language: Language = "en"
    scale: float = 1.0
    has_reports: bool = True


def fill(folder: Path, config: SampleConfig, *, on_progress: Progress | None = None) -> None:
    """Make a service's data folder whose every fact came through the service."""
    tell = on_progress or (lambda _share, _text: None)
    folder.mkdir(parents=True, exist_ok=True)
    # Draws follow from the seed, so that a filling can be repeated.
    (folder / "secret").write_bytes(hashlib.sha256(f"sample {config.seed}".encode()).digest())
    begins_at = config.ends_at - timedelta(days=max(t.n_days for t in TRIALS))
    scenario = reference()
    tell(0.02, "policies")
    policies = _policies(scenario, n_log=max(2_000, round(_N_LOG * min(1.0, config.scale))), seed=config.seed)
    with _patient_service(folder, clock=lambda: begins_at) as service:
        refs = _prepare(service, policies, config, at=begins_at)
    with _patient_service(folder, clock=lambda: config.ends_at) as service:
        n_all = sum(t.n_subjects * t.n_days for t in TRIALS)
        done = 0.1
        for i, trial in enumerate(TRIALS):
            share = 0.75 * trial.n_subjects * trial.n_days / n_all
            _live(
                service, scenario, trial, refs, config, number=i, on_day=partial(_day_told, tell, trial.id, done, share)
            )
            done += share
        _plans(service, refs, config)
        tell(0.87, "reports")
        if config.has_reports:
            _evaluated(service, policies, folder / "reports", config)
    if config.has_reports:
        _simulated(folder, policies, config)
    tell(1.0, "done")


def _day_told(tell: Progress, name: str, done: float, share: float, day: int, days: int) -> None:
    tell(done + share * day / days, name)


def _policies(scenario: Scenario, *, n_log: int, seed: int) -> dict[str, SaveablePolicy]:
    """The best rule that does not personalise, one that does, and one order that somebody believes in."""
    log = rollout(scenario, Uniform(), n_subjects=n_log, visit_days=14, seed=seed, explore_share=1.0)
    batch = log.interactions("kept_30d")
    incumbent = fit_incumbent(batch, stage_column="stage")
    personal = LinTS(FeatureSpace.fit(batch.table), scale=0.15, ridge=10.0)
    personal.learn(batch)
    suv = FixedOrder(("suv_care", "loyal_care", "no_offer"))
    return {"incumbent": incumbent, "personal": personal, "suv_first": suv, "incumbent_again": incumbent}


def _prepare(
    service: DecisionService, policies: dict[str, SaveablePolicy], config: SampleConfig, *, at: datetime
) -> dict[str, str]:
    refs = {
        name: str(service.policies.register(p.to_artifact(), name=name, at=at, actor=ACTOR))
        for name, p in policies.items()
    }
    for place in PLACES:
        offers = catalogue(config.language)
        service.put_placement(
            Placement(place, offers, rules=RULES, policy=refs["incumbent"], baseline=OFFERS.ids, reward=REWARD),
            actor=ACTOR,
        )
    return refs


def _live(
    service: DecisionService,
    scenario: Scenario,
    trial: Trial,
    refs: dict[str, str],
    config: SampleConfig,
    *,
    number: int,
    on_day: Callable[[int, int], None],
) -> None:
    starts_at = config.ends_at - timedelta(days=trial.n_days)
    plan = _scaled(trial.plan, config.scale)
    draft = Experiment(
        trial.id,
        trial.placement,
        _variants(trial.control, trial.treatment, trial.weights_bp[0][1], refs),
        hypothesis=say(trial.hypothesis, config.language),
        plan=plan,
        segments=trial.segments,
    )
    service.experiments.create(draft, change=Change(starts_at - timedelta(hours=3), ACTOR))
    service.experiments.start(
        trial.id, revision=1, change=Change(starts_at, ACTOR, _reason(trial.weights_bp[0][2], config))
    )
    service.refresh()

    def before_day(day: int) -> None:
        at = starts_at + timedelta(days=day)
        for begins, weight, why in trial.weights_bp[1:]:
            if begins == day:
                weights = {trial.control: WEIGHT_TOTAL_BP - weight, trial.treatment: weight}
                found = service.experiments.get(trial.id)
                service.experiments.reweight(
                    trial.id,
                    revision=found.revision,
                    weights_bp=weights,
                    change=Change(at, ACTOR, _reason(why, config)),
                )
        for on, note in trial.notes:
            if on == day:
                service.experiments.note(
                    trial.id, say(note, config.language), change=Change(at + timedelta(hours=9), ACTOR)
                )
        if trial.stops_on_day == day:
            found = service.experiments.get(trial.id)
            service.experiments.stop(
                trial.id, revision=found.revision, change=Change(at, ACTOR, _reason("enough", config))
            )
        service.refresh()

    site = scenario.open(
        n_subjects=max(40, round(trial.n_subjects * config.scale)),
        visit_days=trial.visit_days,
        seed=config.seed + 1,
        first_subject=(number + 1) * 10_000_000,
    )
    live_through(
        site,
        InProcess(service),
        placement=trial.placement,
        starts_at=starts_at,
        n_days=trial.n_days,
        before_day=before_day,
        on_day=on_day,
    )


def _plans(service: DecisionService, refs: dict[str, str], config: SampleConfig) -> None:
    """What is not running yet: a draft, and an experiment that waits for its day."""
    at = config.ends_at - timedelta(days=2)
    plan = _scaled(
        Plan(planned_subjects=4_000, effect=0.02, primary="kept", visitors_per_day=75.0, visitors_per_month=2_250.0),
        config.scale,
    )
    back = Experiment(
        "win-back",
        PRICING,
        _variants("incumbent", "personal", 5_000, refs),
        hypothesis=say("back", config.language),
        plan=plan,
    )
    service.experiments.create(back, change=Change(at, ACTOR))
    price = Experiment(
        "lower-first-price",
        LETTER,
        _variants("incumbent", "personal", 5_000, refs),
        hypothesis=say("price", config.language),
        plan=replace(plan, primary="margin", effect=0.3),
    )
    service.experiments.create(price, change=Change(at, ACTOR))
    service.experiments.schedule(
        "lower-first-price",
        revision=1,
        starts_at=config.ends_at + timedelta(days=5, hours=8),
        change=Change(at + timedelta(hours=1), ACTOR),
    )


def _evaluated(
    service: DecisionService, policies: dict[str, SaveablePolicy], folder: Path, config: SampleConfig
) -> None:
    """What the log says of policies that did not act in it, as a report."""
    definition = service.placement(HOME)[0].reward
    log = export_interactions(service.database, HOME, definition=definition, as_of=config.ends_at)
    asked = {name: policies[name] for name in ("incumbent", "personal", "suv_first")}
    panel = evaluate(log, asked, incumbent="incumbent", n_resamples=100, seed=config.seed)
    panel.page(title=f"Off-policy evaluation on {HOME}").write(folder / f"evaluate-{HOME}.html")


def _simulated(folder: Path, policies: dict[str, SaveablePolicy], config: SampleConfig) -> None:
    """The policies side by side in the simulator, as a report."""
    from engine.simulation.report import page
    from engine.simulation.sweep import run_cells
    from simulator.experiments import plan, read_lives, summarise

    scratch = folder / "simulation"
    saved = []
    for name in ("incumbent", "personal"):
        save_artifact(policies[name].to_artifact(), scratch / name)
        saved.append(str(scratch / name))
    cells = plan("reference", saved, n_subjects=max(400, round(4_000 * config.scale)), visit_days=14, seeds=range(1, 3))
    run_cells(cells, scratch)
    lives = read_lives(cells, scratch)
    page(cells, lives, summarise(cells, lives)).write(folder / "reports" / "simulate-reference.html")
    shutil.rmtree(scratch)


def _variants(control: str, treatment: str, weight_bp: int, refs: dict[str, str]) -> tuple[Variant, ...]:
    return (
        Variant(control, WEIGHT_TOTAL_BP - weight_bp, refs[control]),
        Variant(treatment, weight_bp, refs[treatment]),
    )


def _scaled(plan: Plan, scale: float) -> Plan:
    rate, month = plan.visitors_per_day or 0.0, plan.visitors_per_month or 0.0
    return replace(
        plan,
        planned_subjects=max(200, round(plan.planned_subjects * scale)),
        visitors_per_day=rate * scale,
        visitors_per_month=month * scale,
    )


def _reason(key: str, config: SampleConfig) -> str:
    return say(key, config.language) if key else ""
