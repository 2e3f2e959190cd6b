"""Three ways to know what a policy gains, side by side: a simulator fitted on the log, the log itself, and a live experiment.

Compared is what all three can measure without bias: the relative gain in subscribers kept from a visitor's *first* visit. Over later
visits the weights of a log collapse (``offline_eval.sequential``), and who is left after many visits depends on the policy. The log is one
of even rotation, the simulator's family is the first one whatever the world's, and the live experiment is the light
pipeline of ``engine.proof.live``.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from engine.demo.candidates import INCUMBENT
from engine.demo.live import CONTROL, TREATMENT
from engine.proof.config import ProofConfig
from engine.proof.learning import FIRST, AnyWorld, challenge, collect
from engine.proof.live import live
from engine.proof.one_world import seed_of
from offline_eval.estimators import default_estimators
from offline_eval.panel import evaluate
from policies.fixed import FixedOrder, Uniform
from policies.protocols import Policy
from policies.records import FloatArray, InteractionBatch
from simulator.calibrated import calibrate
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import FAMILIES, Scenario, reference

SIMULATOR, LOG, LIVE = "simulator", "log", "live"
PAIRS = ((SIMULATOR, LIVE), (LOG, LIVE), (SIMULATOR, LOG))
POINTS = 0.03
_N_MEMBERS, _N_MEMBER_SUBJECTS, _N_CALIBRATION = 12, 20_000, 20_000
_COHORT = 50_000


def agreement_in(world: AnyWorld, config: ProofConfig, *, name: str, number: int) -> dict[str, Any]:
    """Lift of a challenger in first visits by each of the three, with errors, and every pairwise difference."""
    seed = seed_of(config, number)
    small = collect(world, config, seed=seed, n_subjects=config.n_log_subjects)
    learned = challenge(small, config, seed=seed)
    both: dict[str, Policy] = {INCUMBENT: small.incumbent, learned.challenger: learned.candidates[learned.challenger]}
    log = first_visits_under_rotation(world, config, seed=seed + 5)
    found = {
        LOG: _by_log(log, both, config),
        LIVE: _by_live(world, both, config, seed=seed + 7),
        SIMULATOR: _by_simulator(world, log, both, config, seed=seed + 9),
    }
    return {
        "world": name,
        "challenger": learned.challenger,
        "first_visit": {k: {"lift": v[0], "standard_error": v[1]} for k, v in found.items()},
        "pairs": differences(found),
    }


def differences(found: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Pairwise differences of lift: 95 % interval, p-value, and whether zero is left after Holm's correction over the pairs."""
    rows: list[dict[str, Any]] = []
    for a, b in PAIRS:
        off, error = found[a][0] - found[b][0], sqrt(found[a][1] ** 2 + found[b][1] ** 2)
        half = float(norm.ppf(0.975)) * error
        rows.append({"a": a, "b": b, "difference": off, "low": off - half, "high": off + half,
                     "p": float(2 * norm.sf(abs(off) / error)) if error > 0 else 1.0})  # fmt: skip
    order = np.argsort([r["p"] for r in rows])
    rejects = True
    for place, i in enumerate(order.tolist()):
        rejects = rejects and rows[i]["p"] <= 0.05 / (len(rows) - place)
        rows[i]["covers_zero"] = not rejects
        rows[i]["within_points"] = bool(max(-rows[i]["low"], rows[i]["high"]) <= POINTS)
        rows[i]["is_powered"] = bool(rows[i]["high"] - rows[i]["low"] <= 2 * POINTS)
    return rows


def first_visits_under_rotation(world: AnyWorld, config: ProofConfig, *, seed: int) -> InteractionBatch:
    """First visits of many visitors, each shown any eligible offer."""
    parts = []
    for first in range(0, config.n_wide_subjects, _COHORT):
        run = rollout(
            world, Uniform(), n_subjects=min(_COHORT, config.n_wide_subjects - first), visit_days=config.visit_days,
            seed=seed, first_subject=FIRST["wide"] + first, explore_share=1.0,
        )  # fmt: skip
        parts.append(run.interactions("kept_30d").take(first_rows(run)))
    from offline_eval.interop.tables import concatenate

    return parts[0] if len(parts) == 1 else concatenate(parts)


def first_rows(run: Rollout) -> np.ndarray:
    """Row of each visitor's first decision; rows are in order of time."""
    _, rows = np.unique(run.row, return_index=True)
    return np.asarray(rows)


def _by_log(log: InteractionBatch, both: dict[str, Policy], config: ProofConfig) -> tuple[float, float]:
    """Doubly robust lift and its error; the ratio by the delete-a-group jackknife over visitors."""
    model = next(iter(p.model for p in both.values() if hasattr(p, "model")), None)
    estimators = [e for e in default_estimators() if e.name == ("DR" if model is not None else "SNIPS")]
    name = estimators[0].name

    def lift(rows: np.ndarray | None) -> float:
        part = log if rows is None else log.take(rows)
        panel = evaluate(
            part, both, incumbent=INCUMBENT, estimators=estimators, reward_model=model, fit_reward=None,
            explore_share=config.serve_explore_share, n_resamples=0,
        )  # fmt: skip
        values = {n: panel.estimates[n][name].value for n in both}
        challenger = next(n for n in both if n != INCUMBENT)
        top, bottom = values[challenger], values[INCUMBENT]
        assert top is not None
        assert bottom is not None
        return top / bottom - 1.0

    group = np.arange(len(log)) % 10
    parts = np.asarray([lift(np.flatnonzero(group == g)) for g in range(10)])
    return lift(None), float(parts.std(ddof=1) / sqrt(len(parts)))


def _by_live(world: AnyWorld, both: dict[str, Policy], config: ProofConfig, *, seed: int) -> tuple[float, float]:
    """Lift between the arms of a live experiment; error by the delta method."""
    challenger = next(n for n in both if n != INCUMBENT)
    served = {CONTROL: both[INCUMBENT], TREATMENT: both[challenger]}
    kept, n = np.zeros(2), np.zeros(2)
    for first in range(0, config.n_wide_subjects, _COHORT):
        found = live(
            world, served, n_subjects=min(_COHORT, config.n_wide_subjects - first), config=config, seed=seed,
            first_subject=FIRST["live"] + first,
        )  # fmt: skip
        rows = first_rows(found.run)
        reward = found.run.rewards["kept_30d"][rows]
        n += np.bincount(found.variant, minlength=2)
        kept += np.bincount(found.variant, weights=reward, minlength=2)
    return ratio_of_shares(kept, n)


def ratio_of_shares(kept: FloatArray, n: FloatArray) -> tuple[float, float]:
    """Relative difference of the second share to the first, and its standard error; each argument of shape ``(2,)``."""
    share = kept / n
    ratio = float(share[1] / share[0])
    return ratio - 1.0, ratio * sqrt(float(((1 - share) / kept).sum()))


def _by_simulator(
    world: AnyWorld, log: InteractionBatch, both: dict[str, Policy], config: ProofConfig, *, seed: int
) -> tuple[float, float]:
    """Lift on a site of the first family fitted on a log of the world, with the spread of its ensemble.

    The fit's laws may be wrong. How wrong is seen on the single offers, whose first visits the log tells without any model: the spread
    of what the fit says of their relative values beyond what chance explains is added to the error.
    """
    run = rollout(
        world, Uniform(), n_subjects=min(_N_CALIBRATION, config.n_wide_subjects), visit_days=config.visit_days, seed=seed,
        first_subject=FIRST["log"], explore_share=1.0,
    )  # fmt: skip
    site = reference() if not isinstance(world, Scenario) else world
    fitted = calibrate(run, site, n_nodes=128)
    challenger = next(n for n in both if n != INCUMBENT)

    def shares(scenario: Scenario, policies: list[Policy], n: int) -> FloatArray:
        out = []
        for policy in policies:
            found = rollout(
                scenario, policy, n_subjects=n, visit_days=config.visit_days, seed=seed + 1,
                explore_share=config.serve_explore_share,
            )  # fmt: skip
            out.append(float(found.rewards["kept_30d"][first_rows(found)].mean()))
        return np.asarray(out)

    pair = [both[INCUMBENT], both[challenger]]
    centre = shares(fitted.scenario, pair, 5 * _N_MEMBER_SUBJECTS)
    lift = float(centre[1] / centre[0] - 1.0)
    members = fitted.members(_N_MEMBERS, seed=seed)
    lifts = [float(v[1] / v[0] - 1.0) for v in (shares(m, pair, _N_MEMBER_SUBJECTS) for m in members)]
    scale = float(student.ppf(0.975, _N_MEMBERS - 1) / norm.ppf(0.975))
    spread = scale * float(np.std(lifts, ddof=1))
    # A lift is a ratio of two values, each as far off as a single offer's.
    apart = sqrt(2.0) * (1.0 + lift) * misfit(log, fitted.scenario, shares)
    return lift, sqrt(spread**2 + apart**2)


def misfit(log: InteractionBatch, site: Scenario, shares: Any) -> float:
    """Spread of (fitted ÷ logged) over the single offers, less what chance makes of it."""
    contracts = [i for i, o in enumerate(log.table.offers) if o.features["family"] not in (FAMILIES[0], "loyalty")]
    fixed: list[Policy] = [FixedOrder((str(log.table.offers.ids[i]), "loyal_care")) for i in contracts]
    said = shares(site, fixed, 5 * _N_MEMBER_SUBJECTS)
    shown = [log.reward[log.chosen == i] for i in contracts]
    seen = np.asarray([r.mean() for r in shown])
    chance = np.asarray([1.0 / max(r.sum(), 1.0) for r in shown]) + 1.0 / np.maximum(said * 5 * _N_MEMBER_SUBJECTS, 1.0)
    ratio = np.log(np.maximum(said, 1e-9) / np.maximum(seen, 1e-9))
    return sqrt(max(0.0, float(ratio.var(ddof=1) - chance.mean())))
