"""Open Bandit Pipeline's answers on a small log with everything in it; run by an interpreter that has obp.

Arguments: a file of arrays (see ``benchmarks/_peers.py``). On stdout one line of JSON: values by our names.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import obp.ope as theirs  # type: ignore[import-not-found]  # lives in an interpreter of its own


def main() -> None:
    """Read the arrays, estimate, print."""
    d = dict(np.load(sys.argv[1]))
    n, k = d["target"].shape
    logged = {
        "reward": d["reward"], "action": d["chosen"], "pscore": d["propensity"], "action_dist": d["target"][:, :, None],
    }  # fmt: skip
    model = {"estimated_rewards_by_reg_model": d["q"][:, :, None]}
    pooled = {key: value for key, value in logged.items() if key != "pscore"} | {"pscore_avg": d["pooled"]}
    variants = {"stratum_idx": d["variant"]}
    found = {
        "DM": theirs.DirectMethod().estimate_policy_value(**logged, **model),
        "IPS": theirs.InverseProbabilityWeighting().estimate_policy_value(**logged),
        "clipped IPS (cap 2)": theirs.InverseProbabilityWeighting(lambda_=2.0).estimate_policy_value(**logged),
        "SNIPS": theirs.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(**logged),
        "DR": theirs.DoublyRobust().estimate_policy_value(**logged, **model),
        "SNDR": theirs.SelfNormalizedDoublyRobust().estimate_policy_value(**logged, **model),
        "Switch-DR (1)": theirs.SwitchDoublyRobust(lambda_=1.0).estimate_policy_value(**logged, **model),
        "DRos (2)": theirs.DoublyRobustWithShrinkage(lambda_=2.0).estimate_policy_value(**logged, **model),
        "sub-Gaussian IPS (0.3)": theirs.SubGaussianInverseProbabilityWeighting(lambda_=0.3).estimate_policy_value(
            **logged
        ),
        "sub-Gaussian DR (0.3)": theirs.SubGaussianDoublyRobust(lambda_=0.3).estimate_policy_value(**logged, **model),
        "replay": theirs.ReplayMethod().estimate_policy_value(**{**logged, "action_dist": d["sure"][:, :, None]}),
        "weighted IPS": theirs.MultiLoggersWeightedInverseProbabilityWeighting().estimate_policy_value(
            **logged, **variants
        ),
        "weighted DR": theirs.MultiLoggersWeightedDoublyRobust().estimate_policy_value(**logged, **model, **variants),
        "balanced IPS": theirs.MultiLoggersBalancedInverseProbabilityWeighting().estimate_policy_value(**pooled),
        "balanced DR": theirs.MultiLoggersBalancedDoublyRobust().estimate_policy_value(**pooled, **model),
    }
    for name, estimator, width in (
        ("MIPS (one attribute)", theirs.MarginalizedInverseProbabilityWeighting, 1),
        ("MIPS (two attributes)", theirs.MarginalizedInverseProbabilityWeighting, 2),
        ("SN-MIPS (one attribute)", theirs.SelfNormalizedMarginalizedInverseProbabilityWeighting, 1),
        ("SN-MIPS (two attributes)", theirs.SelfNormalizedMarginalizedInverseProbabilityWeighting, 2),
    ):
        attributes = d["attributes"][:, :width]
        known = np.zeros((k, int(attributes.max()) + 1, width))
        for j in range(width):
            known[np.arange(k), attributes[:, j], j] = 1.0
        found[name] = estimator(n_actions=k).estimate_policy_value(
            **{key: value for key, value in logged.items() if key != "pscore"},
            action_embed=attributes[d["chosen"]],
            pi_b=d["logged"][:, :, None],
            p_e_a=known,
            context=np.zeros((n, 1)),
            position=np.zeros(n, dtype=int),
        )
    print(json.dumps({name: float(value) for name, value in {**found, **_slates(d)}.items()}))


def _slates(d: dict[str, np.ndarray]) -> dict[str, float]:
    shown, target, reward = d["slate_logged"], d["slate_target"], d["slate_reward"]
    n, length = reward.shape
    rows = {
        "slate_id": np.repeat(np.arange(n), length),
        "position": np.tile(np.arange(length), n),
        "reward": reward.ravel(),
    }
    whole: Callable[[np.ndarray], np.ndarray] = lambda p: np.repeat(p.prod(axis=1), length)  # noqa: E731
    cascade = {
        "pscore_cascade": shown.cumprod(axis=1).ravel(),
        "evaluation_policy_pscore_cascade": target.cumprod(axis=1).ravel(),
    }
    return {
        "SIPS": theirs.SlateStandardIPS(len_list=length).estimate_policy_value(
            **rows, pscore=whole(shown), evaluation_policy_pscore=whole(target)
        ),
        "IIPS": theirs.SlateIndependentIPS(len_list=length).estimate_policy_value(
            **rows,
            pscore_item_position=shown.ravel(),
            evaluation_policy_pscore_item_position=target.ravel(),
        ),
        "RIPS": theirs.SlateRewardInteractionIPS(len_list=length).estimate_policy_value(**rows, **cascade),
        "Cascade-DR": theirs.SlateCascadeDoublyRobust(
            len_list=length, n_unique_action=d["slate_q"].shape[2]
        ).estimate_policy_value(
            **rows,
            **cascade,
            action=d["slate_chosen"].ravel(),
            q_hat=d["slate_q"].ravel(),
            evaluation_policy_action_dist=d["slate_dist"].ravel(),
        ),
    }


if __name__ == "__main__":
    main()
