"""A draft: made from a template, changed, rehearsed with made-up visitors, and how long it would take."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TypeVar

from starlette.responses import HTMLResponse, Response

from api.console.ask import Ask, experiment_path, go_to
from api.console.page import Page
from api.console.shares import basis_points, typed_variants
from api.console.shown import policy_names
from api.console.words import Words
from engine.experiments.checklist import visitors_per_day
from engine.experiments.history import features_seen
from engine.experiments.reading import take_reading
from engine.experiments.records import OWN_POLICY, UNPLANNED, Counting, Experiment, Plan, Primary, Ramp
from engine.experiments.rehearsal import rehearse
from engine.rewards.definition import DAY_S
from engine.rewards.kinds import kinds_of
from offline_eval.abtest import required_subjects
from policies.allocation import WEIGHT_TOTAL_BP, Variant
from policies.eligibility import Condition
from policies.errors import ConflictError, InvalidInputError, NextofferError, UnknownNameError
from policies.records import FeatureValue

MAX_VARIANTS, MAX_CONDITIONS = 4, 6
NumberT = TypeVar("NumberT", int, float)
OPERATORS = {
    "==": "is", "!=": "is not", "in": "is one of", "not in": "is none of", "<": "is below", "<=": "is at most", ">": "is above",
    ">=": "is at least", "present": "is known", "missing": "is not known",
}  # fmt: skip
PRIMARIES: tuple[Primary, ...] = ("conversion", "kept", "margin", "revenue")
MONEY = ("margin", "revenue")
_KIND_FIELDS = ("kind_subscribed", "kind_kept", "kind_margin", "kind_revenue")
# What the form speaks of; the rest of a draft stays as it was.
_EDITED = (
    "placement", "variants", "coverage", "hypothesis", "plan", "counting", "targeting", "layer", "slots", "ramp", "ends_at",
    "data_scope", "segments",
)  # fmt: skip
_MONTH_DAYS = 30.4
_YEAR_DAYS = 365
_TWO_SIDED_SHARE = 0.9  # of alpha: the rest is the guardrails'


@dataclass(frozen=True, slots=True)
class Template:
    """What a new experiment begins with."""

    key: str
    title: str
    text: str
    name: str
    hypothesis: str
    primary: str
    effect: float


TEMPLATES = (
    Template("price", "New price", "Does another price bring more margin without losing subscribers?", "new-price", "The new price brings more margin per visitor and loses no subscribers that we would miss.", "margin", 0.1),
    Template("winback", "Win back", "Does a better offer bring back those who left?", "win-back", "Visitors who left before come back more often when they see an offer made for them.", "kept", 1.0),
    Template("personal", "Personal offers", "Does a policy that chooses for each visitor beat one order for all?", "personal-offers", "Visitors who get an offer that fits them subscribe more often.", "conversion", 1.0),
)  # fmt: skip


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


def new_form(ask: Ask) -> Response:
    """The form of a new experiment."""
    chosen = next((t for t in TEMPLATES if t.key == ask.query("template")), TEMPLATES[-1])
    places = _places(ask)
    placement = ask.query("placement") or places[0]
    known = {e.id for e in ask.service.experiments.list()}
    name = next(n for n in (chosen.name, *(f"{chosen.name}-{i}" for i in range(2, 10_000))) if n not in known)
    rate, per_day = _base_rates(ask, placement)
    policies = _policies(ask)
    treatment = next((p for p in policies if p not in ("baseline", OWN_POLICY)), "baseline")
    values = {
        "id": name, "placement": placement, "hypothesis": ask.words(chosen.hypothesis), "primary": chosen.primary,
        "effect": f"{chosen.effect:g}", "rate": f"{rate * 100:.3g}", "per_day": f"{per_day:.0f}", "coverage": "100",
        "tolerance": "", "ramp": "", "looks": "5", "month": f"{per_day * _MONTH_DAYS:.0f}", "starts_at": "", "ends_at": "",
        "segments": "", "currency": "€", **_counting_values(Counting()), "slot_from": "0", "slot_until": "100",
    }  # fmt: skip
    variants = [("now", OWN_POLICY, 50.0), ("new", treatment, 50.0)]
    return _form_page(ask, values, variants, [])


def edit_form(ask: Ask) -> Response:
    """The form of a draft, as it stands."""
    found = ask.service.experiments.get(ask.path("experiment"))
    if found.state != "draft":
        raise InvalidInputError(ask.words("Only a draft can be changed; {name} is past that", name=repr(found.id)))
    return _form_page(ask, _values_of(ask, found), _variants_of(found), list(found.targeting), found=found)


def save_edit(ask: Ask) -> Response:
    """Write a draft anew; if somebody was faster, say so beside what was typed."""
    found = ask.service.experiments.get(ask.path("experiment"))
    values = {k: v[0] for k, v in ask.form.items()} | {"id": found.id}
    revision = ask.revision
    try:
        made = _draft(ask, found.id, before=found)
        changes = {name: getattr(made, name) for name in _EDITED}
        ask.service.experiments.edit(found.id, changes, revision=revision, change=ask.change())
    except ConflictError:
        text = ask.words("Somebody else changed this draft meanwhile. Yours stands in the form below: save again to keep it, or open the draft to see theirs.")  # fmt: skip
        return _form_page(
            ask, values, typed_variants(ask), _targeting(ask, strict=False), found=found, error=text, status=409
        )
    except NextofferError as error:
        return _form_page(
            ask,
            values,
            typed_variants(ask),
            _targeting(ask, strict=False),
            found=found,
            error=str(error),
            revision=revision,
            status=400,
        )
    return go_to(experiment_path(found.id), said="saved")


def rehearsed(ask: Ask) -> Response:
    """Let what stands in the form run with made-up visitors, before anybody real sees it."""
    try:
        rate = _given(ask.number("rate", what="Conversion now"), 5.0) / 100
        found = rehearse(_draft(ask, ask.text("id") or "rehearsal"), rate=rate)
    except NextofferError as error:
        return HTMLResponse(ask.render("rehearsal.html.j2", found=None, error=str(error)))
    return HTMLResponse(ask.render("rehearsal.html.j2", found=found, error=""))


def estimate(ask: Ask) -> Response:
    """Days to an answer, from what stands in the form now."""
    try:
        found = _estimate(ask)
    except NextofferError as error:
        return HTMLResponse(ask.render("estimate.html.j2", estimate=None, error=str(error)))
    return HTMLResponse(ask.render("estimate.html.j2", estimate=found, error=""))


def create(ask: Ask) -> Response:
    """Write down a draft, and start it where that was asked for."""
    try:
        made = ask.service.experiments.create(_draft(ask, re.sub(r"\s+", "-", ask.text("id"))), change=ask.change())
        said = "drafted"
        if ask.text("then") == "start":
            ask.service.experiments.start(made.id, revision=made.revision, change=ask.change())
            ask.service.refresh()
            said = "started"
    except NextofferError as error:
        values = {k: v[0] for k, v in ask.form.items()}
        status = 409 if isinstance(error, ConflictError) else 400
        return _form_page(
            ask, values, typed_variants(ask), _targeting(ask, strict=False), error=str(error), status=status
        )
    return go_to(experiment_path(made.id), said=said)


def _form_page(
    ask: Ask,
    values: dict[str, str],
    variants: list[tuple[str, str, float]],
    targeting: list[Condition],
    *,
    found: Experiment | None = None,
    revision: int | None = None,
    error: str = "",
    status: int = 200,
) -> Response:
    layers = sorted({e.layer for e in ask.service.experiments.list() if e.layer})
    return ask.page(
        "experiment_new.html.j2",
        title=ask.words("New experiment") if found is None else ask.words("Change {name}", name=found.id),
        here="/experiments",
        status=status,
        values=values,
        variants=variants,
        conditions=[*((c.feature, c.operator, _shown_value(c)) for c in targeting), ("", "==", ""), ("", "==", "")][
            :MAX_CONDITIONS
        ],
        operators=OPERATORS,
        places=_places(ask),
        policies=policy_names(_policies(ask)),
        features=features_seen(ask.service.database, values.get("placement", "")),
        kinds=_kinds(ask, values),
        layers=layers,
        found=found,
        revision=(found.revision if revision is None else revision) if found is not None else 0,
        error=error,
        max_variants=MAX_VARIANTS,
    )


def _places(ask: Ask) -> list[str]:
    places = ask.service.placements()
    if not places:
        raise InvalidInputError(ask.words("There is no place to show offers yet; make one over the API first"))
    return places


def _kinds(ask: Ask, values: dict[str, str]) -> list[str]:
    """Kinds of outcomes that metrics may be made of: those told of lately, and those that stand in the form."""
    told = [k.name for k in kinds_of(ask.service.database) if k.is_outcome]
    return list(dict.fromkeys([*(values[n] for n in _KIND_FIELDS if values.get(n)), *told]))


def _counting_values(counting: Counting) -> dict[str, str]:
    days = (counting.conversion_window_s / DAY_S, counting.kept_window_s / DAY_S)
    return {
        "kind_subscribed": counting.subscribed, "kind_kept": counting.kept, "kind_margin": counting.margin, "kind_revenue": counting.revenue,
        "conversion_days": f"{days[0]:g}", "kept_days": f"{days[1]:g}",
    }  # fmt: skip


def _values_of(ask: Ask, found: Experiment) -> dict[str, str]:
    """A draft as its form shows it."""
    plan = found.plan or UNPLANNED
    rate, per_day = _base_rates(ask, found.placement)
    if plan.visitors_per_day:
        per_day = plan.visitors_per_day / (found.coverage or 1.0)
    effect = plan.effect if plan.primary in MONEY else plan.effect * 100
    return {
        "id": found.id, "placement": found.placement, "hypothesis": found.hypothesis, "primary": plan.primary,
        "effect": f"{effect:g}", "rate": f"{rate * 100:.3g}", "per_day": f"{per_day:.0f}", "coverage": f"{found.coverage * 100:g}",
        "tolerance": "" if plan.margin_tolerance is None else f"{plan.margin_tolerance:g}", "ramp": "yes" if found.ramp else "",
        "looks": str(plan.n_looks), "month": f"{plan.visitors_per_month or per_day * _MONTH_DAYS:.0f}", "currency": plan.currency,
        "ends_at": "" if found.ends_at is None else found.ends_at.strftime("%Y-%m-%dT%H:%M"), "segments": ", ".join(found.segments),
        "layer": found.layer, "slot_from": f"{found.slots[0] / 100:g}", "slot_until": f"{found.slots[1] / 100:g}",
        "shared": "yes" if found.data_scope == "shared" else "", "covariate": plan.covariate, **_counting_values(found.counting),
    }  # fmt: skip


def _variants_of(found: Experiment) -> list[tuple[str, str, float]]:
    return [(v.key, v.policy, v.weight_bp / 100) for v in found.variants]


def _targeting(ask: Ask, *, strict: bool = True) -> list[Condition]:
    """Conditions that were filled in; a mistake in one is an error only where it would be kept."""
    out = []
    rows = zip(ask.texts("t_feature"), ask.texts("t_operator"), ask.texts("t_value"), strict=False)
    for feature, operator, text in rows:
        if not feature:
            continue
        try:
            if operator not in OPERATORS:
                raise UnknownNameError("operator", operator, OPERATORS)
            out.append(Condition(feature, operator, _typed_value(operator, text)))  # type: ignore[arg-type]  # just found among them
        except NextofferError:
            if strict:
                raise
    return out


def _typed_value(operator: str, text: str) -> FeatureValue | tuple[FeatureValue, ...]:
    if operator in ("missing", "present"):
        return None
    if operator in ("in", "not in"):
        return tuple(_plain_value(t.strip()) for t in text.split(",") if t.strip())
    return _plain_value(text)


def _plain_value(text: str) -> FeatureValue:
    """A number where it looks like one, yes or no, else text; in quotation marks it stays text."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return text


def condition_words(t: Words, condition: Condition) -> str:
    """A condition as a sentence."""
    return f"{condition.feature} {t(OPERATORS[condition.operator])} {_shown_value(condition)}".strip()


def _shown_value(condition: Condition) -> str:
    value = condition.value
    return ", ".join(_shown_plain(v) for v in value) if isinstance(value, tuple) else _shown_plain(value)


def _shown_plain(value: FeatureValue) -> str:
    if isinstance(value, str):
        return value if _plain_value(value) == value else f'"{value}"'
    return "" if value is None else str(value).lower() if isinstance(value, bool) else f"{value:.10g}"


def _policies(ask: Ask) -> list[str]:
    """What a variant may be decided by: the place's own policy, the fixed order, then registered versions, newest first."""
    versions = sorted(ask.service.policies.versions(), key=lambda v: v.created_at, reverse=True)
    return [OWN_POLICY, "baseline", *(str(v.ref) for v in versions if v.kind != "sequence_encoder")]


def _base_rates(ask: Ask, placement: str) -> tuple[float, float]:
    """Conversion and visitors a day of a placement, from the newest experiment there that has followed somebody."""
    per_day = visitors_per_day(ask.service.database, placement, at=ask.now)
    for e in sorted(ask.service.experiments.list(), key=lambda e: str(e.started_at), reverse=True):
        if e.placement == placement and e.started_at is not None:
            rows = take_reading(
                ask.service.database, e, as_of=ask.now, in_simulation=ask.parts.is_sandbox, n_points=0
            ).counts()
            n, yes = sum(r["n_conversion_matured"] for r in rows), sum(r["n_subscribed"] for r in rows)
            if n >= 100 and yes:
                return yes / n, per_day or 100.0
    return 0.05, per_day or 100.0


def _draft(ask: Ask, name: str, *, before: Experiment | None = None) -> Experiment:
    """What stands in the form; what the form does not speak of stays as it was ``before``."""
    typed = typed_variants(ask)
    weights = basis_points(ask, [w for _, _, w in typed])
    values = {} if before is None else {v.key: v.value for v in before.variants}
    coverage = _given(ask.number("coverage", what="Coverage"), 100.0) / 100
    # The date fields are read before the plan, so that a mistyped one is named and not lost.
    ends_at = ask.moment("ends_at", what="Planned end")
    return Experiment(
        id=name,
        placement=ask.text("placement"),
        variants=tuple(
            Variant(key, weight, policy or "baseline", values.get(key, ""))
            for (key, policy, _), weight in zip(typed, weights, strict=True)
        ),
        coverage=coverage,
        hypothesis=ask.text("hypothesis"),
        plan=_plan(ask, None if before is None else before.plan),
        ramp=_ramp(ask, None if before is None else before.ramp),
        ends_at=ends_at,
        segments=tuple(s.strip() for s in ask.text("segments").split(",") if s.strip()),
        targeting=tuple(_targeting(ask)),
        layer=ask.text("layer"),
        slots=_slots(ask),
        data_scope="shared" if ask.text("shared") == "yes" else "own",
        counting=_counting(ask, Counting() if before is None else before.counting),
    )


def _given(typed: NumberT | None, otherwise: NumberT) -> NumberT:
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
    found = _estimate(ask)
    primary = next((p for p in PRIMARIES if p == ask.text("primary")), None)
    if primary is None:
        raise UnknownNameError("metric", ask.text("primary"), PRIMARIES)
    return replace(
        before or UNPLANNED,
        planned_subjects=max(200, found.n_subjects),
        effect=_effect(ask),
        primary=primary,
        n_looks=_given(ask.whole("looks", what="Looks"), 5),
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


def _estimate(ask: Ask) -> Estimate:
    percents = [w for _, _, w in typed_variants(ask)]
    weights = basis_points(ask, percents)
    if len(weights) < 2:
        raise InvalidInputError(ask.words("An experiment compares at least two variants"))
    if min(weights) <= 0:
        raise InvalidInputError(ask.words("Every variant needs some visitors"))
    rate = _given(ask.number("rate", what="Conversion now"), 5.0) / 100
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
        n_looks=max(1, _given(ask.whole("looks", what="Looks"), 5)),
    )
    coverage = _given(ask.number("coverage", what="Coverage"), 100.0) / 100
    per_day = (ask.number("per_day", what="Visitors a day") or 0.0) * coverage
    counting = _counting(ask, Counting())
    wait = (counting.conversion_window_s if primary == "conversion" else counting.kept_window_s) / DAY_S
    return Estimate(n / per_day if per_day else None, n, per_day, wait)


PAGES = (
    Page("create_experiment", "/experiments", create, "experimenter", ("POST",)),
    Page("new_experiment", "/experiments-new", new_form, "experimenter"),
    Page("estimate", "/experiments-estimate", estimate, "experimenter", ("POST",)),
    Page("rehearse", "/experiments-rehearse", rehearsed, "experimenter", ("POST",)),
    Page("edit_experiment", "/experiments/{experiment}/edit", edit_form, "experimenter"),
    Page("save_experiment", "/experiments/{experiment}/edit", save_edit, "experimenter", ("POST",)),
)
