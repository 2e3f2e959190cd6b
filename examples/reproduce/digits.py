"""The digits task of Open Bandit Pipeline's multi-class example, with our estimators.

Digits (scikit-learn) become a bandit: the offer is the label guessed, the reward whether it is right. Behaviour is a
logistic classifier with probability 0.8 and uniform otherwise, the candidate the same one with 0.9; it learns on 30 % of
the rows, the other 70 % are the log.
Relative error is ``|estimate - truth| / truth``, over many splits. Needs scikit-learn.
"""

from __future__ import annotations

import sys

import numpy as np

from offline_eval import evaluate
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet

# zr-obp examples/multiclass, digits: judges nothing but the bars below.
PUBLISHED = {"DM": 0.437, "IPS": 0.030, "SNIPS": 0.023, "DR": 0.016, "SNDR": 0.022}


def relative_errors(n_runs: int = 50, seed: int = 0) -> dict[str, list[float]]:
    """Relative errors by estimator, one per split."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    x = x / 16.0
    offers = OfferSet([Offer(OfferId(str(j))) for j in range(10)])
    errors: dict[str, list[float]] = {name: [] for name in PUBLISHED}
    for run in range(n_runs):
        rng = np.random.default_rng([seed, run])
        order = rng.permutation(len(y))
        n_log = int(0.7 * len(y))
        log_rows, train = order[:n_log], order[n_log:]
        guess = LogisticRegression(C=1.0, max_iter=500).fit(x[train], y[train]).predict(x[log_rows])
        logged, target = (a * np.eye(10)[guess] + (1 - a) / 10 for a in (0.8, 0.9))
        truth = target[np.arange(n_log), y[log_rows]].mean()
        shown = np.minimum((np.cumsum(logged, axis=1) <= rng.random(n_log)[:, None]).sum(axis=1), 9)
        table = DecisionTable(
            offers, np.ones((n_log, 10), dtype=bool), vectors={"pixels": x[log_rows].astype(np.float32)}
        )
        log = InteractionBatch(
            table, shown, logged[np.arange(n_log), shown], (shown == y[log_rows]).astype(float), probabilities=logged
        )
        panel = evaluate(log, {"candidate": target}, n_resamples=0, seed=run)
        for name, found in errors.items():
            value = panel.estimate("candidate", name).value
            assert value is not None
            found.append(abs(value - truth) / truth)
    return errors


def main() -> int:
    """Print the table; 0 where DR and IPS are at most as far off as published, within two standard errors of the runs."""
    errors = relative_errors()
    held = True
    for name, published in PUBLISHED.items():
        mean, error = float(np.mean(errors[name])), float(np.std(errors[name], ddof=1) / len(errors[name]) ** 0.5)
        print(f"{name:6s} relative error {mean:.4f} ± {error:.4f}   published {published:.3f}")
        if name in ("DR", "IPS"):
            held = held and mean - 2 * error <= published
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
