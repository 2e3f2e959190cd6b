"""One-decision estimators, one family a file; ``default_estimators`` is what a panel shows unless told otherwise."""

from __future__ import annotations

from offline_eval.estimators.base import Column, Estimator, Rows, Shrunk
from offline_eval.estimators.doubly_robust import (
    DoublyRobust,
    DRos,
    SelfNormalisedDoublyRobust,
    SubGaussianDoublyRobust,
    SwitchDoublyRobust,
)
from offline_eval.estimators.importance import (
    BaselineCorrectedIPS,
    ClippedIPS,
    InversePropensity,
    SelfNormalisedIPS,
    SubGaussianIPS,
)
from offline_eval.estimators.matching import Replay, StochasticReplay
from offline_eval.estimators.model_based import DirectMethod

__all__ = [
    "BaselineCorrectedIPS",
    "ClippedIPS",
    "Column",
    "DRos",
    "DirectMethod",
    "DoublyRobust",
    "Estimator",
    "InversePropensity",
    "Replay",
    "Rows",
    "SelfNormalisedDoublyRobust",
    "SelfNormalisedIPS",
    "Shrunk",
    "StochasticReplay",
    "SubGaussianDoublyRobust",
    "SubGaussianIPS",
    "SwitchDoublyRobust",
    "default_estimators",
]


def default_estimators() -> tuple[Estimator, ...]:
    """What a panel shows: the headline (DR, SNDR) beside plain weighting, the model alone, and one clipped form."""
    return (
        DirectMethod(),
        InversePropensity(),
        ClippedIPS(cap=10.0),
        SelfNormalisedIPS(),
        DoublyRobust(),
        SelfNormalisedDoublyRobust(),
    )
