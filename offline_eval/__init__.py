"""What a policy would have earned on a log, what an experiment showed, and how far either can be believed."""

from __future__ import annotations

from offline_eval.estimates import Estimate
from offline_eval.panel import LOGGED, Panel, evaluate

__all__ = ["LOGGED", "Estimate", "Panel", "evaluate"]
