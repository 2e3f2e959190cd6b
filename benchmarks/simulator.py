"""How many visits a second the simulator lives, how soon it knows what a policy is worth, and whether fitting a log gives back the truth.

A user-step is one visit of one living visitor; steps in which a slot only gets its new visitor are not counted. Everything is
on: all dynamics (dates, drift, a shock, limits of views, trials, dependence on discounts), observations and masks, a policy's distribution over the offers, the draw, and a log of observation, offer,
propensity and reward of every step. CPU seconds of one process with one thread; runs of ours and of the baselines interleave.

Recovery: sites whose parameters are drawn around the reference site's log their visitors, under the uniform policy or one that
looks at them; each log is fitted from priors that do not know the site. Errors, intervals and the order of policies are held against
what the site is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium
import numpy as np

from benchmarks._figures import Figure, finish, parser
from benchmarks._recovery import LOGS, Recovery, drawn_site, rank, rank_on_other_laws, recover
from policies.fixed import Uniform
from simulator.env import ENV_ID, CarSubscriptionVectorEnv
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.named import everything
from simulator.spaces import reference_space
from simulator.truth import OUTCOMES, true_value

Made = TypeVar("Made")
RECSIM = ("RecSim 0.2.4, its own long-term-satisfaction example, another world and another machine", 11_000.0)


def vector_run(env: CarSubscriptionVectorEnv, *, n_steps: int, seed: int) -> tuple[int, float]:
    """Live ``n_steps`` steps under a softmax policy on the observation with everything logged: (user-steps, CPU seconds)."""
    n, k = env.num_envs, len(env.scenario.offers)
    rng = np.random.default_rng(seed)
    width = env.single_observation_space.shape[0]  # type: ignore[index]
    bias, slope = rng.normal(0.0, 0.3, (2, k)).astype(np.float32)
    scores, cumulative = np.empty((k, n), dtype=np.float32), np.empty((k, n), dtype=np.float32)
    log = {
        "observation": np.empty((n_steps, n, width), dtype=np.float32),
        "chosen": np.empty((n_steps, n), dtype=np.int8),
        "propensity": np.empty((n_steps, n), dtype=np.float32),
        "reward": np.empty((n_steps, n), dtype=np.float32),
    }
    obs, _ = env.reset(seed=seed)
    rows, fresh, counted = np.arange(n), np.zeros(n, dtype=np.bool_), 0
    for block in log.values():
        block.fill(0)  # pages are touched before the clock starts
    started = time.process_time()
    for step in range(n_steps):
        log["observation"][step] = obs
        # Offers along the first axis: one long row each. No matrix product: what BLAS takes is not the simulator's time.
        np.multiply(slope[:, None], obs[:, k + 1], out=scores)
        scores += bias[:, None]
        np.exp(scores, out=scores)
        scores *= obs[:, :k].T
        cumulative[0] = scores[0]
        for a in range(1, k):
            np.add(cumulative[a - 1], scores[a], out=cumulative[a])
        u = rng.random(n, dtype=np.float32) * cumulative[-1]
        chosen = np.minimum((cumulative <= u).view(np.int8).sum(axis=0, dtype=np.int8), k - 1).astype(np.int64)
        log["chosen"][step] = chosen
        log["propensity"][step] = scores[chosen, rows] / cumulative[-1]
        obs, log["reward"][step], terminated, truncated, _ = env.step(chosen)
        counted += n - int(fresh.sum())
        fresh = terminated | truncated
    return counted, time.process_time() - started


def sync_run(*, n_envs: int, n_steps: int, seed: int) -> tuple[int, float]:
    """Same world, single environments under gymnasium's ``SyncVectorEnv`` with first-eligible draws: (user-steps, CPU seconds)."""
    site = everything()
    envs = gymnasium.make_vec(
        ENV_ID, num_envs=n_envs, vectorization_mode="sync", scenario=site, space=reference_space(site),
        vector_kwargs={"copy": False},
    )  # fmt: skip
    obs, _ = envs.reset(seed=seed)
    rng, k, counted = np.random.default_rng(seed), len(site.offers), 0
    fresh = np.zeros(n_envs, dtype=np.bool_)
    started = time.process_time()
    for _ in range(n_steps):
        cumulative = np.cumsum(obs[:, :k], axis=1)
        chosen = (cumulative <= (rng.random(n_envs) * cumulative[:, -1])[:, None]).sum(axis=1)
        obs, _, terminated, truncated, _ = envs.step(chosen)
        counted += n_envs - int(fresh.sum())
        fresh = terminated | truncated
    spent = time.process_time() - started
    envs.close()
    return counted, spent


def _timed(work: Callable[[], Made]) -> tuple[Made, float]:
    started = time.process_time()
    made = work()
    return made, time.process_time() - started


def recovery_figures(*, is_quick: bool, seed: int) -> list[Figure]:
    """Parameters and intervals over short logs of drawn sites: of uniform and of personal policies, and of few visitors."""
    n_logs, n_visitors = (2, 4_000) if is_quick else (12, 10_000)
    logs: list[Recovery] = []
    for i in range(n_logs):
        site, own = drawn_site(seed + 100 + i), seed + 1000 + 10 * i
        kind = tuple(LOGS)[i % len(LOGS)]
        logs.append(recover(site, kind=kind, n_visitors=n_visitors, seed=own, n_subjects=2_000 if is_quick else 8_000))
        print(f"recovered {i + 1} of {n_logs} logs", file=sys.stderr, flush=True)
    errors = {kind: np.abs([z for log in logs if log.kind == kind for z in log.z.values()]) for kind in LOGS}
    every = np.concatenate(list(errors.values()))
    squares: dict[str, list[float]] = {}
    for log in logs:
        for name, z in log.z.items():
            squares.setdefault(name, []).append(z * z)
    often = {name: float(np.mean(s)) for name, s in squares.items() if len(s) >= n_logs // 2}
    worst = max(often, key=lambda name: often[name])
    sizes = ", ".join(f"{share * n_visitors:,.0f} {kind}" for kind, (_, share) in LOGS.items())
    note = f"{n_logs} drawn sites in turn; visitors a log: {sizes}"
    by_kind = ", ".join(f"{kind} {(e < 2.0).mean():.3f} of {len(e)}" for kind, e in errors.items() if len(e))
    judged: dict[str, Any] = {"can_judge": not is_quick, "runs": n_logs}
    # What two short logs say of shares is luck: a quick run does not judge it.
    return [
        Figure(
            "identified_within_two_errors", "share", float((every < 2.0).mean()), must=">= 0.93",
            note=f"{note}; 0.954 expected; {by_kind}; largest {every.max():.2f} errors", **judged,
        ),
        Figure(
            "squared_error_over_squared_standard_error", "x", float((every**2).mean()), must="<= 1.3",
            note=f"{note}; 1 expected, less where priors help; worst of what half the logs identify: {worst}, {often[worst]:.2f}",
            **judged,
        ),
        *(
            Figure(
                f"ensemble_coverage_of_{outcome}", "share", float(np.mean([c for log in logs for c in log.covered[outcome]])),
                must=">= 0.9", note=f"{note}; 95 % intervals of the values of 4 policies, two personal, 16 members", **judged,
            )
            for outcome in OUTCOMES
        ),
    ]  # fmt: skip


def ranking_figures(*, is_quick: bool, seed: int) -> list[Figure]:
    """Values and order of ten policies on the fit of one long log, and on a fit of laws that are not the site's."""
    # A single offer is an eighth of a uniform log and its contracts a tenth of that: 3 % of a value takes a long log.
    n, n_truth, n_other = (20_000, 20_000, 4_000) if is_quick else (400_000, 150_000, 20_000)
    long = rank(drawn_site(seed + 500), n_visitors=n, n_truth=n_truth, seed=seed + 5000)
    other = rank_on_other_laws(n_visitors=n_other, n_truth=n_other, seed=seed + 6000)
    note = f"one drawn site, a log of {n:,} visitors; values from {n_truth:,} visitors each on site and fit, same luck"
    return [
        Figure(
            "worst_relative_error_of_ten_values", "share", long.worst_relative_error, must="<= 0.03",
            can_judge=not is_quick, note=note,
        ),
        Figure("kendall_tau_of_ten_policies", "tau", long.tau, must=">= 0.9", can_judge=not is_quick, note=note),
        Figure(
            "worst_relative_error_under_other_laws", "share", other.worst_relative_error,
            note=f"the first family fitted on {n_other:,} visitors of the second, tau {other.tau:.2f}: what a wrong form costs; no bar",
        ),
    ]  # fmt: skip


def speed_figures(*, is_quick: bool, seed: int, n_envs: int) -> list[Figure]:
    """Steps, precision and rows of log a second."""
    runs, n_steps = (3, 40) if is_quick else (7, 80)
    env = CarSubscriptionVectorEnv(n_envs, scenario=everything(), is_copied=False)
    vector_run(env, n_steps=5, seed=seed)  # warm
    ours, theirs = [], []
    for i in range(runs):
        counted, spent = vector_run(env, n_steps=n_steps, seed=seed + i)
        ours.append(counted / spent)
        counted, spent = sync_run(n_envs=16, n_steps=20 if is_quick else 60, seed=seed + i)
        theirs.append(counted / spent)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    scenario, n = reference(), 40_000 if is_quick else 160_000
    value, spent = _timed(lambda: true_value(scenario, Uniform(), n_subjects=n, seed=seed))
    mean, error = value.value("kept_30d")
    # CPU seconds to one percent: cost grows with the visitors, the standard error falls with their root.
    to_percent = spent * (error / mean / 0.01) ** 2
    whole, took = _timed(lambda: rollout(scenario, Uniform(), n_subjects=n // 2, seed=seed).interactions("kept_30d"))
    return [
        Figure(
            "user_steps_per_cpu_second", "1/s", float(np.median(ours)), must=">= 3000000", reference=RECSIM,
            runs=runs, spread=(min(ours), max(ours)),
        ),
        Figure(
            "against_sync_vector_env", "x", float(np.median(ratios)), must=">= 100",
            baseline=("single environment in gymnasium's SyncVectorEnv, user-steps/s", float(np.median(theirs))),
            runs=runs, spread=(min(ratios), max(ratios)),
        ),
        Figure(
            "cpu_to_one_percent_of_kept_30d", "s", to_percent, must="<= 5",
            note=f"policy through decide() on {n:,} visitors: {mean:.4f} with standard error {error:.5f} in {spent:.2f} s",
        ),
        Figure(
            "log_export", "rows/s", len(whole) / took, must=">= 500000",
            note="visitors living through decide() and their log as a checked InteractionBatch with whole distributions",
        ),
    ]  # fmt: skip


PARTS: dict[str, Callable[..., list[Figure]]] = {
    "speed": speed_figures,
    "recovery": recovery_figures,
    "ranking": ranking_figures,
}


def main(arguments: list[str] | None = None) -> int:
    """Run and print; exit code 1 where a bar that this size can judge is missed."""
    made = parser(__doc__.splitlines()[0] if __doc__ else None)
    made.add_argument("--envs", type=int, default=8192, help="slots of the vector environment")
    made.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")
    options = made.parse_args(arguments)
    figures = []
    for name in options.part or PARTS:
        sizes = {"n_envs": options.envs} if name == "speed" else {}
        figures += PARTS[name](is_quick=options.quick, seed=options.seed, **sizes)
    return finish("simulator", figures, quick=options.quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
