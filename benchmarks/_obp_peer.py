"""The same panel by Open Bandit Pipeline; run by an interpreter that has obp (it refuses Python 3.11 and later).

Arguments: rows, offers, seed, resamples. The log is made from the same formulas as in ``benchmarks/ope.py``; on stdout one
line of JSON with the CPU seconds of estimates and resamples, peak memory above the arrays, and the estimates. obp resamples rows,
not subjects: a clustered bootstrap is not among what it does.
"""

import json
import resource
import sys
import time

import numpy as np
from obp.ope import (  # type: ignore[import-not-found]  # lives in an interpreter of its own
    DirectMethod,
    DoublyRobust,
    DoublyRobustWithShrinkage,
    InverseProbabilityWeighting,
    OffPolicyEvaluation,
    SelfNormalizedDoublyRobust,
    SelfNormalizedInverseProbabilityWeighting,
    SwitchDoublyRobust,
)

ESTIMATORS = (
    DirectMethod(estimator_name="DM"),
    InverseProbabilityWeighting(estimator_name="IPS"),
    InverseProbabilityWeighting(lambda_=10.0, estimator_name="clipped IPS (cap 10)"),
    SelfNormalizedInverseProbabilityWeighting(estimator_name="SNIPS"),
    DoublyRobust(estimator_name="DR"),
    SelfNormalizedDoublyRobust(estimator_name="SNDR"),
    SwitchDoublyRobust(lambda_=10.0, estimator_name="Switch-DR (10)"),
    DoublyRobustWithShrinkage(lambda_=100.0, estimator_name="DRos (100)"),
)


def main() -> None:
    """Make the log, evaluate, print."""
    n, k, seed, n_resamples = (int(a) for a in sys.argv[1:])
    rng = np.random.default_rng(seed)
    target = rng.random((n, k))
    target /= target.sum(axis=1, keepdims=True)
    q = rng.random((n, k)) * 0.1
    chosen = rng.integers(0, k, size=n)
    reward = (rng.random(n) < q[np.arange(n), chosen]).astype(np.float64)
    feedback = {
        "n_rounds": n, "n_actions": k, "action": chosen, "reward": reward, "pscore": np.full(n, 1.0 / k),
        "position": None, "context": np.zeros((n, 1)),
    }  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    evaluation = OffPolicyEvaluation(bandit_feedback=feedback, ope_estimators=list(ESTIMATORS))
    arguments = {"action_dist": target[:, :, None], "estimated_rewards_by_reg_model": q[:, :, None]}
    values = evaluation.estimate_policy_values(**arguments)
    evaluation.estimate_intervals(n_bootstrap_samples=n_resamples, random_state=seed, **arguments)
    seconds = time.process_time() - started
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(json.dumps({"seconds": seconds, "extra_mib": extra, "values": values}))


if __name__ == "__main__":
    main()
