"""How much to shrink, chosen from the data: SLOPE. Nothing is kept between calls."""

from __future__ import annotations

from collections.abc import Sequence

from offline_eval.estimates import Estimate
from offline_eval.panel import Panel
from policies.errors import InvalidInputError


def slope(panel: Panel, candidate: str, estimators: Sequence[str]) -> Estimate:
    """The most certain of several estimates that still agrees with all less certain, less biased ones.

    Parameters
    ----------
    estimators
        Names of estimators in the panel that differ in how much they shrink (for example Switch-DR with several
        thresholds, ending in plain DR).

    Returns
    -------
    Estimate
        Its interval is that of the chosen estimator; the choice itself is not in it.

    Raises
    ------
    InvalidInputError
        If none of the estimators has an estimate.

    References
    ----------
    Su, Srinath and Krishnamurthy (2020), "Adaptive estimator selection for off-policy evaluation".
    """
    found = [panel.estimate(candidate, name) for name in estimators]
    usable = [(e, e.bounds) for e in found if e.value is not None and e.bounds is not None]
    if not usable:
        raise InvalidInputError(f"none of the estimators {list(estimators)} has an estimate for {candidate!r}")
    usable.sort(key=lambda pair: -pair[1].half_width)
    low, high, chosen = -float("inf"), float("inf"), usable[0][0]
    for estimate, bounds in usable:
        # Twice the half width: bias of at most one more half width is allowed for, as in the paper's theorem 3.
        assert estimate.value is not None
        low, high = max(low, estimate.value - 2 * bounds.half_width), min(high, estimate.value + 2 * bounds.half_width)
        if low > high:
            break
        chosen = estimate
    return chosen
