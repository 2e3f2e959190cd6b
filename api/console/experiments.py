"""Experiments: the list, a new one from a template, and one with everything that may be done to it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from starlette.responses import HTMLResponse, Response

from api.console import result
from api.console.ask import Ask, experiment_path, go_to
from api.console.page import Page
from api.console.shown import done, policy_names
from engine.experiments.audit import read_audit
from engine.experiments.automation import next_step
from engine.experiments.checklist import checklist, visitors_per_day
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import Reading, cost_of_weights, read_experiment
from engine.experiments.records import OWN_POLICY, Experiment, Plan, Ramp
from engine.rewards.definition import DAY_S
from offline_eval.abtest import required_subjects
from policies.allocation import WEIGHT_TOTAL_BP, Variant, equal_weights
from policies.errors import ConflictError, InvalidInputError, NextofferError, UnknownNameError

MAX_VARIANTS = 4
_ORDER = {"running": 0, "scheduled": 1, "draft": 2, "stopped": 3, "archived": 4}
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
class Row:
    """One experiment in the list."""

    experiment: Experiment
    path: str
    n_visitors: int
    word: str
    tone: str


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


def experiments(ask: Ask) -> Response:
    """All experiments."""
    rows = []
    for e in sorted(ask.service.experiments.list(), key=lambda e: (_ORDER[e.state], e.id)):
        if e.state == "archived" and not ask.query("archived"):
            continue
        reading = _read(ask, e, n_points=0)
        tone = result.banner(ask.words, reading).tone if reading.found is not None else "note"
        rows.append(Row(e, experiment_path(e.id), reading.n_subjects, result.word(ask.words, reading), tone))
    return ask.page(
        "experiments.html.j2", title=ask.words("Experiments"), here="/experiments", rows=rows, templates=TEMPLATES
    )


def new_form(ask: Ask) -> Response:
    """The form of a new experiment."""
    chosen = next((t for t in TEMPLATES if t.key == ask.query("template")), TEMPLATES[-1])
    places = ask.service.placements()
    if not places:
        raise InvalidInputError(ask.words("There is no place to show offers yet; make one over the API first"))
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
        "segments": "", "currency": "€",
    }  # fmt: skip
    variants = [("now", OWN_POLICY, 50.0), ("new", treatment, 50.0)]
    return _new_page(ask, values, variants)


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
        made = ask.service.experiments.create(_draft(ask), at=ask.now, actor=ask.actor)
        said = "drafted"
        if ask.text("then") == "start":
            ask.service.experiments.start(made.id, revision=made.revision, at=ask.now, actor=ask.actor)
            ask.service.refresh()
            said = "started"
    except NextofferError as error:
        values = {k: v[0] for k, v in ask.form.items()}
        variants = [(k, p, w) for k, p, w in _typed_variants(ask)]
        return _new_page(
            ask, values, variants, error=str(error), status=409 if isinstance(error, ConflictError) else 400
        )
    return go_to(experiment_path(made.id), said=said)


def experiment(ask: Ask) -> Response:
    """One experiment: the sentence first, then why."""
    return _show(ask, ask.service.experiments.get(ask.path("experiment")))


def weights_cost(ask: Ask) -> Response:
    """What other weights would cost, before they are given."""
    found = ask.service.experiments.get(ask.path("experiment"))
    try:
        weights = _typed_weights(ask, found)
        days = cost_of_weights(_read(ask, found, n_points=0), weights)
        return HTMLResponse(ask.render("cost.html.j2", days=days, error=""))
    except NextofferError as error:
        return HTMLResponse(ask.render("cost.html.j2", days=None, error=str(error)))


def act(ask: Ask) -> Response:
    """Do one thing to an experiment; if somebody was faster, say who did what instead."""
    name = ask.path("action")
    if name not in _ACTIONS:
        raise UnknownNameError("action", name, _ACTIONS)
    found = ask.service.experiments.get(ask.path("experiment"))
    try:
        _ACTIONS[name](ask, ask.service.experiments, found)
    except ConflictError:
        return _show(ask, ask.service.experiments.get(found.id), conflict=_who(ask, found.id), status=409)
    except NextofferError as error:
        return _show(ask, found, error=str(error), status=400)
    ask.service.refresh()
    return go_to(experiment_path(found.id), said=name)


def _common(ask: Ask) -> dict[str, Any]:
    return {
        "revision": int(ask.text("revision") or "0"),
        "at": ask.now,
        "actor": ask.actor,
        "reason": ask.text("reason"),
    }


def _start(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.start(found.id, **_common(ask))


def _schedule(ask: Ask, all_: Experiments, found: Experiment) -> None:
    moment = ask.moment("starts_at", what="Start")
    if moment is None:
        raise InvalidInputError(ask.words("Say when it starts"))
    all_.schedule(found.id, starts_at=moment, **_common(ask))


def _unschedule(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.unschedule(found.id, **_common(ask))


def _approve(ask: Ask, all_: Experiments, found: Experiment) -> None:
    made_by = next(
        (r.actor for r in read_audit(ask.service.database, what=f"experiment {found.id}", action="create")), ""
    )
    if made_by == ask.actor:
        raise InvalidInputError(ask.words("Whoever made the draft cannot approve it; ask somebody else"))
    all_.approve(found.id, **_common(ask))


def _ramp(ask: Ask, all_: Experiments, found: Experiment) -> None:
    coverage = ask.number("coverage", what="Coverage")
    if coverage is None:
        raise InvalidInputError(ask.words("Say how many visitors take part"))
    all_.ramp(found.id, coverage=coverage / 100, **_common(ask))


def _reweight(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.reweight(found.id, weights_bp=_typed_weights(ask, found), **_common(ask))


def _stop(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.stop(found.id, **_common(ask))


def _archive(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.archive(found.id, **_common(ask))


def _note(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.note(found.id, ask.text("text"), at=ask.now, actor=ask.actor)


def _force(ask: Ask, all_: Experiments, found: Experiment) -> None:
    forced = dict(found.forced)
    subject, key = ask.text("subject"), ask.text("variant")
    if not subject:
        raise InvalidInputError(ask.words("Whose page? Type the visitor's id"))
    if key:
        forced[subject] = key
    else:
        forced.pop(subject, None)
    all_.force(found.id, forced, **_common(ask))


_ACTIONS: dict[str, Callable[[Ask, Experiments, Experiment], None]] = {
    "start": _start,
    "schedule": _schedule,
    "unschedule": _unschedule,
    "approve": _approve,
    "ramp": _ramp,
    "weights": _reweight,
    "stop": _stop,
    "archive": _archive,
    "note": _note,
    "force": _force,
}


def _show(ask: Ask, found: Experiment, *, conflict: str = "", error: str = "", status: int = 200) -> Response:
    t = ask.words
    reading = _read(ask, found)
    rows = read_audit(ask.service.database, what=f"experiment {found.id}")
    now = None if reading.found is None else reading.found.now
    is_open = found.state in ("draft", "scheduled")
    return ask.page(
        "experiment.html.j2",
        title=found.id,
        here="/experiments",
        status=status,
        e=found,
        reading=reading,
        now=now,
        banner=result.banner(t, reading),
        figures=result.key_figures(t, reading),
        forest="" if now is None else result.forest(t, now),
        over_time="" if now is None else result.over_time(t, reading),
        guardrails=[] if now is None else result.guardrails(t, now),
        segments=result.segments(t, reading),
        cohorts=result.cohorts(t, reading) if len(reading.cells) else "",
        checks=checklist(ask.service.database, found, at=ask.now) if is_open else [],
        notes=result.notes(rows),
        rows=rows[:12],
        next_step=next_step(found),
        variants=[(v.key, v.policy, v.weight_bp / 100) for v in found.variants],
        conflict=conflict,
        error=error,
        link=experiment_path(found.id),
    )


def _read(ask: Ask, found: Experiment, *, n_points: int = 20) -> Reading:
    return read_experiment(
        ask.service.database, found, as_of=ask.now, in_simulation=ask.parts.is_sandbox, n_points=n_points
    )


def _new_page(
    ask: Ask, values: dict[str, str], variants: list[tuple[str, str, float]], *, error: str = "", status: int = 200
) -> Response:
    return ask.page(
        "experiment_new.html.j2",
        title=ask.words("New experiment"),
        here="/experiments",
        status=status,
        values=values,
        variants=variants,
        places=ask.service.placements(),
        policies=policy_names(_policies(ask)),
        error=error,
        max_variants=MAX_VARIANTS,
    )


def _policies(ask: Ask) -> list[str]:
    """What a variant may be decided by: the place's own policy, the fixed order, then registered versions, newest first."""
    versions = sorted(ask.service.policies.versions(), key=lambda v: v.created_at, reverse=True)
    return [OWN_POLICY, "baseline", *(str(v.ref) for v in versions if v.kind != "sequence_encoder")]


def _base_rates(ask: Ask, placement: str) -> tuple[float, float]:
    """Conversion and visitors a day of a placement, from the newest experiment there that has followed somebody."""
    per_day = visitors_per_day(ask.service.database, placement, at=ask.now)
    for e in sorted(ask.service.experiments.list(), key=lambda e: str(e.started_at), reverse=True):
        if e.placement == placement and e.started_at is not None:
            rows = _read(ask, e, n_points=0).counts()
            n, yes = sum(r["n_conversion_matured"] for r in rows), sum(r["n_subscribed"] for r in rows)
            if n >= 100 and yes:
                return yes / n, per_day or 100.0
    return 0.05, per_day or 100.0


def _typed_variants(ask: Ask) -> list[tuple[str, str, float]]:
    """Key, policy and percent of each variant that was filled in."""
    keys, policies, weights = ask.texts("variant"), ask.texts("policy"), ask.texts("weight")
    out = []
    for key, policy, weight in zip(keys, policies, weights, strict=False):
        if not key:
            continue
        try:
            percent = float(weight.replace(",", ".") or "0")
        except ValueError as error:
            raise InvalidInputError(ask.words("The share of {key} is {text}; expected a number of percent", key=repr(key), text=repr(weight[:20]))) from error  # fmt: skip
        out.append((key, policy, percent))
    return out


def _basis_points(ask: Ask, percents: list[float]) -> list[int]:
    weights = [round(p * 100) for p in percents]
    equal = equal_weights(max(1, len(weights)))
    # Thirds typed as 33.33 mean an equal split.
    if percents and max(percents) - min(percents) < 0.02 and abs(sum(weights) - WEIGHT_TOTAL_BP) <= 2 * len(weights):
        return list(equal)
    if sum(weights) != WEIGHT_TOTAL_BP:
        raise InvalidInputError(
            ask.words("The shares sum to {sum} %; they have to make 100 %", sum=f"{sum(percents):g}")
        )
    return weights


def _typed_weights(ask: Ask, found: Experiment) -> dict[str, int]:
    typed = _typed_variants(ask)
    weights = _basis_points(ask, [w for _, _, w in typed])
    return {key: weight for (key, _, _), weight in zip(typed, weights, strict=True)}


def _draft(ask: Ask) -> Experiment:
    typed = _typed_variants(ask)
    weights = _basis_points(ask, [w for _, _, w in typed])
    name = re.sub(r"\s+", "-", ask.text("id"))
    coverage = (ask.number("coverage", what="Coverage") or 100.0) / 100
    # The date fields are read before the plan, so that a mistyped one is named and not lost.
    ends_at = ask.moment("ends_at", what="Planned end")
    return Experiment(
        id=name,
        placement=ask.text("placement"),
        variants=tuple(
            Variant(key, weight, policy or "baseline") for (key, policy, _), weight in zip(typed, weights, strict=True)
        ),
        coverage=coverage,
        hypothesis=ask.text("hypothesis"),
        plan=_plan(ask),
        ramp=Ramp(hold_s=DAY_S) if ask.text("ramp") == "yes" else None,
        ends_at=ends_at,
        segments=tuple(s.strip() for s in ask.text("segments").split(",") if s.strip()),
    )


def _plan(ask: Ask) -> Plan:
    found = _estimate(ask)
    primary = ask.text("primary")
    if primary not in ("conversion", "kept", "margin"):
        raise UnknownNameError("metric", primary, ("conversion", "kept", "margin"))
    return Plan(
        planned_subjects=max(200, found.n_subjects),
        effect=_effect(ask),
        primary=primary,  # type: ignore[arg-type]  # just found among the three
        n_looks=ask.whole("looks", what="Looks") or 5,
        currency=ask.text("currency") or "€",
        margin_tolerance=ask.number("tolerance", what="Accepted loss"),
        visitors_per_day=found.per_day or None,
        visitors_per_month=ask.number("month", what="Visitors a month"),
    )


def _effect(ask: Ask) -> float:
    """Smallest change that matters: percentage points for shares, money for margin."""
    effect = ask.number("effect", what="Change that matters")
    if effect is None or effect <= 0:
        raise InvalidInputError(ask.words("Say which change would matter, above zero"))
    return effect if ask.text("primary") == "margin" else effect / 100


def _estimate(ask: Ask) -> Estimate:
    percents = [w for _, _, w in _typed_variants(ask)]
    weights = _basis_points(ask, percents)
    if len(weights) < 2:
        raise InvalidInputError(ask.words("An experiment compares at least two variants"))
    if min(weights) <= 0:
        raise InvalidInputError(ask.words("Every variant needs some visitors"))
    rate = (ask.number("rate", what="Conversion now") or 5.0) / 100
    if not 0 < rate < 1:
        raise InvalidInputError(ask.words("Conversion now is a share between 0 and 100 %"))
    primary = ask.text("primary")
    # Money per visitor spreads about as much as a sale does: nothing for most, the margin of a sale for some.
    spread = math.sqrt(rate * (1 - rate)) * (20.0 if primary == "margin" else 1.0)
    n = required_subjects(
        standard_deviation=spread,
        effect=_effect(ask),
        weights=[w / WEIGHT_TOTAL_BP for w in weights],
        alpha=0.05 * _TWO_SIDED_SHARE,
        n_looks=max(1, ask.whole("looks", what="Looks") or 5),
    )
    coverage = (ask.number("coverage", what="Coverage") or 100.0) / 100
    per_day = (ask.number("per_day", what="Visitors a day") or 0.0) * coverage
    wait = timedelta(days=7 if primary == "conversion" else 38).days
    return Estimate(n / per_day if per_day else None, n, per_day, wait)


def _who(ask: Ask, experiment_id: str) -> str:
    row = read_audit(ask.service.database, what=f"experiment {experiment_id}", limit=1)[0]
    who = row.actor.partition(":")[2] or row.actor
    return ask.words(
        "{who} was faster: {action} at {at}. The page shows how it stands now; look, and do yours again if you still want to.",
        who=who, action=ask.words(done(row.action)), at=row.at.strftime("%H:%M:%S"),
    )  # fmt: skip


PAGES = (
    Page("experiments", "/experiments", experiments),
    Page("create_experiment", "/experiments", create, "experimenter", ("POST",)),
    Page("new_experiment", "/experiments-new", new_form, "experimenter"),
    Page("estimate", "/experiments-estimate", estimate, "experimenter", ("POST",)),
    Page("experiment", "/experiments/{experiment}", experiment),
    Page("weights_cost", "/experiments/{experiment}/cost", weights_cost, "experimenter", ("POST",)),
    Page("act", "/experiments/{experiment}/do/{action}", act, "experimenter", ("POST",)),
)
