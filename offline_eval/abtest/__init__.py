"""Experiment statistics that survive being looked at: effects, planned looks, confidence sequences, split checks, one verdict."""

from __future__ import annotations

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
from offline_eval.abtest.replay import Replay, replay
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
    "replay",
    "required_subjects",
    "standard_metrics",
]
