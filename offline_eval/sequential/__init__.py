"""Several decisions per subject: what a policy would earn over a subject's whole time, not per decision."""

from __future__ import annotations

from offline_eval.sequential.estimates import SequentialPanel, evaluate_sequences
from offline_eval.sequential.fqe import FittedQ, fitted_q
from offline_eval.sequential.paths import Paths

__all__ = ["FittedQ", "Paths", "SequentialPanel", "evaluate_sequences", "fitted_q"]
