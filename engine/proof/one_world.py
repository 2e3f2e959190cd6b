"""One world from its training log to an answer, "lift" or "cannot say", and what was true."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.demo.candidates import INCUMBENT
from engine.demo.live import CONTROL, TREATMENT
from engine.proof.config import ProofConfig
from engine.proof.learning import AnyWorld, Learned, TrainingLog, challenge, collect
from engine.proof.live import SampleSize, live, read, sample_size, statistics_plan
from engine.proof.rivals import N_PEEKS, peeking, plain_ips
from engine.proof.truth import Values, against, true_values
from offline_eval.abtest import ExperimentReading, Replay
from policies.protocols import Policy

LIFT, CANNOT_SAY = "lift", "cannot say"


def answer_in(world: AnyWorld, config: ProofConfig, *, number: int, confounding: float = 0.0) -> dict[str, Any]:
    """Run one world and say what the system answers, what its rivals answer, and the truth about each of them.

    Parameters
    ----------
    number
        Of the world; every seed in it follows from it.
    confounding
        Strength of the hidden hand that chose the training log; 0 for none.
    """
    seed = seed_of(config, number)
    log = collect(world, config, seed=seed, n_subjects=config.n_log_subjects, confounding=confounding)
    learned = challenge(log, config, seed=seed)
    size = sample_size(log.kept_per_visitor, config)
    experiment, reading = judged_live(world, log, learned, size, config, seed=seed + 3)
    ips = plain_ips(
        log.rewards["kept_30d"], learned.candidates, incumbent=log.incumbent, explore_share=config.serve_explore_share
    )
    answers = {
        "ours": (learned.challenger if answer(learned, reading) == LIFT else None),
        "peeking": peeking(experiment, learned.challenger).policy,
        "plain IPS": ips.policy,
    }
    wanted = {learned.challenger, *(p for p in answers.values() if p is not None)}
    truth = truths(world, log, learned, config, seed=seed + 2, names=wanted)
    return {
        "number": number,
        "incumbent": list(log.incumbent.orders.get("visitor", log.incumbent.default))[:1],
        "challenger": learned.challenger,
        "word_of_the_log": learned.word,
        "loses_margin": list(learned.loses_margin),
        "plan": {"kept_per_visitor": size.kept_per_visitor, "effect": size.effect, "planned": size.planned},
        "answers": answers,
        "truth": {name: against(truth, name, INCUMBENT) for name in sorted(wanted)},
        "live": claimed(reading, experiment),
    }


def seed_of(config: ProofConfig, number: int) -> int:
    """Seed of one world: worlds share no luck."""
    return config.seed * 1_000_003 + 17 * number


def judged_live(
    world: AnyWorld, log: TrainingLog, learned: Learned, size: SampleSize, config: ProofConfig, *, seed: int
) -> tuple[Replay, ExperimentReading]:
    """The challenger against the incumbent, live, under the plan; the last reading is the one that decides."""
    both: dict[str, Policy] = {CONTROL: log.incumbent, TREATMENT: learned.candidates[learned.challenger]}
    run = live(world, both, n_subjects=size.comes, config=config, seed=seed)
    experiment = read(run, statistics_plan(size, config), n_points=N_PEEKS)
    return experiment, experiment.now


def answer(learned: Learned, reading: ExperimentReading) -> str:
    """Lift where the log does not advise against it and the live experiment says ship; otherwise the system cannot say."""
    if learned.word == "do not use" or learned.challenger in learned.same:
        return CANNOT_SAY
    return LIFT if reading.verdict.decision == "ship" else CANNOT_SAY


def truths(
    world: AnyWorld, log: TrainingLog, learned: Learned, config: ProofConfig, *, seed: int, names: set[str]
) -> dict[str, Values]:
    """True values of the incumbent and some candidates."""
    chosen: dict[str, Policy] = {INCUMBENT: log.incumbent, **{n: learned.candidates[n] for n in sorted(names)}}
    return true_values(world, chosen, config=config, seed=seed)


def claimed(reading: ExperimentReading, experiment: Replay) -> dict[str, Any]:
    """What the live experiment claims, in absolute terms and as lift: the primary metric by its last planned look.

    Between planned looks the primary metric is shown by the wider interval that holds at any moment; the plan's own is narrower.
    """
    at_look = experiment.looks[-1][1] if experiment.looks else reading
    told: dict[str, Any] = {"decision": reading.verdict.decision, "reason": reading.verdict.reason}
    told["n_looks_taken"] = len(experiment.looks)
    for metric in ("conversion", "kept", "margin"):
        found = (at_look if metric == "kept" else reading).of(metric, TREATMENT)
        lift = found.effect.lift
        told[metric] = {
            "control": found.effect.control, "treatment": found.effect.treatment, "estimate": found.interval.estimate,
            "low": found.interval.low, "high": found.interval.high, "method": found.interval.method,
            "level": found.interval.level, "standard_error": found.effect.standard_error,
            "lift": None if lift is None else {"lift": lift.estimate, "low": lift.low, "high": lift.high},
        }  # fmt: skip
    return {name: (v if not isinstance(v, np.generic) else v.item()) for name, v in told.items()}
