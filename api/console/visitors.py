"""Visitors: who got what and why, and what one would get now."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from api.console.ask import Ask
from api.console.page import Page
from engine.decisions.requests import DecisionRequest
from engine.experiments.history import history_of, last_context, last_visitors
from policies.errors import NextofferError


def visitors(ask: Ask) -> Response:
    """Search, history, and a decision on trial that nobody sees and nothing counts."""
    subject = ask.query("id").strip()
    places = ask.service.placements()
    values: dict[str, Any] = {"subject": subject, "ids": (), "shown": [], "told": [], "now": [], "last": []}
    if subject:
        ids, shown, told = history_of(ask.service.database, subject)
        now = [_would_get(ask, place, subject, ids) for place in places] if shown or ask.query("try") else []
        titles = {o: title for place in places for o, title in _titles(ask, place).items()}
        values |= {"ids": ids, "shown": [(d, titles.get(d.offer, d.offer)) for d in shown], "told": told, "now": now}
    else:
        values["last"] = last_visitors(ask.service.database)
    return ask.page("visitors.html.j2", title=ask.words("Visitors"), here="/visitors", **values)


def _would_get(ask: Ask, placement: str, subject: str, ids: tuple[str, ...]) -> dict[str, Any]:
    """A decision on trial, with what was known of the visitor the last time."""
    known = last_context(ask.service.database, ids, placement)
    request = DecisionRequest(placement, subject, known, at=ask.now, dry_run=True, explain=True)
    try:
        answer = ask.service.decide(request)
    except NextofferError as error:
        return {"placement": placement, "error": str(error)}
    titles = _titles(ask, placement)
    explanation = answer.explanation
    chances = sorted(explanation.probabilities.items(), key=lambda i: -i[1]) if explanation else []
    return {
        "placement": placement,
        "known": ", ".join(
            f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in sorted(known.items())
            if v not in (None, "")
        ),
        "error": "",
        "title": answer.payload.get("title") or answer.decision.offer,
        "image": str(answer.payload.get("image") or ""),
        "price": answer.payload.get("price") or "",
        "steps": explanation.steps if explanation else (),
        "chances": [(titles.get(offer, offer), p) for offer, p in chances[:6]],
        "excluded": {titles.get(o, o): why for o, why in explanation.excluded.items()} if explanation else {},
    }


def _titles(ask: Ask, placement: str) -> dict[str, str]:
    """Offers by the title that visitors see."""
    offers = ask.service.placement(placement)[0].offers
    return {o.offer.id: str(o.offer.payload.get("title") or o.offer.id) for o in offers}


PAGES = (Page("visitors", "/visitors", visitors),)
