"""Experiments: the list, and one with everything that may be done to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.responses import HTMLResponse, Response

from api.console import result
from api.console.ask import Ask, experiment_path, go_to
from api.console.conditions import condition_words
from api.console.drafts import TEMPLATES
from api.console.page import Page
from api.console.shares import typed_weights
from api.console.shown import done
from engine.experiments.audit import read_audit
from engine.experiments.automation import next_step
from engine.experiments.checklist import checklist
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import Reading, cost_of_weights, take_reading
from engine.experiments.records import Experiment
from policies.errors import ConflictError, InvalidInputError, NextofferError, UnknownNameError

_ORDER = {"running": 0, "scheduled": 1, "draft": 2, "stopped": 3, "archived": 4}


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment in the list."""

    experiment: Experiment
    path: str
    n_visitors: int
    word: str
    tone: str


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


def experiment(ask: Ask) -> Response:
    """One experiment: the sentence first, then why."""
    return _show(ask, ask.service.experiments.get(ask.path("experiment")))


def weights_cost(ask: Ask) -> Response:
    """What other weights would cost, before they are given."""
    found = ask.service.experiments.get(ask.path("experiment"))
    try:
        weights = typed_weights(ask)
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
    return {"revision": ask.revision, "change": ask.change(ask.text("reason"))}


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
    all_.approve(found.id, **_common(ask))


def _ramp(ask: Ask, all_: Experiments, found: Experiment) -> None:
    coverage = ask.number("coverage", what="Coverage")
    if coverage is None:
        raise InvalidInputError(ask.words("Say how many visitors take part"))
    all_.ramp(found.id, coverage=coverage / 100, **_common(ask))


def _reweight(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.reweight(found.id, weights_bp=typed_weights(ask), **_common(ask))


def _stop(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.stop(found.id, **_common(ask))


def _archive(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.archive(found.id, **_common(ask))


def _note(ask: Ask, all_: Experiments, found: Experiment) -> None:
    all_.note(found.id, ask.text("text"), change=ask.change())


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
    is_open = found.state in ("draft", "scheduled")
    return ask.page(
        "experiment.html.j2",
        title=found.id,
        here="/experiments",
        status=status,
        e=found,
        reading=reading,
        checks=checklist(ask.service.database, found, at=ask.now) if is_open else [],
        rows=rows[:12],
        next_step=next_step(found),
        variants=[(v.key, v.policy, v.weight_bp / 100) for v in found.variants],
        targeting=[condition_words(t, c) for c in found.targeting],
        conflict=conflict,
        error=error,
        link=experiment_path(found.id),
        **result.told(t, reading, rows),
    )


def _read(ask: Ask, found: Experiment, *, n_points: int = 20) -> Reading:
    return take_reading(
        ask.service.database, found, as_of=ask.now, in_simulation=ask.parts.is_sandbox, n_points=n_points
    )


def _who(ask: Ask, experiment_id: str) -> str:
    row = read_audit(ask.service.database, what=f"experiment {experiment_id}", limit=1)[0]
    who = row.actor.partition(":")[2] or row.actor
    return ask.words(
        "{who} was faster: {action} at {at}. The page shows how it stands now; look, and do yours again if you still want to.",
        who=who, action=ask.words(done(row.action)), at=row.at.strftime("%H:%M:%S"),
    )  # fmt: skip


PAGES = (
    Page("experiments", "/experiments", experiments),
    Page("experiment", "/experiments/{experiment}", experiment),
    Page("weights_cost", "/experiments/{experiment}/cost", weights_cost, "experimenter", ("POST",)),
    Page("act", "/experiments/{experiment}/do/{action}", act, "experimenter", ("POST",)),
)
