"""A log of several loggers as if their mixture had drawn it: what can still be tested of it."""

from __future__ import annotations

from dataclasses import dataclass

from offline_eval.diagnostics import Check
from policies.records import InteractionBatch

NO_TEST_OF_A_MIXTURE = (
    "A visitor meets one logger, so the rows were not drawn from the mixture one by one and cannot test it."
)


@dataclass(frozen=True, eq=False)
class MixedLog(InteractionBatch):
    """Rows whose propensities and distributions are those of a mixture of loggers (``offline_eval.loggers.balanced``).

    Attributes
    ----------
    draws
        Shown offers against the distribution of each row's own logger, which drew it: the test that the mixture has none of.
    """

    draws: Check | None = None
