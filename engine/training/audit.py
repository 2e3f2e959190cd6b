"""Look for leakage before believing a model: a column that knows the answer, and folds that let subjects repeat.

Two questions, each answered with boosted trees under folds of whole subjects:

- Which column *alone* nearly equals the model, or takes much of it away when left out? Such a column may be computed from
  the outcome (online shops: a page value averaged over past transactions). It is a suspect, not a verdict.
- How much better would random folds have looked than folds of whole subjects? That much of a published figure is
  recognition of people, not prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.boosting import BoostingConfig, LightGBMModel
from engine.models.dataset import SequenceDataset
from engine.models.metrics import paired_difference, roc_auc
from engine.training.fit_one import subject_folds
from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray

# A column is a suspect where it alone reaches this share of the model's lift over 0.5 AUC ...
ALONE_SHARE = 0.8
# ... or this share of it, while leaving it out costs that much of the lift: nothing else can stand in for it.
CARRIES_SHARE = 0.65
DROP_SHARE = 0.25
# Only columns that alone rank at least this well are worth a second fit without them.
_WORTH_DROPPING = 0.4

Progress = Callable[[str], None]


def leakage_audit(
    data: SequenceDataset, *, seed: int = 0, n_folds: int = 4, progress: Progress | None = None
) -> dict[str, Any]:
    """Audit the matured rows of all splits but test.

    Returns
    -------
    dict
        ``roc_auc`` of the model; ``columns``: for each, its AUC alone and, where worth it, the model's AUC without it;
        ``suspects``: columns over a threshold, with the reason; ``random_folds``: what random folds flatter by, with an
        interval over subjects.

    Raises
    ------
    InvalidInputError
        If there are fewer than 100 rows or one class only.
    """
    say = progress or (lambda _line: None)
    data = data.take(data.is_matured & (data.split != "test"))
    if len(data) < 100 or data.label.min() == data.label.max():
        raise InvalidInputError(
            f"{len(data)} matured rows outside test cannot be audited; it takes 100 with both outcomes"
        )
    folds = subject_folds(data.subject, n_folds=n_folds, seed=seed)
    whole = out_of_fold(data, folds, seed=seed)
    auc = roc_auc(data.label, whole)
    say(f"audit: the model has AUC {auc:.3f} under folds of whole subjects")
    columns: dict[str, dict[str, float]] = {}
    for name in sorted(data.columns):
        alone = roc_auc(data.label, out_of_fold(_only(data, [name]), folds, seed=seed, small=True))
        columns[name] = {"alone": alone}
        if alone - 0.5 >= _WORTH_DROPPING * (auc - 0.5):
            rest = _keep_sequence(data, [n for n in data.columns if n != name])
            columns[name]["without"] = roc_auc(data.label, out_of_fold(rest, folds, seed=seed))
        say(f"audit: {name} alone {alone:.3f}")
    return {
        "rows": len(data),
        "subjects": len(np.unique(data.subject)),
        "roc_auc": auc,
        "columns": columns,
        "suspects": _suspects(columns, auc),
        "random_folds": _random_fold_gap(data, whole, seed=seed, n_folds=n_folds),
    }


def out_of_fold(data: SequenceDataset, folds: IntArray, *, seed: int, small: bool = False) -> FloatArray:
    """Probability of each row by trees that saw neither its fold nor stopped on it, shape ``(n,)``."""
    config = BoostingConfig(
        leaves=4 if small else 16,
        learning_rate=0.1 if small else 0.06,
        feature_share=1.0 if small else 0.7,
        max_rounds=60 if small else 300,
        patience=20,
        seeds=(seed,),
        starts_from_logistic=False,
    )
    out = np.zeros(len(data))
    n_folds = int(folds.max()) + 1
    for k in range(n_folds):
        stop = (k + 1) % n_folds
        model = LightGBMModel(config)
        model.fit(data.take((folds != k) & (folds != stop)), data.take(folds == stop))
        out[folds == k] = model.predict(data.take(folds == k))
    return out


def _only(data: SequenceDataset, names: list[str]) -> SequenceDataset:
    """The rows with these columns and no events."""
    return SequenceDataset.from_columns(
        {name: data.columns[name] for name in names}, label=data.label, subject=data.subject
    )


def _keep_sequence(data: SequenceDataset, names: list[str]) -> SequenceDataset:
    return data.with_columns({name: data.columns[name] for name in names})


def _suspects(columns: Mapping[str, Mapping[str, float]], auc: float) -> dict[str, str]:
    lift = max(auc - 0.5, 1e-9)
    found: dict[str, str] = {}
    for name, row in columns.items():
        alone = (row["alone"] - 0.5) / lift
        lost = (auc - row["without"]) / lift if "without" in row else 0.0
        if alone >= ALONE_SHARE:
            found[name] = f"alone it reaches AUC {row['alone']:.3f} of the model's {auc:.3f}"
        elif alone >= CARRIES_SHARE and lost >= DROP_SHARE:
            found[name] = f"without it the model falls from AUC {auc:.3f} to {row['without']:.3f}"
    return found


def _random_fold_gap(data: SequenceDataset, whole: FloatArray, *, seed: int, n_folds: int) -> dict[str, float]:
    """AUC under random folds minus AUC under folds of whole subjects, interval over subjects."""
    dealt: NDArray[np.int64] = np.random.default_rng(seed + 1).permutation(len(data)) % n_folds
    random = out_of_fold(data, dealt, seed=seed)
    gap = paired_difference(
        "roc_auc", data.label, random, whole, data.subject, rng=np.random.default_rng(seed), n_resamples=200
    )
    return {
        "roc_auc": roc_auc(data.label, random),
        "gap": gap.value,
        "gap_low": gap.low,
        "gap_high": gap.high,
    }


def audit_text(found: Mapping[str, Any]) -> str:
    """The findings for a person."""
    lines = [
        f"model: AUC {found['roc_auc']:.3f} under folds of whole subjects ({found['rows']} rows, {found['subjects']} subjects)"
    ]
    ranked = sorted(found["columns"].items(), key=lambda item: -item[1]["alone"])
    lines += [
        f"  {name:<36} alone {row['alone']:.3f}" + (f"   without it {row['without']:.3f}" if "without" in row else "")
        for name, row in ranked[:12]
    ]
    for name, reason in found["suspects"].items():
        lines.append(f"SUSPECT {name}: {reason}; check that it was known at the time of the decision")
    gap = found["random_folds"]
    lines.append(
        f"random folds would have shown AUC {gap['roc_auc']:.3f}: {gap['gap']:+.3f} [{gap['gap_low']:+.3f}, {gap['gap_high']:+.3f}]"
        + (" by recognising subjects" if gap["gap_low"] > 0 else " (no clear difference)")
    )
    return "\n".join(lines)
