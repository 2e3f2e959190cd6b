"""What was typed into the form of an experiment, as the record it stands for, and how long its answer would take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

from api.console.ask import Ask
from api.console.conditions import targeting
from api.console.shares import basis_points, typed_variants
from engine.experiments.records import BASELINE, UNPLANNED, Counting, Experiment, Plan, Primary, Ramp
from engine.rewards.definition import DAY_S
from offline_eval.abtest import required_subjects
from policies.allocation import WEIGHT_TOTAL_BP, Variant
from policies.errors import InvalidInputError, UnknownNameError

NumberT = TypeVar("NumberT", int, float)
PRIMARIES: tuple[Primary, ...] = ("conversion", "kept", "margin", "revenue")
MONEY = ("margin", "revenue")
_YEAR_DAYS = 365
_TWO_SIDED_SHARE = 0.9  # of alpha: the rest is the guardrails'


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long an answer takes with what stands in the form."""

    days: float | None
    n_subjects: int
    per_day: float
    wait_days: float

    @property
    def is_too_long(self) -> bool:
        """Whether nobody would wait for it."""
        return self.days is not None and self.days + self.wait_days > _YEAR_DAYS


def typed_draft(ask: Ask, name: str, *, before: Experiment | None = None) -> Experiment:
    """What stands in the form; what the form does not speak of stays as it was ``before``."""
    typed = typed_variants(ask)
    weights = basis_points(ask, [w for _, _, w in typed])
    values = {} if before is None else {v.key: v.value for v in before.variants}
    coverage = given(ask.number("coverage", what="Coverage"), 100.0) / 100
    # The date fields are read before the plan, so that a mistyped one is named and not lost.
    ends_at = ask.moment("ends_at", what="Planned end")
    return Experiment(
        id=name,
        placement=ask.text("placement"),
        variants=tuple(
            Variant(key, weight, policy or BASELINE, values.get(key, ""))
            for (key, policy, _), weight in zip(typed, weights, strict=True)
        ),
        coverage=coverage,
        hypothesis=ask.text("hypothesis"),
        plan=_plan(ask, None if before is None else before.plan),
        ramp=_ramp(ask, None if before is None else before.ramp),
        ends_at=ends_at,
        segments=tuple(s.strip() for s in ask.text("segments").split(",") if s.strip()),
        targeting=tuple(targeting(ask)),
        layer=ask.text("layer"),
        slots=_slots(ask),
        data_scope="shared" if ask.text("shared") == "yes" else "own",
        counting=_counting(ask, Counting() if before is None else before.counting),
    )


def given(typed: NumberT | None, otherwise: NumberT) -> NumberT:
    """What was typed, a zero too; something else where the field was left empty."""
    return otherwise if typed is None else typed


def _ramp(ask: Ask, before: Ramp | None) -> Ramp | None:
    """The form knows one way to grow; a draft that had another keeps it."""
    if ask.text("ramp") != "yes":
        return None
    return before or Ramp(hold_s=DAY_S)


def _slots(ask: Ask) -> tuple[int, int]:
    """Part of a layer in slots of 10,000, typed in percent."""
    if not ask.text("layer"):
        return 0, WEIGHT_TOTAL_BP
    first, last = ask.number("slot_from", what="From"), ask.number("slot_until", what="Until")
    return round((first or 0.0) * 100), round((100.0 if last is None else last) * 100)


def _counting(ask: Ask, plain: Counting) -> Counting:
    """Metrics as they were picked."""
    conversion, kept = ask.number("conversion_days", what="Days"), ask.number("kept_days", what="Days")
    return replace(
        plain,
        subscribed=ask.text("kind_subscribed") or plain.subscribed,
        kept=ask.text("kind_kept") or plain.kept,
        margin=ask.text("kind_margin") or plain.margin,
        revenue=ask.text("kind_revenue") or plain.revenue,
        conversion_window_s=plain.conversion_window_s if conversion is None else conversion * DAY_S,
        kept_window_s=plain.kept_window_s if kept is None else kept * DAY_S,
    )


def _plan(ask: Ask, before: Plan | None) -> Plan:
    """The plan as it was typed; what the form does not speak of stays as it was."""
    found = estimate_of(ask)
    primary = next((p for p in PRIMARIES if p == ask.text("primary")), None)
    if primary is None:
        raise UnknownNameError("metric", ask.text("primary"), PRIMARIES)
    return replace(
        before or UNPLANNED,
        planned_subjects=max(200, found.n_subjects),
        effect=_effect(ask),
        primary=primary,
        n_looks=given(ask.whole("looks", what="Looks"), 5),
        currency=ask.text("currency") or "€",
        margin_tolerance=ask.number("tolerance", what="Accepted loss"),
        visitors_per_day=found.per_day or None,
        visitors_per_month=ask.number("month", what="Visitors a month"),
        covariate=ask.text("covariate"),
    )


def _effect(ask: Ask) -> float:
    """Smallest change that matters: percentage points for shares, money for margin."""
    effect = ask.number("effect", what="Change that matters")
    if effect is None or effect <= 0:
        raise InvalidInputError(ask.words("Say which change would matter, above zero"))
    return effect if ask.text("primary") in MONEY else effect / 100


def estimate_of(ask: Ask) -> Estimate:
    """How long an answer takes with what stands in the form."""
    percents = [w for _, _, w in typed_variants(ask)]
    weights = basis_points(ask, percents)
    if len(weights) < 2:
        raise InvalidInputError(ask.words("An experiment compares at least two variants"))
    if min(weights) <= 0:
        raise InvalidInputError(ask.words("Every variant needs some visitors"))
    rate = given(ask.number("rate", what="Conversion now"), 5.0) / 100
    if not 0 < rate < 1:
        raise InvalidInputError(ask.words("Conversion now is a share between 0 and 100 %"))
    primary = ask.text("primary")
    # Money per visitor spreads about as much as a sale does: nothing for most, the margin of a sale for some.
    spread = math.sqrt(rate * (1 - rate)) * (20.0 if primary in MONEY else 1.0)
    n = required_subjects(
        standard_deviation=spread,
        effect=_effect(ask),
        weights=[w / WEIGHT_TOTAL_BP for w in weights],
        alpha=0.05 * _TWO_SIDED_SHARE,
        n_looks=max(1, given(ask.whole("looks", what="Looks"), 5)),
    )
    coverage = given(ask.number("coverage", what="Coverage"), 100.0) / 100
    per_day = (ask.number("per_day", what="Visitors a day") or 0.0) * coverage
    counting = _counting(ask, Counting())
    wait = (counting.conversion_window_s if primary == "conversion" else counting.kept_window_s) / DAY_S
    return Estimate(n / per_day if per_day else None, n, per_day, wait)
