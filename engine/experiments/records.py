"""What an experiment is: who competes, for whom, judged by what, until when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, TypeGuard

from engine.rewards.definition import DAY_S
from engine.store.facts import check_text
from offline_eval.abtest import ExperimentPlan, standard_metrics
from offline_eval.abtest import Phase as PlanPhase
from policies.allocation import WEIGHT_TOTAL_BP, Split, Variant
from policies.eligibility import Condition, condition_from_json, condition_to_json
from policies.errors import InvalidInputError, UnknownNameError

State = Literal["draft", "scheduled", "running", "stopped", "archived"]
Primary = Literal["conversion", "kept", "margin", "revenue"]
RAMP_STEPS = (0.01, 0.05, 0.10, 0.25, 0.50, 1.0)
MAX_SEGMENTS = 3
# Who decides where no registered version does: the placement's baseline order, and whatever the placement itself runs (for variants
# that are plain values).
BASELINE = "baseline"
OWN_POLICY = "placement"


@dataclass(frozen=True, slots=True)
class Counting:
    """Which outcomes the metrics are made of, and how long after first exposure they count.

    Parameters
    ----------
    subscribed
        Kind of the outcome that says a subject subscribed.
    kept
        Kind that says it is still active 30 days after subscribing.
    margin
        Kind whose values add up to the margin earned with a subject.
    revenue
        Kind whose values add up to what a subject paid.
    cancelled
        Kind that says a subscriber has left; shows how long subscribers stay and decides nothing.
    conversion_window_s
        A subscription this long after first exposure counts, and only subjects exposed that long ago are counted.
    kept_window_s
        The same for ``kept`` and margin: the conversion window, 30 days, and a day for billing to tell.
    """

    subscribed: str = "subscribed"
    kept: str = "active_30d"
    margin: str = "margin_eur"
    revenue: str = "revenue_eur"
    cancelled: str = "cancelled"
    conversion_window_s: float = 7 * DAY_S
    kept_window_s: float = 38 * DAY_S

    def __post_init__(self) -> None:
        for name in (self.subscribed, self.kept, self.margin, self.revenue, self.cancelled):
            check_text(name, what="kind of an outcome", max_length=64)
        if not 0 < self.conversion_window_s <= self.kept_window_s:
            raise InvalidInputError(
                f"windows are {self.conversion_window_s} and {self.kept_window_s} s; expected a positive conversion window "
                "and a window for kept that is not shorter"
            )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a person decides about an experiment before it starts.

    Parameters
    ----------
    planned_subjects
        Visitors to follow, all variants together.
    effect
        Smallest change of the primary metric that matters, absolute (0.01 is one percentage point).
    margin_tolerance
        Largest loss of margin per visitor that would be accepted; None ships unless a loss is proven.
    is_late
        Whether it was fixed after the experiment had started; every reading then says so.
    covariate
        Feature of the first decision, a number known before a variant could change it (past spending, a propensity score): it takes
        out what visitors differed in already (CUPED), and a difference of it between variants breaks the reading. "" for none.
    cap_quantile
        Money of one visitor above this quantile of the buyers' (of all variants together) counts as the quantile, so that a few large
        sums do not decide; None leaves them.
    """

    planned_subjects: int
    effect: float
    primary: Primary = "conversion"
    n_looks: int = 5
    currency: str = "€"
    margin_tolerance: float | None = None
    visitors_per_day: float | None = None
    visitors_per_month: float | None = None
    is_late: bool = False
    covariate: str = ""
    cap_quantile: float | None = None

    def __post_init__(self) -> None:
        if self.covariate:
            check_text(self.covariate, what="covariate of a plan", max_length=128)
        if self.cap_quantile is not None and not 0.5 <= self.cap_quantile < 1:
            raise InvalidInputError(
                f"cap_quantile is {self.cap_quantile}; expected a share of the buyers from 0.5 to below 1, such as 0.99"
            )


# Without a plan only intervals are shown; these choices make them narrowest about here and never lead to a verdict.
UNPLANNED = Plan(planned_subjects=10_000, effect=0.01)


@dataclass(frozen=True, slots=True)
class Ramp:
    """Coverage that grows by itself while nothing is proven worse.

    Parameters
    ----------
    steps
        Coverages, increasing; the first is that of the start.
    hold_s
        Least time at each step before the next.
    """

    steps: tuple[float, ...] = RAMP_STEPS
    hold_s: float = DAY_S

    def __post_init__(self) -> None:
        if (
            not self.steps
            or list(self.steps) != sorted(set(self.steps))
            or not 0 < self.steps[0] <= self.steps[-1] <= 1
        ):
            raise InvalidInputError(f"steps of a ramp are {list(self.steps)}; expected increasing shares in (0, 1]")
        if self.hold_s < 0:
            raise InvalidInputError(f"a ramp holds {self.hold_s} s at each step; expected 0 or more")


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time with one set of weights."""

    number: int
    variants: tuple[Variant, ...]
    coverage: float
    started_at: datetime
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Which policies compete at a placement, and for whom.

    Parameters
    ----------
    variants
        Each names a registered policy version, ``baseline`` for the placement's baseline order, or ``placement`` for the
        placement's own policy (where the variant is a plain value); the first is the control.
    coverage
        Share of subjects that take part; the others get the placement's own policy.
    plan
        Fixed once; None shows intervals and no verdict.
    targeting
        Conditions on the visitor's features, all of which must hold at first exposure.
    layer, slots
        Experiments of one layer share its 10,000 slots; those with separate slots never meet in one subject. Without a layer
        an experiment is independent of all others.
    forced
        Variant by subject, for people who look at the page before visitors do; what they do is never counted.
    starts_at, ends_at
        When a scheduled experiment starts, and when a running one stops by itself.
    data_scope
        ``own``: no two variants share a learner. ``shared`` allows it; then what one variant learns changes the other.
    segments
        Features of the first decision by which results are also shown.
    approved_by
        Who approved the draft as it stands; a change of the draft takes it back.
    is_client_visible
        Whether a key that a web page shows may read which variant a visitor has.
    """

    id: str
    placement: str
    variants: tuple[Variant, ...]
    coverage: float = 1.0
    hypothesis: str = ""
    state: State = "draft"
    revision: int = 0
    phases: tuple[Phase, ...] = ()
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    plan: Plan | None = None
    counting: Counting = field(default_factory=Counting)
    targeting: tuple[Condition, ...] = ()
    layer: str = ""
    slots: tuple[int, int] = (0, WEIGHT_TOTAL_BP)
    forced: Mapping[str, str] = field(default_factory=dict)
    ramp: Ramp | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    data_scope: Literal["own", "shared"] = "own"
    segments: tuple[str, ...] = ()
    approved_by: str = ""
    is_client_visible: bool = False

    def __post_init__(self) -> None:
        check_text(self.id, what="id of an experiment", max_length=128)
        if len(self.variants) < 2:
            raise InvalidInputError(f"experiment {self.id!r} has {len(self.variants)} variants; expected at least two")
        Split(self.id, self.variants, self.coverage)
        first, last = self.slots
        if not 0 <= first < last <= WEIGHT_TOTAL_BP:
            raise InvalidInputError(
                f"slots of experiment {self.id!r} are {list(self.slots)}; expected two whole numbers, the first below the second, from 0 to {WEIGHT_TOTAL_BP}"
            )
        if not self.layer and self.slots != (0, WEIGHT_TOTAL_BP):
            raise InvalidInputError(
                f"experiment {self.id!r} has slots {list(self.slots)} and no layer; name the layer that they are of"
            )
        if self.layer == self.id:
            raise InvalidInputError(
                f"the layer of experiment {self.id!r} has its name, so that both would hash alike; rename the layer"
            )
        if len(self.segments) > MAX_SEGMENTS:
            raise InvalidInputError(
                f"experiment {self.id!r} has {len(self.segments)} segments; at most {MAX_SEGMENTS} are kept"
            )
        keys = [v.key for v in self.variants]
        for key in self.forced.values():
            if key not in keys:
                raise UnknownNameError(f"variant of experiment {self.id!r}:", key, keys)
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise InvalidInputError(
                f"experiment {self.id!r} ends at {self.ends_at}, not after it starts at {self.starts_at}"
            )
        if self.plan is not None:
            plan_for_statistics(self, self.plan)

    def split(self, phase: Phase) -> Split:
        """How a phase divides subjects."""
        return Split(self.id, phase.variants, phase.coverage)

    @property
    def control(self) -> str:
        """Key of the variant the others are compared with."""
        return self.variants[0].key

    @property
    def covariate(self) -> str:
        """Feature that the plan adjusts for; "" for none."""
        return "" if self.plan is None else self.plan.covariate

    def variant(self, key: str) -> Variant:
        """Variant by key."""
        return next(v for v in self.variants if v.key == key)


def is_version(policy: str | None) -> TypeGuard[str]:
    """Whether what decides is a registered version of its own: something to load and to learn, and that no two variants should share."""
    return policy not in (None, BASELINE, OWN_POLICY)


def plan_for_statistics(
    experiment: Experiment, plan: Plan, *, has_revenue: bool = False, caps: Mapping[str, float] | None = None
) -> ExperimentPlan:
    """Choices and phases as the statistics want them; the first variant is the control.

    Parameters
    ----------
    has_revenue
        Whether revenue is shown where it does not decide.
    caps
        By metric, what larger values count as.

    Raises
    ------
    InvalidInputError
        If the choices make no plan.
    """
    counting = experiment.counting
    rows: Sequence[tuple[str, dict[str, int]]] = [
        (str(p.number), {v.key: v.weight_bp for v in p.variants}) for p in experiment.phases
    ] or [("1", {v.key: v.weight_bp for v in experiment.variants})]
    return ExperimentPlan(
        experiment=experiment.id,
        control=experiment.control,
        variants=tuple(v.key for v in experiment.variants),
        metrics=standard_metrics(
            currency=plan.currency,
            conversion_days=counting.conversion_window_s / DAY_S,
            kept_days=counting.kept_window_s / DAY_S,
            margin_tolerance=plan.margin_tolerance,
            primary=plan.primary,
            has_revenue=has_revenue,
            covariate=plan.covariate,
            caps=caps,
        ),
        planned_subjects=plan.planned_subjects,
        effect=plan.effect,
        phases=tuple(PlanPhase(key, weights) for key, weights in rows),
        n_looks=plan.n_looks,
        subjects_per_day=plan.visitors_per_day,
        visitors_per_month=plan.visitors_per_month,
    )


def document_of(experiment: Experiment) -> dict[str, Any]:
    """Plain values of everything that is no column or row of its own."""
    return {
        "variants": variants_json(experiment.variants),
        "coverage": experiment.coverage,
        "hypothesis": experiment.hypothesis,
        "plan": None if experiment.plan is None else asdict(experiment.plan),
        "counting": asdict(experiment.counting),
        "targeting": [condition_to_json(c) for c in experiment.targeting],
        "layer": experiment.layer,
        "slots": list(experiment.slots),
        "forced": dict(experiment.forced),
        "ramp": None
        if experiment.ramp is None
        else {"steps": list(experiment.ramp.steps), "hold_s": experiment.ramp.hold_s},
        "starts_at": _text(experiment.starts_at),
        "ends_at": _text(experiment.ends_at),
        "data_scope": experiment.data_scope,
        "segments": list(experiment.segments),
        "approved_by": experiment.approved_by,
        "is_client_visible": experiment.is_client_visible,
    }


def with_document(experiment: Experiment, document: Mapping[str, Any]) -> Experiment:
    """Read back what ``document_of`` wrote, and what versions before it wrote."""
    plan, ramp = document.get("plan"), document.get("ramp")
    return replace(
        experiment,
        plan=None if plan is None else Plan(**plan),
        counting=Counting(**document.get("counting", {})),
        targeting=tuple(condition_from_json(c) for c in document.get("targeting", ())),
        layer=document.get("layer", ""),
        slots=tuple(document.get("slots", (0, WEIGHT_TOTAL_BP))),
        forced=document.get("forced", {}),
        ramp=None if ramp is None else Ramp(tuple(ramp["steps"]), ramp["hold_s"]),
        starts_at=_moment(document.get("starts_at")),
        ends_at=_moment(document.get("ends_at")),
        data_scope=document.get("data_scope", "own"),
        segments=tuple(document.get("segments", ())),
        approved_by=document.get("approved_by", ""),
        is_client_visible=document.get("is_client_visible", False),
    )


def variants_json(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """Plain values of variants."""
    return [{"key": v.key, "weight_bp": v.weight_bp, "policy": v.policy, "value": v.value} for v in variants]


def variants_from_json(rows: Sequence[Mapping[str, Any]]) -> tuple[Variant, ...]:
    """Read back what ``variants_json`` wrote."""
    return tuple(Variant(v["key"], v["weight_bp"], v["policy"], v.get("value", "")) for v in rows)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
