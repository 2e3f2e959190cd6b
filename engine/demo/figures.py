"""The demo's result in the form benchmarks write, for machines."""

from __future__ import annotations

from typing import Any

from engine.demo.report import fitted_against
from engine.demo.story import Told
from offline_eval.report.figures import Figure, figures_document

_UNITS = {"margin": "EUR per visitor"}


def demo_figures(told: Told) -> dict[str, Any]:
    """Each metric of the experiment, challenger beside incumbent, and the propensity model beside its reference.

    Nothing has a rule to keep: the demo shows what there is. The spread of a metric is the interval of its difference.
    """
    figures = [
        Figure(
            f"{m.metric.name}_per_visitor" if m.metric.role != "descriptive" else m.metric.name,
            _UNITS.get(m.metric.name, "share"),
            m.effect.treatment,
            baseline=("incumbent", m.effect.control),
            spread=(m.interval.low, m.interval.high),
            note="in simulation; spread: interval of the difference to the incumbent",
        )
        for m in told.reading.metrics
    ]
    chosen, ours, reference, low, high = fitted_against(told.comparison)
    figures.append(
        Figure(
            "redemption_auc",
            "AUC-ROC",
            ours,
            baseline=(told.comparison["reference"], reference),
            spread=(low, high),
            note=f"{chosen} on real data; spread: interval of the difference to the reference, clustered by household",
        )
    )
    figures += [
        Figure(
            "visitors",
            "subjects",
            told.reading.power.matured,
            baseline=("planned for the worthwhile lift", told.plan.required),
        ),
        Figure("decisions", "decisions", told.n_decisions),
        Figure("requests_over_http", "requests", told.n_http_requests),
        Figure("seconds", "s", sum(told.seconds.values())),
    ]
    document = figures_document("demo", figures, quick=told.config.is_quick, seed=told.config.seed)
    verdict = {"decision": told.reading.verdict.decision, "sentence": told.reading.sentence(), "in_simulation": True}
    return {**document, "world": told.config.world, "challenger": told.challenger, "verdict": verdict}
