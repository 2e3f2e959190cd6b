"""Intervals for a log that grows and is looked at again and again: they hold at all looks at once."""

from __future__ import annotations

import math

import numpy as np

from offline_eval.intervals import Bounds, asymptotic_confidence_sequence
from offline_eval.panel import Panel
from offline_eval.verdict import FATAL
from policies.errors import InvalidInputError


def any_time_bounds(
    panel: Panel, candidate: str, *, best_at: int, against: str | None = None, estimator: str | None = None
) -> Bounds:
    """Interval of an estimate that may be read whenever rows have come, and acted upon.

    Make a panel of all rows so far at each look. An ordinary interval holds at one look that was fixed beforehand; the chance that
    one of many misses the truth grows with the looks. These miss it at any look with the panel's error probability, and are about
    a half wider at the look they are made for.

    Parameters
    ----------
    best_at
        Number of rows at which they should be tightest, fixed before the log is seen; they hold at every other number too.
    against
        Candidate to take the difference to; None gives the candidate's value itself.
    estimator
        The panel's headline where None.

    Raises
    ------
    InvalidInputError
        If ``best_at`` is no number of rows, there is no estimate, or a check fails that makes all figures of this candidate worthless:
        the sequence is asymptotic, and with few effective rows or untrue propensities it promises nothing.

    References
    ----------
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence
    sequences".
    """
    if best_at < 1:
        raise InvalidInputError(f"best_at is {best_at}; expected the number of rows at which you plan to decide")
    found = panel.estimate(candidate, estimator) if against is None else panel.difference(candidate, against, estimator)
    concerned = [*panel.log_checks, *panel.checks[candidate], *(() if against is None else panel.checks[against])]
    failed = [f"{c.name}: {c.sentence}" for c in concerned if c.status == "fail" and c.name in FATAL]
    if failed:
        raise InvalidInputError(f"this log cannot answer for {candidate!r}: {failed[0]}")
    if found.value is None or found.standard_error is None:
        raise InvalidInputError(f"there is no estimate for {candidate!r}: {found.note}")
    n = np.asarray([float(panel.n_rows)])
    deviation = np.asarray([found.standard_error * math.sqrt(panel.n_rows)])
    low, high = asymptotic_confidence_sequence(
        np.asarray([found.value]), deviation, n, alpha=panel.alpha, best_at=best_at
    )
    return Bounds(float(low[0]), float(high[0]))
