"""What a propensity model goes by: which columns its ranking rests on, what customer attributes move, and why one subject scores as it does.

All three ask the model and nothing else, so they hold for any model: a column is replaced by what other rows have there, and the answer
watched. That says what the *model* does with a column, not what the column causes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.models.dataset import SEQUENCE_COLUMNS, SequenceDataset
from engine.models.metrics import logit, roc_auc
from engine.models.propensity import PropensityModel
from policies.artifact import Artifact, load_artifact
from policies.errors import ArtifactError, InvalidInputError, UnknownNameError
from policies.records import IntArray

EVENTS = "events"
_MAX_ROWS = 4_000
_BACKGROUND = 64
_MOVED = 0.01


def load_model(artifact: Artifact) -> PropensityModel:
    """Make a fitted model of what a fit left behind.

    Raises
    ------
    ArtifactError
        If this kind cannot be loaded again.
    """
    from engine.models.boosting import LightGBMModel
    from engine.models.linear import RidgeLogistic

    if artifact.kind == "propensity_logistic":
        return RidgeLogistic.from_artifact(artifact)
    if artifact.kind == "propensity_lightgbm":
        return LightGBMModel.from_artifact(artifact)
    raise ArtifactError(
        f"a {artifact.kind!r} cannot be loaded again; expected propensity_logistic or propensity_lightgbm"
    )


def model_of_run(run: Path, comparison: Mapping[str, Any], *, name: str = "") -> tuple[str, PropensityModel]:
    """Load a model of a run: the one named, else the chosen one, else the best on validation that can be loaded.

    Raises
    ------
    InvalidInputError
        If no model of the run can be loaded.
    UnknownNameError
        If the run has no model of that name.
    """
    ranked = sorted(comparison["models"], key=lambda n: float(comparison["models"][n]["validation"]["log_loss"]))
    if name and name not in ranked:
        raise UnknownNameError("model of the run", name, ranked)
    for candidate in [name] if name else [comparison["chosen"], *ranked]:
        folder = run / "models" / candidate / "artifacts" / "propensity"
        if folder.is_dir():
            try:
                return candidate, load_model(load_artifact(folder))
            except ArtifactError:
                if name:
                    raise
    raise InvalidInputError(
        f"{run} holds no model that can be loaded again; train logistic or lightgbm beside the others"
    )


def permutation_importance(
    model: PropensityModel, data: SequenceDataset, *, rng: np.random.Generator, n_repeats: int = 3
) -> dict[str, float]:
    """Fall of the AUC when a column is shuffled among rows, largest first; ``events`` shuffles whole histories.

    Two columns that say the same hide each other: each alone then matters little.
    """
    rows = rng.permutation(len(data))[:_MAX_ROWS]
    some = data.take(rows)
    whole = roc_auc(some.label, model.predict(some))
    falls: dict[str, float] = {}
    for name in [*some.columns, *([EVENTS] if len(some.event_type) else [])]:
        shuffled = [
            roc_auc(some.label, model.predict(_with_others(some, name, rng.permutation(len(some)))))
            for _ in range(n_repeats)
        ]
        falls[name] = whole - float(np.mean(shuffled))
    return dict(sorted(falls.items(), key=lambda item: -item[1]))


def customer_effects(
    model: PropensityModel, data: SequenceDataset, *, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """How far scores move when a customer attribute is another customer's, attribute by attribute and all at once.

    Returns
    -------
    dict
        For each ``customer_*`` column and ``customer_*`` itself: mean absolute change of the probability, and the share of rows that
        move by more than 0.01.
    """
    some = data.take(rng.permutation(len(data))[:_MAX_ROWS])
    before = model.predict(some)
    names = [n for n in some.columns if n.startswith("customer_")]
    out: dict[str, dict[str, float]] = {}
    for name in names:
        out[name] = _moved(before, model.predict(_with_others(some, name, rng.permutation(len(some)))))
    if names:
        order = rng.permutation(len(some))
        swapped = {n: column[order] if n in names else column for n, column in some.columns.items()}
        out["customer_*"] = _moved(before, model.predict(some.with_columns(swapped)))
    return out


def explain_row(
    model: PropensityModel, data: SequenceDataset, row: int, *, background: SequenceDataset, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """What moves one row's log odds away from what it would be with other rows' values there, strongest first.

    Returns
    -------
    list of dict
        ``column``, ``value`` of the row, ``typical`` (median or most frequent of the background) and ``effect``: log odds of the row minus the
        mean over background rows whose value it is given.
    """
    others = background.take(rng.permutation(len(background))[:_BACKGROUND])
    own = data.take(np.full(len(others), row))
    score = float(logit(model.predict(data.take(np.array([row]))))[0])
    found = []
    for name in [*data.columns, *([EVENTS] if len(background.event_type) else [])]:
        if name == EVENTS:
            mixed = others.with_columns(own.columns)
            value: Any = f"{int(data.lengths[row])} events"
            typical: Any = f"{int(np.median(background.lengths))} events"
        else:
            mixed = own.with_columns({**own.columns, name: others.columns[name]})
            value, typical = _plain(data.columns[name][row]), _typical(background.columns[name])
        effect = score - float(logit(model.predict(mixed)).mean())
        found.append({"column": name, "value": value, "typical": typical, "effect": effect})
    return sorted(found, key=lambda f: -abs(f["effect"]))


def explanation_text(subject: str, probability: float, found: Sequence[Mapping[str, Any]], *, n: int = 8) -> str:
    """The strongest reasons as sentences."""
    lines = [f"{subject}: probability {probability:.3f}"]
    for reason in found[:n]:
        if abs(reason["effect"]) < 0.005:
            break
        direction = "raises" if reason["effect"] > 0 else "lowers"
        times = float(np.exp(abs(reason["effect"])))
        lines.append(
            f"  {reason['column']} = {_shown(reason['value'])} (typical {_shown(reason['typical'])}) {direction} the odds {times:.2f} times"
        )
    return "\n".join(lines)


def _with_others(data: SequenceDataset, name: str, order: IntArray) -> SequenceDataset:
    """The rows with one column (or their events) taken from other rows."""
    if name != EVENTS:
        return data.with_columns({**data.columns, name: data.columns[name][order]})
    other = data.take(order)
    events = {part: getattr(other, part) for part in (*SEQUENCE_COLUMNS, "offsets", "gap_to_as_of_s")}
    return replace(data, **events)


def _moved(before: Any, after: Any) -> dict[str, float]:
    change = np.abs(after - before)
    return {"mean_change": float(change.mean()), "share_moved": float((change > _MOVED).mean())}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else float(value)


def _typical(column: Any) -> Any:
    if column.dtype.kind == "U":
        values, counts = np.unique(column, return_counts=True)
        return str(values[np.argmax(counts)])
    known = column[np.isfinite(column)]
    return float(np.median(known)) if len(known) else float("nan")


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value or "missing"
    return "missing" if np.isnan(value) else f"{value:.4g}"
