"""The expert's page of models: where versions stand, what the gate said, retraining, and the prediction ledger."""

from __future__ import annotations

from starlette.responses import Response

from api.console.ask import Ask, go_to
from api.console.page import Page
from engine.gate.forecasts import forecasts_of, track_record
from engine.gate.verdicts import approve as say_yes
from engine.gate.verdicts import verdicts
from engine.registry.states import States

_ON_PAGE = 30


def models(ask: Ask) -> Response:
    """Versions by place, the newest verdicts with their reasons, the last retrainings, forecasts and their record."""
    from engine.retrain.runs import runs

    database = ask.service.database
    standings = States(database).all()
    forecasts = forecasts_of(database)
    return ask.page(
        "models.html.j2",
        title=ask.words("Models and promotion"),
        here="/models",
        standings=standings,
        can_go_back={
            s.policy for s in standings if s.state in ("shadow", "canary") or (s.state == "live" and s.previous)
        },
        verdicts=verdicts(database, limit=_ON_PAGE),
        runs=runs(database, limit=_ON_PAGE),
        record=[r.to_json() for r in track_record(forecasts)],
        forecasts=forecasts[:_ON_PAGE],
    )


def roll_back(ask: Ask) -> Response:
    """Take a version back, in one call."""
    from engine.gate.promotion import Promotion

    reason = ask.text("reason") or ask.words("taken back by hand")
    Promotion(ask.service).rollback(ask.text("placement"), ask.text("policy"), change=ask.change(reason))
    return go_to("/models", said="saved")


def approve(ask: Ask) -> Response:
    """Let a candidate that the log could not answer for go to a small canary."""
    say_yes(ask.service.database, ask.text("verdict"), change=ask.change(ask.text("reason")))
    return go_to("/models", said="saved")


PAGES = (
    Page("models", "/models", models, title="Models and promotion", menu="experts"),
    Page("roll_back", "/models/rollback", roll_back, "experimenter", ("POST",)),
    Page("approve_candidate", "/models/approve", approve, "admin", ("POST",)),
)
