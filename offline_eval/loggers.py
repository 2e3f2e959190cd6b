"""Logs in which several policies acted, as in every A/B test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from offline_eval.candidates import Candidate, target_of
from offline_eval.diagnostics import Check, realised_counts
from offline_eval.estimates import Estimate
from offline_eval.estimators import Column, Estimator, InversePropensity
from offline_eval.estimators.base import MODEL, Total, Value, add, mean_of
from offline_eval.intervals import normal
from offline_eval.log_records import LogRecord
from offline_eval.mixed import MixedLog
from offline_eval.panel import Panel, evaluate
from offline_eval.summaries import CountsByOffer
from policies.errors import InvalidInputError, UnknownNameError
from policies.records import FloatArray, IntArray, InteractionBatch


def balanced(
    log: InteractionBatch,
    loggers: Mapping[str, Candidate],
    *,
    shares: Mapping[str, float] | None = None,
    explore_share: float = 0.0,
) -> MixedLog:
    """The same log as if one policy had drawn it: the mixture of all loggers.

    Each row's propensity becomes the chance that *any* logger would have shown the offer, which is never worse supported
    than its own logger's. Estimators then need no change. Do it within one phase (one set of shares).

    Parameters
    ----------
    loggers
        By variant name: the policy served, or its probabilities in every row, shape ``(n, k)``, explore share included.
    shares
        Probability of each variant; None takes the log's own counts.
    explore_share
        Share of uniform exploration the policies (not arrays) were served with.

    Raises
    ------
    InvalidInputError, UnknownNameError
        If rows have no variant, several phases are mixed, a variant has no logger, or a logger is not the one that logged: its
        probabilities of its own rows are others.

    References
    ----------
    Agarwal, Basu, Schnabel and Joachims (2017), "Effective evaluation using logged bandit feedback from multiple loggers".
    """
    if log.variants is None:
        raise InvalidInputError("the log has no variants; expected the name of the variant in every row")
    if log.phases is not None and len(np.unique(log.phases)) > 1:
        raise InvalidInputError(
            f"the log holds {len(np.unique(log.phases))} phases; expected one, for shares differ between them: judge each by itself"
        )
    names, counts = np.unique(log.variants, return_counts=True)
    share = (
        {str(n): float(c) / len(log) for n, c in zip(names, counts, strict=True)} if shares is None else dict(shares)
    )
    for name in names:
        if share.get(str(name), 0.0) <= 0:
            raise InvalidInputError(
                f"variant {str(name)!r} has rows and no share above 0; expected the share of every variant"
            )
    for name in share:
        if name not in loggers:
            raise UnknownNameError("variant without a logger", name, loggers)
    if min(share.values()) < 0 or abs(sum(share.values()) - 1.0) > 1e-6:
        raise InvalidInputError(f"shares are {share}; expected none below 0, and a sum of 1")
    mixture, drawn_from = np.zeros(log.table.eligible.shape), np.zeros(log.table.eligible.shape)
    for name, part in share.items():
        logger = loggers[name]
        p = target_of(logger, log.table, explore_share=explore_share, name=f"logger {name!r}")
        own = np.flatnonzero(log.variants == name)
        off = int(np.count_nonzero(np.abs(p[own, log.chosen[own]] - log.propensity[own]) > 1e-4))
        if off > 0.01 * len(own):
            raise InvalidInputError(
                f"logger {name!r} gives other probabilities than were logged in {off} of its {len(own)} rows; expected the snapshot "
                "that served, with the explore share it was served with: it may have learned on the way"
            )
        mixture += part * p
        drawn_from[own] = p[own]
    mixture /= mixture.sum(axis=1, keepdims=True)
    return MixedLog(
        log.table,
        log.chosen,
        mixture[np.arange(len(log)), log.chosen],
        log.reward,
        probabilities=mixture,
        decision_ids=log.decision_ids,
        is_reward_weighted=log.is_reward_weighted,
        draws=_draws(log, drawn_from),
    )


def _draws(log: InteractionBatch, drawn_from: FloatArray) -> Check:
    """Shown offers against the distributions they were drawn from, in the log and for each variant by itself."""
    assert log.variants is not None
    record = LogRecord(log.table.n_offers)

    def counts(rows: IntArray) -> CountsByOffer:
        return CountsByOffer.of(
            log.chosen[rows], log.propensity[rows], log.table.eligible[rows], drawn_from[rows], n_offers=record.k
        )

    record.counts = counts(np.arange(len(log)))
    for name in np.unique(log.variants):
        record.add_group("variant", str(name), counts(np.flatnonzero(log.variants == name)))
    return realised_counts(record, [str(o) for o in log.table.offers.ids])


def weighted(
    log: InteractionBatch,
    candidate: Candidate,
    *,
    estimator: Estimator | None = None,
    reward_model: FloatArray | None = None,
    alpha: float = 0.05,
) -> Estimate:
    """Each variant's rows judged by themselves, the estimates averaged with weights of 1 / variance.

    With a reward model the average is over the corrections; the model's mean is that of all rows, for contexts do not depend on the
    variant.

    Never worse supported than the best variant alone, and needs no other variant's policy; but where a variant lacks support its
    estimate is wrong and may look certain. ``balanced`` is better wherever the loggers' policies are at hand.

    Parameters
    ----------
    estimator
        IPS where None.
    reward_model
        Expected reward of each offer in each row, shape ``(n, k)``, not fitted on these subjects, for estimators that need it.

    Raises
    ------
    InvalidInputError
        If rows have no variant, a variant's rows give no estimate with a spread, or a reward model is needed and not given.

    References
    ----------
    Agarwal, Basu, Schnabel and Joachims (2017), as above: the weighted estimator; Kallus, Saito and Uehara (2021), "Optimal
    off-policy evaluation from multiple logging policies": its doubly robust form.
    """
    if log.variants is None:
        raise InvalidInputError("the log has no variants; expected the name of the variant in every row")
    used = estimator or InversePropensity()
    if used.needs_model and reward_model is None:
        raise InvalidInputError(
            f"{used.name} needs reward_model=; pass expected rewards of shape {log.table.eligible.shape}"
        )

    def judged(rows: IntArray, by: Estimator) -> Panel:
        mine = candidate[rows] if isinstance(candidate, np.ndarray) else candidate
        model = None if reward_model is None else reward_model[rows]
        return evaluate(
            log.take(rows), {"c": mine}, estimators=(by,), reward_model=model, fit_reward=None, n_resamples=0
        )

    strata = [np.flatnonzero(log.variants == name) for name in np.unique(log.variants)]
    certain = np.zeros(len(strata))
    for k, rows in enumerate(strata):
        panel = judged(rows, used)
        found, m = panel.estimate("c", used.name), panel.data.moments.n_scattered
        if found.value is None or not found.standard_error:
            raise InvalidInputError(
                f"the rows of variant {str(log.variants[rows[0]])!r} give no estimate with a spread; leave them out, or use balanced()"
            )
        certain[k] = found.standard_error**-2 * m / (m - 1)  # by the plain mean of squares, as the paper has it
    parts = [
        judged(rows, _Part(used, share=len(rows) / len(log), trust=float(trust))).estimate("c", _Part.name)
        for rows, trust in zip(strata, certain / certain.sum(), strict=True)
    ]
    value = sum(e.value or 0.0 for e in parts)
    error = math.sqrt(sum((e.standard_error or 0.0) ** 2 for e in parts))  # rows of different variants are independent
    return Estimate("c", f"weighted {used.name}", value, error, normal(value, error, alpha=alpha), None)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one variant's rows add: their share of the model's mean, which needs no weights, and what is trusted of the rest."""

    whole: Estimator
    share: float
    trust: float

    name: ClassVar[str] = "part"

    @property
    def needs_model(self) -> bool:
        return self.whole.needs_model

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*self.whole.columns, *((MODEL,) if self.needs_model else ()))

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        rest = _times(self.trust, self.whole.from_totals(totals))
        if not self.needs_model:
            return rest
        return add(_times(self.share - self.trust, mean_of(MODEL.name, totals)), rest)


def _times(factor: float, of: Value) -> Value:
    return Value(factor * of.value, {name: factor * slope for name, slope in of.gradient.items()})
