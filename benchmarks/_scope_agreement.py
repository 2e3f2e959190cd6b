"""SCOPE-RL's answers on paths of one length; run by an interpreter that has scope-rl.

Arguments: a file of arrays (see ``benchmarks/_peers.py``). On stdout one line of JSON: values by our names.
"""

import json
import sys

import numpy as np
from scope_rl.ope.discrete import basic_estimators as theirs  # type: ignore[import-not-found]  # in an interpreter of its own


def main() -> None:
    """Read the arrays, estimate, print."""
    d = dict(np.load(sys.argv[1]))
    given = {
        "step_per_trajectory": int(d["horizon"]), "action": d["chosen"], "reward": d["reward"], "pscore": d["propensity"],
        "evaluation_policy_action_dist": d["target"], "gamma": float(d["discount"]),
    }  # fmt: skip
    model = {"state_action_value_prediction": d["q"]}
    found = {
        "PDIS": theirs.PerDecisionImportanceSampling().estimate_policy_value(**given),
        "self-normalised PDIS": theirs.SelfNormalizedPDIS().estimate_policy_value(**given),
        "sequential DR": theirs.DoublyRobust().estimate_policy_value(**given, **model),
        "weighted sequential DR": theirs.SelfNormalizedDR().estimate_policy_value(**given, **model),
    }
    print(json.dumps({name: float(value) for name, value in found.items()}))


if __name__ == "__main__":
    main()
