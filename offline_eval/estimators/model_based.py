"""The reward model alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from offline_eval.estimators.base import MODEL, Column, Total, Value, mean_of


@dataclass(frozen=True, slots=True)
class DirectMethod:
    """Mean of the reward model under the candidate (DM).

    Notes
    -----
    Its interval knows the spread over contexts, not the error of the model, which is usually the larger one: read DM
    beside an estimator that uses the weights, never alone.

    References
    ----------
    Dudík, Langford and Li (2011), "Doubly robust policy evaluation and learning".
    """

    name: str = "DM"
    needs_model: bool = True

    @property
    def columns(self) -> tuple[Column, ...]:
        """Model under the candidate."""
        return (MODEL,)

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(sum_a pi(a|x) q(x, a))``."""
        return mean_of(MODEL.name, totals)
