"""Replay: keep the rows on which log and candidate agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offline_eval.estimators.base import Column, Rows, Total, Value, ratio_of
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class Replay:
    """Mean reward of the rows whose shown offer is the candidate's first choice.

    Notes
    -----
    Right for a deterministic candidate on a log drawn uniformly over the same offers; on any other log the kept rows are
    a biased sample. Use SNIPS there: on a uniform log the two agree.

    References
    ----------
    Li, Chu, Langford and Wang (2011), "Unbiased offline evaluation of contextual-bandit-based news article
    recommendation algorithms".
    """

    name: str = "replay"
    needs_model: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Match, and match times reward."""
        return (
            Column("match", _matches),
            Column("match*r", lambda rows: _matches(rows) * rows.reward),
        )

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``sum(match r) / sum(match)``."""
        return ratio_of("match*r", "match", totals)


@dataclass(frozen=True, slots=True)
class StochasticReplay:
    """Expected value of replay when the candidate draws its choice: rows weighted by its probability of the shown offer.

    Notes
    -----
    Needs a log drawn uniformly over the same offers in every row, as ``Replay`` does.

    References
    ----------
    Mandel, Liu, Brunskill and Popović (2016), "Offline evaluation of online reinforcement learning algorithms"
    (rejection sampling, with the acceptance replaced by its probability).
    """

    name: str = "stochastic replay"
    needs_model: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Candidate's probability of the shown offer, and times the reward."""
        return (
            Column("pi", lambda rows: rows.target_chosen),
            Column("pi*r", lambda rows: rows.target_chosen * rows.reward),
        )

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``sum(pi r) / sum(pi)``."""
        return ratio_of("pi*r", "pi", totals)


def _matches(rows: Rows) -> FloatArray:
    if rows.target is None:
        return np.ones_like(rows.reward)
    return np.asarray(np.argmax(rows.target, axis=1) == rows.chosen, dtype=np.float64)
