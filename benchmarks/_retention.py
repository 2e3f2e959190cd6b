"""Planning against the best bandit where discounts make visitors dependent, over a sweep of how much; all in simulation.

Everyone learns for the 30-day reward from the same randomised log. Bandits get it as the service credits it (to the last
decision before the contract) and as what became of the subject after each decision; the better of all of them, found on
visitors of its own, is the one to beat. PPO and DQN learn in the simulator, each visit judged by a reward model of the same log
(``engine.training.rl_judged``). Everyone is then let loose, without an explore share, on the same visitors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

# Ray would otherwise import TensorFlow where it is installed.
os.environ.setdefault("RLLIB_TEST_NO_TF_IMPORT", "1")

import numpy as np
from scipy.stats import t as student_t

from benchmarks._figures import Figure
from benchmarks._kept import Kept
from policies.artifact import load_artifact, save_artifact
from policies.features import FeatureSpace
from policies.fixed import Uniform, fit_incumbent
from policies.greedy import greedy
from policies.linear import LinTS, LinUCB
from policies.protocols import Policy
from policies.records import FloatArray, InteractionBatch
from policies.registry import load_policy
from simulator.exact import greedy_crossing, myopic, solve, value_of
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import Scenario, tabular
from simulator.scenarios.files import save_scenario
from simulator.scenarios.named import retention_tabular
from simulator.truth import true_value

if TYPE_CHECKING:
    from engine.training.rl import AlgorithmName

SWEEP = (0.0, 0.2, 0.9, 1.4)
OUTCOME: Literal["kept_30d"] = "kept_30d"
_N_LOGGED = 20_000  # visitors of the log that everybody learns from
_N_CHOOSING = 10_000  # visitors on which the best bandit is chosen
_N_JUDGED = 20_000
_LEAST_LIFT = 0.02
_ITERATIONS = {"ppo": 20, "dqn": 20}


def sweep(
    folder: Path, *, n_seeds: int, seed: int, algorithms: Sequence[AlgorithmName], coefficients: Sequence[float] = SWEEP
) -> list[Figure]:
    """Measure what is not yet in ``folder``, and judge: above the crossing planning must win, below it nobody."""
    kept = Kept(folder / "retention.jsonl")
    at = greedy_crossing(lambda c: retention_tabular(discount_dependence=c))
    figures = [
        Figure("greedy_crossing", "discount dependence", at, note="selling most in each visit stops keeping most")
    ]
    claims = 0
    for coefficient in coefficients:
        site = retention_tabular(discount_dependence=coefficient)
        best = solve(site)[1]
        to_gain = best / value_of(site, myopic(site, outcome=OUTCOME)) - 1.0
        for algorithm in algorithms:
            values = np.asarray(
                [_values(site, folder, kept, algorithm=algorithm, seed=seed + i) for i in range(n_seeds)]
            )
            figures += _figures(
                f"{algorithm}_{coefficient:g}", values, best=best, to_gain=to_gain, is_above=coefficient > at
            )
            claims += coefficient < at and to_gain < 1e-3 and _is_claimed(values)
    must = "<= 0" if min(coefficients) < at else ""
    figures.append(Figure("claims_below_crossing", "wins claimed", float(claims), must=must, can_judge=n_seeds >= 5,
                          note="where the exact optimum is no better than the best choice of each visit"))  # fmt: skip
    return figures


def _is_claimed(values: FloatArray) -> bool:
    """Whether the interval of planner less bandit lies above 0."""
    gain, half = _interval(values[:, 2] - values[:, 1])
    return gain - half > 0


def tabular_share(folder: Path, *, n_seeds: int, seed: int) -> list[Figure]:
    """Share of the exact optimum on the tabular sites, by the best bandit and by PPO: mean over seeds with 95 % interval."""
    kept = Kept(folder / "retention.jsonl")
    out = []
    for site in (tabular(), retention_tabular()):
        best = solve(site)[1]
        values = np.asarray([_values(site, folder, kept, algorithm="ppo", seed=seed + i) for i in range(n_seeds)])
        for name, value in (("bandit", values[:, 1]), ("ppo", values[:, 2])):
            mean, half = _interval(value / best)
            is_learner_of_choice = (name == "bandit") is (site.name == "tabular")
            out.append(
                Figure(
                    f"{site.name}_optimum_{name}", "share of the exact optimum", mean, must=">= 0.95" if is_learner_of_choice else "",
                    runs=n_seeds, spread=(mean - half, mean + half), can_judge=n_seeds >= 5,
                    note=f"exact optimum {best:.5f} kept per visitor, best choice of each visit alone "
                    f"{value_of(site, myopic(site, outcome=OUTCOME)):.5f}; in simulation",
                )
            )  # fmt: skip
    return out


def _values(
    site: Scenario, folder: Path, kept: Kept, *, algorithm: AlgorithmName, seed: int
) -> tuple[float, float, float]:
    """Kept per visitor of the incumbent, the best bandit and the planner, on the same visitors."""
    where = folder / f"{site.name}-{seed}-{_N_LOGGED}"

    def name(who: str) -> str:
        return f"{site.name}/{seed}/{_N_LOGGED}/{who}"

    def judged(policy: Policy) -> float:
        return true_value(site, policy, n_subjects=_N_JUDGED, seed=seed + 5_000, explore_share=0.0).value(OUTCOME)[0]

    incumbent = kept.value(name("incumbent"), lambda: judged(_incumbent(_logged(site, seed))))
    bandit = kept.value(name("best bandit"), lambda: judged(_best_bandit(site, _logged(site, seed), seed=seed)))
    settings = f"{algorithm} {_ITERATIONS[algorithm]}"
    planner = kept.value(name(settings), lambda: judged(_planner(site, where, algorithm=algorithm, seed=seed)))
    return incumbent, bandit, planner


def _logged(site: Scenario, seed: int) -> Rollout:
    return rollout(site, Uniform(), n_subjects=_N_LOGGED, seed=seed)


def _incumbent(log: Rollout) -> Policy:
    return fit_incumbent(log.interactions(OUTCOME), stage_column="stage")


def _best_bandit(site: Scenario, log: Rollout, *, seed: int) -> Policy:
    """The best of reward models and linear bandits over both credits, on visitors that judge nothing else."""
    from engine.training.reward import fit_reward_model

    credited = log.interactions(OUTCOME)
    became = np.asarray(log.subjects.kept_30d, dtype=np.float64)[log.row]
    made: list[Policy] = []
    for batch in (credited, credited.with_reward(became)):
        made += [greedy(fit_reward_model(batch, kind="lightgbm", seed=seed))]
        made += [_fitted_linear(batch, kind) for kind in (LinUCB, LinTS)]
    chosen = [
        true_value(site, p, n_subjects=_N_CHOOSING, seed=seed + 9_000, explore_share=0.0).value(OUTCOME)[0]
        for p in made
    ]
    return made[int(np.argmax(chosen))]


def _fitted_linear(batch: InteractionBatch, kind: type[LinUCB] | type[LinTS]) -> Policy:
    learner = kind(FeatureSpace.fit(batch.table))
    learner.learn(batch)
    return learner


def _start_ray() -> None:
    """Once for all runs: starting it takes as long as a third of a training."""
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False, num_cpus=1, object_store_memory=200_000_000)  # fmt: skip


def _planner(site: Scenario, where: Path, *, algorithm: AlgorithmName, seed: int) -> Policy:
    """Trained unless the folder holds it already; served greedily."""
    out = where / f"{algorithm}-{_ITERATIONS[algorithm]}"
    if not (out / "policy").exists():
        if not (where / "scenario").exists():
            save_scenario(site, where / "scenario")
        if not (where / "model").exists():
            from engine.training.reward import fit_reward_model

            model = fit_reward_model(_logged(site, seed).interactions(OUTCOME), kind="lightgbm", seed=seed)
            save_artifact(model.to_artifact(), where / "model")
        from engine.training.rl import RLSettings, train

        _start_ray()
        settings = RLSettings(algorithm=algorithm, iterations=_ITERATIONS[algorithm], learning_rate=1e-3, seed=seed)
        train(where / "scenario", out, settings=settings, reward_model=where / "model")
    artifact = load_artifact(out / "policy")
    return load_policy(replace(artifact, manifest={**artifact.manifest, "form": "greedy"}))


def _figures(name: str, values: FloatArray, *, best: float, to_gain: float, is_above: bool) -> list[Figure]:
    incumbent, bandit, planner = values.T
    n = len(values)
    gain, half = _interval(planner - bandit)
    share, share_half = _interval((planner - incumbent) / (best - incumbent))
    bandit_share, _ = _interval((bandit - incumbent) / (best - incumbent))
    claimed = "planning wins" if gain - half > 0 else "planning loses" if gain + half < 0 else "no winner"
    figures = [
        Figure(
            f"{name}_over_best_bandit", "kept per visitor", gain, must="> 0" if is_above else "", can_judge=n >= 5 and abs(gain) > half, runs=n,
            spread=(gain - half, gain + half), baseline=("best bandit on the 30-day reward", float(bandit.mean())),
            note=f"{claimed}; incumbent {incumbent.mean():.4f}, exact optimum {best:.4f}, {100 * to_gain:.1f} % above the best choice "
            "of each visit; in simulation",
        ),
    ]  # fmt: skip
    if best - float(incumbent.mean()) > _LEAST_LIFT * best:  # else a share of next to nothing is noise
        figures.append(
            Figure(
                f"{name}_share_of_oracle", "share of the optimum's lift", share, runs=n, spread=(share - share_half, share + share_half),
                note=f"best bandit {bandit_share:.3f}; lift over the incumbent; in simulation",
            )
        )  # fmt: skip
    return figures


def _interval(values: FloatArray) -> tuple[float, float]:
    n = len(values)
    if n < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(student_t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
