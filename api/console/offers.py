"""Offers: what may be shown where, made and changed with the preview beside the form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from starlette.responses import HTMLResponse, Response

from api.console.ask import Ask, go_to
from api.console.page import Page
from engine.experiments.audit import read_audit
from engine.offers.limits import Budget, FrequencyCap, MarginFloor
from engine.offers.placement import CatalogueOffer, Placement
from policies.eligibility import Condition
from policies.errors import ConflictError, InvalidInputError, NextofferError, UnknownNameError
from policies.records import Offer, OfferId

FLOOR, BUDGET, CAP = "console-margin-floor", "console-budget", "console-cap-"
MARGIN, COST, PRICE = "margin_eur", "discount_eur", "price_eur"
_SHOWN = ("title", "text", "image", "url", "price")
_NUMBERS = ((PRICE, "price"), (MARGIN, "margin"), (COST, "discount"))


@dataclass(frozen=True, slots=True)
class Place:
    """A placement on the page of offers."""

    placement: Placement
    revision: int
    path: str


def offers(ask: Ask) -> Response:
    """All placements with their offers."""
    places = [_place(ask, p) for p in ask.service.placements()]
    return ask.page("offers.html.j2", title=ask.words("Offers"), here="/offers", places=places)


def offer_form(ask: Ask) -> Response:
    """The editor: of an offer that there is, or of a new one."""
    place = _place(ask, ask.path("placement"))
    offer_id = ask.request.path_params.get("offer")
    entry = None
    if offer_id is not None:
        entry = next((o for o in place.placement.offers if o.offer.id == offer_id), None)
        if entry is None:
            raise UnknownNameError("offer", offer_id, place.placement.offer_set.ids)
    values = {} if entry is None else _values_of(place.placement, entry)
    return _editor(ask, place, values, is_new=entry is None)


def save_offer(ask: Ask) -> Response:
    """Write an offer; a change that somebody else made meanwhile is shown instead of overwritten."""
    place = _place(ask, ask.path("placement"))
    is_new = ask.text("is_new") == "yes"
    values = {k: v[0] for k, v in ask.form.items()}
    revision = ask.revision
    try:
        entry = _entry(ask, is_new=is_new)
        changed = _with_offer(ask, place.placement, entry, is_new=is_new)
        ask.service.put_placement(changed, expected_revision=revision, actor=ask.actor)
    except ConflictError:
        return _editor(ask, place, values, is_new=is_new, status=409, conflict=_who(ask, place.placement.id))
    except NextofferError as error:
        return _editor(ask, place, values, is_new=is_new, status=400, error=str(error), revision=revision)
    return go_to("/offers", said="saved")


def remove_offer(ask: Ask) -> Response:
    """Take an offer out of a placement."""
    place = _place(ask, ask.path("placement"))
    offer_id = ask.path("offer")
    left = tuple(o for o in place.placement.offers if o.offer.id != offer_id)
    limits = place.placement.limits
    changed = replace(
        place.placement,
        offers=left,
        baseline=tuple(b for b in place.placement.baseline if b != offer_id),
        limits=replace(limits, caps=tuple(c for c in limits.caps if c.id != CAP + offer_id)),
    )
    ask.service.put_placement(changed, expected_revision=ask.revision, actor=ask.actor)
    return go_to("/offers", said="removed")


def preview(ask: Ask) -> Response:
    """The offer as a visitor would see it, from what stands in the form now."""
    return HTMLResponse(ask.render("preview.html.j2", offer={k: ask.text(k) for k in _SHOWN}))


def place_form(ask: Ask) -> Response:
    """Money limits of a placement."""
    place = _place(ask, ask.path("placement"))
    return ask.page("place.html.j2", title=place.placement.id, here="/offers", place=place, **_money(place.placement))


def save_place(ask: Ask) -> Response:
    """Write margin floor, budget and explore share."""
    place = _place(ask, ask.path("placement"))
    limits = place.placement.limits
    least = ask.number("floor", what="Least margin")
    total = ask.number("budget", what="Budget")
    starts, ends = ask.moment("budget_from", what="From"), ask.moment("budget_until", what="Until")
    floors = tuple(f for f in limits.margin_floors if f.id != FLOOR)
    budgets = tuple(b for b in limits.budgets if b.id != BUDGET)
    if least is not None:
        floors = (*floors, MarginFloor(FLOOR, least, MARGIN))
    if total is not None:
        if starts is None or ends is None:
            raise InvalidInputError(ask.words("A budget needs the day it begins and the day it ends"))
        budgets = (*budgets, Budget(BUDGET, COST, total, starts, ends, counts="subscribed"))
    explore = ask.number("explore", what="Explore share")
    changed = replace(
        place.placement,
        limits=replace(limits, margin_floors=floors, budgets=budgets),
        explore_share=place.placement.explore_share if explore is None else explore / 100,
    )
    ask.service.put_placement(changed, expected_revision=ask.revision, actor=ask.actor)
    return go_to("/offers", said="saved")


def _place(ask: Ask, placement_id: str) -> Place:
    placement, revision = ask.service.placement(placement_id)
    return Place(placement, revision, f"/offers/{quote(placement_id, safe='')}")


def _editor(
    ask: Ask,
    place: Place,
    values: Mapping[str, str],
    *,
    is_new: bool,
    status: int = 200,
    error: str = "",
    conflict: str = "",
    revision: int | None = None,
) -> Response:
    shown = {k: values.get(k, "") for k in _SHOWN}
    return ask.page(
        "offer.html.j2",
        title=ask.words("New offer") if is_new else values.get("title") or values.get("id", ""),
        here="/offers",
        status=status,
        place=place,
        values=values,
        is_new=is_new,
        error=error,
        conflict=conflict,
        revision=place.revision if revision is None else revision,
        offer=shown,
    )


def _values_of(placement: Placement, entry: CatalogueOffer) -> dict[str, str]:
    payload, features = entry.offer.payload, entry.offer.features
    cap = next((c for c in placement.limits.caps if c.id == CAP + entry.offer.id), None)
    values = {k: str(payload.get(k) or "") for k in _SHOWN}
    values |= {name: _number(features.get(feature)) for feature, name in _NUMBERS if name != "price"}
    values["price"] = values["price"] or _number(features.get(PRICE))
    return values | {
        "id": entry.offer.id,
        "starts_at": "" if entry.starts_at is None else entry.starts_at.strftime("%Y-%m-%dT%H:%M"),
        "ends_at": "" if entry.ends_at is None else entry.ends_at.strftime("%Y-%m-%dT%H:%M"),
        "stock": "" if entry.stock is None else str(entry.stock),
        "cap_most": "" if cap is None else str(cap.most),
        "cap_days": "" if cap is None else f"{cap.days:g}",
    }


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else str(value)


def _entry(ask: Ask, *, is_new: bool) -> CatalogueOffer:
    title = ask.text("title")
    offer_id = ask.text("id") or re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    if not title:
        raise InvalidInputError(ask.words("An offer needs a title that visitors see"))
    if not offer_id:
        raise InvalidInputError(ask.words("An offer needs a short name of Latin letters, which reports use"))
    before = None
    if not is_new:
        placement, _ = ask.service.placement(ask.path("placement"))
        before = next((o for o in placement.offers if o.offer.id == offer_id), None)
    features: dict[str, Any] = {} if before is None else dict(before.offer.features)
    payload: dict[str, Any] = {} if before is None else dict(before.offer.payload)
    for feature, name in _NUMBERS:
        # A price may be words ("249 € a month"); then it is shown, and policies see the number that stood there before.
        if name == "price" and not re.fullmatch(r"[\d\s.,\u00a0]*", ask.text(name)):
            continue
        value = ask.number(name, what=name.capitalize())
        if value is None:
            features.pop(feature, None)
        else:
            features[feature] = value
    for key in _SHOWN:
        text = ask.text(key)
        if text:
            payload[key] = text
        else:
            payload.pop(key, None)
    image = str(payload.get("image", ""))
    if image and not image.startswith(("https://", "data:image/")):
        raise InvalidInputError(ask.words("The image is an address that begins with https://"))
    return CatalogueOffer(
        Offer(OfferId(offer_id), features, payload),
        starts_at=ask.moment("starts_at", what="From"),
        ends_at=ask.moment("ends_at", what="Until"),
        stock=ask.whole("stock", what="Stock"),
    )


def _with_offer(ask: Ask, placement: Placement, entry: CatalogueOffer, *, is_new: bool) -> Placement:
    known = {o.offer.id: o for o in placement.offers}
    if is_new and entry.offer.id in known:
        raise InvalidInputError(
            ask.words("There is an offer with the short name {id}; choose another", id=repr(entry.offer.id))
        )
    known[entry.offer.id] = entry
    caps = tuple(c for c in placement.limits.caps if c.id != CAP + entry.offer.id)
    most = ask.whole("cap_most", what="Views")
    if most is not None:
        days = ask.number("cap_days", what="Days") or 7.0
        caps = (*caps, FrequencyCap(CAP + entry.offer.id, most, days, (Condition("id", "==", entry.offer.id),)))
    return replace(placement, offers=tuple(known.values()), limits=replace(placement.limits, caps=caps))


def _money(placement: Placement) -> dict[str, Any]:
    floor = next((f for f in placement.limits.margin_floors if f.id == FLOOR), None)
    budget = next((b for b in placement.limits.budgets if b.id == BUDGET), None)
    return {"floor": floor, "budget": budget}


def _who(ask: Ask, placement_id: str) -> str:
    rows = read_audit(ask.service.database, what=f"placement {placement_id}", limit=1)
    if not rows:
        return ask.words("Somebody changed this place meanwhile.")
    who = rows[0].actor.partition(":")[2] or rows[0].actor
    return ask.words("{who} changed this place at {at}.", who=who, at=rows[0].at.strftime("%H:%M:%S"))


PAGES = (
    Page("offers", "/offers", offers),
    Page("preview", "/offer-preview", preview, "viewer", ("POST",)),
    Page("new_offer", "/offers/{placement}/new", offer_form, "experimenter"),
    Page("place_form", "/offers/{placement}/limits", place_form, "experimenter"),
    Page("save_place", "/offers/{placement}/limits", save_place, "experimenter", ("POST",)),
    Page("save_offer", "/offers/{placement}/save", save_offer, "experimenter", ("POST",)),
    Page("remove_offer", "/offers/{placement}/remove/{offer}", remove_offer, "experimenter", ("POST",)),
    Page("offer_form", "/offers/{placement}/edit/{offer:path}", offer_form, "experimenter"),
)
