"""Logs in which several policies acted, as in every A/B test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from policies.errors import InvalidInputError, UnknownNameError
from policies.protocols import Policy
from policies.records import FloatArray, InteractionBatch


def balanced(
    log: InteractionBatch, loggers: Mapping[str, Policy | FloatArray], *, shares: Mapping[str, float] | None = None
) -> InteractionBatch:
    """The same log as if one policy had drawn it: the mixture of all loggers.

    Each row's propensity becomes the chance that *any* logger would have shown the offer, which is never worse supported
    than its own logger's. Estimators then need no change. Do it within one phase (one set of shares), and pass the
    loggers as they were served, explore share included.

    Parameters
    ----------
    loggers
        By variant name: the policy served, or its probabilities in every row, shape ``(n, k)``.
    shares
        Probability of each variant; None takes the log's own counts.

    Raises
    ------
    InvalidInputError, UnknownNameError
        If rows have no variant, several phases are mixed, or a variant has no logger.

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
    for name in names:
        if str(name) not in loggers:
            raise UnknownNameError("variant without a logger", str(name), loggers)
    share = (
        {str(n): float(c) / len(log) for n, c in zip(names, counts, strict=True)} if shares is None else dict(shares)
    )
    if abs(sum(share.values()) - 1.0) > 1e-6:
        raise InvalidInputError(f"shares sum to {sum(share.values()):.6g}; expected 1")
    mixture = np.zeros(log.table.eligible.shape)
    for name, part in share.items():
        logger = loggers[name]
        p = logger if isinstance(logger, np.ndarray) else np.asarray(logger.probabilities(log.table), dtype=np.float64)
        if p.shape != mixture.shape:
            raise InvalidInputError(f"probabilities of logger {name!r} have shape {p.shape}; expected {mixture.shape}")
        mixture += part * p
    mixture /= mixture.sum(axis=1, keepdims=True)
    return replace(log, propensity=mixture[np.arange(len(log)), log.chosen], probabilities=mixture)
