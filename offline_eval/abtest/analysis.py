"""Read an experiment: every metric, the split, the power left, and one verdict with its reason.

Error is controlled over everything that can change the verdict. The primary metric has ``alpha (1 - guardrail_share)``, divided
among the treatments, spent by a planned group-sequential test; guardrails have the rest, divided among guardrails and treatments,
as confidence sequences. Shipping needs the primary metric *and* every guardrail, which costs no error. Secondary and
descriptive metrics decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offline_eval.abtest.confidence_sequence import multiplier, sequence_interval
from offline_eval.abtest.effects import Effect, compare
from offline_eval.abtest.group_sequential import bounds, planned_fractions
from offline_eval.abtest.power import detectable_effect, required_subjects
from offline_eval.abtest.records import ExperimentPlan, Look, Metric, Moments, Rollup, SubjectOutcomes
from offline_eval.abtest.retention import RetentionReading, read_retention
from offline_eval.abtest.split_check import SplitCheck, check_split
from offline_eval.abtest.verdict import Verdict, decide_verdict
from offline_eval.report.formatting import Interval
from policies.errors import InvalidInputError

IMBALANCE_ALPHA = 0.001
# A look is due this little before its planned fraction: the information of a random split falls a hair short of the plan's.
LOOK_TOLERANCE = 5e-4


@dataclass(frozen=True, slots=True)
class MetricReading:
    """One metric in one treatment against the control.

    Parameters
    ----------
    effect
        With its fixed-sample interval and its lift.
    always
        Interval that holds however often one looks; at the plan's alpha for a guardrail's share, 95 % otherwise.
    repeated
        Interval of the group-sequential test at the last planned look (primary metric only).
    is_better, is_worse
        What is proven, with the error that this metric was given; False for metrics that decide nothing.
    imbalance
        Always-valid interval of the covariate's difference, which chance alone should have made; None without a covariate.
    """

    metric: Metric
    treatment: str
    effect: Effect
    always: Interval
    repeated: Interval | None = None
    is_better: bool = False
    is_worse: bool = False
    imbalance: Interval | None = None

    @property
    def interval(self) -> Interval:
        """The interval to show: of the planned test where there is one, else the one that survives looking often."""
        return self.repeated or self.always

    @property
    def is_imbalanced(self) -> bool:
        """Whether the variants differed before the experiment."""
        return self.imbalance is not None and self.imbalance.excludes(0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "metric": self.metric.name,
            "kind": self.metric.kind,
            "role": self.metric.role,
            "treatment": self.treatment,
            **self.effect.to_json(),
            "interval": self.interval.to_json(),
            "interval_always_valid": self.always.to_json(),
            "interval_repeated": None if self.repeated is None else self.repeated.to_json(),
            "is_better": self.is_better,
            "is_worse": self.is_worse,
            "covariate_imbalance": None if self.imbalance is None else self.imbalance.to_json(),
        }


@dataclass(frozen=True, slots=True)
class PowerReading:
    """How far the experiment is, and how far it has to go.

    Parameters
    ----------
    fraction
        Information so far as a part of the planned.
    required
        Subjects the effect would take with the variance seen, at the planned looks; None while the variance is unknown.
    detectable
        Change that the subjects so far would find with the planned power in one look.
    days_left
        To the planned end, and to the required sample, at the plan's traffic; None where it is not stated.
    """

    matured: int
    planned: int
    fraction: float
    required: int | None
    detectable: float | None
    days_left: float | None
    days_to_required: float | None

    @property
    def is_underpowered(self) -> bool:
        """Whether the subjects so far are too few for the effect that matters."""
        return self.matured < (self.required if self.required is not None else self.planned)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "matured": self.matured,
            "planned": self.planned,
            "information_fraction": self.fraction,
            "required": self.required,
            "detectable_effect": self.detectable,
            "days_left": self.days_left,
            "days_to_required": self.days_to_required,
            "is_underpowered": self.is_underpowered,
        }


@dataclass(frozen=True, slots=True)
class ExperimentReading:
    """Everything one look at an experiment says.

    Parameters
    ----------
    looks
        Planned looks taken so far, this one included where it is one: store them and hand them to the next analysis.
    in_simulation
        Whether the subjects are a simulator's.
    """

    plan: ExperimentPlan
    metrics: tuple[MetricReading, ...]
    split: SplitCheck
    power: PowerReading
    verdict: Verdict
    retention: Mapping[str, RetentionReading]
    looks: tuple[Look, ...]
    is_planned_look: bool
    in_simulation: bool
    warnings: tuple[str, ...] = ()

    def of(self, metric: str, treatment: str | None = None) -> MetricReading:
        """The reading of one metric in one treatment (the first where none is named)."""
        wanted = treatment or self.plan.treatments[0]
        self.plan.metric(metric)
        for reading in self.metrics:
            if reading.metric.name == metric and reading.treatment == wanted:
                return reading
        raise InvalidInputError(f"metric {metric!r} has not been read for {wanted!r}: too few matured subjects")

    def sentence(self) -> str:
        """The verdict in plain words and money."""
        badge = " (In simulation.)" if self.in_simulation else ""
        return self.verdict.sentence + badge

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "experiment": self.plan.experiment,
            "in_simulation": self.in_simulation,
            "control": self.plan.control,
            "treatments": list(self.plan.treatments),
            "verdict": self.verdict.to_json(),
            "sentence": self.sentence(),
            "warnings": list(self.warnings),
            "metrics": [m.to_json() for m in self.metrics],
            "retention_among_subscribers": {v: r.to_json() for v, r in self.retention.items()},
            "split": self.split.to_json(),
            "power": self.power.to_json(),
            "is_planned_look": self.is_planned_look,
            "looks": [{"fraction": k.fraction, "z": dict(k.z), "crossed": dict(k.crossed)} for k in self.looks],
            "plan": {
                "alpha": self.plan.alpha,
                "power": self.plan.power,
                "planned_subjects": self.plan.planned_subjects,
                "effect": self.plan.effect,
                "n_looks": self.plan.n_looks,
                "guardrail_share": self.plan.guardrail_share,
            },
        }


@dataclass(frozen=True, slots=True)
class History:
    """What earlier analyses left behind; the engine stores it with the experiment.

    Parameters
    ----------
    largest_split_evidence
        ``split.largest_log_bayes_factor`` of the last analysis.
    """

    looks: Sequence[Look] = field(default_factory=tuple)
    largest_split_evidence: float = 0.0


def analyse(
    data: SubjectOutcomes | Rollup, plan: ExperimentPlan, *, history: History | None = None, in_simulation: bool = False
) -> ExperimentReading:
    """Read an experiment at this moment.

    Whether this is a planned look follows from the information: it is one when the next planned fraction has been reached since
    the last look taken (``history``). Between looks the primary metric is shown with its confidence sequence and the verdict
    of the last look stands; guardrails can stop a variant at any moment.

    Parameters
    ----------
    data
        Rows per subject, or the sums of a store.
    history
        Of the same experiment; None for a first analysis.
    in_simulation
        Whether the subjects are a simulator's: the sentence and the JSON say so.
    """
    history = history or History()
    rollup = data.rollup(plan) if isinstance(data, SubjectOutcomes) else data
    split = check_split(rollup, plan.all_phases, plan.variants, largest_so_far=history.largest_split_evidence)
    primary = plan.primary
    fraction = information_fraction(rollup.moments[primary.name], plan)
    is_ready = _is_ready(rollup, plan)
    effects = _effects(rollup, plan)
    looks, is_look = _take_look(effects, plan, history, fraction=fraction, is_ready=is_ready)
    readings = tuple(
        _read(metric, treatment, effect, plan, rollup=rollup, looks=looks, is_look=is_look, is_ready=is_ready)
        for (metric, treatment), effect in effects.items()
    )
    power = _read_power(rollup.moments[primary.name], plan, effects, fraction=fraction)
    retention = _read_retention(rollup, plan)
    return ExperimentReading(
        plan=plan,
        metrics=readings,
        split=split,
        power=power,
        verdict=decide_verdict(plan, readings, split, power, looks=looks, is_ready=is_ready),
        retention=retention,
        looks=looks,
        is_planned_look=is_look,
        in_simulation=in_simulation,
        warnings=_warnings(readings, split),
    )


def information_fraction(moments: Moments, plan: ExperimentPlan) -> float:
    """Information on the primary metric as a part of the planned: the smallest over treatments.

    Unequal weights carry less per subject: moving from 50/50 to 80/20 makes the experiment longer, and this is where it shows.
    """
    control = plan.variants.index(plan.control)
    first = plan.all_phases[0].weights_bp
    share = {v: first[v] / 10_000 for v in plan.variants}
    parts = []
    for treatment in plan.treatments:
        n_t, n_c = moments.n[:, plan.variants.index(treatment)], moments.n[:, control]
        seen = float((n_t * n_c / np.maximum(n_t + n_c, 1)).sum())
        joint = share[treatment] + share[plan.control]
        planned = plan.planned_subjects * share[treatment] * share[plan.control] / joint if joint > 0 else 0.0
        parts.append(seen / planned if planned > 0 else 0.0)
    return min(parts)


def _effects(rollup: Rollup, plan: ExperimentPlan) -> dict[tuple[Metric, str], Effect]:
    """Effects that can be computed by now; a metric whose windows are still open is left out."""
    effects = {}
    control = plan.variants.index(plan.control)
    for metric in plan.metrics:
        moments = rollup.moments[metric.name]
        for treatment in plan.treatments:
            column = plan.variants.index(treatment)
            if _has_two(moments, column, control, metric):
                effects[metric, treatment] = compare(moments, metric, treatment=column, control=control)
    return effects


def _has_two(moments: Moments, treatment: int, control: int, metric: Metric) -> bool:
    both = (moments.n[:, treatment] >= 2) & (moments.n[:, control] >= 2)
    if metric.kind == "ratio":
        both &= (moments.sum_x[:, treatment] > 0) & (moments.sum_x[:, control] > 0)
    return bool(both.any())


def _is_ready(rollup: Rollup, plan: ExperimentPlan) -> bool:
    """Whether the primary metric has the minimum sample that the normal approximation needs."""
    moments = rollup.moments[plan.primary.name]
    if float(moments.n.sum(axis=0).min()) < plan.min_subjects:
        return False
    if plan.primary.kind != "proportion":
        return True
    positives, n = moments.sum_y.sum(axis=0), moments.n.sum(axis=0)
    return bool(np.minimum(positives, n - positives).min() >= plan.min_events)


def primary_alpha(plan: ExperimentPlan) -> float:
    """Two-sided error of one treatment's primary comparison."""
    share = plan.guardrail_share if plan.guardrails else 0.0
    return plan.alpha * (1 - share) / len(plan.treatments)


def guardrail_alpha(plan: ExperimentPlan) -> float:
    """One-sided error of one guardrail in one treatment."""
    return plan.alpha * plan.guardrail_share / max(1, len(plan.guardrails) * len(plan.treatments))


def _take_look(
    effects: Mapping[tuple[Metric, str], Effect],
    plan: ExperimentPlan,
    history: History,
    *,
    fraction: float,
    is_ready: bool,
) -> tuple[tuple[Look, ...], bool]:
    """Add a look if the plan has one due."""
    looks = tuple(history.looks)
    last = looks[-1].fraction if looks else 0.0
    due = [f for f in planned_fractions(plan.n_looks) if f > last + LOOK_TOLERANCE + 1e-9]
    reached = min(fraction, 1.0)
    has_all = all((plan.primary, t) in effects for t in plan.treatments)
    if not is_ready or not has_all or not due or reached < due[0] - LOOK_TOLERANCE or reached <= last + 1e-4:
        return looks, False
    if reached >= 1.0 - LOOK_TOLERANCE:
        reached = 1.0
    critical = bounds([*(k.fraction for k in looks), reached], alpha=primary_alpha(plan))[-1]
    z = {t: effects[plan.primary, t].z for t in plan.treatments}
    crossed = {t: 0 if abs(v) < critical else int(math.copysign(1, v)) for t, v in z.items()}
    return (*looks, Look(reached, z, crossed)), True


def _read(
    metric: Metric, treatment: str, effect: Effect, plan: ExperimentPlan, *, rollup: Rollup, looks: Sequence[Look], is_look: bool, is_ready: bool
) -> MetricReading:  # fmt: skip
    planned = plan.planned_subjects
    n = float(rollup.moments[metric.name].n.sum())
    imbalance = _imbalance(metric, treatment, plan, rollup)
    if metric.role == "primary":
        alpha = primary_alpha(plan)
        always = sequence_interval(effect.estimate, effect.standard_error, n=n, planned=planned, alpha=alpha)
        repeated = None
        if is_look:
            half = bounds([k.fraction for k in looks], alpha=alpha)[-1] * effect.standard_error
            name = f"repeated, look {len(looks)} of {plan.n_looks}"
            repeated = Interval(effect.estimate, effect.estimate - half, effect.estimate + half, 1 - alpha, name)
        crossed = [k.crossed.get(treatment, 0) * metric.sign for k in looks]
        first = next((c for c in crossed if c), 0)
        return MetricReading(
            metric, treatment, effect, always, repeated, is_better=first > 0, is_worse=first < 0, imbalance=imbalance
        )
    if metric.role == "guardrail":
        # Only the losing side is tested, so both sides of the two-sided sequence together may have twice its error.
        alpha = 2 * guardrail_alpha(plan)
        always = sequence_interval(effect.estimate, effect.standard_error, n=n, planned=planned, alpha=alpha)
        low, high = sorted((metric.sign * always.low, metric.sign * always.high))
        loss = metric.tolerance or 0.0
        return MetricReading(
            metric,
            treatment,
            effect,
            always,
            is_better=is_ready and low > 0,
            is_worse=is_ready and high < -loss,
            imbalance=imbalance,
        )
    always = sequence_interval(effect.estimate, effect.standard_error, n=n, planned=planned, alpha=plan.alpha)
    return MetricReading(metric, treatment, effect, always, imbalance=imbalance)


def _imbalance(metric: Metric, treatment: str, plan: ExperimentPlan, rollup: Rollup) -> Interval | None:
    """Difference of the covariate, which was known before exposure and which the variant cannot have changed."""
    if not metric.covariate:
        return None
    m = rollup.moments[metric.name]
    covariate = Moments(m.n, m.sum_x, m.sum_xx, np.zeros_like(m.n), np.zeros_like(m.n), np.zeros_like(m.n))
    effect = compare(
        covariate,
        Metric(metric.covariate, "mean"),
        treatment=plan.variants.index(treatment),
        control=plan.variants.index(plan.control),
    )
    n = float(m.n.sum())
    half = multiplier(n, planned=plan.planned_subjects, alpha=IMBALANCE_ALPHA) * effect.standard_error
    return Interval(
        effect.estimate, effect.estimate - half, effect.estimate + half, 1 - IMBALANCE_ALPHA, "confidence sequence"
    )


def _read_power(
    moments: Moments, plan: ExperimentPlan, effects: Mapping[tuple[Metric, str], Effect], *, fraction: float
) -> PowerReading:
    matured = int(moments.n.sum())
    shares = [plan.all_phases[-1].weights_bp[v] / 10_000 for v in (plan.control, *plan.treatments)]
    alpha = plan.alpha * (1 - (plan.guardrail_share if plan.guardrails else 0.0))
    found = effects.get((plan.primary, plan.treatments[0]))
    sd = 0.0
    if found is not None and found.standard_error > 0:
        # The spread between subjects that, at this information, gives this standard error.
        sd = found.standard_error * math.sqrt(found.information)
    required = detectable = None
    if sd > 0 and min(shares) > 0:
        required = required_subjects(
            standard_deviation=sd,
            effect=plan.effect,
            weights=shares,
            alpha=alpha,
            power=plan.power,
            n_looks=plan.n_looks,
        )
        detectable = detectable_effect(n=matured, standard_deviation=sd, weights=shares, alpha=alpha, power=plan.power)
    rate = plan.subjects_per_day
    share_left = max(0.0, 1 - fraction)
    return PowerReading(
        matured=matured,
        planned=plan.planned_subjects,
        fraction=fraction,
        required=required,
        detectable=detectable,
        days_left=None if not rate else share_left * plan.planned_subjects / rate,
        days_to_required=None if not rate or required is None else max(0, required - matured) / rate,
    )


def _read_retention(rollup: Rollup, plan: ExperimentPlan) -> dict[str, RetentionReading]:
    """Retention of every treatment beside the control, phases pooled: it describes and decides nothing."""
    metric = next((m for m in plan.metrics if m.kind == "ratio" and m.role == "descriptive"), None)
    if metric is None:
        return {}
    m = rollup.moments[metric.name]
    c = plan.variants.index(plan.control)
    readings = {}
    for treatment in plan.treatments:
        t = plan.variants.index(treatment)
        pairs = [(float(a[:, c].sum()), float(a[:, t].sum())) for a in (m.n, m.sum_x, m.sum_y)]
        reading = read_retention(n=pairs[0], subscribed=pairs[1], kept=pairs[2]) if min(pairs[0]) >= 1 else None
        if reading is not None:
            readings[treatment] = reading
    return readings


def _warnings(readings: Sequence[MetricReading], split: SplitCheck) -> tuple[str, ...]:
    found = [
        f"{r.metric.covariate} differed between {r.treatment} and the control before the experiment began"
        for r in readings
        if r.is_imbalanced
    ]
    if (split.n_leaked or split.n_multiple_exposed) and not split.is_broken:
        found.append(split.sentence())
    return tuple(found)
