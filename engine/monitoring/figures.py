"""Figures of the last day for dashboards: what the checks look at, in numbers that a time series can keep."""

from __future__ import annotations

from collections.abc import Iterator

from engine.monitoring.checks.effects import Band
from engine.monitoring.records import Figure
from engine.monitoring.usual import of_key
from engine.monitoring.window import Window

# Metric, what it says, and its labels.
FIGURES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("health_draws", "Times an offer was drawn in the last day", ("policy", "offer")),
    ("health_draws_expected", "Sum of its logged probabilities", ("policy", "offer")),
    ("health_entropy", "Entropy of a policy's choices as a share of the largest possible", ("policy",)),
    ("health_rungs", "Decisions of the recent hours by rung", ("rung", "kind")),
    ("health_facts", "Facts of the last day by kind", ("kind",)),
    ("health_facts_repeated", "Those that repeat an earlier one under another id", ("kind",)),
    ("health_facts_late", "Those that came after the window of their decision", ("kind",)),
    ("health_outcomes_unattributed", "Outcomes of the last day that belong to no decision", ("kind",)),
    ("health_pages_reporting", "Pages of the recent hours that said what they showed", ()),
    ("health_pages_other_offer", "Those that showed another offer than was chosen", ()),
    (
        "health_effect",
        "Difference to the holdout: estimate, and the band that holds at all times",
        ("experiment", "treatment", "metric", "limit"),
    ),
)


def figures(window: Window, bands: list[Band]) -> Iterator[Figure]:
    """All figures of a placement."""
    for (policy, offer), v in window.today("offer").by(lambda key: key).items():
        labels = {"policy": policy, "offer": offer}
        yield Figure("health_draws", labels, float(v[0]))
        yield Figure("health_draws_expected", labels, float(v[1]))
    for (policy,), v in window.now("choice").by(lambda key: key).items():
        if v[3] > 0:
            yield Figure("health_entropy", {"policy": policy}, float(v[1] / v[3]))
    for (rung, kind), v in window.now("rung").by(lambda key: key).items():
        yield Figure("health_rungs", {"rung": rung, "kind": kind}, float(v[0]))
    for (kind,), v in window.today("arrived").by(lambda key: key).items():
        for name, value in (("health_facts", v[0]), ("health_facts_repeated", v[2]), ("health_facts_late", v[3])):
            yield Figure(name, {"kind": kind}, float(value))
        lost = of_key(window.today("attributed"), kind)
        if len(lost):
            yield Figure("health_outcomes_unattributed", {"kind": kind}, float(lost.a.sum()))
    shown = window.now("shown")
    if len(shown):
        yield Figure("health_pages_reporting", {}, float(shown.n.sum()))
        yield Figure("health_pages_other_offer", {}, float(shown.a.sum()))
    for band in bands:
        of = {"experiment": band.experiment, "treatment": band.treatment, "metric": band.metric}
        for limit, value in (
            ("low", band.interval.low),
            ("estimate", band.interval.estimate),
            ("high", band.interval.high),
        ):
            yield Figure("health_effect", {**of, "limit": limit}, float(value))
