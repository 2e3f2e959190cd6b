"""A site fitted on the log, and candidate and incumbent on it with the same visitors and the same luck: ``python -m engine.retrain.simulated``."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from engine.gate.parts import SimulatedDifference
from engine.retrain.records import RetrainConfig, config_from_json
from engine.simulation.store_log import rollout_of, scenario_of
from engine.store.database import Database
from policies.artifact import load_artifact
from policies.errors import NextofferError
from policies.protocols import Policy
from policies.registry import load_policy
from simulator.calibrated import calibrate
from simulator.rollouts import Rollout
from simulator.scenarios.car_subscription import Scenario
from simulator.truth import OUTCOMES, true_value

# Fewer visitors than these leave most of a site open.
MIN_VISITORS = 2_000
_NODES = 256


def simulate(
    run: Rollout, site: Scenario, candidate: Policy, incumbent: Policy, *, config: RetrainConfig, explore_share: float
) -> list[SimulatedDifference]:
    """Differences by outcome over an ensemble of fitted sites.

    The interval is Student's over members, widened by the error of the simulated mean: what the log leaves open is in it, the form
    of the laws is not.
    """
    made = calibrate(run, site, n_nodes=_NODES, seed=config.seed)
    n = config.n_simulated

    def both(scenario: Scenario, size: int) -> tuple[Any, Any]:
        return tuple(
            true_value(scenario, p, n_subjects=size, seed=config.seed, explore_share=explore_share)
            for p in (candidate, incumbent)
        )  # type: ignore[return-value]  # two of them

    centre = both(made.scenario, 4 * n)
    members = [both(m, n) for m in made.members(config.n_members, seed=config.seed)]
    quantile = float(student.ppf(0.975, config.n_members - 1))
    out = []
    for outcome in OUTCOMES:
        value, error = centre[0].difference(centre[1], outcome)
        each = [a.difference(b, outcome)[0] for a, b in members]
        half = quantile * float(np.sqrt(np.var(each, ddof=1) + error**2))
        own, own_error = centre[0].value(outcome)
        own_half = quantile * float(np.sqrt(np.var([a.value(outcome)[0] for a, _ in members], ddof=1) + own_error**2))
        out.append(
            SimulatedDifference(
                outcome,
                value,
                value - half,
                value + half,
                own,
                own - own_half,
                own + own_half,
                centre[1].value(outcome)[0],
            )
        )
    return out


def main(arguments: list[str] | None = None) -> int:
    """Fit a site on the store's log and value a candidate and the incumbent on it; a reason where that cannot be done."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    for name in ("--config", "--candidate", "--incumbent", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--database", required=True, help="read from the environment variable of this name")
    parser.add_argument("--as-of", type=datetime.fromisoformat, required=True)
    parser.add_argument("--explore-share", type=float, required=True)
    given = parser.parse_args(arguments)
    import os

    config = config_from_json(json.loads(given.config.read_text(encoding="utf-8")))
    told: dict[str, Any]
    try:
        with Database(os.environ[given.database]) as database:
            from engine.offers.stored import placement_in

            placement, _ = placement_in(database, config.placement)
            site = scenario_of(placement)
            kinds = {
                "clicked": config.clicked,
                "subscribed": config.subscribed,
                "kept_30d": config.kept,
                "margin_eur": config.margin,
                "cancelled": config.cancelled,
            }
            run = rollout_of(database, placement, site, kinds=kinds, as_of=given.as_of)
        n_visitors = len(run.subjects.n_visits)
        if n_visitors < MIN_VISITORS:
            told = {"reason": f"The log has {n_visitors:,} visitors; a fit of a site takes {MIN_VISITORS:,}."}
        else:
            candidate, incumbent = (load_policy(load_artifact(p)) for p in (given.candidate, given.incumbent))
            found = simulate(run, site, candidate, incumbent, config=config, explore_share=given.explore_share)
            told = {"n_visitors": n_visitors, "differences": [d.to_json() for d in found]}
    except NextofferError as error:
        told = {"reason": f"{str(error)[:1].upper()}{str(error)[1:]}."}
    given.out.write_text(json.dumps({"in_simulation": True, **told}, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
