"""What an experiment plans, what its subjects did, and the sums that every statistic here is made from.

The unit of analysis is the subject: a subject has one variant, one phase (both of the first exposure) and one row. Everything that
judges works on ``Moments`` per phase and variant, which add up, so that a results page can be served from a rollup kept in the
store as well as from rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from offline_eval.report.formatting import NUMBER, SHARE, Unit, money
from policies.allocation import WEIGHT_TOTAL_BP, equal_weights
from policies.errors import InvalidInputError, SchemaError, UnknownNameError

MetricKind = Literal["proportion", "mean", "ratio"]
Role = Literal["primary", "guardrail", "secondary", "descriptive"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure that variants are compared by.

    Parameters
    ----------
    name
        Name of the metric, and of the column it is read from unless ``numerator`` says otherwise.
    kind
        ``proportion`` (0 or 1 per subject), ``mean`` (any number per subject) or ``ratio`` (sum of one column over sum of
        another, for example retention = kept ÷ subscribed, or conversions ÷ decisions; its variance is by the delta method).
    role
        One metric is ``primary``; a ``guardrail`` can stop a variant; ``secondary`` is shown and decides nothing;
        ``descriptive`` conditions on something the variant may have changed, and is labelled so.
    window_days
        How long after first exposure the value is known; younger subjects are left out whatever they did so far, because
        early good news would bias the comparison.
    is_increase_good
        False for refunds, complaints, costs.
    tolerance
        Largest loss of a guardrail that would be accepted, in the unit of the metric, positive. A variant ships only when
        the data exclude a larger loss. None: it ships unless a loss is proven.
    cap
        Values above it count as the cap (winsorising), fixed before the experiment; None leaves them.
    covariate
        Column known before exposure, for CUPED; None for none.
    unit
        Of the level; a proportion is a share unless something else is said.
    noun
        Of what there is more or less when the metric moves (``subscriptions``), for sentences.
    """

    name: str
    kind: MetricKind
    role: Role = "secondary"
    label: str = ""
    unit: Unit = NUMBER
    window_days: float = 0.0
    is_increase_good: bool = True
    tolerance: float | None = None
    cap: float | None = None
    covariate: str | None = None
    numerator: str = ""
    denominator: str = ""
    noun: str = ""

    def __post_init__(self) -> None:
        if self.kind == "proportion" and self.unit == NUMBER:
            object.__setattr__(self, "unit", SHARE)
        if (self.kind == "ratio") != bool(self.denominator):
            raise InvalidInputError(
                f"metric {self.name!r} is a {self.kind} with denominator {self.denominator!r}; a ratio names the column it "
                "divides by, the other kinds have none"
            )
        if self.kind == "ratio" and self.covariate:
            raise InvalidInputError(
                f"metric {self.name!r} is a ratio with a covariate; CUPED is offered for means and proportions"
            )
        if self.tolerance is not None and self.tolerance < 0:
            raise InvalidInputError(
                f"metric {self.name!r} tolerates {self.tolerance}; give the accepted loss as a positive number"
            )

    @property
    def column(self) -> str:
        """Column the values are read from."""
        return self.numerator or self.name

    @property
    def title(self) -> str:
        """How the metric is called on a page."""
        return self.label or self.name.replace("_", " ")

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is."""
        return 1.0 if self.is_increase_good else -1.0


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of an experiment with constant weights.

    Parameters
    ----------
    weights_bp
        Basis points by variant; they sum to 10,000.
    """

    key: str
    weights_bp: Mapping[str, int]

    def __post_init__(self) -> None:
        if sum(self.weights_bp.values()) != WEIGHT_TOTAL_BP or min(self.weights_bp.values()) < 0:
            raise InvalidInputError(
                f"phase {self.key!r} has weights {dict(self.weights_bp)} that sum to {sum(self.weights_bp.values())}; "
                f"expected non-negative basis points that sum to {WEIGHT_TOTAL_BP}"
            )


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """What was fixed before the first subject came: who is compared, by what, how often, until when.

    Parameters
    ----------
    variants
        Keys of all variants, the control among them.
    planned_subjects
        Matured subjects (of the primary metric, all variants together) at which the experiment ends.
    effect
        Smallest change of the primary metric that matters, absolute, in its unit; the plan's power refers to it.
    n_looks
        Planned interim looks, the last included, equally spaced in information.
    guardrail_share
        Part of ``alpha`` that is kept for guardrails; the rest is the primary metric's.
    min_subjects
        No verdict below this many matured subjects in any variant compared.
    min_events
        No verdict while a proportion has fewer positives than this in any variant compared (the normal approximation
        behind every test here fails on a handful of events).
    visitors_per_month
        For sentences in subscriptions and money a month; None speaks per 1,000 visitors.
    """

    experiment: str
    control: str
    variants: tuple[str, ...]
    metrics: tuple[Metric, ...]
    planned_subjects: int
    effect: float
    phases: tuple[Phase, ...] = ()
    alpha: float = 0.05
    power: float = 0.8
    n_looks: int = 5
    guardrail_share: float = 0.1
    min_subjects: int = 100
    min_events: int = 10
    subjects_per_day: float | None = None
    visitors_per_month: float | None = None

    def __post_init__(self) -> None:
        if len(set(self.variants)) != len(self.variants) or len(self.variants) < 2:
            raise InvalidInputError(f"variants are {list(self.variants)}; expected at least two different keys")
        if self.control not in self.variants:
            raise UnknownNameError("control variant", self.control, self.variants)
        names = [m.name for m in self.metrics]
        if len(set(names)) != len(names):
            raise InvalidInputError(f"metric names {names} are not unique; rename one")
        if sum(m.role == "primary" for m in self.metrics) != 1:
            raise InvalidInputError(
                f"metrics {names} have {sum(m.role == 'primary' for m in self.metrics)} primaries; choose one"
            )
        if self.planned_subjects < 2 * len(self.variants) or self.n_looks < 1:
            raise InvalidInputError(
                f"the plan has {self.planned_subjects} subjects and {self.n_looks} looks; expected a few subjects a variant and one look"
            )
        if not 0 < self.alpha < 0.5 or not 0 <= self.guardrail_share < 1 or not self.effect > 0:
            raise InvalidInputError(
                f"the plan has alpha {self.alpha}, guardrail share {self.guardrail_share} and effect {self.effect}; expected "
                "alpha in (0, 0.5), a share in [0, 1) and a positive effect"
            )
        for phase in self.phases:
            if set(phase.weights_bp) != set(self.variants):
                raise InvalidInputError(
                    f"phase {phase.key!r} has weights for {sorted(phase.weights_bp)}; the variants are {sorted(self.variants)}: "
                    "give weight 0 to a variant that gets no traffic"
                )

    @property
    def primary(self) -> Metric:
        """The metric that decides."""
        return next(m for m in self.metrics if m.role == "primary")

    @property
    def guardrails(self) -> tuple[Metric, ...]:
        """Metrics that can stop a variant."""
        return tuple(m for m in self.metrics if m.role == "guardrail")

    @property
    def treatments(self) -> tuple[str, ...]:
        """All variants but the control."""
        return tuple(v for v in self.variants if v != self.control)

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """The phases; one with equal weights where none was given."""
        return self.phases or (Phase("1", dict(zip(self.variants, equal_weights(len(self.variants)), strict=True))),)

    def metric(self, name: str) -> Metric:
        """The metric of a name.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise UnknownNameError("metric", name, [m.name for m in self.metrics])


def standard_metrics(
    *, currency: str = "€", conversion_days: float = 0.0, kept_days: float = 30.0, margin_tolerance: float | None = None,
    primary: Literal["conversion", "kept", "margin", "revenue"] = "kept", margin_days: float | None = None,
    has_revenue: bool = False, covariate: str = "", caps: Mapping[str, float] | None = None,
) -> tuple[Metric, ...]:  # fmt: skip
    """Conversion, kept per visitor, margin and revenue per visitor, and retention among subscribers, as the product defines them.

    Columns read: ``subscribed`` and ``kept`` (0 or 1), ``margin`` and ``revenue`` (money) per subject.

    Parameters
    ----------
    has_revenue
        Show revenue where it does not decide.
    covariate
        Column known before exposure that all metrics but retention are adjusted for.
    caps
        By metric, what larger values count as.
    """
    adjusted, capped = covariate or None, caps or {}
    money_days = kept_days if margin_days is None else margin_days

    def role(name: str) -> Role:
        return "primary" if name == primary else "secondary"

    revenue = Metric(
        "revenue", "mean", role("revenue"), label="revenue per visitor", unit=money(currency), window_days=money_days,
        noun="revenue", covariate=adjusted, cap=capped.get("revenue"),
    )  # fmt: skip
    return (
        Metric(
            "conversion", "proportion", role("conversion"), numerator="subscribed", unit=SHARE, window_days=conversion_days,
            noun="subscriptions", covariate=adjusted,
        ),
        Metric(
            "kept", "proportion", role("kept"), label="kept per visitor", unit=SHARE, window_days=kept_days,
            noun="subscribers still there after 30 days" if kept_days == 30 else "kept subscribers", covariate=adjusted,
        ),
        Metric(
            "margin", "mean", "primary" if primary == "margin" else "guardrail", label="margin per visitor", unit=money(currency),
            window_days=money_days, tolerance=margin_tolerance, noun="margin", covariate=adjusted, cap=capped.get("margin"),
        ),
        *((revenue,) if has_revenue or primary == "revenue" else ()),
        Metric(
            "retention", "ratio", "descriptive", label="retention among subscribers", numerator="kept",
            denominator="subscribed", unit=SHARE, window_days=kept_days,
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over subjects by phase and variant, each array of shape ``(n_phases, n_variants)``; they add up.

    ``x`` is the denominator of a ratio or the covariate of CUPED, zero where there is neither.
    """

    n: FloatArray
    sum_y: FloatArray
    sum_yy: FloatArray
    sum_x: FloatArray
    sum_xx: FloatArray
    sum_xy: FloatArray

    def __post_init__(self) -> None:
        shapes = {getattr(self, f.name).shape for f in fields(self)}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise SchemaError(f"moments have shapes {sorted(shapes)}; expected one shape (n_phases, n_variants)")

    def __add__(self, other: Moments) -> Moments:
        return Moments(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @classmethod
    def of(
        cls,
        y: FloatArray,
        *,
        cell: IntArray,
        shape: tuple[int, int],
        x: FloatArray | None = None,
        cap: float | None = None,
    ) -> Moments:
        """Sum rows into cells.

        Parameters
        ----------
        cell
            ``phase * n_variants + variant`` of each row, shape ``(n,)``.
        """
        y = y if cap is None else np.minimum(y, cap)
        x = np.zeros_like(y) if x is None else x

        def total(weights: FloatArray | None) -> FloatArray:
            return np.bincount(cell, weights, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)

        return cls(total(None), total(y), total(y * y), total(x), total(x * x), total(x * y))


@dataclass(frozen=True, slots=True)
class Rollup:
    """All an analysis needs: sums per metric, exposures for the split check, and what was left out.

    Parameters
    ----------
    moments
        By metric name, over matured subjects only.
    exposed
        Subjects by phase and variant, matured or not, shape ``(n_phases, n_variants)``.
    n_multiple_exposed
        Subjects seen in more than one variant; they are in no sum.
    n_leaked
        Subjects seen in a variant of weight zero in their phase, or in no planned variant.
    """

    moments: Mapping[str, Moments]
    exposed: IntArray
    n_multiple_exposed: int = 0
    n_leaked: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SubjectOutcomes:
    """One row per subject: variant and phase of first exposure, and the facts metrics are made from.

    Parameters
    ----------
    variants
        Variant key, text of shape ``(n,)``.
    values
        Columns by name, each float64 of shape ``(n,)``; not finite is allowed only where the subject has not matured.
    phases
        Phase key, text of shape ``(n,)``; None where there is one phase.
    exposed_day
        Day of first exposure, shape ``(n,)``; None: everyone has matured.
    as_of_day
        Day of the analysis, on the same scale.
    n_multiple_exposed
        Subjects that were seen in several variants and are therefore not among the rows.

    Raises
    ------
    SchemaError
        If a column has another shape, or maturity cannot be told.
    """

    variants: NDArray[np.str_]
    values: Mapping[str, FloatArray]
    phases: NDArray[np.str_] | None = None
    exposed_day: FloatArray | None = None
    as_of_day: float | None = None
    n_multiple_exposed: int = 0

    def __post_init__(self) -> None:
        n = len(self.variants)
        named: list[tuple[str, NDArray[Any] | None]] = [
            *self.values.items(),
            ("phases", self.phases),
            ("exposed_day", self.exposed_day),
        ]
        for name, column in named:
            if column is not None and column.shape != (n,):
                raise SchemaError(f"column {name!r} has shape {column.shape}; expected ({n},), one value per subject")
        if (self.exposed_day is None) != (self.as_of_day is None):
            raise SchemaError("exposed_day and as_of_day come together: maturity is the time between them")

    def __len__(self) -> int:
        return len(self.variants)

    def matured(self, window_days: float) -> NDArray[np.bool_]:
        """Whether a window that begins at first exposure has closed, shape ``(n,)``."""
        if self.exposed_day is None or self.as_of_day is None:
            return np.ones(len(self), dtype=np.bool_)
        return np.asarray(self.exposed_day + window_days <= self.as_of_day)

    def rollup(self, plan: ExperimentPlan) -> Rollup:
        """Sum the rows for a plan; subjects in no planned variant or phase are counted as leaked and left out.

        Raises
        ------
        SchemaError
            If a metric's column is missing.
        InvalidInputError
            If a matured subject has no finite value, or a proportion holds something else than 0 and 1.
        """
        shape = (len(plan.all_phases), len(plan.variants))
        cell, is_planned = self.cells(plan)
        moments = {}
        for metric in plan.metrics:
            rows = is_planned & self.matured(metric.window_days)
            y, x = self.of_metric(metric, rows)
            moments[metric.name] = Moments.of(y, cell=cell[rows], shape=shape, x=x, cap=metric.cap)
        exposed = np.bincount(cell[is_planned], minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
        return Rollup(moments, exposed, self.n_multiple_exposed, int((~is_planned).sum()))

    def cells(self, plan: ExperimentPlan) -> tuple[IntArray, NDArray[np.bool_]]:
        """``phase * n_variants + variant`` of each row, and whether the plan sends anybody there; each of shape ``(n,)``."""
        phases = plan.all_phases
        variant = _positions(self.variants, plan.variants)
        phase = (
            np.zeros(len(self), dtype=np.int64)
            if self.phases is None
            else _positions(self.phases, [p.key for p in phases])
        )
        weights = np.array([[p.weights_bp[v] for v in plan.variants] for p in phases])
        is_planned = (variant >= 0) & (phase >= 0)
        is_planned[is_planned] = weights[phase[is_planned], variant[is_planned]] > 0
        return np.where(is_planned, phase * len(plan.variants) + variant, 0), is_planned

    def of_metric(self, metric: Metric, rows: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray | None]:
        """Values of a metric, and its denominator or covariate where it has one, for the rows chosen."""
        extra = metric.denominator or metric.covariate
        return self._column(metric.column, metric, rows), self._column(extra, metric, rows) if extra else None

    def _column(self, name: str, metric: Metric, rows: NDArray[np.bool_]) -> FloatArray:
        if name not in self.values:
            raise SchemaError(f"metric {metric.name!r} needs column {name!r}; the data have {sorted(self.values)}")
        values = np.asarray(self.values[name][rows], dtype=np.float64)
        bad = ~np.isfinite(values)
        if bad.any():
            raise InvalidInputError(
                f"column {name!r} is not finite for {int(bad.sum())} matured subjects; a subject without the event has 0"
            )
        if metric.kind == "proportion" and name == metric.column and not np.isin(values, (0.0, 1.0)).all():
            raise InvalidInputError(
                f"column {name!r} of proportion {metric.name!r} holds other values than 0 and 1; make it a mean"
            )
        return values


def by_subject(
    *,
    subjects: NDArray[np.str_],
    variants: NDArray[np.str_],
    values: Mapping[str, FloatArray],
    phases: NDArray[np.str_] | None = None,
    day: FloatArray | None = None,
    as_of_day: float | None = None,
) -> SubjectOutcomes:
    """Fold rows of decisions into one row per subject: values are summed, first exposure gives variant, phase and day.

    Adds a column ``decisions`` (how many there were), the denominator of metrics per decision. Subjects that were seen in
    several variants are left out and counted. Analysing decisions as if they were independent made 22 % false winners in a
    test of four decisions a subject; this is why the unit is the subject.

    Parameters
    ----------
    subjects, variants, phases, day
        One entry a decision, shape ``(n,)``; without ``day`` the order of rows is the order of time.
    """
    order = np.argsort(day, kind="stable") if day is not None else np.arange(len(subjects))
    names, first, inverse = np.unique(subjects[order], return_index=True, return_inverse=True)
    ordered = variants[order]
    is_mixed = np.bincount(inverse, ordered != ordered[first][inverse], minlength=len(names)) > 0
    keep = ~is_mixed

    def total(weights: FloatArray | None) -> FloatArray:
        return np.bincount(inverse, weights, minlength=len(names)).astype(np.float64)[keep]

    return SubjectOutcomes(
        variants=ordered[first][keep],
        values={name: total(column[order]) for name, column in values.items()} | {"decisions": total(None)},
        phases=None if phases is None else phases[order][first][keep],
        exposed_day=None if day is None else day[order][first][keep],
        as_of_day=as_of_day,
        n_multiple_exposed=int(is_mixed.sum()),
    )


def _positions(values: NDArray[np.str_], keys: Sequence[str]) -> IntArray:
    """Position of each value among the keys, -1 where it is none of them."""
    found = np.full(len(values), -1, dtype=np.int64)
    for i, key in enumerate(keys):
        found[values == key] = i
    return found


@dataclass(frozen=True, slots=True)
class Look:
    """A planned look that has been taken; stored with the experiment and handed back to the next analysis.

    Parameters
    ----------
    fraction
        Information at the look as a part of the planned, in (0, 1].
    z
        Standardised difference of the primary metric by treatment.
    crossed
        By treatment: -1 the lower bound was crossed, 1 the upper, 0 neither.
    """

    fraction: float
    z: Mapping[str, float] = field(default_factory=dict)
    crossed: Mapping[str, int] = field(default_factory=dict)
