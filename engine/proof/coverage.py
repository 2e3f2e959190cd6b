"""One point of the grid: what the challenger truly gains there, and whether repeated experiments claim no more than is true."""

from __future__ import annotations

from typing import Any

from engine.demo.candidates import INCUMBENT
from engine.demo.live import CONTROL, TREATMENT
from engine.proof.config import ProofConfig
from engine.proof.grid import GridWorld
from engine.proof.learning import FIRST, challenge, collect
from engine.proof.live import live, read, sample_size, statistics_plan
from engine.proof.one_world import answer, claimed, seed_of
from engine.proof.truth import against, true_values
from policies.protocols import Policy

# Worlds of the grid follow the sealed ones in the count that seeds come from.
_FIRST_NUMBER = 100_000
_COHORT = 1_000_000


def coverage_in(point: GridWorld, config: ProofConfig) -> dict[str, Any]:
    """Learn once, then run the planned experiment ``config.n_repeats`` times on fresh visitors."""
    seed = seed_of(config, _FIRST_NUMBER + point.number)
    log = collect(point.world, config, seed=seed, n_subjects=config.n_log_subjects)
    learned = challenge(log, config, seed=seed)
    size = sample_size(log.kept_per_visitor, config)
    challenger = learned.candidates[learned.challenger]
    both: dict[str, Policy] = {CONTROL: log.incumbent, TREATMENT: challenger}
    plan = statistics_plan(size, config)
    claims = []
    for repeat in range(config.n_repeats):
        run = live(
            point.world, both, n_subjects=size.comes, config=config, seed=seed + 3,
            first_subject=FIRST["live"] + repeat * _COHORT,
        )  # fmt: skip
        experiment = read(run, plan)
        claims.append({**claimed(experiment.now, experiment), "answer": answer(learned, experiment.now)})
    policies: dict[str, Policy] = {INCUMBENT: log.incumbent, learned.challenger: challenger}
    truth = true_values(point.world, policies, config=config, seed=seed + 2)
    return {
        "number": point.number,
        "at": point.at,
        "incumbent": list(log.incumbent.orders.get("visitor", log.incumbent.default))[:1],
        "challenger": learned.challenger,
        "word_of_the_log": learned.word,
        "plan": {"kept_per_visitor": size.kept_per_visitor, "effect": size.effect, "planned": size.planned},
        "truth": against(truth, learned.challenger, INCUMBENT),
        "claims": claims,
    }
