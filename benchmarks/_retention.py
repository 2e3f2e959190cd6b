"""Planning against the best bandit where discounts make visitors dependent, over a sweep of how much; all in simulation.

Everyone learns for the 30-day reward from the same randomised log. Bandits get it as the service credits it (to the last
decision before the contract) and as what became of the subject after each decision; the better of all of them, found on
visitors of its own, is the one to beat. PPO and DQN learn in the simulator, each visit judged by a reward model of the same log
(``engine.training.rl_judged``) or by what the visitors did. Everyone is then let loose, without an explore share, on the same visitors.

A network that beats the best bandit need not look ahead: it may only fit better. So each planner has a *myopic twin*, the same
network from the same visits with ``gamma = 0``, which is a contextual bandit. Planning has won where both are beaten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
_ITERATIONS = 20


@dataclass(frozen=True, slots=True)
class Planner:
    """How one network is trained: the part of ``RLSettings`` that is compared.

    Parameters
    ----------
    is_judged
        Each visit is worth what a reward model of the log expects of it; otherwise what came of the visitor.
    gamma
        None: the algorithm's own. Zero: a myopic twin.
    """

    algorithm: AlgorithmName
    is_judged: bool = True
    gamma: float | None = None

    def __str__(self) -> str:
        told = "" if self.is_judged else ", rewarded by the world"
        return f"{self.algorithm} {_ITERATIONS}{told}" + ("" if self.gamma is None else f", gamma {self.gamma:g}")


PLANNERS = {"ppo": Planner("ppo"), "dqn": Planner("dqn")}


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Kept per visitor of each contender on the same visitors, one value a seed, shape ``(n_seeds,)``."""

    incumbent: FloatArray
    bandit: FloatArray
    planner: FloatArray
    twin: FloatArray

    @property
    def is_claimed(self) -> bool:
        """Whether planning has won: the intervals to the best bandit and to the myopic twin both lie above 0."""
        return all(
            mean - half > 0 for mean, half in map(_interval, (self.planner - self.bandit, self.planner - self.twin))
        )


def sweep(
    folder: Path, *, n_seeds: int, seed: int, planners: Sequence[str] = ("ppo",), coefficients: Sequence[float] = SWEEP
) -> list[Figure]:
    """Measure what is not yet in ``folder``, and judge: above the crossing planning must win, below it nobody.

    Seed by seed over all coefficients, so that a run that is cut off leaves something of each.
    """
    kept = Kept(folder / "retention.jsonl")
    at = greedy_crossing(lambda c: retention_tabular(discount_dependence=c))
    sites = {c: retention_tabular(discount_dependence=c) for c in coefficients}
    seeds = range(seed, seed + n_seeds)
    measured = {
        (who, c, s): _Cell(site, folder, kept, s).all(PLANNERS[who])
        for s in seeds
        for c, site in sites.items()
        for who in planners
    }
    figures = [
        Figure("greedy_crossing", "discount dependence", at, note="selling most in each visit stops keeping most")
    ]
    claims = 0
    for coefficient, site in sites.items():
        best = solve(site)[1]
        to_gain = best / value_of(site, myopic(site, outcome=OUTCOME)) - 1.0
        for who in planners:
            found = Found(*np.asarray([measured[who, coefficient, s] for s in seeds]).T)
            figures += _figures(f"{who}_{coefficient:g}", found, best=best, to_gain=to_gain, is_above=coefficient > at)
            claims += coefficient < at and to_gain < 1e-3 and found.is_claimed
    must = "<= 0" if min(coefficients) < at else ""
    figures.append(Figure("claims_below_crossing", "wins claimed", float(claims), must=must, can_judge=n_seeds >= 5,
                          note="where the exact optimum is no better than the best choice of each visit"))  # fmt: skip
    return figures


def tabular_share(folder: Path, *, n_seeds: int, seed: int) -> list[Figure]:
    """Share of the exact optimum on the tabular sites, by the best bandit and by PPO: mean over seeds with 95 % interval."""
    kept = Kept(folder / "retention.jsonl")
    out = []
    for site in (tabular(), retention_tabular()):
        best = solve(site)[1]
        cells = [_Cell(site, folder, kept, seed + i) for i in range(n_seeds)]
        for name, values in (("bandit", [c.bandit for c in cells]), ("ppo", [c.of(PLANNERS["ppo"]) for c in cells])):
            mean, half = _interval(np.asarray(values) / best)
            # What a bandit cannot reach where offers change later visits, it need not.
            must = "" if name == "bandit" and site.name != "tabular" else ">= 0.95"
            out.append(
                Figure(
                    f"{site.name}_optimum_{name}", "share of the exact optimum", mean, must=must, runs=n_seeds,
                    spread=(mean - half, mean + half), can_judge=n_seeds >= 5,
                    note=f"exact optimum {best:.5f} kept per visitor, best choice of each visit alone "
                    f"{value_of(site, myopic(site, outcome=OUTCOME)):.5f}; in simulation",
                )
            )  # fmt: skip
    return out


def reward_sources(folder: Path, *, n_seeds: int, seed: int, coefficients: Sequence[float]) -> list[Figure]:
    """PPO whose visits are judged by a reward model of the log, less PPO rewarded by what visitors did, paired over seeds."""
    kept = Kept(folder / "retention.jsonl")
    out = []
    for coefficient in coefficients:
        site = retention_tabular(discount_dependence=coefficient)
        cells = [_Cell(site, folder, kept, seed + i) for i in range(n_seeds)]
        model, world = (
            np.asarray([c.of(Planner("ppo", is_judged=is_judged)) for c in cells]) for is_judged in (True, False)
        )
        gain, half = _interval(model - world)
        out.append(
            Figure(
                f"ppo_{coefficient:g}_by_model_over_by_world", "kept per visitor", gain, runs=n_seeds, spread=(gain - half, gain + half),
                baseline=("PPO rewarded by what visitors did", float(world.mean())),
                note=f"judged by a model {model.mean():.4f}, exact optimum {solve(site)[1]:.4f}; in simulation",
            )
        )  # fmt: skip
    return out


@dataclass(frozen=True, slots=True)
class _Cell:
    """One site and one seed: what each contender keeps per visitor, all on the same visitors."""

    site: Scenario
    folder: Path
    kept: Kept
    seed: int

    @property
    def incumbent(self) -> float:
        return self._judged("incumbent", lambda: fit_incumbent(self._log.interactions(OUTCOME), stage_column="stage"))

    @property
    def bandit(self) -> float:
        return self._judged("best bandit", lambda: _best_bandit(self.site, self._log, seed=self.seed))

    def of(self, planner: Planner) -> float:
        where = self.folder / f"{self.site.name}-{self.seed}-{_N_LOGGED}"
        return self._judged(str(planner), lambda: _trained(planner, self.site, where, seed=self.seed))

    def all(self, planner: Planner) -> tuple[float, float, float, float]:
        """In the order of ``Found``."""
        return self.incumbent, self.bandit, self.of(planner), self.of(replace(planner, gamma=0.0))

    @property
    def _log(self) -> Rollout:
        return _logged(self.site, self.seed)

    def _judged(self, who: str, make: Callable[[], Policy]) -> float:
        def value() -> float:
            truth = true_value(self.site, make(), n_subjects=_N_JUDGED, seed=self.seed + 5_000, explore_share=0.0)
            return truth.value(OUTCOME)[0]

        return self.kept.value(f"{self.site.name}/{self.seed}/{_N_LOGGED}/{who}", value)


def _logged(site: Scenario, seed: int) -> Rollout:
    return rollout(site, Uniform(), n_subjects=_N_LOGGED, seed=seed)


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


def _trained(planner: Planner, site: Scenario, where: Path, *, seed: int) -> Policy:
    """Trained unless the folder holds it already; served greedily."""
    out = where / str(planner).replace(", ", "-").replace(" ", "-")
    if not (out / "policy").exists():
        if not (where / "scenario").exists():
            save_scenario(site, where / "scenario")
        from engine.training.rl import RLSettings, train, weights_for

        _start_ray()
        settings = RLSettings(
            algorithm=planner.algorithm, iterations=_ITERATIONS, learning_rate=1e-3, seed=seed, weights=weights_for(OUTCOME)
        )  # fmt: skip
        if planner.gamma is not None:
            settings = replace(settings, gamma=planner.gamma)
        model = _reward_model(site, where, seed=seed) if planner.is_judged else None
        train(where / "scenario", out, settings=settings, reward_model=model)
    artifact = load_artifact(out / "policy")
    return load_policy(replace(artifact, manifest={**artifact.manifest, "form": "greedy"}))


def _reward_model(site: Scenario, where: Path, *, seed: int) -> Path:
    """Of the log that everybody learns from, once for all that are judged by it."""
    if not (where / "model").exists():
        from engine.training.reward import fit_reward_model

        model = fit_reward_model(_logged(site, seed).interactions(OUTCOME), kind="lightgbm", seed=seed)
        save_artifact(model.to_artifact(), where / "model")
    return where / "model"


def _figures(name: str, found: Found, *, best: float, to_gain: float, is_above: bool) -> list[Figure]:
    n = len(found.planner)
    told = (
        f"incumbent {found.incumbent.mean():.4f}, best bandit {found.bandit.mean():.4f}, myopic twin {found.twin.mean():.4f}, "
        f"exact optimum {best:.4f}, {100 * to_gain:.1f} % above the best choice of each visit; in simulation"
    )
    figures = []
    for rival, values, who in (
        ("best_bandit", found.bandit, "best bandit on the 30-day reward"),
        ("myopic_twin", found.twin, "the same network with gamma 0"),
    ):
        gain, half = _interval(found.planner - values)
        word = "planner ahead" if gain - half > 0 else "planner behind" if gain + half < 0 else "no winner"
        figures.append(
            Figure(
                f"{name}_over_{rival}", "kept per visitor", gain, must="> 0" if is_above else "", can_judge=n >= 5 and abs(gain) > half,
                runs=n, spread=(gain - half, gain + half), baseline=(who, float(values.mean())), note=f"{word}; {told}",
            )
        )  # fmt: skip
    if best - float(found.incumbent.mean()) > _LEAST_LIFT * best:  # else a share of next to nothing is noise
        lift = best - found.incumbent
        share, half = _interval((found.planner - found.incumbent) / lift)
        others = [
            f"{who} {float(((v - found.incumbent) / lift).mean()):.3f}"
            for who, v in (("best bandit", found.bandit), ("myopic twin", found.twin))
        ]
        figures.append(
            Figure(
                f"{name}_share_of_oracle", "share of the optimum's lift", share, runs=n, spread=(share - half, share + half),
                note=f"{', '.join(others)}; lift over the incumbent; in simulation",
            )
        )  # fmt: skip
    return figures


def _interval(values: FloatArray) -> tuple[float, float]:
    n = len(values)
    if n < 2:
        return float(values.mean()), float("inf")
    return float(values.mean()), float(student_t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n))
