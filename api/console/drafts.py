"""A draft: made from a template, changed, rehearsed with made-up visitors, and how long it would take."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.responses import HTMLResponse, Response

from api.console.ask import Ask, experiment_path, go_to
from api.console.conditions import OPERATORS, shown_value, targeting
from api.console.page import Page
from api.console.shares import typed_variants
from api.console.shown import policy_names
from api.console.typed import MONEY, estimate_of, given, typed_draft
from engine.experiments.checklist import visitors_per_day
from engine.experiments.history import features_seen
from engine.experiments.reading import take_reading
from engine.experiments.records import BASELINE, OWN_POLICY, UNPLANNED, Counting, Experiment, is_version
from engine.experiments.rehearsal import rehearse
from engine.rewards.definition import DAY_S
from engine.rewards.kinds import kinds_of
from policies.eligibility import Condition
from policies.errors import ConflictError, InvalidInputError, NextofferError

MAX_VARIANTS, MAX_CONDITIONS = 4, 6
_KIND_FIELDS = ("kind_subscribed", "kind_kept", "kind_margin", "kind_revenue")
# What the form speaks of; the rest of a draft stays as it was.
_EDITED = (
    "placement", "variants", "coverage", "hypothesis", "plan", "counting", "targeting", "layer", "slots", "ramp", "ends_at",
    "data_scope", "segments",
)  # fmt: skip
_MONTH_DAYS = 30.4


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


def new_form(ask: Ask) -> Response:
    """The form of a new experiment."""
    chosen = next((t for t in TEMPLATES if t.key == ask.query("template")), TEMPLATES[-1])
    places = _places(ask)
    placement = ask.query("placement") or places[0]
    known = {e.id for e in ask.service.experiments.list()}
    name = next(n for n in (chosen.name, *(f"{chosen.name}-{i}" for i in range(2, 10_000))) if n not in known)
    rate, per_day = _base_rates(ask, placement)
    policies = _policies(ask)
    at_place = ask.service.placement(placement)[0].policy  # beside "placement" it would be the same learner twice
    treatment = next((p for p in policies if is_version(p) and p != at_place), BASELINE)
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
        made = typed_draft(ask, found.id, before=found)
        changes = {name: getattr(made, name) for name in _EDITED}
        ask.service.experiments.edit(found.id, changes, revision=revision, change=ask.change())
    except ConflictError:
        text = ask.words("Somebody else changed this draft meanwhile. Yours stands in the form below: save again to keep it, or open the draft to see theirs.")  # fmt: skip
        return _form_page(
            ask, values, typed_variants(ask), targeting(ask, strict=False), found=found, error=text, status=409
        )
    except NextofferError as error:
        return _form_page(
            ask,
            values,
            typed_variants(ask),
            targeting(ask, strict=False),
            found=found,
            error=str(error),
            revision=revision,
            status=400,
        )
    return go_to(experiment_path(found.id), said="saved")


def rehearsed(ask: Ask) -> Response:
    """Let what stands in the form run with made-up visitors, before anybody real sees it."""
    try:
        rate = given(ask.number("rate", what="Conversion now"), 5.0) / 100
        found = rehearse(typed_draft(ask, ask.text("id") or "rehearsal"), rate=rate)
    except NextofferError as error:
        return HTMLResponse(ask.render("rehearsal.html.j2", found=None, error=str(error)))
    return HTMLResponse(ask.render("rehearsal.html.j2", found=found, error=""))


def estimate(ask: Ask) -> Response:
    """Days to an answer, from what stands in the form now."""
    try:
        found = estimate_of(ask)
    except NextofferError as error:
        return HTMLResponse(ask.render("estimate.html.j2", estimate=None, error=str(error)))
    return HTMLResponse(ask.render("estimate.html.j2", estimate=found, error=""))


def create(ask: Ask) -> Response:
    """Write down a draft, and start it where that was asked for."""
    try:
        made = ask.service.experiments.create(
            typed_draft(ask, re.sub(r"\s+", "-", ask.text("id"))), change=ask.change()
        )
        said = "drafted"
        if ask.text("then") == "start":
            ask.service.experiments.start(made.id, revision=made.revision, change=ask.change())
            ask.service.refresh()
            said = "started"
    except NextofferError as error:
        values = {k: v[0] for k, v in ask.form.items()}
        status = 409 if isinstance(error, ConflictError) else 400
        return _form_page(
            ask, values, typed_variants(ask), targeting(ask, strict=False), error=str(error), status=status
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
        conditions=[*((c.feature, c.operator, shown_value(c)) for c in targeting), ("", "==", ""), ("", "==", "")][
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


def _policies(ask: Ask) -> list[str]:
    """What a variant may be decided by: the place's own policy, the fixed order, then registered versions, newest first."""
    versions = sorted(ask.service.policies.versions(), key=lambda v: v.created_at, reverse=True)
    return [OWN_POLICY, BASELINE, *(str(v.ref) for v in versions if v.kind != "sequence_encoder")]


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


PAGES = (
    Page("create_experiment", "/experiments", create, "experimenter", ("POST",)),
    Page("new_experiment", "/experiments-new", new_form, "experimenter"),
    Page("estimate", "/experiments-estimate", estimate, "experimenter", ("POST",)),
    Page("rehearse", "/experiments-rehearse", rehearsed, "experimenter", ("POST",)),
    Page("edit_experiment", "/experiments/{experiment}/edit", edit_form, "experimenter"),
    Page("save_experiment", "/experiments/{experiment}/edit", save_edit, "experimenter", ("POST",)),
)
