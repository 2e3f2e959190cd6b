"""A model's figures by offer, by time and by kind of customer: a mean may hide a group it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.models.dataset import SequenceDataset
from engine.models.metrics import paired_difference, with_interval
from policies.records import FloatArray

# A column with more values than this is no segment; a group with fewer positives (or negatives) has no ranking worth telling.
_MAX_GROUPS = 40
_MIN_OF_A_CLASS = 10
_N_RESAMPLES = 200


def segments_of(
    data: SequenceDataset, probability: FloatArray, reference: FloatArray, *, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """Figures of each group of matured rows, by ``offer``, ``as_of`` (where there are few instants) and each text column.

    Parameters
    ----------
    probability, reference
        Calibrated probabilities of the chosen model and of the reference, shape ``(n,)``.

    Returns
    -------
    dict
        By segment, the groups with rows, positives, rate, mean probability and, where both outcomes are frequent enough, AUC and its
        paired difference to the reference, with intervals over subjects.
    """
    by: dict[str, NDArray[Any]] = {"offer": data.offer, "as_of": np.datetime_as_string(data.as_of, unit="D")}
    by |= {name: column for name, column in sorted(data.columns.items()) if column.dtype.kind == "U"}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, values in by.items():
        groups = np.unique(values)
        if 1 < len(groups) <= _MAX_GROUPS:
            found[name] = [
                _group(str(g), data.take(values == g), probability[values == g], reference[values == g], seed=seed)
                for g in groups
            ]
    return found


def _group(
    value: str, data: SequenceDataset, probability: FloatArray, reference: FloatArray, *, seed: int
) -> dict[str, Any]:
    positives = int(data.label.sum())
    out: dict[str, Any] = {
        "value": value,
        "rows": len(data),
        "positives": positives,
        "rate": float(data.label.mean()),
        "mean_probability": float(probability.mean()),
    }
    if min(positives, len(data) - positives) >= _MIN_OF_A_CLASS:
        shared: dict[str, Any] = {"n_resamples": _N_RESAMPLES}
        auc = with_interval("roc_auc", data.label, probability, data.subject, rng=np.random.default_rng(seed), **shared)
        against = paired_difference(
            "roc_auc", data.label, probability, reference, data.subject, rng=np.random.default_rng(seed), **shared
        )
        out |= {"roc_auc": asdict(auc), "against_reference": asdict(against)}
    return out


def segments_text(
    segments: Mapping[str, Sequence[Mapping[str, Any]]], *, names: tuple[str, ...] = ("as_of", "offer")
) -> str:
    """The groups of the segments named as lines for a person."""
    lines = []
    for name in names:
        for group in segments.get(name, ()):
            auc, against = group.get("roc_auc"), group.get("against_reference")
            ranking = (
                f"AUC {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}], "
                f"{against['value']:+.3f} [{against['low']:+.3f}, {against['high']:+.3f}] against the reference"
                if auc and against
                else "too few of one outcome for a ranking"
            )
            lines.append(
                f"{name} {group['value']}: {group['rows']} rows, mean {group['mean_probability']:.3f} where "
                f"{group['rate']:.3f} occurred; {ranking}"
            )
    return "\n".join(lines)
