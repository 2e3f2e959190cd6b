"""Find the policy, and its settings, that a log speaks best for: cross-validated off-policy evaluation, on Ray or in this process.

A fifth of the subjects is set aside and judges once, at the end. On the rest each candidate is fitted on all folds but one and
judged on that one, doubly robustly and with the explore share it would be served with. The best of many candidates looks better
than it is; the subjects set aside say by how much.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from engine.jobs.kept import Kept
from engine.training.off_policy import OffPolicySettings, learn_policy, worth_of_offers
from engine.training.reward import fit_reward_model
from offline_eval.reward_models import subject_folds
from policies.artifact import save_artifact
from policies.boltzmann import boltzmann
from policies.errors import InvalidInputError, StateError, UnknownNameError
from policies.features import FeatureSpace
from policies.fixed import Uniform, fit_incumbent
from policies.greedy import greedy
from policies.linear import LinTS, LinUCB
from policies.logistic import LogisticThompson
from policies.protocols import OnlineLearner, SaveablePolicy
from policies.records import FloatArray, InteractionBatch
from policies.sampling import DEFAULT_EXPLORE_SHARE, with_explore_share
from policies.shared_linear import SharedLinTS
from policies.squarecb import squarecb
from policies.thompson import BetaThompson

Fit = Callable[[InteractionBatch], SaveablePolicy]
_N_FOLDS = 4
_Z = 1.96


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy with its settings: how to fit it on a log."""

    name: str
    fit: Fit


@dataclass(frozen=True, slots=True)
class Found:
    """What the folds say of a candidate.

    Attributes
    ----------
    value, standard_error
        Per decision, in the unit of the reward; the error is clustered by subject.
    """

    name: str
    value: float
    standard_error: float

    @property
    def lower(self) -> float:
        """Lower end of the 95 % interval: what candidates are ranked by."""
        return self.value - _Z * self.standard_error


def candidates(*, is_binary: bool, scale: float, names: Sequence[str] = ()) -> list[Candidate]:
    """What is searched: rules, linear bandits, policies over reward models, off-policy learning.

    Parameters
    ----------
    is_binary
        Whether rewards are 0 or 1; the others leave out what needs that.
    scale
        Spread of one reward: widths of linear bandits are in its unit.
    names
        Only candidates whose name begins with one of these; empty: all.

    Raises
    ------
    UnknownNameError
        If nothing begins with a name.
    """
    every: list[Candidate] = [Candidate("uniform", lambda _: Uniform()), Candidate("incumbent", fit_incumbent)]
    for alpha in (0.1, 0.3, 1.0):
        every.append(Candidate(f"linucb alpha={alpha}", partial(_learner, partial(LinUCB, alpha=2 * scale * alpha))))
    for width in (0.02, 0.08, 0.3):
        every.append(Candidate(f"lints scale={width}", partial(_learner, partial(LinTS, scale=2 * scale * width))))
    every.append(Candidate("shared_lints", partial(_learner, partial(SharedLinTS, scale=2 * scale * 0.04))))
    if is_binary:
        every.append(Candidate("logistic_thompson", partial(_learner, LogisticThompson)))
        every.append(Candidate("beta_thompson", partial(_learner, lambda _: BetaThompson())))
    for kind in ("logistic", "lightgbm"):
        every.append(Candidate(f"greedy {kind}", partial(_over_model, greedy, kind)))
        every.append(Candidate(f"squarecb {kind}", partial(_squarecb, kind, scale)))
        every.append(
            Candidate(f"boltzmann {kind}", partial(_over_model, partial(boltzmann, temperature=scale / 10), kind))
        )
    for estimator in ("dr", "ips"):
        every.append(Candidate(f"softmax_linear {estimator}", partial(_off_policy, estimator)))
    chosen = [c for c in every if not names or any(c.name.startswith(n) for n in names)]
    for wanted in names:
        if not any(c.name.startswith(wanted) for c in every):
            raise UnknownNameError("candidate", wanted, [c.name for c in every])
    return chosen


def search(
    batch: InteractionBatch,
    out: Path,
    *,
    names: Sequence[str] = (),
    explore_share: float = DEFAULT_EXPLORE_SHARE,
    address: str | None = None,
    use_ray: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Search, refit the best on the whole log, and write ``policy/`` and ``search.json`` into ``out``.

    What was measured is kept in ``out/folds``: a search that was cut off goes on from it.

    Parameters
    ----------
    address
        Of a Ray cluster; None starts Ray in this machine.
    use_ray
        False: one after the other in this process.

    Raises
    ------
    StateError
        If ``out`` holds the result of a search already.
    InvalidInputError
        If the log has too few subjects, or ``out`` folds of another log or other settings.
    """
    if (out / "policy").exists():
        raise StateError(f"{out} holds a policy that was found already; choose another folder")
    aside = subject_folds(batch, n_folds=5, seed=seed) == 4
    work, judge = batch.take(np.flatnonzero(~aside)), batch.take(np.flatnonzero(aside))
    if len(work) < 400:
        raise InvalidInputError(
            f"the log has {len(batch)} interactions; expected at least 500 to fit and judge candidates apart"
        )
    is_binary = bool(np.isin(batch.reward, (0.0, 1.0)).all())
    made = candidates(is_binary=is_binary, scale=float(batch.reward.std()) or 1.0, names=names)
    folds = subject_folds(work, n_folds=_N_FOLDS, seed=seed)
    worth = worth_of_offers(work, max_weight=np.inf, seed=seed)
    log = [len(batch), float(batch.reward.sum())]
    kept = Kept(out / "folds", of={"log": log, "explore share": explore_share, "seed": seed})
    every = [(c, fold) for c in made for fold in range(_N_FOLDS)]
    there = {(c.name, fold): kept.get(f"{c.name} {fold}") for c, fold in every}
    totals = {key: found for key, found in there.items() if found is not None}
    jobs = [(c, fold) for c, fold in every if (c.name, fold) not in totals]
    measure = partial(_judge_fold, work, worth, folds, explore_share)
    runner = _on_ray(measure, jobs, address) if use_ray and jobs else _here(measure, jobs)
    for done, (name, fold, judged_fold) in enumerate(runner):
        totals[name, fold] = kept.put(f"{name} {fold}", judged_fold)
        sys.stderr.write(f"{done + 1} of {len(jobs)}: {name}, fold {fold + 1}\n")
        sys.stderr.flush()
    found = sorted((_found(c.name, totals) for c in made), key=lambda f: -f.lower)
    best = next(c for c in made if c.name == found[0].name)
    policy = best.fit(work)
    judged = _score(policy, judge, worth_of_offers(judge, max_weight=np.inf, seed=seed), explore_share)
    final = _mean(judged, subject_of(judge))
    paired = _mean(judged - judge.reward, subject_of(judge))
    save_artifact(best.fit(batch).to_artifact(), out / "policy")
    report = {
        "best": best.name,
        "n_interactions": len(batch),
        "logged": float(batch.reward.mean()),
        "set_aside": {"n_interactions": len(judge), "value": final[0], "standard_error": final[1],
                      "over_logged": paired[0], "over_logged_interval": [paired[0] - _Z * paired[1], paired[0] + _Z * paired[1]]},
        "candidates": [{"name": f.name, "value": f.value, "standard_error": f.standard_error, "lower": f.lower} for f in found],
        "explore_share": explore_share,
        "seed": seed,
    }  # fmt: skip
    (out / "search.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def subject_of(batch: InteractionBatch) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Number of the subject of each row; rows of a log without subjects are subjects of their own."""
    if batch.table.subjects is None:
        return np.arange(len(batch))
    return np.asarray(np.unique(batch.table.subjects, return_inverse=True)[1]).reshape(-1)


def _learner(make: Callable[[FeatureSpace], OnlineLearner], batch: InteractionBatch) -> SaveablePolicy:
    learner = make(FeatureSpace.fit(batch.table))
    learner.learn(batch)
    return learner


def _over_model(rule: Callable[[Any], Any], kind: Any, batch: InteractionBatch) -> SaveablePolicy:
    policy: SaveablePolicy = rule(fit_reward_model(batch, kind=kind))
    return policy


def _squarecb(kind: Any, scale: float, batch: InteractionBatch) -> SaveablePolicy:
    model = fit_reward_model(batch, kind=kind)
    policy = squarecb(model, gamma_scale=5.0 / scale, n_seen=len(batch))
    assert isinstance(policy, SaveablePolicy)
    return policy


def _off_policy(estimator: Any, batch: InteractionBatch) -> SaveablePolicy:
    return learn_policy(batch, settings=OffPolicySettings(estimator=estimator)).policy


def _judge_fold(
    batch: InteractionBatch, worth: FloatArray, folds: Any, explore_share: float, candidate: Candidate, fold: int
) -> tuple[str, int, dict[str, float]]:
    train, held = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    part = batch.take(held)
    scores = _score(candidate.fit(batch.take(train)), part, worth[held], explore_share)
    sums = np.bincount(subject_of(part), weights=scores)
    counts = np.bincount(subject_of(part))
    return candidate.name, fold, {
        "rows": float(len(held)), "score": float(sums.sum()), "score2": float((sums**2).sum()),
        "both": float((sums * counts).sum()), "rows2": float((counts**2).sum()),
    }  # fmt: skip


def _score(policy: SaveablePolicy, batch: InteractionBatch, worth: FloatArray, explore_share: float) -> FloatArray:
    served = with_explore_share(policy.probabilities(batch.table), batch.table.eligible, explore_share)
    return np.asarray((served * worth).sum(axis=1), dtype=np.float64)


def _mean(scores: FloatArray, subject: Any) -> tuple[float, float]:
    sums, counts = np.bincount(subject, weights=scores), np.bincount(subject)
    mean = sums.sum() / counts.sum()
    return float(mean), float(np.sqrt(((sums - mean * counts) ** 2).sum()) / counts.sum())


def _found(name: str, totals: Mapping[tuple[str, int], Mapping[str, float]]) -> Found:
    t = {
        key: sum(totals[name, fold][key] for fold in range(_N_FOLDS))
        for key in ("rows", "score", "score2", "both", "rows2")
    }
    mean = t["score"] / t["rows"]
    spread = t["score2"] - 2 * mean * t["both"] + mean**2 * t["rows2"]
    return Found(name, mean, float(np.sqrt(max(spread, 0.0)) / t["rows"]))


def _here(
    measure: Callable[..., Any], jobs: Sequence[tuple[Candidate, int]]
) -> Iterator[tuple[str, int, dict[str, float]]]:
    for candidate, fold in jobs:
        yield measure(candidate, fold)


def _on_ray(
    measure: Callable[..., Any], jobs: Sequence[tuple[Candidate, int]], address: str | None
) -> Iterator[tuple[str, int, dict[str, float]]]:
    import ray

    is_ours = not ray.is_initialized()
    ray.init(
        address=address, ignore_reinit_error=True, include_dashboard=False, log_to_driver=False, configure_logging=False
    )
    try:
        shared = ray.put(measure)
        # Arithmetic of one thread each: Ray counts processors by tasks.
        task = ray.remote(num_cpus=1, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}})(
            lambda m, c, f: m(c, f)
        )
        waiting = [task.remote(shared, candidate, fold) for candidate, fold in jobs]
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)
    finally:
        if is_ours:
            ray.shutdown()
