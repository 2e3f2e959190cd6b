"""Experiment statistics that survive being looked at: effects, planned looks, confidence sequences, split checks, one verdict."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offline_eval.abtest.analysis import (
        ExperimentReading,
        History,
        MetricReading,
        PowerReading,
        analyse,
        information_fraction,
    )
    from offline_eval.abtest.power import achieved_power, detectable_effect, required_subjects
    from offline_eval.abtest.records import (
        ExperimentPlan,
        Look,
        Metric,
        Moments,
        Phase,
        Rollup,
        SubjectOutcomes,
        by_subject,
        standard_metrics,
    )
    from offline_eval.abtest.replay import Replay
    from offline_eval.abtest.timeline import Timeline
    from offline_eval.abtest.verdict import Verdict

__all__ = [
    "ExperimentPlan",
    "ExperimentReading",
    "History",
    "Look",
    "Metric",
    "MetricReading",
    "Moments",
    "Phase",
    "PowerReading",
    "Replay",
    "Rollup",
    "SubjectOutcomes",
    "Timeline",
    "Verdict",
    "achieved_power",
    "analyse",
    "by_subject",
    "detectable_effect",
    "information_fraction",
    "required_subjects",
    "standard_metrics",
]

# Looked up when somebody asks: a server knows plans and metrics, and need not load scipy (60 MB) for statistics.
_HOMES = {
    "ExperimentPlan": "records",
    "ExperimentReading": "analysis",
    "History": "analysis",
    "Look": "records",
    "Metric": "records",
    "MetricReading": "analysis",
    "Moments": "records",
    "Phase": "records",
    "PowerReading": "analysis",
    "Replay": "replay",
    "Rollup": "records",
    "SubjectOutcomes": "records",
    "Timeline": "timeline",
    "Verdict": "verdict",
    "achieved_power": "power",
    "analyse": "analysis",
    "by_subject": "records",
    "detectable_effect": "power",
    "information_fraction": "analysis",
    "required_subjects": "power",
    "standard_metrics": "records",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
