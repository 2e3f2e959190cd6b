"""Intervals that hold at every moment at once: asymptotic confidence sequences (normal mixture).

For guardrails, secondary metrics and looks outside the plan. Wider than a fixed-sample interval at every single moment; that is
the price of looking whenever one likes.

References
----------
Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence sequences",
theorem 2.2 and its remark on choosing ρ. The guarantee is asymptotic: it needs the burn-in that the plan's minimum sample gives.
"""

from __future__ import annotations

import math

from offline_eval.report.formatting import Interval
from policies.errors import InvalidInputError


def mixture_scale(planned: float, alpha: float) -> float:
    """ρ that makes the sequence narrowest about when ``planned`` subjects have been seen; frozen when an experiment starts."""
    if planned <= 0 or not 0 < alpha < 1:
        raise InvalidInputError(
            f"planned sample {planned} and alpha {alpha}; expected a positive sample and alpha in (0, 1)"
        )
    log_term = -2 * math.log(alpha)
    return math.sqrt((log_term + math.log(log_term + 1)) / planned)


def multiplier(n: float, *, planned: float, alpha: float) -> float:
    """How many standard errors the sequence reaches to either side after n subjects."""
    scaled = n * mixture_scale(planned, alpha) ** 2
    return math.sqrt((scaled + 1) / scaled * 2 * math.log(math.sqrt(scaled + 1) / alpha))


def sequence_interval(estimate: float, standard_error: float, *, n: float, planned: float, alpha: float) -> Interval:
    """Interval at this moment of a sequence that contains the truth at all moments with probability ``1 - alpha``.

    Parameters
    ----------
    n, planned
        Subjects seen, and planned for the end (or information seen and planned: only their ratio matters).
    """
    half = multiplier(n, planned=planned, alpha=alpha) * standard_error
    return Interval(estimate, estimate - half, estimate + half, 1 - alpha, "confidence sequence")
