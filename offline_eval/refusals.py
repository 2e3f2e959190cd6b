"""What is asked of ``evaluate``, refused by name before a row is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from offline_eval.estimators import Estimator, default_estimators
from offline_eval.one_pass import Candidate, Log
from policies.errors import InvalidInputError
from policies.records import InteractionBatch


def check_kinds(log: object, candidates: object) -> None:
    """What a first call gets wrong, before it becomes an error from somewhere inside."""
    if not isinstance(log, InteractionBatch) and not hasattr(log, "chunks"):
        raise InvalidInputError(
            f"the log is a {type(log).__name__}; expected an InteractionBatch or a log that reads itself: use read_parquet or from_arrow "
            "(tables, data frames) of offline_eval.interop.arrow, from_obp, read_dsjson or SparkLog"
        )
    if not isinstance(candidates, Mapping):
        raise InvalidInputError(
            f"candidates are a {type(candidates).__name__}; expected a mapping of names: {{'mine': policy_or_probabilities}}"
        )
    if not candidates:
        raise InvalidInputError("there is no candidate; expected at least one policy or array of probabilities by name")
    for name, candidate in candidates.items():
        is_policy = hasattr(candidate, "probabilities") and not isinstance(candidate, type)
        if not is_policy and not isinstance(candidate, np.ndarray):
            raise InvalidInputError(
                f"candidate {name!r} is a {type(candidate).__name__}; expected a policy (an instance, with a method probabilities) or "
                "an array of shape (rows, offers), columns in the order of the log's offers"
            )


def check_settings(
    explore_share: float,
    n_resamples: int,
    n_folds: int,
    minimal_effect: float | None,
    reward_range: tuple[float, float] | None,
) -> None:
    """Refuse a setting that means nothing."""
    if not 0 <= explore_share <= 1:
        raise InvalidInputError(
            f"explore_share is {explore_share:g}; expected a share between 0 and 1, such as 0.05 for five percent"
        )
    if n_resamples < 0:
        raise InvalidInputError(f"n_resamples is {n_resamples}; expected at least 0, which is for no bootstrap")
    if n_folds < 2:
        raise InvalidInputError(
            f"n_folds is {n_folds}; expected at least 2, so that rows are judged by models of other rows"
        )
    if minimal_effect is not None and not 0 < minimal_effect < math.inf:
        raise InvalidInputError(
            f"minimal_effect is {minimal_effect:g}; expected the smallest difference that matters, above 0, in the unit of the reward"
        )
    if reward_range is not None and not -math.inf < reward_range[0] < reward_range[1] < math.inf:
        raise InvalidInputError(f"reward_range is {reward_range}; expected two finite numbers, the least first")


def check_estimators(estimators: Sequence[Estimator], *, n_offers: int) -> None:
    """Refuse two estimators of one name, and one name for two columns: columns of a name are computed once."""
    names = [e.name for e in estimators]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or not names:
        raise InvalidInputError(f"estimators {twice} appear twice or there is none; expected one of each name")
    known = default_estimators()
    if any(e not in known for e in estimators):  # of somebody's own
        from offline_eval.checks import same_names_differ

        shared = same_names_differ((*known, *estimators), n_offers=n_offers)
        if shared is not None:
            raise InvalidInputError(
                f"two estimators make a column named {shared!r} differently, and columns of one name are computed once; expected one "
                "meaning of each name: call one of them otherwise, and run check_estimator on your own"
            )


def check_size(log: InteractionBatch | Log, everyone: Mapping[str, Candidate | None]) -> None:
    """Refuse a log of less than two rows, and probabilities that are not of its shape."""
    if not isinstance(log, InteractionBatch):
        return
    if len(log) < 2:
        raise InvalidInputError(
            f"the log has {len(log)} row(s); expected at least two: log more decisions with rewards"
        )
    for name, candidate in everyone.items():
        if isinstance(candidate, np.ndarray) and candidate.shape != log.table.eligible.shape:
            raise InvalidInputError(
                f"probabilities of candidate {name!r} have shape {candidate.shape}; expected {log.table.eligible.shape}, "
                "a row per decision and a column per offer"
            )
